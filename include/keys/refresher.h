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

struct refresher;

struct refresher_settings {
    struct fetch_source source; /* strings are borrowed and must outlive the refresher */
    unsigned interval_s;
    struct key_cache *cache;
    struct metrics *metrics;
    void (*on_attempt_over)(
        void *context); /* after each attempt, on the refresh thread; may be NULL */
    void *context;
};

/* What is known of the attempts so far. */
struct refresher_state {
    enum fetch_result last_result; /* of the last attempt; FETCH_RESULT_INTERNAL where none was */
    char last_why[FETCH_WHY_BYTES];
    uint64_t attempts; /* since start; grows when an attempt ends */
    uint64_t demand_attempts;
    int64_t last_attempt_ms; /* wall clock; 0 where none was */
    int64_t next_scheduled_in_ms;
    bool in_flight;
};

/* Starts the thread; the first scheduled refresh is due at once (with a fresh persisted set: when
 * that set is interval_s old). 0 or -errno. */
int refresher_start(const struct refresher_settings *settings, struct refresher **ret_refresher);

/* Asks for a refresh because of an unknown kid. true: one is in flight or starts now, and
 * on_attempt_over will be called; false: the budget is used up, so waiting is in vain. Any thread,
 * never blocks. */
bool refresher_demand(struct refresher *refresher);

/* Asks for a refresh because an operator did; not bound by the budget, single flight all the same.
 */
void refresher_refresh_now(struct refresher *refresher);

/* The state, copied. Any thread. */
void refresher_state(struct refresher *refresher, struct refresher_state *ret_state);

/* When the thread last showed life, monotonic milliseconds. An attempt in flight counts as life for
 * FETCH_TIMEOUT_MS and a second. */
int64_t refresher_alive_ms(struct refresher *refresher);

/* Stops and joins the thread; an attempt in flight is cut off within a second. NULL is allowed. */
void refresher_stop(struct refresher *refresher);

#endif
