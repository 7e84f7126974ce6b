/*
 * signer: makes RSA keys, key sets and tokens for tests, as Apple would.
 *
 * Header only, so that any test can include it. Every failure aborts: a test that cannot sign has
 * nothing to say. Texts are allocated, the caller frees them.
 */
#ifndef SIWA_TESTS_SIGNER_H
#define SIWA_TESTS_SIGNER_H

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/base64url.h"

#define SIGNER_NEEDS(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "signer.h:%d: %s does not hold\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* A private key with the kid under which its public half is published. */
struct signer {
    EVP_PKEY *key;
    char kid[65];
};

/* Makes a key of that many bits with e = exponent. 2048 bits take about 100 ms: make it once. */
static inline struct signer signer_make_with(const char *kid, unsigned bits, unsigned long exponent)
{
    struct signer signer = {0};
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    BIGNUM *e = BN_new();

    SIGNER_NEEDS(context && e && BN_set_word(e, exponent) == 1);
    SIGNER_NEEDS(EVP_PKEY_keygen_init(context) == 1);
    SIGNER_NEEDS(EVP_PKEY_CTX_set_rsa_keygen_bits(context, (int)bits) == 1);
    SIGNER_NEEDS(EVP_PKEY_CTX_set1_rsa_keygen_pubexp(context, e) == 1);
    SIGNER_NEEDS(EVP_PKEY_generate(context, &signer.key) == 1);
    BN_free(e);
    EVP_PKEY_CTX_free(context);
    SIGNER_NEEDS(strlen(kid) < sizeof(signer.kid));
    snprintf(signer.kid, sizeof(signer.kid), "%s", kid);
    return signer;
}

/* The usual key: RSA-2048, e = 65537. */
static inline struct signer signer_make(const char *kid)
{
    return signer_make_with(kid, 2048, 65537);
}

static inline void signer_free(struct signer *signer)
{
    EVP_PKEY_free(signer->key);
    signer->key = NULL;
}

static inline char *signer_base64url(const void *data, size_t bytes)
{
    char *text = malloc(BASE64URL_ENCODED(bytes) + 1);

    SIGNER_NEEDS(text);
    base64url_encode(data, bytes, text);
    return text;
}

/* printf into allocated text. */
__attribute__((format(printf, 1, 2))) static inline char *signer_text(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    int written;

    va_start(arguments, format);
    written = vasprintf(&text, format, arguments);
    va_end(arguments);
    SIGNER_NEEDS(written >= 0);
    return text;
}

/* The modulus in base64url. */
static inline char *signer_n(const struct signer *signer)
{
    unsigned char data[1024];
    BIGNUM *n = NULL;
    int bytes;

    SIGNER_NEEDS(EVP_PKEY_get_bn_param(signer->key, OSSL_PKEY_PARAM_RSA_N, &n) == 1);
    SIGNER_NEEDS(BN_num_bytes(n) <= (int)sizeof(data));
    bytes = BN_bn2bin(n, data);
    BN_free(n);
    return signer_base64url(data, (size_t)bytes);
}

/* One JWK with the members that Apple publishes. */
static inline char *signer_jwk(const struct signer *signer)
{
    char *n = signer_n(signer);
    char *jwk = signer_text("{\"kty\":\"RSA\",\"kid\":\"%s\",\"use\":\"sig\",\"alg\":\"RS256\","
                            "\"n\":\"%s\",\"e\":\"AQAB\"}",
                            signer->kid, n);

    free(n);
    return jwk;
}

/* A key set of count keys. */
static inline char *signer_jwks(const struct signer *signers, size_t count)
{
    char *text = signer_text("{\"keys\":[");

    for (size_t i = 0; i < count; i++) {
        char *jwk = signer_jwk(&signers[i]);
        char *longer = signer_text("%s%s%s", text, i ? "," : "", jwk);

        free(jwk);
        free(text);
        text = longer;
    }
    char *set = signer_text("%s]}", text);

    free(text);
    return set;
}

/* Signs signing_input with RS256 and returns `signing_input.signature`. */
static inline char *signer_sign_input(const struct signer *signer, const char *signing_input)
{
    unsigned char signature[1024];
    size_t bytes = sizeof(signature);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    char *text, *token;

    SIGNER_NEEDS(context);
    SIGNER_NEEDS(EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, NULL, signer->key, NULL) ==
                 1);
    SIGNER_NEEDS(EVP_DigestSign(context, signature, &bytes, (const unsigned char *)signing_input,
                                strlen(signing_input)) == 1);
    EVP_MD_CTX_free(context);
    text = signer_base64url(signature, bytes);
    token = signer_text("%s.%s", signing_input, text);
    free(text);
    return token;
}

/* A token of exactly this header and payload, both in plain JSON (or whatever a test wants). */
static inline char *signer_token_with(const struct signer *signer, const char *header,
                                      const void *payload, size_t payload_bytes)
{
    char *first = signer_base64url(header, strlen(header));
    char *second = signer_base64url(payload, payload_bytes);
    char *signing_input = signer_text("%s.%s", first, second);
    char *token = signer_sign_input(signer, signing_input);

    free(first);
    free(second);
    free(signing_input);
    return token;
}

/* A token with Apple's header, for this payload. */
static inline char *signer_token(const struct signer *signer, const char *payload)
{
    char *header = signer_text("{\"kid\":\"%s\",\"alg\":\"RS256\"}", signer->kid);
    char *token = signer_token_with(signer, header, payload, strlen(payload));

    free(header);
    return token;
}

/* Claims as Apple makes them. events is what stands in the claim `events`, as JSON: a string that
 * holds JSON must come with its quotes and escapes. */
static inline char *signer_claims(const char *iss, const char *aud, long long iat_s,
                                  const char *jti, const char *events)
{
    return signer_text("{\"iss\":\"%s\",\"aud\":\"%s\",\"exp\":%lld,\"iat\":%lld,\"jti\":\"%s\","
                       "\"events\":%s}",
                       iss, aud, iat_s + 86400, iat_s, jti, events);
}

/* A body as Apple POSTs it. */
static inline char *signer_body(const char *token)
{
    return signer_text("{\"payload\":\"%s\"}", token);
}

#endif
