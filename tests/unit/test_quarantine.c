/* quarantine: what it shows, and that a row leaves it for the outbox, for good, or not at all. On
 * the real writer. */
#include <errno.h>
#include <semaphore.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "dispatcher/apart.h"
#include "dispatcher/quarantine.h"
#include "failing_disk.h"
#include "sql.h"

#define TIME_S 60
#define MAIL \
    "{\"type\":\"email-enabled\",\"sub\":\"000009.0123456789abcdef0123456789abcdef.0000\"," \
    "\"event_time\":1700000000123}"

static struct outbox *outbox;
static struct policy *policy;
static struct writer *writer;
static struct outbox_reader *reader;
static sem_t over;
static int64_t seen_in_done; /* rows that a reader saw in quarantine when a change was done */

/* ---- putting in ---- */

static void set_up(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    folder_make();
    failing_disk_install();
    sem_init(&over, 0, 0);
    policy = policy_make(CONFIG_LATE_QUARANTINE);
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
    ck_assert_msg(outbox_reader_open(test_database, &reader, why) == 0, "%s", why);
}

static void tear_down(void)
{
    char why[OUTBOX_WHY_BYTES];

    if (writer)
        writer_stop(writer);
    writer_free(writer);
    outbox_reader_close(reader);
    ck_assert_msg(outbox_close(outbox, why) == 0, "%s", why);
    policy_unref(policy);
    folder_remove();
}

/* In a transaction of its own, while there is no writer yet; the verdict. */
static enum verdict add(struct delivery *delivery)
{
    return delivery_add(outbox, delivery);
}

static struct delivery *late(unsigned number)
{
    return as_quarantined(delivery_number(policy, number), QUARANTINE_REASON_EXPIRED);
}

/* Rows 1 to count, of which number N is notification N. */
static void put_late(unsigned count)
{
    for (unsigned number = 1; number <= count; number++)
        ck_assert_int_eq(add(late(number)), VERDICT_QUARANTINED);
}

static void on_nothing(void *context)
{
    (void)context;
}

static void start(void)
{
    const struct writer_settings settings = {
        .outbox = outbox, .queue_events = 16, .on_committed = on_nothing, .on_fatal = on_nothing};

    ck_assert_int_eq(writer_start(&settings, &writer), 0);
}

/* ---- changing ---- */

static void on_done(struct quarantine_change *change)
{
    (void)change;
    seen_in_done = sql_number(outbox_reader_db(reader), "SELECT count(*) FROM quarantine");
    sem_post(&over);
}

static void wait_for_it(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += TIME_S;
    while (sem_timedwait(&over, &until) < 0)
        ck_assert_int_eq(errno, EINTR);
}

static enum quarantine_result change_row(int64_t id, struct delivery *delivery)
{
    struct quarantine_change change = {.id = id, .delivery = delivery, .done = on_done};

    ck_assert_int_eq(quarantine_post(writer, &change), 0);
    wait_for_it();
    ck_assert_int_eq(change.id, id);
    ck_assert_ptr_eq(change.delivery, delivery);
    return change.result;
}

static enum quarantine_result drop(int64_t id)
{
    return change_row(id, NULL);
}

/* Releases it as an event of this kind, and gives what became of it. */
static enum quarantine_result release(int64_t id, struct delivery *delivery,
                                      enum verdict *ret_verdict)
{
    enum quarantine_result result = change_row(id, delivery);

    *ret_verdict = delivery->verdict;
    delivery_free(delivery);
    return result;
}

static int64_t number(const char *query)
{
    return sql_number(outbox_reader_db(reader), query);
}

static int64_t count_of(const char *table)
{
    char query[64];

    snprintf(query, sizeof query, "SELECT count(*) FROM %s", table);
    return number(query);
}

/* What is counted is what is there. */
static void check_counts(void)
{
    struct writer_state state;

    writer_state(writer, &state);
    ck_assert_int_eq(state.apart.quarantine_rows, count_of("quarantine"));
    ck_assert_int_eq(state.apart.quarantine_bytes,
                     number("SELECT coalesce(sum(length(body)), 0) FROM quarantine"));
}

/* ---- the list ---- */

struct list {
    unsigned stop_after; /* 0: never */
    int64_t ids[8];
    unsigned count;
    bool with_bodies;
};

static bool note_row(void *context, const struct apart_row *row)
{
    struct list *list = context;
    const char *reason = row->id == 1   ? "unknown_issuer"
                         : row->id == 2 ? "expired"
                                        : "events_unclear";

    ck_assert_str_eq(row->reason, reason);
    ck_assert_str_eq(row->client_id, APP_PLAIN);
    ck_assert_int_eq(row->received_at_ms, NOW_MS);
    ck_assert_uint_gt(row->body_bytes, 0);
    ck_assert_int_eq(row->body != NULL, list->with_bodies);
    if (row->body)
        ck_assert_ptr_nonnull(memmem(row->body, row->body_bytes, "\"payload\":", 10));
    list->ids[list->count++] = row->id;
    return list->count != list->stop_after;
}

static unsigned list_rows(struct list *list, int64_t after, unsigned limit)
{
    list->count = 0;
    ck_assert_int_eq(
        apart_rows(reader, APART_QUARANTINE, after, limit, list->with_bodies, note_row, list),
        (int)list->count);
    return list->count;
}

START_TEST(the_list_is_in_the_order_of_arrival)
{
    struct list list = {.with_bodies = false};

    ck_assert_uint_eq(list_rows(&list, 0, 8), 0);
    add(as_quarantined(delivery_number(policy, 3), QUARANTINE_REASON_UNKNOWN_ISSUER));
    put_late(1);
    add(as_quarantined(delivery_number(policy, 2), QUARANTINE_REASON_EVENTS_UNCLEAR));
    ck_assert_uint_eq(list_rows(&list, 0, 8), 3);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(list.ids[i], i + 1);
    ck_assert_uint_eq(list_rows(&list, 0, 2), 2);
    ck_assert_int_eq(list.ids[0], 1);
    ck_assert_uint_eq(list_rows(&list, 1, 8), 2);
    ck_assert_int_eq(list.ids[0], 2);
    ck_assert_uint_eq(list_rows(&list, 3, 8), 0);
    list.stop_after = 1;
    ck_assert_uint_eq(list_rows(&list, 0, 8), 1);
    list = (struct list){.with_bodies = true};
    ck_assert_uint_eq(list_rows(&list, 0, 8), 3);
    list.count = 0;
    ck_assert_int_eq(apart_row(reader, APART_QUARANTINE, 2, note_row, &list), 1);
    ck_assert_int_eq(list.ids[0], 2);
    ck_assert_int_eq(apart_row(reader, APART_QUARANTINE, 4, note_row, &list), 0);
    ck_assert_int_eq(apart_row(reader, APART_DEFERRED, 2, note_row, &list), 0);
}
END_TEST

/* An id that an operator saw names nothing else later. */
START_TEST(an_id_is_never_given_twice)
{
    put_late(2);
    start();
    ck_assert_int_eq(drop(2), QUARANTINE_DROPPED);
    writer_stop(writer);
    ck_assert_int_eq(add(late(2)), VERDICT_QUARANTINED);
    ck_assert_int_eq(number("SELECT max(id) FROM quarantine"), 3);
}
END_TEST

/* ---- release ---- */

START_TEST(what_is_released_is_an_event_like_any_other)
{
    struct delivery *delivery;

    put_late(3);
    start();
    delivery = late(2);
    ck_assert_int_eq(change_row(2, delivery), QUARANTINE_RELEASED);
    ck_assert_int_eq(delivery->verdict, VERDICT_ACCEPTED);
    ck_assert_int_eq(delivery->first_id, 1);
    ck_assert_uint_eq(delivery->rows, 1);
    delivery_free(delivery);
    ck_assert_int_eq(seen_in_done, 2); /* it is told after the commit */
    ck_assert_int_eq(count_of("outbox"), 1);
    ck_assert_int_eq(number("SELECT count(*) FROM outbox WHERE jti = 'jti-2'"), 1);
    ck_assert_int_eq(number("SELECT last_id FROM outbox_state"), 1);
    ck_assert_int_eq(count_of("raw"), 1);
    ck_assert_int_eq(number("SELECT count(*) FROM quarantine WHERE id = 2"), 0);
    check_counts();
}
END_TEST

/* Whatever kept it apart is set aside: also a reason that is no lateness, also "reject". */
START_TEST(neither_reason_nor_lateness_keeps_it)
{
    static const enum quarantine_reason reasons[] = {QUARANTINE_REASON_EXPIRED,
                                                     QUARANTINE_REASON_UNKNOWN_ISSUER,
                                                     QUARANTINE_REASON_EVENTS_UNCLEAR};
    enum verdict verdict;

    put_late(3);
    policy_unref(policy);
    policy = policy_make(CONFIG_LATE_REJECT);
    start();
    for (unsigned i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        ck_assert_int_eq(
            release(i + 1, as_quarantined(delivery_number(policy, i + 1), reasons[i]), &verdict),
            QUARANTINE_RELEASED);
        ck_assert_int_eq(verdict, VERDICT_ACCEPTED);
    }
    ck_assert_int_eq(count_of("outbox"), 3);
    ck_assert_int_eq(count_of("quarantine"), 0);
    check_counts();
}
END_TEST

START_TEST(what_was_stored_meanwhile_is_a_duplicate)
{
    enum verdict verdict;

    put_late(1);
    ck_assert_int_eq(add(delivery_number(policy, 1)), VERDICT_ACCEPTED);
    start();
    ck_assert_int_eq(release(1, late(1), &verdict), QUARANTINE_RELEASED);
    ck_assert_int_eq(verdict, VERDICT_DUPLICATE);
    ck_assert_int_eq(count_of("outbox"), 1);
    ck_assert_int_eq(count_of("quarantine"), 0);
    check_counts();
    /* and what was released is known from then on */
    writer_stop(writer);
    writer_free(writer);
    ck_assert_int_eq(add(late(2)), VERDICT_QUARANTINED);
    start();
    ck_assert_int_eq(release(2, late(2), &verdict), QUARANTINE_RELEASED);
    ck_assert_int_eq(verdict, VERDICT_ACCEPTED);
    writer_stop(writer);
    ck_assert_int_eq(add(delivery_number(policy, 2)), VERDICT_DUPLICATE);
    ck_assert_int_eq(add(late(2)), VERDICT_DUPLICATE);
}
END_TEST

START_TEST(what_the_app_ignores_leaves_no_trace)
{
    enum verdict verdict;

    ck_assert_int_eq(add(as_quarantined(delivery_of(policy, APP_NO_MAIL, "jti-9", MAIL),
                                        QUARANTINE_REASON_EXPIRED)),
                     VERDICT_QUARANTINED);
    start();
    ck_assert_int_eq(release(1, delivery_of(policy, APP_NO_MAIL, "jti-9", MAIL), &verdict),
                     QUARANTINE_RELEASED);
    ck_assert_int_eq(verdict, VERDICT_IGNORED);
    ck_assert_int_eq(count_of("outbox"), 0);
    ck_assert_int_eq(count_of("quarantine"), 0);
}
END_TEST

START_TEST(what_cannot_be_told_from_its_repeat_stays)
{
    static const char nameless[] = "{\"type\":\"consent-revoked\"}";
    enum verdict verdict;

    ck_assert_int_eq(add(delivery_of(policy, APP_PLAIN, NULL, nameless)), VERDICT_QUARANTINED);
    put_late(1);
    start();
    ck_assert_int_eq(release(1, delivery_of(policy, APP_PLAIN, NULL, nameless), &verdict),
                     QUARANTINE_UNCLEAR);
    ck_assert_int_eq(count_of("quarantine"), 2);
    ck_assert_int_eq(number("SELECT min(id) FROM quarantine"), 1);
    ck_assert_int_eq(count_of("outbox"), 0);
    check_counts();
    /* neither does that hold up anything else */
    ck_assert_int_eq(release(2, late(1), &verdict), QUARANTINE_RELEASED);
    ck_assert_int_eq(drop(1), QUARANTINE_DROPPED);
    ck_assert_int_eq(count_of("quarantine"), 0);
    check_counts();
}
END_TEST

/* ---- drop ---- */

START_TEST(what_is_dropped_is_gone_and_no_event)
{
    put_late(3);
    start();
    ck_assert_int_eq(drop(2), QUARANTINE_DROPPED);
    ck_assert_int_eq(seen_in_done, 2);
    ck_assert_int_eq(number("SELECT count(*) FROM quarantine WHERE id IN (1, 3)"), 2);
    ck_assert_int_eq(count_of("outbox"), 0);
    ck_assert_int_eq(count_of("seen"), 0);
    check_counts();
    /* nobody knows it any more: it may come again, apart as before */
    writer_stop(writer);
    ck_assert_int_eq(add(late(2)), VERDICT_QUARANTINED);
    ck_assert_int_eq(count_of("quarantine"), 3);
}
END_TEST

START_TEST(what_is_not_there_is_missing_and_stores_nothing)
{
    static const int64_t ids[] = {0, 2, -1, INT64_MAX, INT64_MIN};

    put_late(1);
    start();
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        enum verdict verdict;

        ck_assert_int_eq(drop(ids[i]), QUARANTINE_MISSING);
        ck_assert_int_eq(release(ids[i], late(1), &verdict), QUARANTINE_MISSING);
    }
    ck_assert_int_eq(count_of("quarantine"), 1);
    ck_assert_int_eq(count_of("outbox"), 0);
    check_counts();
    ck_assert_int_eq(drop(1), QUARANTINE_DROPPED);
    ck_assert_int_eq(drop(1), QUARANTINE_MISSING);
}
END_TEST

/* ---- limits ---- */

START_TEST(what_leaves_makes_room_for_a_row)
{
    enum verdict verdict;

    put_late(OUTBOX_QUARANTINE_ROWS);
    ck_assert_int_eq(add(late(5000)), VERDICT_BUSY);
    start();
    ck_assert_int_eq(drop(1), QUARANTINE_DROPPED);
    ck_assert_int_eq(release(2, late(2), &verdict), QUARANTINE_RELEASED);
    ck_assert_int_eq(release(3, late(3), &verdict), QUARANTINE_RELEASED);
    writer_stop(writer);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(add(late(5000 + i)), VERDICT_QUARANTINED);
    ck_assert_int_eq(add(late(6000)), VERDICT_BUSY);
}
END_TEST

/* With a body of so many bytes, no two alike. */
static struct delivery *wide(unsigned which, size_t bytes)
{
    struct delivery *delivery = late(which);
    char *raw = malloc(bytes + 1);

    ck_assert_ptr_nonnull(raw);
    memset(raw, 'x', bytes);
    raw[snprintf(raw, bytes, "%u ", which)] = 'x';
    free(delivery->raw);
    delivery->raw = raw;
    delivery->raw_bytes = bytes;
    return delivery;
}

START_TEST(what_leaves_makes_room_for_its_bytes)
{
    const size_t one = OUTBOX_QUARANTINE_BYTES / 16;

    for (unsigned i = 1; i <= 16; i++)
        ck_assert_int_eq(add(wide(i, one)), VERDICT_QUARANTINED);
    ck_assert_int_eq(add(wide(100, 16)), VERDICT_BUSY);
    start();
    ck_assert_int_eq(drop(16), QUARANTINE_DROPPED);
    check_counts();
    writer_stop(writer);
    ck_assert_int_eq(add(wide(100, one + 1)), VERDICT_BUSY);
    ck_assert_int_eq(add(wide(101, one)), VERDICT_QUARANTINED);
    ck_assert_int_eq(add(wide(102, 16)), VERDICT_BUSY);
}
END_TEST

/* ---- failures ---- */

START_TEST(a_full_disk_changes_nothing)
{
    enum verdict verdict;

    put_late(2);
    start();
    atomic_store(&write_error, ENOSPC);
    ck_assert_int_eq(drop(1), QUARANTINE_FAILED);
    ck_assert_int_eq(release(2, late(2), &verdict), QUARANTINE_FAILED);
    atomic_store(&write_error, 0);
    ck_assert_int_eq(count_of("quarantine"), 2);
    ck_assert_int_eq(count_of("outbox"), 0);
    check_counts();
    ck_assert_int_eq(release(2, late(2), &verdict), QUARANTINE_RELEASED);
    ck_assert_int_eq(verdict, VERDICT_ACCEPTED);
    ck_assert_int_eq(drop(1), QUARANTINE_DROPPED);
}
END_TEST

/* The row is back with its events, of which the first part was written already. */
START_TEST(events_that_cannot_be_stored_leave_the_row)
{
    enum verdict verdict;

    put_late(1);
    sqlite3_limit(outbox->db, SQLITE_LIMIT_LENGTH, 50000);
    start();
    ck_assert_int_eq(release(1, wide(1, 60000), &verdict), QUARANTINE_FAILED);
    ck_assert_int_eq(count_of("quarantine"), 1);
    ck_assert_int_eq(count_of("outbox"), 0);
    ck_assert_int_eq(count_of("seen"), 0);
    check_counts();
    ck_assert_int_eq(release(1, late(1), &verdict), QUARANTINE_RELEASED);
    ck_assert_int_eq(verdict, VERDICT_ACCEPTED);
}
END_TEST

START_TEST(after_the_end_it_stays_the_callers)
{
    struct quarantine_change change = {.id = 1, .done = on_done, .result = QUARANTINE_DROPPED};

    put_late(1);
    start();
    writer_stop(writer);
    ck_assert_int_eq(quarantine_post(writer, &change), -ESHUTDOWN);
    ck_assert_int_eq(change.result, QUARANTINE_FAILED);
    ck_assert_int_eq(sem_trywait(&over), -1);
    ck_assert_int_eq(count_of("quarantine"), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("quarantine");
    TCase *tests = tcase_create("quarantine");
    SRunner *runner = srunner_create(suite);

    tcase_set_timeout(tests, 2 * TIME_S);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, the_list_is_in_the_order_of_arrival);
    tcase_add_test(tests, an_id_is_never_given_twice);
    tcase_add_test(tests, what_is_released_is_an_event_like_any_other);
    tcase_add_test(tests, neither_reason_nor_lateness_keeps_it);
    tcase_add_test(tests, what_was_stored_meanwhile_is_a_duplicate);
    tcase_add_test(tests, what_the_app_ignores_leaves_no_trace);
    tcase_add_test(tests, what_cannot_be_told_from_its_repeat_stays);
    tcase_add_test(tests, what_is_dropped_is_gone_and_no_event);
    tcase_add_test(tests, what_is_not_there_is_missing_and_stores_nothing);
    tcase_add_test(tests, what_leaves_makes_room_for_a_row);
    tcase_add_test(tests, what_leaves_makes_room_for_its_bytes);
    tcase_add_test(tests, a_full_disk_changes_nothing);
    tcase_add_test(tests, events_that_cannot_be_stored_leave_the_row);
    tcase_add_test(tests, after_the_end_it_stays_the_callers);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
