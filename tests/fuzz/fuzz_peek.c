/*
 * peek: what is found in a body that nobody can verify is what its token says, and what looks like
 * a notification for us is judged as unknown, never as refused, while its key is missing.
 */
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/peek.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct jws_context *context;

static const struct jwk *find_none(void *of, const char *kid, size_t kid_bytes,
                                   enum key_trust *ret_trust)
{
    (void)of;
    (void)kid;
    (void)kid_bytes;
    *ret_trust = KEY_TRUST_NONE;
    return NULL;
}

/* Every audience is ours; the last that was asked about is remembered. */
static bool remember(void *of, const char *client_id)
{
    char *last = of;

    HOLDS(strlen(client_id) >= 1 && strlen(client_id) <= NOTIFICATION_CLAIM_MAX_BYTES);
    memcpy(last, client_id, strlen(client_id) + 1);
    return true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    json_object_seed(1);
    HOLDS(jws_context_new(&context) == 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const issuers[] = {"https://appleid.apple.com"};
    char asked[NOTIFICATION_CLAIM_MAX_BYTES + 1] = "";
    const struct judge_rules rules = {.keys = {find_none, NULL, true},
                                      .audience_known = remember,
                                      .audience_context = asked,
                                      .issuers = issuers,
                                      .issuer_count = 1,
                                      .now_s = 1630085472,
                                      .leeway_s = 300};
    struct peek peek;
    struct judgement judgement;

    if (!peek_body(&rules, (const char *)data, size, &peek))
        return 0;
    HOLDS(strcmp(peek.unverified_aud, asked) == 0);
    judge_body(context, &rules, (const char *)data, size, &judgement);
    HOLDS(judgement.verdict == VERDICT_KID_UNKNOWN);
    HOLDS(strcmp(judgement.kid, peek.unverified_kid) == 0);
    judgement_release(&judgement);
    return 0;
}
