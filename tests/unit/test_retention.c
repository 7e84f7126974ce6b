/* retention: what goes, what stays, in which order, and in pieces. */
#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "dispatcher/consumers.h"
#include "dispatcher/retention.h"
#include "sql.h"
#include "support/clock.h"

#define DAY_S   86400
#define DAY_MS  (INT64_C(1000) * DAY_S)
#define TODAY   (NOW_MS + 1000 * DAY_MS)
#define AGED(n) (TODAY - (n)*DAY_MS)

static const struct config_retain retain = {.events_s = 90 * DAY_S,
                                            .hard_s = 365 * DAY_S,
                                            .raw_s = 7 * DAY_S,
                                            .quarantine_s = 90 * DAY_S,
                                            .identities_s = 400 * DAY_S,
                                            .audit_s = 500 * DAY_S};

static const struct config_consumer names[] = {{.name = "accounts"}, {.name = "mailer"}};

static struct outbox *outbox;
static struct consumers *consumers;

/* A row with its body. */
static void add_row(int64_t id, const char *type, int64_t received_ms)
{
    sql_run(
        outbox->db,
        "INSERT INTO events (id, type, client_id, app, team, sub, issued_at_ms, received_at_ms, "
        "raw_type, raw_id, person) VALUES (%lld, '%s', 'c', 'a', 'ABCDE12345', 's', 1, %lld, 't', "
        "%lld, x'aa')",
        (long long)id, type, (long long)received_ms, (long long)id);
    sql_run(outbox->db, "INSERT INTO raw VALUES (%lld, %lld, 0, x'00')", (long long)id,
            (long long)received_ms);
    outbox->committed.last_id = id;
    sql_run(outbox->db, "UPDATE state SET last_id = %lld", (long long)id);
}

static void configure(size_t count)
{
    const struct config config = {.consumers = names, .consumer_count = count};

    ck_assert_int_eq(consumers_new(&config, &consumers), 0);
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(consumers_sync(consumers, outbox, NOW_MS), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
}

static struct retention_sweep sweep_begin(enum retention_what what)
{
    struct retention_sweep sweep = {.what = what, .consumers = consumers};

    retention_due_at(&retain, TODAY, &sweep.due);
    return sweep;
}

static void sweep_piece(struct retention_sweep *sweep)
{
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(retention_sweep_piece(outbox, sweep), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
}

static struct retention_sweep sweep_all(enum retention_what what)
{
    struct retention_sweep sweep = sweep_begin(what);

    while (!sweep.over)
        sweep_piece(&sweep);
    return sweep;
}

static void set_up(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    folder_make();
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
}

static void tear_down(void)
{
    char why[OUTBOX_WHY_BYTES];

    consumers_free(consumers);
    consumers = NULL;
    ck_assert_msg(outbox_close(outbox, why) == 0, "%s", why);
    folder_remove();
}

START_TEST(without_consumers_the_age_alone_counts)
{
    configure(0);
    add_row(1, "x", AGED(400));
    add_row(2, "x", AGED(91));
    add_row(3, "x", AGED(89));
    struct retention_sweep sweep = sweep_all(RETENTION_ROWS);
    ck_assert_int_eq(sweep.removed, 2);
    ck_assert_int_eq(sweep.unacknowledged, 0);
    ck_assert_int_eq(sweep.pruned_through, 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM events"), 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM raw"), 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT last_id FROM outbox_state"), 3);
    /* nothing more, and nothing changes */
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 0);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 2);
}
END_TEST

START_TEST(the_slowest_consumer_is_waited_for)
{
    configure(2);
    for (int id = 1; id <= 6; id++)
        add_row(id, "x", AGED(200));
    sql_run(outbox->db, "UPDATE consumers SET position = 5 WHERE name = 'accounts'");
    sql_run(outbox->db, "UPDATE consumers SET position = 2 WHERE name = 'mailer'");
    struct retention_sweep sweep = sweep_all(RETENTION_ROWS);
    ck_assert_int_eq(sweep.removed, 2);
    ck_assert_int_eq(sweep.unacknowledged, 0);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT min(id) FROM events"), 3);
    ck_assert_int_eq(sweep_all(RETENTION_RAW).removed, 0);
    sql_run(outbox->db, "UPDATE consumers SET position = 4 WHERE name = 'mailer'");
    ck_assert_int_eq(sweep_all(RETENTION_RAW).removed, 2);
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 4);
}
END_TEST

START_TEST(past_hard_nobody_is_waited_for_and_it_is_counted)
{
    configure(1);
    add_row(1, "x", AGED(500));
    add_row(2, "x", AGED(366));
    sql_run(outbox->db, "UPDATE events SET test = 1 WHERE id = 2");
    add_row(3, "x", AGED(366));
    add_row(4, "x", AGED(364));
    sql_run(outbox->db, "UPDATE consumers SET position = 1");
    struct retention_sweep sweep = sweep_all(RETENTION_ROWS);
    ck_assert_int_eq(sweep.removed, 3);
    ck_assert_int_eq(sweep.unacknowledged, 1); /* nobody waits for a test row */
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM raw"), 4);
}
END_TEST

/* One that consumers forward as it came is whole until they are done with all of it. */
START_TEST(a_body_stays_until_its_last_row_may_go)
{
    configure(1);
    for (int id = 1; id <= 3; id++)
        add_row(id, "x", AGED(100));
    add_row(4, "x", AGED(1));
    sql_run(outbox->db, "UPDATE events SET raw_id = 1 WHERE id <= 3");
    sql_run(outbox->db, "DELETE FROM raw WHERE id IN (2, 3)");
    sql_run(outbox->db, "UPDATE consumers SET position = 2");
    ck_assert_int_eq(sweep_all(RETENTION_RAW).removed, 0);
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM raw WHERE id = 1"), 1);
    ck_assert_int_eq(sweep_all(RETENTION_RAW).removed, 0);
    sql_run(outbox->db, "UPDATE consumers SET position = 3");
    ck_assert_int_eq(sweep_all(RETENTION_RAW).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM raw"), 4);
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM raw"), 4);
}
END_TEST

/* Retention in front of an erasure would take away what names whom it is to erase. */
START_TEST(who_deleted_the_account_is_erased_first)
{
    struct retention_sweep sweep;

    configure(1);
    add_row(1, "x", AGED(300));
    add_row(2, "account-delete", AGED(300));
    add_row(3, "account-delete", AGED(300));
    sql_run(outbox->db, "UPDATE consumers SET position = 3");
    sweep = sweep_begin(RETENTION_ROWS);
    sweep.erases = true;
    sweep_piece(&sweep);
    ck_assert_int_eq(sweep.removed, 1);
    ck_assert(sweep.over);
    sql_run(outbox->db, "UPDATE events SET erased_at_ms = 7 WHERE id = 2");
    sql_run(outbox->db, "UPDATE events SET received_at_ms = %lld WHERE id = 3",
            (long long)AGED(366)); /* whatever keeps the erasure, this is the limit */
    sweep = sweep_begin(RETENTION_ROWS);
    sweep.erases = true;
    sweep_piece(&sweep);
    ck_assert_int_eq(sweep.removed, 2);
    ck_assert_int_eq(sweep.unacknowledged, 0);
    /* where nobody is erased, there is nothing to wait for */
    add_row(4, "account-delete", AGED(300));
    sql_run(outbox->db, "UPDATE consumers SET position = 4");
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 1);
}
END_TEST

/* A clock that stood wrong once must not tear a hole, nor let a row go before its time. */
START_TEST(rows_go_in_the_order_of_their_ids)
{
    configure(0);
    add_row(1, "x", AGED(100));
    add_row(2, "x", AGED(10));
    add_row(3, "x", AGED(800));
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 1);
}
END_TEST

START_TEST(bodies_go_before_their_rows)
{
    configure(0);
    add_row(1, "x", AGED(8));
    add_row(2, "x", AGED(6));
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 0);
    ck_assert_int_eq(sweep_all(RETENTION_RAW).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM raw"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 0);
}
END_TEST

/* Doctor's have ids below those of events, and stand in nobody's way. */
START_TEST(test_rows_below_the_others_go_by_their_time_alone)
{
    configure(1);
    add_row(1, "x", AGED(100));
    for (int i = 1; i <= 3; i++) {
        sql_run(outbox->db,
                "INSERT INTO events (id, type, client_id, app, team, issued_at_ms, received_at_ms, "
                "raw_type, raw_id, test) VALUES (%lld, 'test', 'c', '', '', 1, %lld, 't', 0, 1)",
                (long long)OUTBOX_TEST_ID_BASE + i, (long long)AGED(i == 1 ? 8 : 6));
    }
    ck_assert_int_eq(sweep_all(RETENTION_TEST).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events WHERE test = 1"), 2);
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 0); /* the consumer is waited for */
    sql_run(outbox->db, "UPDATE consumers SET position = 1");
    struct retention_sweep sweep = sweep_all(RETENTION_ROWS);
    ck_assert_int_eq(sweep.removed, 1);
    ck_assert_int_eq(sweep.pruned_through, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events WHERE test = 1"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 1);
}
END_TEST

static int count_steps(unsigned kind, void *steps, void *statement, void *time_ns)
{
    (void)kind;
    (void)time_ns;
    *(int64_t *)steps += sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_VM_STEP, 1);
    return 0;
}

/* What SQLite does to remove one row that is due. */
static int64_t steps_to_remove(int64_t id)
{
    int64_t steps = 0;

    add_row(id, "x", AGED(100));
    sqlite3_trace_v2(outbox->db, SQLITE_TRACE_PROFILE, count_steps, &steps);
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 1);
    sqlite3_trace_v2(outbox->db, 0, NULL, NULL);
    return steps;
}

START_TEST(test_rows_are_not_read_where_others_are_removed)
{
    enum { ROWS = 1000 };
    configure(0);
    int64_t steps = steps_to_remove(1);
    ck_assert_int_gt(steps, 0);
    sql_run(outbox->db,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
            "INSERT INTO events (id, type, client_id, app, team, issued_at_ms, received_at_ms, "
            "raw_type, raw_id, test) SELECT %lld + i, 'test', 'c', '', '', 1, 1, 't', 0, 1 FROM n",
            ROWS, (long long)OUTBOX_TEST_ID_BASE);
    ck_assert_int_lt(steps_to_remove(2), steps + ROWS);
}
END_TEST

START_TEST(test_rows_have_a_time_of_their_own)
{
    configure(1); /* who has acknowledged nothing */
    add_row(1, "x", AGED(50));
    add_row(2, "x", AGED(8));
    add_row(3, "x", AGED(6));
    sql_run(outbox->db, "UPDATE events SET test = 1 WHERE id > 1");
    ck_assert_int_eq(sweep_all(RETENTION_TEST).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events WHERE id IN (1, 3)"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM raw WHERE id IN (1, 3)"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"), 0);
}
END_TEST

/* An identity is as old as its arrival, whatever time Apple gave the event. */
START_TEST(identities_go_by_their_arrival)
{
    configure(0);
    sql_run(outbox->db, "INSERT INTO seen VALUES (0, randomblob(32), %lld)", (long long)AGED(401));
    sql_run(outbox->db, "INSERT INTO seen VALUES (0, randomblob(32), %lld)", (long long)AGED(399));
    sql_run(outbox->db, "INSERT INTO seen VALUES (5, randomblob(32), %lld)", (long long)AGED(401));
    sql_run(outbox->db, "INSERT INTO seen VALUES (5, randomblob(32), %lld)", (long long)AGED(399));
    sql_run(outbox->db, "INSERT INTO seen VALUES (%lld, randomblob(32), %lld)",
            (long long)AGED(401), (long long)AGED(401));
    sql_run(outbox->db, "INSERT INTO seen VALUES (%lld, randomblob(32), %lld)",
            (long long)AGED(399), (long long)AGED(399));
    ck_assert_int_eq(sweep_all(RETENTION_IDENTITIES).removed, 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM seen"), 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT min(received_at_ms) FROM seen"), AGED(399));
}
END_TEST

START_TEST(the_audit_keeps_what_it_tells)
{
    configure(1);
    add_row(1, "account-delete", AGED(600));
    add_row(2, "email-enabled", AGED(490));
    add_row(3, "consent-revoked", AGED(480));
    add_row(4, "account-delete", AGED(20));
    sql_run(outbox->db, "UPDATE events SET erased_at_ms = 7 WHERE id = 3");
    sql_run(outbox->db, "UPDATE consumers SET position = 4");
    sql_run(outbox->db,
            "INSERT INTO acks VALUES (1, 'accounts', 1), (3, 'accounts', 3), (4, 'accounts', 4)");
    ck_assert_int_eq(sweep_all(RETENTION_ROWS).removed, 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM facts"), 2);
    ck_assert_int_eq(
        sql_number(outbox->db, "SELECT id FROM facts WHERE erased_at_ms = 7 AND person = x'aa' AND "
                               "type = 'consent-revoked' AND team = 'ABCDE12345'"),
        3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT min(removed_at_ms) FROM facts"), TODAY);
    ck_assert_int_eq(sweep_all(RETENTION_FACTS).removed, 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT group_concat(id) FROM facts"), 3);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM acks"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM acks WHERE event_id IN (3, 4)"),
                     2);
}
END_TEST

START_TEST(what_stands_apart_goes_and_makes_room)
{
    configure(1);
    for (int id = 1; id <= 3; id++) {
        sql_run(outbox->db,
                "INSERT INTO quarantine VALUES (%d, 'expired', 'c', %lld, randomblob(32), x'0000')",
                id, (long long)AGED(id == 1 ? 91 : 89));
        sql_run(outbox->db,
                "INSERT INTO deferred VALUES (%d, 'k', 'c', %lld, 0, randomblob(32), x'000000')",
                id, (long long)AGED(id == 3 ? 29 : 31));
    }
    outbox->committed.apart = (struct outbox_apart){3, 6, 3, 9};
    ck_assert_int_eq(sweep_all(RETENTION_QUARANTINE).removed, 1);
    ck_assert_int_eq(sweep_all(RETENTION_DEFERRED).removed, 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT min(id) FROM quarantine"), 2);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT min(id) FROM deferred"), 3);
    ck_assert_int_eq(outbox->committed.apart.quarantine_rows, 2);
    ck_assert_int_eq(outbox->committed.apart.quarantine_bytes, 4);
    ck_assert_int_eq(outbox->committed.apart.deferred_rows, 1);
    ck_assert_int_eq(outbox->committed.apart.deferred_bytes, 3);
}
END_TEST

/* Commits wait while a piece is removed. */
START_TEST(a_long_sweep_is_cut_into_pieces)
{
    int pieces = 0;

    configure(0);
    sql_run(
        outbox->db,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "INSERT INTO events (id, type, client_id, app, team, sub, issued_at_ms, received_at_ms, "
        "raw_type, raw_id) SELECT i, 'x', 'c', 'a', 't', 's', 1, %lld, 't', i FROM n",
        (long long)AGED(100));
    sql_run(outbox->db, "INSERT INTO raw SELECT id, received_at_ms, 0, zeroblob(1200) FROM events");
    sql_run(outbox->db, "UPDATE state SET last_id = 20000");
    struct retention_sweep sweep = sweep_begin(RETENTION_ROWS);
    while (!sweep.over) {
        int64_t before = sweep.removed;

        sweep_piece(&sweep);
        pieces++;
        ck_assert(sweep.removed > before || sweep.over);
        ck_assert_int_eq(sql_number(outbox->db, "SELECT pruned_through FROM outbox_state"),
                         sweep.removed);
    }
    ck_assert_int_gt(pieces, 2);
    ck_assert_int_eq(sweep.removed, 20000);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM events"), 0);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM raw"), 0);
}
END_TEST

START_TEST(every_kind_has_a_label)
{
    for (int what = 0; what < RETENTION_COUNT; what++)
        ck_assert_uint_gt(strlen(retention_label((enum retention_what)what)), 0);
    ck_assert_str_eq(retention_label(RETENTION_COUNT), "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("retention");
    TCase *sweep = tcase_create("sweep");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(sweep, set_up, tear_down);
    tcase_add_test(sweep, without_consumers_the_age_alone_counts);
    tcase_add_test(sweep, the_slowest_consumer_is_waited_for);
    tcase_add_test(sweep, past_hard_nobody_is_waited_for_and_it_is_counted);
    tcase_add_test(sweep, rows_go_in_the_order_of_their_ids);
    tcase_add_test(sweep, bodies_go_before_their_rows);
    tcase_add_test(sweep, who_deleted_the_account_is_erased_first);
    tcase_add_test(sweep, a_body_stays_until_its_last_row_may_go);
    tcase_add_test(sweep, test_rows_have_a_time_of_their_own);
    tcase_add_test(sweep, test_rows_below_the_others_go_by_their_time_alone);
    tcase_add_test(sweep, test_rows_are_not_read_where_others_are_removed);
    tcase_add_test(sweep, identities_go_by_their_arrival);
    tcase_add_test(sweep, the_audit_keeps_what_it_tells);
    tcase_add_test(sweep, what_stands_apart_goes_and_makes_room);
    tcase_add_test(sweep, a_long_sweep_is_cut_into_pieces);
    tcase_add_test(sweep, every_kind_has_a_label);
    suite_add_tcase(suite, sweep);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
