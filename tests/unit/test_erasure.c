/* erasure: every text of a body is looked at, and nothing that is no body does harm; and what only
 * shows where something happens at the worst moment. The rest is tests/integration/test_erasure.py.
 */
#include "../../src/dispatcher/erasure_work.h"
#include "deliveries.h"
#include "dispatcher/erasure.h"
#include "memory_faults.h"
#include "sql.h"
#include "verifier/base64url.h"

static char seen[4096];
static const char *wanted;

static bool on_text(void *context, const char *text)
{
    ck_assert_ptr_eq(context, seen);
    strcat(strcat(seen, text), "|");
    return wanted && strcmp(text, wanted) == 0;
}

static bool texts_of(const char *body)
{
    seen[0] = '\0';
    int found = erasure_body_texts(body, strlen(body), on_text, seen);

    ck_assert_int_ge(found, 0);
    return found;
}

static const char *body_of_claims(const char *claims)
{
    static char body[5000];
    char payload[4096];

    base64url_encode((const unsigned char *)claims, strlen(claims), payload);
    snprintf(body, sizeof body, "{\"payload\":\"e30.%s.AAAA\"}", payload);
    return body;
}

static bool texts_of_claims(const char *claims)
{
    return texts_of(body_of_claims(claims));
}

static void set_up(void)
{
    wanted = NULL;
}

START_TEST(finds_texts_at_any_depth)
{
    ck_assert(!texts_of_claims("{\"a\":\"x\",\"n\":1,\"b\":[\"y\",{\"c\":\"z\"}]}"));
    ck_assert_str_eq(seen, "x|y|z|");
    /* as Apple sends it */
    ck_assert(!texts_of_claims("{\"events\":\"{\\\"sub\\\":\\\"s1\\\"}\",\"aud\":\"a\"}"));
    ck_assert_ptr_nonnull(strstr(seen, "|s1|a|"));
    ck_assert(!texts_of_claims("{\"events\":\"[{\\\"sub\\\":\\\"s1\\\"},[\\\"s2\\\"]]\"}"));
    ck_assert_ptr_nonnull(strstr(seen, "|s1|s2|"));
    /* a shape that nobody understands */
    ck_assert(!texts_of_claims("[[[\"deep\"]],\"{broken\"]"));
    ck_assert_str_eq(seen, "deep|{broken|");
}
END_TEST

START_TEST(stops_at_the_first_that_is_wanted)
{
    wanted = "y";
    ck_assert(texts_of_claims("[\"x\",\"y\",\"z\"]"));
    ck_assert_str_eq(seen, "x|y|");
    wanted = "s1";
    ck_assert(texts_of_claims("{\"events\":\"{\\\"sub\\\":\\\"s1\\\"}\",\"z\":\"z\"}"));
    ck_assert_ptr_null(strstr(seen, "|z|"));
}
END_TEST

START_TEST(what_is_no_body_has_no_texts)
{
    static const char *const bodies[] = {
        "",
        "{}",
        "[]",
        "{\"payload\":\"\"}",
        "{\"payload\":\"a\"}",
        "{\"payload\":\"a.b\"}",
        "{\"payload\":\"..\"}",
        "{\"payload\":\"a.!!.c\"}",
        "{\"payload\":\"a.e30\"}",
        "{\"payload\":\"a.bm8.c\"}", /* "no", which is no JSON */
    };

    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        ck_assert(!texts_of(bodies[i]));
        ck_assert_str_eq(seen, "");
    }
}
END_TEST

/* Without assertions, which need memory. */
static bool is_s1(void *context, const char *text)
{
    (void)context;
    return strcmp(text, "s1") == 0;
}

/* Else a body would be kept as one without the person, and the erasure would say that it is done.
 */
START_TEST(a_body_without_memory_is_not_one_without_texts)
{
    const char *claims = "{\"events\":\"[{\\\"sub\\\":\\\"s1\\\"}]\"}";
    char payload[256], bodies[2][300];
    unsigned long failures = 0;

    base64url_encode((const unsigned char *)claims, strlen(claims), payload);
    snprintf(bodies[0], sizeof bodies[0], "{\"payload\":\"e30.%s.AAAA\"}", payload);
    /* which is read in another way */
    snprintf(bodies[1], sizeof bodies[1], "{ \"payload\": \"e30.%s.AAAA\" }", payload);
    for (size_t at = 0; at < 4; at++) {
        bool failed = true;

        for (unsigned long i = 1; failed; i++) {
            const char *body = bodies[at / 2];
            int found;

            memory_faults_arm(i, at % 2);
            found = erasure_body_texts(body, strlen(body), is_s1, NULL);
            failed = memory_faults_disarm();
            ck_assert_msg(found == 1 || (failed && found == -ENOMEM), "allocation %lu: %d", i,
                          found);
            failures += found == -ENOMEM;
        }
    }
    ck_assert_uint_gt(failures, 10);
}
END_TEST

/* ---- with a database ---- */

#define TEAM "ABCDE12345"
#define SUB  "001234.0123456789abcdef0123456789abcdef.0001"

static struct outbox *outbox;
static struct erasure_round turn;

/* What happens while a round is at work: it asks whether to stop after each step. */
static int steps, move_at[2];
static bool stop_after_one;

/* What is deferred becomes a row with its body, by way of the quarantine or not. */
static enum { DEFERRED_TO_ROW, DEFERRED_TO_QUARANTINE_TO_ROW, DEFERRED_TO_MIXED } movement;

#define AS_ROW(from) \
    "INSERT INTO raw SELECT 101, 1, 0, body FROM " from ";" \
    "INSERT INTO events (id, type, client_id, app, team, sub, issued_at_ms, received_at_ms, " \
    "raw_type, raw_id, person) SELECT 101, 'x', '" APP_PLAIN "', 'Example', '" TEAM "', '" SUB \
    "', 1, 1, 'x', 101, (SELECT person FROM events WHERE id = 1) FROM " from ";" \
    "DELETE FROM " from

static void move(int which)
{
    static const char *const moves[][2] = {
        [DEFERRED_TO_ROW] = {AS_ROW("deferred"), ""},
        [DEFERRED_TO_QUARANTINE_TO_ROW] =
            {"INSERT INTO quarantine SELECT id, 'late', client_id, received_at_ms, digest, body "
             "FROM deferred; DELETE FROM deferred",
             AS_ROW("quarantine")},
        /* whose part of it came before: no row leads to the body */
        [DEFERRED_TO_MIXED] = {"INSERT INTO raw SELECT 101, 1, 1, body FROM deferred;"
                               "DELETE FROM deferred",
                               ""},
    };

    ck_assert_int_eq(sqlite3_exec(outbox->db, moves[movement][which], NULL, NULL, NULL), SQLITE_OK);
}

static bool is_stopping(void *context)
{
    (void)context;
    steps++;
    for (int i = 0; i < 2; i++)
        if (steps == move_at[i])
            move(i);
    return stop_after_one && sql_number(outbox->db, "SELECT count(*) FROM erasing") == 1;
}

static enum outbox_error have_done(void *context,
                                   enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                   void *argument)
{
    enum outbox_error error = outbox_begin(outbox);

    (void)context;
    if (error == OUTBOX_ERROR_NONE)
        error = work(outbox, argument);
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_commit(outbox);
    ck_assert_int_eq(error, OUTBOX_ERROR_NONE);
    return error;
}

static bool team_of(void *context, const char *client_id, char ret_team[ERASURE_TEAM_BYTES])
{
    (void)context;
    strcpy(ret_team, TEAM);
    return strcmp(client_id, APP_PLAIN) == 0;
}

static void open_database(void)
{
    static const struct config_consumer names[] = {{.name = "accounts"}};
    static const struct config config = {.consumers = names, .consumer_count = 1};
    char why[OUTBOX_WHY_BYTES] = "";

    folder_make();
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
    memset(&turn, 0, sizeof turn);
    ck_assert_msg(outbox_reader_open(test_database, &turn.reader, why) == 0, "%s", why);
    ck_assert_int_eq(consumers_new(&config, &turn.consumers), 0);
    turn.key = outbox->key;
    turn.after_s = CONFIG_ERASE_OFF;
    turn.now_ms = NOW_MS;
    turn.have_done = have_done;
    turn.is_stopping = is_stopping;
    turn.team_of = team_of;
    steps = move_at[0] = move_at[1] = 0;
    stop_after_one = false;
}

static void close_database(void)
{
    char why[OUTBOX_WHY_BYTES];

    consumers_free(turn.consumers);
    outbox_reader_close(turn.reader);
    ck_assert_msg(outbox_close(outbox, why) == 0, "%s", why);
    folder_remove();
}

static void hash(const char *sub, unsigned char ret_person[PERSON_BYTES])
{
    ck_assert_int_eq(identity_of_person(outbox->key, TEAM, APP_PLAIN, sub, ret_person), 0);
}

static void add_row(int64_t id, const char *type, const char *sub)
{
    unsigned char person[PERSON_BYTES];
    OUTBOX_STATEMENT(statement);

    hash(sub, person);
    ck_assert_int_eq(
        outbox_prepare(outbox,
                       "INSERT INTO events (id, type, client_id, app, team, sub, issued_at_ms, "
                       "received_at_ms, raw_type, raw_id, person) VALUES (?1, ?2, '" APP_PLAIN
                       "', 'Example', '" TEAM "', ?3, 1, 1, 'x', ?1, ?4)",
                       &statement),
        OUTBOX_ERROR_NONE);
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_text(statement, 2, type, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, sub, -1, SQLITE_STATIC);
    sqlite3_bind_blob(statement, 4, person, PERSON_BYTES, SQLITE_STATIC);
    ck_assert_int_eq(outbox_step(statement), SQLITE_OK);
}

static void ask(const char *sub)
{
    unsigned char person[PERSON_BYTES];

    hash(sub, person);
    ck_assert_int_eq(erasure_ask(outbox, person, TEAM, NOW_MS), OUTBOX_ERROR_NONE);
}

/* Whatever is told of the person anywhere. */
static int64_t remains(void)
{
    return sql_number(outbox->db, "SELECT (SELECT count(*) FROM events WHERE sub IS NOT NULL) + "
                                  "(SELECT count(*) FROM raw) + (SELECT count(*) FROM deferred) + "
                                  "(SELECT count(*) FROM quarantine)");
}

/* A round in which those moves happen after those steps; the number of its steps. */
static int round_with_moves(int first, int second)
{
    open_database();
    add_row(1, "consent-revoked", SUB);
    sql_run(outbox->db,
            "INSERT INTO deferred VALUES (1, 'K', '" APP_PLAIN
            "', 1, 1, x'00', CAST('%s' AS BLOB))",
            body_of_claims("{\"events\":\"{\\\"sub\\\":\\\"" SUB "\\\"}\"}"));
    ask(SUB);
    move_at[0] = first;
    move_at[1] = second;
    ck_assert_int_eq(erasure_run(&turn), OUTBOX_ERROR_NONE);
    ck_assert_msg(remains() == 0, "movement %d after the steps %d and %d", (int)movement, first,
                  second);
    close_database();
    return steps;
}

/* "done" must be true, whatever the keys' arrival or an operator moves meanwhile. */
START_TEST(what_is_on_the_move_is_found)
{
    movement = (__typeof__(movement))_i;
    int count = round_with_moves(0, 0);

    ck_assert_int_ge(count, 4);
    for (int first = 1; first <= count; first++)
        for (int second = first; second <= count; second++)
            if (second == first || movement == DEFERRED_TO_QUARANTINE_TO_ROW)
                round_with_moves(first, second);
}
END_TEST

/* Else a later event of somebody who deleted the account would stay for all of retain. */
START_TEST(who_deleted_the_account_is_followed_also_when_erased_on_demand)
{
    add_row(1, "account-delete", SUB);
    add_row(2, "consent-revoked", "001234.0123456789abcdef0123456789abcdef.0002");
    ask(SUB);
    ask("001234.0123456789abcdef0123456789abcdef.0002");
    ck_assert_int_eq(erasure_run(&turn), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM erasing"), 0);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM erased"), 1);
    ck_assert_int_eq(remains(), 0);

    add_row(3, "email-enabled", SUB);
    add_row(4, "email-enabled", "001234.0123456789abcdef0123456789abcdef.0002");
    sql_run(outbox->db, "INSERT INTO consumers VALUES ('accounts', 4, 1, 1)");
    turn.after_s = CONFIG_ERASE_ACKED;
    ck_assert_int_eq(erasure_run(&turn), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT id FROM events WHERE sub IS NOT NULL"), 4);
}
END_TEST

START_TEST(a_stop_ends_a_round_between_two_people)
{
    int finished = 0;

    stop_after_one = true;
    for (int i = 1; i <= 3; i++) {
        char sub[64];

        snprintf(sub, sizeof sub, "00123%d.0123456789abcdef0123456789abcdef.0001", i);
        add_row(i, "account-delete", sub);
        ask(sub);
    }
    ck_assert_int_eq(erasure_run(&turn), OUTBOX_ERROR_TRANSIENT);
    for (size_t i = 0; i < turn.target_count; i++)
        finished += turn.targets[i].finished;
    ck_assert_int_eq(finished, 2);
    ck_assert_int_eq(remains(), 1);
    stop_after_one = false;
    ck_assert_int_eq(erasure_run(&turn), OUTBOX_ERROR_NONE);
    ck_assert_uint_eq(turn.target_count, 1);
    ck_assert(turn.targets[0].finished);
    ck_assert_int_eq(remains(), 0);
}
END_TEST

#define TAG "<number "

/* Counts what the write-ahead log has of each body. */
static void find_in_wal(unsigned *found, int bodies)
{
    static char bytes[16 << 20];
    char path[sizeof test_database + 8], *at = bytes;
    FILE *file;
    size_t size;

    snprintf(path, sizeof path, "%s-wal", test_database);
    file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    size = fread(bytes, 1, sizeof bytes - 1, file);
    ck_assert_uint_lt(size, sizeof bytes - 1);
    fclose(file);
    bytes[size] = '\0';
    memset(found, 0, ((size_t)bodies + 1) * sizeof *found);
    /* not memmem, of which ThreadSanitizer looks at all that follows, each time */
    for (; (at = memchr(at, TAG[0], (size_t)(bytes + size - at))); at++) {
        long id = strncmp(at, TAG, strlen(TAG)) == 0 ? strtol(at + strlen(TAG), NULL, 10) : 0;

        if (id > 0 && id <= bodies)
            found[id]++;
    }
}

#define PIECES 40
#define BODIES (PIECES * 40)

static unsigned random_state = 1;

static unsigned random_below(unsigned bound)
{
    random_state = random_state * 1103515245 + 12345;
    return (random_state >> 16) % bound;
}

/* SQLite leaves copies of rows between the cells of a page, which go when the page goes to the
 * file. The page that stays in memory must not bring them back with what is written next. */
START_TEST(what_was_erased_does_not_come_back_with_the_next_commit)
{
    static unsigned found[BODIES + 1];
    static bool erased[BODIES + 1];
    int bodies = 0, lowest = 1;

    sql_run(outbox->db, "PRAGMA synchronous = OFF");
    for (int piece = 0; piece < PIECES; piece++) {
        uint64_t emptied = outbox->wal_emptied;

        ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
        for (unsigned i = random_below(40); i > 0; i--) {
            bodies++;
            sql_run(outbox->db,
                    "INSERT INTO raw VALUES (%d, 1, 0, CAST(replace(printf('%%.*c', %u, 'x'), 'x', "
                    "'" TAG "%d>') AS BLOB))",
                    bodies, 1 + random_below(90), bodies);
        }
        sql_run(outbox->db, "UPDATE raw SET mixed = 1 - mixed"); /* each page is written */
        ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
        find_in_wal(found, bodies);
        ck_assert(bodies == 0 || erased[bodies] || found[bodies] > 0); /* the search works */
        for (int id = 1; id <= bodies; id++)
            ck_assert_msg(!erased[id] || !found[id], "%d came back in piece %d", id, piece);

        ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
        if (random_below(2) == 0)
            for (unsigned i = random_below(30); i > 0 && bodies > 0; i--) {
                int id = 1 + (int)random_below((unsigned)bodies);

                sql_run(outbox->db, "UPDATE raw SET body = x'' WHERE id = %d", id);
                erased[id] = true;
            }
        else
            for (unsigned i = random_below(25); i > 0 && lowest < bodies; i--) {
                sql_run(outbox->db, "DELETE FROM raw WHERE id = %d", lowest);
                erased[lowest++] = true;
            }
        outbox_empty_wal(outbox);
        ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
        ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
        ck_assert_uint_eq(outbox->wal_emptied, emptied + 1);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("erasure");
    TCase *texts = tcase_create("texts"), *moves = tcase_create("moves");
    TCase *database = tcase_create("database");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(texts, set_up, NULL);
    tcase_add_test(texts, finds_texts_at_any_depth);
    tcase_add_test(texts, stops_at_the_first_that_is_wanted);
    tcase_add_test(texts, what_is_no_body_has_no_texts);
    if (MEMORY_FAULTS_WORK)
        tcase_add_test(texts, a_body_without_memory_is_not_one_without_texts);
    else
        printf("SKIP a_body_without_memory_is_not_one_without_texts: the sanitizer has its own "
               "allocator\n");
    tcase_add_loop_test(moves, what_is_on_the_move_is_found, DEFERRED_TO_ROW,
                        DEFERRED_TO_MIXED + 1);
    tcase_add_checked_fixture(database, open_database, close_database);
    tcase_add_test(database, who_deleted_the_account_is_followed_also_when_erased_on_demand);
    tcase_add_test(database, a_stop_ends_a_round_between_two_people);
    tcase_add_test(database, what_was_erased_does_not_come_back_with_the_next_commit);
    suite_add_tcase(suite, texts);
    suite_add_tcase(suite, moves);
    suite_add_tcase(suite, database);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
