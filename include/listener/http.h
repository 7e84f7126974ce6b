/*
 * http: the only room that knows libmicrohttpd.
 *
 * A loop is one thread and one or more servers on it. In front of every request stands the framing
 * guard, beside every connection the reaper. A service sees only requests that passed both.
 */
#ifndef SIWA_LISTENER_HTTP_H
#define SIWA_LISTENER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "support/version.h"

struct http_loop;
struct http_server;
struct http_request; /* valid from on_headers to on_over, on the loop's thread only */
struct http_reply;   /* a prepared answer; reusable, immutable, owned by whoever made it */

/* OTHER: a well-formed method of another name, for which 405 is the service's to say. */
enum http_method {
    HTTP_METHOD_GET = 1,
    HTTP_METHOD_POST = 2,
    HTTP_METHOD_OTHER = 4,
    HTTP_METHOD_HEAD = 8, /* of an answer with a body, its headers alone are sent */
};

struct http_limits {
    unsigned connections; /* beyond it, whoever waited longest makes room, or the next one waits */
    size_t body_bytes;
    unsigned headers_ms; /* from accept, or from the first line of a further request, to the end of
                            headers */
    unsigned request_ms; /* from accept, or from the first line, to the end of the body; and again
                            for the client to take its answer */
    unsigned idle_ms;    /* between requests */
    /* When the connections are at their limit and another one waits, these are spared for so long:
     * one that has sent nothing, counted from accept or from its last answer, */
    unsigned spare_silent_ms;
    /* and one in the middle of a request, or of taking its answer. */
    unsigned spare_busy_ms;
};

/* Why the guard or a limit turned a request away. */
enum http_refusal {
    HTTP_REFUSAL_FRAMING = 1, /* 400, 417, 431, 505 */
    HTTP_REFUSAL_NO_LENGTH,   /* 411 */
    HTTP_REFUSAL_TOO_LARGE,   /* 413 */
    HTTP_REFUSAL_TIMEOUT      /* closed by the reaper before the request was whole */
};

/* What a server calls, all on the loop's thread. */
struct http_service {
    /* The headers are complete and well framed. Answer now (the body is not read, the connection is
     * closed after the answer if a body was announced), or return to have the body read. */
    void (*on_headers)(void *context, struct http_request *request);
    /* The whole body is there (empty for GET). Answer now, or later: the request stays pending. Not
     * called for what was answered in on_headers. */
    void (*on_body)(void *context, struct http_request *request);
    /* The request is over: its answer is on the way, or the client left. Forget it. Called exactly
     * once for each request for which on_headers was called. */
    void (*on_over)(void *context, struct http_request *request);
    /* A request was turned away; unless it timed out in its body, no service saw it. May be NULL.
     */
    void (*on_refused)(void *context, enum http_refusal refusal);
    /* What the guard answers with this status: a reply of the service's, or NULL for the status
     * alone. May be NULL. */
    const struct http_reply *(*refusal)(void *context, unsigned status);
    /* http_loop_wake was called since the last time. May be NULL. */
    void (*on_wake)(void *context);
    /* At least four times a second. May be NULL. */
    void (*on_tick)(void *context, int64_t now_ms);
    /* The last call of each turn: what had come was handed to the service. May be NULL. */
    void (*on_turn)(void *context);
};

/* A listening socket for an address (see config.h): TCP with SO_REUSEADDR and TCP_NODELAY
 * inherited, IPv6 only for IPv6, unix with exactly the mode given and never a more open one, an old
 * socket file without a listener replaced, one with a listener or any other file refused. Returns
 * the descriptor (non-blocking, close-on-exec, the caller's) or -errno with a sentence in ret_why.
 */
struct config_address;
int http_listen(const struct config_address *address, mode_t mode, char ret_why[256]);

/* Makes a loop; name is a literal of at most 15 characters for the thread. 0 or -errno. */
int http_loop_new(const char *name, struct http_loop **ret_loop);

/* Adds a server on a listening descriptor (which stays the caller's, is made non-blocking and is
 * never shut down). Before http_loop_start; at most 4 a loop. service and context are borrowed
 * until the loop is freed. pending_by_suspend chooses how pending requests wait: suspended (cheap
 * for many long ones, at most 120 s; that the client left is noticed within a tick), or asked again
 * at each turn (cheap for short ones, Apple's path, at most request_ms + 10 s). 0 or -errno. */
int http_loop_serve(struct http_loop *loop, int listen_fd, const struct http_limits *limits,
                    bool pending_by_suspend, const struct http_service *service, void *context,
                    struct http_server **ret_server);

/* Starts the thread of the loop, with every signal blocked; once, after the last http_loop_serve. 0
 * or -errno. */
int http_loop_start(struct http_loop *loop);

/* Other limits from now on, for requests that begin from now on; the number of connections stays
 * what http_loop_serve was given. The loop's thread. */
void http_server_set_limits(struct http_server *server, const struct http_limits *limits);

/* Makes the loop turn and call on_wake of each of its servers; no system call when the loop is
 * awake or already woken. Any thread; async-signal-safe; keeps errno. */
void http_loop_wake(struct http_loop *loop);

/* When the loop last turned, monotonic milliseconds. Any thread. */
int64_t http_loop_alive_ms(const struct http_loop *loop);

/* Stops taking connections from the listening sockets (which stay open for a successor). What was
 * accepted is answered, with Connection: close; a connection that stays silent is closed after 250
 * ms between requests, after a second where none came yet. Pending requests are the services' to
 * answer. Any thread. */
void http_loop_drain(struct http_loop *loop);

/* Requests under way; after http_loop_drain every connection that is left, so that 0 means done.
 * Any thread. */
unsigned http_loop_requests(const struct http_loop *loop);
/* Open connections. Any thread. */
unsigned http_server_connections(const struct http_server *server);
/* Connections that were closed to make room for others, since the start. At the limit, and when
 * another one waits, that is whoever was idle longest after its last answer, else whoever takes
 * longest over its request, else over taking its answer. Never one whose request is whole and not
 * answered. Any thread. */
uint64_t http_server_evicted(const struct http_server *server);

/* Ends and joins the thread; once it returned, no service is called until http_loop_free. The other
 * functions may still be called, so that whoever wakes a loop or looks at it can be ended between
 * the two. NULL is allowed, and a loop that has stopped. */
void http_loop_stop(struct http_loop *loop);

/* Stops the loop, ends what is left, frees the loop and its servers. on_over is called for each
 * request that was under way. NULL is allowed. */
void http_loop_free(struct http_loop *loop);

/* Which libmicrohttpd this is. Any thread. */
struct version_library http_library(void);

/* A request. Strings are borrowed until on_over. The method: */
enum http_method http_request_method(const struct http_request *request);
const char *http_request_path(const struct http_request *request); /* as sent, without the query */
/* The first query argument of this name, percent-decoded (`+` stays `+`), or NULL. Of a target at
 * most 512 bytes and 16 arguments are read. */
const char *http_request_query(const struct http_request *request, const char *name);
/* The same by number, in the order of the target; false beyond the last. */
bool http_request_query_at(const struct http_request *request, size_t index, const char **ret_name,
                           const char **ret_value);
/* In on_body and while pending in on_body's call only; copy what is needed longer. */
const char *http_request_body(const struct http_request *request, size_t *ret_bytes);
/* The peer of a unix socket by SO_PEERCRED; false for TCP. */
bool http_request_peer(const struct http_request *request, uid_t *ret_uid, pid_t *ret_pid);
/* A slot for the service. NULL at first. */
void http_request_set_user(struct http_request *request, void *user);
void *http_request_user(const struct http_request *request);

/* Prepared answers, with Date, Content-Length, and Content-Type where there is a body. body is
 * copied. extra_headers: name, value, …, NULL (may be NULL). 0 or -errno. */
int http_reply_new(unsigned status, const char *content_type, const char *body, size_t body_bytes,
                   const char *const *extra_headers, struct http_reply **ret_reply);
/* Releases a reply; answers that are under way keep what they need. NULL is allowed. */
void http_reply_free(struct http_reply *reply);

/* Answers a request, once (a second answer is ignored); in on_headers, on_body, or while it is
 * pending (from on_wake or on_tick). The reply may be freed right after. */
void http_request_answer(struct http_request *request, const struct http_reply *reply);

#endif
