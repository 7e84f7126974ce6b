/*
 * jwks: reading a JWK Set (RFC 7517) under one fixed key policy.
 *
 * The policy (the primitive accepts weaker keys, so the policy is ours): kty RSA, modulus of 2048
 * to 4096 bits in its one canonical spelling, e = 65537, use "sig" or absent, alg "RS256" or
 * absent, key_ops absent or with "verify", kid of 1 to 64 printable ASCII characters, no private
 * half, no modulus with the ROCA fingerprint. A key outside the policy is passed over, since a key
 * server may publish keys for other purposes; a kid that stands twice in a set (whatever kind of
 * key has it), and a set without one usable key, refuse the whole set.
 */
#ifndef SIWA_VERIFIER_JWKS_H
#define SIWA_VERIFIER_JWKS_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>

#define JWK_KID_MAX_BYTES     64
#define JWKS_KEYS_MAX         64           /* keys in one set; Apple publishes 1 to 5 */
#define JWKS_TEXT_MAX_BYTES   (256 * 1024) /* of a set, before parsing */
#define JWK_MODULUS_MIN_BITS  2048
#define JWK_MODULUS_MAX_BITS  4096
#define JWK_MODULUS_MAX_BYTES (JWK_MODULUS_MAX_BITS / 8)
#define JWKS_WHY_BYTES        160 /* room for a reason, with its NUL */

/* One public key, immutable, reference counted. */
struct jwk;

/* An immutable set of keys, owned by whoever parsed it. */
struct jwks;

/* Parses the JSON text of a key set. On success 0 and a set of at least one key in ret_set, to be
 * released with jwks_free. Errors: -EINVAL for a text that is no acceptable set, with one English
 * sentence in ret_why (never part of the text itself beyond escaped, capped kids); -ENOMEM. ret_set
 * is untouched on error. Pure; any thread. */
int jwks_parse(const char *text, size_t text_bytes, struct jwks **ret_set,
               char ret_why[JWKS_WHY_BYTES]);

/* Releases a set; its keys live on where they are referenced. NULL is allowed. */
void jwks_free(struct jwks *set);

/* The number of usable keys in a set, at least 1; and how many were passed over by the policy. */
size_t jwks_count(const struct jwks *set);
size_t jwks_passed_over(const struct jwks *set);

/* Key number index, below jwks_count, borrowed from the set. */
struct jwk *jwks_at(const struct jwks *set, size_t index);

/* The key with exactly this kid, borrowed from the set, or NULL. */
struct jwk *jwks_find(const struct jwks *set, const char *kid, size_t kid_bytes);

/* Builds one key from its kid and its modulus in base64url, under the same policy as jwks_parse:
 * for the persisted key history. The caller owns one reference. Errors as jwks_parse. */
int jwk_new(const char *kid, const char *n, struct jwk **ret_key, char ret_why[JWKS_WHY_BYTES]);

/* Adds a reference and returns the key; drops one (NULL is allowed). Any thread, also at once. */
struct jwk *jwk_ref(struct jwk *key);
void jwk_unref(struct jwk *key);

/* What a key consists of; everything is borrowed and lives as long as the key. jwk_n is the modulus
 * in base64url; jwk_pkey may be used by any thread for verification. */
const char *jwk_kid(const struct jwk *key);
const char *jwk_n(const struct jwk *key);
size_t jwk_modulus_bytes(const struct jwk *key);
EVP_PKEY *jwk_pkey(const struct jwk *key);

/* Whether two keys have the same modulus (and with that, as e is fixed, are the same key). */
bool jwk_same_modulus(const struct jwk *a, const struct jwk *b);

#endif
