/*
 * The watch over the wall clock: what is a jump, and how long it is doubted.
 */
#include <check.h>
#include <stdlib.h>

#include "support/clock_watch.h"

#define LEEWAY_MS INT64_C(300000)
#define DAY_MS    INT64_C(86400000)
#define WALL_MS   INT64_C(1800000000000)
#define HOUR_MS   INT64_C(3600000)

static struct clock_watch begun(void)
{
    struct clock_watch watch = {0};

    ck_assert(!clock_watch_look(&watch, WALL_MS, 5000, LEEWAY_MS));
    return watch;
}

START_TEST(a_clock_that_goes_on_is_believed)
{
    struct clock_watch watch = begun();

    /* drift far beyond the leeway, in small steps */
    for (int64_t i = 1; i < 2000; i++)
        ck_assert(!clock_watch_look(&watch, WALL_MS + i * 2000, 5000 + i * 1000, LEEWAY_MS));
    ck_assert_int_eq(clock_watch_other_ms(&watch, 42, 43), 42);
}
END_TEST

START_TEST(a_jump_is_doubted_for_an_hour)
{
    static const int64_t jumps_ms[] = {DAY_MS, -DAY_MS, LEEWAY_MS + 1, -LEEWAY_MS - 1};

    for (size_t i = 0; i < sizeof jumps_ms / sizeof *jumps_ms; i++) {
        struct clock_watch watch = begun();
        int64_t wall_ms = WALL_MS + 1000 + jumps_ms[i];

        ck_assert(clock_watch_look(&watch, wall_ms, 6000, LEEWAY_MS));
        ck_assert_int_eq(clock_watch_other_ms(&watch, wall_ms, 6000), WALL_MS + 1000);
        ck_assert(!clock_watch_look(&watch, wall_ms + 500, 6500, LEEWAY_MS));
        ck_assert_int_eq(clock_watch_other_ms(&watch, wall_ms + 500, 6500), WALL_MS + 1500);
        ck_assert(!clock_watch_look(&watch, wall_ms + HOUR_MS, 6000 + HOUR_MS, LEEWAY_MS));
        ck_assert_int_eq(clock_watch_other_ms(&watch, 42, 6000 + HOUR_MS), 42);
    }
}
END_TEST

START_TEST(the_way_back_ends_the_doubt)
{
    struct clock_watch watch = begun();

    ck_assert(clock_watch_look(&watch, WALL_MS + DAY_MS, 6000, LEEWAY_MS));
    ck_assert(clock_watch_look(&watch, WALL_MS + 2000, 7000, LEEWAY_MS));
    ck_assert_int_eq(clock_watch_other_ms(&watch, 42, 7000), 42);
}
END_TEST

START_TEST(a_second_jump_leaves_the_first_reading)
{
    struct clock_watch watch = begun();

    ck_assert(clock_watch_look(&watch, WALL_MS + DAY_MS, 6000, LEEWAY_MS));
    ck_assert(clock_watch_look(&watch, WALL_MS + 3 * DAY_MS, 7000, LEEWAY_MS));
    ck_assert_int_eq(clock_watch_other_ms(&watch, 42, 7000), WALL_MS + 2000);
}
END_TEST

START_TEST(what_is_within_the_leeway_is_no_jump)
{
    struct clock_watch watch = begun();

    ck_assert(!clock_watch_look(&watch, WALL_MS + 1000 + LEEWAY_MS, 6000, LEEWAY_MS));
    ck_assert(!clock_watch_look(&watch, WALL_MS + 2000, 7000, LEEWAY_MS));
    /* a leeway of 0 does not make a jump of the time between two readings */
    ck_assert(!clock_watch_look(&watch, WALL_MS + 3000 + CLOCK_WATCH_LEAST_MS, 8000, 0));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("clock_watch");
    TCase *tests = tcase_create("watch");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tests, a_clock_that_goes_on_is_believed);
    tcase_add_test(tests, a_jump_is_doubted_for_an_hour);
    tcase_add_test(tests, the_way_back_ends_the_doubt);
    tcase_add_test(tests, a_second_jump_leaves_the_first_reading);
    tcase_add_test(tests, what_is_within_the_leeway_is_no_jump);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
