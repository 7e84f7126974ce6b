/*
 * refresher: the thread that keeps the key cache fresh.
 *
 * Scheduled refreshes every key_refresh_s with jitter, backoff after failures; on demand for a kid
 * that nobody knows, at most one attempt in REFRESHER_DEMAND_INTERVAL_MS, counted by attempts, a
 * budget that scheduled ones do not use. Never two fetches at once.
 */
#ifndef SIWA_KEYS_REFRESHER_H
#define SIWA_KEYS_REFRESHER_H

#include <stdbool.h>
#include <stdint.h>

#include "keys/fetch.h"
#include "keys/key_cache.h"
#include "support/metrics.h"

#define REFRESHER_DEMAND_INTERVAL_MS 30000
#define REFRESHER_BACKOFF_MIN_MS     1000
#define REFRESHER_BACKOFF_MAX_MS     300000
#define REFRESHER_JITTER_PERCENT     10 /* either way */
#define REFRESHER_SAVE_MS            60000

/* Why an attempt was made. */
enum refresher_cause {
    REFRESHER_CAUSE_SCHEDULED = 0,
    REFRESHER_CAUSE_DEMAND,
    REFRESHER_CAUSE_OPERATOR
};

struct refresher;

/* What one attempt came to; for whoever wants to log it. */
struct refresher_outcome {
    enum refresher_cause cause;
    enum fetch_result result;
    const char *why;    /* one sentence where result is not FETCH_RESULT_OK; else "" */
    size_t keys;        /* in the fetched set; 0 where there is none */
    size_t new_keys;    /* of them never seen before under this kid */
    size_t passed_over; /* keys in the text that the policy does not allow */
    int save_error;     /* 0, or the -errno with which keys.json could not be saved */
    int64_t next_in_ms; /* until the next attempt that needs no request */
};

struct refresher_settings {
    struct fetch_source source; /* strings are borrowed and must outlive the refresher */
    unsigned interval_s;
    struct key_cache *cache;
    struct metrics *metrics;
    /* After each attempt, on the refresh thread, without a lock held; may be NULL. outcome is
     * borrowed for the call. */
    void (*on_outcome)(void *context, const struct refresher_outcome *outcome);
    void *outcome_context;
    /* After on_outcome, on the refresh thread: time to look at the cache again; may be NULL. */
    void (*on_attempt_over)(void *context);
    void *context;
};

/* What is known of the attempts so far. */
struct refresher_state {
    enum fetch_result last_result; /* of the last attempt; FETCH_RESULT_INTERNAL where none was */
    char last_why[FETCH_WHY_BYTES];
    uint64_t attempts;  /* since start; grows when an attempt ends */
    uint64_t successes; /* of them; grows after the set was taken into the cache */
    uint64_t demand_attempts;
    int64_t last_attempt_ms; /* wall clock; 0 where none was */
    int64_t next_scheduled_in_ms;
    bool in_flight;
};

/* Starts the thread; the first scheduled refresh is due at once (with a fresh persisted set: when
 * that set is interval_s old). Signals are blocked in it. fetch_init comes first. 0 or -errno. */
int refresher_start(const struct refresher_settings *settings, struct refresher **ret_refresher);

/* Asks for a refresh because of an unknown kid. true: one is in flight or starts now, and
 * on_attempt_over will be called; false: the budget is used up, so waiting is in vain. A demanded
 * attempt that failed is repeated by itself, with backoff and within the same budget, until one
 * succeeds. Any thread, never blocks. */
bool refresher_demand(struct refresher *refresher);

/* Asks for a refresh because an operator did; not bound by the budget, single flight all the same.
 */
void refresher_refresh_now(struct refresher *refresher);

/* Brings the gauges that depend on the time up to date: siwa_key_age_seconds, siwa_keys_current.
 * For whoever is about to render the metrics. Any thread. */
void refresher_update_metrics(struct refresher *refresher, int64_t now_s);

/* The state, copied. Any thread. */
void refresher_state(struct refresher *refresher, struct refresher_state *ret_state);

/* When the thread last showed life, monotonic milliseconds: now while it waits for a time that has
 * not come, while a fetch is within its time-out and a second, and while a set is being saved
 * within REFRESHER_SAVE_MS (a slow disk is no hang). Any thread. */
int64_t refresher_alive_ms(struct refresher *refresher);

/* Stops and joins the thread; an attempt in flight is cut off within a second. NULL is allowed. */
void refresher_stop(struct refresher *refresher);

#endif
