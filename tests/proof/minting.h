/*
 * minting: keys, tokens and random numbers for the programs of the proof. Whatever fails here ends
 * the program: nothing would be shown.
 */
#ifndef SIWA_TESTS_PROOF_MINTING_H
#define SIWA_TESTS_PROOF_MINTING_H

#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/base64url.h"
#include "verifier/jwks.h"
#include "verifier/jws.h"

#define MINTING_TOKEN_BYTES 8192
#define MINTING_N_BYTES     (BASE64URL_ENCODED(256) + 1)

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(2); \
        } \
    } while (0)

/* A token as bytes; not NUL-terminated. */
struct minted {
    char text[MINTING_TOKEN_BYTES];
    size_t bytes;
};

/* splitmix64: the same numbers from the same seed, everywhere. */
static inline uint64_t minting_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline size_t minting_below(uint64_t *state, size_t bound)
{
    return (size_t)(minting_random(state) % bound);
}

/* The modulus of a 2048-bit key, big endian, and as a key set spells it. */
static inline void minting_modulus(EVP_PKEY *key, unsigned char modulus[256],
                                   char n[MINTING_N_BYTES])
{
    BIGNUM *number = NULL;

    MUST(EVP_PKEY_get_bn_param(key, "n", &number) == 1 && BN_bn2binpad(number, modulus, 256) > 0);
    BN_free(number);
    base64url_encode(modulus, 256, n);
    n[MINTING_N_BYTES - 1] = '\0';
}

static inline struct jwk *minting_jwk(EVP_PKEY *key, const char *kid)
{
    unsigned char modulus[256];
    char n[MINTING_N_BYTES], why[JWKS_WHY_BYTES];
    struct jwk *jwk;

    minting_modulus(key, modulus, n);
    MUST(jwk_new(kid, n, &jwk, why) == 0);
    return jwk;
}

static inline void minting_append(struct minted *token, const void *data, size_t bytes)
{
    MUST(bytes <= sizeof(token->text) - token->bytes);
    if (bytes == 0)
        return; /* data may be NULL */
    memcpy(token->text + token->bytes, data, bytes);
    token->bytes += bytes;
}

static inline void minting_append_encoded(struct minted *token, const void *data, size_t bytes)
{
    MUST(BASE64URL_ENCODED(bytes) < sizeof(token->text) - token->bytes);
    base64url_encode(data, bytes, token->text + token->bytes);
    token->bytes += BASE64URL_ENCODED(bytes);
}

/* HEADER.PAYLOAD, encoded. */
static inline void minting_begin(struct minted *token, const char *header, const void *payload,
                                 size_t payload_bytes)
{
    token->bytes = 0;
    minting_append_encoded(token, header, strlen(header));
    minting_append(token, ".", 1);
    minting_append_encoded(token, payload, payload_bytes);
}

/* RS256 of what stands in the token so far. */
static inline void minting_signature(EVP_PKEY *key, const struct minted *token,
                                     unsigned char signature[256])
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t bytes = 256;

    MUST(context && EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) == 1);
    MUST(EVP_DigestSign(context, signature, &bytes, (const unsigned char *)token->text,
                        token->bytes) == 1);
    MUST(bytes == 256);
    EVP_MD_CTX_free(context);
}

/* Signs what stands in the token so far, and adds dot and signature. */
static inline void minting_end(struct minted *token, EVP_PKEY *key)
{
    unsigned char signature[256];

    minting_signature(key, token, signature);
    minting_append(token, ".", 1);
    minting_append_encoded(token, signature, sizeof(signature));
}

static inline void minting_token(struct minted *token, EVP_PKEY *key, const char *header,
                                 const char *payload)
{
    minting_begin(token, header, payload, strlen(payload));
    minting_end(token, key);
}

#endif
