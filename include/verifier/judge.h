/*
 * judge: the whole judgement of one body, in its fixed order.
 *
 * shape, key, signature, kind (`events` present), audience, issuer, times. What follows in the
 * dispatcher needs the outbox: identity, lateness, policy. Pure: the time, the keys and the
 * audiences are parameters, so that the daemon, `verify`, the fuzzers and the proofs run the same
 * code.
 */
#ifndef SIWA_VERIFIER_JUDGE_H
#define SIWA_VERIFIER_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "verifier/jwks.h"
#include "verifier/jws.h"
#include "verifier/notification.h"
#include "verifier/verdict.h"

/* Before 2019-01-01 the machine's clock is not set: Sign in with Apple did not exist yet. */
#define JUDGE_CLOCK_FLOOR_S INT64_C(1546300800)

/* How far a key is trusted. Zero is not at all. */
enum key_trust {
    KEY_TRUST_NONE = 0,   /* unknown, or distrusted by hand */
    KEY_TRUST_QUARANTINE, /* left the published set 48 h ago or longer */
    KEY_TRUST_FULL
};

/* A set of keys to be asked by kid. */
struct judge_keys {
    /* The key with this kid, borrowed until the judgement is over, and its trust; NULL if unknown.
     */
    const struct jwk *(*find)(void *context, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust);
    void *context;
    bool usable; /* false: no set, or too old a one: every token that needs a key is no_keys */
};

/* A key that the operator made for one test notification, and the one issuer and audience that it
 * is good for. It is no key of Apple's: what else it signs is not signed at all, and what Apple's
 * keys sign for that issuer and audience is judged as if it were not there. */
struct judge_probe {
    const struct jwk *key; /* NULL: there is none */
    const char *issuer, *client_id;
};

/* What a token is judged against; all borrowed for the call. */
struct judge_rules {
    struct judge_keys keys;
    bool (*audience_known)(void *context, const char *client_id);
    void *audience_context;
    const char *const *issuers;
    size_t issuer_count;
    struct judge_probe probe;
    int64_t now_s;    /* wall clock at receipt */
    int64_t leeway_s; /* both ways, 0 to 86400 */
};

/* Whether iss is one of the issuers. Pure; any thread. */
bool judge_issuer_known(const struct judge_rules *rules, const char *iss);

/* Why something that Apple signed goes to quarantine. Of several reasons one is given, what casts
 * more doubt first: OLD_KEY, UNKNOWN_ISSUER, EVENTS_UNCLEAR (and then VERDICT_FROM_FUTURE),
 * EXPIRED. So EXPIRED says that nothing but its age stands against a notification, and no setting
 * for late ones lets in what an old key signed. */
#define QUARANTINE_REASON_TABLE(X) \
    X(NONE, "none") \
    X(EXPIRED, "expired") \
    X(OLD_KEY, "old_key") \
    X(UNKNOWN_ISSUER, "unknown_issuer") \
    X(EVENTS_UNCLEAR, "events_unclear")

enum quarantine_reason {
#define QUARANTINE_REASON_CONSTANT(name, text) QUARANTINE_REASON_##name,
    QUARANTINE_REASON_TABLE(QUARANTINE_REASON_CONSTANT)
#undef QUARANTINE_REASON_CONSTANT
};

/* The label of a reason: a static string. A value outside the table is "none". Any thread. */
const char *quarantine_reason_label(enum quarantine_reason reason);

/* What a judgement found. */
struct judgement {
    enum verdict verdict;
    enum quarantine_reason reason; /* with VERDICT_QUARANTINED */
    bool signature_verified;       /* only then may aud stand in a metric or log line */
    bool probe; /* the test notification of rules->probe, and never one of Apple's */
    char kid[JWK_KID_MAX_BYTES + 1]; /* empty where the shape did not give one */
    struct notification
        notification; /* filled as soon as the signature verified and the claims parsed */
};

/* Judges one body (as the POST carried it) at rules->now_s. ret_judgement is always filled and must
 * be released with judgement_release. Its verdict is
 *   VERDICT_ACCEPTED     all that can be known without the outbox is in order
 *   VERDICT_QUARANTINED  signed, for a known audience, but: reason. With reason EXPIRED the `late`
 *                        setting decides; a repeat of what is stored is a duplicate all the same
 *   VERDICT_KID_UNKNOWN, VERDICT_NO_KEYS   may change when keys arrive
 *   VERDICT_EXPIRED      a test notification only: its time is over
 *   or what refuses it. VERDICT_CLOCK_UNSET comes before everything that needs the time.
 * Uses the context of the calling thread. */
void judge_body(struct jws_context *context, const struct judge_rules *rules, const char *body,
                size_t body_bytes, struct judgement *ret_judgement);

/* The same for a bare compact token. */
void judge_token(struct jws_context *context, const struct judge_rules *rules, const char *token,
                 size_t token_bytes, struct judgement *ret_judgement);

/* Releases what a judgement owns; NULL is allowed. */
void judgement_release(struct judgement *judgement);

#endif
