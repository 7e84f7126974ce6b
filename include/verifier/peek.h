/*
 * peek: what a body says of itself while no key is at hand to verify it.
 *
 * For one decision only: whether it is worth keeping until keys arrive. Anybody can write what is
 * found here, so none of it may reach a log line, a metric or a row that consumers see.
 */
#ifndef SIWA_VERIFIER_PEEK_H
#define SIWA_VERIFIER_PEEK_H

#include <stdbool.h>
#include <stddef.h>

#include "verifier/judge.h"

/* NUL-terminated copies; nothing in them is verified. */
struct peek {
    char unverified_kid[JWK_KID_MAX_BYTES + 1];
    char unverified_aud[NOTIFICATION_CLAIM_MAX_BYTES + 1];
};

/* Whether a body has the shape of a notification for us, so that a key is all that is missing: a
 * token as jws_parse accepts it, claims as notification_parse accepts them, `iss` among
 * rules->issuers, `aud` an audience that rules->audience_known knows, and `events` present. The
 * keys and the times of the rules are not looked at. false too where memory is out; only on true is
 * ret_peek filled. Pure; any thread. */
bool peek_body(const struct judge_rules *rules, const char *body, size_t body_bytes,
               struct peek *ret_peek);

#endif
