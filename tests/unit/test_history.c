/* Counts by day: what grew is added once, whatever fails in between, and nothing is kept too long.
 */
#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "dispatcher/history.h"
#include "failing_disk.h"
#include "support/clock.h"

#define DAY_MS(day) ((int64_t)(day)*HISTORY_DAY_MS)

static char directory[64], path[128];
static struct outbox *outbox;
static struct writer *writer;
static struct metrics *metrics;
static struct metrics_family *notifications, *events, *refused;
static struct history *history;

static void nothing(void *context)
{
    (void)context;
}

static struct metrics_family *family(const char *name, const char *const *labels)
{
    return metrics_register(metrics, METRICS_COUNTER, name, "A test.", labels, NULL, 0);
}

/* A daemon's start: its counters begin at zero. */
static void start(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    ck_assert_int_eq(metrics_new(&metrics), 0);
    notifications =
        family("siwa_notifications_total", (const char *const[]){"outcome", "client_id", NULL});
    events = family("siwa_events_total", (const char *const[]){"type", "client_id", NULL});
    refused = family("siwa_http_refused_total", (const char *const[]){"reason", NULL});
    ck_assert_msg(outbox_open(path, clock_wall_ms(), &outbox, why) == 0, "%s", why);
    struct writer_settings settings = {
        .outbox = outbox, .queue_events = 16, .on_committed = nothing, .on_fatal = nothing};
    ck_assert_int_eq(writer_start(&settings, &writer), 0);
    ck_assert_int_eq(history_new(writer, metrics, &history), 0);
}

static void stop(void)
{
    char why[OUTBOX_WHY_BYTES];

    writer_stop(writer);
    writer_free(writer);
    history_free(history);
    ck_assert_int_eq(outbox_close(outbox, why), 0);
    metrics_free(metrics);
}

static void set_up(void)
{
    failing_disk_install();
    strcpy(directory, "/tmp/siwa-history-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/outbox.db", directory);
    start();
}

static void tear_down(void)
{
    char command[128];

    stop();
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

struct fence {
    struct writer_task task;
    sem_t over;
};

static enum outbox_error fence_run(struct outbox *box, struct writer_task *task)
{
    (void)box;
    (void)task;
    return OUTBOX_ERROR_NONE;
}

static void fence_done(struct writer_task *task, enum outbox_error error)
{
    (void)error;
    sem_post(&((struct fence *)task)->over);
}

/* Flushes, and waits until that is over: tasks run in their order. */
static void flush(int64_t now_ms)
{
    struct fence fence = {.task = {.run = fence_run, .done = fence_done}};

    sem_init(&fence.over, 0, 0);
    history_flush(history, now_ms);
    ck_assert_int_eq(writer_post(writer, &fence.task), 0);
    sem_wait(&fence.over);
}

static void count(struct metrics_family *in, const char *name, const char *client_id, uint64_t more)
{
    metrics_add(metrics_with(in, (const char *const[]){name, client_id, NULL}), more);
}

static void line_into(void *context, const struct outbox_day *day)
{
    char *text = context;
    size_t used = strlen(text);

    (void)snprintf(text + used, 4096 - used, "%lld %s %s %s %lld\n", (long long)day->day, day->what,
                   day->name, day->client_id, (long long)day->count);
}

/* What a reader of the file sees, a line each. */
static const char *lines(int64_t from_day)
{
    static char text[4096];
    char why[OUTBOX_WHY_BYTES];
    struct outbox_reader *reader;

    text[0] = '\0';
    ck_assert_int_eq(outbox_reader_open(path, &reader, why), 0);
    ck_assert_int_eq(outbox_reader_days(reader, from_day, line_into, text), 0);
    outbox_reader_close(reader);
    return text;
}

START_TEST(test_growth_is_added_once)
{
    count(notifications, "accepted", "com.a", 3);
    count(events, "account-delete", "com.a", 2);
    count(refused, "timeout", NULL, 1);
    flush(DAY_MS(100));
    flush(DAY_MS(100));
    ck_assert_str_eq(lines(0), "100 event account-delete com.a 2\n"
                               "100 outcome accepted com.a 3\n"
                               "100 refused timeout  1\n");
    count(notifications, "accepted", "com.a", 4);
    flush(DAY_MS(100) + 5);
    flush(DAY_MS(101) - 1);
    count(notifications, "accepted", "com.a", 1);
    flush(DAY_MS(101));
    ck_assert_str_eq(lines(100), "100 event account-delete com.a 2\n"
                                 "100 outcome accepted com.a 7\n"
                                 "100 refused timeout  1\n"
                                 "101 outcome accepted com.a 1\n");
    ck_assert_str_eq(lines(101), "101 outcome accepted com.a 1\n");
}
END_TEST

/* An audience that turns up later stands before others in the registry's order. */
START_TEST(test_new_series_do_not_disturb_the_old)
{
    count(notifications, "duplicate", "com.m", 5);
    flush(DAY_MS(100));
    count(notifications, "accepted", "com.z", 1);
    count(notifications, "duplicate", "com.a", 2);
    count(notifications, "duplicate", "com.m", 1);
    count(notifications, "wrong_audience", "com.b", 7);
    flush(DAY_MS(100));
    ck_assert_str_eq(lines(0), "100 outcome accepted com.z 1\n"
                               "100 outcome duplicate com.a 2\n"
                               "100 outcome duplicate com.m 6\n"
                               "100 outcome wrong_audience com.b 7\n");
}
END_TEST

START_TEST(test_a_restart_goes_on_counting)
{
    count(notifications, "accepted", "com.a", 3);
    flush(DAY_MS(100));
    stop();
    start();
    count(notifications, "accepted", "com.a", 2);
    flush(DAY_MS(100));
    ck_assert_str_eq(lines(0), "100 outcome accepted com.a 5\n");
}
END_TEST

START_TEST(test_what_could_not_be_written_is_not_forgotten)
{
    count(notifications, "accepted", "com.a", 3);
    atomic_store(&write_error, ENOSPC);
    flush(DAY_MS(100));
    ck_assert_str_eq(lines(0), "");
    atomic_store(&write_error, 0);
    count(notifications, "accepted", "com.a", 1);
    flush(DAY_MS(100));
    ck_assert_str_eq(lines(0), "100 outcome accepted com.a 4\n");
}
END_TEST

START_TEST(test_many_at_once_take_several_flushes)
{
    char name[32];
    int64_t seen = 0;

    for (int i = 0; i < 600; i++) {
        (void)snprintf(name, sizeof name, "com.%d", i);
        count(notifications, "accepted", name, 1);
    }
    for (int i = 0; i < 3; i++)
        flush(DAY_MS(100));
    ck_assert_int_eq(outbox_query_number(outbox->db, "SELECT sum(count) FROM days", &seen),
                     SQLITE_OK);
    ck_assert_int_eq(seen, 600);
    ck_assert_int_eq(outbox_query_number(outbox->db, "SELECT count(*) FROM days", &seen),
                     SQLITE_OK);
    ck_assert_int_eq(seen, 600);
}
END_TEST

START_TEST(test_old_days_go)
{
    count(notifications, "accepted", "com.a", 1);
    flush(DAY_MS(100));
    count(notifications, "accepted", "com.a", 1);
    flush(DAY_MS(101));
    count(notifications, "accepted", "com.a", 1);
    flush(DAY_MS(100 + HISTORY_DAYS));
    ck_assert_str_eq(lines(0), "101 outcome accepted com.a 1\n"
                               "130 outcome accepted com.a 1\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("history");
    TCase *days = tcase_create("days");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(days, set_up, tear_down);
    tcase_add_test(days, test_growth_is_added_once);
    tcase_add_test(days, test_new_series_do_not_disturb_the_old);
    tcase_add_test(days, test_a_restart_goes_on_counting);
    tcase_add_test(days, test_what_could_not_be_written_is_not_forgotten);
    tcase_add_test(days, test_many_at_once_take_several_flushes);
    tcase_add_test(days, test_old_days_go);
    suite_add_tcase(suite, days);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
