/*
 * verdict: every way in which a notification can end, in one table.
 *
 * The table gives the constant, the label that stands in log lines, metrics and `verify` output,
 * and the HTTP status that Apple sees. README.md carries the same table for people; a unit test
 * holds the two together.
 */
#ifndef SIWA_VERIFIER_VERDICT_H
#define SIWA_VERIFIER_VERDICT_H

/* Zero is failure: a forgotten assignment answers 503, never 200. 4xx stands only beside what can
 * never become valid; what is our fault, or may change, is 5xx, so that Apple asks again. */
#define VERDICT_TABLE(X) \
    X(INTERNAL, "internal", 503) \
    X(ACCEPTED, "accepted", 200) \
    X(DUPLICATE, "duplicate", 200) \
    X(IGNORED, "ignored", 200) \
    X(QUARANTINED, "quarantined", 200) \
    X(DEFERRED, "deferred", 503) \
    X(WRONG_AUDIENCE, "wrong_audience", 503) \
    X(BAD_FRAMING, "bad_framing", 400) \
    X(BAD_BODY, "bad_body", 400) \
    X(TOO_LARGE, "too_large", 413) \
    X(JWS_MALFORMED, "jws_malformed", 400) \
    X(ALG_REFUSED, "alg_refused", 400) \
    X(CRIT_REFUSED, "crit_refused", 400) \
    X(BAD_SIGNATURE, "bad_signature", 400) \
    X(EXPIRED, "expired", 400) \
    X(CLAIMS_MALFORMED, "claims_malformed", 400) \
    X(NOT_A_NOTIFICATION, "not_a_notification", 400) \
    X(NO_KEYS, "no_keys", 503) \
    X(KID_UNKNOWN, "kid_unknown", 503) \
    X(FROM_FUTURE, "from_future", 503) \
    X(BUSY, "busy", 503) \
    X(STORE_FAILED, "store_failed", 503) \
    X(CLOCK_UNSET, "clock_unset", 503) \
    X(DRAINING, "draining", 503)

enum verdict {
#define VERDICT_CONSTANT(name, label, status) VERDICT_##name,
    VERDICT_TABLE(VERDICT_CONSTANT)
#undef VERDICT_CONSTANT
        VERDICT_COUNT /* not a verdict: the number of them */
};

/* The label of a verdict: a static string, lower case and underscores. A value outside the table is
 * "internal". Any thread. */
const char *verdict_label(enum verdict verdict);

/* The HTTP status of a verdict, 200 to 599. A value outside the table is 503. Any thread. */
unsigned verdict_status(enum verdict verdict);

#endif
