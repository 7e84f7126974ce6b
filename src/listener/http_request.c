/*
 * A request on its way through the library: first line, guard, body, answer.
 */
#include "http_private.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* A request that waits for its service is the service's to bound. This only catches one that a
 * service forgot. */
#define FORGOTTEN_GRACE_MS 10000
#define LONG_POLL_MAX_MS   120000

void http_connection_enter(struct http_connection *connection, enum http_phase phase,
                           int64_t from_ms, int64_t for_ms)
{
    connection->phase = phase;
    connection->looks = 0;
    connection->since_ms = connection->server->loop->now_ms;
    connection->deadline_ms = from_ms + for_ms;
}

static struct http_connection *connection_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

void *http_request_begin(void *context, const char *target, struct MHD_Connection *mhd)
{
    struct http_connection *connection = connection_of(mhd);
    struct http_request *request;
    struct http_server *server = context;

    if (!connection)
        return NULL;
    request = &connection->request;
    memset(request, 0, offsetof(struct http_request, queries));
    request->connection = connection;
    request->sent_target = target;
    /* Now, because the library goes on to decode it in place. */
    request->target_good = http_guard_target(target);
    if (request->target_good)
        memcpy(request->target, target, strlen(target) + 1);
    if (connection->phase != HTTP_PHASE_ACCEPTED)
        connection->started_ms = server->loop->now_ms;
    http_connection_enter(connection, HTTP_PHASE_HEAD, connection->started_ms,
                          server->limits.headers_ms);
    return request;
}

struct collection {
    struct http_header headers[HTTP_HEADERS_MAX];
    size_t count;
};

static enum MHD_Result collect(void *context, enum MHD_ValueKind kind, const char *name,
                               size_t name_bytes, const char *value, size_t value_bytes)
{
    struct collection *all = context;

    (void)kind;
    if (all->count == HTTP_HEADERS_MAX) {
        all->count++;
        return MHD_NO;
    }
    all->headers[all->count++] = (struct http_header){
        .name = name, .name_bytes = name_bytes, .value = value, .value_bytes = value_bytes};
    return MHD_YES;
}

static enum http_guard judge(struct http_request *request, struct MHD_Connection *mhd,
                             const char *method, const char *version)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    struct collection all = {.count = 0};
    struct http_head head = {
        .method = method, .target = request->target, .version = version, .headers = all.headers};

    if (!info)
        return HTTP_GUARD_INTERNAL;
    if (!request->target_good)
        return HTTP_GUARD_FRAMING;
    (void)MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, collect, &all);
    head.header_count = all.count;
    head.block_bytes = info->header_size;
    head.target_at = request->sent_target;
    return http_guard_judge(&head, request->connection->server->limits.body_bytes, &request->method,
                            &request->body_bytes);
}

static char *decode(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        if (*from == '%') {
            char digits[3] = {from[1], from[2], '\0'};

            *to = (char)strtoul(digits, NULL, 16);
            from += 3;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
    return text;
}

/* Splits the target, which the guard found good, into path and decoded queries, in place. */
static void split_target(struct http_request *request)
{
    char *rest = strchr(request->target, '?');

    if (!rest)
        return;
    *rest++ = '\0';
    while (rest && request->query_count < HTTP_QUERIES_MAX) {
        char *name = strsep(&rest, "&");
        char *value = strchr(name, '=');

        if (value)
            *value++ = '\0';
        request->queries[request->query_count++] =
            (struct http_query){.name = decode(name), .value = value ? decode(value) : ""};
    }
}

static enum MHD_Result queue(struct http_request *request, struct MHD_Connection *mhd,
                             const struct http_reply *reply, bool closing)
{
    struct http_connection *connection = request->connection;
    struct http_server *server = connection->server;

    server->progress = true;
    http_connection_enter(connection, HTTP_PHASE_ANSWERING, server->loop->now_ms,
                          server->limits.request_ms);
    return MHD_queue_response(mhd, reply->status,
                              closing || server->loop->draining ? reply->close : reply->keep);
}

static enum MHD_Result refuse(struct http_request *request, struct MHD_Connection *mhd,
                              enum http_guard verdict)
{
    struct http_server *server = request->connection->server;
    enum http_refusal refusal = verdict == HTTP_GUARD_NO_LENGTH   ? HTTP_REFUSAL_NO_LENGTH
                                : verdict == HTTP_GUARD_TOO_LARGE ? HTTP_REFUSAL_TOO_LARGE
                                                                  : HTTP_REFUSAL_FRAMING;
    const struct http_reply *bare = server->loop->refusals[verdict], *reply = NULL;

    if (server->service->refusal)
        reply = server->service->refusal(server->context, bare->status);
    request->connection->refused = true;
    if (server->service->on_refused)
        server->service->on_refused(server->context, refusal);
    return queue(request, mhd, reply ? reply : bare, true);
}

static enum MHD_Result handle_head(struct http_request *request, struct MHD_Connection *mhd,
                                   const char *method, const char *version)
{
    struct http_connection *connection = request->connection;
    struct http_server *server = connection->server;
    enum http_guard verdict = judge(request, mhd, method, version);

    if (verdict == HTTP_GUARD_INTERNAL)
        return MHD_NO;
    if (verdict != HTTP_GUARD_PASS)
        return refuse(request, mhd, verdict);
    split_target(request);
    http_connection_enter(connection, HTTP_PHASE_BODY, connection->started_ms,
                          server->limits.request_ms);
    request->announced = true;
    atomic_fetch_add(&server->loop->requests, 1);
    server->progress = true;
    server->service->on_headers(server->context, request);
    /* The library closes whatever is answered in this call. That suits a body nobody will read;
     * without one, the answer waits for the next call and the connection lives on. */
    if (!request->reply || request->body_bytes == 0)
        return MHD_YES;
    connection->refused = true;
    return queue(request, mhd, request->reply, true);
}

static void deliver(struct http_request *request, const char *body)
{
    struct http_server *server = request->connection->server;

    request->whole = true;
    if (request->reply)
        return;
    request->body = body;
    server->service->on_body(server->context, request);
    request->body = NULL;
}

static enum MHD_Result handle_data(struct http_request *request, const char *data,
                                   size_t *data_bytes)
{
    size_t bytes = *data_bytes;

    if (bytes > request->body_bytes - request->received_bytes)
        return MHD_NO;
    request->connection->server->progress = true;
    *data_bytes = 0;
    if (bytes == request->body_bytes) {
        deliver(request, data);
        return MHD_YES;
    }
    if (!request->buffer)
        request->buffer = malloc(request->body_bytes);
    if (!request->buffer)
        return MHD_NO;
    memcpy(request->buffer + request->received_bytes, data, bytes);
    request->received_bytes += bytes;
    if (request->received_bytes == request->body_bytes)
        deliver(request, request->buffer);
    return MHD_YES;
}

static void wait_for_answer(struct http_request *request, struct MHD_Connection *mhd)
{
    struct http_connection *connection = request->connection;
    struct http_server *server = connection->server;

    if (!server->by_suspend) {
        http_connection_enter(connection, HTTP_PHASE_PENDING, server->loop->now_ms,
                              (int64_t)server->limits.request_ms + FORGOTTEN_GRACE_MS);
        server->pending++;
        return;
    }
    http_connection_enter(connection, HTTP_PHASE_PENDING, server->loop->now_ms, LONG_POLL_MAX_MS);
    MHD_suspend_connection(mhd);
    request->suspended = true;
    server->suspended++;
}

/* The whole request is there, or it waits and is asked again. */
static enum MHD_Result handle_whole(struct http_request *request, struct MHD_Connection *mhd)
{
    struct http_connection *connection = request->connection;

    if (!request->whole)
        deliver(request, "");
    if (request->aborted)
        return MHD_NO;
    if (request->reply) {
        if (connection->phase == HTTP_PHASE_PENDING && !connection->server->by_suspend)
            connection->server->pending--;
        return queue(request, mhd, request->reply, false);
    }
    if (connection->phase != HTTP_PHASE_PENDING)
        wait_for_answer(request, mhd);
    return MHD_YES;
}

enum MHD_Result http_request_handle(void *context, struct MHD_Connection *mhd, const char *url,
                                    const char *method, const char *version, const char *data,
                                    size_t *data_bytes, void **slot)
{
    struct http_request *request = *slot;

    (void)context;
    (void)url;
    if (!request)
        return MHD_NO;
    if (request->connection->phase == HTTP_PHASE_HEAD)
        return handle_head(request, mhd, method, version);
    if (*data_bytes > 0)
        return handle_data(request, data, data_bytes);
    return handle_whole(request, mhd);
}

/* The library has refused the head by itself, with a reply of its own, before the guard saw it. */
static void count_foreign_refusal(struct http_server *server, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_HTTP_STATUS);

    if (!info || !server->service->on_refused)
        return;
    server->service->on_refused(server->context, info->http_status == MHD_HTTP_CONTENT_TOO_LARGE
                                                     ? HTTP_REFUSAL_TOO_LARGE
                                                     : HTTP_REFUSAL_FRAMING);
}

void http_request_over(void *context, struct MHD_Connection *mhd, void **slot,
                       enum MHD_RequestTerminationCode code)
{
    struct http_request *request = *slot;
    struct http_server *server = context;
    struct http_connection *connection;

    (void)code;
    if (!request)
        return;
    *slot = NULL;
    connection = request->connection;
    if (connection->phase == HTTP_PHASE_HEAD) {
        connection->refused = true;
        count_foreign_refusal(server, mhd);
    }
    if (connection->phase == HTTP_PHASE_PENDING && !server->by_suspend)
        server->pending--;
    if (request->announced) {
        server->service->on_over(server->context, request);
        atomic_fetch_sub(&server->loop->requests, 1);
    }
    free(request->buffer);
    http_reply_release(request->reply);
    request->buffer = NULL;
    request->reply = NULL;
    /* What the client sent meanwhile was noticed, and is read only in another turn. */
    server->progress = true;
    connection->idle_turn = server->loop->turn;
    http_connection_enter(connection, HTTP_PHASE_IDLE, server->loop->now_ms,
                          server->limits.idle_ms);
}

static void resume(struct http_request *request)
{
    struct http_server *server = request->connection->server;

    server->progress = true;
    if (!request->suspended)
        return;
    request->suspended = false;
    server->suspended--;
    MHD_resume_connection(request->connection->mhd);
}

void http_request_abort(struct http_request *request)
{
    request->aborted = true;
    resume(request);
}

void http_request_answer(struct http_request *request, const struct http_reply *reply)
{
    if (request->reply)
        return;
    request->reply = http_reply_hold(reply);
    resume(request);
}

enum http_method http_request_method(const struct http_request *request)
{
    return request->method;
}

const char *http_request_path(const struct http_request *request)
{
    return request->target;
}

const char *http_request_query(const struct http_request *request, const char *name)
{
    for (size_t i = 0; i < request->query_count; i++)
        if (strcmp(request->queries[i].name, name) == 0)
            return request->queries[i].value;
    return NULL;
}

bool http_request_query_at(const struct http_request *request, size_t index, const char **ret_name,
                           const char **ret_value)
{
    if (index >= request->query_count)
        return false;
    *ret_name = request->queries[index].name;
    *ret_value = request->queries[index].value;
    return true;
}

const char *http_request_body(const struct http_request *request, size_t *ret_bytes)
{
    *ret_bytes = request->body ? request->body_bytes : 0;
    return request->body;
}

bool http_request_peer(const struct http_request *request, uid_t *ret_uid, pid_t *ret_pid)
{
    struct ucred peer;
    socklen_t bytes = sizeof(peer);
    int domain = 0;
    socklen_t domain_bytes = sizeof(domain);
    int fd = request->connection->fd;

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_bytes) != 0 || domain != AF_UNIX)
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 || bytes != sizeof(peer))
        return false;
    *ret_uid = peer.uid;
    *ret_pid = peer.pid;
    return true;
}

void http_request_set_user(struct http_request *request, void *user)
{
    request->user = user;
}

void *http_request_user(const struct http_request *request)
{
    return request->user;
}
