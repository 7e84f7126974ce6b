#include "refresh_plan.h"

#include <limits.h>

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* wait_ms, spread evenly over REFRESHER_JITTER_PERCENT to either side. */
static int64_t jittered(int64_t wait_ms, uint32_t random)
{
    int64_t reach_ms = wait_ms * REFRESHER_JITTER_PERCENT / 100;
    return wait_ms - reach_ms + (int64_t)((uint64_t)random % (uint64_t)(2 * reach_ms + 1));
}

int64_t refresh_plan_backoff_ms(unsigned failures)
{
    int64_t wait_ms = REFRESHER_BACKOFF_MIN_MS;
    while (failures > 1 && wait_ms < REFRESHER_BACKOFF_MAX_MS) {
        wait_ms *= 2;
        failures--;
    }
    return smaller(wait_ms, REFRESHER_BACKOFF_MAX_MS);
}

void refresh_plan_start(struct refresh_plan *plan, int64_t interval_ms, int64_t first_in_ms,
                        int64_t now_ms)
{
    *plan = (struct refresh_plan){.interval_ms = interval_ms,
                                  .scheduled_ms = now_ms + first_in_ms,
                                  .demand_ms = REFRESH_PLAN_NEVER,
                                  .demand_budget_ms = now_ms};
}

bool refresh_plan_demand(struct refresh_plan *plan, int64_t now_ms)
{
    if (plan->in_flight || refresh_plan_due_ms(plan, now_ms) <= now_ms)
        return true;
    if (now_ms < plan->demand_budget_ms)
        return false;
    plan->demand_ms = now_ms;
    return true;
}

void refresh_plan_ask(struct refresh_plan *plan)
{
    plan->operator_asked = !plan->in_flight;
}

int64_t refresh_plan_due_ms(const struct refresh_plan *plan, int64_t now_ms)
{
    return plan->operator_asked ? now_ms : smaller(plan->scheduled_ms, plan->demand_ms);
}

static enum refresher_cause cause_of(const struct refresh_plan *plan, int64_t now_ms)
{
    if (plan->operator_asked)
        return REFRESHER_CAUSE_OPERATOR;
    /* The scheduled one goes first: it leaves the budget to those who will ask. */
    return plan->scheduled_ms <= now_ms ? REFRESHER_CAUSE_SCHEDULED : REFRESHER_CAUSE_DEMAND;
}

enum refresher_cause refresh_plan_begin(struct refresh_plan *plan, int64_t now_ms)
{
    plan->cause = cause_of(plan, now_ms);
    plan->operator_asked = false;
    plan->in_flight = true;
    if (plan->cause == REFRESHER_CAUSE_DEMAND)
        plan->demand_budget_ms = now_ms + REFRESHER_DEMAND_INTERVAL_MS;
    return plan->cause;
}

static int64_t retry_ms(unsigned *failures, int64_t now_ms, uint32_t random)
{
    if (*failures < UINT_MAX)
        (*failures)++;
    return now_ms + jittered(refresh_plan_backoff_ms(*failures), random);
}

/* A failed demand is repeated within its own budget and backs off by itself: strangers who make up
 * kids while the key server is down can neither make the daemon ask more often than one every 30 s
 * nor delay the scheduled attempts. */
static void plan_after_failure(struct refresh_plan *plan, int64_t now_ms, uint32_t random)
{
    switch (plan->cause) {
    case REFRESHER_CAUSE_SCHEDULED:
        plan->scheduled_ms = retry_ms(&plan->failures, now_ms, random);
        break;
    case REFRESHER_CAUSE_DEMAND:
        plan->demand_ms =
            larger(retry_ms(&plan->demand_failures, now_ms, random), plan->demand_budget_ms);
        break;
    case REFRESHER_CAUSE_OPERATOR:
        break; /* who asked sees what came of it */
    }
}

void refresh_plan_end(struct refresh_plan *plan, bool success, int64_t now_ms, uint32_t random)
{
    plan->in_flight = false;
    if (!success) {
        plan_after_failure(plan, now_ms, random);
        return;
    }
    plan->failures = plan->demand_failures = 0;
    plan->scheduled_ms = now_ms + jittered(plan->interval_ms, random);
    plan->demand_ms = REFRESH_PLAN_NEVER;
}
