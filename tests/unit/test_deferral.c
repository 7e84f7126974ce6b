/* deferral: what is kept, what makes room, and what a round makes of it. The judge is the real one,
 * under keys made here; the outbox and its writer are real too. */
#include <errno.h>
#include <semaphore.h>
#include <sqlite3.h>

#include "deliveries.h"
#include "dispatcher/apart.h"
#include "dispatcher/deferral.h"
#include "signer.h"
#include "support/clock.h"

#define APPLE   "https://appleid.apple.com"
#define NOW_S   (NOW_MS / 1000)
#define HOUR_MS INT64_C(3600000)

static struct signer signer, impostor;
static struct jwk *key;
static struct outbox *outbox;
static struct policy *policy;

/* ---- keeping ---- */

static struct policy *policy_with(unsigned events, size_t bytes)
{
    static const struct config_app apps[] = {
        {.client_id = APP_PLAIN, .app = "Example", .team = "ABCDE12345"}};
    static const char *const issuers[] = {APPLE};
    const struct config config = {
        .apps = apps,
        .app_count = 1,
        .issuers = issuers,
        .issuer_count = 1,
        .limits = {.leeway_s = 300, .deferred_events = events, .deferred_bytes = bytes}};
    struct policy *made = NULL;

    ck_assert_int_eq(policy_new(&config, &made), 0);
    return made;
}

static void set_up(void)
{
    char why[OUTBOX_WHY_BYTES] = "";

    folder_make();
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
    policy = policy_with(100, 1 << 20);
}

static void tear_down(void)
{
    char why[OUTBOX_WHY_BYTES];

    policy_unref(policy);
    ck_assert_int_eq(outbox_close(outbox, why), 0);
    folder_remove();
}

static char *token_by(const struct signer *by, unsigned number, int64_t iat_s)
{
    char *events =
        signer_text("{\"type\":\"consent-revoked\",\"sub\":\"%06u\",\"event_time\":%lld}", number,
                    (long long)(NOW_MS + number));
    char *jti = signer_text("jti-%u", number);
    char *claims = signer_claims(APPLE, APP_PLAIN, iat_s, jti, events);
    char *token = signer_token(by, claims);

    free(claims);
    free(jti);
    free(events);
    return token;
}

/* A delivery that is to be deferred, judged after so many refreshes. */
static struct delivery *unknown(const char *token, const char *padding, int64_t received_at_ms,
                                uint64_t refreshes)
{
    struct judgement judgement = {.verdict = VERDICT_KID_UNKNOWN};
    char *body = signer_text("{\"payload\":\"%s\"%s}", token, padding);
    struct delivery *delivery;

    snprintf(judgement.kid, sizeof judgement.kid, "k");
    delivery = delivery_new(&judgement, policy, policy_find(policy, APP_PLAIN), body, strlen(body),
                            received_at_ms);
    ck_assert_ptr_nonnull(delivery);
    delivery->refreshes = refreshes;
    free(body);
    return delivery;
}

/* Adds one in a transaction of its own; the verdict. */
static enum verdict add(struct delivery *delivery)
{
    return delivery_add(outbox, delivery);
}

/* Of a token that need not be one. */
static enum verdict keep(const char *token, uint64_t refreshes)
{
    return add(unknown(token, "", NOW_MS, refreshes));
}

START_TEST(keeps_the_same_token_once)
{
    struct delivery *first = unknown("a.b.c", "", NOW_MS, 0);
    struct delivery *again = unknown("a.b.c", ",\"x\":1", NOW_MS + 1, 0);
    int64_t bytes = (int64_t)first->raw_bytes;

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, first), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, again), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(first->verdict, VERDICT_DEFERRED);
    ck_assert_int_eq(again->verdict, VERDICT_DEFERRED);
    ck_assert(first->kept && !again->kept);
    ck_assert_uint_eq(first->rows + again->rows, 0); /* rows are those of events */
    ck_assert_int_eq(outbox_apart(outbox).deferred_rows, 1);
    ck_assert_int_eq(outbox_apart(outbox).deferred_bytes, bytes);
    delivery_free(first);
    delivery_free(again);
}
END_TEST

START_TEST(what_was_rolled_back_is_not_counted)
{
    struct delivery *delivery = unknown("a.b.c", "", NOW_MS, 0);

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
    outbox_rollback(outbox);
    delivery_free(delivery);
    ck_assert_int_eq(outbox_apart(outbox).deferred_rows, 0);
    ck_assert_int_eq(keep("d.e.f", 0), VERDICT_DEFERRED);
    ck_assert_int_eq(outbox_apart(outbox).deferred_rows, 1);
}
END_TEST

START_TEST(counts_are_the_same_after_a_restart)
{
    char why[OUTBOX_WHY_BYTES] = "";
    struct outbox_apart before, after;

    ck_assert_int_eq(keep("a.b.c", 0), VERDICT_DEFERRED);
    ck_assert_int_eq(keep("d.e.f", 0), VERDICT_DEFERRED);
    before = outbox_apart(outbox);
    ck_assert_int_eq(outbox_close(outbox, why), 0);
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
    after = outbox_apart(outbox);
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert_int_eq(after.deferred_rows, 2);
}
END_TEST

START_TEST(nothing_is_kept_where_nothing_is_wanted)
{
    policy_unref(policy);
    policy = policy_with(0, 1 << 20);
    ck_assert_int_eq(keep("a.b.c", 0), VERDICT_KID_UNKNOWN);
    policy_unref(policy);
    policy = policy_with(10, 0);
    ck_assert_int_eq(keep("a.b.c", 0), VERDICT_KID_UNKNOWN);
    ck_assert_int_eq(outbox_apart(outbox).deferred_rows, 0);
}
END_TEST

START_TEST(removing_one_counts_it)
{
    bool removed = false;

    ck_assert_int_eq(keep("a.b.c", 0), VERDICT_DEFERRED);
    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(apart_remove(outbox, APART_QUARANTINE, 1, &removed), OUTBOX_ERROR_NONE);
    ck_assert(!removed);
    ck_assert_int_eq(apart_remove(outbox, APART_DEFERRED, 1, &removed), OUTBOX_ERROR_NONE);
    ck_assert(removed);
    ck_assert_int_eq(apart_remove(outbox, APART_DEFERRED, 1, &removed), OUTBOX_ERROR_NONE);
    ck_assert(!removed);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_apart(outbox).deferred_rows, 0);
    ck_assert_int_eq(outbox_apart(outbox).deferred_bytes, 0);
}
END_TEST

/* ---- rounds ---- */

struct fake_keys {
    const struct jwk *key; /* of kid "k"; NULL: unknown */
    enum key_trust trust;
    unsigned released;
};

static const struct jwk *find(void *of, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust)
{
    const struct fake_keys *keys = of;

    *ret_trust = KEY_TRUST_NONE;
    if (!keys->key || kid_bytes != 1 || kid[0] != 'k')
        return NULL;
    *ret_trust = keys->trust;
    return keys->key;
}

static sem_t over;

static void release_keys(void *of)
{
    struct fake_keys *keys = of;

    keys->released++;
    sem_post(&over);
}

static struct fake_keys keys;
static unsigned settled[DEFERRAL_RESULT_COUNT];
static struct writer *writer;
static struct deferral *deferral;

static void on_settled(void *context, const struct deferral_settled *one)
{
    (void)context;
    settled[one->result]++;
}

static void nothing(void *context)
{
    (void)context;
}

static void set_up_rounds(void)
{
    set_up();
    const struct writer_settings settings = {
        .outbox = outbox, .queue_events = 16, .on_committed = nothing, .on_fatal = nothing};
    const struct deferral_settings deferral_settings = {.on_settled = on_settled};
    struct deferral_settings with_writer = deferral_settings;

    memset(settled, 0, sizeof settled);
    keys = (struct fake_keys){.key = key, .trust = KEY_TRUST_FULL};
    ck_assert_int_eq(sem_init(&over, 0, 0), 0);
    ck_assert_int_eq(writer_start(&settings, &writer), 0);
    with_writer.writer = writer;
    ck_assert_int_eq(deferral_new(&with_writer, &deferral), 0);
}

static void tear_down_rounds(void)
{
    writer_stop(writer);
    deferral_free(deferral);
    writer_free(writer);
    sem_destroy(&over);
    tear_down();
}

/* Has the writer take them all, and waits. */
static void submit(struct delivery *delivery, enum verdict verdict)
{
    struct delivery *done = NULL;

    ck_assert_int_eq(writer_submit(writer, delivery), 0);
    while (!(done = writer_collect(writer)))
        usleep(1000);
    ck_assert_ptr_eq(done, delivery);
    ck_assert_msg(done->verdict == verdict, "%s", verdict_label(done->verdict));
    delivery_free(done);
}

static void submit_token(const struct signer *by, unsigned number, int64_t iat_s,
                         int64_t received_at_ms)
{
    char *token = token_by(by, number, iat_s);

    submit(unknown(token, "", received_at_ms, 0), VERDICT_DEFERRED);
    free(token);
}

static void run_round_at(int64_t now_ms, uint64_t refreshes)
{
    const struct deferral_round round = {.keys = {find, &keys, true},
                                         .policy = policy,
                                         .now_ms = now_ms,
                                         .refreshes = refreshes,
                                         .release = release_keys};
    int error;

    while ((error = deferral_begin(deferral, &round)) == -EAGAIN)
        usleep(1000);
    ck_assert_int_eq(error, 0);
    while (sem_wait(&over) != 0)
        ;
    ck_assert(!deferral_unfinished(deferral));
}

static int64_t kept(void)
{
    struct writer_state state;

    writer_state(writer, &state);
    return state.apart.deferred_rows;
}

static int64_t query(const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    int64_t number;

    ck_assert_int_eq(sqlite3_open_v2(test_database, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(statement), SQLITE_ROW);
    number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

START_TEST(a_round_delivers_and_drops)
{
    submit_token(&signer, 1, NOW_S - 60, NOW_MS);
    submit_token(&impostor, 2, NOW_S - 60, NOW_MS);
    submit_token(&signer, 3, NOW_S - 60, NOW_MS);
    run_round_at(NOW_MS + HOUR_MS, 1);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DELIVERED], 2);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DROPPED_BAD_SIGNATURE], 1);
    ck_assert_int_eq(kept(), 0);
    ck_assert_int_eq(query("SELECT count(*) FROM outbox"), 2);
    ck_assert_int_eq(query("SELECT min(received_at_ms) FROM outbox"), NOW_MS);
    ck_assert_uint_eq(keys.released, 1);
    /* nothing is left for the next */
    run_round_at(NOW_MS + HOUR_MS, 2);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DELIVERED], 2);
}
END_TEST

/* More than one piece holds, good ones and bad ones in turn: each once. */
START_TEST(a_round_of_many_pieces)
{
    enum { MANY = 3 * DEFERRAL_PIECE_ROWS + 7 };

    policy_unref(policy);
    policy = policy_with(MANY, 1 << 24);
    for (unsigned i = 0; i < MANY; i++)
        submit_token(i % 2 ? &impostor : &signer, i, NOW_S - 60, NOW_MS);
    ck_assert_int_eq(kept(), MANY);
    run_round_at(NOW_MS, 1);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DELIVERED], (MANY + 1) / 2);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DROPPED_BAD_SIGNATURE], MANY / 2);
    ck_assert_int_eq(kept(), 0);
    ck_assert_int_eq(query("SELECT count(DISTINCT jti) FROM outbox"), (MANY + 1) / 2);
    ck_assert_int_eq(query("SELECT count(*) FROM events"), (MANY + 1) / 2);
}
END_TEST

/* exp and iat are judged as of the receipt; a clock that was behind then does not count against it
 * once it is right. */
START_TEST(times_are_those_of_the_receipt)
{
    submit_token(&signer, 1, NOW_S - 60, NOW_MS);
    submit_token(&signer, 2, NOW_S + (int64_t)20 * 3600, NOW_MS);
    run_round_at(NOW_MS + 30 * HOUR_MS, 1);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DELIVERED], 2);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_QUARANTINED], 0);
    submit_token(&signer, 3, NOW_S - 200000, NOW_MS);
    submit_token(&signer, 4, NOW_S + (int64_t)100 * 3600, NOW_MS);
    run_round_at(NOW_MS, 2);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_QUARANTINED], 1);
    ck_assert_int_eq(kept(), 1); /* the other is of the future still, and waits */
    run_round_at(NOW_MS + 100 * HOUR_MS, 3);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DELIVERED], 3);
    ck_assert_int_eq(kept(), 0);
}
END_TEST

START_TEST(a_key_that_is_not_trusted)
{
    submit_token(&signer, 1, NOW_S, NOW_MS);
    keys.trust = KEY_TRUST_QUARANTINE;
    run_round_at(NOW_MS, 1);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_QUARANTINED], 1);
    submit_token(&signer, 2, NOW_S, NOW_MS);
    keys.trust = KEY_TRUST_NONE;
    run_round_at(NOW_MS, 2);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DROPPED_DISTRUSTED_KID], 1);
    ck_assert_int_eq(query("SELECT count(*) FROM events"), 0);
}
END_TEST

/* Three refreshes, and an hour since the first of them: neither alone. */
START_TEST(an_unknown_kid_is_given_up)
{
    keys.key = NULL;
    submit_token(&signer, 1, NOW_S, NOW_MS);
    for (uint64_t refresh = 1; refresh <= 5; refresh++)
        run_round_at(NOW_MS + (int64_t)refresh, refresh);
    ck_assert_int_eq(kept(), 1); /* five, but no hour */
    run_round_at(NOW_MS + HOUR_MS, 5);
    ck_assert_int_eq(kept(), 1); /* one millisecond less than an hour */
    run_round_at(NOW_MS + HOUR_MS + 1, 5);
    ck_assert_int_eq(kept(), 0);
    ck_assert_uint_eq(settled[DEFERRAL_RESULT_DROPPED_UNKNOWN_KID], 1);
}
END_TEST

START_TEST(an_hour_with_two_refreshes_is_not_enough)
{
    keys.key = NULL;
    submit_token(&signer, 1, NOW_S, NOW_MS);
    run_round_at(NOW_MS, 1);
    run_round_at(NOW_MS + 9 * HOUR_MS, 2);
    run_round_at(NOW_MS + 10 * HOUR_MS, 2); /* keys distrusted, say: no refresh */
    ck_assert_int_eq(kept(), 1);
    run_round_at(NOW_MS + 11 * HOUR_MS, 3);
    ck_assert_int_eq(kept(), 0);
    ck_assert_int_le(query("SELECT count(*) FROM refreshes"), 3);
}
END_TEST

/* Room is made at the cost of what a refresh has lacked, the oldest first, and of nothing else. */
START_TEST(room_is_made_by_what_was_lacked)
{
    struct delivery *delivery;

    policy_unref(policy);
    policy = policy_with(2, 1 << 20);
    keys.key = NULL;
    submit(unknown("a.1.c", "", NOW_MS, 0), VERDICT_DEFERRED);
    submit(unknown("a.2.c", "", NOW_MS, 0), VERDICT_DEFERRED);
    submit(unknown("a.3.c", "", NOW_MS, 0), VERDICT_KID_UNKNOWN);
    /* one that was judged after the refresh is not lacked by it, though it is counted later */
    run_round_at(NOW_MS, 1);
    delivery = unknown("a.4.c", "", NOW_MS, 2);
    submit(delivery, VERDICT_DEFERRED);
    ck_assert_int_eq(query("SELECT min(id) FROM deferred"), 2);
    submit(unknown("a.5.c", "", NOW_MS, 2), VERDICT_DEFERRED);
    ck_assert_int_eq(query("SELECT min(id) FROM deferred"), 3);
    submit(unknown("a.6.c", "", NOW_MS, 2), VERDICT_KID_UNKNOWN);
    run_round_at(NOW_MS, 2); /* it has lacked neither: they came after it */
    submit(unknown("a.7.c", "", NOW_MS, 2), VERDICT_KID_UNKNOWN);
    run_round_at(NOW_MS, 3);
    submit(unknown("a.8.c", "", NOW_MS, 3), VERDICT_DEFERRED);
    ck_assert_int_eq(kept(), 2);
}
END_TEST

/* What would not fit even then pushes nobody out. */
START_TEST(no_room_is_made_in_vain)
{
    char padding[3000];

    policy_unref(policy);
    policy = policy_with(10, 2000);
    keys.key = NULL;
    submit(unknown("a.1.c", "", NOW_MS, 0), VERDICT_DEFERRED);
    run_round_at(NOW_MS, 1);
    submit(unknown("a.2.c", "", NOW_MS, 1), VERDICT_DEFERRED);
    memset(padding, ' ', sizeof padding - 1);
    padding[sizeof padding - 1] = '\0';
    submit(unknown("a.3.c", padding, NOW_MS, 1), VERDICT_KID_UNKNOWN);
    ck_assert_int_eq(kept(), 2);
    padding[1980] = '\0'; /* would fit alone, but not beside the one that was not lacked */
    submit(unknown("a.4.c", padding, NOW_MS, 1), VERDICT_KID_UNKNOWN);
    ck_assert_int_eq(kept(), 2);
    padding[1950] = '\0';
    submit(unknown("a.5.c", padding, NOW_MS, 1), VERDICT_DEFERRED);
    ck_assert_int_eq(kept(), 2);
}
END_TEST

START_TEST(labels)
{
    ck_assert_str_eq(deferral_result_label(DEFERRAL_RESULT_DELIVERED), "delivered");
    ck_assert_str_eq(deferral_result_label(DEFERRAL_RESULT_COUNT), "internal");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("deferral");
    TCase *keeping = tcase_create("keeping"), *rounds = tcase_create("rounds");
    SRunner *runner = srunner_create(suite);
    char *n, why[JWKS_WHY_BYTES];
    int failed;

    signer = signer_make("k");
    impostor = signer_make("k");
    n = signer_n(&signer);
    SIGNER_NEEDS(jwk_new("k", n, &key, why) == 0);
    tcase_add_checked_fixture(keeping, set_up, tear_down);
    tcase_set_timeout(keeping, 60);
    tcase_add_test(keeping, keeps_the_same_token_once);
    tcase_add_test(keeping, what_was_rolled_back_is_not_counted);
    tcase_add_test(keeping, counts_are_the_same_after_a_restart);
    tcase_add_test(keeping, nothing_is_kept_where_nothing_is_wanted);
    tcase_add_test(keeping, removing_one_counts_it);
    tcase_add_test(keeping, labels);
    suite_add_tcase(suite, keeping);
    tcase_add_checked_fixture(rounds, set_up_rounds, tear_down_rounds);
    tcase_set_timeout(rounds, 120);
    tcase_add_test(rounds, a_round_delivers_and_drops);
    tcase_add_test(rounds, a_round_of_many_pieces);
    tcase_add_test(rounds, times_are_those_of_the_receipt);
    tcase_add_test(rounds, a_key_that_is_not_trusted);
    tcase_add_test(rounds, an_unknown_kid_is_given_up);
    tcase_add_test(rounds, an_hour_with_two_refreshes_is_not_enough);
    tcase_add_test(rounds, room_is_made_by_what_was_lacked);
    tcase_add_test(rounds, no_room_is_made_in_vain);
    suite_add_tcase(suite, rounds);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    jwk_unref(key);
    free(n);
    signer_free(&signer);
    signer_free(&impostor);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
