/*
 * body: the short cut for Apple's exact body and jansson find the same token, and no whole body is
 * accepted under keys that signed none of it.
 */
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/base64url.h"
#include "verifier/judge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct jws_context *context;
static struct jwk *key;

static const struct jwk *find(void *set, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust)
{
    (void)set;
    HOLDS(kid_bytes >= 1 && kid_bytes <= JWK_KID_MAX_BYTES && strlen(kid) == kid_bytes);
    *ret_trust = KEY_TRUST_FULL;
    return key;
}

static bool every_audience(void *of, const char *client_id)
{
    (void)of;
    (void)client_id;
    return true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    unsigned char modulus[256];
    char n[BASE64URL_ENCODED(256) + 1];
    char why[JWKS_WHY_BYTES];

    (void)argc;
    (void)argv;
    json_object_seed(1);
    for (size_t i = 0; i < sizeof(modulus); i++)
        modulus[i] = (unsigned char)(0xa5 ^ (i * 37));
    modulus[255] |= 1;
    base64url_encode(modulus, sizeof(modulus), n);
    HOLDS(jwk_new("k", n, &key, why) == 0);
    HOLDS(jws_context_new(&context) == 0);
    return 0;
}

/* The token by jansson alone. It lets a NUL pass behind a number, which we do not. */
static json_t *find_slowly(const char *body, size_t bytes)
{
    json_t *root = NULL;
    json_t *payload;

    if (!memchr(body, '\0', bytes))
        root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, NULL);
    payload = json_incref(json_object_get(root, "payload"));
    json_decref(root);
    if (json_is_string(payload))
        return payload;
    json_decref(payload);
    return NULL;
}

static void check_token(const char *body, size_t size)
{
    struct notification_token token = {0};
    enum verdict verdict = notification_find_token(body, size, &token);
    json_t *slow = size > NOTIFICATION_BODY_MAX_BYTES ? NULL : find_slowly(body, size);

    if (verdict == VERDICT_ACCEPTED) {
        HOLDS(slow && json_string_length(slow) == token.bytes);
        HOLDS(memcmp(json_string_value(slow), token.text, token.bytes) == 0);
        HOLDS(token.owned || (token.text >= body && token.text + token.bytes <= body + size));
        notification_token_release(&token);
    } else {
        HOLDS(slow == NULL);
        HOLDS(verdict ==
              (size > NOTIFICATION_BODY_MAX_BYTES ? VERDICT_TOO_LARGE : VERDICT_BAD_BODY));
    }
    json_decref(slow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const issuers[] = {"https://appleid.apple.com"};
    const struct judge_rules rules = {.keys = {find, NULL, true},
                                      .audience_known = every_audience,
                                      .issuers = issuers,
                                      .issuer_count = 1,
                                      .now_s = 1630085472,
                                      .leeway_s = 300};
    const char *body = (const char *)data;
    struct judgement judgement;

    check_token(body, size);
    judge_body(context, &rules, body, size, &judgement);
    HOLDS(!judgement.signature_verified);
    switch (judgement.verdict) {
    case VERDICT_BAD_BODY:
    case VERDICT_TOO_LARGE:
    case VERDICT_JWS_MALFORMED:
    case VERDICT_ALG_REFUSED:
    case VERDICT_CRIT_REFUSED:
        HOLDS(judgement.kid[0] == '\0');
        break;
    case VERDICT_BAD_SIGNATURE:
        HOLDS(judgement.kid[0] != '\0');
        break;
    default:
        HOLDS(judgement.verdict == VERDICT_BAD_SIGNATURE);
    }
    judgement_release(&judgement);
    return 0;
}
