/*
 * notification: from the body of Apple's POST to its claims and events.
 *
 * Three ways in, each usable (and fuzzed) alone: body to token, payload to claims, claims to
 * events. What is accepted follows the tokens that Apple really signed where Apple's pages differ
 * from them.
 */
#ifndef SIWA_VERIFIER_NOTIFICATION_H
#define SIWA_VERIFIER_NOTIFICATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "verifier/verdict.h"

#define NOTIFICATION_BODY_MAX_BYTES 65536
#define NOTIFICATION_EVENTS_MAX     16
#define NOTIFICATION_CLAIM_MAX_BYTES \
    255                                  /* iss, aud, jti, and type, sub and raw_type of an event \
                                          */
#define NOTIFICATION_EMAIL_MAX_BYTES 320 /* RFC 5321: 64 + 1 + 255 */
#define NOTIFICATION_LIFETIME_S      86400 /* exp - iat in every real token; the fall-back */
#define NOTIFICATION_TIME_MAX_S      INT64_C(253402300799) /* the end of the year 9999 */

/* The types that Apple documents. Whatever else arrives is EVENT_TYPE_OTHER and is stored as it
 * came. "account-deleted" (today's page) is another spelling of account-delete. */
#define EVENT_TYPE_TABLE(X) \
    X(OTHER, "other") \
    X(EMAIL_ENABLED, "email-enabled") \
    X(EMAIL_DISABLED, "email-disabled") \
    X(CONSENT_REVOKED, "consent-revoked") \
    X(ACCOUNT_DELETE, "account-delete")

enum event_type {
#define EVENT_TYPE_CONSTANT(name, text) EVENT_TYPE_##name,
    EVENT_TYPE_TABLE(EVENT_TYPE_CONSTANT)
#undef EVENT_TYPE_CONSTANT
        EVENT_TYPE_COUNT
};

enum private_email { PRIVATE_EMAIL_UNSAID = 0, PRIVATE_EMAIL_NO, PRIVATE_EMAIL_YES };

/* One event. Strings are NUL-terminated UTF-8 without NUL inside, owned by the notification. */
struct event {
    enum event_type kind;
    const char *type;     /* the spelling that is stored: normalised where kind is not OTHER */
    const char *raw_type; /* as Apple wrote it, 1 to 255 bytes */
    const char *sub;      /* NULL where missing */
    const char *email;    /* NULL where missing */
    enum private_email is_private_email;
    int64_t event_time_ms; /* 0 where missing; seconds were turned into milliseconds */
};

/* The claims of one notification. Move it freely, but release it once. */
struct notification {
    const char *iss;
    const char *aud;
    const char *jti; /* NULL where missing */
    int64_t issued_at_s;
    int64_t expires_at_s; /* iat + NOTIFICATION_LIFETIME_S where exp is missing */
    bool has_events;      /* whether a claim of that name stands there at all, of whatever type */
    size_t event_count;   /* 0 where the events could not be understood */
    struct event events[NOTIFICATION_EVENTS_MAX];
    char *claims_text, *events_text; /* these own the strings; private to notification.c */
    void *claims_tree, *events_tree;
};

/* Where a token stands in a body. owned is NULL when the token is a part of the body itself. */
struct notification_token {
    const char *text;
    size_t bytes;
    char *owned;
};

/* The token in a body `{"payload":"…"}`: other members are tolerated, members that stand twice are
 * not; the body need not end with NUL. VERDICT_ACCEPTED and ret_token filled (release it with
 * notification_token_release before the body goes away), VERDICT_BAD_BODY, VERDICT_TOO_LARGE over
 * NOTIFICATION_BODY_MAX_BYTES, or VERDICT_INTERNAL when memory is out. Pure; any thread. */
enum verdict notification_find_token(const char *body, size_t body_bytes,
                                     struct notification_token *ret_token);
void notification_token_release(struct notification_token *token);

/* Reads the claims in the decoded payload of a JWS: one JSON object without duplicate members; iss
 * and aud strings of 1 to 255 bytes, iat an integer, exp an integer or absent (both 0 to
 * NOTIFICATION_TIME_MAX_S), jti a string of up to 255 bytes (an empty one is as good as none) or
 * absent. A claim of another type or out of bounds is VERDICT_CLAIMS_MALFORMED; other claims are
 * not looked at. `events` is read last, as a JSON string, an object or an array (1 to 16 objects).
 * Where it cannot be understood the verdict is still VERDICT_ACCEPTED, with event_count 0, since
 * the rest of the claims decides what becomes of the notification. Not understood, and never in
 * part: another JSON type, a string that is not such JSON (or has a member twice), no event or more
 * than 16, an event whose type is missing or whose type, sub or email is no string of 1 to 255
 * (320) bytes, whose event_time is no integer of 0 to the year 9999, whose is_private_email is none
 * of true, false, "true", "false", or which has neither sub and event_time nor, of the
 * notification, a jti. Other members of an event are not looked at. VERDICT_INTERNAL when memory is
 * out. Only on VERDICT_ACCEPTED is ret_notification filled, and then to be released. Pure; any
 * thread. */
enum verdict notification_parse(const char *payload, size_t payload_bytes,
                                struct notification *ret_notification);

/* Releases what a notification owns and leaves it empty. NULL, and an empty one, are allowed. */
void notification_release(struct notification *notification);

/* The kind of an event type as Apple spells it, EVENT_TYPE_OTHER for unknown ones; and the text of
 * a kind, a static string. Any thread. */
enum event_type event_type_of(const char *raw_type);
const char *event_type_text(enum event_type kind);

#endif
