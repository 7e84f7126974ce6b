/*
 * jwks: a set that loads holds to the key policy in every key, names each kid once, and finds each
 * by it; a key that loads from a set loads again from its kid and modulus.
 */
#include <stdint.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/base64url.h"
#include "verifier/jwks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_key(const struct jwks *set, size_t index)
{
    struct jwk *key = jwks_at(set, index);
    const char *kid = jwk_kid(key), *n = jwk_n(key);
    unsigned char modulus[JWK_MODULUS_MAX_BYTES];
    char why[JWKS_WHY_BYTES];
    struct jwk *again;
    size_t bytes;
    int bits = EVP_PKEY_get_bits(jwk_pkey(key));

    HOLDS(strlen(kid) >= 1 && strlen(kid) <= JWK_KID_MAX_BYTES);
    for (const char *at = kid; *at; at++)
        HOLDS(*at >= 0x20 && *at <= 0x7e);
    HOLDS(jwks_find(set, kid, strlen(kid)) == key);
    HOLDS(bits >= JWK_MODULUS_MIN_BITS && bits <= JWK_MODULUS_MAX_BITS);
    HOLDS(base64url_decode(n, strlen(n), modulus, sizeof(modulus), &bytes) == 0);
    HOLDS(bytes == jwk_modulus_bytes(key) && bytes == ((size_t)bits + 7) / 8);
    HOLDS(modulus[0] != 0 && modulus[bytes - 1] % 2 == 1);
    HOLDS(jwk_new(kid, n, &again, why) == 0);
    HOLDS(jwk_same_modulus(key, again));
    HOLDS(EVP_PKEY_eq(jwk_pkey(key), jwk_pkey(again)) == 1);
    jwk_unref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES];

    memset(why, 'x', sizeof(why));
    if (jwks_parse((const char *)data, size, &set, why) != 0) {
        HOLDS(set == NULL);
        HOLDS(memchr(why, '\0', sizeof(why)) != NULL);
        /* The reason stands in log lines: nothing of the text may break out of it. */
        for (const char *at = why; *at; at++)
            HOLDS(*at >= 0x20 && *at <= 0x7e);
        return 0;
    }
    HOLDS(jwks_count(set) >= 1 && jwks_count(set) + jwks_passed_over(set) <= JWKS_KEYS_MAX);
    for (size_t i = 0; i < jwks_count(set); i++) {
        check_key(set, i);
        for (size_t j = 0; j < i; j++)
            HOLDS(strcmp(jwk_kid(jwks_at(set, i)), jwk_kid(jwks_at(set, j))) != 0);
    }
    jwks_free(set);
    return 0;
}
