/*
 * judge: our own part in the differential run.
 *
 *     judge KEY_SET NOW AUDIENCE < CASES
 *
 * Each line of CASES is a token in hexadecimal. Each line of the output says whether its signature
 * verified (1 or 0), and the verdict; a reason for quarantine stands behind it.
 */
#include <jansson.h>

#include "minting.h"
#include "verifier/judge.h"

#define LINE_BYTES (4 * JWS_TOKEN_MAX_BYTES)

static const char *audience;

static const struct jwk *find(void *set, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust)
{
    const struct jwk *found = jwks_find(set, kid, kid_bytes);

    *ret_trust = found ? KEY_TRUST_FULL : KEY_TRUST_NONE;
    return found;
}

static bool audience_known(void *unused, const char *client_id)
{
    (void)unused;
    return strcmp(client_id, audience) == 0;
}

static struct jwks *read_set(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, JWKS_TEXT_MAX_BYTES), why[JWKS_WHY_BYTES];
    struct jwks *set;

    MUST(file && text);
    size_t bytes = fread(text, 1, JWKS_TEXT_MAX_BYTES, file);
    MUST(jwks_parse(text, bytes, &set, why) == 0);
    fclose(file);
    free(text);
    return set;
}

static unsigned nibble(char digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static size_t decode(const char *line, char *token)
{
    size_t bytes = 0;

    for (const char *at = line; at[0] != '\n' && at[0] != '\0'; at += 2)
        token[bytes++] = (char)(nibble(at[0]) << 4 | nibble(at[1]));
    return bytes;
}

int main(int argc, char **argv)
{
    static const char *const issuers[] = {"https://appleid.apple.com"};
    static char line[LINE_BYTES], token[LINE_BYTES / 2];
    struct jws_context *context;

    if (argc != 4) {
        fprintf(stderr, "usage: judge KEY_SET NOW AUDIENCE < CASES\n");
        return 2;
    }
    json_object_seed(1);
    audience = argv[3];
    struct jwks *set = read_set(argv[1]);
    MUST(jws_context_new(&context) == 0);
    const struct judge_rules rules = {.keys = {find, set, true},
                                      .audience_known = audience_known,
                                      .issuers = issuers,
                                      .issuer_count = 1,
                                      .now_s = strtoll(argv[2], NULL, 10),
                                      .leeway_s = 300};
    while (fgets(line, sizeof(line), stdin)) {
        struct judgement judgement;

        judge_token(context, &rules, token, decode(line, token), &judgement);
        printf("%d %s %s\n", judgement.signature_verified, verdict_label(judgement.verdict),
               quarantine_reason_label(judgement.reason));
        judgement_release(&judgement);
    }
    jws_context_free(context);
    jwks_free(set);
    return 0;
}
