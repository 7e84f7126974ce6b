/*
 * call: the HTTP client of the commands; one request, one answer, every size and time bounded.
 *
 * Redirects are answers like any other, never followed. A certificate is always verified, with its
 * host name. Through a unix socket, and to this machine itself, no proxy is used; elsewhere the
 * environment's.
 */
#ifndef SIWA_CLI_CALL_H
#define SIWA_CLI_CALL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#define CALL_WHY_BYTES         256
#define CALL_HEADERS_MAX_BYTES (16 * 1024) /* of an answer, all together */

/* What to ask. All borrowed for the call. */
struct call_request {
    const char *url;         /* http:// or https://; with unix_socket its host is only a name */
    const char *unix_socket; /* the path of one, or NULL */
    const char *method;      /* "GET", "POST", …; upper case */
    const char *body;        /* NULL for none */
    size_t body_bytes;
    const char *content_type;          /* with a body; NULL sends no such header */
    unsigned timeout_ms;               /* in all; 0 is refused */
    size_t reply_max_bytes;            /* a longer body is an error */
    const char *ca_file;               /* NULL or "" is the system's */
    const volatile sig_atomic_t *stop; /* ends the call within a second once it is not 0; or NULL */
};

/* What came back. */
struct call_reply {
    unsigned status;
    char *headers; /* "Name: value\n" lines of the final answer, NUL-terminated */
    char *body;    /* NUL-terminated; may hold NUL itself */
    size_t body_bytes;
};

/* Sends one request and waits for its answer, whatever its status. On 0 ret_reply is to be released
 * with call_reply_release. Otherwise -errno and one sentence in ret_why, which names the place and
 * never shows what was sent or received: -ENOENT and -ECONNREFUSED (nobody there), -EACCES (the
 * socket's mode), -ETIMEDOUT, -EFBIG (answer too large), -EPROTO (no HTTP, cut short),
 * -ECANCELED (stop), -EKEYREJECTED (TLS), -EINVAL (the request itself), -ENOMEM, -EIO. Blocks; not
 * from two threads before its first return. */
int call_send(const struct call_request *request, struct call_reply *ret_reply,
              char ret_why[CALL_WHY_BYTES]);

/* Releases what an answer owns; all-zero and NULL are allowed. */
void call_reply_release(struct call_reply *reply);

/* The parts of a URL that call_send would take. */
struct call_url {
    bool https;
    char host[256]; /* an IPv6 address without its brackets */
    char port[8];
    char path[1024]; /* with the query; "/" where there is none */
};

/* Takes a URL apart. 0, or -EINVAL (also for parts that are too long) with a sentence in ret_why.
 * Any thread after a first call_send or fetch_init. */
int call_split_url(const char *url, struct call_url *ret_url, char ret_why[CALL_WHY_BYTES]);

/* The value of the first header of this name, copied without surrounding space into ret_value
 * (capacity bytes, cut if need be); -ENOENT where there is none. */
int call_reply_header(const struct call_reply *reply, const char *name, char *ret_value,
                      size_t capacity);

#endif
