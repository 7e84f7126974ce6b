#include "listener/outcome_advice.h"

const char *outcome_advice(enum verdict verdict)
{
    static const char *const advice[VERDICT_COUNT] = {
        [VERDICT_INTERNAL] = "Memory was out, or this is a fault of ours: see the log. Apple is "
                             "asked to send it again.",
        [VERDICT_QUARANTINED] = "Apple signed it, but late, or in a shape that is new: look at "
                                "`siwa-notifyd quarantine list`.",
        [VERDICT_DEFERRED] = "Its key was not known yet. It is kept, and verified when keys "
                             "arrive: see that they can be fetched.",
        [VERDICT_WRONG_AUDIENCE] = "Apple signed it for an app that is not configured here: add "
                                   "its client_id to `apps`.",
        [VERDICT_BAD_FRAMING] = "Not a sound HTTP request. Apple's are; a scanner's often are not. "
                                "If all are refused, look at the proxy.",
        [VERDICT_BAD_BODY] = "Not a notification's body. If all are refused, the proxy changes or "
                             "drops the body.",
        [VERDICT_TOO_LARGE] = "Larger than `limits.body_bytes`. Apple's are about one kilobyte.",
        [VERDICT_JWS_MALFORMED] =
            "No signed token: a stranger's test, or doctor's, or a proxy that "
            "changes the body.",
        [VERDICT_ALG_REFUSED] = "A token that Apple would not sign so: somebody is trying.",
        [VERDICT_CRIT_REFUSED] = "A token that Apple would not make so: somebody is trying.",
        [VERDICT_BAD_SIGNATURE] =
            "Not signed by the key it names: somebody is trying, or `key_url` "
            "is not Apple's.",
        [VERDICT_EXPIRED] = "Apple sent it after its day was over; `late = \"quarantine\"` keeps "
                            "such ones.",
        [VERDICT_CLAIMS_MALFORMED] = "Signed by Apple, but a claim is missing or of a new type: "
                                     "tell the developers of siwa-notifyd.",
        [VERDICT_NOT_A_NOTIFICATION] = "An ID token: an app sends its sign-ins here by mistake.",
        [VERDICT_NO_KEYS] = "No usable key set: see why the last refresh failed.",
        [VERDICT_KID_UNKNOWN] = "Signed with a key that nobody knows: a stranger, or a rotation "
                                "that could not be fetched.",
        [VERDICT_FROM_FUTURE] = "Signed later than the clock here allows: set the clock.",
        [VERDICT_BUSY] = "Commits took too long, or the queue was full: look at the disk.",
        [VERDICT_STORE_FAILED] = "The database did not commit: see the log; the disk is full, "
                                 "read-only or broken.",
        [VERDICT_CLOCK_UNSET] = "The clock here stood before 2019: set it.",
        [VERDICT_DRAINING] = "Arrived while the daemon was shutting down. Apple is asked to send "
                             "it again.",
    };

    if ((unsigned)verdict >= VERDICT_COUNT || !advice[verdict])
        return "";
    return advice[verdict];
}
