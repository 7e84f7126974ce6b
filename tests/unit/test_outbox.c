/* outbox: what is committed is there, once, in order; and no file is touched that is not ours. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "failing_disk.h"

#define EVENT(type, sub, more) \
    "{\"type\":\"" type "\",\"sub\":\"" sub "\",\"event_time\":1700000000123" more "}"

static char why[OUTBOX_WHY_BYTES];
static struct policy *policy;

static void set_up(void)
{
    folder_make();
    failing_disk_install();
    policy = policy_make(CONFIG_LATE_QUARANTINE);
    why[0] = '\0';
}

static void tear_down(void)
{
    policy_unref(policy);
    folder_remove();
}

static struct outbox *outbox_make(void)
{
    struct outbox *outbox = NULL;
    int error = outbox_open(test_database, NOW_MS, &outbox, why);

    ck_assert_msg(error == 0, "%d: %s", error, why);
    return outbox;
}

static void close_clean(struct outbox *outbox)
{
    int error = outbox_close(outbox, why);

    ck_assert_msg(error == 0, "%d: %s", error, why);
}

static int64_t number_of(struct outbox *outbox, const char *sql)
{
    int64_t number = -1;

    ck_assert_int_eq(outbox_query_number(outbox->db, sql, &number), SQLITE_OK);
    return number;
}

static void execute(sqlite3 *db, const char *sql)
{
    char *error = NULL;

    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &error) == SQLITE_OK, "%s: %s", sql, error);
}

/* Changes the file behind the daemon's back, and leaves neither -wal nor -shm. */
static void tamper(const char *sql)
{
    sqlite3 *db = NULL;

    ck_assert_int_eq(sqlite3_open(test_database, &db), SQLITE_OK);
    execute(db, sql);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}

static void path_beside(const char *suffix, char ret_path[PATH_MAX + 64])
{
    snprintf(ret_path, PATH_MAX + 64, "%s%s", test_database, suffix);
}

static bool is_beside(const char *suffix)
{
    char path[PATH_MAX + 64];
    struct stat file;

    path_beside(suffix, path);
    return lstat(path, &file) == 0;
}

static void put_file(const char *suffix, const void *bytes, size_t count)
{
    char path[PATH_MAX + 64];
    int fd;

    path_beside(suffix, path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

static char *contents(const char *suffix, size_t *ret_bytes)
{
    char path[PATH_MAX + 64];
    struct stat file;
    char *bytes;
    int fd;

    path_beside(suffix, path);
    fd = open(path, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &file), 0);
    bytes = malloc((size_t)file.st_size + 1);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(read(fd, bytes, (size_t)file.st_size), file.st_size);
    close(fd);
    *ret_bytes = (size_t)file.st_size;
    return bytes;
}

/* An open that must fail, with a sentence that has the given words, and change nothing. */
static void refused(int error, const char *words)
{
    size_t before_bytes = 0, after_bytes = 0;
    char *before = is_beside("") ? contents("", &before_bytes) : NULL, *after = NULL;
    bool had_wal = is_beside("-wal"), had_shm = is_beside("-shm");
    struct outbox *outbox = NULL;

    ck_assert_int_eq(outbox_open(test_database, NOW_MS, &outbox, why), error);
    ck_assert_ptr_null(outbox);
    ck_assert_msg(strstr(why, words) && strstr(why, test_folder), "%s", why);
    ck_assert_int_eq(is_beside(""), before != NULL);
    ck_assert_int_eq(is_beside("-wal"), had_wal);
    ck_assert_int_eq(is_beside("-shm"), had_shm);
    if (before) {
        after = contents("", &after_bytes);
        ck_assert_uint_eq(before_bytes, after_bytes);
        ck_assert(memcmp(before, after, before_bytes) == 0);
    }
    free(before);
    free(after);
}

static void make_and_close(unsigned rows)
{
    struct outbox *outbox = outbox_make();

    for (unsigned i = 1; i <= rows; i++)
        ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, i)), VERDICT_ACCEPTED);
    close_clean(outbox);
}

/* ---- what is stored ---- */

START_TEST(a_repeat_is_a_duplicate_also_after_a_restart)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_DUPLICATE);
    close_clean(outbox);
    outbox = outbox_make();
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_DUPLICATE);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 2)), VERDICT_ACCEPTED);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM outbox"), 2);
    close_clean(outbox);
}
END_TEST

/* Apple sends two copies at once, and both wait for the same commit. */
START_TEST(a_repeat_in_the_same_batch_is_a_duplicate)
{
    struct outbox *outbox = outbox_make();
    struct delivery *first = delivery_number(policy, 1), *second = delivery_number(policy, 1);

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, first), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, second), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(first->verdict, VERDICT_ACCEPTED);
    ck_assert_int_eq(first->first_id, 1);
    ck_assert_uint_eq(first->rows, 1);
    ck_assert_int_eq(second->verdict, VERDICT_DUPLICATE);
    ck_assert_int_eq(second->first_id, 0);
    ck_assert_uint_eq(second->rows, 0);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM raw"), 1);
    delivery_free(first);
    delivery_free(second);
    close_clean(outbox);
}
END_TEST

/* What doctor sends is on the disk, and nobody who looks for Apple's notices. */
START_TEST(a_test_row_is_outside_of_everything)
{
    struct outbox *outbox = outbox_make();
    struct outbox_reader *reader = NULL;
    struct outbox_state before, after;
    int64_t received_ms = 0;

    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), 0);
    ck_assert_int_eq(outbox_reader_state(reader, &before), 0);
    ck_assert_int_eq(outbox_reader_test(reader, "probe-1", &received_ms), -ENOENT);
    for (int i = 0; i < 2; i++) { /* nor is it ever a duplicate */
        ck_assert_int_eq(delivery_add(outbox, delivery_test(policy, "probe-1")), VERDICT_ACCEPTED);
        ck_assert_int_eq(delivery_add(outbox, delivery_test(policy, "probe-2")), VERDICT_ACCEPTED);
    }
    ck_assert_int_eq(outbox_reader_state(reader, &after), 0);
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert_int_eq(outbox_reader_test(reader, "probe-1", &received_ms), 0);
    ck_assert_int_eq(received_ms, NOW_MS);
    ck_assert_int_eq(outbox_reader_test(reader, "jti-1", &received_ms), -ENOENT);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events WHERE test = 1"), 4);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM outbox"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM seen"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM raw"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM apps"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events WHERE test = 1 AND (sub NOT "
                                       "NULL OR email NOT NULL OR person NOT NULL OR id >= 0)"),
                     0);
    /* the oldest first, as retention takes them */
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events a JOIN events b ON a.rowid + 1 "
                                       "= b.rowid WHERE a.test = 1 AND a.jti < b.jti"),
                     2);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 2)), VERDICT_ACCEPTED);
    ck_assert_int_eq(number_of(outbox, "SELECT max(id) FROM outbox"), 2);
    outbox_reader_close(reader);
    close_clean(outbox);
    outbox = outbox_make(); /* and such a database is as good as any */
    ck_assert_int_eq(delivery_add(outbox, delivery_test(policy, "probe-3")), VERDICT_ACCEPTED);
    close_clean(outbox);
}
END_TEST

START_TEST(the_view_has_the_columns_of_the_contract)
{
    static const char *const columns[] = {"id",
                                          "type",
                                          "client_id",
                                          "app",
                                          "team",
                                          "sub",
                                          "email",
                                          "is_private_email",
                                          "event_time_ms",
                                          "issued_at_ms",
                                          "received_at_ms",
                                          "jti",
                                          "raw_type"};
    struct outbox *outbox = outbox_make();
    sqlite3_stmt *statement = NULL;

    ck_assert_int_eq(sqlite3_prepare_v2(outbox->db, "SELECT * FROM outbox", -1, &statement, NULL),
                     SQLITE_OK);
    ck_assert_int_eq(sqlite3_column_count(statement), (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < sqlite3_column_count(statement); i++)
        ck_assert_str_eq(sqlite3_column_name(statement, i), columns[i]);
    sqlite3_finalize(statement);
    ck_assert_int_eq(
        sqlite3_prepare_v2(outbox->db, "SELECT * FROM outbox_state", -1, &statement, NULL),
        SQLITE_OK);
    ck_assert_int_eq(sqlite3_column_count(statement), 3);
    ck_assert_str_eq(sqlite3_column_name(statement, 0), "generation");
    ck_assert_str_eq(sqlite3_column_name(statement, 1), "pruned_through");
    ck_assert_str_eq(sqlite3_column_name(statement, 2), "last_id");
    sqlite3_finalize(statement);
    close_clean(outbox);
}
END_TEST

static bool first_row(void *context, const struct outbox_row *row)
{
    (void)context;
    ck_assert_int_eq(row->id, 1);
    ck_assert_str_eq(row->type, "account-delete");
    ck_assert_str_eq(row->raw_type, "account-deleted");
    ck_assert_str_eq(row->client_id, APP_PLAIN);
    ck_assert_str_eq(row->app, "Example");
    ck_assert_str_eq(row->team, "ABCDE12345");
    ck_assert_str_eq(row->sub, "s1");
    ck_assert_str_eq(row->email, "a@example.com");
    ck_assert_int_eq(row->is_private_email, 1);
    ck_assert_int_eq(row->event_time_ms, INT64_C(1700000000123));
    ck_assert_int_eq(row->issued_at_ms, INT64_C(1700000000000));
    ck_assert_int_eq(row->received_at_ms, NOW_MS);
    ck_assert_str_eq(row->jti, "j1");
    return true;
}

static bool second_row(void *context, const struct outbox_row *row)
{
    (void)context;
    ck_assert_int_eq(row->id, 2);
    ck_assert_str_eq(row->type, "something-new");
    ck_assert_ptr_null(row->sub);
    ck_assert_ptr_null(row->email);
    ck_assert_int_eq(row->is_private_email, -1);
    ck_assert_int_eq(row->event_time_ms, -1);
    return true;
}

START_TEST(a_row_holds_what_apple_said)
{
    struct outbox *outbox = outbox_make();
    struct outbox_reader *reader = NULL;

    ck_assert_int_eq(
        delivery_add(outbox,
                     delivery_of(policy, APP_PLAIN, "j1",
                                 EVENT("account-deleted", "s1",
                                       ",\"email\":\"a@example.com\",\"is_private_email\":true"))),
        VERDICT_ACCEPTED);
    ck_assert_int_eq(
        delivery_add(outbox, delivery_of(policy, APP_PLAIN, "j2", "{\"type\":\"something-new\"}")),
        VERDICT_ACCEPTED);
    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), 0);
    ck_assert_int_eq(outbox_reader_rows(reader, 0, 1, first_row, NULL), 1);
    ck_assert_int_eq(outbox_reader_rows(reader, 1, 500, second_row, NULL), 1);
    ck_assert_int_eq(outbox_reader_rows(reader, 2, 500, second_row, NULL), 0);
    outbox_reader_close(reader);
    /* the body as it came, under the first row's id */
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM raw JOIN events ON raw.id = raw_id "
                                       "WHERE raw.id = events.id AND length(body) > 0"),
                     2);
    close_clean(outbox);
}
END_TEST

/* Erasure finds by it: the sub of one team is one person in all its apps. */
START_TEST(a_row_knows_its_person)
{
    struct outbox *outbox = outbox_make();

    delivery_add(outbox, delivery_of(policy, APP_PLAIN, "j1", EVENT("account-deleted", "s1", "")));
    delivery_add(outbox,
                 delivery_of(policy, APP_NO_MAIL, "j2", EVENT("account-deleted", "s1", "")));
    delivery_add(outbox, delivery_of(policy, APP_PLAIN, "j3", EVENT("account-deleted", "s2", "")));
    delivery_add(outbox, delivery_of(policy, APP_PLAIN, "j4", "{\"type\":\"something-new\"}"));
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events WHERE length(person) = 16"), 3);
    ck_assert_int_eq(number_of(outbox, "SELECT count(DISTINCT person) FROM events"), 2);
    ck_assert_int_eq(number_of(outbox, "SELECT id FROM events WHERE person IS NULL"), 4);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events WHERE erased_at_ms IS NULL"),
                     4);
    close_clean(outbox);
}
END_TEST

/* A body may tell of a person who has no row, since that event came before. */
START_TEST(a_body_about_two_people_is_marked)
{
    struct outbox *outbox = outbox_make();

    delivery_add(outbox, delivery_of(policy, APP_PLAIN, "j1", EVENT("account-deleted", "s1", "")));
    delivery_add(outbox,
                 delivery_of(policy, APP_PLAIN, "j2",
                             "[" EVENT("account-deleted", "s2", "") "," EVENT("x", "s2", "") "]"));
    delivery_add(outbox,
                 delivery_of(policy, APP_PLAIN, "j3",
                             "[" EVENT("account-deleted", "s1", "") ",{\"type\":\"y\"}," EVENT(
                                 "account-deleted", "s3", "") "]"));
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM raw"), 3);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM raw WHERE mixed = 1"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT id FROM raw WHERE mixed = 1"), 4);
    close_clean(outbox);
}
END_TEST

START_TEST(test_rows_stand_outside_the_view)
{
    struct outbox *outbox;

    make_and_close(2);
    tamper("UPDATE events SET test = 1 WHERE id = 1");
    outbox = outbox_make();
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM outbox"), 1);
    ck_assert_int_eq(number_of(outbox, "SELECT id FROM outbox"), 2);
    close_clean(outbox);
}
END_TEST

/* A consumer's cursor would pass over a row that gets an id which was given before. */
START_TEST(an_id_is_never_given_twice)
{
    struct outbox *outbox;

    make_and_close(3);
    tamper("DELETE FROM events; DELETE FROM raw");
    outbox = outbox_make();
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 9)), VERDICT_ACCEPTED);
    ck_assert_int_eq(number_of(outbox, "SELECT id FROM outbox"), 4);
    ck_assert_int_eq(number_of(outbox, "SELECT last_id FROM outbox_state"), 4);
    close_clean(outbox);
}
END_TEST

START_TEST(polling_is_a_range_search_without_sort)
{
    struct outbox *outbox = outbox_make();
    sqlite3_stmt *statement = NULL;
    int steps = 0;

    ck_assert_int_eq(
        sqlite3_prepare_v2(outbox->db, "EXPLAIN QUERY PLAN " OUTBOX_POLL_SQL, -1, &statement, NULL),
        SQLITE_OK);
    while (sqlite3_step(statement) == SQLITE_ROW) {
        ck_assert_str_eq((const char *)sqlite3_column_text(statement, 3),
                         "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)");
        steps++;
    }
    ck_assert_int_eq(steps, 1);
    sqlite3_finalize(statement);
    close_clean(outbox);
}
END_TEST

/* ---- judgement ---- */

START_TEST(what_an_app_ignores_leaves_no_trace)
{
    struct outbox *outbox = outbox_make();
    const char *event = EVENT("email-disabled", "s1", ",\"email\":\"a@example.com\"");

    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_NO_MAIL, "j1", event)),
                     VERDICT_IGNORED);
    ck_assert_int_eq(number_of(outbox, "SELECT (SELECT count(*) FROM events) + (SELECT count(*) "
                                       "FROM seen) + (SELECT count(*) FROM raw) + (SELECT count(*) "
                                       "FROM apps)"),
                     0);
    /* another app wants it; and the first would have it, were its setting another */
    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_PLAIN, "j1", event)),
                     VERDICT_ACCEPTED);
    close_clean(outbox);
}
END_TEST

START_TEST(of_several_events_the_strongest_counts)
{
    struct outbox *outbox = outbox_make();
    const char *mail = EVENT("email-enabled", "s1", "");
    const char *mail_and_consent =
        "[" EVENT("email-enabled", "s1", "") "," EVENT("consent-revoked", "s1", "") "]";
    const char *three = "[" EVENT("email-enabled", "s1", "") "," EVENT(
        "consent-revoked", "s1", "") "," EVENT("account-delete", "s1", "") "]";
    struct delivery *delivery;

    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_NO_MAIL, "a", mail)),
                     VERDICT_IGNORED);
    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_NO_MAIL, "b", mail_and_consent)),
                     VERDICT_ACCEPTED);
    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_NO_MAIL, "c", mail_and_consent)),
                     VERDICT_DUPLICATE);
    delivery = delivery_of(policy, APP_NO_MAIL, "d", three);
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(delivery->verdict, VERDICT_ACCEPTED);
    ck_assert_uint_eq(delivery->rows, 1);
    ck_assert_uint_eq(delivery->stored, 1U << 2);
    ck_assert_int_eq(delivery->first_id, 2);
    delivery_free(delivery);
    close_clean(outbox);
}
END_TEST

static struct delivery *late(struct policy *rules, unsigned number)
{
    return as_quarantined(delivery_number(rules, number), QUARANTINE_REASON_EXPIRED);
}

/* Identity comes before lateness: the repeat of what is stored is a duplicate under each setting;
 * were it an error, Apple would go on for ever. */
START_TEST(a_late_one_follows_the_setting_unless_it_is_a_repeat)
{
    static const struct {
        enum config_late setting;
        enum verdict verdict;
        int events, quarantined;
    } cases[] = {
        {CONFIG_LATE_DELIVER, VERDICT_ACCEPTED, 2, 0},
        {CONFIG_LATE_REJECT, VERDICT_EXPIRED, 1, 0},
        {CONFIG_LATE_QUARANTINE, VERDICT_QUARANTINED, 1, 1},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct policy *rules = policy_make(cases[i].setting);
        struct outbox *outbox = outbox_make();

        ck_assert_int_eq(delivery_add(outbox, delivery_number(rules, 1)), VERDICT_ACCEPTED);
        ck_assert_int_eq(delivery_add(outbox, late(rules, 1)), VERDICT_DUPLICATE);
        ck_assert_int_eq(delivery_add(outbox, late(rules, 2)), cases[i].verdict);
        ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events"), cases[i].events);
        ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM quarantine"),
                         cases[i].quarantined);
        /* what was not stored is not taken for known when it comes in time */
        ck_assert_int_eq(delivery_add(outbox, delivery_number(rules, 2)),
                         cases[i].events == 2 ? VERDICT_DUPLICATE : VERDICT_ACCEPTED);
        close_clean(outbox);
        policy_unref(rules);
        folder_remove();
        ck_assert_int_eq(mkdir(test_folder, 0700), 0);
    }
}
END_TEST

START_TEST(a_late_repeat_of_a_partly_ignored_one_is_a_duplicate)
{
    const char *events =
        "[" EVENT("email-enabled", "s1", "") "," EVENT("consent-revoked", "s1", "") "]";
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_NO_MAIL, "a", events)),
                     VERDICT_ACCEPTED);
    ck_assert_int_eq(
        delivery_add(outbox, as_quarantined(delivery_of(policy, APP_NO_MAIL, "a", events),
                                            QUARANTINE_REASON_EXPIRED)),
        VERDICT_DUPLICATE);
    /* lateness comes before policy */
    ck_assert_int_eq(
        delivery_add(outbox, as_quarantined(delivery_of(policy, APP_NO_MAIL, "b",
                                                        EVENT("email-enabled", "s2", "")),
                                            QUARANTINE_REASON_EXPIRED)),
        VERDICT_QUARANTINED);
    close_clean(outbox);
}
END_TEST

static struct delivery *with_body(struct delivery *delivery, const char *body)
{
    free(delivery->raw);
    delivery->raw = strdup(body);
    ck_assert_ptr_nonnull(delivery->raw);
    delivery->raw_bytes = strlen(body);
    return delivery;
}

/* Who holds one expired token can wrap it in ever new members: it must stay one row, or he fills
 * the quarantine. */
START_TEST(quarantine_knows_a_token_again_in_any_wrapping)
{
    struct outbox *outbox = outbox_make();
    const char *const bodies[] = {"{\"payload\":\"a.b.c\"}", "{\"payload\":\"a.b.c\",\"x\":1}",
                                  "{\"x\":2, \"payload\" : \"a.b.c\"}"};

    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(delivery_add(outbox, with_body(late(policy, 7), bodies[i])),
                         VERDICT_QUARANTINED);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM quarantine"), 1);
    ck_assert_int_eq(
        delivery_add(outbox, with_body(as_quarantined(delivery_number(policy, 8),
                                                      QUARANTINE_REASON_UNKNOWN_ISSUER),
                                       "{\"payload\":\"a.b.d\"}")),
        VERDICT_QUARANTINED);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM quarantine WHERE reason = "
                                       "'unknown_issuer' AND client_id = '" APP_PLAIN "'"),
                     1);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM seen"), 0);
    close_clean(outbox);
}
END_TEST

/* What came first is worth more than what a flood brings later. */
START_TEST(quarantine_is_bounded_and_pushes_nothing_out)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    for (unsigned i = 1; i <= OUTBOX_QUARANTINE_ROWS; i++) {
        struct delivery *delivery = late(policy, i);

        ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
        ck_assert_int_eq(delivery->verdict, VERDICT_QUARANTINED);
        delivery_free(delivery);
    }
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(delivery_add(outbox, late(policy, 5000)), VERDICT_BUSY);
    ck_assert_int_eq(delivery_add(outbox, late(policy, 1)), VERDICT_QUARANTINED);
    close_clean(outbox);
    outbox = outbox_make(); /* the bound survives a restart */
    ck_assert_int_eq(delivery_add(outbox, late(policy, 5000)), VERDICT_BUSY);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM quarantine"), OUTBOX_QUARANTINE_ROWS);
    ck_assert_int_eq(number_of(outbox, "SELECT min(id) FROM quarantine"), 1);
    close_clean(outbox);
}
END_TEST

START_TEST(quarantine_is_bounded_in_bytes)
{
    struct outbox *outbox = outbox_make();
    char *body = malloc(60001);
    int stored = 0, full = 0;

    ck_assert_ptr_nonnull(body);
    memset(body, 'x', 60000);
    body[60000] = '\0';
    for (unsigned i = 0; i < 300; i++) {
        enum verdict verdict;

        snprintf(body, 9, "%08u", i);
        body[8] = 'x';
        verdict = delivery_add(outbox, with_body(late(policy, i), body));
        stored += verdict == VERDICT_QUARANTINED;
        full += verdict == VERDICT_BUSY;
    }
    free(body);
    ck_assert_int_eq(stored, OUTBOX_QUARANTINE_BYTES / 60000);
    ck_assert_int_eq(stored + full, 300);
    close_clean(outbox);
}
END_TEST

/* Without sub, time and jti no repeat can be told: stored each time, it would grow without end. */
START_TEST(what_has_no_identity_is_quarantined)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(delivery_add(outbox, delivery_of(policy, APP_PLAIN, NULL,
                                                      "{\"type\":\"consent-revoked\"}")),
                     VERDICT_QUARANTINED);
    ck_assert_int_eq(
        number_of(outbox, "SELECT count(*) FROM quarantine WHERE reason = 'events_unclear'"), 1);
    close_clean(outbox);
}
END_TEST

START_TEST(a_refused_one_is_never_stored)
{
    struct outbox *outbox = outbox_make();
    struct delivery *delivery = delivery_number(policy, 1);

    delivery->judgement.verdict = VERDICT_BAD_SIGNATURE;
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_DELIVERY);
    ck_assert_int_eq(delivery->verdict, VERDICT_INTERNAL);
    outbox_rollback(outbox);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM events"), 0);
    delivery_free(delivery);
    close_clean(outbox);
}
END_TEST

START_TEST(a_rollback_takes_everything_back)
{
    struct outbox *outbox = outbox_make();
    struct delivery *first = delivery_number(policy, 1), *second = late(policy, 2);

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, first), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, second), OUTBOX_ERROR_NONE);
    outbox_rollback(outbox);
    ck_assert_int_eq(number_of(outbox, "SELECT (SELECT count(*) FROM events) + (SELECT count(*) "
                                       "FROM seen) + (SELECT count(*) FROM raw) + (SELECT count(*) "
                                       "FROM quarantine) + (SELECT last_id FROM state)"),
                     0);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_eq(number_of(outbox, "SELECT id FROM outbox"), 1);
    delivery_free(first);
    delivery_free(second);
    close_clean(outbox);
}
END_TEST

static void count_app(void *context, const char *client_id, int64_t last_ms)
{
    ck_assert_str_eq(client_id, APP_PLAIN);
    ck_assert_int_eq(last_ms, NOW_MS + 5);
    ++*(int *)context;
}

START_TEST(last_accepted_survives_a_restart)
{
    struct outbox *outbox = outbox_make();
    struct delivery *delivery = delivery_number(policy, 2);
    struct outbox_reader *reader = NULL;
    int apps = 0;

    delivery->received_at_ms = NOW_MS + 5;
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_eq(delivery_add(outbox, delivery), VERDICT_ACCEPTED);
    close_clean(outbox);
    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), 0);
    ck_assert_int_eq(outbox_reader_last_accepted(reader, count_app, &apps), 0);
    ck_assert_int_eq(apps, 1);
    outbox_reader_close(reader);
}
END_TEST

/* A delivery that arrived so long after NOW_MS, or did so and was kept apart until now. */
static struct delivery *arrived(int64_t after_ms, bool was_apart)
{
    static unsigned number;
    struct delivery *delivery = delivery_number(policy, ++number);

    delivery->received_at_ms = NOW_MS + after_ms;
    delivery->was_apart = was_apart;
    return delivery;
}

/* What arrives is the last also after the clock was ahead; what was kept apart only where it is
 * later. Both in one transaction, and in one each. */
START_TEST(what_was_kept_apart_is_the_last_accepted_only_where_it_is_later)
{
    static const struct {
        int64_t after_ms;
        bool was_apart;
        int64_t last_ms;
    } steps[] = {{50, true, 50},  {40, true, 50},  {100, false, 100}, {20, true, 100},
                 {30, false, 30}, {20, true, 30},  {60, true, 60},    {70, true, 70},
                 {40, true, 70},  {10, false, 10}, {15, true, 15},    {12, true, 15}};
    enum { STEPS = sizeof steps / sizeof *steps };

    for (int from = 0; from < STEPS; from++) {
        struct outbox *outbox = outbox_make();
        struct delivery *together[STEPS];

        for (int i = 0; i < from; i++) {
            ck_assert_int_eq(delivery_add(outbox, arrived(steps[i].after_ms, steps[i].was_apart)),
                             VERDICT_ACCEPTED);
            ck_assert_int_eq(number_of(outbox, "SELECT last_accepted_ms FROM apps") - NOW_MS,
                             steps[i].last_ms);
        }
        ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
        for (int i = from; i < STEPS; i++) {
            together[i] = arrived(steps[i].after_ms, steps[i].was_apart);
            ck_assert_int_eq(outbox_add(outbox, together[i]), OUTBOX_ERROR_NONE);
        }
        ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
        ck_assert_int_eq(number_of(outbox, "SELECT last_accepted_ms FROM apps") - NOW_MS,
                         steps[STEPS - 1].last_ms);
        for (int i = from; i < STEPS; i++)
            delivery_free(together[i]);
        close_clean(outbox);
        folder_remove();
        folder_make();
    }
}
END_TEST

START_TEST(more_apps_than_are_remembered_in_one_transaction)
{
    enum { APPS = OUTBOX_PENDING_APPS * 2 + 1 };
    static char names[APPS][32];
    static struct config_app apps[APPS];
    const struct config config = {.apps = apps, .app_count = APPS};
    struct outbox *outbox = outbox_make();
    struct delivery *deliveries[APPS];
    struct policy *many = NULL;

    for (unsigned i = 0; i < APPS; i++) {
        snprintf(names[i], sizeof names[i], "com.example.%u", i);
        apps[i] = (struct config_app){.client_id = names[i], .app = "a", .team = "t"};
    }
    ck_assert_int_eq(policy_new(&config, &many), 0);
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    for (unsigned i = 0; i < APPS; i++) {
        deliveries[i] = delivery_of(many, names[i], "j", EVENT("consent-revoked", "s", ""));
        ck_assert_int_eq(outbox_add(outbox, deliveries[i]), OUTBOX_ERROR_NONE);
    }
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM apps"), APPS);
    for (unsigned i = 0; i < APPS; i++)
        delivery_free(deliveries[i]);
    policy_unref(many);
    close_clean(outbox);
}
END_TEST

/* ---- the file ---- */

static mode_t mode_of(const char *suffix)
{
    char path[PATH_MAX + 64];
    struct stat file;

    path_beside(suffix, path);
    ck_assert_int_eq(lstat(path, &file), 0);
    return file.st_mode & 07777;
}

START_TEST(the_group_reads_and_nobody_else)
{
    static const mode_t masks[] = {0, 077};

    for (int i = 0; i < 2; i++) {
        struct outbox *outbox;

        umask(masks[i]);
        outbox = outbox_make();
        ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
        ck_assert_uint_eq(mode_of(""), 0640);
        ck_assert_uint_eq(mode_of("-wal"), 0640);
        ck_assert_uint_eq(mode_of("-shm"), 0640);
        close_clean(outbox);
        /* another user's reader cannot make them: they stay */
        ck_assert(is_beside("-wal") && is_beside("-shm"));
        ck_assert(!is_beside(".new"));
        folder_remove();
        ck_assert_int_eq(mkdir(test_folder, 0700), 0);
    }
    umask(022);
}
END_TEST

START_TEST(the_connection_is_set_as_promised)
{
    struct outbox *outbox = outbox_make();
    int value = -1;

    ck_assert_int_eq(number_of(outbox, "PRAGMA synchronous"), 2);
    ck_assert_int_eq(number_of(outbox, "PRAGMA secure_delete"), 1);
    ck_assert_int_eq(number_of(outbox, "PRAGMA wal_autocheckpoint"), 0);
    ck_assert_int_eq(number_of(outbox, "PRAGMA journal_size_limit"), OUTBOX_WAL_LIMIT_BYTES);
    ck_assert_int_eq(number_of(outbox, "PRAGMA cache_size"), -OUTBOX_CACHE_KIB);
    ck_assert_int_eq(number_of(outbox, "PRAGMA trusted_schema"), 0);
    ck_assert_int_eq(number_of(outbox, "PRAGMA busy_timeout"), OUTBOX_BUSY_MS);
    ck_assert_int_eq(number_of(outbox, "PRAGMA application_id"), OUTBOX_APPLICATION_ID);
    ck_assert_int_eq(number_of(outbox, "PRAGMA user_version"), OUTBOX_SCHEMA_VERSION);
    ck_assert_int_eq(number_of(outbox,
                               "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' "
                               "AND type = 'table' AND NOT strict AND name NOT LIKE "
                               "'sqlite%'"),
                     0);
    sqlite3_db_config(outbox->db, SQLITE_DBCONFIG_DEFENSIVE, -1, &value);
    ck_assert_int_eq(value, 1);
    sqlite3_file_control(outbox->db, "main", SQLITE_FCNTL_PERSIST_WAL, (value = -1, &value));
    ck_assert_int_eq(value, 1);
    close_clean(outbox);
}
END_TEST

START_TEST(one_daemon_a_file)
{
    struct outbox *outbox = outbox_make(), *second = NULL;

    ck_assert_int_eq(outbox_open(test_database, NOW_MS, &second, why), -EBUSY);
    ck_assert_ptr_nonnull(strstr(why, "another siwa-notifyd"));
    close_clean(outbox);
    outbox = outbox_make();
    close_clean(outbox);
}
END_TEST

START_TEST(foreign_files_are_refused_and_left_alone)
{
    static const char garbage[8192] = "this is not a database";
    struct {
        char path[PATH_MAX + 64];
    } target;

    put_file("", garbage, sizeof garbage);
    refused(-EINVAL, "not a SQLite database");
    put_file("", garbage, 10);
    refused(-EINVAL, "not a SQLite database");
    put_file("", "", 0);
    refused(-EINVAL, "an empty file");
    unlink(test_database);
    tamper("CREATE TABLE t (a)");
    refused(-EINVAL, "another program");
    tamper("PRAGMA application_id = 252006673; PRAGMA journal_mode = WAL");
    refused(-EINVAL, "another program");
    unlink(test_database);
    ck_assert_int_eq(mkdir(test_database, 0700), 0);
    ck_assert_int_eq(outbox_open(test_database, NOW_MS, &(struct outbox *){NULL}, why), -EINVAL);
    rmdir(test_database);
    path_beside(".elsewhere", target.path);
    ck_assert_int_eq(symlink(target.path, test_database), 0);
    ck_assert_int_eq(outbox_open(test_database, NOW_MS, &(struct outbox *){NULL}, why), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why, "symbolic link"));
    ck_assert(!is_beside(".elsewhere"));
}
END_TEST

START_TEST(other_schemas_are_refused_and_left_alone)
{
    make_and_close(1);
    tamper("PRAGMA user_version = 2");
    refused(-EINVAL, "newer siwa-notifyd");
    tamper("PRAGMA user_version = 0");
    refused(-EINVAL, "schema version 0");
    tamper("PRAGMA user_version = 1; CREATE TABLE more (a)");
    refused(-EINVAL, "its tables are not those");
    tamper("DROP TABLE more; DROP VIEW outbox");
    refused(-EINVAL, "its tables are not those");
    tamper("CREATE VIEW outbox AS SELECT 1 AS id");
    refused(-EINVAL, "its tables are not those");
}
END_TEST

/* An id given twice is an event that a consumer never sees. */
START_TEST(a_count_behind_its_rows_is_refused)
{
    make_and_close(3);
    tamper("UPDATE state SET last_id = 2");
    refused(-EINVAL, "ids beyond its own count");
}
END_TEST

START_TEST(a_truncated_database_is_refused_and_left_alone)
{
    struct stat file;

    make_and_close(50);
    ck_assert_int_eq(stat(test_database, &file), 0);
    ck_assert_int_eq(truncate(test_database, file.st_size / 2 / 4096 * 4096), 0);
    refused(-EIO, "restore it from a backup");
    ck_assert_int_eq(truncate(test_database, 60), 0);
    refused(-EINVAL, "application_id 0");
}
END_TEST

static void key_file(char ret_path[PATH_MAX + 64])
{
    snprintf(ret_path, PATH_MAX + 64, "%s/outbox.key", test_folder);
}

/* With a new key every repeat would be stored once more. */
START_TEST(a_database_without_its_own_key_is_refused)
{
    char path[PATH_MAX + 64];
    struct identity_key *key = NULL;
    char key_why[JWKS_WHY_BYTES];

    make_and_close(1);
    key_file(path);
    ck_assert_int_eq(unlink(path), 0);
    refused(-ENOENT, "restore it from a backup");
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_int_eq(identity_key_open(path, true, &key, key_why), 0);
    identity_key_free(key);
    refused(-EINVAL, "not the identity key");
}
END_TEST

/* An old -wal beside a new file would be replayed into it; and a database that went away while the
 * daemon ran must not come back empty without a word. */
START_TEST(a_lost_database_is_not_replaced_in_silence)
{
    put_file("-wal", "frames", 6);
    refused(-EINVAL, "its -wal is there");
    put_file("-wal", "", 0);
    put_file(".failed", "", 0);
    refused(-EINVAL, "missing since a storage error");
}
END_TEST

START_TEST(after_a_storage_error_a_sound_database_is_checked_and_opened)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(outbox_mark_failed(outbox), 0);
    close_clean(outbox);
    ck_assert(is_beside(".failed"));
    outbox = outbox_make();
    ck_assert(!is_beside(".failed"));
    close_clean(outbox);
}
END_TEST

START_TEST(after_a_storage_error_a_damaged_one_is_refused_and_left_alone)
{
    char junk[4096];
    int fd;

    make_and_close(200);
    memset(junk, 0xA5, sizeof junk);
    fd = open(test_database, O_RDWR);
    /* a leaf in the middle, of whatever table: the schema at the beginning stays sound */
    ck_assert_int_eq(pwrite(fd, junk, sizeof junk, 4096 * 15), (ssize_t)sizeof junk);
    close(fd);
    put_file(".failed", "", 0);
    refused(-EIO, "restore it from a backup");
    ck_assert(is_beside(".failed"));
}
END_TEST

START_TEST(a_folder_that_cannot_be_written_is_refused)
{
    pid_t child;
    int status = 0;

    if (geteuid() != 0) {
        ck_assert_int_eq(chmod(test_folder, 0500), 0);
        refused(-EACCES, "not writable");
        ck_assert_int_eq(chmod(test_folder, 0700), 0);
        return;
    }
    ck_assert_int_eq(chmod(test_folder, 0755), 0);
    child = fork();
    if (child == 0) {
        struct outbox *outbox = NULL;

        _exit(setuid(65534) == 0 && outbox_open(test_database, NOW_MS, &outbox, why) == -EACCES &&
                      strstr(why, "not writable")
                  ? 0
                  : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(network_file_systems_are_known)
{
    ck_assert_str_eq(outbox_network_filesystem(0x6969), "NFS");
    ck_assert_str_eq(outbox_network_filesystem(0xFF534D42), "CIFS");
    ck_assert_str_eq(outbox_network_filesystem(0xFFFFFFFFFF534D42), "CIFS"); /* sign extended */
    ck_assert_str_eq(outbox_network_filesystem(0x65735546), "FUSE");
    ck_assert_ptr_null(outbox_network_filesystem(0xEF53));     /* ext4 */
    ck_assert_ptr_null(outbox_network_filesystem(0x58465342)); /* xfs */
    ck_assert_ptr_null(outbox_network_filesystem(0x9123683E)); /* btrfs */
    ck_assert_ptr_null(outbox_network_filesystem(0x01021994)); /* tmpfs */
}
END_TEST

/* ---- what dies on the way ---- */

/* Killed at any moment of its first start, it leaves what the next one opens. */
START_TEST(a_first_start_may_be_killed_at_any_moment)
{
    for (unsigned i = 0; i < 40; i++) {
        struct timespec pause = {.tv_nsec = (long)i * 400000L};
        pid_t child = fork();

        ck_assert_int_ge(child, 0);
        if (child == 0) {
            struct outbox *outbox = NULL;

            _exit(outbox_open(test_database, NOW_MS, &outbox, why) == 0 ? 0 : 1);
        }
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        make_and_close(1);
        folder_remove();
        ck_assert_int_eq(mkdir(test_folder, 0700), 0);
    }
}
END_TEST

/* The same moments without luck: what each of them leaves. */
START_TEST(what_an_unfinished_first_start_leaves_is_no_obstacle)
{
    char path[PATH_MAX + 64];

    put_file(".new", "half a database", 15);
    put_file(".new-journal", "half a journal", 14);
    put_file(".new-wal", "half", 4);
    make_and_close(1);
    ck_assert(!is_beside(".new") && !is_beside(".new-journal") && !is_beside(".new-wal"));
    path_beside(".new", path); /* named twice, the first name not yet gone */
    ck_assert_int_eq(link(test_database, path), 0);
    close_clean(outbox_make());
    ck_assert(!is_beside(".new"));
    ck_assert_int_eq(unlink(test_database), 0); /* the key was made, the database not yet */
    unlink((path_beside("-wal", path), path));
    unlink((path_beside("-shm", path), path));
    make_and_close(1);
}
END_TEST

/* A process dies between its write and its sync: the row is there for us to read, and only in
 * memory. Were a repeat of it a duplicate now, a power cut would lose what was answered with 200.
 * So an open moves it into the file, which is synced. */
START_TEST(what_a_dead_process_left_is_made_durable_before_anything_else)
{
    pid_t child = fork();
    struct outbox *outbox;
    sqlite3 *db = NULL;
    char uri[PATH_MAX + 64];
    int64_t rows = -1;

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        outbox = outbox_make();
        delivery_add(outbox, delivery_number(policy, 1));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    outbox = outbox_make();
    snprintf(uri, sizeof uri, "file:%s?immutable=1", test_database); /* does not look at the WAL */
    ck_assert_int_eq(sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL),
                     SQLITE_OK);
    ck_assert_int_eq(outbox_query_number(db, "SELECT count(*) FROM events", &rows), SQLITE_OK);
    ck_assert_int_eq(rows, 1);
    sqlite3_close(db);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_DUPLICATE);
    close_clean(outbox);
}
END_TEST

/* Leaves so many rows, and a -wal that holds them alone. */
static void make_and_die(unsigned rows)
{
    pid_t child = fork();

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct outbox *outbox = outbox_make();

        for (unsigned i = 1; i <= rows; i++)
            delivery_add(outbox, delivery_number(policy, i));
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void remove_beside(const char *suffix)
{
    char path[PATH_MAX + 64];

    path_beside(suffix, path);
    ck_assert_int_eq(unlink(path), 0);
}

#define WAL_FRAME_BYTES (24 + 4096)

static void flip(const char *suffix, off_t at)
{
    char path[PATH_MAX + 64];
    unsigned char byte;
    int fd;

    path_beside(suffix, path);
    fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 0x55;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* What SQLite would take for the end, and write over: rows that were answered with 200. */
START_TEST(a_wal_that_is_damaged_before_its_end_is_refused_and_left_alone)
{
    /* the magic's neighbours, the salt, the sum of the header; a frame's header, salt, sum, page */
    static const off_t places[] = {9, 13, 16, 30, 32 + 3, 32 + 9, 32 + 20, 32 + 24 + 4000};
    struct outbox *outbox;

    make_and_die(6);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        size_t bytes, again_bytes;
        char *damaged, *again;

        flip("-wal", places[i]);
        damaged = contents("-wal", &bytes);
        refused(-EIO, "commits stand behind a place that cannot be read");
        again = contents("-wal", &again_bytes);
        ck_assert_uint_eq(bytes, again_bytes);
        ck_assert(memcmp(damaged, again, bytes) == 0);
        free(damaged);
        free(again);
        flip("-wal", places[i]);
    }
    outbox = outbox_make();
    ck_assert_int_eq(outbox_last_id(outbox), 6);
    close_clean(outbox);
}
END_TEST

/* The last commit may not have been synced when the power went. */
START_TEST(a_wal_that_is_torn_at_its_end_is_in_order)
{
    struct outbox *outbox;
    size_t bytes;
    char *wal;
    off_t end = 32;

    make_and_die(6);
    wal = contents("-wal", &bytes);
    while ((size_t)end + 4 <= bytes && memcmp(wal + end, "\0\0\0", 4) != 0)
        end += WAL_FRAME_BYTES;
    free(wal);
    flip("-wal", end - WAL_FRAME_BYTES + 24 + 4000);
    outbox = outbox_make();
    ck_assert_int_eq(outbox_last_id(outbox), 5);
    close_clean(outbox);
    /* and frames of an earlier round, which are in the database, stand behind those of the last */
    make_and_die(40);
    make_and_die(45);
    outbox = outbox_make();
    ck_assert_int_eq(outbox_last_id(outbox), 45);
    close_clean(outbox);
}
END_TEST

/* The rows are gone, but not their ids: a consumer may have seen them. */
START_TEST(a_wal_that_was_taken_away_is_told_and_its_ids_are_not_given_again)
{
    struct outbox *outbox = outbox_make();
    int64_t generation = number_of(outbox, "SELECT generation FROM outbox_state");

    close_clean(outbox);
    make_and_die(3);
    remove_beside("-wal");
    outbox = outbox_make();
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_CUT);
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM outbox"), 0);
    ck_assert_int_eq(outbox_last_id(outbox), INT64_C(1) << 32);
    ck_assert_int_gt(number_of(outbox, "SELECT generation FROM outbox_state"), generation);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    close_clean(outbox);
    outbox = outbox_make(); /* told once */
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_FOUND);
    ck_assert_int_eq(outbox_last_id(outbox), (INT64_C(1) << 32) + 1);
    close_clean(outbox);
}
END_TEST

/* With -shm it may have been SQLite itself that removed it, in another program. */
START_TEST(a_wal_that_another_program_may_have_emptied_is_told_only)
{
    struct outbox *outbox;

    make_and_die(3);
    tamper("SELECT count(*) FROM events");
    ck_assert(!is_beside("-wal") && !is_beside("-shm"));
    outbox = outbox_make();
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_CUT);
    ck_assert_int_eq(number_of(outbox, "SELECT max(id) FROM outbox"), 3);
    ck_assert_int_eq(outbox_last_id(outbox), 3);
    close_clean(outbox);
}
END_TEST

START_TEST(a_wal_that_is_not_needed_may_be_missing)
{
    struct outbox *outbox;

    make_and_die(3);
    outbox = outbox_make(); /* it is there */
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_FOUND);
    close_clean(outbox);
    remove_beside("-wal"); /* a clean stop has emptied it */
    outbox = outbox_make();
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_FOUND);
    ck_assert_int_eq(outbox_last_id(outbox), 3);
    close_clean(outbox);
    remove_beside(".lock"); /* a copy elsewhere, or a first start that was cut off */
    remove_beside("-wal");
    outbox = outbox_make();
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_FOUND);
    close_clean(outbox);
    make_and_die(0); /* a database that is gone altogether is told of otherwise */
    remove_beside("-wal");
    remove_beside("-shm");
    remove_beside("");
    outbox = outbox_make();
    ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_ANEW);
    close_clean(outbox);
}
END_TEST

static enum outbox_error try_store(struct outbox *outbox, unsigned number)
{
    struct delivery *delivery = delivery_number(policy, number);
    enum outbox_error error = outbox_begin(outbox);

    if (error == OUTBOX_ERROR_NONE)
        error = outbox_add(outbox, delivery);
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_commit(outbox);
    if (error != OUTBOX_ERROR_NONE)
        outbox_rollback(outbox);
    delivery_free(delivery);
    return error;
}

START_TEST(a_full_disk_passes)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    atomic_store(&write_error, ENOSPC);
    ck_assert_int_eq(try_store(outbox, 2), OUTBOX_ERROR_TRANSIENT);
    ck_assert_str_eq(outbox_error_kind(outbox), "full");
    ck_assert_ptr_nonnull(strstr(outbox_error_text(outbox), "SQLITE_FULL"));
    atomic_store(&write_error, EDQUOT);
    ck_assert_msg(try_store(outbox, 2) == OUTBOX_ERROR_TRANSIENT, "%s", outbox_error_text(outbox));
    atomic_store(&write_error, 0);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 2)), VERDICT_ACCEPTED);
    ck_assert_int_eq(number_of(outbox, "SELECT max(id) FROM outbox"), 2);
    close_clean(outbox);
}
END_TEST

/* After a sync that failed the kernel has dropped what it could not write and calls the next one
 * good: nothing is tried again here, whatever the reason was. */
START_TEST(a_failed_sync_is_the_end)
{
    static const int reasons[] = {EIO, ENOSPC};

    for (int i = 0; i < 2; i++) {
        struct outbox *outbox = outbox_make();

        atomic_store(&sync_error, reasons[i]);
        ck_assert_int_eq(try_store(outbox, 1), OUTBOX_ERROR_FATAL);
        ck_assert_ptr_nonnull(strstr(outbox_error_text(outbox), "SQLITE_IOERR_FSYNC"));
        atomic_store(&sync_error, 0);
        ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_FATAL);
        ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_FATAL);
        ck_assert_int_eq(outbox_mark_failed(outbox), 0);
        ck_assert_int_eq(outbox_close(outbox, why), -EIO);
        outbox = outbox_make();
        ck_assert(!is_beside(".failed"));
        close_clean(outbox);
    }
}
END_TEST

START_TEST(a_failed_write_is_the_end)
{
    struct outbox *outbox = outbox_make();

    atomic_store(&write_error, EIO);
    ck_assert_int_eq(try_store(outbox, 1), OUTBOX_ERROR_FATAL);
    ck_assert_str_eq(outbox_error_kind(outbox), "ioerr");
    atomic_store(&write_error, 0);
    ck_assert_int_eq(outbox_close(outbox, why), -EIO);
}
END_TEST

/* SQLite goes on giving the reason of an earlier failure where a COMMIT fails. */
START_TEST(a_broken_disk_does_not_pass_for_the_full_one_before)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    atomic_store(&write_error, EDQUOT);
    ck_assert_int_ne(
        sqlite3_wal_checkpoint_v2(outbox->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL),
        SQLITE_OK);
    ck_assert_int_eq(sqlite3_system_errno(outbox->db), EDQUOT);
    atomic_store(&write_error, EIO);
    ck_assert_int_eq(try_store(outbox, 2), OUTBOX_ERROR_FATAL);
    ck_assert_str_eq(outbox_error_kind(outbox), "ioerr");
    atomic_store(&write_error, 0);
    ck_assert_int_eq(outbox_close(outbox, why), -EIO);
}
END_TEST

START_TEST(a_file_that_was_moved_away_is_the_end)
{
    struct outbox *outbox = outbox_make();
    char elsewhere[PATH_MAX + 64];

    path_beside(".moved", elsewhere);
    ck_assert_int_eq(rename(test_database, elsewhere), 0);
    ck_assert_int_eq(try_store(outbox, 1), OUTBOX_ERROR_FATAL);
    ck_assert_str_eq(outbox_error_kind(outbox), "moved");
    ck_assert_int_eq(outbox_close(outbox, why), -EIO);
}
END_TEST

/* What was committed before stands in a file without a name, and goes into the database. */
START_TEST(a_wal_that_was_moved_away_is_the_end_and_loses_nothing)
{
    static const char *const ways[] = {"deleted", "replaced"};

    for (unsigned i = 0; i < 2; i++) {
        struct outbox *outbox = outbox_make();
        unsigned stored = i + 1;

        ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, stored)), VERDICT_ACCEPTED);
        remove_beside("-wal");
        if (i == 1)
            put_file("-wal", "", 0);
        ck_assert_msg(try_store(outbox, 10) == OUTBOX_ERROR_FATAL, "%s", ways[i]);
        ck_assert_str_eq(outbox_error_kind(outbox), "moved");
        close_clean(outbox);
        outbox = outbox_make();
        ck_assert_int_eq(outbox_origin(outbox), OUTBOX_ORIGIN_FOUND);
        ck_assert_int_eq(outbox_last_id(outbox), stored);
        ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, stored)), VERDICT_DUPLICATE);
        close_clean(outbox);
    }
}
END_TEST

/* Where something else is wrong, too, nothing is written any more. */
START_TEST(a_wal_that_was_moved_away_from_a_broken_disk_is_left_alone)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    remove_beside("-wal");
    ck_assert_int_eq(try_store(outbox, 2), OUTBOX_ERROR_FATAL);
    atomic_store(&sync_error, EIO);
    ck_assert_int_eq(outbox_close(outbox, why), -EIO);
    atomic_store(&sync_error, 0);
}
END_TEST

START_TEST(a_locked_database_is_answered_within_three_seconds)
{
    struct outbox *outbox = outbox_make();
    struct timespec began, ended;
    sqlite3 *other = NULL;

    ck_assert_int_eq(sqlite3_open(test_database, &other), SQLITE_OK);
    execute(other, "BEGIN IMMEDIATE");
    clock_gettime(CLOCK_MONOTONIC, &began);
    ck_assert_int_eq(try_store(outbox, 1), OUTBOX_ERROR_TRANSIENT);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    ck_assert_str_eq(outbox_error_kind(outbox), "locked");
    ck_assert_int_lt(OUTBOX_BUSY_MS, 3000);
    ck_assert_int_lt(ended.tv_sec - began.tv_sec,
                     30); /* so nothing tries again; slow machines are slow */
    execute(other, "ROLLBACK");
    ck_assert_int_eq(try_store(outbox, 1), OUTBOX_ERROR_NONE);
    sqlite3_close(other);
    close_clean(outbox);
}
END_TEST

START_TEST(each_error_has_its_class)
{
    static const struct {
        int code, os_error;
        enum outbox_error error;
    } cases[] = {
        {SQLITE_OK, 0, OUTBOX_ERROR_NONE},
        {SQLITE_FULL, 0, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_BUSY, 0, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_LOCKED, 0, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_NOMEM, 0, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_IOERR_NOMEM, 0, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_READONLY, 0, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_READONLY_DBMOVED, 0, OUTBOX_ERROR_FATAL},
        {SQLITE_IOERR_WRITE, EIO, OUTBOX_ERROR_FATAL},
        {SQLITE_IOERR_WRITE, EDQUOT, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_IOERR_SHMSIZE, ENOSPC, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_IOERR_WRITE, EROFS, OUTBOX_ERROR_TRANSIENT},
        {SQLITE_IOERR_FSYNC, EROFS, OUTBOX_ERROR_FATAL},
        {SQLITE_IOERR_FSYNC, ENOSPC, OUTBOX_ERROR_FATAL},
        {SQLITE_IOERR_DIR_FSYNC, EDQUOT, OUTBOX_ERROR_FATAL},
        {SQLITE_IOERR, 0, OUTBOX_ERROR_FATAL},
        {SQLITE_CORRUPT, 0, OUTBOX_ERROR_FATAL},
        {SQLITE_CORRUPT_INDEX, 0, OUTBOX_ERROR_FATAL},
        {SQLITE_NOTADB, 0, OUTBOX_ERROR_FATAL},
        {SQLITE_CONSTRAINT_UNIQUE, 0, OUTBOX_ERROR_DELIVERY},
        {SQLITE_TOOBIG, 0, OUTBOX_ERROR_DELIVERY},
        {SQLITE_ERROR, 0, OUTBOX_ERROR_INTERNAL},
        {SQLITE_MISUSE, 0, OUTBOX_ERROR_INTERNAL},
        {250, 0, OUTBOX_ERROR_INTERNAL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(outbox_error_class(cases[i].code, cases[i].os_error) == cases[i].error, "%s",
                      outbox_error_name(cases[i].code));
    ck_assert_str_eq(outbox_error_name(SQLITE_IOERR_FSYNC), "SQLITE_IOERR_FSYNC");
    ck_assert_str_eq(outbox_error_name(SQLITE_IOERR | 99 << 8), "SQLITE_IOERR");
    ck_assert_str_eq(outbox_error_label(SQLITE_IOERR_WRITE, EDQUOT), "full");
    ck_assert_str_eq(outbox_error_label(SQLITE_IOERR_WRITE, EROFS), "readonly");
    ck_assert_str_eq(outbox_error_label(SQLITE_IOERR_WRITE, EIO), "ioerr");
}
END_TEST

/* Notifications in commits of so many, from *number on, until the WAL has so many pages. */
static void lengthen_wal(struct outbox *outbox, int pages, int rows_a_commit, unsigned *number)
{
    while (outbox->wal_pages < pages) {
        ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
        for (int i = 0; i < rows_a_commit; i++) {
            struct delivery *delivery = delivery_number(policy, ++*number);

            ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
            delivery_free(delivery);
        }
        ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    }
}

START_TEST(the_wal_goes_into_the_file_when_it_has_grown)
{
    struct outbox *outbox = outbox_make();
    struct stat before, after;
    unsigned number = 0;

    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(stat(test_database, &before), 0);
    lengthen_wal(outbox, OUTBOX_WAL_CHECKPOINT, 2000, &number);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(stat(test_database, &after), 0);
    ck_assert_int_gt(after.st_size, before.st_size);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, ++number)), VERDICT_ACCEPTED);
    ck_assert_int_lt(outbox->wal_pages, OUTBOX_WAL_CHECKPOINT); /* it began anew */
    close_clean(outbox);
}
END_TEST

START_TEST(where_asked_a_short_wal_goes_into_the_file_once)
{
    struct outbox *outbox = outbox_make();
    unsigned number = 0;

    outbox_checkpoint_soon(outbox);
    lengthen_wal(outbox, OUTBOX_WAL_SOON / 2, 10, &number);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox->wal_moved, 0); /* too short for that as well */
    lengthen_wal(outbox, OUTBOX_WAL_SOON, 10, &number);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox->wal_moved, 0); /* it was asked before, for that time */
    outbox_checkpoint_soon(outbox);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox->wal_moved, outbox->wal_pages);
    close_clean(outbox);
}
END_TEST

static void checkpoint_soon(struct outbox *outbox)
{
    outbox_checkpoint_soon(outbox);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
}

/* Each attempt is dearer the longer the WAL, and while the reader stays none gets anywhere. */
START_TEST(a_checkpoint_in_vain_is_not_tried_again_at_once)
{
    struct outbox *outbox = outbox_make();
    unsigned number = 0;
    sqlite3 *reader = NULL;
    int seen, vain;

    lengthen_wal(outbox, OUTBOX_WAL_SOON, 10, &number);
    seen = outbox->wal_pages;
    ck_assert_int_eq(sqlite3_open_v2(test_database, &reader, SQLITE_OPEN_READONLY, NULL),
                     SQLITE_OK);
    execute(reader, "BEGIN; SELECT * FROM outbox");
    lengthen_wal(outbox, seen + OUTBOX_WAL_SOON, 10, &number);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, seen); /* as far as it goes is not in vain */
    execute(reader, "COMMIT; BEGIN; SELECT * FROM outbox");
    seen = outbox->wal_pages;
    lengthen_wal(outbox, seen + 1, 10, &number);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, seen);
    lengthen_wal(outbox, seen + OUTBOX_WAL_SOON, 10, &number);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, seen);
    vain = outbox->wal_pages;
    ck_assert_int_eq(sqlite3_close(reader), SQLITE_OK);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, seen); /* though it could be moved by now */
    lengthen_wal(outbox, vain + OUTBOX_WAL_CHECKPOINT - 200, 200, &number);
    ck_assert_int_lt(outbox->wal_pages, vain + OUTBOX_WAL_CHECKPOINT);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, seen);
    lengthen_wal(outbox, vain + OUTBOX_WAL_CHECKPOINT, 1, &number);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, outbox->wal_pages);
    /* and then all is as it was */
    lengthen_wal(outbox, 1, 1, &number);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, ++number)), VERDICT_ACCEPTED);
    ck_assert_int_lt(outbox->wal_pages, OUTBOX_WAL_SOON); /* it began anew */
    lengthen_wal(outbox, OUTBOX_WAL_SOON, 10, &number);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, outbox->wal_pages);
    close_clean(outbox);
}
END_TEST

START_TEST(a_wal_that_began_anew_elsewhere_is_not_rested_from)
{
    struct outbox *outbox = outbox_make();
    unsigned number = 0;
    sqlite3 *reader = NULL;

    ck_assert_int_eq(sqlite3_open(test_database, &reader), SQLITE_OK);
    execute(reader, "BEGIN; SELECT * FROM outbox");
    lengthen_wal(outbox, 4 * OUTBOX_WAL_SOON, 200, &number);
    checkpoint_soon(outbox);
    checkpoint_soon(outbox);
    ck_assert_int_lt(outbox->wal_moved, OUTBOX_WAL_SOON);
    execute(reader, "COMMIT; PRAGMA wal_checkpoint(RESTART)");
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, ++number)), VERDICT_ACCEPTED);
    lengthen_wal(outbox, 2 * OUTBOX_WAL_SOON, 10, &number);
    checkpoint_soon(outbox);
    ck_assert_int_eq(outbox->wal_moved, outbox->wal_pages);
    ck_assert_int_eq(sqlite3_close(reader), SQLITE_OK);
    close_clean(outbox);
}
END_TEST

/* ---- reading ---- */

START_TEST(a_reader_sees_each_commit_and_changes_nothing)
{
    struct outbox *outbox = outbox_make();
    struct outbox_reader *reader = NULL;
    struct outbox_state state = {0};
    int64_t version;

    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), 0);
    version = outbox_reader_data_version(reader);
    ck_assert_int_eq(outbox_reader_data_version(reader), version);
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_ne(outbox_reader_data_version(reader), version);
    ck_assert_int_eq(outbox_reader_state(reader, &state), 0);
    ck_assert_int_eq(state.generation, NOW_MS / 1000);
    ck_assert_int_eq(state.pruned_through, 0);
    ck_assert_int_eq(state.last_id, 1);
    ck_assert_int_eq(outbox_reader_quick_check(reader, NULL, why), 0);
    /* it holds no transaction: the WAL can be cut back while it is open */
    close_clean(outbox);
    outbox_reader_close(reader);
    outbox_reader_close(NULL);
}
END_TEST

START_TEST(a_reader_refuses_what_is_not_an_outbox)
{
    struct outbox_reader *reader = NULL;

    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), -ENOENT);
    ck_assert(!is_beside(""));
    tamper("CREATE TABLE t (a)");
    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), -EINVAL);
    ck_assert_ptr_null(reader);
}
END_TEST

START_TEST(a_long_check_can_be_stopped)
{
    struct outbox_reader *reader = NULL;
    atomic_bool stop = true;
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    for (unsigned i = 0; i < 5000; i++) {
        struct delivery *delivery = delivery_number(policy, i);

        ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
        delivery_free(delivery);
    }
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_reader_open(test_database, &reader, why), 0);
    ck_assert_int_eq(outbox_reader_quick_check(reader, &stop, why), -ECANCELED);
    atomic_store(&stop, false);
    ck_assert_int_eq(outbox_reader_quick_check(reader, &stop, why), 0);
    outbox_reader_close(reader);
    close_clean(outbox);
}
END_TEST

START_TEST(a_reader_in_a_transaction_delays_no_stop_for_long_and_loses_nothing)
{
    struct outbox *outbox = outbox_make();
    sqlite3 *reader = NULL;

    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_eq(sqlite3_open_v2(test_database, &reader, SQLITE_OPEN_READONLY, NULL),
                     SQLITE_OK);
    execute(reader, "BEGIN; SELECT * FROM outbox");
    ck_assert_int_eq(delivery_add(outbox, delivery_number(policy, 2)), VERDICT_ACCEPTED);
    ck_assert_int_eq(outbox_close(outbox, why), -EBUSY);
    sqlite3_close(reader);
    outbox = outbox_make();
    ck_assert_int_eq(number_of(outbox, "SELECT count(*) FROM outbox"), 2);
    close_clean(outbox);
}
END_TEST

START_TEST(a_path_with_odd_characters_is_taken_as_it_is)
{
    snprintf(test_database, sizeof test_database, "%s/%%20?#a", test_folder);
    make_and_close(1);
    make_and_close(0);
    ck_assert(is_beside("") && is_beside(".key"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("outbox");
    TCase *tests = tcase_create("outbox");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_repeat_is_a_duplicate_also_after_a_restart);
    tcase_add_test(tests, a_repeat_in_the_same_batch_is_a_duplicate);
    tcase_add_test(tests, the_view_has_the_columns_of_the_contract);
    tcase_add_test(tests, a_test_row_is_outside_of_everything);
    tcase_add_test(tests, a_row_holds_what_apple_said);
    tcase_add_test(tests, a_row_knows_its_person);
    tcase_add_test(tests, a_body_about_two_people_is_marked);
    tcase_add_test(tests, test_rows_stand_outside_the_view);
    tcase_add_test(tests, an_id_is_never_given_twice);
    tcase_add_test(tests, polling_is_a_range_search_without_sort);
    tcase_add_test(tests, what_an_app_ignores_leaves_no_trace);
    tcase_add_test(tests, of_several_events_the_strongest_counts);
    tcase_add_test(tests, a_late_one_follows_the_setting_unless_it_is_a_repeat);
    tcase_add_test(tests, a_late_repeat_of_a_partly_ignored_one_is_a_duplicate);
    tcase_add_test(tests, quarantine_knows_a_token_again_in_any_wrapping);
    tcase_add_test(tests, quarantine_is_bounded_and_pushes_nothing_out);
    tcase_add_test(tests, quarantine_is_bounded_in_bytes);
    tcase_add_test(tests, what_has_no_identity_is_quarantined);
    tcase_add_test(tests, a_refused_one_is_never_stored);
    tcase_add_test(tests, a_rollback_takes_everything_back);
    tcase_add_test(tests, last_accepted_survives_a_restart);
    tcase_add_test(tests, what_was_kept_apart_is_the_last_accepted_only_where_it_is_later);
    tcase_add_test(tests, more_apps_than_are_remembered_in_one_transaction);
    tcase_add_test(tests, the_group_reads_and_nobody_else);
    tcase_add_test(tests, the_connection_is_set_as_promised);
    tcase_add_test(tests, one_daemon_a_file);
    tcase_add_test(tests, foreign_files_are_refused_and_left_alone);
    tcase_add_test(tests, other_schemas_are_refused_and_left_alone);
    tcase_add_test(tests, a_count_behind_its_rows_is_refused);
    tcase_add_test(tests, a_truncated_database_is_refused_and_left_alone);
    tcase_add_test(tests, a_database_without_its_own_key_is_refused);
    tcase_add_test(tests, a_lost_database_is_not_replaced_in_silence);
    tcase_add_test(tests, after_a_storage_error_a_sound_database_is_checked_and_opened);
    tcase_add_test(tests, after_a_storage_error_a_damaged_one_is_refused_and_left_alone);
    tcase_add_test(tests, a_folder_that_cannot_be_written_is_refused);
    tcase_add_test(tests, network_file_systems_are_known);
    tcase_add_test(tests, a_first_start_may_be_killed_at_any_moment);
    tcase_add_test(tests, what_an_unfinished_first_start_leaves_is_no_obstacle);
    tcase_add_test(tests, what_a_dead_process_left_is_made_durable_before_anything_else);
    tcase_add_test(tests, a_wal_that_is_damaged_before_its_end_is_refused_and_left_alone);
    tcase_add_test(tests, a_wal_that_is_torn_at_its_end_is_in_order);
    tcase_add_test(tests, a_wal_that_was_taken_away_is_told_and_its_ids_are_not_given_again);
    tcase_add_test(tests, a_wal_that_another_program_may_have_emptied_is_told_only);
    tcase_add_test(tests, a_wal_that_is_not_needed_may_be_missing);
    tcase_add_test(tests, a_full_disk_passes);
    tcase_add_test(tests, a_failed_sync_is_the_end);
    tcase_add_test(tests, a_failed_write_is_the_end);
    tcase_add_test(tests, a_broken_disk_does_not_pass_for_the_full_one_before);
    tcase_add_test(tests, a_file_that_was_moved_away_is_the_end);
    tcase_add_test(tests, a_wal_that_was_moved_away_is_the_end_and_loses_nothing);
    tcase_add_test(tests, a_wal_that_was_moved_away_from_a_broken_disk_is_left_alone);
    tcase_add_test(tests, a_locked_database_is_answered_within_three_seconds);
    tcase_add_test(tests, each_error_has_its_class);
    tcase_add_test(tests, the_wal_goes_into_the_file_when_it_has_grown);
    tcase_add_test(tests, where_asked_a_short_wal_goes_into_the_file_once);
    tcase_add_test(tests, a_checkpoint_in_vain_is_not_tried_again_at_once);
    tcase_add_test(tests, a_wal_that_began_anew_elsewhere_is_not_rested_from);
    tcase_add_test(tests, a_reader_sees_each_commit_and_changes_nothing);
    tcase_add_test(tests, a_reader_refuses_what_is_not_an_outbox);
    tcase_add_test(tests, a_long_check_can_be_stopped);
    tcase_add_test(tests, a_reader_in_a_transaction_delays_no_stop_for_long_and_loses_nothing);
    tcase_add_test(tests, a_path_with_odd_characters_is_taken_as_it_is);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
