/*
 * http as a whole: real sockets, a real loop, a small service. Nothing here depends on how fast the
 * machine is: waits are for events, and every test has a generous alarm (Check's time-out).
 */
#include "../../src/listener/http_private.h"
#include "listener/ingress.h"
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
#define BIG_BYTES   (16 * 1048576) /* more than any socket buffers */
#define PENDING_MAX 1024
#define PATIENCE_MS 20000 /* how long a client waits before it calls a test failed */

static const struct http_limits usual = {.connections = 1024,
                                         .body_bytes = BODY_MAX,
                                         .headers_ms = 10000,
                                         .request_ms = 20000,
                                         .idle_ms = 30000,
                                         .spare_silent_ms = 30000,
                                         .spare_busy_ms = 30000};

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

static void answer_big(struct http_request *request)
{
    struct http_reply *reply = NULL;
    char *big = calloc(1, BIG_BYTES);

    ck_assert_ptr_nonnull(big);
    ck_assert_int_eq(http_reply_new(200, "text/plain", big, BIG_BYTES, NULL, &reply), 0);
    free(big);
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
    } else if (strcmp(path, "/peer") == 0) {
        uid_t uid = (uid_t)-1;
        pid_t pid = -1;
        bool known = http_request_peer(request, &uid, &pid);

        if (known)
            ck_assert(uid == getuid() && pid == getpid());
        http_request_answer(request, known ? service->ok : service->no);
    } else if (strcmp(path, "/big") == 0) {
        answer_big(request);
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

/* Whose loop has no thread: the test turns it. */
static void serve_by_hand(struct stand *stand, const struct http_limits *limits, bool by_suspend)
{
    static const char *const extra[] = {"Allow", "POST", "Retry-After", "5", NULL};
    struct service *service = &stand->service;
    ck_assert_int_eq(http_reply_new(200, "text/plain", "ok", 2, NULL, &service->ok), 0);
    ck_assert_int_eq(http_reply_new(404, NULL, NULL, 0, extra, &service->no), 0);
    ck_assert_int_eq(http_loop_new("test", &service->loop), 0);
    ck_assert_int_eq(http_loop_serve(service->loop, stand->listen_fd, limits, by_suspend,
                                     &callbacks, service, &service->server),
                     0);
}

static void serve(struct stand *stand, const struct http_limits *limits, bool by_suspend)
{
    serve_by_hand(stand, limits, by_suspend);
    ck_assert_int_eq(http_loop_start(stand->service.loop), 0);
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

static void wait_until(const atomic_uint *counter, unsigned value)
{
    for (int64_t end = clock_monotonic_ms() + PATIENCE_MS; atomic_load(counter) != value;) {
        ck_assert_msg(clock_monotonic_ms() < end, "%u, not %u", atomic_load(counter), value);
        usleep(1000);
    }
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

/* The only client of a loop that the test turns. */
static int dial_by_hand(struct stand *stand, int i)
{
    listen_at(stand, address_of(i));
    serve_by_hand(stand, &usual, by_suspend_of(i));
    return dial(stand);
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
    say(fd, GET("/peer"));
    ck_assert_uint_eq(status_of(fd), stand.address.kind == CONFIG_ADDRESS_UNIX ? 200 : 404);
    say(fd, POST("/no", "0", ""));
    (void)hear(fd, text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "\r\nAllow: POST\r\nRetry-After: 5\r\n"));
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

/* ---- what is refused: answered, closed, and nothing after it is read ---- */

static const struct {
    const char *why, *sent;
    unsigned status;
    enum http_refusal refusal;
} refusals[] = {
    {"both framings: whoever believes the other one sees a second request",
     "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
     "0\r\n\r\n",
     400, HTTP_REFUSAL_FRAMING},
    {"two lengths",
     "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\n", 400,
     HTTP_REFUSAL_FRAMING},
    {"a length that the library cannot read", POST("/echo", "+5", "hello"), 400,
     HTTP_REFUSAL_FRAMING},
    {"no length", "POST /echo HTTP/1.1\r\nHost: a\r\n\r\n", 411, HTTP_REFUSAL_NO_LENGTH},
    {"one byte over the limit", POST("/echo", "65537", "hello"), 413, HTTP_REFUSAL_TOO_LARGE},
    {"2^64 - 1", POST("/echo", "18446744073709551615", ""), 400, HTTP_REFUSAL_FRAMING},
    {"2^64, which the library refuses", POST("/echo", "18446744073709551616", ""), 413,
     HTTP_REFUSAL_TOO_LARGE},
    {"a get with a body", "GET /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400,
     HTTP_REFUSAL_FRAMING},
    {"a fold that hides a length",
     "POST /echo HTTP/1.1\r\nHost: a\r\nA: b\r\n Content-Length: 4\r\nContent-Length: 0\r\n\r\n",
     400, HTTP_REFUSAL_FRAMING},
    {"a fold of the length", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\nhello",
     400, HTTP_REFUSAL_FRAMING},
    {"a bare LF", "GET /echo HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"a bare LF after the request line", "GET /echo HTTP/1.1\nHost: a\r\n\r\n", 400,
     HTTP_REFUSAL_FRAMING},
    {"a bare CR", "GET /echo HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"no colon", "GET /echo HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"no host", "GET /echo HTTP/1.1\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"lower case", "get /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"HTTP/0.9", "GET /echo\r\nHost: a\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"HTTP/1.2", "GET /echo HTTP/1.2\r\nHost: a\r\n\r\n", 400, HTTP_REFUSAL_FRAMING},
    {"HTTP/2.0", "GET /echo HTTP/2.0\r\nHost: a\r\n\r\n", 505, HTTP_REFUSAL_FRAMING},
    {"a strange expectation",
     "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 5\r\n\r\nhello", 417,
     HTTP_REFUSAL_FRAMING},
    {"an absolute target", "GET http://a/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400,
     HTTP_REFUSAL_FRAMING},
};

START_TEST(refuses_and_closes)
{
    size_t case_count = sizeof(refusals) / sizeof(refusals[0]);

    for (size_t i = 0; i < case_count; i++) {
        struct stand stand = {0};
        char sent[2048], text[4096];
        size_t got = 0;
        int fd;

        listen_at(&stand, address_of(_i));
        serve(&stand, &usual, by_suspend_of(_i));
        fd = dial(&stand);
        (void)snprintf(sent, sizeof(sent), "%s%s%s", refusals[i].sent, GET("/marker"),
                       GET("/marker"));
        say(fd, sent);
        /* To the end of the connection, which is orderly: a reset could overtake the answer. */
        for (ssize_t more = 1; more > 0; got += (size_t)more) {
            more = recv(fd, text + got, sizeof(text) - 1 - got, 0);
            ck_assert_msg(more >= 0, "%s: %s", refusals[i].why, strerror(errno));
        }
        text[got] = '\0';
        ck_assert_msg(got > 12 && strtoul(text + 9, NULL, 10) == refusals[i].status, "%s: %s",
                      refusals[i].why, text);
        ck_assert_msg(strstr(text, "\r\nConnection: close\r\n"), "%s: %s", refusals[i].why, text);
        wait_until(&stand.service.refused[refusals[i].refusal], 1);
        close(fd);
        stop(&stand);
        ck_assert_uint_eq(atomic_load(&stand.service.markers), 0);
        ck_assert_msg(atomic_load(&stand.service.headers) == 0, "%s: a service saw it",
                      refusals[i].why);
        for (size_t k = 0; k <= HTTP_REFUSAL_TIMEOUT; k++)
            ck_assert_uint_eq(atomic_load(&stand.service.refused[k]), k == refusals[i].refusal);
        leave(&stand);
    }
}
END_TEST

/* Attack, and plain accident: a client that is still sending when it is refused must not lose the
 * answer to the reset that a close with unread bytes causes. */
START_TEST(refusal_survives_what_is_still_sent)
{
    struct stand stand = {0};
    static char junk[262144];
    char text[4096];
    size_t got = 0;
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, POST("/echo", "262144", ""));
    wait_until(&stand.service.refused[HTTP_REFUSAL_TOO_LARGE], 1);
    for (size_t sent = 0; sent < sizeof(junk);) {
        ssize_t more = send(fd, junk + sent, sizeof(junk) - sent, MSG_NOSIGNAL);

        ck_assert_msg(more > 0, "after %zu bytes: %s", sent, strerror(errno));
        sent += (size_t)more;
    }
    for (ssize_t more = 1; more > 0; got += (size_t)more) {
        more = recv(fd, text + got, sizeof(text) - 1 - got, 0);
        ck_assert_msg(more >= 0, "%s", strerror(errno));
    }
    text[got] = '\0';
    ck_assert_msg(strncmp(text, "HTTP/1.1 413 ", 13) == 0, "%s", text);
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* What a service answers before the body was read closes the connection: the body would otherwise
 * be read as the next request. */
START_TEST(early_answer_closes)
{
    struct stand stand = {0};
    char text[4096];
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, POST("/no", "37", GET("/marker")) GET("/marker"));
    (void)hear(fd, text, sizeof(text));
    ck_assert_msg(strncmp(text, "HTTP/1.1 404 ", 13) == 0, "%s", text);
    ck_assert_ptr_nonnull(strstr(text, "\r\nConnection: close\r\n"));
    expect_end(fd);
    stop(&stand);
    ck_assert_uint_eq(atomic_load(&stand.service.markers), 0);
    ck_assert_uint_eq(atomic_load(&stand.service.headers), 1);
    ck_assert_uint_eq(atomic_load(&stand.service.bodies), 0);
    leave(&stand);
}
END_TEST

START_TEST(continues_when_asked)
{
    struct stand stand = {0};
    char text[64] = "";
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, "POST /later HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    ck_assert_int_eq(recv(fd, text, 25, MSG_WAITALL), 25);
    ck_assert_str_eq(text, "HTTP/1.1 100 Continue\r\n\r\n");
    say(fd, "hello");
    ck_assert_uint_eq(status_of(fd), 200);
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

START_TEST(closes_after_http_1_0)
{
    struct stand stand = {0};
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, "GET /later HTTP/1.0\r\nHost: a\r\n\r\n");
    ck_assert_uint_eq(status_of(fd), 200);
    expect_end(fd);
    fd = dial(&stand);
    say(fd, "GET /later HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    ck_assert_uint_eq(status_of(fd), 200);
    say(fd, GET("/ok"));
    ck_assert_uint_eq(status_of(fd), 200);
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* Headers as a chain of proxies writes them, and the longest that still fit. */
START_TEST(takes_8_kib_of_headers)
{
    struct stand stand = {0};
    char sent[16384] = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n";
    char text[4096];
    int fd;

    for (int i = 0; i < 64; i++) {
        size_t at = strlen(sent);

        (void)snprintf(sent + at, sizeof(sent) - at, "X-Forwarded-%02d: %0110d\r\n", i, i);
    }
    ck_assert_uint_gt(strlen(sent), 8192);
    strcat(sent, "\r\nhello");
    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    fd = dial(&stand);
    for (int round = 0; round < 3; round++) {
        say(fd, sent);
        (void)hear(fd, text, sizeof(text));
        ck_assert_str_eq(strstr(text, "\r\n\r\n"), "\r\n\r\nhello");
    }
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* ---- the reaper ---- */

/* In haste only where a test wants somebody reaped: who has to come in time has all of it. */
static struct http_limits hasty_limits(unsigned headers_ms, unsigned request_ms, unsigned idle_ms)
{
    struct http_limits limits = usual;

    limits.headers_ms = headers_ms;
    limits.request_ms = request_ms;
    limits.idle_ms = idle_ms;
    return limits;
}

/* Attack: send a byte now and then, so that the library's own time-out starts anew each time. */
static void drip(struct stand *stand, const char *start)
{
    int64_t end_ms = clock_monotonic_ms() + PATIENCE_MS;
    int fd = dial(stand);
    char byte;

    (void)!send(fd, start, strlen(start), MSG_NOSIGNAL); /* where it comes too late for even that */
    while (send(fd, "1", 1, MSG_NOSIGNAL) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) != 0) {
        ck_assert_msg(clock_monotonic_ms() < end_ms, "still open: %s", start);
        usleep(20000);
    }
    close(fd);
}

START_TEST(reaps_the_slow)
{
    const struct http_limits hasty = hasty_limits(300, 600, usual.idle_ms);
    struct stand stand = {0};
    struct service *service = &stand.service;

    listen_at(&stand, address_of(_i));
    serve(&stand, &hasty, by_suspend_of(_i));
    expect_end(dial(&stand));
    wait_until(&service->refused[HTTP_REFUSAL_TIMEOUT], 1);
    drip(&stand, "P");
    wait_until(&service->refused[HTTP_REFUSAL_TIMEOUT], 2);
    drip(&stand, "POST /echo HTTP/1.1\r\nA: b");
    wait_until(&service->refused[HTTP_REFUSAL_TIMEOUT], 3);
    drip(&stand, POST("/echo", "65536", ""));
    wait_until(&service->refused[HTTP_REFUSAL_TIMEOUT], 4);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* Between requests is no refusal; a first line that comes in drops there is idleness too. */
START_TEST(reaps_between_requests)
{
    const struct http_limits hasty = hasty_limits(usual.headers_ms, usual.request_ms, 300);
    struct stand stand = {0};
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &hasty, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, GET("/ok"));
    ck_assert_uint_eq(status_of(fd), 200);
    expect_end(fd);
    drip(&stand, GET("/ok") "P");
    ck_assert_uint_eq(atomic_load(&stand.service.refused[HTTP_REFUSAL_TIMEOUT]), 0);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* A client that never takes its answer. */
START_TEST(reaps_who_takes_no_answer)
{
    const struct http_limits hasty = hasty_limits(usual.headers_ms, 600, usual.idle_ms);
    struct stand stand = {0};
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &hasty, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, GET("/big"));
    wait_until(&stand.service.headers, 1);
    wait_until(&stand.service.overs, 1);
    close(fd);
    ck_assert_uint_eq(atomic_load(&stand.service.refused[HTTP_REFUSAL_TIMEOUT]), 0);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* A commit may take longer than a client may: who waits for us is not reaped. */
START_TEST(spares_who_waits)
{
    const struct http_limits hasty = hasty_limits(usual.headers_ms, 600, usual.idle_ms);
    struct stand stand = {.service = {.hold = true}};
    int fd;

    listen_at(&stand, address_of(_i));
    serve(&stand, &hasty, by_suspend_of(_i));
    fd = dial(&stand);
    say(fd, POST("/later", "5", "hello"));
    wait_until(&stand.service.waiting, 1);
    usleep(2000 * hasty.request_ms);
    atomic_store(&stand.service.release, true);
    http_loop_wake(stand.service.loop);
    ck_assert_uint_eq(status_of(fd), 200);
    close(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* Who waits and leaves is noticed, also where the library does not look. */
START_TEST(notices_who_left)
{
    struct stand stand = {.service = {.hold = true}};
    int stays, leaves;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    stays = dial(&stand);
    leaves = dial(&stand);
    say(stays, POST("/later", "5", "hello"));
    say(leaves, POST("/later", "5", "hello"));
    wait_until(&stand.service.waiting, 2);
    if (stand.address.kind == CONFIG_ADDRESS_TCP) {
        struct linger reset = {.l_onoff = 1};

        /* TCP cannot tell a closed socket from a half-closed one, whose owner still listens. */
        ck_assert_int_eq(setsockopt(leaves, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    }
    close(leaves);
    wait_until(&stand.service.waiting, 1);
    ck_assert_uint_eq(atomic_load(&stand.service.overs), 1);
    atomic_store(&stand.service.release, true);
    http_loop_wake(stand.service.loop);
    ck_assert_uint_eq(status_of(stays), 200);
    close(stays);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* A client that ends its side in the middle of a request, in the same moment as its last bytes,
 * holds no place until the deadline; one that ends it after a whole request gets its answer first.
 */
START_TEST(notices_half_a_request)
{
    struct stand stand = {0};
    static const char *const halves[] = {"P", "POST /echo HTTP/1.1\r\nHost: a\r\n",
                                         POST("/echo", "5", "hel")};
    int fds[90];

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    for (size_t i = 0; i < 90; i++) {
        fds[i] = dial(&stand);
        say(fds[i], halves[i % 3]);
        ck_assert_int_eq(shutdown(fds[i], SHUT_WR), 0);
    }
    /* Long before headers_ms, 10 s. */
    for (size_t i = 0; i < 90; i++)
        expect_end(fds[i]);
    ck_assert_uint_eq(atomic_load(&stand.service.refused[HTTP_REFUSAL_TIMEOUT]), 0);
    for (size_t i = 0; i < 30; i++) {
        fds[i] = dial(&stand);
        say(fds[i], POST("/echo", "5", "hello"));
        ck_assert_int_eq(shutdown(fds[i], SHUT_WR), 0);
    }
    for (size_t i = 0; i < 30; i++) {
        ck_assert_uint_eq(status_of(fds[i]), 200);
        expect_end(fds[i]);
    }
    stop(&stand);
    leave(&stand);
}
END_TEST

/* The same where the process stood still just then, as a machine that is moved does. The loop is
 * turned by hand. */
START_TEST(notices_who_left_after_a_standstill)
{
    struct stand stand = {0};
    struct service *service = &stand.service;
    int fd = dial_by_hand(&stand, _i);

    say(fd, POST("/ok", "5", "hello"));
    ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
    while (atomic_load(&service->overs) < 1)
        http_loop_turn(service->loop, 10);
    usleep(1000 * 8 * HTTP_TICK_MS);
    for (int64_t end = clock_monotonic_ms() + PATIENCE_MS;
         http_server_connections(service->server) > 0; http_loop_turn(service->loop, 10))
        ck_assert_int_lt(clock_monotonic_ms(), end); /* long before idle_ms, 30 s */
    ck_assert_uint_eq(status_of(fd), 200);
    expect_end(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* ---- limits, wakes, ticks ---- */

START_TEST(others_wait_in_the_backlog)
{
    struct http_limits two = usual;
    struct stand stand = {0};
    int fds[5];

    two.connections = 2;
    listen_at(&stand, address_of(_i));
    serve(&stand, &two, by_suspend_of(_i));
    for (size_t i = 0; i < 5; i++)
        fds[i] = dial(&stand);
    for (size_t i = 0; i < 5; i++)
        say(fds[i], GET("/later"));
    for (size_t i = 0; i < 5; i++) {
        ck_assert_uint_eq(status_of(fds[i]), 200);
        ck_assert_uint_le(http_server_connections(stand.service.server), 2);
        close(fds[i]);
    }
    stop(&stand);
    leave(&stand);
}
END_TEST

static void expect_open(int fd)
{
    char byte;

    ck_assert_int_lt(recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT), 0);
    ck_assert_int_eq(errno, EAGAIN);
}

static struct http_limits crowded_limits(unsigned connections, unsigned spare_ms)
{
    struct http_limits limits = usual;

    limits.connections = connections;
    limits.spare_silent_ms = spare_ms;
    limits.spare_busy_ms = spare_ms;
    return limits;
}

static void wait_for_connections(const struct stand *stand, unsigned count)
{
    for (int64_t end = clock_monotonic_ms() + PATIENCE_MS;
         http_server_connections(stand->service.server) != count; usleep(1000))
        ck_assert_int_lt(clock_monotonic_ms(), end);
}

/* Attack: as many connections as there may be, which never come to a whole request. At the limit,
 * whoever waited longest without one goes; between requests first; never who waits for us. */
START_TEST(makes_room)
{
    const struct http_limits limits = crowded_limits(5, 0);
    struct stand stand = {.service = {.hold = true}};
    struct service *service = &stand.service;
    int waits[6], body, head, silent, idle;

    listen_at(&stand, address_of(_i));
    serve(&stand, &limits, by_suspend_of(_i));
    waits[0] = dial(&stand);
    say(waits[0], POST("/later", "5", "hello"));
    wait_until(&service->waiting, 1);
    body = dial(&stand);
    say(body, POST("/later", "5", "hel"));
    wait_until(&service->headers, 2);
    head = dial(&stand);
    say(head, "POST /later HTTP/1.1\r\nHost: a\r\n");
    wait_for_connections(&stand, 3);
    silent = dial(&stand);
    wait_for_connections(&stand, 4);
    idle = dial(&stand);
    say(idle, GET("/ok"));
    ck_assert_uint_eq(status_of(idle), 200);
    wait_until(&service->overs, 1);
    expect_open(idle);
    ck_assert_uint_eq(http_server_evicted(service->server), 0);
    for (unsigned i = 1; i < 5; i++) {
        const int order[] = {idle, body, head, silent};

        waits[i] = dial(&stand);
        say(waits[i], POST("/later", "5", "hello"));
        wait_until(&service->waiting, i + 1);
        ck_assert_uint_eq(http_server_evicted(service->server), i);
        expect_end(order[i - 1]);
        for (unsigned k = i; k < 4; k++)
            expect_open(order[k]);
    }
    /* Now there is nobody who may go: the next one waits for a place. */
    waits[5] = dial(&stand);
    say(waits[5], POST("/ok", "5", "hello"));
    atomic_store(&service->release, true);
    http_loop_wake(service->loop);
    for (unsigned i = 0; i < 6; i++) {
        ck_assert_uint_eq(status_of(waits[i]), 200);
        close(waits[i]);
    }
    ck_assert_uint_le(http_server_evicted(service->server), 5);
    stop(&stand);
    ck_assert_uint_eq(atomic_load(&service->refused[HTTP_REFUSAL_TIMEOUT]), 0);
    leave(&stand);
}
END_TEST

/* A client that sends and sends and takes no answer makes room as well, but last. */
START_TEST(makes_room_of_who_takes_no_answer)
{
    const struct http_limits limits = crowded_limits(2, 0);
    struct stand stand = {0};
    struct service *service = &stand.service;
    int takes_none, silent, first, second;

    listen_at(&stand, address_of(_i));
    serve(&stand, &limits, by_suspend_of(_i));
    takes_none = dial(&stand);
    say(takes_none, GET("/big"));
    wait_until(&service->bodies, 1);
    silent = dial(&stand);
    wait_for_connections(&stand, 2);
    first = dial(&stand);
    say(first, POST("/later", "5", "hello"));
    ck_assert_uint_eq(status_of(first), 200);
    expect_end(silent);
    ck_assert_uint_eq(http_server_evicted(service->server), 1);
    close(first);
    wait_for_connections(&stand, 1);
    ck_assert_uint_eq(atomic_load(&service->overs), 1);
    service->hold = true;
    first = dial(&stand);
    say(first, POST("/later", "5", "hello"));
    wait_until(&service->waiting, 1);
    second = dial(&stand);
    say(second, GET("/ok"));
    ck_assert_uint_eq(status_of(second), 200);
    ck_assert_uint_eq(http_server_evicted(service->server), 2);
    atomic_store(&service->release, true);
    http_loop_wake(service->loop);
    ck_assert_uint_eq(status_of(first), 200);
    close(first);
    close(second);
    close(takes_none);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* The loop is turned by hand: a crowd of the young evicts nobody, makes nobody spin, and is let go
 * when it has become old. */
START_TEST(spares_the_young)
{
    struct http_limits limits = crowded_limits(2, 60000);
    struct stand stand = {0};
    struct service *service = &stand.service;
    int fds[3];
    int64_t start_ms;

    listen_at(&stand, address_of(_i));
    serve_by_hand(&stand, &limits, by_suspend_of(_i));
    for (size_t i = 0; i < 2; i++)
        fds[i] = dial(&stand);
    while (http_server_connections(service->server) < 2)
        http_loop_turn(service->loop, 10);
    for (int i = 0; i < 2 * HTTP_QUIET_TURNS_MAX; i++)
        http_loop_turn(service->loop, 0);
    /* Full, and nobody waits. */
    start_ms = clock_monotonic_ms();
    for (int i = 0; i < 5; i++)
        http_loop_turn(service->loop, 60000);
    ck_assert_int_ge(clock_monotonic_ms() - start_ms, 4 * HTTP_TICK_MS - 10);
    fds[2] = dial(&stand);
    say(fds[2], GET("/ok"));
    for (int i = 0; i < 4; i++)
        http_loop_turn(service->loop, 0);
    start_ms = clock_monotonic_ms();
    for (int i = 0; i < 5; i++)
        http_loop_turn(service->loop, 60000);
    ck_assert_int_ge(clock_monotonic_ms() - start_ms, 4 * HTTP_CROWDED_POLL_MS - 10);
    ck_assert_uint_eq(http_server_evicted(service->server), 0);
    expect_open(fds[0]);
    expect_open(fds[1]);
    expect_open(fds[2]);
    /* What came a moment ago counts as on its way, and is read. */
    say(fds[0], "GET");
    limits.spare_silent_ms = limits.spare_busy_ms = 0;
    http_server_set_limits(service->server, &limits);
    while (atomic_load(&service->overs) < 1)
        http_loop_turn(service->loop, 10);
    ck_assert_uint_eq(status_of(fds[2]), 200);
    ck_assert_uint_eq(http_server_evicted(service->server), 1);
    close(fds[2]);
    stop(&stand);
    close(fds[0]);
    close(fds[1]);
    leave(&stand);
}
END_TEST

/* Attack: a crowd sends half a head, and comes back as soon as it has to go. Then the backlog is
 * full of it, each of them is spared for a while, and an honest client waits for all before it. */
START_TEST(the_last_of_a_full_backlog_is_let_in_soon)
{
    const unsigned connections = 512; /* the default */

    ck_assert_uint_le(HTTP_BACKLOG / connections * INGRESS_SPARE_SILENT_MS, 2000);
    ck_assert_uint_le(HTTP_BACKLOG / connections * INGRESS_SPARE_BUSY_MS, 2000);
    /* and a segment that was lost still comes in time (Linux's least RTO is 200 ms) */
    ck_assert_uint_gt(INGRESS_SPARE_BUSY_MS, 200);
}
END_TEST

static void *wake_often(void *context)
{
    for (int i = 0; i < 20000; i++)
        http_loop_wake(context);
    return NULL;
}

/* No wake is lost: after the last one, on_wake is called. */
START_TEST(wakes)
{
    struct stand stand = {0};
    pthread_t threads[2];

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    for (int round = 0; round < 200; round++) {
        unsigned before = atomic_load(&stand.service.wakes);

        http_loop_wake(stand.service.loop);
        for (int64_t end = clock_monotonic_ms() + PATIENCE_MS;
             atomic_load(&stand.service.wakes) == before;)
            ck_assert_int_lt(clock_monotonic_ms(), end);
    }
    for (size_t i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, wake_often, stand.service.loop), 0);
    for (size_t i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    stop(&stand);
    leave(&stand);
}
END_TEST

START_TEST(ticks)
{
    struct stand stand = {0};
    unsigned before;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    before = atomic_load(&stand.service.ticks);
    for (int64_t end = clock_monotonic_ms() + PATIENCE_MS;
         atomic_load(&stand.service.ticks) < before + 5; usleep(1000))
        ck_assert_int_lt(clock_monotonic_ms(), end);
    ck_assert_int_gt(http_loop_alive_ms(stand.service.loop), clock_monotonic_ms() - PATIENCE_MS);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* An idle loop sleeps, with open connections and with pending requests too: only lower bounds of
 * time are looked at. The loop is turned by hand. */
START_TEST(sleeps)
{
    struct stand stand = {.service = {.hold = true}};
    struct service *service = &stand.service;
    int idle, pending;
    int64_t start_ms;

    idle = dial_by_hand(&stand, _i);
    say(idle, GET("/ok"));
    while (atomic_load(&service->overs) < 1)
        http_loop_turn(service->loop, 10);
    for (int i = 0; i < 2 * HTTP_QUIET_TURNS_MAX; i++)
        http_loop_turn(service->loop, 0);
    start_ms = clock_monotonic_ms();
    for (int i = 0; i < 5; i++)
        http_loop_turn(service->loop, 60000);
    ck_assert_int_ge(clock_monotonic_ms() - start_ms, 4 * HTTP_TICK_MS - 10);
    pending = dial(&stand);
    say(pending, POST("/later", "5", "hello"));
    while (atomic_load(&service->waiting) < 1)
        http_loop_turn(service->loop, 10);
    for (int i = 0; i < 4; i++)
        http_loop_turn(service->loop, 0);
    start_ms = clock_monotonic_ms();
    for (int i = 0; i < 5; i++)
        http_loop_turn(service->loop, 60000);
    ck_assert_int_ge(clock_monotonic_ms() - start_ms, 4 * HTTP_PENDING_POLL_MS);
    close(idle);
    close(pending);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* ---- the end ---- */

START_TEST(stops_with_requests_under_way)
{
    struct stand stand = {.service = {.hold = true}};
    int fds[4];

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    for (size_t i = 0; i < 4; i++)
        fds[i] = dial(&stand);
    say(fds[0], POST("/later", "5", "hello"));
    say(fds[1], POST("/later", "5", "hel"));
    say(fds[2], "POST /lat");
    wait_until(&stand.service.waiting, 1);
    wait_until(&stand.service.headers, 2);
    ck_assert_uint_eq(http_loop_requests(stand.service.loop), 2);
    stop(&stand);
    for (size_t i = 0; i < 4; i++)
        expect_end(fds[i]);
    for (size_t k = 0; k <= HTTP_REFUSAL_TIMEOUT; k++)
        ck_assert_uint_eq(atomic_load(&stand.service.refused[k]), 0);
    leave(&stand);
}
END_TEST

static void wait_for_drain(const struct http_loop *loop, unsigned left)
{
    for (int64_t end = clock_monotonic_ms() + PATIENCE_MS; http_loop_requests(loop) != left;) {
        ck_assert_int_lt(clock_monotonic_ms(), end);
        usleep(1000);
    }
}

START_TEST(drains)
{
    struct stand stand = {.service = {.hold = true}};
    char text[4096];
    int waits, idle, silent;

    listen_at(&stand, address_of(_i));
    serve(&stand, &usual, by_suspend_of(_i));
    silent = dial(&stand);
    idle = dial(&stand);
    say(idle, GET("/ok"));
    ck_assert_uint_eq(status_of(idle), 200);
    waits = dial(&stand);
    say(waits, POST("/later", "5", "hello"));
    wait_until(&stand.service.waiting, 1);
    http_loop_drain(stand.service.loop);
    expect_end(idle);
    expect_end(silent);
    wait_for_drain(stand.service.loop, 1);
    atomic_store(&stand.service.release, true);
    http_loop_wake(stand.service.loop);
    (void)hear(waits, text, sizeof(text));
    ck_assert_msg(strncmp(text, "HTTP/1.1 200 ", 13) == 0, "%s", text);
    ck_assert_ptr_nonnull(strstr(text, "\r\nConnection: close\r\n"));
    expect_end(waits);
    wait_for_drain(stand.service.loop, 0);
    stop(&stand);
    for (size_t k = 0; k <= HTTP_REFUSAL_TIMEOUT; k++)
        ck_assert_uint_eq(atomic_load(&stand.service.refused[k]), 0);
    leave(&stand);
}
END_TEST

/* While draining, who was accepted and says nothing is not waited for long. Time in which the
 * process itself stood still does not count: the client may have stood with it. The loop is turned
 * by hand. */
START_TEST(a_standstill_while_draining_cuts_nobody_off)
{
    struct stand stand = {0};
    struct service *service = &stand.service;
    int fd = dial_by_hand(&stand, _i);

    while (http_server_connections(service->server) < 1)
        http_loop_turn(service->loop, 10);
    http_loop_drain(service->loop);
    http_loop_turn(service->loop, 0);
    usleep(1000 * (HTTP_DRAIN_ACCEPTED_MS + HTTP_DRAIN_TICK_MS));
    for (int i = 0; i < 2; i++)
        http_loop_turn(service->loop, 0);
    say(fd, GET("/ok"));
    while (http_loop_requests(service->loop) > 0)
        http_loop_turn(service->loop, 10);
    ck_assert_uint_eq(status_of(fd), 200);
    expect_end(fd);
    stop(&stand);
    leave(&stand);
}
END_TEST

/* Called, it is not done before the turn that leaves the listening socket alone: the one under way
 * may take a connection yet, which a stop would cut off. */
START_TEST(a_drain_is_not_done_before_it_began)
{
    struct stand stand = {0};

    listen_at(&stand, address_of(_i));
    serve_by_hand(&stand, &usual, by_suspend_of(_i));
    ck_assert_uint_eq(http_loop_requests(stand.service.loop), 0);
    http_loop_drain(stand.service.loop);
    ck_assert_uint_ne(http_loop_requests(stand.service.loop), 0);
    http_loop_turn(stand.service.loop, 0);
    ck_assert_uint_eq(http_loop_requests(stand.service.loop), 0);
    stop(&stand);
    leave(&stand);
}
END_TEST

struct caller {
    const struct stand *stand;
    atomic_bool enough;
    atomic_uint answered, failed;
};

/* A connection for each request, as fast as they come. */
static void *call_often(void *context)
{
    struct caller *caller = context;

    while (!atomic_load(&caller->enough)) {
        int fd = dial(caller->stand);

        say(fd, POST("/later", "5", "hello"));
        atomic_fetch_add(status_of(fd) == 200 ? &caller->answered : &caller->failed, 1);
        close(fd);
    }
    return NULL;
}

/* The service manager holds the socket; the daemon is restarted again and again, and nobody is
 * refused or left without an answer. */
START_TEST(restarts_without_a_refusal)
{
    struct stand stand = {0};
    struct caller caller = {.stand = &stand};
    pthread_t threads[2];

    listen_at(&stand, address_of(_i));
    for (size_t i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, call_often, &caller), 0);
    for (unsigned restart = 0; restart < 9; restart++) {
        unsigned before = atomic_load(&caller.answered);
        int64_t end_ms = clock_monotonic_ms() + PATIENCE_MS;

        serve(&stand, &usual, by_suspend_of(_i));
        while (atomic_load(&caller.answered) < before + 50 && clock_monotonic_ms() < end_ms)
            usleep(1000);
        if (restart == 8) {
            atomic_store(&caller.enough, true);
            for (size_t i = 0; i < 2; i++)
                ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        }
        http_loop_drain(stand.service.loop);
        wait_for_drain(stand.service.loop, 0);
        stop(&stand);
    }
    ck_assert_uint_eq(atomic_load(&caller.failed), 0);
    ck_assert_uint_ge(atomic_load(&caller.answered), 9 * 50);
    leave(&stand);
}
END_TEST

/* A daemon that dies without draining, too, leaves the socket usable. */
START_TEST(hard_stop_leaves_the_socket)
{
    struct stand stand = {0};

    listen_at(&stand, address_of(_i));
    for (int round = 0; round < 3; round++) {
        int fd;

        serve(&stand, &usual, by_suspend_of(_i));
        fd = dial(&stand);
        say(fd, GET("/later"));
        ck_assert_uint_eq(status_of(fd), 200);
        stop(&stand);
        close(fd);
    }
    leave(&stand);
}
END_TEST

/* ---- http_listen ---- */

static mode_t mode_of(const char *path)
{
    struct stat status;

    ck_assert_int_eq(lstat(path, &status), 0);
    return status.st_mode & 07777;
}

START_TEST(listens_with_exactly_the_mode)
{
    static const mode_t modes[] = {0666, 0660, 0600}, masks[] = {0, 022, 077, 0777};
    struct config_address address = {.kind = CONFIG_ADDRESS_UNIX};
    char folder[] = "/tmp/test_http.XXXXXX", why[256];

    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(address.path, sizeof(address.path), "%s/socket", folder);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        for (size_t k = 0; k < sizeof(masks) / sizeof(masks[0]); k++) {
            mode_t before = umask(masks[k]);
            int fd = http_listen(&address, modes[i], why);

            (void)umask(before);
            ck_assert_msg(fd >= 0, "%s", why);
            ck_assert_uint_eq(mode_of(address.path), modes[i]);
            ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
            /* Left behind, it is in the way of the next one, and replaced. */
            close(fd);
        }
    ck_assert_int_eq(unlink(address.path), 0);
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(replaces_only_what_is_stale)
{
    struct config_address address = {.kind = CONFIG_ADDRESS_UNIX};
    char folder[] = "/tmp/test_http.XXXXXX", other[128], why[256] = "";
    int fd, file;

    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(address.path, sizeof(address.path), "%s/socket", folder);
    (void)snprintf(other, sizeof(other), "%s/other", folder);
    fd = http_listen(&address, 0600, why);
    ck_assert_int_ge(fd, 0);
    /* One that listens is somebody's. */
    ck_assert_int_eq(http_listen(&address, 0600, why), -EADDRINUSE);
    ck_assert_ptr_nonnull(strstr(why, address.path));
    close(fd);
    /* A symbolic link is not a socket, wherever it leads. */
    ck_assert_int_eq(rename(address.path, other), 0);
    ck_assert_int_eq(symlink(other, address.path), 0);
    ck_assert_int_eq(http_listen(&address, 0600, why), -EEXIST);
    ck_assert_int_eq(unlink(address.path), 0);
    ck_assert_int_eq(unlink(other), 0);
    /* Nor is a file, which may be anything. */
    file = open(address.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(file, 0);
    close(file);
    ck_assert_int_eq(http_listen(&address, 0600, why), -EEXIST);
    ck_assert_int_eq(unlink(address.path), 0);
    ck_assert_int_eq(rmdir(folder), 0);
    /* No folder. */
    ck_assert_int_eq(http_listen(&address, 0600, why), -ENOENT);
    ck_assert_ptr_nonnull(strstr(why, address.path));
}
END_TEST

/* Attack: a crowd that fills a short backlog. Then the kernel drops who comes, honest or not, and
 * each tries again only after a second, and then after two, four. */
START_TEST(listens_with_all_the_backlog_there_is)
{
    struct config_address address = {.kind = CONFIG_ADDRESS_TCP, .host = "127.0.0.1"};
    struct tcp_info info = {0};
    socklen_t bytes = sizeof(info);
    char why[256] = "", text[32] = "";
    FILE *limit = fopen("/proc/sys/net/core/somaxconn", "re");
    unsigned long most;
    int fd = http_listen(&address, 0, why);

    ck_assert_ptr_nonnull(limit);
    ck_assert_ptr_nonnull(fgets(text, sizeof(text), limit));
    (void)fclose(limit);
    most = strtoul(text, NULL, 10);
    ck_assert_msg(fd >= 0, "%s", why);
    ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes), 0);
    /* of a socket that listens: how many may wait */
    ck_assert_uint_eq(info.tcpi_sacked, most < 4096 ? most : 4096);
    close(fd);
}
END_TEST

START_TEST(listens_on_tcp)
{
    struct config_address address = {.kind = CONFIG_ADDRESS_TCP, .text = "there"};
    struct sockaddr_in name;
    socklen_t bytes = sizeof(name);
    char why[256] = "";
    int fd, on = 0, six;

    strcpy(address.host, "localhost");
    ck_assert_int_eq(http_listen(&address, 0, why), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why, "there"));
    strcpy(address.host, "127.0.0.1");
    fd = http_listen(&address, 0, why);
    ck_assert_msg(fd >= 0, "%s", why);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&name, &bytes), 0);
    bytes = sizeof(on);
    ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &bytes), 0);
    ck_assert_int_ne(on, 0);
    address.port = ntohs(name.sin_port);
    ck_assert_int_eq(http_listen(&address, 0, why), -EADDRINUSE);
    /* The wildcard of IPv6 does not take the port of IPv4 along. */
    strcpy(address.host, "::");
    six = http_listen(&address, 0, why);
    if (six >= 0 || errno != EADDRNOTAVAIL) {
        ck_assert_msg(six >= 0 || strstr(why, "support"), "%s", why);
        close(six);
    }
    close(fd);
    address.kind = CONFIG_ADDRESS_NONE;
    ck_assert_int_eq(http_listen(&address, 0, why), -EINVAL);
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
    tcase_add_loop_test(tests, refuses_and_closes, 0, 4);
    tcase_add_loop_test(tests, refusal_survives_what_is_still_sent, 0, 4);
    tcase_add_loop_test(tests, early_answer_closes, 0, 4);
    tcase_add_loop_test(tests, continues_when_asked, 0, 4);
    tcase_add_loop_test(tests, closes_after_http_1_0, 0, 4);
    tcase_add_loop_test(tests, takes_8_kib_of_headers, 0, 4);
    tcase_add_loop_test(tests, reaps_the_slow, 0, 4);
    tcase_add_loop_test(tests, reaps_between_requests, 0, 4);
    tcase_add_loop_test(tests, reaps_who_takes_no_answer, 0, 4);
    tcase_add_loop_test(tests, spares_who_waits, 0, 4);
    tcase_add_loop_test(tests, notices_who_left, 0, 4);
    tcase_add_loop_test(tests, notices_half_a_request, 0, 4);
    tcase_add_loop_test(tests, notices_who_left_after_a_standstill, 0, 4);
    tcase_add_loop_test(tests, others_wait_in_the_backlog, 0, 4);
    tcase_add_test(tests, the_last_of_a_full_backlog_is_let_in_soon);
    tcase_add_loop_test(tests, makes_room, 0, 4);
    tcase_add_loop_test(tests, makes_room_of_who_takes_no_answer, 0, 4);
    tcase_add_loop_test(tests, spares_the_young, 0, 4);
    tcase_add_loop_test(tests, wakes, 0, 2);
    tcase_add_loop_test(tests, ticks, 0, 2);
    tcase_add_loop_test(tests, sleeps, 0, 4);
    tcase_add_loop_test(tests, stops_with_requests_under_way, 0, 4);
    tcase_add_loop_test(tests, drains, 0, 4);
    tcase_add_loop_test(tests, a_standstill_while_draining_cuts_nobody_off, 0, 4);
    tcase_add_loop_test(tests, a_drain_is_not_done_before_it_began, 0, 4);
    tcase_add_loop_test(tests, restarts_without_a_refusal, 0, 4);
    tcase_add_loop_test(tests, hard_stop_leaves_the_socket, 0, 4);
    tcase_add_test(tests, listens_with_exactly_the_mode);
    tcase_add_test(tests, replaces_only_what_is_stale);
    tcase_add_test(tests, listens_with_all_the_backlog_there_is);
    tcase_add_test(tests, listens_on_tcp);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
