/*
 * deferral: notifications whose key is not known yet, kept until keys arrive.
 *
 * Kept is a body that looks like a notification for us (verifier/peek.h), the same token once,
 * within the limits of the policy. When keys arrive a round goes over all of them on the writer
 * thread, a few at a time between two commits: what verifies becomes an event by the same way as
 * any other and leaves in the same transaction, what does not is dropped.
 *
 * Whoever floods us while no key set can be fetched cannot push out what was kept before: room is
 * made only at the cost of what a successful refresh has lacked. Dropped as unknown is a kid that
 * DEFERRAL_REFRESHES of them lacked, the first of them DEFERRAL_LACKING_MS ago.
 */
#ifndef SIWA_DISPATCHER_DEFERRAL_H
#define SIWA_DISPATCHER_DEFERRAL_H

#include <stdbool.h>
#include <stdint.h>

#include "dispatcher/outbox.h"
#include "dispatcher/policy.h"
#include "dispatcher/writer.h"
#include "verifier/judge.h"

#define DEFERRAL_REFRESHES  3
#define DEFERRAL_LACKING_MS (3600 * 1000)
#define DEFERRAL_PIECE_MS   5  /* of a round, between two commits */
#define DEFERRAL_PIECE_ROWS 64 /* settled in one piece, at the most */

/* Keeps a delivery that no known key could verify (judgement.verdict KID_UNKNOWN or NO_KEYS), whose
 * shape was found good and whose app it names; delivery->refreshes is set. Its verdict becomes
 * DEFERRED (kept, now or before: delivery->kept says which), or stays what the judgement was when
 * there is no room. delivery->displaced counts those that had to make room. Part of outbox_add;
 * writer thread. */
enum outbox_error deferral_keep(struct outbox *outbox, struct delivery *delivery);

/* What became of one that was kept. The first five were delivered in so far as the outbox now knows
 * them. */
#define DEFERRAL_RESULT_TABLE(X) \
    X(INTERNAL, "internal") \
    X(DELIVERED, "delivered") \
    X(DUPLICATE, "duplicate") \
    X(IGNORED, "ignored") \
    X(QUARANTINED, "quarantined") \
    X(EXPIRED, "expired") \
    X(DROPPED_BAD_SIGNATURE, "dropped_bad_signature") \
    X(DROPPED_WRONG_AUDIENCE, "dropped_wrong_audience") \
    X(DROPPED_REFUSED, "dropped_refused") \
    X(DROPPED_DISTRUSTED_KID, "dropped_distrusted_kid") \
    X(DROPPED_UNKNOWN_KID, "dropped_unknown_kid")

enum deferral_result {
#define DEFERRAL_RESULT_CONSTANT(name, label) DEFERRAL_RESULT_##name,
    DEFERRAL_RESULT_TABLE(DEFERRAL_RESULT_CONSTANT)
#undef DEFERRAL_RESULT_CONSTANT
        DEFERRAL_RESULT_COUNT
};

/* A static string. A value outside the table is "internal". Any thread. */
const char *deferral_result_label(enum deferral_result result);

struct deferral_settled {
    enum deferral_result result;
    struct delivery *delivery; /* with its judgement and rows; NULL where none was stored */
    int64_t received_at_ms;
};

struct deferral;

struct deferral_settings {
    struct writer *writer;
    /* For each one that left, after the commit; on the writer thread; may be NULL. settled is
     * borrowed for the call. */
    void (*on_settled)(void *context, const struct deferral_settled *settled);
    void *context;
};

/* What a round judges by. */
struct deferral_round {
    struct judge_keys keys; /* usable; asked on the writer thread */
    struct policy *policy;  /* borrowed; the round takes a reference of its own */
    int64_t now_ms;         /* wall clock */
    uint64_t refreshes; /* of the keys, successful ones since start: one more than last time is one
                         * more that lacked what is unknown still */
    /* Once, when keys are asked no more; any thread. Called with keys.context. */
    void (*release)(void *context);
};

/* 0 or -errno. Main thread. */
int deferral_new(const struct deferral_settings *settings, struct deferral **ret_deferral);

/* After the writer has stopped. NULL is allowed. */
void deferral_free(struct deferral *deferral);

/* Begins a round over all that is kept now. 0, and release will be called; -EAGAIN: one is under
 * way, or the writer has too much to do; -ESHUTDOWN or -EIO: the writer takes nothing more;
 * -ENOMEM. One thread at a time. */
int deferral_begin(struct deferral *deferral, const struct deferral_round *round);

/* Whether the last round ended before it had looked at all of them, since the storage failed or the
 * writer had too much to do: begin another one in a while. Any thread. */
bool deferral_unfinished(struct deferral *deferral);

#endif
