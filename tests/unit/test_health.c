/* What follows from which facts. The facts are made up here, so that each fault is there without
 * having to be produced; that they are gathered rightly is shown at the end and by test_monitor.py.
 */
#include "listener/health.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOW_MS   INT64_C(100000000)     /* monotonic */
#define WALL_MS  INT64_C(1760000000000) /* in 2025 */
#define WALL_S   (WALL_MS / 1000)
#define DAY_S    INT64_C(86400)
#define GIBIBYTE (UINT64_C(1) << 30)

/* A daemon in which all is well. */
static struct health_facts good_facts(void)
{
    return (struct health_facts){
        .pulse =
            {.now_ms = NOW_MS,
             .notify_alive_ms = NOW_MS - 100,
             .reader_alive_ms = NOW_MS - 100,
             .refresher_alive_ms = NOW_MS - 1000,
             .writer = {.alive_ms = NOW_MS - 1000, .queue_events = 100, .commits = 7, .rows = 9}},
        .keys_usable = true,
        .keys_current = 3,
        .keys_refreshed_s = WALL_S - 60,
        .key_refresh_s = 3600,
        .refresher = {.last_result = FETCH_RESULT_OK, .last_attempt_ms = WALL_MS - 60000},
        .file = HEALTH_FILE_PRESENT,
        .database_bytes = 4096,
        .wal_bytes = 1000,
        .disk_known = true,
        .disk_free_bytes = 50 * GIBIBYTE,
        .disk_size_bytes = 100 * GIBIBYTE,
        .wall_ms = WALL_MS,
        .leeway_s = 300,
    };
}

/* The state of one check; every other check must be untouched by what the case changed, but for
 * those in allowed (a set of bits). */
static enum health_state judged(const struct health_facts *facts, enum health_check_id id,
                                unsigned allowed, const char *why)
{
    struct health_report report;
    bool failed = false;

    health_judge(facts, &report);
    for (unsigned i = 0; i < HEALTH_CHECK_COUNT; i++) {
        enum health_state state = report.checks[i].state;
        failed = failed || state == HEALTH_STATE_FAIL;
        ck_assert_msg((state == HEALTH_STATE_OK) == (report.checks[i].why[0] == '\0'),
                      "%s: a reason stands beside what is not ok, and only there",
                      health_check_label((enum health_check_id)i));
        if (i != id && !(allowed & 1U << i))
            ck_assert_msg(state == HEALTH_STATE_OK, "%s: %s",
                          health_check_label((enum health_check_id)i), report.checks[i].why);
    }
    ck_assert_int_eq(report.ready, !failed);
    if (why)
        ck_assert_msg(strstr(report.checks[id].why, why) != NULL, "%s is not in: %s", why,
                      report.checks[id].why);
    return report.checks[id].state;
}

/* Neither keeps a notification that arrives now from being stored. */
START_TEST(what_is_stored_apart)
{
    struct health_facts facts = good_facts();
    struct outbox_apart *apart = &facts.pulse.writer.apart;

    apart->quarantine_rows = 1;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUARANTINE, 0, "1 notifications"),
                     HEALTH_STATE_WARN);
    apart->quarantine_rows = OUTBOX_QUARANTINE_ROWS;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUARANTINE, 0, "is full"), HEALTH_STATE_WARN);
    apart->quarantine_rows = 2;
    apart->quarantine_bytes = OUTBOX_QUARANTINE_BYTES - 1000;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUARANTINE, 0, "is full"), HEALTH_STATE_WARN);
    *apart = (struct outbox_apart){.deferred_rows = 7, .deferred_bytes = 7000};
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DEFERRED, 0, "7 notifications"),
                     HEALTH_STATE_WARN);
}
END_TEST

START_TEST(all_is_well)
{
    struct health_facts facts = good_facts();
    struct health_report report;
    char why[HEALTH_WHY_BYTES] = "untouched";

    health_judge(&facts, &report);
    ck_assert(report.ready);
    for (size_t i = 0; i < HEALTH_CHECK_COUNT; i++)
        ck_assert_int_eq(report.checks[i].state, HEALTH_STATE_OK);
    ck_assert(health_judge_pulse(&facts.pulse, why));
    ck_assert_str_eq(why, "untouched");
}
END_TEST

/* Zero is failure: what nobody filled in is not healthy. */
START_TEST(nothing_known_is_not_ready)
{
    struct health_facts facts = {.pulse.now_ms = NOW_MS};
    struct health_report report;
    char why[HEALTH_WHY_BYTES];

    health_judge(&facts, &report);
    ck_assert(!report.ready);
    ck_assert_int_eq(report.checks[HEALTH_CHECK_THREADS].state, HEALTH_STATE_FAIL);
    ck_assert_int_eq(report.checks[HEALTH_CHECK_KEYS].state, HEALTH_STATE_FAIL);
    ck_assert_int_eq(report.checks[HEALTH_CHECK_DATABASE].state, HEALTH_STATE_FAIL);
    ck_assert_int_eq(report.checks[HEALTH_CHECK_DISK].state, HEALTH_STATE_FAIL);
    ck_assert_int_eq(report.checks[HEALTH_CHECK_CLOCK].state, HEALTH_STATE_FAIL);
    ck_assert(!health_judge_pulse(&facts.pulse, why));
}
END_TEST

/* ---- threads: what /healthz and the watchdog go by ---- */

static enum health_state threads(const struct health_pulse *pulse, const char *who)
{
    struct health_facts facts = good_facts();
    char why[HEALTH_WHY_BYTES] = "";

    facts.pulse = *pulse;
    bool alive = health_judge_pulse(pulse, why);
    enum health_state state = judged(&facts, HEALTH_CHECK_THREADS,
                                     1U << HEALTH_CHECK_COMMIT | 1U << HEALTH_CHECK_DATABASE, who);
    ck_assert_int_eq(alive, state == HEALTH_STATE_OK);
    return state;
}

START_TEST(a_stuck_notify_loop_is_seen_after_five_seconds)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.notify_alive_ms = NOW_MS - 5000;
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
    pulse.notify_alive_ms = NOW_MS - 5001;
    ck_assert_int_eq(threads(&pulse, "Apple's path made no progress for 5 s"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_stuck_reader_loop_is_seen)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.reader_alive_ms = NOW_MS - 60000; /* it may be saving keys.json on a slow disk */
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
    pulse.reader_alive_ms = NOW_MS - 60001;
    ck_assert_int_eq(threads(&pulse, "monitor and control"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_stuck_refresher_is_seen)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.refresher_alive_ms = NOW_MS - 15000;
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
    pulse.refresher_alive_ms = NOW_MS - 15001;
    ck_assert_int_eq(threads(&pulse, "key refresh"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_sign_of_life_from_the_future_is_one)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.refresher_alive_ms = NOW_MS + 6000; /* an attempt in flight counts ahead */
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
}
END_TEST

START_TEST(a_stuck_idle_writer_is_seen)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.writer.alive_ms = NOW_MS - 15000;
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
    pulse.writer.alive_ms = NOW_MS - 15001;
    ck_assert_int_eq(threads(&pulse, "writer"), HEALTH_STATE_FAIL);
}
END_TEST

/* A commit of 30 s on a slow disk is not a hang; one of more than a minute is. */
START_TEST(a_slow_commit_is_no_hang)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.writer.committing = true;
    pulse.writer.alive_ms = NOW_MS - 30000;
    pulse.writer.committing_since_ms = NOW_MS - 30000;
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
    pulse.writer.committing_since_ms = NOW_MS - 60000;
    ck_assert_int_eq(threads(&pulse, NULL), HEALTH_STATE_OK);
    pulse.writer.committing_since_ms = NOW_MS - 60001;
    ck_assert_int_eq(threads(&pulse, "commit"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_fatal_storage_error_is_no_life)
{
    struct health_pulse pulse = good_facts().pulse;

    pulse.writer.fatal = true;
    strcpy(pulse.writer.why, "disk I/O error (SQLITE_IOERR_FSYNC)");
    ck_assert_int_eq(threads(&pulse, "SQLITE_IOERR_FSYNC"), HEALTH_STATE_FAIL);
}
END_TEST

/* ---- keys ---- */

START_TEST(no_keys_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.keys_usable = false;
    facts.keys_current = 0;
    facts.keys_refreshed_s = 0;
    facts.refresher.last_attempt_ms = 0;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, "no attempt is over yet"),
                     HEALTH_STATE_FAIL);
    facts.refresher.last_attempt_ms = WALL_MS;
    facts.refresher.last_result = FETCH_RESULT_TLS;
    strcpy(facts.refresher.last_why, "the certificate has expired");
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, "the certificate has expired"),
                     HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(keys_grow_old)
{
    struct health_facts facts = good_facts();

    facts.keys_refreshed_s = WALL_S - DAY_S;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, NULL), HEALTH_STATE_OK);
    facts.keys_refreshed_s = WALL_S - DAY_S - 1;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, "24 hours"), HEALTH_STATE_WARN);
    facts.key_refresh_s = 10 * 3600; /* who asks seldom is warned later */
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, NULL), HEALTH_STATE_OK);
    facts.keys_refreshed_s = WALL_S - 15 * DAY_S;
    facts.keys_usable = false;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, "360 hours old"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(distrusted_keys_do_not_count)
{
    struct health_facts facts = good_facts();

    facts.keys_current = 0;
    facts.keys_usable = false;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_KEYS, 0, "distrusted"), HEALTH_STATE_FAIL);
}
END_TEST

/* ---- database ---- */

START_TEST(a_failing_writer_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.pulse.writer.failing = true;
    facts.pulse.writer.failed_ms = NOW_MS - 30000;
    strcpy(facts.pulse.writer.why, "database or disk is full (SQLITE_FULL)");
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "SQLITE_FULL"), HEALTH_STATE_FAIL);
    facts.pulse.writer.failed_ms--; /* let the next notification show whether it is over */
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "30 s ago"), HEALTH_STATE_WARN);
    facts.pulse.writer.failing = false;
    facts.pulse.writer.fatal = true;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 1U << HEALTH_CHECK_THREADS, "for good"),
                     HEALTH_STATE_FAIL);
}
END_TEST

/* A file that was deleted or replaced under the running daemon swallows every row that is stored
 * from then on, although each commit succeeds. */
START_TEST(a_database_file_that_went_away_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.file = HEALTH_FILE_MISSING;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "deleted or moved"),
                     HEALTH_STATE_FAIL);
    facts.file = HEALTH_FILE_REPLACED;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "another file"), HEALTH_STATE_FAIL);
    facts.file = HEALTH_FILE_UNKNOWN;
    facts.file_errno = EACCES;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "Permission denied"),
                     HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_read_only_file_system_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.disk_read_only = true;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "read-only"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_long_write_ahead_log_is_a_warning)
{
    struct health_facts facts = good_facts();

    facts.wal_bytes = OUTBOX_WAL_LIMIT_BYTES;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, NULL), HEALTH_STATE_OK);
    facts.wal_bytes = OUTBOX_WAL_LIMIT_BYTES + 1;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DATABASE, 0, "64 MiB"), HEALTH_STATE_WARN);
}
END_TEST

/* ---- the rest ---- */

START_TEST(a_slow_commit_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.pulse.writer.committing = true;
    facts.pulse.writer.committing_since_ms = NOW_MS - 3000;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_COMMIT, 0, NULL), HEALTH_STATE_OK);
    facts.pulse.writer.committing_since_ms = NOW_MS - 3001;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_COMMIT, 0, "slow"), HEALTH_STATE_FAIL);
    facts.pulse.writer.committing = false; /* an old time without a commit says nothing */
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_COMMIT, 0, NULL), HEALTH_STATE_OK);
}
END_TEST

START_TEST(a_full_queue_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.pulse.writer.queued_events = 50;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUEUE, 0, NULL), HEALTH_STATE_OK);
    facts.pulse.writer.queued_events = 51;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUEUE, 0, "51 of 100"), HEALTH_STATE_WARN);
    facts.pulse.writer.queued_events = 99;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUEUE, 0, NULL), HEALTH_STATE_WARN);
    facts.pulse.writer.queued_events = 100;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_QUEUE, 0, "full"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_full_disk_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.disk_free_bytes = 5 * GIBIBYTE;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, NULL), HEALTH_STATE_OK);
    facts.disk_free_bytes = 5 * GIBIBYTE - GIBIBYTE / 10; /* below 5 % */
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, NULL), HEALTH_STATE_WARN);
    facts.disk_size_bytes = 2 * GIBIBYTE;
    facts.disk_free_bytes = GIBIBYTE;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, NULL), HEALTH_STATE_OK);
    facts.disk_free_bytes = GIBIBYTE - 1;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, "1023 MiB"), HEALTH_STATE_WARN);
    facts.disk_free_bytes = HEALTH_DISK_FAIL_BYTES;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, NULL), HEALTH_STATE_WARN);
    facts.disk_free_bytes = HEALTH_DISK_FAIL_BYTES - 1;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, "only 63 MiB"), HEALTH_STATE_FAIL);
    facts.disk_free_bytes = 50 * GIBIBYTE;
    facts.disk_known = false;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DISK, 0, "cannot be read"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_clock_that_is_not_set_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.keys_refreshed_s = JUDGE_CLOCK_FLOOR_S - 10;
    facts.wall_ms = JUDGE_CLOCK_FLOOR_S * 1000;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, NULL), HEALTH_STATE_OK);
    facts.wall_ms--;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, "not set"), HEALTH_STATE_FAIL);
}
END_TEST

START_TEST(a_clock_behind_the_last_refresh_is_a_warning)
{
    struct health_facts facts = good_facts();

    facts.keys_refreshed_s = WALL_S + 300;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, NULL), HEALTH_STATE_OK);
    facts.keys_refreshed_s = WALL_S + 301;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, "301 s behind"), HEALTH_STATE_WARN);
}
END_TEST

START_TEST(a_jump_is_told_for_an_hour)
{
    struct health_facts facts = good_facts();

    facts.jump_ms = 7200000;
    facts.jump_at_ms = NOW_MS - 3600000;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, "forward by 7200 s 60 min ago"),
                     HEALTH_STATE_WARN);
    facts.jump_at_ms--;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, NULL), HEALTH_STATE_OK);
    facts.jump_ms = -400000;
    facts.jump_at_ms = NOW_MS;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_CLOCK, 0, "back by 400 s"), HEALTH_STATE_WARN);
}
END_TEST

START_TEST(a_jump_is_what_the_monotonic_clock_did_not_see)
{
    /* wall and monotonic went on together, however long it took */
    ck_assert_int_eq(health_clock_jump_ms(WALL_MS, 500, WALL_MS + 900000, 900500, 300), 0);
    /* within the leeway, at its edge, beyond it; both ways */
    ck_assert_int_eq(health_clock_jump_ms(WALL_MS, 500, WALL_MS + 300000, 500, 300), 0);
    ck_assert_int_eq(health_clock_jump_ms(WALL_MS, 500, WALL_MS + 300001, 500, 300), 300001);
    ck_assert_int_eq(health_clock_jump_ms(WALL_MS, 500, WALL_MS - 300000, 500, 300), 0);
    ck_assert_int_eq(health_clock_jump_ms(WALL_MS, 500, WALL_MS - 300001, 500, 300), -300001);
    ck_assert_int_eq(health_clock_jump_ms(WALL_MS, 500, WALL_MS + 1, 500, 0), 1);
}
END_TEST

START_TEST(draining_is_not_ready)
{
    struct health_facts facts = good_facts();

    facts.draining = true;
    ck_assert_int_eq(judged(&facts, HEALTH_CHECK_DRAINING, 0, "shutting down"), HEALTH_STATE_FAIL);
}
END_TEST

/* ---- how it is told ---- */

static json_t *member(json_t *report, const char *check, const char *name)
{
    return json_object_get(json_object_get(json_object_get(report, "checks"), check), name);
}

START_TEST(the_report_as_json)
{
    struct health_facts facts = good_facts();
    struct health_report report;

    facts.pulse.writer.queued_events = 60;
    health_judge(&facts, &report);
    json_t *json = health_json(&report);
    ck_assert_ptr_nonnull(json);
    ck_assert(json_is_true(json_object_get(json, "ready")));
    ck_assert_uint_eq(json_object_size(json_object_get(json, "checks")), HEALTH_CHECK_COUNT);
    for (unsigned i = 0; i < HEALTH_CHECK_COUNT; i++) {
        const char *label = health_check_label((enum health_check_id)i);
        ck_assert_str_eq(json_string_value(member(json, label, "state")),
                         i == HEALTH_CHECK_QUEUE ? "warn" : "ok");
        ck_assert_int_eq(member(json, label, "why") != NULL, i == HEALTH_CHECK_QUEUE);
    }
    ck_assert_int_eq(json_integer_value(member(json, "keys", "count")), 3);
    ck_assert_int_eq(json_integer_value(member(json, "keys", "age_s")), 60);
    ck_assert_int_eq(json_integer_value(member(json, "queue", "depth")), 60);
    ck_assert_int_eq(json_integer_value(member(json, "queue", "bound")), 100);
    ck_assert_int_eq(json_integer_value(member(json, "database", "wal_bytes")), 1000);
    ck_assert_int_eq(json_integer_value(member(json, "commit", "rows")), 9);
    ck_assert_int_eq(json_integer_value(member(json, "disk", "free_bytes")),
                     (json_int_t)(50 * GIBIBYTE));
    json_decref(json);

    facts.keys_refreshed_s = 0;
    health_judge(&facts, &report);
    json = health_json(&report);
    ck_assert(json_is_false(json_object_get(json, "ready")));
    ck_assert_ptr_null(member(json, "keys", "age_s"));
    json_decref(json);
}
END_TEST

/* Attack: a key server whose error text is no UTF-8, or cut within a character, takes the whole
 * report away from the operator who needs it now. */
START_TEST(a_reason_that_is_no_text_does_not_silence_the_report)
{
    struct health_facts facts = good_facts();
    struct health_report report;

    facts.keys_usable = false;
    facts.keys_current = 0;
    facts.keys_refreshed_s = 0;
    facts.refresher.last_result = FETCH_RESULT_HELPER;
    strcpy(facts.refresher.last_why, "it said \xff\xc3");
    health_judge(&facts, &report);
    json_t *json = health_json(&report);
    ck_assert_ptr_nonnull(json);
    ck_assert_ptr_nonnull(strstr(json_string_value(member(json, "keys", "why")), "it said ??"));
    json_decref(json);
}
END_TEST

START_TEST(labels)
{
    ck_assert_str_eq(health_state_label(HEALTH_STATE_OK), "ok");
    ck_assert_str_eq(health_state_label(HEALTH_STATE_WARN), "warn");
    ck_assert_str_eq(health_state_label(HEALTH_STATE_FAIL), "fail");
    ck_assert_str_eq(health_state_label((enum health_state)77), "fail");
    ck_assert_str_eq(health_check_label(HEALTH_CHECK_DISK), "disk");
    ck_assert_str_eq(health_check_label(HEALTH_CHECK_COUNT), "unknown");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("health");
    TCase *tests = tcase_create("health");

    tcase_add_test(tests, what_is_stored_apart);
    tcase_add_test(tests, all_is_well);
    tcase_add_test(tests, nothing_known_is_not_ready);
    tcase_add_test(tests, a_stuck_notify_loop_is_seen_after_five_seconds);
    tcase_add_test(tests, a_stuck_reader_loop_is_seen);
    tcase_add_test(tests, a_stuck_refresher_is_seen);
    tcase_add_test(tests, a_sign_of_life_from_the_future_is_one);
    tcase_add_test(tests, a_stuck_idle_writer_is_seen);
    tcase_add_test(tests, a_slow_commit_is_no_hang);
    tcase_add_test(tests, a_fatal_storage_error_is_no_life);
    tcase_add_test(tests, no_keys_is_not_ready);
    tcase_add_test(tests, keys_grow_old);
    tcase_add_test(tests, distrusted_keys_do_not_count);
    tcase_add_test(tests, a_failing_writer_is_not_ready);
    tcase_add_test(tests, a_database_file_that_went_away_is_not_ready);
    tcase_add_test(tests, a_read_only_file_system_is_not_ready);
    tcase_add_test(tests, a_long_write_ahead_log_is_a_warning);
    tcase_add_test(tests, a_slow_commit_is_not_ready);
    tcase_add_test(tests, a_full_queue_is_not_ready);
    tcase_add_test(tests, a_full_disk_is_not_ready);
    tcase_add_test(tests, a_clock_that_is_not_set_is_not_ready);
    tcase_add_test(tests, a_clock_behind_the_last_refresh_is_a_warning);
    tcase_add_test(tests, a_jump_is_told_for_an_hour);
    tcase_add_test(tests, a_jump_is_what_the_monotonic_clock_did_not_see);
    tcase_add_test(tests, draining_is_not_ready);
    tcase_add_test(tests, the_report_as_json);
    tcase_add_test(tests, a_reason_that_is_no_text_does_not_silence_the_report);
    tcase_add_test(tests, labels);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
