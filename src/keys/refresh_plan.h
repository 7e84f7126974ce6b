/*
 * refresh_plan: when to fetch, decided without a clock or a thread.
 *
 * Times are monotonic milliseconds, given by the caller. `random` is any 32-bit number; it spreads
 * waiting times by REFRESHER_JITTER_PERCENT either way. Private to the room; not synchronised.
 */
#ifndef SIWA_KEYS_REFRESH_PLAN_H
#define SIWA_KEYS_REFRESH_PLAN_H

#include "keys/refresher.h"

#define REFRESH_PLAN_NEVER INT64_MAX

struct refresh_plan {
    int64_t interval_ms;
    int64_t scheduled_ms;     /* when the next scheduled attempt is due */
    int64_t demand_ms;        /* when the next demanded one is due, or REFRESH_PLAN_NEVER */
    int64_t demand_budget_ms; /* before this no demanded attempt may start */
    unsigned failures;        /* of scheduled attempts since the last success */
    unsigned demand_failures; /* of demanded ones */
    bool operator_asked;
    bool in_flight;
    enum refresher_cause cause; /* of the one in flight */
};

/* A plan whose first scheduled attempt is due first_in_ms from now. */
void refresh_plan_start(struct refresh_plan *plan, int64_t interval_ms, int64_t first_in_ms,
                        int64_t now_ms);

/* See refresher_demand: whether an attempt is in flight or due at once because of this. */
bool refresh_plan_demand(struct refresh_plan *plan, int64_t now_ms);

/* An operator asks: an attempt is due at once, unless one is in flight. */
void refresh_plan_ask(struct refresh_plan *plan);

/* When the next attempt is due; now_ms or earlier means at once. */
int64_t refresh_plan_due_ms(const struct refresh_plan *plan, int64_t now_ms);

/* An attempt that is due begins, and its cause is returned. */
enum refresher_cause refresh_plan_begin(struct refresh_plan *plan, int64_t now_ms);

/* The attempt in flight is over. */
void refresh_plan_end(struct refresh_plan *plan, bool success, int64_t now_ms, uint32_t random);

/* The wait before the attempt after so many failures, without jitter: it doubles from
 * REFRESHER_BACKOFF_MIN_MS to REFRESHER_BACKOFF_MAX_MS. */
int64_t refresh_plan_backoff_ms(unsigned failures);

#endif
