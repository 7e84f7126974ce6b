/* sweeper: the thread that sweeps by itself and erases when asked, on the real writer. What goes
 * and what stays is the matter of test_retention and test_erasure. */
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "dispatcher/sweeper.h"
#include "sql.h"
#include "support/clock.h"

#define DAY_S  86400
#define TEAM   "ABCDE12345"
#define SUB    "001234.0123456789abcdef0123456789abcdef.0001"
#define TIME_S 60

static const struct config_app apps[] = {
    {.client_id = APP_PLAIN, .app = "Example", .team = TEAM},
};

static const struct config usual = {.apps = apps,
                                    .app_count = 1,
                                    .erase_after_s = CONFIG_ERASE_OFF,
                                    .retain = {.events_s = 90 * DAY_S,
                                               .hard_s = 365 * DAY_S,
                                               .raw_s = 7 * DAY_S,
                                               .quarantine_s = 90 * DAY_S,
                                               .identities_s = 400 * DAY_S,
                                               .audit_s = 500 * DAY_S}};

static struct outbox *outbox;
static struct consumers *consumers;
static struct writer *writer;
static struct sweeper *sweeper;
static struct metrics *metrics;
static sem_t swept_some, progress;
static struct sweeper_swept swept; /* the last; of the sweeper's thread until swept_some */

static void on_swept(void *context, const struct sweeper_swept *what)
{
    (void)context;
    swept = *what;
    sem_post(&swept_some);
}

static void on_progress(void *context)
{
    (void)context;
    sem_post(&progress);
}

static void on_erased(void *context, const struct sweeper_erased *erased)
{
    (void)context;
    (void)erased;
}

static void on_doubt(void *context, int64_t jump_ms)
{
    (void)context;
    ck_abort_msg("the clock jumped by %lld ms", (long long)jump_ms);
}

static sem_t unreadable;

static void on_unreadable(void *context, const char *why)
{
    (void)context;
    (void)why;
    sem_post(&unreadable);
}

static void nothing(void *context)
{
    (void)context;
}

static void wait_for(sem_t *what)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += TIME_S;
    while (sem_timedwait(what, &until) < 0)
        ck_assert_int_eq(errno, EINTR);
}

/* A row of that age with its body, of the person. */
static void add_row(int64_t id, int64_t age_s)
{
    unsigned char person[PERSON_BYTES];
    sqlite3_stmt *statement = NULL;
    int64_t received_ms = clock_wall_ms() - age_s * 1000;

    ck_assert_int_eq(identity_of_person(outbox->key, TEAM, APP_PLAIN, SUB, person), 0);
    ck_assert_int_eq(
        sqlite3_prepare_v2(outbox->db,
                           "INSERT INTO events (id, type, client_id, app, team, sub, issued_at_ms, "
                           "received_at_ms, raw_type, raw_id, person) VALUES (?1, 'x', "
                           "'" APP_PLAIN "', 'Example', '" TEAM "', '" SUB "', 1, ?2, 'x', ?1, ?3)",
                           -1, &statement, NULL),
        SQLITE_OK);
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, received_ms);
    sqlite3_bind_blob(statement, 3, person, PERSON_BYTES, SQLITE_STATIC);
    ck_assert_int_eq(outbox_step(statement), SQLITE_OK);
    sqlite3_finalize(statement);
    outbox->committed.last_id = id;
}

/* A reader with a transaction, which keeps the WAL from being emptied. */
static sqlite3 *begin_reading(void)
{
    sqlite3 *reader = NULL;

    ck_assert_int_eq(sqlite3_open_v2(test_database, &reader, SQLITE_OPEN_READONLY, NULL),
                     SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(reader, "BEGIN; SELECT * FROM outbox", NULL, NULL, NULL),
                     SQLITE_OK);
    return reader;
}

static void start(const struct config *config)
{
    const struct writer_settings for_writer = {
        .outbox = outbox, .queue_events = 16, .on_committed = nothing, .on_fatal = nothing};

    ck_assert_int_eq(consumers_new(config, &consumers), 0);
    ck_assert_int_eq(writer_start(&for_writer, &writer), 0);
    const struct sweeper_settings settings = {.database = test_database,
                                              .outbox = outbox,
                                              .config = config,
                                              .writer = writer,
                                              .consumers = consumers,
                                              .metrics = metrics,
                                              .on_swept = on_swept,
                                              .on_doubt = on_doubt,
                                              .on_erased = on_erased,
                                              .on_progress = on_progress,
                                              .on_unreadable = on_unreadable};
    ck_assert_int_eq(sweeper_start(&settings, &sweeper), 0);
}

/* From here on the test may look at the outbox. */
static void stop(void)
{
    sweeper_free(sweeper);
    sweeper = NULL;
    writer_stop(writer);
}

static void set_up(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    folder_make();
    sem_init(&swept_some, 0, 0);
    sem_init(&progress, 0, 0);
    sem_init(&unreadable, 0, 0);
    ck_assert_msg(outbox_open(test_database, clock_wall_ms(), &outbox, why) == 0, "%s", why);
}

static void tear_down(void)
{
    char why[OUTBOX_WHY_BYTES];

    writer_free(writer);
    consumers_free(consumers);
    metrics_free(metrics);
    ck_assert_msg(outbox_close(outbox, why) == 0, "%s", why);
    folder_remove();
}

START_TEST(it_sweeps_at_the_start_and_empties_the_wal)
{
    struct stat wal;
    char path[sizeof test_database + 8];

    add_row(1, 400 * DAY_S);
    add_row(2, 100 * DAY_S);
    add_row(3, 1);
    snprintf(path, sizeof path, "%s-wal", test_database);
    start(&usual);
    wait_for(&swept_some);
    do { /* each attempt is told, also one that is not known to have succeeded */
        wait_for(&progress);
        ck_assert_int_eq(stat(path, &wal), 0);
    } while (wal.st_size > 0);
    stop();
    ck_assert_int_eq(swept.removed[RETENTION_ROWS], 2);
    ck_assert_int_eq(swept.pruned_through, 2);
    ck_assert_int_eq(swept.unacknowledged, 0);
    ck_assert_ptr_null(swept.why);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM events"), 3);
    ck_assert_int_gt((int64_t)outbox->wal_emptied, 0);
}
END_TEST

START_TEST(a_reload_sweeps_by_its_own_measure)
{
    struct config shorter = usual;

    shorter.retain.events_s = shorter.retain.raw_s = 60;
    add_row(1, 3600);
    add_row(2, 1);
    start(&usual);
    sweeper_reconfigure(sweeper, &shorter);
    wait_for(&swept_some);
    stop();
    ck_assert_int_eq(swept.removed[RETENTION_ROWS], 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM events"), 2);
}
END_TEST

START_TEST(rows_past_hard_are_told_apart)
{
    static const struct config_consumer names[] = {{.name = "accounts"}};
    struct config waited = usual;

    waited.consumers = names;
    waited.consumer_count = 1;
    sql_run(outbox->db, "INSERT INTO consumers VALUES ('accounts', 1, 1, 1)");
    for (int id = 1; id <= 3; id++)
        add_row(id, 400 * DAY_S);
    add_row(4, 100 * DAY_S);
    start(&waited);
    wait_for(&swept_some);
    stop();
    ck_assert_int_eq(swept.removed[RETENTION_ROWS], 3);
    ck_assert_int_eq(swept.unacknowledged, 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM events"), 4);
}
END_TEST

/* What was committed, and how the metrics stood before each further commit. */
struct tally {
    struct metrics_series *rows, *unacknowledged;
    int64_t removed, committed;
    unsigned pieces, behind;
};

/* Makes it dear, so that a piece is over long before the sweep is. */
static void on_change(void *context, int what, const char *database, const char *table,
                      sqlite3_int64 id)
{
    struct tally *tally = context;
    int64_t until_us = clock_monotonic_us() + 500;

    (void)database;
    (void)id;
    if (what != SQLITE_DELETE || strcmp(table, "events") != 0)
        return;
    tally->removed++;
    while (clock_monotonic_us() < until_us)
        ;
}

static int on_commit(void *context)
{
    struct tally *tally = context;

    if (metrics_value(tally->rows) != (double)tally->committed ||
        metrics_value(tally->unacknowledged) != (double)tally->committed)
        tally->behind++;
    if (tally->removed > tally->committed)
        tally->pieces++;
    tally->committed = tally->removed;
    return 0;
}

START_TEST(the_metrics_move_with_each_piece)
{
    static const char *const label[] = {"what", NULL}, *const value[] = {"rows", NULL};
    static const struct config_consumer names[] = {{.name = "accounts"}};
    static const int rows = 500;
    struct config waited = usual;
    struct tally tally = {.pieces = 0};

    waited.consumers = names;
    waited.consumer_count = 1;
    ck_assert_int_eq(metrics_new(&metrics), 0);
    tally.rows = metrics_with(
        metrics_register(metrics, METRICS_COUNTER, "siwa_pruned_total", "", label, NULL, 0), value);
    tally.unacknowledged =
        metrics_with(metrics_register(metrics, METRICS_COUNTER, "siwa_pruned_unacknowledged_total",
                                      "", NULL, NULL, 0),
                     NULL);
    sql_run(outbox->db, "INSERT INTO consumers VALUES ('accounts', 0, 1, 1)");
    for (int id = 1; id <= rows; id++)
        add_row(id, 400 * DAY_S);
    sqlite3_update_hook(outbox->db, on_change, &tally);
    sqlite3_commit_hook(outbox->db, on_commit, &tally);
    start(&waited);
    wait_for(&swept_some);
    stop();
    ck_assert_uint_gt(tally.pieces, 2);
    ck_assert_uint_eq(tally.behind, 0);
    ck_assert_int_eq(swept.removed[RETENTION_ROWS], rows);
    ck_assert(metrics_value(tally.rows) == rows);
    ck_assert(metrics_value(tally.unacknowledged) == rows);
}
END_TEST

/* Commits wait for a checkpoint: the pieces of a sweep must not leave a long one behind. */
START_TEST(a_piece_leaves_no_long_wal)
{
    sqlite3 *reader;
    int pages;

    sql_run(
        outbox->db,
        "CREATE TABLE filler (x); INSERT INTO filler WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL "
        "SELECT i + 1 FROM n WHERE i < 1000) SELECT zeroblob(4000) FROM n; DROP TABLE filler");
    pages = outbox->wal_pages;
    ck_assert_int_gt(pages, OUTBOX_WAL_SOON);
    ck_assert_int_lt(pages, OUTBOX_WAL_CHECKPOINT);
    add_row(1, 100 * DAY_S);
    /* with a reader it is not emptied at the end, so that it shows what was moved before */
    reader = begin_reading();
    start(&usual);
    wait_for(&swept_some);
    stop();
    ck_assert_int_ge(outbox->wal_moved, pages);
    ck_assert_int_eq(sqlite3_close(reader), SQLITE_OK);
}
END_TEST

START_TEST(who_is_asked_for_is_erased)
{
    struct sweeper_erasure *erasure = NULL;
    struct erasure_counts counts;

    add_row(1, 1);
    add_row(2, 1);
    start(&usual);
    ck_assert_int_eq(sweeper_erase(sweeper, TEAM, SUB, &erasure), 0);
    while (sweeper_erasure_look(sweeper, erasure, &counts) != SWEEPER_ERASURE_DONE)
        wait_for(&progress);
    ck_assert_int_eq(counts.rows, 2);
    sweeper_erasure_unref(sweeper, erasure);
    stop();
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events WHERE sub IS NULL"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM erasing"), 0);
}
END_TEST

/* Until the reader is gone; and a stop meanwhile tells whoever asked. */
START_TEST(a_reader_keeps_an_erasure_pending)
{
    struct sweeper_erasure *erasure = NULL;
    struct erasure_counts counts;
    sqlite3 *reader;

    add_row(1, 1);
    reader = begin_reading();
    start(&usual);
    ck_assert_int_eq(sweeper_erase(sweeper, TEAM, SUB, &erasure), 0);
    while (sweeper_erasure_look(sweeper, erasure, &counts) != SWEEPER_ERASURE_PENDING)
        wait_for(&progress);
    ck_assert_int_eq(counts.rows, 1);
    sweeper_stop(sweeper);
    ck_assert_int_eq(sweeper_erasure_look(sweeper, erasure, &counts), SWEEPER_ERASURE_FAILED);
    sweeper_erasure_unref(sweeper, erasure);
    ck_assert_int_eq(sqlite3_close(reader), SQLITE_OK);
    stop();
}
END_TEST

static atomic_bool locked;
static unsigned char unlucky[PERSON_BYTES];

/* For a trigger: whether this person may not be finished with yet; then it is the database that
 * cannot be written. */
static void hold_up(sqlite3_context *context, int count, sqlite3_value **values)
{
    (void)count;
    if (atomic_load(&locked) && sqlite3_value_bytes(values[0]) == PERSON_BYTES &&
        memcmp(sqlite3_value_blob(values[0]), unlucky, PERSON_BYTES) == 0)
        sqlite3_result_error_code(context, SQLITE_BUSY);
    else
        sqlite3_result_int(context, 0);
}

/* Of two people in a round, the other of whom cannot be finished with. */
START_TEST(who_is_finished_with_need_not_wait_for_another)
{
    static const char *const subs[] = {SUB, "001234.0123456789abcdef0123456789abcdef.0002"};
    unsigned char people[2][PERSON_BYTES];
    struct sweeper_erasure *erasure = NULL;
    struct erasure_counts counts;
    int first;

    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(identity_of_person(outbox->key, TEAM, APP_PLAIN, subs[i], people[i]), 0);
    first = memcmp(people[0], people[1], PERSON_BYTES) < 0 ? 0 : 1; /* as a round goes */
    memcpy(unlucky, people[1 - first], PERSON_BYTES);
    ck_assert_int_eq(erasure_ask(outbox, unlucky, TEAM, 1), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(
        sqlite3_create_function(outbox->db, "hold_up", 1, SQLITE_UTF8, NULL, hold_up, NULL, NULL),
        SQLITE_OK);
    sql_run(outbox->db, "CREATE TEMP TRIGGER held BEFORE DELETE ON main.erasing BEGIN "
                        "SELECT hold_up(old.person); END");
    atomic_store(&locked, true);
    start(&usual);
    ck_assert_int_eq(sweeper_erase(sweeper, TEAM, subs[first], &erasure), 0);
    while (sweeper_erasure_look(sweeper, erasure, &counts) != SWEEPER_ERASURE_DONE)
        wait_for(&progress);
    sweeper_erasure_unref(sweeper, erasure);
    erasure = NULL;
    atomic_store(&locked, false);
    ck_assert_int_eq(sweeper_erase(sweeper, TEAM, subs[1 - first], &erasure), 0);
    while (sweeper_erasure_look(sweeper, erasure, &counts) != SWEEPER_ERASURE_DONE)
        wait_for(&progress);
    sweeper_erasure_unref(sweeper, erasure);
    stop();
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM erasing"), 0);
}
END_TEST

/* The log is emptied at a start in any case; the mark of an earlier run may be seen only later. */
START_TEST(a_mark_that_is_seen_late_is_taken_away)
{
    char key[sizeof test_folder + 16], aside[sizeof test_folder + 16];

    snprintf(key, sizeof key, "%s/outbox.key", test_folder);
    snprintf(aside, sizeof aside, "%s/aside", test_folder);
    ck_assert_int_eq(erasure_mark(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(rename(key, aside), 0);
    start(&usual);
    wait_for(&unreadable);
    wait_for(&progress); /* it is emptied */
    ck_assert_int_eq(rename(aside, key), 0);
    wait_for(&progress);
    stop();
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM erasing"), 0);
}
END_TEST

START_TEST(what_is_asked_for_is_checked)
{
    struct sweeper_erasure *erasure = NULL;
    char long_sub[NOTIFICATION_CLAIM_MAX_BYTES + 2], team[ERASURE_TEAM_BYTES];

    memset(long_sub, 'x', sizeof long_sub - 1);
    long_sub[sizeof long_sub - 1] = '\0';
    start(&usual);
    ck_assert_int_eq(sweeper_erase(sweeper, TEAM, long_sub, &erasure), -EINVAL);
    ck_assert_int_eq(sweeper_erase(sweeper, "0123456789ABCDEF", SUB, &erasure), -EINVAL);
    ck_assert_ptr_null(erasure);
    ck_assert(sweeper_team_of(sweeper, APP_PLAIN, team));
    ck_assert_str_eq(team, TEAM);
    ck_assert(!sweeper_team_of(sweeper, "com.example.other", team));
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sweeper");
    TCase *tests = tcase_create("sweeper");
    SRunner *runner = srunner_create(suite);

    tcase_set_timeout(tests, 2 * TIME_S);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, it_sweeps_at_the_start_and_empties_the_wal);
    tcase_add_test(tests, a_reload_sweeps_by_its_own_measure);
    tcase_add_test(tests, rows_past_hard_are_told_apart);
    tcase_add_test(tests, the_metrics_move_with_each_piece);
    tcase_add_test(tests, a_piece_leaves_no_long_wal);
    tcase_add_test(tests, who_is_asked_for_is_erased);
    tcase_add_test(tests, a_reader_keeps_an_erasure_pending);
    tcase_add_test(tests, who_is_finished_with_need_not_wait_for_another);
    tcase_add_test(tests, a_mark_that_is_seen_late_is_taken_away);
    tcase_add_test(tests, what_is_asked_for_is_checked);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
