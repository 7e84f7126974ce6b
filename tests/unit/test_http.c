/*
 * http as a whole: real sockets, a real loop, a small service. Nothing here depends on how fast the
 * machine is: waits are for events, and every test has a generous alarm (Check's time-out).
 */
#include "../../src/listener/http_private.h"
#include "support/clock.h"
#include "support/config.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ALARM_S     60
#define BODY_MAX    65536
#define PENDING_MAX 1024
#define PATIENCE_MS 20000 /* how long a client waits before it calls a test failed */

static const struct http_limits usual = {.connections = 1024,
                                         .body_bytes = BODY_MAX,
                                         .headers_ms = 10000,
                                         .request_ms = 20000,
                                         .idle_ms = 30000};

/* ---- the service: what it does depends on the path ---- */

struct service {
    struct http_reply *ok, *no;
    struct http_request *pending[PENDING_MAX];
    size_t pending_count;
    bool hold; /* pending ones are answered only when this is false */
    atomic_bool release;
    atomic_uint headers, bodies, overs, wakes, ticks, markers, waiting;
    atomic_uint refused[HTTP_REFUSAL_TIMEOUT + 1];
    struct http_loop *loop;
    struct http_server *server;
    char query[64];
};

static void service_headers(void *context, struct http_request *request)
{
    struct service *service = context;
    const char *path = http_request_path(request);

    atomic_fetch_add(&service->headers, 1);
    ck_assert_ptr_null(http_request_user(request));
    http_request_set_user(request, service);
    if (strcmp(path, "/marker") == 0)
        atomic_fetch_add(&service->markers, 1);
    if (http_request_method(request) == HTTP_METHOD_OTHER || strcmp(path, "/no") == 0)
        http_request_answer(request, service->no);
}

/* The answer repeats the body, so that a client sees that it was its own. */
static void echo(struct service *service, struct http_request *request)
{
    size_t bytes = 0;
    const char *body = http_request_body(request, &bytes);
    struct http_reply *reply = NULL;

    (void)service;
    ck_assert_int_eq(http_reply_new(200, "text/plain", body, bytes, NULL, &reply), 0);
    http_request_answer(request, reply);
    http_reply_free(reply);
}

static void service_body(void *context, struct http_request *request)
{
    struct service *service = context;
    const char *path = http_request_path(request);
    const char *name = http_request_query(request, "name");

    atomic_fetch_add(&service->bodies, 1);
    if (strcmp(path, "/echo") == 0) {
        echo(service, request);
    } else if (strcmp(path, "/query") == 0) {
        struct http_reply *reply = NULL;

        name = name ? name : "-";
        ck_assert_int_eq(http_reply_new(200, "text/plain", name, strlen(name), NULL, &reply), 0);
        http_request_answer(request, reply);
        http_reply_free(reply);
    } else if (strcmp(path, "/later") == 0) {
        ck_assert_uint_lt(service->pending_count, PENDING_MAX);
        service->pending[service->pending_count++] = request;
        atomic_store(&service->waiting, (unsigned)service->pending_count);
        if (!service->hold)
            http_loop_wake(service->loop);
    } else {
        http_request_answer(request, service->ok);
    }
}

static void service_over(void *context, struct http_request *request)
{
    struct service *service = context;

    ck_assert_ptr_eq(http_request_user(request), service);
    for (size_t i = 0; i < service->pending_count; i++)
        if (service->pending[i] == request)
            service->pending[i--] = service->pending[--service->pending_count];
    atomic_store(&service->waiting, (unsigned)service->pending_count);
    atomic_fetch_add(&service->overs, 1);
}

static void service_refused(void *context, enum http_refusal refusal)
{
    struct service *service = context;

    atomic_fetch_add(&service->refused[refusal], 1);
}

static void service_wake(void *context)
{
    struct service *service = context;

    atomic_fetch_add(&service->wakes, 1);
    if (service->hold && !atomic_load(&service->release))
        return;
    for (size_t i = 0; i < service->pending_count; i++)
        http_request_answer(service->pending[i], service->ok);
}

static void service_tick(void *context, int64_t now_ms)
{
    struct service *service = context;

    ck_assert_int_gt(now_ms, 0);
    atomic_fetch_add(&service->ticks, 1);
}

static const struct http_service callbacks = {.on_headers = service_headers,
                                              .on_body = service_body,
                                              .on_over = service_over,
                                              .on_refused = service_refused,
                                              .on_wake = service_wake,
                                              .on_tick = service_tick};

/* ---- a server under test ---- */

struct stand {
    struct service service;
    char folder[32];
    struct config_address address;
    int listen_fd;
};

static void listen_at(struct stand *stand, const char *text)
{
    char why[256];

    if (text) {
        stand->address = (struct config_address){.kind = CONFIG_ADDRESS_TCP};
        strcpy(stand->address.host, text);
    } else {
        strcpy(stand->folder, "/tmp/test_http.XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(stand->folder));
        stand->address = (struct config_address){.kind = CONFIG_ADDRESS_UNIX};
        (void)snprintf(stand->address.path, sizeof(stand->address.path), "%s/socket",
                       stand->folder);
    }
    stand->listen_fd = http_listen(&stand->address, 0600, why);
    ck_assert_msg(stand->listen_fd >= 0, "%s", why);
}

static void serve(struct stand *stand, const struct http_limits *limits, bool by_suspend)
{
    struct service *service = &stand->service;

    ck_assert_int_eq(http_reply_new(200, "text/plain", "ok", 2, NULL, &service->ok), 0);
    ck_assert_int_eq(http_reply_new(404, NULL, NULL, 0, NULL, &service->no), 0);
    ck_assert_int_eq(http_loop_new("test", &service->loop), 0);
    ck_assert_int_eq(http_loop_serve(service->loop, stand->listen_fd, limits, by_suspend,
                                     &callbacks, service, &service->server),
                     0);
    ck_assert_int_eq(http_loop_start(service->loop), 0);
}

static void stop(struct stand *stand)
{
    struct service *service = &stand->service;

    http_loop_free(service->loop);
    service->loop = NULL;
    ck_assert_uint_eq(atomic_load(&service->headers), atomic_load(&service->overs));
    ck_assert_uint_eq(service->pending_count, 0);
    http_reply_free(service->ok);
    http_reply_free(service->no);
}

static void leave(struct stand *stand)
{
    close(stand->listen_fd);
    if (stand->address.kind != CONFIG_ADDRESS_UNIX)
        return;
    (void)unlink(stand->address.path);
    ck_assert_int_eq(rmdir(stand->folder), 0);
}

/* ---- a client ---- */

static int dial(const struct stand *stand)
{
    int fd;

    if (stand->address.kind == CONFIG_ADDRESS_UNIX) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};

        memcpy(name.sun_path, stand->address.path, strlen(stand->address.path) + 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    } else {
        struct sockaddr_storage name;
        socklen_t bytes = sizeof(name);

        ck_assert_int_eq(getsockname(stand->listen_fd, (struct sockaddr *)&name, &bytes), 0);
        fd = socket(name.ss_family, SOCK_STREAM, 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&name, bytes), 0);
    }
    return fd;
}

static void say(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Where an answer ends, by its own Content-Length; 0: not here yet. */
static size_t answer_bytes(const char *text, size_t have)
{
    const char *end = strstr(text, "\r\n\r\n");
    const char *length = strstr(text, "Content-Length: ");
    size_t bytes;

    if (!end || !length || length > end)
        return 0;
    bytes = (size_t)(end + 4 - text) + strtoul(length + 16, NULL, 10);
    return bytes <= have ? bytes : 0;
}

/* Reads one answer and leaves the next where it is; at the end of the connection, what came.
 * Returns its bytes. */
static size_t hear(int fd, char *ret_text, size_t capacity)
{
    for (size_t seen = 0;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t got;
        size_t bytes;

        ck_assert_msg(poll(&ready, 1, PATIENCE_MS) == 1, "no answer; so far: %s", ret_text);
        got = recv(fd, ret_text, capacity - 1, MSG_PEEK);
        ret_text[got > 0 ? got : 0] = '\0';
        if (got <= 0)
            return 0;
        bytes = answer_bytes(ret_text, (size_t)got);
        if (bytes > 0) {
            ck_assert_int_eq(recv(fd, ret_text, bytes, 0), (ssize_t)bytes);
            ret_text[bytes] = '\0';
            return bytes;
        }
        if ((size_t)got == seen) {
            /* Nothing new: the rest is on its way, or never comes. */
            ready.events = POLLRDHUP;
            if (poll(&ready, 1, 1) == 1)
                return (size_t)recv(fd, ret_text, capacity - 1, 0);
        }
        seen = (size_t)got;
    }
}

static unsigned status_of(int fd)
{
    char text[4096];

    if (hear(fd, text, sizeof(text)) == 0)
        return 0;
    ck_assert_msg(strncmp(text, "HTTP/1.1 ", 9) == 0, "%s", text);
    return (unsigned)strtoul(text + 9, NULL, 10);
}

/* The connection ends, orderly or not, within the client's patience. */
static void expect_end(int fd)
{
    char byte;
    struct pollfd ready = {.fd = fd, .events = POLLIN};

    ck_assert_int_eq(poll(&ready, 1, PATIENCE_MS), 1);
    ck_assert_int_le(recv(fd, &byte, 1, 0), 0);
    close(fd);
}

#define POST(path, length, body) \
    "POST " path " HTTP/1.1\r\nHost: a\r\nContent-Length: " length "\r\n\r\n" body
#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"

/* ---- tests; most run four times: unix and TCP, asked again and suspended ---- */

static bool by_suspend_of(int i)
{
    return i & 1;
}

static const char *address_of(int i)
{
    return i & 2 ? "127.0.0.1" : NULL;
}

START_TEST(answers)
{
    struct stand stand = {0};
    char text[4096];
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, POST("/echo", "5", "hello"));
    (void)hear(fd, text, sizeof(text));
    ck_assert_msg(strncmp(text, "HTTP/1.1 200 OK\r\n", 17) == 0, "%s", text);
    ck_assert_ptr_nonnull(strstr(text, "\r\nContent-Type: text/plain\r\n"));
    ck_assert_ptr_nonnull(strstr(text, "\r\nDate: "));
    ck_assert_ptr_null(strstr(text, "Connection:"));
    ck_assert_str_eq(strstr(text, "\r\n\r\n"), "\r\n\r\nhello");
    /* The connection lives on, with every kind of answer that may leave it alive. */
    say(fd, GET("/ok"));
    ck_assert_uint_eq(status_of(fd), 200);
    say(fd, GET("/later"));
    ck_assert_uint_eq(status_of(fd), 200);
    say(fd, POST("/later", "3", "abc"));
    ck_assert_uint_eq(status_of(fd), 200);
    say(fd, GET("/no"));
    ck_assert_uint_eq(status_of(fd), 404);
    say(fd, POST("/no", "0", ""));
    (void)hear(fd, text, sizeof(text));
    ck_assert_ptr_null(strstr(text, "Content-Type"));
    ck_assert_ptr_null(strstr(text, "Connection:"));
    say(fd, "GET /query?x=1&name=a%26%20b&name=c HTTP/1.1\r\nHost: a\r\n\r\n");
    (void)hear(fd, text, sizeof(text));
    ck_assert_str_eq(strstr(text, "\r\n\r\n"), "\r\n\r\na& b");
    say(fd, "GET /query HTTP/1.1\r\nHost: a\r\n\r\n");
    (void)hear(fd, text, sizeof(text));
    ck_assert_str_eq(strstr(text, "\r\n\r\n"), "\r\n\r\n-");
    /* The client may close. */
    say(fd, "GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    ck_assert_uint_eq(status_of(fd), 200);
    expect_end(fd);
    stop(&stand);
    ck_assert_uint_eq(atomic_load(&stand.service.refused[HTTP_REFUSAL_FRAMING]), 0);
    leave(&stand);
}
END_TEST

/* A body that comes in pieces is whole when it is handed over. */
START_TEST(gathers_a_body)
{
    struct stand stand = {0};
    static char body[BODY_MAX + 1], text[BODY_MAX + 4096];
    char head[128];
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    for (size_t i = 0; i < BODY_MAX; i++)
        body[i] = (char)('a' + i % 26);
    fd = dial(&stand);
    for (size_t bytes = 1; bytes <= BODY_MAX; bytes = bytes * 2 + 1) {
        size_t sent = 0;

        (void)snprintf(head, sizeof(head),
                       "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", bytes);
        say(fd, head);
        while (sent < bytes) {
            size_t piece = bytes - sent > 9000 ? 9000 : (bytes - sent + 1) / 2;
            ssize_t put = send(fd, body + sent, piece, MSG_NOSIGNAL);

            ck_assert_int_gt(put, 0);
            sent += (size_t)put;
        }
        (void)hear(fd, text, sizeof(text));
        ck_assert_uint_eq(strlen(strstr(text, "\r\n\r\n") + 4), bytes);
        ck_assert_int_eq(memcmp(strstr(text, "\r\n\r\n") + 4, body, bytes), 0);
    }
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* Pipelined requests are each answered, in order, also where each waits for its answer. */
START_TEST(answers_a_pipeline)
{
    struct stand stand = {0};
    char text[4096];
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, POST("/echo", "1", "a") POST("/later", "1", "x") GET("/later") POST("/echo", "1", "b")
                GET("/no") POST("/echo", "1", "c"));
    (void)hear(fd, text, sizeof(text));
    ck_assert_str_eq(strstr(text, "\r\n\r\n") + 4, "a");
    ck_assert_uint_eq(status_of(fd), 200);
    ck_assert_uint_eq(status_of(fd), 200);
    (void)hear(fd, text, sizeof(text));
    ck_assert_str_eq(strstr(text, "\r\n\r\n") + 4, "b");
    ck_assert_uint_eq(status_of(fd), 404);
    (void)hear(fd, text, sizeof(text));
    ck_assert_str_eq(strstr(text, "\r\n\r\n") + 4, "c");
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* The behaviour of the library that the loop rests on: a request without an answer is asked again
 * without being suspended, and no number of connections makes it stall (its own thread hangs at
 * 128, the size of its event array). */
START_TEST(serves_many_connections)
{
    static const int counts[] = {64, 127, 128, 129, 256, 512};
    int count = counts[_i / 4];
    int fds[512];
    struct stand stand = {0};

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    for (int i = 0; i < count; i++)
        fds[i] = dial(&stand);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < count; i++)
            say(fds[i], round % 2 ? GET("/later") : POST("/later", "4", "body"));
        for (int i = 0; i < count; i++)
            ck_assert_uint_eq(status_of(fds[i]), 200);
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
    stop(&stand);
    ck_assert_uint_eq(atomic_load(&stand.service.overs), (unsigned)count * 20);
    leave(&stand);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http");
    TCase *tests = tcase_create("http");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, ALARM_S);
    tcase_add_loop_test(tests, answers, 0, 4);
    tcase_add_loop_test(tests, gathers_a_body, 0, 4);
    tcase_add_loop_test(tests, answers_a_pipeline, 0, 4);
    tcase_add_loop_test(tests, serves_many_connections, 0, 24);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
