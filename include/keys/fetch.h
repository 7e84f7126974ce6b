/*
 * fetch: one attempt to get the text of a key set, from a URL, a unix socket or a file.
 */
#ifndef SIWA_KEYS_FETCH_H
#define SIWA_KEYS_FETCH_H

#include <stddef.h>
#include <stdint.h>

#include "support/config.h"
#include "support/version.h"

#define FETCH_TIMEOUT_MS        5000
#define FETCH_HELPER_TIMEOUT_MS 4500 /* of `fetch-keys`: the daemon that waits hears the reason */
#define FETCH_TEXT_MAX_BYTES    (256 * 1024)
#define FETCH_HEADERS_MAX_BYTES (64 * 1024) /* of an HTTP answer, all its header lines */
#define FETCH_WHY_BYTES         256
#define FETCH_NEVER_STOPPED     (-1)

/* Where from; all strings borrowed. */
struct fetch_source {
    enum config_keys_source kind;
    const char *url;     /* CONFIG_KEYS_URL: https only */
    const char *path;    /* CONFIG_KEYS_UNIX, CONFIG_KEYS_FILE */
    const char *ca_file; /* "" is the system's */
    const char *proxy;   /* "", "environment", or a URL */
    int timeout_ms;      /* in all; 0 is FETCH_TIMEOUT_MS */
};

/* Why an attempt failed: a label for metrics and a sentence for people. */
#define FETCH_RESULT_TABLE(X) \
    X(INTERNAL, "internal") \
    X(OK, "ok") \
    X(UNREACHABLE, "unreachable") /* no name, connection, file; no TLS in time */ \
    X(TLS, "tls")                 /* certificate, host name, version, a URL that is not https */ \
    X(TIMEOUT, "timeout")         /* too slow after that */ \
    X(STATUS, "status")           /* anything but 200, redirects among it */ \
    X(TOO_LARGE, "too_large") \
    X(CUT_SHORT, "cut_short") /* the connection ended before the answer did */ \
    X(BAD_SET, "bad_set")     /* arrived whole, but is no key set */ \
    X(HELPER, "helper")       /* the fetch unit answered {"error": …} */

enum fetch_result {
#define FETCH_RESULT_CONSTANT(name, label) FETCH_RESULT_##name,
    FETCH_RESULT_TABLE(FETCH_RESULT_CONSTANT)
#undef FETCH_RESULT_CONSTANT
        FETCH_RESULT_COUNT
};

/* The label of a result: a static string. A value outside the table is "internal". Any thread. */
const char *fetch_result_label(enum fetch_result result);

/* Prepares libcurl; once, before any thread. 0 or -errno. */
int fetch_init(void);

/* Which libcurl this is. Any thread. */
struct version_library fetch_library(void);

/* One attempt, at most source->timeout_ms and FETCH_TEXT_MAX_BYTES in all, no retry. https only, no
 * redirect followed, peer and host verified, TLS 1.2 or later, status 200 only, a body cut short
 * refused. No .netrc, no cookies, and of the environment nothing unless proxy says so. On
 * FETCH_RESULT_OK ret_text (NUL-terminated, the caller frees it) and ret_bytes are set; otherwise
 * ret_why holds one sentence of printable ASCII without credentials. Whether the text is a key set
 * is not judged here. Blocks; any thread. */
enum fetch_result fetch_keys_text(const struct fetch_source *source, char **ret_text,
                                  size_t *ret_bytes, char ret_why[FETCH_WHY_BYTES]);

/* The same, given up as FETCH_RESULT_INTERNAL as soon as stop_fd (an eventfd, borrowed;
 * FETCH_NEVER_STOPPED for none) can be read. */
enum fetch_result fetch_keys_text_until(const struct fetch_source *source, int stop_fd,
                                        char **ret_text, size_t *ret_bytes,
                                        char ret_why[FETCH_WHY_BYTES]);

#endif
