/*
 * jws: a token whose shape passes is canonical in every part and says what jansson reads in it,
 * too; and nothing verifies under a key that nobody has the private half of.
 */
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/base64url.h"
#include "verifier/jws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct jws_context *context;
static struct jwk *key;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    unsigned char modulus[256];
    char n[BASE64URL_ENCODED(256) + 1];
    char why[JWKS_WHY_BYTES];

    (void)argc;
    (void)argv;
    json_object_seed(1);
    /* An odd number that nobody has chosen as a product of two primes. */
    for (size_t i = 0; i < sizeof(modulus); i++)
        modulus[i] = (unsigned char)(0xa5 ^ (i * 37));
    modulus[255] |= 1;
    base64url_encode(modulus, sizeof(modulus), n);
    HOLDS(jwk_new("k", n, &key, why) == 0);
    HOLDS(jws_context_new(&context) == 0);
    return 0;
}

/* The header again, by a reader that knows no short cut. */
static void check_header(const char *text, size_t text_bytes, const struct jws *jws)
{
    unsigned char header[JWS_HEADER_MAX_BYTES];
    const char *alg, *kid;
    size_t bytes;
    json_t *object;

    HOLDS(base64url_decode(text, text_bytes, header, sizeof(header), &bytes) == 0);
    object = json_loadb((const char *)header, bytes, JSON_REJECT_DUPLICATES, NULL);
    HOLDS(json_is_object(object));
    alg = json_string_value(json_object_get(object, "alg"));
    kid = json_string_value(json_object_get(object, "kid"));
    HOLDS(alg && strcmp(alg, "RS256") == 0);
    HOLDS(kid && strcmp(kid, jws->kid) == 0);
    HOLDS(!json_object_get(object, "crit") && !json_object_get(object, "b64"));
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *token = (const char *)data;
    const char *first_dot;
    enum verdict verdict;
    struct jws jws;

    memset(&jws, 0x5a, sizeof(jws));
    verdict = jws_parse(token, size, &jws);
    if (verdict != VERDICT_ACCEPTED) {
        HOLDS(verdict == VERDICT_JWS_MALFORMED || verdict == VERDICT_ALG_REFUSED ||
              verdict == VERDICT_CRIT_REFUSED);
        for (size_t i = 0; i < sizeof(jws); i++)
            HOLDS(((const unsigned char *)&jws)[i] == 0x5a);
        return 0;
    }
    HOLDS(size <= JWS_TOKEN_MAX_BYTES);
    HOLDS(jws.signing_input == token && jws.signing_input_bytes < size);
    HOLDS(token[jws.signing_input_bytes] == '.');
    HOLDS(jws.payload + jws.payload_bytes == token + jws.signing_input_bytes);
    HOLDS(base64url_is_canonical(jws.payload, jws.payload_bytes));
    HOLDS(jws.signature_bytes >= 256 && jws.signature_bytes <= 512);
    HOLDS(BASE64URL_ENCODED(jws.signature_bytes) == size - jws.signing_input_bytes - 1);
    HOLDS(jws.kid_bytes == strlen(jws.kid) && jws.kid_bytes >= 1);
    first_dot = memchr(token, '.', size);
    HOLDS(first_dot + 1 == jws.payload);
    check_header(token, (size_t)(first_dot - token), &jws);
    HOLDS(jws_verify(context, &jws, key) == VERDICT_BAD_SIGNATURE);
    return 0;
}
