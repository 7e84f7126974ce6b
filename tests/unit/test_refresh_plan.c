/* When keys are fetched, in simulated time: hours of a key server that is up, down or slow, and of
 * strangers who make up kids, pass in a moment. */
#include "../../src/keys/refresh_plan.h"

#include <check.h>

#define HOUR_MS  INT64_C(3600000)
#define START_MS INT64_C(5000000)

static const uint32_t randoms[] = {0, 720000, 1, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
#define RANDOM_COUNT (sizeof(randoms) / sizeof(randoms[0]))

/* Runs one attempt that is due and takes took_ms. */
static enum refresher_cause attempt(struct refresh_plan *plan, int64_t *now_ms, int64_t took_ms,
                                    bool success)
{
    ck_assert_int_le(refresh_plan_due_ms(plan, *now_ms), *now_ms);
    enum refresher_cause cause = refresh_plan_begin(plan, *now_ms);
    *now_ms += took_ms;
    refresh_plan_end(plan, success, *now_ms, 12345);
    return cause;
}

START_TEST(scheduled_ones_come_at_the_interval_with_jitter)
{
    int64_t least_ms = INT64_MAX, most_ms = 0;
    for (size_t i = 0; i < RANDOM_COUNT; i++) {
        struct refresh_plan plan;
        refresh_plan_start(&plan, HOUR_MS, 0, START_MS);
        ck_assert_int_eq(refresh_plan_due_ms(&plan, START_MS), START_MS);
        ck_assert_int_eq(refresh_plan_begin(&plan, START_MS), REFRESHER_CAUSE_SCHEDULED);
        refresh_plan_end(&plan, true, START_MS, randoms[i]);
        int64_t wait_ms = refresh_plan_due_ms(&plan, START_MS) - START_MS;
        ck_assert_int_ge(wait_ms, HOUR_MS * 9 / 10);
        ck_assert_int_le(wait_ms, HOUR_MS * 11 / 10);
        least_ms = wait_ms < least_ms ? wait_ms : least_ms;
        most_ms = wait_ms > most_ms ? wait_ms : most_ms;
    }
    ck_assert_int_lt(least_ms, HOUR_MS * 91 / 100);
    ck_assert_int_gt(most_ms, HOUR_MS * 105 / 100);
}
END_TEST

START_TEST(the_first_one_can_wait_for_a_persisted_set_to_age)
{
    struct refresh_plan plan;
    refresh_plan_start(&plan, HOUR_MS, HOUR_MS / 2, START_MS);
    ck_assert_int_eq(refresh_plan_due_ms(&plan, START_MS), START_MS + HOUR_MS / 2);
}
END_TEST

START_TEST(failures_back_off_to_five_minutes)
{
    static const int64_t expected_s[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300};
    struct refresh_plan plan;
    int64_t now_ms = START_MS;
    refresh_plan_start(&plan, HOUR_MS, 0, now_ms);
    for (size_t i = 0; i < sizeof(expected_s) / sizeof(expected_s[0]); i++) {
        ck_assert_int_eq(attempt(&plan, &now_ms, 50, false), REFRESHER_CAUSE_SCHEDULED);
        int64_t wait_ms = refresh_plan_due_ms(&plan, now_ms) - now_ms;
        ck_assert_int_ge(wait_ms, expected_s[i] * 900);
        ck_assert_int_le(wait_ms, expected_s[i] * 1100);
        now_ms += wait_ms;
    }
    ck_assert_int_eq(attempt(&plan, &now_ms, 50, true), REFRESHER_CAUSE_SCHEDULED);
    now_ms = refresh_plan_due_ms(&plan, now_ms);
    attempt(&plan, &now_ms, 50, false); /* a success starts it over */
    ck_assert_int_le(refresh_plan_due_ms(&plan, now_ms) - now_ms, 1100);
    ck_assert_int_eq(refresh_plan_backoff_ms(0), REFRESHER_BACKOFF_MIN_MS);
    ck_assert_int_eq(refresh_plan_backoff_ms(UINT32_MAX), REFRESHER_BACKOFF_MAX_MS);
}
END_TEST

START_TEST(a_demand_is_served_at_once_and_then_not_for_30_s)
{
    struct refresh_plan plan;
    int64_t now_ms = START_MS;
    refresh_plan_start(&plan, HOUR_MS, HOUR_MS, now_ms);
    ck_assert(refresh_plan_demand(&plan, now_ms));
    ck_assert_int_eq(attempt(&plan, &now_ms, 200, true), REFRESHER_CAUSE_DEMAND);
    ck_assert(!refresh_plan_demand(&plan, now_ms));
    ck_assert(!refresh_plan_demand(&plan, START_MS + REFRESHER_DEMAND_INTERVAL_MS - 1));
    ck_assert(refresh_plan_demand(&plan, START_MS + REFRESHER_DEMAND_INTERVAL_MS));
}
END_TEST

START_TEST(demands_join_what_is_in_flight_or_due)
{
    struct refresh_plan plan;
    int64_t now_ms = START_MS;
    refresh_plan_start(&plan, HOUR_MS, 0, now_ms);
    ck_assert(refresh_plan_demand(&plan, now_ms)); /* the scheduled one is due */
    ck_assert_int_eq(refresh_plan_begin(&plan, now_ms), REFRESHER_CAUSE_SCHEDULED);
    ck_assert(refresh_plan_demand(&plan, now_ms + 100));
    refresh_plan_end(&plan, true, now_ms + 200, 0);
    /* None of that used the budget. */
    ck_assert_int_gt(refresh_plan_due_ms(&plan, now_ms), now_ms + 1000);
    ck_assert(refresh_plan_demand(&plan, now_ms + 201));
    now_ms += 201;
    ck_assert_int_eq(attempt(&plan, &now_ms, 1, true), REFRESHER_CAUSE_DEMAND);
}
END_TEST

START_TEST(an_operator_is_served_without_budget)
{
    struct refresh_plan plan;
    int64_t now_ms = START_MS;
    refresh_plan_start(&plan, HOUR_MS, HOUR_MS, now_ms);
    for (int i = 0; i < 3; i++) {
        refresh_plan_ask(&plan);
        ck_assert_int_eq(attempt(&plan, &now_ms, 10, i != 1), REFRESHER_CAUSE_OPERATOR);
    }
    ck_assert(refresh_plan_demand(&plan, now_ms)); /* and uses none */
    /* In flight, the asked-for one is the one in flight. */
    ck_assert_int_eq(refresh_plan_begin(&plan, now_ms), REFRESHER_CAUSE_DEMAND);
    refresh_plan_ask(&plan);
    refresh_plan_end(&plan, true, now_ms, 0);
    ck_assert_int_gt(refresh_plan_due_ms(&plan, now_ms), now_ms + HOUR_MS / 2);
}
END_TEST

/* The notification that asked may be a real one: it must not wait for the next hour. */
START_TEST(a_failed_demand_is_repeated_within_the_budget)
{
    struct refresh_plan plan;
    int64_t now_ms = START_MS, before_ms;
    refresh_plan_start(&plan, HOUR_MS, 10 * HOUR_MS, now_ms);
    ck_assert(refresh_plan_demand(&plan, now_ms));
    for (int i = 0; i < 20; i++) {
        before_ms = now_ms;
        ck_assert_int_eq(attempt(&plan, &now_ms, 50, false), REFRESHER_CAUSE_DEMAND);
        now_ms = refresh_plan_due_ms(&plan, now_ms);
        ck_assert_int_ge(now_ms - before_ms, REFRESHER_DEMAND_INTERVAL_MS);
        ck_assert_int_le(now_ms - before_ms, REFRESHER_BACKOFF_MAX_MS * 11 / 10 + 50);
    }
    attempt(&plan, &now_ms, 50, true);
    ck_assert_int_gt(refresh_plan_due_ms(&plan, now_ms), now_ms + HOUR_MS / 2);
}
END_TEST

/* A day of strangers who send a made-up kid every 10 ms, while the key server is up, down, or takes
 * its five seconds: demanded attempts stay 30 s apart, the scheduled ones come as if nothing were,
 * and no two are in flight at once. */
START_TEST(a_flood_of_made_up_kids)
{
    static const struct {
        bool success;
        int64_t took_ms;
    } servers[] = {{true, 80}, {false, 1}, {false, 5000}, {true, 5000}};
    struct refresh_plan plan;
    int64_t now_ms = START_MS, end_ms = START_MS + 24 * HOUR_MS, over_ms = 0,
            last_ms = INT64_MIN / 2;
    int64_t demanded = 0, scheduled = 0;
    refresh_plan_start(&plan, HOUR_MS, 0, now_ms);
    for (; now_ms < end_ms; now_ms += 10) {
        if (plan.in_flight && now_ms >= over_ms)
            refresh_plan_end(&plan, servers[_i].success, now_ms, (uint32_t)(now_ms * 2654435761));
        (void)refresh_plan_demand(&plan, now_ms);
        if (plan.in_flight || refresh_plan_due_ms(&plan, now_ms) > now_ms)
            continue;
        over_ms = now_ms + servers[_i].took_ms;
        if (refresh_plan_begin(&plan, now_ms) == REFRESHER_CAUSE_SCHEDULED) {
            scheduled++;
            continue;
        }
        ck_assert_int_ge(now_ms - last_ms, REFRESHER_DEMAND_INTERVAL_MS);
        last_ms = now_ms;
        demanded++;
    }
    ck_assert_int_le(demanded, 24 * 120 + 1);
    ck_assert_int_ge(demanded, 24 * 100); /* the honest ones among them are heard */
    if (!servers[_i].success) {
        ck_assert_int_ge(scheduled, 250); /* backoff ends at five minutes, whatever strangers do */
        ck_assert_int_le(scheduled, 350);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("refresh_plan");
    TCase *tcase = tcase_create("plan");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, scheduled_ones_come_at_the_interval_with_jitter);
    tcase_add_test(tcase, the_first_one_can_wait_for_a_persisted_set_to_age);
    tcase_add_test(tcase, failures_back_off_to_five_minutes);
    tcase_add_test(tcase, a_demand_is_served_at_once_and_then_not_for_30_s);
    tcase_add_test(tcase, demands_join_what_is_in_flight_or_due);
    tcase_add_test(tcase, an_operator_is_served_without_budget);
    tcase_add_test(tcase, a_failed_demand_is_repeated_within_the_budget);
    tcase_add_loop_test(tcase, a_flood_of_made_up_kids, 0, 4);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
