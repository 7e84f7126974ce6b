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

struct http_loop;
struct http_server;
struct http_request; /* valid from on_headers to on_over, on the loop's thread only */
struct http_reply;   /* a prepared answer; reusable, immutable, owned by whoever made it */

enum http_method { HTTP_METHOD_GET = 1, HTTP_METHOD_POST = 2, HTTP_METHOD_OTHER = 4 };

struct http_limits {
    unsigned connections; /* more wait in the backlog */
    size_t body_bytes;
    unsigned headers_ms; /* from accept, or from the first line of a further request, to the end of
                            headers */
    unsigned request_ms; /* from accept, or from the first line, to the end of the body */
    unsigned idle_ms;    /* between requests */
};

/* Why the guard or a limit turned a request away before any service saw it. */
enum http_refusal {
    HTTP_REFUSAL_FRAMING = 1, /* 400 */
    HTTP_REFUSAL_NO_LENGTH,   /* 411 */
    HTTP_REFUSAL_TOO_LARGE,   /* 413 */
    HTTP_REFUSAL_TIMEOUT      /* closed by the reaper */
};

/* What a server calls, all on the loop's thread. */
struct http_service {
    /* The headers are complete and well framed. Answer now (the body is not read, the connection is
     * closed after the answer if a body was announced), or return to have the body read. */
    void (*on_headers)(void *context, struct http_request *request);
    /* The whole body is there (empty for GET). Answer now, or later: the request stays pending. */
    void (*on_body)(void *context, struct http_request *request);
    /* The request is over: its answer is on the way, or the client left. Forget it. Called exactly
     * once for each request for which on_headers was called. */
    void (*on_over)(void *context, struct http_request *request);
    /* A request was turned away. May be NULL. */
    void (*on_refused)(void *context, enum http_refusal refusal);
    /* http_loop_wake was called since the last time. May be NULL. */
    void (*on_wake)(void *context);
    /* At least four times a second. May be NULL. */
    void (*on_tick)(void *context, int64_t now_ms);
};

/* A listening socket for an address (see config.h): TCP with SO_REUSEADDR and TCP_NODELAY
 * inherited, unix with the mode given, an old socket file without a listener replaced, one with a
 * listener or any other file refused. Returns the descriptor or -errno with a sentence in ret_why.
 */
struct config_address;
int http_listen(const struct config_address *address, mode_t mode, char ret_why[256]);

/* Makes a loop; name is a literal of at most 15 characters for the thread. 0 or -errno. */
int http_loop_new(const char *name, struct http_loop **ret_loop);

/* Adds a server on a listening descriptor (which stays the caller's and is never shut down). Before
 * http_loop_start. service and context are borrowed until the loop is freed. pending_by_suspend
 * chooses how pending requests wait: suspended (cheap for many long ones), or asked again at each
 * turn (cheap for short ones, Apple's path). 0 or -errno. */
int http_loop_serve(struct http_loop *loop, int listen_fd, const struct http_limits *limits,
                    bool pending_by_suspend, const struct http_service *service, void *context,
                    struct http_server **ret_server);

/* Starts the thread of the loop; once, after the last http_loop_serve. 0 or -errno. */
int http_loop_start(struct http_loop *loop);

/* Makes the loop turn and call on_wake; cheap when already pending. Any thread; async-signal-safe.
 */
void http_loop_wake(struct http_loop *loop);

/* When the loop last turned, monotonic milliseconds. Any thread. */
int64_t http_loop_alive_ms(const struct http_loop *loop);

/* Stops taking connections from the listening sockets (which stay open for a successor) and closes
 * idle ones; requests under way go on, each answered with Connection: close. Any thread. */
void http_loop_drain(struct http_loop *loop);

/* Requests under way (after drain: what is left to wait for) and open connections. Any thread. */
unsigned http_loop_requests(const struct http_loop *loop);
unsigned http_server_connections(const struct http_server *server);

/* Ends what is left, joins the thread, frees the loop and its servers. NULL is allowed. */
void http_loop_free(struct http_loop *loop);

/* A request. Strings are borrowed until on_over. */
enum http_method http_request_method(const struct http_request *request);
const char *http_request_path(const struct http_request *request); /* as sent, without the query */
/* The first query argument of this name, percent-decoded, or NULL. */
const char *http_request_query(const struct http_request *request, const char *name);
/* In on_body and while pending in on_body's call only; copy what is needed longer. */
const char *http_request_body(const struct http_request *request, size_t *ret_bytes);
/* The peer of a unix socket by SO_PEERCRED; false for TCP. */
bool http_request_peer(const struct http_request *request, uid_t *ret_uid, pid_t *ret_pid);
/* A slot for the service. NULL at first. */
void http_request_set_user(struct http_request *request, void *user);
void *http_request_user(const struct http_request *request);

/* Prepared answers. body is copied. extra_headers: name, value, …, NULL (may be NULL). */
int http_reply_new(unsigned status, const char *content_type, const char *body, size_t body_bytes,
                   const char *const *extra_headers, struct http_reply **ret_reply);
void http_reply_free(struct http_reply *reply);

/* Answers a request, once; in on_headers, on_body, or while it is pending (from on_wake or
 * on_tick). The reply may be freed right after. */
void http_request_answer(struct http_request *request, const struct http_reply *reply);

#endif
