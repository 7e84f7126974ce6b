/* Positions of consumers: where they begin, how they move, what is remembered, what is counted. */
#include <check.h>
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "dispatcher/consumers.h"
#include "sql.h"
#include "support/clock.h"

#define GENERATION_IDS (INT64_C(1) << 32)

static struct outbox *outbox;
static struct writer *writer;
static struct outbox_reader *reader;
static struct consumers *consumers;
static atomic_uint commits;

static void nothing(void *context)
{
    (void)context;
}

static int count_commit(void *context)
{
    (void)context;
    atomic_fetch_add(&commits, 1);
    return 0;
}

/* Rows first to last, one a second since NOW_MS, their types in turn. */
static void add_rows(int64_t first, int64_t last)
{
    sql_run(
        outbox->db,
        "WITH RECURSIVE n(i) AS (SELECT %lld UNION ALL SELECT i + 1 FROM n WHERE i < %lld) "
        "INSERT INTO events (id, type, client_id, app, team, sub, event_time_ms, issued_at_ms, "
        "received_at_ms, raw_type, raw_id) "
        "SELECT i, CASE i %% 4 WHEN 0 THEN 'account-delete' WHEN 1 THEN 'email-enabled' "
        "WHEN 2 THEN 'consent-revoked' ELSE 'email-disabled' END, "
        "'com.example.app', 'Example', 'ABCDE12345', 'a sub', i, i, %lld + 1000 * i, 'x', i FROM n",
        (long long)first, (long long)last, (long long)NOW_MS);
    sql_run(outbox->db, "UPDATE state SET last_id = %lld", (long long)last);
    outbox->committed.last_id = last;
}

static struct config config_of(const struct config_consumer *list, size_t count)
{
    return (struct config){.consumers = list, .consumer_count = count};
}

static const struct config_consumer two[] = {{.name = "accounts", .user = "root"},
                                             {.name = "mailer", .user = "", .start_now = true}};

static void open_consumers(void)
{
    const struct config config = config_of(two, 2);

    ck_assert_int_eq(consumers_new(&config, &consumers), 0);
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(consumers_sync(consumers, outbox, NOW_MS), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
}

static void start_writer(void)
{
    const struct writer_settings settings = {
        .outbox = outbox, .queue_events = 16, .on_committed = nothing, .on_fatal = nothing};
    char why[OUTBOX_WHY_BYTES] = "";

    sqlite3_commit_hook(outbox->db, count_commit, NULL);
    ck_assert_int_eq(writer_start(&settings, &writer), 0);
    ck_assert_msg(outbox_reader_open(test_database, &reader, why) == 0, "%s", why);
}

static void set_up_empty(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    folder_make();
    atomic_store(&commits, 0);
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
}

/* Rows 1 to 20, of which 1 to 4 were pruned. */
static void set_up(void)
{
    set_up_empty();
    add_rows(5, 20);
    sql_run(outbox->db, "UPDATE state SET pruned_through = 4");
    open_consumers();
    start_writer();
}

static void tear_down(void)
{
    char why[OUTBOX_WHY_BYTES];

    outbox_reader_close(reader);
    writer_free(writer);
    consumers_free(consumers);
    (void)outbox_close(outbox, why);
    reader = NULL;
    writer = NULL;
    folder_remove();
}

/* ---- asking ---- */

static void on_change(struct consumers_change *change)
{
    sem_post(change->context);
}

static struct consumers_change asked(const char *name, bool seek, int64_t to)
{
    struct consumers_change change = {.seek = seek, .to = to, .from = -1, .done = on_change};

    (void)snprintf(change.name, sizeof change.name, "%s", name);
    return change;
}

static struct consumers_change carry_out(struct consumers_change change)
{
    sem_t over;

    ck_assert_int_eq(sem_init(&over, 0, 0), 0);
    change.context = &over;
    ck_assert_int_eq(consumers_post(consumers, writer, &change), 0);
    ck_assert_int_eq(sem_wait(&over), 0);
    (void)sem_destroy(&over);
    change.context = NULL;
    return change;
}

static struct consumers_change change_of(const char *name, bool seek, int64_t to)
{
    return carry_out(asked(name, seek, to));
}

static void acknowledge(const char *name, int64_t through, enum consumers_verdict verdict,
                        int64_t position)
{
    struct consumers_change change = change_of(name, false, through);

    ck_assert_int_eq(change.verdict, verdict);
    ck_assert_int_eq(change.position, position);
}

static void seek(const char *name, int64_t to, enum consumers_verdict verdict, int64_t position)
{
    struct consumers_change change = change_of(name, true, to);

    ck_assert_int_eq(change.verdict, verdict);
    ck_assert_int_eq(change.position, position);
}

static int64_t number(const char *query)
{
    int64_t found = -1;

    ck_assert_int_eq(outbox_query_number(outbox_reader_db(reader), query, &found), SQLITE_OK);
    return found;
}

static int64_t position_of(const char *name)
{
    int64_t position = -1;

    ck_assert_int_eq(consumers_position(consumers, reader, name, &position), 0);
    return position;
}

/* ---- the configuration ---- */

START_TEST(users_are_looked_up)
{
    static const struct config_consumer list[] = {
        {.name = "a", .user = "root"}, {.name = "b", .user = "no-such-user-here"}, {.name = "c"}};
    const struct config config = config_of(list, 3);
    struct consumer_set set;
    struct consumer found;

    ck_assert_int_eq(consumers_new(&config, &consumers), 0);
    consumers_set(consumers, &set);
    ck_assert_uint_eq(set.count, 3);
    ck_assert(set.list[0].user_known);
    ck_assert_uint_eq(set.list[0].uid, 0);
    ck_assert(!set.list[1].user_known);
    ck_assert_str_eq(set.list[1].user, "no-such-user-here");
    ck_assert(!set.list[2].user_known);
    ck_assert_str_eq(set.list[2].user, "");
    ck_assert(consumers_find(consumers, "b", &found));
    ck_assert_str_eq(found.name, "b");
    ck_assert(!consumers_find(consumers, "", &found));
    ck_assert(!consumers_find(consumers, "d", &found));
}
END_TEST

START_TEST(a_new_consumer_begins_where_it_was_told_to)
{
    ck_assert_int_eq(position_of("accounts"), 4);
    ck_assert_int_eq(position_of("mailer"), 20);
}
END_TEST

/* serve has not seen it yet: what is said of it is what will be. */
START_TEST(one_without_a_row_is_where_it_will_begin)
{
    static const struct config_consumer list[] = {{.name = "old"},
                                                  {.name = "new", .start_now = true}};
    const struct config config = config_of(list, 2);
    int64_t position;

    consumers_reconfigure(consumers, &config);
    ck_assert_int_eq(position_of("old"), 4);
    ck_assert_int_eq(position_of("new"), 20);
    ck_assert_int_eq(consumers_position(consumers, reader, "accounts", &position), -ENOENT);
    acknowledge("old", 5, CONSUMERS_DONE, 5); /* which makes its row */
    acknowledge("new", 19, CONSUMERS_BACKWARDS, 20);
    ck_assert_int_eq(number("SELECT count(*) FROM consumers"), 4);
}
END_TEST

START_TEST(one_that_comes_back_goes_on_where_it_was)
{
    const struct config none = config_of(NULL, 0), both = config_of(two, 2);

    acknowledge("accounts", 9, CONSUMERS_DONE, 9);
    consumers_reconfigure(consumers, &none);
    ck_assert_int_eq(change_of("accounts", false, 10).verdict, CONSUMERS_UNKNOWN);
    consumers_reconfigure(consumers, &both);
    ck_assert_int_eq(position_of("accounts"), 9);
    acknowledge("accounts", 10, CONSUMERS_DONE, 10);
}
END_TEST

/* ---- moving ---- */

START_TEST(an_acknowledgement_moves_forward_only)
{
    struct consumers_change change;

    acknowledge("accounts", 10, CONSUMERS_DONE, 10);
    acknowledge("accounts", 9, CONSUMERS_BACKWARDS, 10);
    acknowledge("accounts", 21, CONSUMERS_BEYOND, 10);
    acknowledge("accounts", INT64_MAX, CONSUMERS_BEYOND, 10);
    acknowledge("accounts", 0, CONSUMERS_BACKWARDS, 10);
    ck_assert_int_eq(change_of("nobody", false, 11).verdict, CONSUMERS_UNKNOWN);
    change = change_of("accounts", false, 20);
    ck_assert_int_eq(change.verdict, CONSUMERS_DONE);
    ck_assert_int_eq(change.last_id, 20);
    ck_assert_int_eq(change.pruned_through, 4);
    ck_assert_int_eq(position_of("accounts"), 20);
}
END_TEST

static struct consumers_change acknowledge_from(int64_t from, int64_t through)
{
    struct consumers_change change = asked("accounts", false, through);

    change.from = from;
    return carry_out(change);
}

/* Somebody who was given rows from where the consumer was then, and acknowledges them after a seek.
 */
START_TEST(an_acknowledgement_from_elsewhere_moves_nothing)
{
    acknowledge("accounts", 10, CONSUMERS_DONE, 10);
    ck_assert_int_eq(acknowledge_from(10, 12).verdict, CONSUMERS_DONE);
    seek("accounts", 5, CONSUMERS_DONE, 5);
    struct consumers_change change = acknowledge_from(12, 13);
    ck_assert_int_eq(change.verdict, CONSUMERS_MOVED);
    ck_assert_int_eq(change.position, 5);
    ck_assert_int_eq(position_of("accounts"), 5);
    ck_assert_int_eq(acknowledge_from(4, 6).verdict, CONSUMERS_MOVED);
    ck_assert_int_eq(acknowledge_from(5, 6).verdict, CONSUMERS_DONE);
    ck_assert_int_eq(acknowledge_from(5, 6).verdict, CONSUMERS_DONE); /* the answer was lost */
    ck_assert_int_eq(acknowledge_from(6, 5).verdict, CONSUMERS_BACKWARDS);
    ck_assert_int_eq(acknowledge_from(6, 21).verdict, CONSUMERS_BEYOND);
    ck_assert_int_eq(acknowledge_from(0, 21).verdict, CONSUMERS_BEYOND);
    ck_assert_int_eq(position_of("accounts"), 6);
}
END_TEST

START_TEST(the_same_again_is_no_error_and_changes_nothing)
{
    acknowledge("accounts", 10, CONSUMERS_DONE, 10);
    int64_t version = outbox_reader_data_version(reader);
    acknowledge("accounts", 10, CONSUMERS_DONE, 10);
    ck_assert_int_eq(outbox_reader_data_version(reader), version);
}
END_TEST

START_TEST(a_seek_goes_anywhere_there_are_rows)
{
    int64_t acknowledged = number("SELECT count(acknowledged_ms) FROM consumers");

    seek("mailer", 4, CONSUMERS_DONE, 4);
    seek("mailer", 20, CONSUMERS_DONE, 20);
    seek("mailer", 7, CONSUMERS_DONE, 7);
    seek("mailer", 3, CONSUMERS_PRUNED, 7);
    seek("mailer", 21, CONSUMERS_BEYOND, 7);
    ck_assert_int_eq(number("SELECT count(*) FROM acks"), 0);
    ck_assert_int_eq(number("SELECT count(acknowledged_ms) FROM consumers"), acknowledged);
}
END_TEST

/* Retention went past its hard limit. */
START_TEST(a_cursor_that_rows_were_taken_from_is_told_so)
{
    struct consumers_change change;

    acknowledge("accounts", 6, CONSUMERS_DONE, 6);
    writer_free(writer); /* so that this connection is ours for a moment */
    writer = NULL;
    sql_run(outbox->db, "DELETE FROM events WHERE id <= 10; UPDATE state SET pruned_through = 10");
    outbox_reader_close(reader);
    start_writer();
    change = change_of("accounts", false, 8);
    ck_assert_int_eq(change.verdict, CONSUMERS_PRUNED);
    ck_assert_int_eq(change.pruned_through, 10);
    ck_assert_int_eq(change.position, 6);
    ck_assert_int_eq(position_of("accounts"), 6);
    acknowledge("accounts", 10, CONSUMERS_DONE, 10);
}
END_TEST

/* ---- what is remembered ---- */

START_TEST(acknowledgements_of_what_matters_are_remembered)
{
    sql_run(outbox->db, "UPDATE events SET test = 1 WHERE id = 8");
    open_consumers();
    start_writer();
    acknowledge("accounts", 11, CONSUMERS_DONE, 11);
    ck_assert_int_eq(number("SELECT count(*) FROM acks WHERE consumer = 'accounts'"), 2);
    ck_assert_int_eq(number("SELECT count(*) FROM acks WHERE event_id IN (6, 10)"), 2);
    ck_assert_int_eq(number("SELECT count(*) FROM acks WHERE acknowledged_ms < 1700000000000"), 0);
    acknowledge("accounts", 12, CONSUMERS_DONE, 12);
    ck_assert_int_eq(number("SELECT max(event_id) FROM acks"), 12);
}
END_TEST

static void set_up_twelve(void)
{
    set_up_empty();
    add_rows(5, 12);
}

START_TEST(the_first_acknowledgement_stands)
{
    acknowledge("accounts", 6, CONSUMERS_DONE, 6);
    int64_t first = number("SELECT acknowledged_ms FROM acks WHERE event_id = 6");
    while (clock_wall_ms() == first)
        (void)usleep(500);
    seek("accounts", 5, CONSUMERS_DONE, 5);
    acknowledge("accounts", 6, CONSUMERS_DONE, 6);
    ck_assert_int_eq(number("SELECT acknowledged_ms FROM acks WHERE event_id = 6"), first);
}
END_TEST

static void set_up_many(void)
{
    set_up_empty();
    add_rows(1, 100000);
    open_consumers();
    start_writer();
}

/* In pieces, each committed: nobody waits for all of them. */
START_TEST(many_rows_are_acknowledged_in_pieces)
{
    acknowledge("accounts", 100000, CONSUMERS_DONE, 100000);
    ck_assert_int_eq(number("SELECT count(*) FROM acks"), 50000);
    ck_assert_int_eq(position_of("accounts"), 100000);
    ck_assert_uint_gt(atomic_load(&commits), 3);
    seek("mailer", 0, CONSUMERS_DONE, 0);
    struct consumers_change change = asked("mailer", false, 100000);
    change.from = 0; /* that of the first piece */
    ck_assert_int_eq(carry_out(change).verdict, CONSUMERS_DONE);
    ck_assert_int_eq(position_of("mailer"), 100000);
}
END_TEST

/* ---- what is counted ---- */

static void slowest(int64_t position, size_t count)
{
    int64_t found = -1;
    size_t counted = 99;

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(consumers_slowest(consumers, outbox, &found, &counted), OUTBOX_ERROR_NONE);
    outbox_rollback(outbox);
    ck_assert_int_eq(found, position);
    ck_assert_uint_eq(counted, count);
}

START_TEST(the_slowest_configured_consumer_counts)
{
    static const struct config_consumer with_new[] = {{.name = "mailer"}, {.name = "new"}};
    const struct config none = config_of(NULL, 0), one = config_of(with_new, 1),
                        other = config_of(with_new, 2);

    open_consumers();
    sql_run(outbox->db, "UPDATE state SET pruned_through = 3");
    slowest(0, 2);
    sql_run(outbox->db, "UPDATE consumers SET position = 7 WHERE name = 'accounts'");
    slowest(7, 2);
    consumers_reconfigure(consumers, &one);
    slowest(12, 1);
    consumers_reconfigure(consumers, &other); /* a name without a row: nothing goes */
    slowest(3, 2);
    consumers_reconfigure(consumers, &none);
    slowest(INT64_MAX, 0);
}
END_TEST

struct listed {
    size_t count;
    struct consumer_state of[4];
    char names[4][CONSUMER_NAME_BYTES];
};

static void on_consumer(void *context, const struct consumer_state *state)
{
    struct listed *listed = context;

    ck_assert_uint_lt(listed->count, 4);
    (void)snprintf(listed->names[listed->count], CONSUMER_NAME_BYTES, "%s", state->name);
    listed->of[listed->count++] = *state;
}

static struct listed list_at(int64_t now_ms)
{
    struct listed listed = {.count = 0};

    ck_assert_int_eq(consumers_list(consumers, reader, now_ms, on_consumer, &listed), 0);
    return listed;
}

START_TEST(a_list_tells_how_far_each_is)
{
    const struct config one = config_of(two + 1, 1);

    acknowledge("accounts", 6, CONSUMERS_DONE, 6);
    struct listed listed = list_at(NOW_MS + 60000);
    ck_assert_uint_eq(listed.count, 2);
    ck_assert_str_eq(listed.names[0], "accounts");
    ck_assert(listed.of[0].configured);
    ck_assert_int_eq(listed.of[0].position, 6);
    ck_assert_int_eq(listed.of[0].added_ms, NOW_MS);
    ck_assert_int_gt(listed.of[0].acknowledged_ms, NOW_MS);
    ck_assert_int_eq(listed.of[0].lag_rows, 14);
    ck_assert_int_eq(listed.of[0].lag_ms, 60000 - 7000);
    ck_assert_int_eq(listed.of[1].position, 20);
    ck_assert_int_eq(listed.of[1].acknowledged_ms, 0);
    ck_assert_int_eq(listed.of[1].lag_rows, 0);
    ck_assert_int_eq(listed.of[1].lag_ms, 0);
    /* the clock went back: a row of tomorrow is not older than now */
    ck_assert_int_eq(list_at(NOW_MS).of[0].lag_ms, 0);

    consumers_reconfigure(consumers, &one);
    listed = list_at(NOW_MS);
    ck_assert_uint_eq(listed.count, 2);
    ck_assert_str_eq(listed.names[0], "mailer");
    ck_assert(listed.of[0].configured);
    ck_assert_str_eq(listed.names[1], "accounts");
    ck_assert(!listed.of[1].configured);
    ck_assert_int_eq(listed.of[1].position, 6);
}
END_TEST

/* Ids with gaps are counted as rows as long as that is cheap; the gap that a restored backup leaves
 * is never taken for rows. */
START_TEST(lag_counts_rows_and_not_gaps)
{
    set_up_empty();
    add_rows(1, 10);
    add_rows(101, 110);
    add_rows(GENERATION_IDS, GENERATION_IDS + 4);
    open_consumers();
    start_writer();
    ck_assert_int_eq(list_at(NOW_MS).of[0].lag_rows, 25);
    tear_down();

    set_up_empty();
    add_rows(1, 2000);
    add_rows(GENERATION_IDS + 2000, GENERATION_IDS + 2999);
    add_rows(3 * GENERATION_IDS, 3 * GENERATION_IDS + 9);
    open_consumers();
    start_writer();
    ck_assert_int_eq(list_at(NOW_MS).of[0].lag_rows, 3010);
    seek("accounts", 1500, CONSUMERS_DONE, 1500);
    ck_assert_int_eq(list_at(NOW_MS).of[0].lag_rows, 1510);
    seek("accounts", GENERATION_IDS + 2000, CONSUMERS_DONE, GENERATION_IDS + 2000);
    ck_assert_int_eq(list_at(NOW_MS).of[0].lag_rows, 1009);
}
END_TEST

static int64_t oldest(struct consumers_watch *watch)
{
    int64_t received_ms = -1;

    ck_assert_int_eq(consumers_oldest_delete(consumers, reader, watch, &received_ms), 0);
    return received_ms;
}

/* Rows 8, 12, 16, 20 are of that type. */
START_TEST(the_oldest_account_delete_is_found)
{
    const struct config none = config_of(NULL, 0);
    struct consumers_watch watch = {0};

    ck_assert_int_eq(oldest(&watch), NOW_MS + 8000);
    acknowledge("accounts", 7, CONSUMERS_DONE, 7);
    ck_assert_int_eq(oldest(&watch), NOW_MS + 8000);
    acknowledge("accounts", 8, CONSUMERS_DONE, 8);
    ck_assert_int_eq(oldest(&watch), NOW_MS + 12000);
    acknowledge("accounts", 20, CONSUMERS_DONE, 20);
    ck_assert_int_eq(oldest(&watch), 0);
    seek("mailer", 15, CONSUMERS_DONE, 15); /* the slowest counts */
    ck_assert_int_eq(oldest(&watch), NOW_MS + 16000);
    seek("mailer", 9, CONSUMERS_DONE, 9);
    ck_assert_int_eq(oldest(&watch), NOW_MS + 12000);
    consumers_reconfigure(consumers, &none);
    ck_assert_int_eq(oldest(&watch), 0);
}
END_TEST

/* However far away, a call looks at so many rows and no more. */
START_TEST(the_search_for_it_goes_on_from_call_to_call)
{
    struct consumers_watch watch = {0};
    unsigned calls = 1;

    writer_free(writer);
    writer = NULL;
    outbox_reader_close(reader); /* start_writer opens another */
    sql_run(outbox->db, "UPDATE events SET type = 'email-enabled' WHERE id < 50000");
    start_writer();
    for (; oldest(&watch) == 0; calls++)
        ck_assert_int_le(watch.scanned, (int64_t)calls * CONSUMERS_WATCH_ROWS);
    ck_assert_int_eq(watch.found_id, 50000);
    ck_assert_uint_eq(calls, 50000 / CONSUMERS_WATCH_ROWS);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("consumers");
    TCase *known = tcase_create("configured"), *moved = tcase_create("twenty rows");
    TCase *kept = tcase_create("before the writer"), *many = tcase_create("many rows");
    TCase *gaps = tcase_create("gaps");

    tcase_add_checked_fixture(known, set_up_empty, tear_down);
    tcase_add_test(known, users_are_looked_up);
    suite_add_tcase(s, known);

    tcase_add_checked_fixture(moved, set_up, tear_down);
    tcase_add_test(moved, a_new_consumer_begins_where_it_was_told_to);
    tcase_add_test(moved, one_without_a_row_is_where_it_will_begin);
    tcase_add_test(moved, one_that_comes_back_goes_on_where_it_was);
    tcase_add_test(moved, an_acknowledgement_moves_forward_only);
    tcase_add_test(moved, an_acknowledgement_from_elsewhere_moves_nothing);
    tcase_add_test(moved, the_same_again_is_no_error_and_changes_nothing);
    tcase_add_test(moved, a_seek_goes_anywhere_there_are_rows);
    tcase_add_test(moved, a_cursor_that_rows_were_taken_from_is_told_so);
    tcase_add_test(moved, the_first_acknowledgement_stands);
    tcase_add_test(moved, a_list_tells_how_far_each_is);
    tcase_add_test(moved, the_oldest_account_delete_is_found);
    suite_add_tcase(s, moved);

    tcase_add_checked_fixture(kept, set_up_twelve, tear_down);
    tcase_add_test(kept, acknowledgements_of_what_matters_are_remembered);
    tcase_add_test(kept, the_slowest_configured_consumer_counts);
    suite_add_tcase(s, kept);

    tcase_add_checked_fixture(many, set_up_many, tear_down);
    tcase_add_test(many, many_rows_are_acknowledged_in_pieces);
    tcase_add_test(many, the_search_for_it_goes_on_from_call_to_call);
    tcase_set_timeout(many, 60);
    suite_add_tcase(s, many);

    tcase_add_checked_fixture(gaps, NULL, tear_down);
    tcase_add_test(gaps, lag_counts_rows_and_not_gaps);
    suite_add_tcase(s, gaps);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
