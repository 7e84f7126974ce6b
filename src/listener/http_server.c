/*
 * One listening socket: the library's daemon, its connections, and the reaper beside them.
 */
#include "http_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void connection_open(struct http_server *server, struct MHD_Connection *mhd, void **slot)
{
    struct http_connection *connection = calloc(1, sizeof(*connection));
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);

    if (!connection || !info) {
        /* Without a record there is no deadline; the library then finds the socket at its end. */
        if (info)
            (void)shutdown(info->connect_fd, SHUT_RDWR);
        free(connection);
        return;
    }
    connection->server = server;
    connection->mhd = mhd;
    connection->fd = info->connect_fd;
    connection->started_ms = server->loop->now_ms;
    http_connection_enter(connection, HTTP_PHASE_ACCEPTED, connection->started_ms,
                          server->limits.headers_ms);
    connection->next = server->connections;
    if (connection->next)
        connection->next->previous = connection;
    server->connections = connection;
    atomic_fetch_add(&server->connection_count, 1);
    *slot = connection;
}

/* Who closes after an answer in the turn that sent it, as asked, has nothing left to read. */
static bool is_orderly(const struct http_connection *connection)
{
    return connection->phase == HTTP_PHASE_IDLE && !connection->refused &&
           connection->idle_turn == connection->server->loop->turn;
}

/* A client that is still there did not close; so we did. */
static void see_off(struct http_connection *connection)
{
    struct http_server *server = connection->server;
    bool there = http_linger_add(&server->loop->linger, connection->fd, server->loop->now_ms);
    bool silent = connection->phase == HTTP_PHASE_ACCEPTED || connection->phase == HTTP_PHASE_IDLE;

    /* The library refuses a bad first line by itself and tells nobody. */
    if (there && silent && !connection->refused && server->service->on_refused)
        server->service->on_refused(server->context, HTTP_REFUSAL_FRAMING);
}

static void connection_shut(struct http_server *server, void **slot)
{
    struct http_connection *connection = *slot;

    if (!connection)
        return;
    *slot = NULL;
    if (!server->closing && !connection->reaped && !is_orderly(connection))
        see_off(connection);
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    atomic_fetch_sub(&server->connection_count, 1);
    if (connection->reaped)
        server->leaving--;
    /* A place is free: only another turn makes the library listen again. */
    server->progress = true;
    free(connection);
}

static void on_connection(void *context, struct MHD_Connection *mhd, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http_server *server = context;

    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        connection_open(server, mhd, slot);
    else
        connection_shut(server, slot);
}

/* Targets are read as they were sent. */
static size_t leave_escaped(void *context, struct MHD_Connection *mhd, char *text)
{
    (void)context;
    (void)mhd;
    return strlen(text);
}

__attribute__((format(printf, 2, 0))) static void say_nothing(void *context, const char *format,
                                                              va_list arguments)
{
    (void)context;
    (void)format;
    (void)arguments;
}

static void on_panic(void *context, const char *file, unsigned line, const char *reason)
{
    char text[128];
    int bytes = snprintf(text, sizeof(text),
                         "http: libmicrohttpd found itself in a state it calls impossible (line "
                         "%u); aborting\n",
                         line);

    (void)context;
    (void)file;
    (void)reason;
    if (bytes > 0)
        (void)!write(STDERR_FILENO, text, (size_t)bytes);
    abort();
}

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int http_server_open(struct http_server *server, int listen_fd)
{
    const union MHD_DaemonInfo *info;
    unsigned flags = MHD_USE_EPOLL | MHD_USE_ITC;
    int r;

    /* A predecessor on the same socket may take the connection that both were told of. */
    r = set_nonblocking(listen_fd);
    if (r < 0)
        return r;
    if (server->by_suspend)
        flags |= MHD_ALLOW_SUSPEND_RESUME;
    MHD_set_panic_func(on_panic, NULL);
    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_request_handle, server, MHD_OPTION_EXTERNAL_LOGGER, say_nothing,
        NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        server->limits.connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_POOL_BYTES,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_NOTIFY_COMPLETED,
        http_request_over, server, MHD_OPTION_URI_LOG_CALLBACK, http_request_begin, server,
        MHD_OPTION_UNESCAPE_CALLBACK, leave_escaped, NULL, MHD_OPTION_END);
    if (!server->daemon)
        return -EIO;
    info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || info->epoll_fd < 0) {
        http_server_close(server);
        return -EIO;
    }
    server->listen_fd = listen_fd;
    server->epoll_fd = info->epoll_fd;
    return 0;
}

void http_server_set_limits(struct http_server *server, const struct http_limits *limits)
{
    unsigned connections = server->limits.connections;

    server->limits = *limits;
    server->limits.connections = connections; /* the library asked for it once */
}

void http_server_quiesce(struct http_server *server)
{
    if (server->daemon)
        (void)MHD_quiesce_daemon(server->daemon);
}

void http_server_close(struct http_server *server)
{
    if (!server->daemon)
        return;
    /* Quiesced first, or the library would close the descriptor, which is not ours. */
    http_server_quiesce(server);
    server->closing = true;
    /* And it aborts where a suspended connection is left. */
    for (struct http_connection *at = server->connections; at; at = at->next)
        if (at->request.suspended)
            http_request_abort(&at->request);
    MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
}

void http_server_run(struct http_server *server)
{
    server->progress = false;
    (void)MHD_run(server->daemon);
    http_room_make(server);
    server->quiet_turns = server->progress ? 0 : server->quiet_turns + 1;
}

/* MHD_get_timeout says 0 as long as any connection is ready for something, and one that is asked
 * again for its answer always is. So with such ones pending only progress that the callbacks saw
 * makes for another turn at once; what they cannot see (a long head that filled the buffer to the
 * byte, a refusal of the library's own) waits for HTTP_PENDING_POLL_MS. */
int http_server_patience_ms(struct http_server *server)
{
    MHD_UNSIGNED_LONG_LONG timeout = 0;

    if (server->progress)
        return 0;
    if (server->crowded)
        return HTTP_CROWDED_POLL_MS;
    if (server->pending > 0)
        return HTTP_PENDING_POLL_MS;
    if (MHD_get_timeout(server->daemon, &timeout) != MHD_YES || timeout > 0)
        return HTTP_TICK_MS;
    /* A connection that is always ready and never moves shall not turn the loop into a spin. */
    return server->quiet_turns < HTTP_QUIET_TURNS_MAX ? 0 : HTTP_PENDING_POLL_MS;
}

enum http_socket http_socket_look(int fd)
{
    char one;
    ssize_t got = recv(fd, &one, 1, MSG_PEEK | MSG_DONTWAIT);

    if (got > 0)
        return HTTP_SOCKET_UNREAD;
    return got == 0 ? HTTP_SOCKET_OVER : HTTP_SOCKET_EMPTY;
}

#define IDLE_LOOKS 4

/* Whether the client ended its side and nobody told us. The library does not watch a suspended
 * connection; and when the end comes together with the last bytes, it takes the short read for all
 * there was and hears no more of it, for its events are edges. Between requests the end can have
 * been lost only at first: the looks are counted, for time may pass without one. */
static bool has_left(struct http_connection *connection)
{
    struct pollfd peer = {.fd = connection->fd, .events = POLLRDHUP};

    switch (connection->phase) {
    case HTTP_PHASE_PENDING:
        return connection->request.suspended && poll(&peer, 1, 0) > 0 &&
               (peer.revents & (POLLRDHUP | POLLHUP | POLLERR));
    case HTTP_PHASE_ACCEPTED:
    case HTTP_PHASE_HEAD:
    case HTTP_PHASE_BODY:
        return http_socket_look(connection->fd) == HTTP_SOCKET_OVER;
    case HTTP_PHASE_IDLE:
        return connection->looks++ < IDLE_LOOKS &&
               http_socket_look(connection->fd) == HTTP_SOCKET_OVER;
    default:
        return false;
    }
}

/* While draining, a silent connection has little time left, of which a standstill of this process
 * takes nothing away; and a client that may have just sent a request still gets its answer. */
static bool is_due(const struct http_connection *connection, int64_t now_ms)
{
    const struct http_loop *loop = connection->server->loop;
    int64_t from_ms = connection->since_ms, patience_ms;

    if (now_ms >= connection->deadline_ms)
        return true;
    if (!loop->draining)
        return false;
    if (connection->phase == HTTP_PHASE_IDLE)
        patience_ms = HTTP_DRAIN_IDLE_MS;
    else if (connection->phase == HTTP_PHASE_ACCEPTED)
        patience_ms = HTTP_DRAIN_ACCEPTED_MS;
    else
        return false;
    if (from_ms < loop->awake_ms)
        from_ms = loop->awake_ms;
    return now_ms >= from_ms + patience_ms &&
           http_socket_look(connection->fd) != HTTP_SOCKET_UNREAD;
}

static void refuse_late(struct http_server *server, enum http_phase phase)
{
    bool under_way = phase == HTTP_PHASE_HEAD || phase == HTTP_PHASE_BODY ||
                     (phase == HTTP_PHASE_ACCEPTED && !server->loop->draining);

    if (under_way && server->service->on_refused)
        server->service->on_refused(server->context, HTTP_REFUSAL_TIMEOUT);
}

void http_connection_reap(struct http_connection *connection)
{
    connection->reaped = true;
    connection->server->leaving++;
    if (connection->request.suspended)
        http_request_abort(&connection->request);
    /* The library hears of it as of any hang-up. */
    (void)shutdown(connection->fd, SHUT_RDWR);
    connection->server->progress = true;
}

void http_server_reap(struct http_server *server)
{
    int64_t now_ms = server->loop->now_ms;

    for (struct http_connection *at = server->connections; at; at = at->next) {
        if (at->reaped)
            continue;
        if (has_left(at)) {
            http_connection_reap(at);
        } else if (is_due(at, now_ms)) {
            refuse_late(server, at->phase);
            http_connection_reap(at);
        }
    }
}

int http_server_adopt(struct http_server *server, int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t bytes = sizeof(peer);
    int r = set_nonblocking(fd);

    if (r < 0)
        return r;
    if (getpeername(fd, (struct sockaddr *)&peer, &bytes) != 0)
        return -errno;
    if (MHD_add_connection(server->daemon, fd, (struct sockaddr *)&peer, bytes) != MHD_YES)
        return -errno;
    server->progress = true;
    return 0;
}

unsigned http_server_connections(const struct http_server *server)
{
    return atomic_load(&server->connection_count);
}

uint64_t http_server_evicted(const struct http_server *server)
{
    return atomic_load(&server->evicted);
}
