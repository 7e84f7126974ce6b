/*
 * Raw bytes of a client through the library, the guard and a service, over a socket pair. Besides
 * what the sanitisers find: whoever reaches the service did so with a head of whole lines, every
 * request that began is over at the end, and no connection is left.
 */
#include "../../src/listener/http_private.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TURNS_MAX   4096
#define QUIET_TURNS 3

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static struct http_loop *loop;
static struct http_server *server;
static struct http_reply *ok;
static const uint8_t *sent;
static size_t sent_bytes;
static unsigned headers, overs;

static void require(bool good)
{
    if (!good)
        abort();
}

/* The library writes NULs over what ends a line, so the guard cannot tell a NUL in the place of the
 * CR. At the end of the head, where four bytes are NULs, it takes them for two lines in whatever
 * way; but without a NUL or an empty name among them they are what they should be. */
static bool ends_line(const uint8_t *at)
{
    return (at[0] == '\r' || at[0] == '\0') && at[1] == '\n';
}

static bool ends_head(const uint8_t *at)
{
    bool odd = false;

    for (size_t i = 0; i < 4; i++) {
        odd |= at[i] == '\0' || at[i] == ':';
        if (at[i] != '\0' && at[i] != ':' && at[i] != '\r' && at[i] != '\n')
            return false;
    }
    return at[3] == '\n' && (odd || memcmp(at, "\r\n\r", 3) == 0);
}

/* The first head: after empty lines, up to an empty line, nothing but whole lines. */
static void require_whole_lines(void)
{
    const uint8_t *at = sent, *end = sent + sent_bytes;

    /* The library passes over empty lines, and over what begins with NUL as if it were one. */
    while (at + 1 < end && (*at == '\n' || *at == '\0' || ends_line(at))) {
        const uint8_t *line_end = memchr(at, '\n', (size_t)(end - at));

        require(line_end != NULL);
        at = line_end + 1;
    }
    for (;; at++) {
        require(at + 3 < end);
        if (ends_head(at))
            return;
        require(*at != '\n');
        if (*at != '\r' && *at != '\0')
            continue;
        require(ends_line(at));
        at++;
    }
}

static void on_headers(void *context, struct http_request *request)
{
    (void)context;
    if (headers++ == 0)
        require_whole_lines();
    require(http_request_path(request)[0] == '/');
    (void)http_request_query(request, "a");
    if (http_request_method(request) == HTTP_METHOD_OTHER)
        http_request_answer(request, ok);
}

static void on_body(void *context, struct http_request *request)
{
    size_t bytes = 0;
    const char *body = http_request_body(request, &bytes);
    volatile char last;

    (void)context;
    if (bytes > 0)
        last = body[bytes - 1];
    (void)last;
    http_request_answer(request, ok);
}

static void on_over(void *context, struct http_request *request)
{
    (void)context;
    (void)request;
    overs++;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct http_limits limits = {.connections = 64,
                                              .body_bytes = 1024,
                                              .headers_ms = 60000,
                                              .request_ms = 60000,
                                              .idle_ms = 60000,
                                              .spare_silent_ms = 60000,
                                              .spare_busy_ms = 60000};
    static const struct http_service service = {
        .on_headers = on_headers, .on_body = on_body, .on_over = on_over};
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)argc;
    (void)argv;
    require(fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof(name.sun_family)) == 0);
    require(listen(fd, 1) == 0 && http_reply_new(200, "text/plain", "ok", 2, NULL, &ok) == 0);
    require(http_loop_new("fuzz", &loop) == 0);
    require(http_loop_serve(loop, fd, &limits, false, &service, NULL, &server) == 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char answers[65536];
    int pair[2];

    if (bytes > 16384)
        return 0;
    sent = data;
    sent_bytes = bytes;
    headers = overs = 0;
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    require(bytes == 0 || send(pair[0], data, bytes, MSG_NOSIGNAL) == (ssize_t)bytes);
    require(http_server_adopt(server, pair[1]) == 0);
    /* What a turn sets off is seen in the next: the library takes the socket up, then reads. */
    for (int quiet = 0; quiet < QUIET_TURNS; quiet = server->progress ? 0 : quiet + 1) {
        http_loop_turn(loop, 0);
        (void)!recv(pair[0], answers, sizeof(answers), MSG_DONTWAIT);
    }
    close(pair[0]);
    for (int turn = 0; http_server_connections(server) > 0 || loop->linger.count > 0; turn++) {
        require(turn < TURNS_MAX);
        http_loop_turn(loop, 0);
        http_linger_run(&loop->linger, loop->now_ms);
    }
    require(headers == overs && atomic_load(&loop->requests) == 0 && server->pending == 0);
    return 0;
}
