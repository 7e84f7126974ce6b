/*
 * jws: a compact JWS (RFC 7515 section 7.1), RS256 (RFC 7518 section 3.3) and nothing else.
 *
 * There is no table of algorithms and no HMAC here. Of the header `kid`, `alg` and `typ` are read,
 * `crit` and `b64` are refused, and whatever else it holds is never looked at.
 */
#ifndef SIWA_VERIFIER_JWS_H
#define SIWA_VERIFIER_JWS_H

#include <stddef.h>

#include "verifier/jwks.h"
#include "verifier/verdict.h"

#define JWS_TOKEN_MAX_BYTES  65536
#define JWS_HEADER_MAX_BYTES 1024 /* decoded; Apple's has 33 to 40 */

/* What the shape of a token gives, before any key is touched. Pointers are into the token that was
 * parsed and live as long as it does. Nothing in here can be trusted yet. */
struct jws {
    const char *signing_input; /* header, dot, payload, as they came */
    size_t signing_input_bytes;
    const char *payload; /* still base64url, known to be canonical in length and alphabet */
    size_t payload_bytes;
    unsigned char signature[JWK_MODULUS_MAX_BYTES];
    size_t signature_bytes;
    char kid[JWK_KID_MAX_BYTES + 1]; /* 1 to 64 printable ASCII characters */
    size_t kid_bytes;
};

/* A reusable verification context: one for each thread that verifies. */
struct jws_context;

/* Makes a context; 0 or -ENOMEM. Release with jws_context_free, which takes NULL. */
int jws_context_new(struct jws_context **ret_context);
void jws_context_free(struct jws_context *context);

/* Judges the shape of a token: at most JWS_TOKEN_MAX_BYTES, three parts, each canonical base64url,
 * a header that is one JSON object without duplicate members, alg exactly "RS256" (else
 * VERDICT_ALG_REFUSED), no crit and no b64 (else VERDICT_CRIT_REFUSED), typ absent or a string, a
 * kid of 1 to 64 printable ASCII characters, a signature of 256 to 512 bytes. The payload may be
 * empty here: what it must hold is the claims' matter. Fills ret_jws and returns
 * VERDICT_ACCEPTED; everything else is VERDICT_JWS_MALFORMED, or VERDICT_INTERNAL when memory is
 * out, with ret_jws untouched. Pure; any thread. */
enum verdict jws_parse(const char *token, size_t token_bytes, struct jws *ret_jws);

/* Whether key made the signature: VERDICT_ACCEPTED, VERDICT_BAD_SIGNATURE (also where the length of
 * the signature is not that of the modulus, RFC 8017 section 8.2.2), or VERDICT_INTERNAL. Uses the
 * context of the calling thread; writes nothing else. */
enum verdict jws_verify(struct jws_context *context, const struct jws *jws, const struct jwk *key);

#endif
