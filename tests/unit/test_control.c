/* The control socket, with the real rooms behind it. */
#include "listener/control.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "memory_faults.h"
#include "rooms.h"

#define NOBODY 65534

static struct rooms rooms;
static struct control *control;
static struct probe *probe;
static char *set_one, *set_two;

/* Made once, before the first fork of Check. */
static void make_sets(void)
{
    struct signer signers[2] = {signer_make("key-one"), signer_make("key-two")};

    set_one = signer_jwks(signers, 1);
    set_two = signer_jwks(signers, 2);
    signer_free(&signers[0]);
    signer_free(&signers[1]);
}

static void start(const char *set)
{
    rooms_make(&rooms, set);
    ck_assert_int_eq(probe_new(&probe), 0);
    const struct control_settings settings = {.health = rooms.health,
                                              .key_cache = rooms.keys,
                                              .refresher = rooms.refresher,
                                              .consumers = rooms.consumers,
                                              .probe = probe,
                                              .writer = rooms.writer,
                                              .reader = rooms.reader,
                                              .loop = rooms.reader_loop,
                                              .version = "1.2.3"};
    ck_assert_int_eq(control_new(&settings, &control), 0);
}

static void run(void)
{
    rooms_serve(&rooms, &control_service, control, CONTROL_BODY_MAX_BYTES);
    ck_assert_int_eq(http_loop_start(rooms.notify_loop), 0);
    rooms_run(&rooms);
}

static void setup(void)
{
    start(set_one);
    run();
}

static void setup_without_keys(void)
{
    start(NULL);
    run();
}

/* The same service where a TCP port listens, which no configuration can bring about. */
static void setup_tcp(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET};
    socklen_t bytes = sizeof name;

    start(set_one);
    rooms.address = (struct config_address){.kind = CONFIG_ADDRESS_TCP, .host = "127.0.0.1"};
    run();
    ck_assert_int_eq(getsockname(rooms.fd, (struct sockaddr *)&name, &bytes), 0);
    rooms.address.port = ntohs(name.sin_port);
}

static void teardown(void)
{
    rooms_stop(&rooms);
    control_free(control);
    probe_free(probe);
    rooms_remove(&rooms);
}

static json_t *ask(const char *method, const char *path, const char *body)
{
    return rooms_call_json(&rooms, method, path, body, 200, "application/json");
}

/* Asks what must be refused; the problem has all that RFC 7807 promises. */
static void ask_in_vain(const char *method, const char *path, const char *body, unsigned status,
                        const char *type)
{
    json_t *problem =
        rooms_call_json(&rooms, method, path, body, status, "application/problem+json");

    ck_assert_str_eq(json_string_value(json_object_get(problem, "type")), type);
    ck_assert_int_eq(json_integer_value(json_object_get(problem, "status")), (json_int_t)status);
    ck_assert_uint_gt(json_string_length(json_object_get(problem, "title")), 0);
    ck_assert_uint_gt(json_string_length(json_object_get(problem, "detail")), 0);
    json_decref(problem);
}

static const char *state_of(const json_t *keys, const char *kid)
{
    const json_t *known = json_object_get(keys, "keys");

    for (size_t i = 0; i < json_array_size(known); i++) {
        const json_t *key = json_array_get(known, i);
        if (strcmp(json_string_value(json_object_get(key, "kid")), kid) == 0)
            return json_string_value(json_object_get(key, "state"));
    }
    return "absent";
}

/* ---- keys ---- */

START_TEST(keys_are_listed)
{
    json_t *keys = ask("GET", "/v1/keys", NULL);
    const json_t *key = json_array_get(json_object_get(keys, "keys"), 0);

    ck_assert(json_is_true(json_object_get(keys, "usable")));
    ck_assert_int_gt(json_integer_value(json_object_get(keys, "refreshed_s")), 1700000000);
    ck_assert_uint_eq(json_array_size(json_object_get(keys, "keys")), 1);
    ck_assert_str_eq(json_string_value(json_object_get(key, "kid")), "key-one");
    ck_assert_str_eq(json_string_value(json_object_get(key, "state")), "current");
    ck_assert_int_gt(json_integer_value(json_object_get(key, "first_seen_s")), 1700000000);
    ck_assert_int_gt(json_integer_value(json_object_get(key, "last_seen_s")), 1700000000);
    ck_assert_uint_eq(json_array_size(json_object_get(keys, "distrusted_unknown")), 0);
    json_decref(keys);
}
END_TEST

START_TEST(no_keys_are_listed)
{
    json_t *keys = ask("GET", "/v1/keys", NULL);

    ck_assert(json_is_false(json_object_get(keys, "usable")));
    ck_assert(json_is_null(json_object_get(keys, "refreshed_s")));
    ck_assert_uint_eq(json_array_size(json_object_get(keys, "keys")), 0);
    json_decref(keys);
}
END_TEST

/* How a key ages, by the clock given: current, then trusted for two days, then for quarantine. */
START_TEST(states_follow_the_trust)
{
    struct key_cache *cache = NULL;
    struct jwks *one = NULL, *two = NULL;
    char why[JWKS_WHY_BYTES];
    const int64_t now_s = 1760000000;

    ck_assert_int_eq(jwks_parse(set_one, strlen(set_one), &one, why), 0);
    ck_assert_int_eq(jwks_parse(set_two, strlen(set_two), &two, why), 0);
    ck_assert_int_eq(key_cache_new_empty(rooms.keys_file, &cache), 0);
    ck_assert_int_eq(key_cache_replace(cache, two, now_s - 3600, NULL), 0);
    ck_assert_int_eq(key_cache_replace(cache, one, now_s, NULL), 0);
    ck_assert_int_eq(key_cache_distrust(cache, "never-seen"), 0);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    json_t *soon = control_keys_json(snapshot, now_s + 60);
    json_t *late = control_keys_json(snapshot, now_s + KEY_CACHE_GRACE_S + 60);
    ck_assert_str_eq(state_of(soon, "key-one"), "current");
    ck_assert_str_eq(state_of(soon, "key-two"), "grace");
    ck_assert_str_eq(state_of(late, "key-two"), "old");
    ck_assert_str_eq(
        json_string_value(json_array_get(json_object_get(soon, "distrusted_unknown"), 0)),
        "never-seen");
    json_decref(soon);
    json_decref(late);
    key_snapshot_unref(snapshot);

    ck_assert_int_eq(key_cache_distrust(cache, "key-two"), 0);
    snapshot = key_cache_snapshot(cache);
    soon = control_keys_json(snapshot, now_s + 60);
    ck_assert_str_eq(state_of(soon, "key-two"), "distrusted");
    ck_assert_uint_eq(json_array_size(json_object_get(soon, "distrusted_unknown")), 1);
    json_decref(soon);
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
    jwks_free(one);
    jwks_free(two);
}
END_TEST

/* ---- refresh ---- */

START_TEST(refresh_fetches_what_is_published_now)
{
    rooms_publish(&rooms, set_two);
    json_t *answer = ask("POST", "/v1/keys/refresh", NULL);
    ck_assert_str_eq(json_string_value(json_object_get(answer, "result")), "ok");
    ck_assert_str_eq(state_of(json_object_get(answer, "keys"), "key-two"), "current");
    json_decref(answer);
}
END_TEST

START_TEST(a_refresh_that_fails_says_why_and_keeps_the_keys)
{
    ck_assert_int_eq(unlink(rooms.set_file), 0);
    ask_in_vain("POST", "/v1/keys/refresh", NULL, 502, "/problems/refresh-failed");
    json_t *keys = ask("GET", "/v1/keys", NULL);
    ck_assert_str_eq(state_of(keys, "key-one"), "current");
    json_decref(keys);
}
END_TEST

static void *ask_for_refresh(void *context)
{
    json_decref(ask("POST", "/v1/keys/refresh", "{}"));
    return context;
}

START_TEST(many_may_wait_for_one_refresh)
{
    pthread_t threads[8];

    for (size_t i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_for_refresh, NULL), 0);
    for (size_t i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}
END_TEST

/* A second refresher for the same cache, whose attempts hang until the test lets them go: nobody
 * accepts at its unix socket but the test. */
static struct refresher *slow_refresher;
static char slow_path[96];
static int slow_fd;

static int listen_slow(void)
{
    struct config_address address = {.kind = CONFIG_ADDRESS_UNIX};
    char why[256] = "";

    (void)snprintf(slow_path, sizeof slow_path, "%s/slow", rooms.folder);
    strcpy(address.path, slow_path);
    int fd = http_listen(&address, 0600, why);
    ck_assert_msg(fd >= 0, "%s", why);
    ck_assert_int_eq(fcntl(fd, F_SETFL, 0), 0); /* accept shall wait */
    return fd;
}

/* Ends the attempt that is under way, without an answer. */
static void end_attempt(void)
{
    int fd = accept(slow_fd, NULL, NULL);

    ck_assert_int_ge(fd, 0);
    (void)close(fd);
}

static void setup_slow(void)
{
    rooms_make(&rooms, set_one);
    slow_fd = listen_slow();
    const struct refresher_settings slow = {
        .source = {.kind = CONFIG_KEYS_UNIX, .path = slow_path, .timeout_ms = ROOMS_CALL_MS},
        .interval_s = 3600,
        .cache = rooms.keys,
        .metrics = rooms.metrics};
    ck_assert_int_eq(refresher_start(&slow, &slow_refresher), 0);
    const struct control_settings settings = {.health = rooms.health,
                                              .key_cache = rooms.keys,
                                              .refresher = slow_refresher,
                                              .version = "1.2.3"};
    ck_assert_int_eq(control_new(&settings, &control), 0);
    run();
}

static void teardown_slow(void)
{
    rooms_stop(&rooms);
    control_free(control);
    refresher_stop(slow_refresher);
    (void)close(slow_fd);
    rooms_remove(&rooms);
}

static int send_refresh(void)
{
    static const char request[] =
        "POST /v1/keys/refresh HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n";
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(name.sun_path, rooms.address.path);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&name, sizeof name), 0);
    ck_assert_int_eq(send(fd, request, sizeof request - 1, MSG_NOSIGNAL),
                     (ssize_t)sizeof request - 1);
    return fd;
}

static void await_requests(unsigned count)
{
    while (http_loop_requests(rooms.reader_loop) != count)
        (void)usleep(1000);
}

static uint64_t slow_attempts(void)
{
    struct refresher_state state;

    refresher_state(slow_refresher, &state);
    return state.attempts;
}

/* Attack: clients that leave while they wait. What is left of their requests must not be answered
 * when the attempt ends. */
START_TEST(who_leaves_while_waiting_is_forgotten)
{
    int fds[8];
    char text[64] = "";

    for (size_t i = 0; i < 8; i++)
        fds[i] = send_refresh();
    await_requests(8);
    for (size_t i = 0; i < 8; i += 2)
        (void)close(fds[i]);
    await_requests(4); /* the others still wait: the attempt hangs */
    ck_assert_uint_eq(slow_attempts(), 0);
    end_attempt();
    for (size_t i = 1; i < 8; i += 2) {
        ck_assert_int_gt(recv(fds[i], text, sizeof text - 1, 0), 12);
        ck_assert_int_eq(strncmp(text, "HTTP/1.1 502", 12), 0);
        (void)close(fds[i]);
    }
    await_requests(0);
    ck_assert_uint_eq(slow_attempts(), 1); /* one for all */
}
END_TEST

START_TEST(who_waits_while_the_daemon_shuts_down_is_told)
{
    int fd = send_refresh();
    char text[64] = "";

    await_requests(1);
    health_drain(rooms.health);
    ck_assert_int_gt(recv(fd, text, sizeof text - 1, 0), 12);
    ck_assert_int_eq(strncmp(text, "HTTP/1.1 503", 12), 0);
    ck_assert_uint_eq(slow_attempts(), 0);
    (void)close(fd);
}
END_TEST

/* A stop while a client waits: the request ends with the loop, and nothing is left. */
START_TEST(a_stop_ends_the_waiting)
{
    int fd = send_refresh();

    await_requests(1);
    http_loop_drain(rooms.reader_loop);
    (void)fd; /* stays open: teardown stops the loop under it */
}
END_TEST

/* ---- distrust ---- */

START_TEST(a_distrusted_key_is_out_at_once_and_after_a_restart)
{
    struct key_cache *again = NULL;
    enum key_trust trust = KEY_TRUST_FULL;
    char why[JWKS_WHY_BYTES];

    json_t *answer = ask("POST", "/v1/keys/distrust", "{\"kid\": \"key-one\"}");
    ck_assert_str_eq(json_string_value(json_object_get(answer, "kid")), "key-one");
    ck_assert(json_is_true(json_object_get(answer, "known")));
    ck_assert(json_is_false(json_object_get(answer, "keys_usable")));
    json_decref(answer);

    struct key_snapshot *snapshot = key_cache_snapshot(rooms.keys);
    (void)key_snapshot_find(snapshot, "key-one", 7, clock_wall_ms() / 1000, &trust);
    ck_assert_int_eq(trust, KEY_TRUST_NONE);
    key_snapshot_unref(snapshot);

    ck_assert_int_eq(key_cache_open(rooms.keys_file, &again, why), 0);
    snapshot = key_cache_snapshot(again);
    trust = KEY_TRUST_FULL;
    (void)key_snapshot_find(snapshot, "key-one", 7, clock_wall_ms() / 1000, &trust);
    ck_assert_int_eq(trust, KEY_TRUST_NONE);
    key_snapshot_unref(snapshot);
    key_cache_free(again);
}
END_TEST

START_TEST(a_kid_may_be_distrusted_before_it_is_seen)
{
    json_t *answer = ask("POST", "/v1/keys/distrust", "{\"kid\": \"key-two\"}");
    ck_assert(json_is_false(json_object_get(answer, "known")));
    ck_assert(json_is_true(json_object_get(answer, "keys_usable")));
    json_decref(answer);
    rooms_publish(&rooms, set_two);
    answer = ask("POST", "/v1/keys/refresh", NULL);
    ck_assert_str_eq(state_of(json_object_get(answer, "keys"), "key-two"), "distrusted");
    json_decref(answer);
}
END_TEST

START_TEST(what_is_no_kid_is_refused)
{
    static const char *const bodies[] = {
        "",
        "{}",
        "[]",
        "[\"kid\"]",
        "\"key-one\"",
        "{\"kid\": 1}",
        "{\"kid\": null}",
        "{\"kid\": [\"key-one\"]}",
        "{\"kid\": \"\"}",
        "{\"kid\": \"line\\nbreak\"}",
        "{\"kid\": \"nul\\u0000\"}",
        "{\"kid\": \"\xc3\xa4\"}",
        "{\"kid\": \"0123456789012345678901234567890123456789012345678901234567890123456789\"}",
        "{\"kid\": \"key-one\", \"more\": 1}",
        "{\"kid\": \"key-one\", \"kid\": \"key-two\"}",
        "{\"kid\": \"key-one\"} trailing",
    };

    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        ask_in_vain("POST", "/v1/keys/distrust", bodies[i], 400, "/problems/bad-request");
    json_t *keys = ask("GET", "/v1/keys", NULL);
    ck_assert_str_eq(state_of(keys, "key-one"), "current");
    ck_assert_uint_eq(json_array_size(json_object_get(keys, "distrusted_unknown")), 0);
    json_decref(keys);
}
END_TEST

/* The list is bounded, and a full one says so instead of forgetting an older kid. */
START_TEST(a_full_list_is_told)
{
    char body[64];

    for (int i = 0; i < KEY_CACHE_DISTRUSTED_MAX; i++) {
        (void)snprintf(body, sizeof body, "kid-%d", i);
        ck_assert_int_eq(key_cache_distrust(rooms.keys, body), 0);
    }
    ask_in_vain("POST", "/v1/keys/distrust", "{\"kid\": \"one-more\"}", 409, "/problems/list-full");
    json_decref(ask("POST", "/v1/keys/distrust", "{\"kid\": \"kid-7\"}"));
}
END_TEST

/* In memory at once, and the operator learns that it will not last. */
START_TEST(a_kid_that_cannot_be_saved_is_told)
{
    ck_assert_int_eq(unlink(rooms.keys_file), 0);
    ck_assert_int_eq(mkdir(rooms.keys_file, 0700), 0); /* nothing can be renamed over it */
    ask_in_vain("POST", "/v1/keys/distrust", "{\"kid\": \"key-one\"}", 500, "/problems/not-saved");
    json_t *keys = ask("GET", "/v1/keys", NULL);
    ck_assert_str_eq(state_of(keys, "key-one"), "distrusted");
    json_decref(keys);
}
END_TEST

START_TEST(a_long_body_is_refused)
{
    static char body[CONTROL_BODY_MAX_BYTES + 100];
    struct call_reply reply;

    (void)snprintf(body, sizeof body, "{\"kid\": \"key-one\"%*s", CONTROL_BODY_MAX_BYTES, "}");
    ck_assert_uint_eq(rooms_call(&rooms, "POST", "/v1/keys/distrust", body, &reply), 413);
    call_reply_release(&reply);
    json_t *keys = ask("GET", "/v1/keys", NULL);
    ck_assert_str_eq(state_of(keys, "key-one"), "current");
    json_decref(keys);
}
END_TEST

/* What cannot be read for want of memory is not called wrong: the same body is good later. */
START_TEST(a_body_without_memory_to_read_it_may_come_again)
{
    static const char *const bodies[][2] = {
        {"/v1/keys/distrust", "{\"kid\": \"key-two\""},
        {"/v1/consumers/accounts/ack", "{\"through\": 0"},
        {"/v1/consumers/accounts/seek", "{\"to\": 0"},
        {"/v1/erase", "{\"team\": \"AAAAAAAAAA\", \"sub\": \"nobody\""},
        {"/v1/probe", "{\"keys\": []"},
    };
    static char body[CONTROL_BODY_MAX_BYTES];

    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        (void)snprintf(body, sizeof body, "%s%*s", bodies[i][1], CONTROL_BODY_MAX_BYTES - 200, "}");
        memory_faults_from_bytes = 64 * 1024; /* the reserve of such a long text has more */
        ask_in_vain("POST", bodies[i][0], body, 503, "/problems/out-of-memory");
        memory_faults_from_bytes = 0;
    }
    json_t *keys = ask("GET", "/v1/keys", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(keys, "distrusted_unknown")), 0);
    json_decref(keys);
    (void)snprintf(body, sizeof body, "%s%*s", bodies[0][1], CONTROL_BODY_MAX_BYTES - 200, "}");
    json_decref(ask("POST", bodies[0][0], body));
}
END_TEST

/* ---- the key of a test notification ---- */

static char *set_of(const char *kid)
{
    struct signer signer = signer_make(kid);
    char *set = signer_jwks(&signer, 1);

    signer_free(&signer);
    return set;
}

START_TEST(a_key_is_armed_and_its_row_is_looked_for)
{
    char *set = set_of(CONFIG_PROBE_KID "1");
    json_t *answer = ask("POST", "/v1/probe", set);
    struct jwk *key = probe_key(probe, clock_monotonic_ms());

    ck_assert_str_eq(json_string_value(json_object_get(answer, "kid")), CONFIG_PROBE_KID "1");
    ck_assert_str_eq(json_string_value(json_object_get(answer, "issuer")), CONFIG_PROBE_ISSUER);
    ck_assert_str_eq(json_string_value(json_object_get(answer, "client_id")),
                     CONFIG_PROBE_CLIENT_ID);
    ck_assert_int_eq(json_integer_value(json_object_get(answer, "armed_ms")), PROBE_ARMED_MS);
    ck_assert_ptr_nonnull(key);
    ck_assert_str_eq(jwk_kid(key), CONFIG_PROBE_KID "1");
    json_decref(answer);
    answer = ask("GET", "/v1/probe/some-jti", NULL);
    ck_assert(json_is_false(json_object_get(answer, "stored")));
    ck_assert(json_is_null(json_object_get(answer, "received_at_ms")));
    ck_assert(json_is_true(json_object_get(answer, "armed")));
    json_decref(answer);
    probe_used(probe, key);
    answer = ask("GET", "/v1/probe/some-jti", NULL);
    ck_assert(json_is_false(json_object_get(answer, "armed")));
    json_decref(answer);
    answer = ask("GET", "/v1/keys", NULL); /* and it is none of Apple's */
    ck_assert_str_eq(state_of(answer, CONFIG_PROBE_KID "1"), "absent");
    json_decref(answer);
    jwk_unref(key);
    free(set);
}
END_TEST

START_TEST(what_is_not_one_key_of_that_name_is_not_armed)
{
    struct signer weak = signer_make_with(CONFIG_PROBE_KID "1", 1024, 65537);
    struct signer two[2] = {signer_make(CONFIG_PROBE_KID "1"), signer_make(CONFIG_PROBE_KID "2")};
    char *bodies[] = {signer_jwks(&weak, 1), signer_jwks(two, 2),      set_of("key-one"),
                      set_of("T8tIJ1zSrO"),  set_of(CONFIG_PROBE_KID), strdup("{}"),
                      strdup("nonsense")};

    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        ask_in_vain("POST", "/v1/probe", bodies[i], 400, "/problems/bad-request");
        free(bodies[i]);
    }
    ask_in_vain("POST", "/v1/probe", NULL, 400, "/problems/bad-request");
    ck_assert_ptr_null(probe_key(probe, clock_monotonic_ms()));
    signer_free(&weak);
    signer_free(&two[0]);
    signer_free(&two[1]);
}
END_TEST

/* Attack: the key that stands in the way of one that the key server publishes under such a name. */
START_TEST(a_kid_that_is_published_is_not_armed)
{
    char *set = set_of(CONFIG_PROBE_KID "1");

    rooms_publish(&rooms, set);
    json_decref(ask("POST", "/v1/keys/refresh", NULL));
    ask_in_vain("POST", "/v1/probe", set, 400, "/problems/bad-request");
    ck_assert_ptr_null(probe_key(probe, clock_monotonic_ms()));
    free(set);
}
END_TEST

/* ---- who may ---- */

/* The user belongs to the thread here: setresuid() of the C library would take all threads along,
 * and a child of a process with threads may find the allocator of a sanitiser locked for ever. */
static void *ask_as_another_user(void *unused)
{
    (void)unused;
    ck_assert_int_eq(syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY), 0);
    json_decref(ask("GET", "/v1/keys", NULL));
    json_decref(ask("GET", "/v1/state", NULL));
    ask_in_vain("POST", "/v1/keys/distrust", "{\"kid\": \"key-one\"}", 403,
                "/problems/not-permitted");
    ask_in_vain("POST", "/v1/keys/refresh", NULL, 403, "/problems/not-permitted");
    ask_in_vain("POST", "/v1/probe", "{}", 403, "/problems/not-permitted");
    ask_in_vain("GET", "/v1/probe/jti", NULL, 403, "/problems/not-permitted");
    return &rooms; /* came to the end */
}

/* Attack: a member of the socket's group, who may read, changes whom the daemon trusts. */
START_TEST(another_user_may_read_but_change_nothing)
{
    pthread_t other;
    void *end = NULL;

    if (geteuid() != 0) {
        (void)puts("skipped: becoming another user needs root");
        return;
    }
    ck_assert_int_eq(chmod(rooms.folder, 0755), 0);
    ck_assert_int_eq(pthread_create(&other, NULL, ask_as_another_user, NULL), 0);
    ck_assert_int_eq(pthread_join(other, &end), 0);
    ck_assert_ptr_eq(end, &rooms);
    json_t *keys = ask("GET", "/v1/keys", NULL);
    ck_assert_str_eq(state_of(keys, "key-one"), "current");
    json_decref(keys);
    struct refresher_state state;
    refresher_state(rooms.refresher, &state);
    ck_assert_uint_eq(state.attempts, 1); /* that of the start */
}
END_TEST

/* Attack: the control service stands on a port by mistake. Nobody is known there, so nobody may. */
START_TEST(without_a_known_peer_nothing_is_changed)
{
    char url[64], why[CALL_WHY_BYTES] = "";
    struct call_request request = {.url = url,
                                   .method = "POST",
                                   .body = "{\"kid\": \"key-one\"}",
                                   .body_bytes = 18,
                                   .timeout_ms = ROOMS_CALL_MS,
                                   .reply_max_bytes = 4096};
    struct call_reply reply;

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/keys/distrust", rooms.address.port);
    ck_assert_msg(call_send(&request, &reply, why) == 0, "%s", why);
    ck_assert_uint_eq(reply.status, 403);
    call_reply_release(&reply);
}
END_TEST

/* ---- the rest ---- */

START_TEST(state_is_told)
{
    json_t *state = ask("GET", "/v1/state", NULL);
    const json_t *refresh = json_object_get(state, "refresh");
    const json_t *writer = json_object_get(state, "writer");

    ck_assert_str_eq(json_string_value(json_object_get(state, "version")), "1.2.3");
    ck_assert_int_eq(json_integer_value(json_object_get(state, "pid")), getpid());
    ck_assert(json_is_true(json_object_get(json_object_get(state, "health"), "ready")));
    ck_assert_str_eq(state_of(json_object_get(state, "keys"), "key-one"), "current");
    ck_assert_str_eq(json_string_value(json_object_get(refresh, "result")), "ok");
    ck_assert(json_is_null(json_object_get(refresh, "why")));
    ck_assert_int_eq(json_integer_value(json_object_get(refresh, "attempts")), 1);
    ck_assert_int_gt(json_integer_value(json_object_get(refresh, "next_in_s")), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(writer, "queue_events")),
                     ROOMS_QUEUE_EVENTS);
    ck_assert_int_eq(json_integer_value(json_object_get(writer, "rows")), 0);
    json_decref(state);
}
END_TEST

START_TEST(state_without_keys_says_why)
{
    json_t *state = ask("GET", "/v1/state", NULL);
    const json_t *refresh = json_object_get(state, "refresh");

    ck_assert(json_is_false(json_object_get(json_object_get(state, "health"), "ready")));
    ck_assert_str_ne(json_string_value(json_object_get(refresh, "result")), "ok");
    ck_assert_uint_gt(json_string_length(json_object_get(refresh, "why")), 0);
    json_decref(state);
}
END_TEST

START_TEST(what_is_not_there_is_a_problem)
{
    static const char *const paths[] = {
        "/", "/v1", "/v1/", "/v1/keys/", "/v2/keys", "/metrics", "/v1/keys/refresh/now"};

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        ask_in_vain("GET", paths[i], NULL, 404, "/problems/not-found");
        ask_in_vain("POST", paths[i], "{}", 404, "/problems/not-found");
    }
}
END_TEST

START_TEST(the_wrong_method_is_a_problem)
{
    static const struct {
        const char *method, *path, *allow;
    } cases[] = {
        {"POST", "/v1/keys", "GET"},          {"DELETE", "/v1/keys", "GET"},
        {"GET", "/v1/keys/refresh", "POST"},  {"PUT", "/v1/keys/distrust", "POST"},
        {"GET", "/v1/keys/distrust", "POST"}, {"POST", "/v1/state", "GET"},
    };
    struct call_reply reply;
    char value[16];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_uint_eq(rooms_call(&rooms, cases[i].method, cases[i].path, NULL, &reply), 405);
        ck_assert_int_eq(call_reply_header(&reply, "Allow", value, sizeof value), 0);
        ck_assert_str_eq(value, cases[i].allow);
        call_reply_release(&reply);
    }
}
END_TEST

static TCase *add_case(Suite *suite, const char *name, void (*with)(void), void (*after)(void))
{
    TCase *tests = tcase_create(name);

    tcase_add_checked_fixture(tests, with, after);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *usual = add_case(suite, "usual", setup, teardown);
    TCase *without_keys = add_case(suite, "without keys", setup_without_keys, teardown);
    TCase *tcp = add_case(suite, "tcp", setup_tcp, teardown);
    TCase *slow = add_case(suite, "slow", setup_slow, teardown_slow);

    (void)signal(SIGPIPE, SIG_IGN);
    make_sets();
    tcase_add_test(usual, keys_are_listed);
    tcase_add_test(usual, states_follow_the_trust);
    tcase_add_test(usual, refresh_fetches_what_is_published_now);
    tcase_add_test(usual, a_refresh_that_fails_says_why_and_keeps_the_keys);
    tcase_add_test(usual, many_may_wait_for_one_refresh);
    tcase_add_test(usual, a_distrusted_key_is_out_at_once_and_after_a_restart);
    tcase_add_test(usual, a_kid_may_be_distrusted_before_it_is_seen);
    tcase_add_test(usual, what_is_no_kid_is_refused);
    tcase_add_test(usual, a_full_list_is_told);
    tcase_add_test(usual, a_kid_that_cannot_be_saved_is_told);
    tcase_add_test(usual, a_long_body_is_refused);
    if (MEMORY_FAULTS_WORK)
        tcase_add_test(usual, a_body_without_memory_to_read_it_may_come_again);
    tcase_add_test(usual, a_key_is_armed_and_its_row_is_looked_for);
    tcase_add_test(usual, what_is_not_one_key_of_that_name_is_not_armed);
    tcase_add_test(usual, a_kid_that_is_published_is_not_armed);
    tcase_add_test(usual, another_user_may_read_but_change_nothing);
    tcase_add_test(usual, state_is_told);
    tcase_add_test(usual, what_is_not_there_is_a_problem);
    tcase_add_test(usual, the_wrong_method_is_a_problem);
    tcase_add_test(without_keys, no_keys_are_listed);
    tcase_add_test(without_keys, state_without_keys_says_why);
    tcase_add_test(slow, who_leaves_while_waiting_is_forgotten);
    tcase_add_test(slow, who_waits_while_the_daemon_shuts_down_is_told);
    tcase_add_test(slow, a_stop_ends_the_waiting);
    tcase_add_test(tcp, without_a_known_peer_nothing_is_changed);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    free(set_one);
    free(set_two);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
