/* The monitor over a real socket, with the real rooms behind it. */
#include "listener/monitor.h"

#include "rooms.h"

static struct rooms rooms;
static struct monitor *monitor;

static const char *key_set(void)
{
    static char *text;

    if (!text) {
        struct signer signer = signer_make("monitor-key");
        text = signer_jwks(&signer, 1);
        signer_free(&signer);
    }
    return text;
}

static void start(const char *set, bool notify_runs)
{
    rooms_make(&rooms, set);
    const struct monitor_settings settings = {.health = rooms.health,
                                              .metrics = rooms.metrics,
                                              .version = "1.2.3",
                                              .key_cache = rooms.keys,
                                              .database = rooms.database};
    ck_assert_int_eq(monitor_new(&settings, &monitor), 0);
    struct http_server *server =
        rooms_serve(&rooms, &monitor_service, monitor, MONITOR_BODY_MAX_BYTES);
    ck_assert_int_eq(monitor_watch(monitor, "monitor", server), 0);
    if (notify_runs)
        ck_assert_int_eq(http_loop_start(rooms.notify_loop), 0);
    rooms_run(&rooms);
}

static void setup(void)
{
    start(key_set(), true);
}

static void setup_without_keys(void)
{
    start(NULL, true);
}

static void teardown(void)
{
    rooms_stop(&rooms);
    monitor_free(monitor);
    rooms_remove(&rooms);
}

static const json_t *check_of(const json_t *readyz, const char *check, const char *name)
{
    return json_object_get(json_object_get(json_object_get(readyz, "checks"), check), name);
}

static json_t *readyz(unsigned status)
{
    return rooms_call_json(&rooms, "GET", "/readyz", NULL, status, "application/json");
}

/* The value of one sample of /metrics; the test ends where it is absent. */
static double sample(const char *name)
{
    struct call_reply reply;
    char line[128];

    ck_assert_uint_eq(rooms_call(&rooms, "GET", "/metrics", NULL, &reply), 200);
    (void)snprintf(line, sizeof line, "\n%s ", name);
    const char *found = strstr(reply.body, line);
    ck_assert_msg(found != NULL, "%s is not in:\n%s", name, reply.body);
    double value = strtod(found + strlen(line), NULL);
    call_reply_release(&reply);
    return value;
}

START_TEST(healthz_is_one_word)
{
    struct call_reply reply;
    char value[64];

    ck_assert_uint_eq(rooms_call(&rooms, "GET", "/healthz", NULL, &reply), 200);
    ck_assert_str_eq(reply.body, "ok\n");
    ck_assert_int_eq(call_reply_header(&reply, "Cache-Control", value, sizeof value), 0);
    ck_assert_str_eq(value, "no-store");
    call_reply_release(&reply);
}
END_TEST

START_TEST(readyz_says_ready)
{
    json_t *json = readyz(200);

    ck_assert(json_is_true(json_object_get(json, "ready")));
    ck_assert_int_eq(json_integer_value(check_of(json, "keys", "count")), 1);
    ck_assert_int_eq(json_integer_value(check_of(json, "queue", "bound")), ROOMS_QUEUE_EVENTS);
    ck_assert_int_gt(json_integer_value(check_of(json, "database", "bytes")), 0);
    json_decref(json);
}
END_TEST

START_TEST(readyz_without_keys_says_why)
{
    json_t *json = readyz(503);

    ck_assert(json_is_false(json_object_get(json, "ready")));
    ck_assert_str_eq(json_string_value(check_of(json, "keys", "state")), "fail");
    ck_assert_ptr_nonnull(strstr(json_string_value(check_of(json, "keys", "why")), "ever fetched"));
    ck_assert_str_eq(json_string_value(check_of(json, "database", "state")), "ok");
    json_decref(json);
    ck_assert(sample("siwa_ready") == 0);
    ck_assert(sample("siwa_keys_current") == 0);
}
END_TEST

/* Every commit would still succeed, into a file that nobody will ever find. */
START_TEST(readyz_notices_a_deleted_database)
{
    char aside[128];

    (void)snprintf(aside, sizeof aside, "%s.aside", rooms.database);
    ck_assert_int_eq(rename(rooms.database, aside), 0);
    json_t *json = readyz(503);
    ck_assert_ptr_nonnull(strstr(json_string_value(check_of(json, "database", "why")), "deleted"));
    json_decref(json);

    rooms_write(rooms.database, "another file");
    json = readyz(503);
    ck_assert_ptr_nonnull(strstr(json_string_value(check_of(json, "database", "why")), "another"));
    json_decref(json);

    ck_assert_int_eq(rename(aside, rooms.database), 0);
    json_decref(readyz(200));
}
END_TEST

/* Whether the page tells that the counts of the days are missing. */
static bool page_lacks_history(void)
{
    struct call_reply reply;
    bool lacks;

    ck_assert_uint_eq(rooms_call(&rooms, "GET", "/", NULL, &reply), 200);
    ck_assert_ptr_nonnull(strstr(reply.body, "</html>"));
    lacks = strstr(reply.body, "could not be read from the database") != NULL;
    call_reply_release(&reply);
    return lacks;
}

START_TEST(the_page_goes_on_without_the_database)
{
    char aside[128];

    (void)snprintf(aside, sizeof aside, "%s.aside", rooms.database);
    ck_assert_int_eq(rename(rooms.database, aside), 0);
    rooms_write(rooms.database, "another file");
    ck_assert(page_lacks_history());
    ck_assert_int_eq(rename(aside, rooms.database), 0);
    ck_assert(!page_lacks_history());
}
END_TEST

START_TEST(readyz_says_draining)
{
    health_drain(rooms.health);
    json_t *json = readyz(503);
    ck_assert_str_eq(json_string_value(check_of(json, "draining", "state")), "fail");
    json_decref(json);
}
END_TEST

/* Apple's loop never starts here, which looks from outside like one that hangs. */
static void setup_stuck(void)
{
    start(key_set(), false);
}

START_TEST(a_loop_that_hangs_is_told)
{
    struct call_reply reply = {0};
    char why[HEALTH_WHY_BYTES] = "";

    while (health_alive(rooms.health, why))
        (void)usleep(10000);
    ck_assert_ptr_nonnull(strstr(why, "Apple's path"));
    ck_assert_uint_eq(rooms_call(&rooms, "GET", "/healthz", NULL, &reply), 503);
    ck_assert_str_eq(reply.body, "stuck\n");
    call_reply_release(&reply);
    json_t *json = readyz(503);
    ck_assert_str_eq(json_string_value(check_of(json, "threads", "state")), "fail");
    json_decref(json);
}
END_TEST

START_TEST(metrics_are_those_of_now)
{
    struct call_reply reply;
    char value[64];

    ck_assert_uint_eq(rooms_call(&rooms, "GET", "/metrics", NULL, &reply), 200);
    ck_assert_int_eq(call_reply_header(&reply, "Content-Type", value, sizeof value), 0);
    ck_assert_ptr_nonnull(strstr(value, "text/plain; version=0.0.4"));
    call_reply_release(&reply);

    ck_assert(sample("siwa_ready") == 1);
    ck_assert(sample("siwa_build_info{version=\"1.2.3\"}") == 1);
    ck_assert(sample("siwa_connections{listener=\"monitor\"}") >= 1);
    ck_assert(sample("siwa_database_bytes{file=\"main\"}") > 0);
    ck_assert(sample("siwa_database_bytes{file=\"wal\"}") >= 0);
    ck_assert(sample("siwa_disk_free_bytes") > 0);
    ck_assert(sample("siwa_keys_current") == 1);
    ck_assert(sample("siwa_key_age_seconds") >= 0);
    ck_assert(sample("siwa_key_age_seconds") < 3600);
    ck_assert(sample("process_resident_memory_bytes") > 0);
    ck_assert(sample("process_open_fds") > 3);
    ck_assert_int_eq(key_cache_distrust(rooms.keys, "monitor-key"), 0);
    ck_assert(sample("siwa_keys_current") == 0); /* no refresh came between */
    double started_s = sample("siwa_start_time_seconds");
    ck_assert(started_s > 1700000000);
    ck_assert(started_s <= (double)clock_wall_ms() / 1000);
}
END_TEST

/* A descriptor that is never closed shows, and one that is closed does not stay. */
START_TEST(open_descriptors_are_counted)
{
    double before = sample("process_open_fds");
    int more[10];

    for (size_t i = 0; i < 10; i++)
        more[i] = dup(0);
    ck_assert(sample("process_open_fds") == before + 10);
    for (size_t i = 0; i < 10; i++)
        (void)close(more[i]);
    ck_assert(sample("process_open_fds") == before);
}
END_TEST

START_TEST(anything_else_is_not_there)
{
    static const char *const paths[] = {"/index.html", "/healthz/", "/metrics2", "/metric",
                                        "/v1/state"};
    struct call_reply reply;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        ck_assert_uint_eq(rooms_call(&rooms, "GET", paths[i], NULL, &reply), 404);
        call_reply_release(&reply);
    }
    ck_assert_uint_eq(rooms_call(&rooms, "GET", "/healthz?verbose=1", NULL, &reply), 200);
    call_reply_release(&reply);
}
END_TEST

START_TEST(other_methods_are_not_allowed)
{
    static const char *const methods[] = {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"};
    static const char *const paths[] = {"/", "/healthz", "/readyz", "/metrics"};
    struct call_reply reply;
    char value[16];

    for (size_t i = 0; i < 20; i++) {
        ck_assert_uint_eq(rooms_call(&rooms, methods[i % 5], paths[i / 5], NULL, &reply), 405);
        ck_assert_int_eq(call_reply_header(&reply, "Allow", value, sizeof value), 0);
        ck_assert_str_eq(value, "GET, HEAD");
        call_reply_release(&reply);
    }
}
END_TEST

static TCase *add_case(Suite *suite, const char *name, void (*with)(void))
{
    TCase *tests = tcase_create(name);

    tcase_add_checked_fixture(tests, with, teardown);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return tests;
}

/* A reload changes what counts as a jump. */
START_TEST(the_leeway_can_change)
{
    struct health_report report;

    health_set_leeway(rooms.health, 7);
    health_report(rooms.health, &report);
    ck_assert_int_eq(report.facts.leeway_s, 7);
    ck_assert(!health_draining(rooms.health));
    health_drain(rooms.health);
    ck_assert(health_draining(rooms.health));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("monitor");
    TCase *usual = add_case(suite, "usual", setup);

    (void)signal(SIGPIPE, SIG_IGN);
    tcase_add_test(usual, healthz_is_one_word);
    tcase_add_test(usual, readyz_says_ready);
    tcase_add_test(usual, readyz_notices_a_deleted_database);
    tcase_add_test(usual, the_page_goes_on_without_the_database);
    tcase_add_test(usual, readyz_says_draining);
    tcase_add_test(usual, the_leeway_can_change);
    tcase_add_test(usual, metrics_are_those_of_now);
    tcase_add_test(usual, open_descriptors_are_counted);
    tcase_add_test(usual, anything_else_is_not_there);
    tcase_add_test(usual, other_methods_are_not_allowed);
    tcase_add_test(add_case(suite, "without keys", setup_without_keys),
                   readyz_without_keys_says_why);
    tcase_add_test(add_case(suite, "stuck", setup_stuck), a_loop_that_hangs_is_told);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
