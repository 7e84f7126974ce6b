/*
 * What the files of http share among themselves. Nobody else includes this, but http's own tests.
 */
#ifndef SIWA_LISTENER_HTTP_PRIVATE_H
#define SIWA_LISTENER_HTTP_PRIVATE_H

#include "listener/http.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define HTTP_SERVERS_MAX       4
#define HTTP_HEADERS_MAX       100
#define HTTP_TARGET_MAX_BYTES  512
#define HTTP_METHOD_MAX_BYTES  20
#define HTTP_HOST_MAX_BYTES    260
#define HTTP_QUERIES_MAX       16
#define HTTP_POOL_BYTES        16384 /* per connection: 8 KiB of headers and their records fit */
#define HTTP_BACKLOG           4096 /* as net.core.somaxconn; beyond it, who comes has to try again */
#define HTTP_TICK_MS           240
#define HTTP_DRAIN_TICK_MS     25
#define HTTP_PENDING_POLL_MS   10
#define HTTP_CROWDED_POLL_MS   10
#define HTTP_EVICT_MAX         16 /* at once, and a 16th of the connections */
#define HTTP_QUIET_TURNS_MAX   256
#define HTTP_DRAIN_IDLE_MS     250
#define HTTP_DRAIN_ACCEPTED_MS 1000
#define HTTP_STANDSTILL_MS     500 /* from one turn to the next; none of them waits so long */
#define HTTP_LINGER_MAX        64
#define HTTP_LINGER_MS         2000
#define HTTP_LINGER_MAX_BYTES  1048576

/* ---- guard: is this head of a request the one and only reading of the bytes? Pure. ---- */

struct http_header {
    const char *name, *value; /* NUL-terminated, where they lie in the library's buffer */
    size_t name_bytes, value_bytes;
};

struct http_head {
    const char *method, *version; /* likewise */
    const char *target;           /* a copy as sent: the library decodes it in place */
    const char *target_at;        /* where it was in the library's buffer */
    size_t block_bytes;           /* from the first byte of method to the end of the empty line */
    const struct http_header *headers;
    size_t header_count; /* HTTP_HEADERS_MAX + 1 when there are more than the maximum */
};

enum http_guard {
    HTTP_GUARD_INTERNAL = 0,
    HTTP_GUARD_PASS,
    HTTP_GUARD_FRAMING,    /* 400 */
    HTTP_GUARD_NO_LENGTH,  /* 411 */
    HTTP_GUARD_TOO_LARGE,  /* 413 */
    HTTP_GUARD_EXPECTATION /* 417 */
};

/* Judges a head; body_bytes_max is the server's limit. On HTTP_GUARD_PASS stores the method and the
 * length of the body that is announced. RFC 9112 with every leniency taken away. */
enum http_guard http_guard_judge(const struct http_head *head, size_t body_bytes_max,
                                 enum http_method *ret_method, size_t *ret_body_bytes);

/* Whether every byte of the block is accounted for by what the library reports: no NUL, no bare LF,
 * no fold, no second space hides between method, target, version and headers. */
bool http_guard_tiles(const struct http_head *head);

/* Whether a target is `/…` of visible ASCII without `#` and `\`, each `%` followed by two
 * hexadecimal digits that are not 00, in at most HTTP_TARGET_MAX_BYTES. */
bool http_guard_target(const char *target);

/* ---- replies ---- */

struct http_reply {
    unsigned status;
    atomic_uint references;
    struct MHD_Response *keep, *close; /* close also carries Connection: close */
};

struct http_reply *http_reply_hold(const struct http_reply *reply);
void http_reply_release(struct http_reply *reply);

/* ---- connections and requests ---- */

enum http_phase {
    HTTP_PHASE_ACCEPTED = 1, /* nothing read yet that the library told of */
    HTTP_PHASE_HEAD,         /* the first line was read */
    HTTP_PHASE_BODY,         /* the guard passed it */
    HTTP_PHASE_PENDING,      /* whole, and not answered */
    HTTP_PHASE_ANSWERING,    /* the answer is queued */
    HTTP_PHASE_IDLE          /* between requests */
};

struct http_query {
    const char *name, *value;
};

struct http_request {
    struct http_connection *connection;
    enum http_method method;
    const char *sent_target; /* in the library's buffer; until the head is judged */
    bool target_good;
    bool announced; /* on_headers was called, so on_over is due */
    bool whole;     /* on_body was called */
    bool suspended;
    bool aborted;
    size_t body_bytes;     /* as announced */
    size_t received_bytes; /* of the body */
    char *buffer;          /* where the body came in pieces */
    const char *body;      /* during on_body */
    struct http_reply *reply;
    void *user;
    size_t query_count;
    struct http_query queries[HTTP_QUERIES_MAX];
    char target[HTTP_TARGET_MAX_BYTES + 1]; /* path, NUL, then the decoded query */
};

struct http_connection {
    struct http_server *server;
    struct MHD_Connection *mhd;
    int fd;
    enum http_phase phase;
    bool reaped;
    bool refused; /* unread bytes may follow, and nobody will read them */
    int64_t started_ms, deadline_ms;
    int64_t since_ms;   /* entered its phase */
    unsigned looks;     /* at its socket for a lost end, in this phase */
    uint64_t idle_turn; /* the turn in which the last request was over */
    struct http_connection *previous, *next;
    struct http_request request;
};

struct http_server {
    struct http_loop *loop;
    struct MHD_Daemon *daemon;
    int listen_fd;
    int epoll_fd;
    struct http_limits limits;
    bool by_suspend;
    bool closing;
    bool progress;        /* something moved in this turn: what it set off may be ready at once */
    unsigned quiet_turns; /* without progress, one after the other */
    unsigned pending;     /* requests that wait for their answer, asked again */
    unsigned suspended;   /* likewise, suspended */
    unsigned leaving;     /* connections that were reaped and are not closed yet */
    bool full;            /* as many connections as may be, those that leave not counted */
    bool crowded;         /* and another one waits, for whom nobody had to go yet */
    const struct http_service *service;
    void *context;
    struct http_connection *connections;
    atomic_uint connection_count;
    _Atomic uint64_t evicted;
};

/* Starts the library on a listening descriptor. 0 or -errno. */
int http_server_open(struct http_server *server, int listen_fd);
/* Ends every connection and the library; the listening descriptor stays open. */
void http_server_close(struct http_server *server);
/* Takes no more connections; the listening descriptor stays open. */
void http_server_quiesce(struct http_server *server);
/* Lets the library work once, without waiting. */
void http_server_run(struct http_server *server);
/* How long the server can do without http_server_run, given that its descriptor stays silent, in
 * milliseconds. */
int http_server_patience_ms(struct http_server *server);
/* Closes what is past its deadline. */
void http_server_reap(struct http_server *server);
/* Shuts a connection, of which the library hears as of any hang-up. */
void http_connection_reap(struct http_connection *connection);
/* What lies next in a connected socket. */
enum http_socket { HTTP_SOCKET_EMPTY = 0, HTTP_SOCKET_UNREAD, HTTP_SOCKET_OVER };
enum http_socket http_socket_look(int fd);
/* Hands a connected socket to the server as if it had been accepted. 0 or -errno. */
int http_server_adopt(struct http_server *server, int fd);

/* ---- room: at the limit of connections, whoever waited longest without a whole request goes when
 * another one comes ---- */

/* Looks whether the server is full and somebody waits, and shuts whoever has to go. */
void http_room_make(struct http_server *server);

/* The library's callbacks for requests. */
void *http_request_begin(void *context, const char *target, struct MHD_Connection *mhd);
enum MHD_Result http_request_handle(void *context, struct MHD_Connection *mhd, const char *url,
                                    const char *method, const char *version, const char *data,
                                    size_t *data_bytes, void **request);
void http_request_over(void *context, struct MHD_Connection *mhd, void **request,
                       enum MHD_RequestTerminationCode code);
/* Ends a request that waits, so that its connection closes. */
void http_request_abort(struct http_request *request);
/* Moves a connection to a phase that lasts at most for_ms from from_ms. */
void http_connection_enter(struct http_connection *connection, enum http_phase phase,
                           int64_t from_ms, int64_t for_ms);

/* ---- linger: reads away what a refused client still sends, so that the reset that a close with
 * unread bytes causes cannot overtake the refusal ---- */

struct http_linger {
    int epoll_fd;
    size_t count;
    struct http_lingerer {
        int fd;
        int64_t deadline_ms;
        size_t bytes;
    } lingerers[HTTP_LINGER_MAX];
};

int http_linger_open(struct http_linger *linger);
void http_linger_close(struct http_linger *linger);
/* Looks at a socket that is about to be closed and whose writing side is shut. Keeps a duplicate
 * where the client may still send. Returns whether the client was still there. */
bool http_linger_add(struct http_linger *linger, int fd, int64_t now_ms);
void http_linger_run(struct http_linger *linger, int64_t now_ms);

/* ---- loop ---- */

struct http_loop {
    char name[16];
    int wake_fd;
    bool running;
    bool draining;
    unsigned server_count;
    uint64_t turn;
    int64_t now_ms, tick_ms;
    int64_t awake_ms; /* since then it has turned without a standstill */
    struct http_server servers[HTTP_SERVERS_MAX];
    struct http_linger linger;
    struct http_reply *refusals[HTTP_GUARD_EXPECTATION + 1];
    pthread_t thread;
    atomic_bool woken, asleep, drain, quiesced, stop;
    atomic_uint requests;
    _Atomic int64_t alive_ms;
};

/* One turn: waits for at most wait_ms, then does what is due. For the thread and for tests. */
void http_loop_turn(struct http_loop *loop, int wait_ms);

#endif
