/*
 * key_sets: key sets of made-up keys for tests that verify no signature. Header only.
 *
 * A modulus is 2048 bits derived from its kid and a number: odd, of full length, and of no known
 * factors, which is all that the key policy can see.
 */
#ifndef SIWA_TESTS_KEY_SETS_H
#define SIWA_TESTS_KEY_SETS_H

#include <check.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/base64url.h"
#include "verifier/jwks.h"

#define KEY_SETS_MODULUS_BYTES 256
#define KEY_SETS_N_BYTES       (BASE64URL_ENCODED(KEY_SETS_MODULUS_BYTES) + 1)

/* The modulus number `version` of a kid in base64url. */
static inline void key_sets_modulus(const char *kid, unsigned version, char ret_n[KEY_SETS_N_BYTES])
{
    unsigned char modulus[KEY_SETS_MODULUS_BYTES];
    for (unsigned i = 0; i < KEY_SETS_MODULUS_BYTES / 32; i++) {
        char seed[128];
        int bytes = snprintf(seed, sizeof(seed), "%s %u %u", kid, version, i);
        ck_assert_int_eq(
            EVP_Digest(seed, (size_t)bytes, modulus + (size_t)i * 32, NULL, EVP_sha256(), NULL), 1);
    }
    modulus[0] |= 0x80;
    modulus[KEY_SETS_MODULUS_BYTES - 1] |= 1;
    base64url_encode(modulus, sizeof(modulus), ret_n);
}

/* Appends one key to a key set's text that is being built in an open_memstream. */
static inline void key_sets_write(FILE *out, const char *kid, unsigned version, const char *comma)
{
    char n[KEY_SETS_N_BYTES];
    key_sets_modulus(kid, version, n);
    fprintf(out,
            "%s{\"kty\":\"RSA\",\"kid\":\"%s\",\"use\":\"sig\",\"alg\":\"RS256\",\"n\":\"%s\","
            "\"e\":\"AQAB\"}",
            comma, kid, n);
}

/* The text of a set of version 1 of these keys, a list that ends with NULL; the caller frees it. */
static inline char *key_sets_text_of(const char *const *kids)
{
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    ck_assert_ptr_nonnull(out);
    fputs("{\"keys\":[", out);
    for (const char *comma = ""; *kids != NULL; kids++, comma = ",")
        key_sets_write(out, *kids, 1, comma);
    fputs("]}", out);
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

#define key_sets_text(...) key_sets_text_of((const char *const[]){__VA_ARGS__, NULL})

/* Parses a text, which is freed, into a set. */
static inline struct jwks *key_sets_parse(char *text)
{
    struct jwks *set;
    char why[JWKS_WHY_BYTES] = "";
    int r = jwks_parse(text, strlen(text), &set, why);
    ck_assert_msg(r == 0, "%s", why);
    free(text);
    return set;
}

/* A set of these keys. */
#define key_sets_make(...) key_sets_parse(key_sets_text(__VA_ARGS__))

/* A set with one key of this version. */
static inline struct jwks *key_sets_make_version(const char *kid, unsigned version)
{
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    ck_assert_ptr_nonnull(out);
    fputs("{\"keys\":[", out);
    key_sets_write(out, kid, version, "");
    fputs("]}", out);
    ck_assert_int_eq(fclose(out), 0);
    return key_sets_parse(text);
}

#endif
