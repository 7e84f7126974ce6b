/* The refresh thread with a real cache and a real key server. Nothing here waits for time to pass:
 * when attempts are due is tested in test_refresh_plan.c. */
#include "keys/refresher.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostile_cases.h"
#include "key_server.h"
#include "key_sets.h"
#include "support/clock.h"

static struct key_server server;
static char folder[64], cache_path[96], source_path[96];

/* What the callbacks saw; a condition says when it changed. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned outcomes, overs;
    struct refresher_outcome last;
    char why[FETCH_WHY_BYTES];
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct key_cache *cache;
static struct metrics *metrics;
static struct refresher_settings settings;

static void on_outcome(void *context, const struct refresher_outcome *outcome)
{
    ck_assert_ptr_eq(context, &seen);
    pthread_mutex_lock(&seen.lock);
    seen.outcomes++;
    seen.last = *outcome;
    strcpy(seen.why, outcome->why);
    pthread_mutex_unlock(&seen.lock);
}

static void on_attempt_over(void *context)
{
    ck_assert_ptr_eq(context, &settings);
    pthread_mutex_lock(&seen.lock);
    seen.overs++;
    pthread_cond_signal(&seen.changed);
    pthread_mutex_unlock(&seen.lock);
}

static void wait_for_attempt(unsigned number)
{
    pthread_mutex_lock(&seen.lock);
    while (seen.overs < number)
        pthread_cond_wait(&seen.changed, &seen.lock);
    ck_assert_uint_eq(seen.outcomes, seen.overs);
    pthread_mutex_unlock(&seen.lock);
}

static void set_up(void)
{
    strcpy(folder, "/tmp/siwa-refresher-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(cache_path, sizeof(cache_path), "%s/keys.json", folder);
    snprintf(source_path, sizeof(source_path), "%s/published.json", folder);
    ck_assert_int_eq(key_cache_new_empty(cache_path, &cache), 0);
    ck_assert_int_eq(metrics_new(&metrics), 0);
    settings = (struct refresher_settings){
        .source = {.kind = CONFIG_KEYS_FILE, .path = source_path, .ca_file = "", .proxy = ""},
        .interval_s = 3600,
        .cache = cache,
        .metrics = metrics,
        .on_outcome = on_outcome,
        .outcome_context = &seen,
        .on_attempt_over = on_attempt_over,
        .context = &settings,
    };
}

static void tear_down(void)
{
    char command[96];
    key_cache_free(cache);
    metrics_free(metrics);
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* Takes over the text. */
static void publish(char *text)
{
    char temporary[112];
    snprintf(temporary, sizeof(temporary), "%s.new", source_path);
    FILE *out = fopen(temporary, "w");
    ck_assert_ptr_nonnull(out);
    fputs(text, out);
    ck_assert_int_eq(fclose(out), 0);
    ck_assert_int_eq(rename(temporary, source_path), 0);
    free(text);
}

static struct refresher *start(void)
{
    struct refresher *refresher;
    ck_assert_int_eq(refresher_start(&settings, &refresher), 0);
    return refresher;
}

static void remember(const char *kid)
{
    struct jwks *set = key_sets_make(kid);
    ck_assert_int_eq(key_cache_replace(cache, set, clock_wall_ms() / 1000, NULL), 0);
    jwks_free(set);
}

static bool serves(const char *kid)
{
    enum key_trust trust;
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    int64_t now_s = clock_wall_ms() / 1000;
    bool found = key_snapshot_find(snapshot, kid, strlen(kid), now_s, &trust) != NULL;
    bool usable = key_snapshot_usable(snapshot, now_s);
    key_snapshot_unref(snapshot);
    return usable && found && trust == KEY_TRUST_FULL;
}

static double metric(const char *name, const char *result)
{
    static const char *const label[] = {"result", NULL};
    struct metrics_family *family = metrics_register(metrics, METRICS_COUNTER, name, "",
                                                     result == NULL ? NULL : label, NULL, 0);
    return metrics_value(metrics_with(family, result == NULL ? NULL : &result));
}

static char *whole_file(const char *path)
{
    char *text = calloc(1, 1 << 20);
    FILE *in = fopen(path, "r");
    ck_assert(in != NULL && text != NULL);
    size_t bytes = fread(text, 1, (1 << 20) - 1, in);
    text[bytes] = '\0';
    fclose(in);
    return text;
}

START_TEST(the_first_set_comes_at_once)
{
    publish(key_sets_text("A", "B"));
    struct refresher *refresher = start();
    wait_for_attempt(1);
    ck_assert(serves("A"));
    ck_assert_int_eq(seen.last.result, FETCH_RESULT_OK);
    ck_assert_int_eq(seen.last.cause, REFRESHER_CAUSE_SCHEDULED);
    ck_assert_uint_eq(seen.last.keys, 2);
    ck_assert_uint_eq(seen.last.new_keys, 2);
    ck_assert_int_eq(seen.last.save_error, 0);
    ck_assert_str_eq(seen.why, "");
    ck_assert_int_ge(seen.last.next_in_ms, 3600 * 900);
    ck_assert_int_le(seen.last.next_in_ms, 3600 * 1100);
    refresher_stop(refresher);
    ck_assert(serves("A"));
}
END_TEST

/* Start without network: what was persisted serves, and is not even asked for anew while fresh. */
START_TEST(a_fresh_persisted_set_is_good_for_its_interval)
{
    struct refresher_state state;
    remember("PERSISTED");
    struct refresher *refresher = start();
    ck_assert(serves("PERSISTED"));
    refresher_state(refresher, &state);
    ck_assert_uint_eq(state.attempts, 0);
    ck_assert_int_eq(state.last_result, FETCH_RESULT_INTERNAL);
    ck_assert_int_gt(state.next_scheduled_in_ms, 3500 * 1000);
    refresher_stop(refresher);
    ck_assert_uint_eq(seen.outcomes, 0);
}
END_TEST

START_TEST(an_old_persisted_set_is_refreshed_at_once)
{
    struct jwks *set = key_sets_make("PERSISTED");
    ck_assert_int_eq(key_cache_replace(cache, set, clock_wall_ms() / 1000 - 3601, NULL), 0);
    jwks_free(set);
    struct refresher *refresher = start();
    wait_for_attempt(1);
    ck_assert_int_eq(seen.last.result, FETCH_RESULT_UNREACHABLE);
    ck_assert_str_ne(seen.why, "");
    ck_assert(serves("PERSISTED"));
    refresher_stop(refresher);
}
END_TEST

/* The clock was ahead when the set was stored: how old it is nobody knows. */
START_TEST(a_persisted_set_from_the_future_is_refreshed_at_once)
{
    struct jwks *set = key_sets_make("PERSISTED");
    ck_assert_int_eq(key_cache_replace(cache, set, clock_wall_ms() / 1000 + 86400, NULL), 0);
    jwks_free(set);
    publish(key_sets_text("A"));
    struct refresher *refresher = start();
    wait_for_attempt(1);
    ck_assert(serves("A"));
    refresher_stop(refresher);
}
END_TEST

START_TEST(a_rotation_is_taken_on_demand)
{
    struct refresher_state state;
    publish(key_sets_text("A"));
    struct refresher *refresher = start();
    wait_for_attempt(1);
    publish(key_sets_text("B"));
    ck_assert(!serves("B"));
    ck_assert(refresher_demand(refresher));
    wait_for_attempt(2);
    ck_assert(serves("B"));
    ck_assert(serves("A"));
    ck_assert_int_eq(seen.last.cause, REFRESHER_CAUSE_DEMAND);
    ck_assert_uint_eq(seen.last.new_keys, 1);
    /* The budget is used up: who asks now is told that waiting is in vain. */
    for (int i = 0; i < 1000; i++)
        ck_assert(!refresher_demand(refresher));
    /* An operator is served all the same. */
    refresher_refresh_now(refresher);
    wait_for_attempt(3);
    ck_assert_int_eq(seen.last.cause, REFRESHER_CAUSE_OPERATOR);
    refresher_state(refresher, &state);
    ck_assert_uint_eq(state.attempts, 3);
    ck_assert_uint_eq(state.demand_attempts, 1);
    ck_assert_int_eq(state.last_result, FETCH_RESULT_OK);
    ck_assert_str_eq(state.last_why, "");
    ck_assert(!state.in_flight);
    ck_assert_int_gt(state.last_attempt_ms, 0);
    refresher_stop(refresher);
    ck_assert_int_eq((int)metric("siwa_key_refreshes_total", "ok"), 3);
    ck_assert_int_eq((int)metric("siwa_key_demand_refreshes_total", NULL), 1);
}
END_TEST

START_TEST(keys_that_cannot_be_saved_serve_and_it_is_said)
{
    char beside[112];
    publish(key_sets_text("A"));
    key_cache_free(cache);
    snprintf(beside, sizeof(beside), "%s/gone/keys.json", folder);
    ck_assert_int_eq(key_cache_new_empty(beside, &cache), 0);
    settings.cache = cache;
    struct refresher *refresher = start();
    wait_for_attempt(1);
    ck_assert_int_eq(seen.last.result, FETCH_RESULT_OK);
    ck_assert_int_eq(seen.last.save_error, -ENOENT);
    ck_assert(serves("A"));
    refresher_stop(refresher);
}
END_TEST

START_TEST(every_result_has_its_series_from_the_start)
{
    remember("A");
    struct refresher *refresher = start();
    char *text, line[80];
    size_t bytes;
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);
    remember("B");
    refresher_update_metrics(refresher, clock_wall_ms() / 1000 + 100);
    ck_assert_int_eq(metrics_render(metrics, &text, &bytes), 0);
    for (unsigned i = 0; i < FETCH_RESULT_COUNT; i++) {
        snprintf(line, sizeof(line), "\nsiwa_key_refreshes_total{result=\"%s\"} 0\n",
                 fetch_result_label((enum fetch_result)i));
        ck_assert_msg(strstr(text, line) != NULL, "%s is missing", line);
    }
    ck_assert_ptr_nonnull(strstr(text, "\nsiwa_key_demand_refreshes_total 0\n"));
    ck_assert_ptr_nonnull(strstr(text, "\nsiwa_keys_current 1\n"));
    ck_assert_ptr_nonnull(strstr(text, "\nsiwa_key_age_seconds 10")); /* 100, or 101 by now */
    ck_assert_ptr_nonnull(strstr(text, "\nsiwa_key_set_refreshed_timestamp_seconds 1"));
    free(text);
    refresher_stop(refresher);
}
END_TEST

/* Each way to misbehave, against keys that serve: they go on serving, memory and file untouched. */
START_TEST(old_keys_go_on_serving)
{
    const struct hostile_case *hostile = &hostile_cases[_i];
    char url[128];
    if (key_server_port(&server, hostile->port) == 0) {
        printf("SKIP old_keys_go_on_serving: this OpenSSL cannot serve %s\n", hostile->port);
        return;
    }
    snprintf(url, sizeof(url), "https://127.0.0.1:%u%s", key_server_port(&server, hostile->port),
             hostile->path);
    settings.source = (struct fetch_source){
        .kind = CONFIG_KEYS_URL,
        .url = url,
        .ca_file = server.ca_file,
        .proxy = "",
        .timeout_ms = hostile_never_ends(hostile) ? HOSTILE_HASTY_MS : HOSTILE_PATIENT_MS};
    remember("OLDKEY0001");
    uint64_t generation = key_cache_generation(cache);
    char *file_before = whole_file(cache_path);

    struct refresher *refresher = start();
    ck_assert(refresher_demand(refresher));
    wait_for_attempt(1);
    /* On a machine that is busy enough the time may be up before such a server was reached. */
    if (hostile->result != FETCH_RESULT_TIMEOUT || seen.last.result != FETCH_RESULT_UNREACHABLE) {
        ck_assert_msg(seen.last.result == hostile->result, "%s instead of %s: %s",
                      fetch_result_label(seen.last.result), fetch_result_label(hostile->result),
                      seen.why);
        ck_assert_ptr_nonnull(strstr(seen.why, hostile->why));
    }
    ck_assert(serves("OLDKEY0001"));
    ck_assert(!serves("NEWKEY0001"));
    ck_assert_uint_eq(key_cache_generation(cache), generation);
    char *file_after = whole_file(cache_path);
    ck_assert_str_eq(file_after, file_before);
    ck_assert_int_eq((int)metric("siwa_key_refreshes_total", fetch_result_label(seen.last.result)),
                     1);
    refresher_stop(refresher);
    free(file_before);
    free(file_after);
}
END_TEST

START_TEST(a_good_server_is_believed)
{
    char url[128];
    snprintf(url, sizeof(url), "https://127.0.0.1:%u/good", key_server_port(&server, "good"));
    settings.source = (struct fetch_source){
        .kind = CONFIG_KEYS_URL, .url = url, .ca_file = server.ca_file, .proxy = ""};
    remember("OLDKEY0001");
    struct refresher *refresher = start();
    ck_assert(refresher_demand(refresher));
    wait_for_attempt(1);
    ck_assert_msg(seen.last.result == FETCH_RESULT_OK, "%s", seen.why);
    ck_assert(serves("NEWKEY0001"));
    ck_assert(serves("OLDKEY0001"));
    refresher_stop(refresher);
}
END_TEST

/* SIGTERM must not wait for a key server that hangs. */
START_TEST(stop_cuts_an_attempt_off)
{
    static const char *const ports[] = {"silent", "good"};
    struct refresher_state state;
    char url[128];
    snprintf(url, sizeof(url), "https://127.0.0.1:%u/hang", key_server_port(&server, ports[_i]));
    settings.source = (struct fetch_source){.kind = CONFIG_KEYS_URL,
                                            .url = url,
                                            .ca_file = server.ca_file,
                                            .proxy = "",
                                            .timeout_ms = 60000};
    struct refresher *refresher = start();
    do {
        poll(NULL, 0, 10);
        refresher_state(refresher, &state);
    } while (!state.in_flight);
    ck_assert(refresher_demand(refresher)); /* joins the one in flight */
    int64_t begin_ms = clock_monotonic_ms();
    ck_assert_int_ge(refresher_alive_ms(refresher), begin_ms - 1000);
    refresher_stop(refresher);
    ck_assert_int_lt(clock_monotonic_ms() - begin_ms, 20000); /* of sixty seconds */
    ck_assert_uint_eq(seen.outcomes, 0);
}
END_TEST

START_TEST(an_idle_thread_is_alive)
{
    remember("A");
    struct refresher *refresher = start();
    int64_t now_ms = clock_monotonic_ms();
    ck_assert_int_ge(refresher_alive_ms(refresher), now_ms);
    refresher_stop(refresher);
    refresher_stop(NULL);
}
END_TEST

static void *demand_and_look(void *context)
{
    for (int i = 0; i < 2000; i++) {
        struct refresher_state state;
        (void)refresher_demand(context);
        refresher_state(context, &state);
        (void)refresher_alive_ms(context);
        refresher_update_metrics(context, 1);
    }
    return NULL;
}

/* Under TSan this shows that the calls need nothing from each other. */
START_TEST(many_threads_ask_at_once)
{
    pthread_t threads[4];
    publish(key_sets_text("A"));
    struct refresher *refresher = start();
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, demand_and_look, refresher), 0);
    for (unsigned i = 1; i <= 20; i++) {
        refresher_refresh_now(refresher);
        wait_for_attempt(i);
    }
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    refresher_stop(refresher);
    ck_assert_int_le((int)metric("siwa_key_demand_refreshes_total", NULL), 2);
}
END_TEST

int main(void)
{
    server = key_server_start();
    KEY_SERVER_NEEDS(fetch_init() == 0);

    Suite *suite = suite_create("refresher");
    TCase *tcase = tcase_create("refresher");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, the_first_set_comes_at_once);
    tcase_add_test(tcase, a_fresh_persisted_set_is_good_for_its_interval);
    tcase_add_test(tcase, an_old_persisted_set_is_refreshed_at_once);
    tcase_add_test(tcase, a_persisted_set_from_the_future_is_refreshed_at_once);
    tcase_add_test(tcase, a_rotation_is_taken_on_demand);
    tcase_add_test(tcase, keys_that_cannot_be_saved_serve_and_it_is_said);
    tcase_add_test(tcase, every_result_has_its_series_from_the_start);
    tcase_add_loop_test(tcase, old_keys_go_on_serving, 0, HOSTILE_CASE_COUNT);
    tcase_add_test(tcase, a_good_server_is_believed);
    tcase_add_loop_test(tcase, stop_cuts_an_attempt_off, 0, 2);
    tcase_add_test(tcase, an_idle_thread_is_alive);
    tcase_add_test(tcase, many_threads_ask_at_once);
    suite_add_tcase(suite, tcase);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    key_server_stop(&server);
    return failed != 0;
}
