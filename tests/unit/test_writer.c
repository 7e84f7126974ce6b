/* writer: groups, bounds, and never a verdict that is not on the disk. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "dispatcher/writer.h"
#include "failing_disk.h"
#include "support/clock.h"

#define QUEUE_EVENTS 8

static char why[OUTBOX_WHY_BYTES];
static struct policy *policy;
static struct outbox *outbox;
static struct writer *writer;
static struct metrics *metrics;
static sem_t committed;
static atomic_int fatal_calls, committed_calls;

static void on_committed(void *context)
{
    (void)context;
    atomic_fetch_add(&committed_calls, 1);
    sem_post(&committed);
}

static void on_fatal(void *context)
{
    (void)context;
    atomic_fetch_add(&fatal_calls, 1);
    sem_post(&committed);
}

static void open_and_start(void)
{
    struct writer_settings settings = {.queue_events = QUEUE_EVENTS,
                                       .metrics = metrics,
                                       .on_committed = on_committed,
                                       .on_fatal = on_fatal};

    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
    settings.outbox = outbox;
    ck_assert_int_eq(writer_start(&settings, &writer), 0);
}

static void set_up(void)
{
    folder_make();
    failing_disk_install();
    ck_assert_int_eq(metrics_new(&metrics), 0);
    sem_init(&committed, 0, 0);
    policy = policy_make(CONFIG_LATE_QUARANTINE);
    open_and_start();
}

static void tear_down(void)
{
    writer_free(writer);
    (void)outbox_close(outbox, why);
    policy_unref(policy);
    metrics_free(metrics);
    sem_destroy(&committed);
    folder_remove();
}

/* Holds the writer at its next BEGIN until it is released: then what is submitted meanwhile is one
 * batch. Well below the time-out of a locked database. */
static sqlite3 *hold_writer(void)
{
    sqlite3 *db = NULL;

    ck_assert_int_eq(sqlite3_open(test_database, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    return db;
}

static void release_writer(sqlite3 *db)
{
    ck_assert_int_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* The next deliveries whose outcome is known; waits for them. */
static struct delivery *collect(void)
{
    struct delivery *done;

    while (!(done = writer_collect(writer)))
        sem_wait(&committed);
    return done;
}

static void submit(unsigned number)
{
    ck_assert_int_eq(writer_submit(writer, delivery_number(policy, number)), 0);
}

static unsigned free_all(struct delivery *list, enum verdict verdict)
{
    unsigned count = 0;

    while (list) {
        struct delivery *next = list->next;

        ck_assert_str_eq(verdict_label(list->verdict), verdict_label(verdict));
        ck_assert_int_eq(list->first_id != 0, verdict == VERDICT_ACCEPTED);
        delivery_free(list);
        list = next;
        count++;
    }
    return count;
}

static int64_t rows_stored(void)
{
    int64_t rows = -1;
    sqlite3 *db = NULL;

    ck_assert_int_eq(sqlite3_open_v2(test_database, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    ck_assert_int_eq(outbox_query_number(db, "SELECT count(*) FROM outbox", &rows), SQLITE_OK);
    sqlite3_close(db);
    return rows;
}

/* No metric tells of what doctor sends, also where it shares a commit with what does count. */
static char *commits_as_counted(void)
{
    char *text = NULL;
    size_t bytes;

    ck_assert_int_eq(metrics_render(metrics, &text, &bytes), 0);
    return text;
}

START_TEST(a_test_notification_is_no_measure)
{
    char *before = commits_as_counted(), *after;
    struct delivery *done;
    sqlite3 *db;

    ck_assert_int_eq(writer_submit(writer, delivery_test(policy, "probe")), 0);
    done = collect();
    ck_assert_int_eq(done->verdict, VERDICT_ACCEPTED);
    ck_assert_uint_eq(done->rows, 0);
    ck_assert_int_eq(done->first_id, 0);
    delivery_free(done);
    after = commits_as_counted();
    ck_assert_str_eq(before, after);
    free(before);
    free(after);

    db = hold_writer();
    submit(1); /* begins a batch, behind which the others queue */
    ck_assert_int_eq(writer_submit(writer, delivery_test(policy, "another")), 0);
    submit(2);
    release_writer(db);
    for (int left = 3; left > 0;) {
        for (struct delivery *list = collect(), *next; list; list = next, left--) {
            next = list->next;
            ck_assert_int_eq(list->verdict, VERDICT_ACCEPTED);
            delivery_free(list);
        }
    }
    after = commits_as_counted();
    ck_assert_ptr_nonnull(strstr(after, "siwa_commit_rows_sum 2\n"));
    ck_assert_int_eq(rows_stored(), 2);
    free(after);
}
END_TEST

/* Waits until the writer has taken its batch: then the queue is empty and it commits. */
static void wait_until_committing(void)
{
    struct writer_state state;

    do {
        poll(NULL, 0, 1);
        writer_state(writer, &state);
    } while (!state.committing || state.queued_events > 0);
}

START_TEST(an_outcome_is_told_after_its_commit)
{
    struct delivery *done;

    submit(1);
    done = collect();
    ck_assert_int_eq(done->verdict, VERDICT_ACCEPTED);
    ck_assert_int_eq(done->first_id, 1);
    ck_assert_int_eq(rows_stored(), 1);
    ck_assert_uint_eq(free_all(done, VERDICT_ACCEPTED), 1);
    submit(1);
    ck_assert_uint_eq(free_all(collect(), VERDICT_DUPLICATE), 1);
}
END_TEST

START_TEST(what_queued_during_a_commit_is_one_batch_in_its_order)
{
    sqlite3 *hold = hold_writer();
    struct delivery *done;
    struct writer_state state;
    int64_t id = 0;

    submit(1);
    wait_until_committing();
    for (unsigned i = 2; i <= 6; i++)
        submit(i);
    ck_assert_ptr_null(writer_collect(writer)); /* nothing is said before */
    release_writer(hold);
    writer_stop(writer);
    done = writer_collect(writer);
    for (struct delivery *delivery = done; delivery; delivery = delivery->next)
        ck_assert_int_eq(delivery->first_id, ++id);
    ck_assert_uint_eq(free_all(done, VERDICT_ACCEPTED), 6);
    writer_state(writer, &state);
    ck_assert_uint_eq(state.commits, 2);
    ck_assert_uint_eq(state.rows, 6);
    ck_assert_int_eq(atomic_load(&committed_calls), 2);
}
END_TEST

/* Who fills the queue is sent away, and no lock is held over the disk: this would hang. */
/* What more follows waits for the rest of its group, or to be flushed. */
START_TEST(what_comes_together_is_committed_together)
{
    struct writer_state state;
    unsigned number = 0;

    writer_set_queue_events(writer, WRITER_GROUP_EVENTS + 1);
    while (number < WRITER_GROUP_EVENTS)
        ck_assert_int_eq(writer_submit_more(writer, delivery_number(policy, ++number)), 0);
    ck_assert_uint_eq(free_all(collect(), VERDICT_ACCEPTED), WRITER_GROUP_EVENTS);
    writer_set_queue_events(writer, 2); /* full before that */
    ck_assert_int_eq(writer_submit_more(writer, delivery_number(policy, ++number)), 0);
    ck_assert_int_eq(writer_submit_more(writer, delivery_number(policy, ++number)), 0);
    ck_assert_uint_eq(free_all(collect(), VERDICT_ACCEPTED), 2);
    writer_set_queue_events(writer, QUEUE_EVENTS);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(writer_submit_more(writer, delivery_number(policy, ++number)), 0);
    writer_flush(writer);
    writer_flush(writer); /* nothing is left to flush */
    ck_assert_uint_eq(free_all(collect(), VERDICT_ACCEPTED), 3);
    ck_assert_int_eq(writer_submit_more(writer, delivery_number(policy, ++number)), 0);
    ck_assert_int_eq(writer_submit(writer, delivery_number(policy, ++number)), 0);
    ck_assert_uint_eq(free_all(collect(), VERDICT_ACCEPTED), 2);
    writer_state(writer, &state);
    ck_assert_uint_eq(state.commits, 4);
    ck_assert_int_eq(writer_submit_more(writer, delivery_number(policy, ++number)), 0);
    writer_stop(writer);
    ck_assert_uint_eq(free_all(collect(), VERDICT_ACCEPTED), 1);
}
END_TEST

START_TEST(the_queue_is_bounded_in_events)
{
    sqlite3 *hold = hold_writer();
    struct delivery *over = delivery_number(policy, 99);
    struct delivery *two =
        delivery_of(policy, APP_PLAIN, "j",
                    "[{\"type\":\"a\",\"sub\":\"s\",\"event_time\":1700000000001},"
                    "{\"type\":\"b\",\"sub\":\"s\",\"event_time\":1700000000001}]");
    struct writer_state state;

    submit(1);
    wait_until_committing();
    for (unsigned i = 2; i < QUEUE_EVENTS + 1; i++)
        submit(i);
    ck_assert_int_eq(writer_submit(writer, two), -EAGAIN); /* room for one, not for two */
    submit(QUEUE_EVENTS + 1);
    ck_assert_int_eq(writer_submit(writer, over), -EAGAIN);
    writer_state(writer, &state);
    ck_assert_uint_eq(state.queued_events, QUEUE_EVENTS);
    writer_set_queue_events(writer, 2); /* a reload may set it below what is queued */
    ck_assert_int_eq(writer_submit(writer, over), -EAGAIN);
    release_writer(hold);
    writer_stop(writer);
    ck_assert_int_eq(writer_submit(writer, over), -ESHUTDOWN);
    ck_assert_uint_eq(free_all(writer_collect(writer), VERDICT_ACCEPTED), QUEUE_EVENTS + 1);
    delivery_free(over);
    delivery_free(two);
}
END_TEST

START_TEST(a_stop_commits_what_was_taken)
{
    sqlite3 *hold = hold_writer();

    for (unsigned i = 1; i <= QUEUE_EVENTS; i++)
        submit(i);
    release_writer(hold);
    writer_stop(writer);
    ck_assert_int_eq(rows_stored(), QUEUE_EVENTS);
    ck_assert_uint_eq(free_all(writer_collect(writer), VERDICT_ACCEPTED), QUEUE_EVENTS);
}
END_TEST

/* What nobody collects is released (a sanitizer sees it if not). */
START_TEST(what_is_left_is_released)
{
    for (unsigned i = 1; i <= 3; i++)
        submit(i);
    writer_free(writer);
    writer_free(NULL);
    writer = NULL;
    ck_assert_int_eq(rows_stored(), 3);
}
END_TEST

START_TEST(an_idle_writer_shows_that_it_lives)
{
    struct writer_state before, after;

    writer_state(writer, &before);
    do {
        poll(NULL, 0, 10);
        writer_state(writer, &after);
    } while (after.alive_ms <= before.alive_ms); /* the test's time-out is the failure */
    ck_assert(!after.committing && !after.failing && !after.fatal);
    ck_assert_str_eq(after.why, "");
}
END_TEST

START_TEST(a_full_disk_fails_its_batch_and_passes)
{
    struct writer_state state;

    atomic_store(&write_error, ENOSPC);
    submit(1);
    ck_assert_uint_eq(free_all(collect(), VERDICT_STORE_FAILED), 1);
    writer_state(writer, &state);
    ck_assert(state.failing && !state.fatal);
    ck_assert_ptr_nonnull(strstr(state.why, "full"));
    atomic_store(&write_error, 0);
    ck_assert_int_eq(rows_stored(), 0);
    submit(1);
    ck_assert_uint_eq(free_all(collect(), VERDICT_ACCEPTED), 1);
    writer_state(writer, &state);
    ck_assert(!state.failing);
    ck_assert_str_eq(state.why, "");
    ck_assert_int_eq(atomic_load(&fatal_calls), 0);
}
END_TEST

/* Nothing of the batch is answered 200, nothing after it either, and the next start checks. */
START_TEST(a_failed_sync_ends_everything_once)
{
    sqlite3 *hold = hold_writer();
    struct delivery *late_one = delivery_number(policy, 50);
    struct writer_state state;
    char mark[PATH_MAX + 64];

    submit(1);
    wait_until_committing();
    for (unsigned i = 2; i <= 4; i++)
        submit(i); /* queued behind the batch that fails */
    atomic_store(&sync_error, EIO);
    release_writer(hold);
    while (atomic_load(&fatal_calls) == 0)
        sem_wait(&committed);
    ck_assert_int_eq(writer_submit(writer, late_one), -EIO);
    writer_stop(writer);
    ck_assert_uint_eq(free_all(writer_collect(writer), VERDICT_STORE_FAILED), 4);
    writer_state(writer, &state);
    ck_assert(state.fatal);
    ck_assert_uint_eq(state.rows, 0);
    ck_assert_ptr_nonnull(strstr(state.why, "SQLITE_IOERR_FSYNC"));
    ck_assert_int_eq(atomic_load(&fatal_calls), 1);
    snprintf(mark, sizeof mark, "%s.failed", test_database);
    ck_assert_int_eq(access(mark, F_OK), 0);
    delivery_free(late_one);
    atomic_store(&sync_error, 0);
}
END_TEST

/* One that cannot be stored must not take the others with it, again and again. */
START_TEST(a_bad_delivery_fails_alone)
{
    sqlite3 *hold = hold_writer();
    struct delivery *bad = delivery_number(policy, 2), *done;
    unsigned accepted = 0, failed = 0;

    bad->judgement.verdict = VERDICT_BAD_SIGNATURE; /* a bug of whoever submits */
    submit(1);
    ck_assert_int_eq(writer_submit(writer, bad), 0);
    submit(3);
    release_writer(hold);
    writer_stop(writer);
    done = writer_collect(writer);
    for (struct delivery *delivery = done, *next; delivery; delivery = next) {
        next = delivery->next;
        accepted += delivery->verdict == VERDICT_ACCEPTED;
        failed += delivery->verdict == VERDICT_INTERNAL && delivery->rows == 0;
        delivery_free(delivery);
    }
    ck_assert_uint_eq(accepted, 2);
    ck_assert_uint_eq(failed, 1);
    ck_assert_int_eq(rows_stored(), 2);
    ck_assert_int_eq(atomic_load(&fatal_calls), 0);
}
END_TEST

START_TEST(it_counts)
{
    static const char *const kind[] = {"full", NULL};
    static const char *const names[] = {"kind", NULL};
    struct metrics_family *errors;
    char *text = NULL;
    size_t bytes = 0;

    submit(1);
    free_all(collect(), VERDICT_ACCEPTED);
    atomic_store(&write_error, ENOSPC);
    submit(2);
    free_all(collect(), VERDICT_STORE_FAILED);
    atomic_store(&write_error, 0);
    errors = metrics_register(metrics, METRICS_COUNTER, "siwa_database_errors_total", "", names,
                              NULL, 0);
    ck_assert_double_eq(metrics_value(metrics_with(errors, kind)), 1);
    ck_assert_int_eq(metrics_render(metrics, &text, &bytes), 0);
    ck_assert_ptr_nonnull(strstr(text, "siwa_commit_seconds_count 1\n"));
    ck_assert_ptr_nonnull(strstr(text, "siwa_commit_rows_sum 1\n"));
    ck_assert_ptr_nonnull(strstr(text, "siwa_queue_events 0\n"));
    free(text);
}
END_TEST

struct submitter {
    pthread_t thread;
    unsigned first, accepted;
};

static void *submit_many(void *context)
{
    struct submitter *submitter = context;

    for (unsigned i = 0; i < 200; i++) {
        struct delivery *delivery = delivery_number(policy, submitter->first + i);
        int error;

        while ((error = writer_submit(writer, delivery)) == -EAGAIN)
            poll(NULL, 0, 1);
        if (error == 0)
            submitter->accepted++;
        else
            delivery_free(delivery);
    }
    return NULL;
}

START_TEST(several_threads_submit_while_one_collects)
{
    struct submitter submitters[3] = {{.first = 1000}, {.first = 2000}, {.first = 3000}};
    unsigned collected = 0;

    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&submitters[i].thread, NULL, submit_many, &submitters[i]),
                         0);
    while (collected < 600)
        collected += free_all(collect(), VERDICT_ACCEPTED);
    for (int i = 0; i < 3; i++)
        pthread_join(submitters[i].thread, NULL);
    ck_assert_int_eq(rows_stored(), 600);
}
END_TEST

/* ---- the ledger: 200 means stored, once, through kill -9 ---- */

#define KILLS 50

/* Submits one number after the other, and tells of each that was accepted or known. */
static _Noreturn void run_child(unsigned first, int acknowledge)
{
    unsigned submitted = 0;

    open_and_start();
    for (;;) {
        struct delivery *done;

        for (;;) {
            /* every number comes twice, as Apple may send them: in one batch or in two */
            struct delivery *delivery = delivery_number(policy, first + submitted / 2);

            if (writer_submit(writer, delivery) < 0) {
                delivery_free(delivery);
                break;
            }
            submitted++;
        }
        done = collect();
        while (done) {
            struct delivery *following = done->next;
            unsigned number = 0;

            ck_assert_int_eq(sscanf(done->judgement.notification.jti, "jti-%u", &number), 1);
            if (verdict_status(done->verdict) == 200 &&
                write(acknowledge, &number, sizeof number) != sizeof number)
                _exit(2);
            delivery_free(done);
            done = following;
        }
    }
}

/* Reads acknowledgements until the child is gone; kills it after some of them. */
static unsigned read_acknowledged(int from, pid_t child, unsigned kill_after, unsigned *ret_numbers,
                                  unsigned capacity)
{
    unsigned count = 0;

    while (count < capacity &&
           read(from, &ret_numbers[count], sizeof *ret_numbers) == sizeof *ret_numbers)
        if (++count == kill_after)
            kill(child, SIGKILL);
    return count;
}

static void check_ledger(const unsigned *numbers, unsigned count)
{
    sqlite3_stmt *statement = NULL;
    sqlite3 *db = NULL;
    int64_t wrong = -1;

    ck_assert_int_eq(sqlite3_open(test_database, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db,
                                  "CREATE TEMP TABLE found AS SELECT event_time_ms AS t FROM "
                                  "outbox; CREATE INDEX temp.found_t ON found (t)",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    ck_assert_int_eq(
        sqlite3_prepare_v2(db, "SELECT count(*) FROM found WHERE t = ?1", -1, &statement, NULL),
        SQLITE_OK);
    for (unsigned i = 0; i < count; i++) {
        sqlite3_bind_int64(statement, 1, NOW_MS + numbers[i]);
        ck_assert_int_eq(sqlite3_step(statement), SQLITE_ROW);
        ck_assert_msg(sqlite3_column_int(statement, 0) == 1, "number %u stands %d times",
                      numbers[i], sqlite3_column_int(statement, 0));
        sqlite3_reset(statement);
    }
    sqlite3_finalize(statement);
    ck_assert_int_eq(outbox_query_number(db,
                                         "SELECT count(*) FROM (SELECT 1 FROM outbox GROUP BY "
                                         "event_time_ms HAVING count(*) > 1)",
                                         &wrong),
                     SQLITE_OK);
    ck_assert_int_eq(wrong, 0);
    sqlite3_close(db);
}

START_TEST(what_was_acknowledged_survives_kill_9_exactly_once)
{
    static unsigned numbers[200000];
    unsigned total = 0;

    writer_free(writer);
    writer = NULL;
    ck_assert_int_eq(outbox_close(outbox, why), 0);
    outbox = NULL;
    for (unsigned i = 0; i < KILLS; i++) {
        int ends[2];
        unsigned got;
        pid_t child;

        ck_assert_int_eq(pipe(ends), 0);
        child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            close(ends[0]);
            run_child(1 + i * 100000, ends[1]);
        }
        close(ends[1]);
        got = read_acknowledged(ends[0], child, 1 + i * 7 % 60, numbers + total, 4000);
        ck_assert_uint_gt(got, 0);
        total += got;
        close(ends[0]);
        ck_assert_int_eq(waitpid(child, NULL, 0), child);
    }
    check_ledger(numbers, total);
    printf("%d kills, %u acknowledged, each stands once\n", KILLS, total);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer");
    TCase *tests = tcase_create("writer");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, an_outcome_is_told_after_its_commit);
    tcase_add_test(tests, a_test_notification_is_no_measure);
    tcase_add_test(tests, what_queued_during_a_commit_is_one_batch_in_its_order);
    tcase_add_test(tests, what_comes_together_is_committed_together);
    tcase_add_test(tests, the_queue_is_bounded_in_events);
    tcase_add_test(tests, a_stop_commits_what_was_taken);
    tcase_add_test(tests, what_is_left_is_released);
    tcase_add_test(tests, an_idle_writer_shows_that_it_lives);
    tcase_add_test(tests, a_full_disk_fails_its_batch_and_passes);
    tcase_add_test(tests, a_failed_sync_ends_everything_once);
    tcase_add_test(tests, a_bad_delivery_fails_alone);
    tcase_add_test(tests, it_counts);
    tcase_add_test(tests, several_threads_submit_while_one_collects);
    tcase_add_test(tests, what_was_acknowledged_survives_kill_9_exactly_once);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
