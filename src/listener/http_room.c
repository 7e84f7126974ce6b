/*
 * Room for whoever waits. At the limit of connections the library stops to listen, and then some
 * hundred clients that say nothing, or a byte now and then, would keep out all others until their
 * deadlines. So whoever has waited longest without a whole request goes when another one comes. An
 * honest client sends its request within milliseconds of connecting, and is never the longest.
 */
#include "http_private.h"

#include <poll.h>
#include <string.h>

/* Who goes first; within a rank, the one that is there longest. */
enum rank {
    RANK_IDLE = 1, /* between requests: nothing is lost */
    RANK_REQUEST,  /* no whole request yet */
    RANK_ANSWER    /* does not take its answer */
};

struct candidate {
    struct http_connection *connection;
    enum rank rank;
    int64_t from_ms;
};

/* Whether a connection may go. A request that is whole and waits for its answer stays: it would
 * lose a 200, and the wait is ours. */
static bool read_candidate(struct http_connection *connection, struct candidate *ret)
{
    const struct http_limits *limits = &connection->server->limits;
    struct candidate candidate = {.connection = connection, .from_ms = connection->started_ms};
    unsigned spare_ms = limits->spare_busy_ms;

    switch (connection->phase) {
    case HTTP_PHASE_IDLE:
        candidate.rank = RANK_IDLE;
        candidate.from_ms = connection->since_ms;
        spare_ms = limits->spare_silent_ms;
        break;
    case HTTP_PHASE_ACCEPTED:
        candidate.rank = RANK_REQUEST;
        spare_ms = limits->spare_silent_ms;
        break;
    case HTTP_PHASE_HEAD:
    case HTTP_PHASE_BODY:
        candidate.rank = RANK_REQUEST;
        break;
    case HTTP_PHASE_ANSWERING:
        candidate.rank = RANK_ANSWER;
        candidate.from_ms = connection->since_ms;
        break;
    default:
        return false;
    }
    if (connection->reaped || connection->server->loop->now_ms < candidate.from_ms + spare_ms)
        return false;
    *ret = candidate;
    return true;
}

/* The list begins with the newest, so of two that came in the same millisecond the later one in it
 * goes first. */
static bool goes_before(const struct candidate *one, const struct candidate *other)
{
    return one->rank != other->rank ? one->rank < other->rank : one->from_ms <= other->from_ms;
}

/* Puts a candidate among the first ones, which are sorted and at most most; returns how many they
 * are now. */
static size_t insert(struct candidate *first, size_t count, size_t most,
                     const struct candidate *candidate)
{
    size_t at = count;

    while (at > 0 && goes_before(candidate, &first[at - 1]))
        at--;
    if (at == most)
        return count;
    if (count == most)
        count--;
    memmove(&first[at + 1], &first[at], (count - at) * sizeof(first[0]));
    first[at] = *candidate;
    return count + 1;
}

/* Shuts whoever has to go; returns how many that are. Several at once, for each time costs the
 * library two turns. */
static size_t evict(struct http_server *server)
{
    struct candidate first[HTTP_EVICT_MAX];
    size_t most = server->limits.connections / HTTP_EVICT_MAX, count = 0, gone = 0;

    most = most < 1 ? 1 : most > HTTP_EVICT_MAX ? HTTP_EVICT_MAX : most;
    for (struct http_connection *at = server->connections; at; at = at->next) {
        struct candidate candidate;

        if (read_candidate(at, &candidate))
            count = insert(first, count, most, &candidate);
    }
    for (size_t i = 0; i < count; i++) {
        /* What came just now may be the rest of a request; what is read never will be. */
        if (first[i].rank != RANK_ANSWER &&
            http_socket_look(first[i].connection->fd) == HTTP_SOCKET_UNREAD)
            continue;
        http_connection_reap(first[i].connection);
        gone++;
    }
    atomic_fetch_add(&server->evicted, gone);
    return gone;
}

void http_room_make(struct http_server *server)
{
    struct pollfd next = {.fd = server->listen_fd, .events = POLLIN};
    unsigned staying = atomic_load(&server->connection_count) - server->leaving;

    server->crowded = false;
    server->full = staying >= server->limits.connections && !server->loop->draining;
    if (server->full && poll(&next, 1, 0) > 0)
        server->crowded = evict(server) == 0;
}
