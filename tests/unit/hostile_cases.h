/*
 * hostile_cases: everything that key_server.py can do wrong, with what is to be said about it.
 */
#ifndef SIWA_TESTS_HOSTILE_CASES_H
#define SIWA_TESTS_HOSTILE_CASES_H

#include <stdbool.h>
#include <string.h>

#include "keys/fetch.h"

struct hostile_case {
    const char *port, *path;
    enum fetch_result
        result;      /* of the whole attempt: a text that is no set is FETCH_RESULT_BAD_SET */
    const char *why; /* a part of the reason */
};

static const struct hostile_case hostile_cases[] = {
    /* Nobody there, or nobody who speaks. */
    {"down", "/good", FETCH_RESULT_UNREACHABLE, "127.0.0.1"},
    {"silent", "/good", FETCH_RESULT_UNREACHABLE,
     "could not be reached in time"}, /* hangs before the handshake */
    {"good", "/hang", FETCH_RESULT_TIMEOUT,
     "did not send a whole answer in time"}, /* hangs after it */
    {"good", "/hang-after-headers", FETCH_RESULT_TIMEOUT, "did not send a whole answer in time"},
    /* Slow: every byte comes before any wait for a byte could end, the whole never does. */
    {"good", "/drip", FETCH_RESULT_TIMEOUT, "did not send a whole answer in time"},
    {"good", "/drip-fast", FETCH_RESULT_TIMEOUT, "did not send a whole answer in time"},
    {"good", "/drip-headers", FETCH_RESULT_TIMEOUT, "did not send a whole answer in time"},
    /* Somebody else, or somebody on the way. */
    {"wrong_ca", "/good", FETCH_RESULT_TLS, "certificate"},
    {"expired", "/good", FETCH_RESULT_TLS, "expired"},
    {"other_host", "/good", FETCH_RESULT_TLS,
     "127.0.0.1"}, /* a good certificate, of another host */
    {"tls_1_1", "/good", FETCH_RESULT_TLS, "127.0.0.1"},
    {"plain", "/good", FETCH_RESULT_TLS, "127.0.0.1"}, /* http on the port */
    /* 10 MB, announced, unannounced, in pieces, and in the headers. */
    {"good", "/large", FETCH_RESULT_TOO_LARGE, "127.0.0.1"},
    {"good", "/large-unannounced", FETCH_RESULT_TOO_LARGE, "more than a key set can need"},
    {"good", "/large-chunked", FETCH_RESULT_TOO_LARGE, "more than a key set can need"},
    {"good", "/large-headers", FETCH_RESULT_TOO_LARGE, "more than a key set can need"},
    /* A whole set came, but less than was announced. */
    {"good", "/truncated", FETCH_RESULT_CUT_SHORT, "127.0.0.1"},
    {"good", "/truncated-blanks", FETCH_RESULT_CUT_SHORT, "127.0.0.1"},
    {"good", "/truncated-chunks", FETCH_RESULT_CUT_SHORT, "127.0.0.1"},
    {"good", "/nothing", FETCH_RESULT_CUT_SHORT, "127.0.0.1"},
    /* Each of these carries a good set, or leads to one. */
    {"good", "/redirect", FETCH_RESULT_STATUS, "answered 302; redirects are never followed"},
    {"good", "/redirect-with-set", FETCH_RESULT_STATUS, "answered 301; redirects are never"},
    {"good", "/partial", FETCH_RESULT_STATUS, "answered 206, not 200"},
    {"good", "/not-found", FETCH_RESULT_STATUS, "answered 404, not 200"},
    {"good", "/broken", FETCH_RESULT_STATUS, "answered 500, not 200"},
    {"good", "/no-http", FETCH_RESULT_STATUS, "127.0.0.1"},
    {"good", "/http09", FETCH_RESULT_STATUS, "127.0.0.1"},
    /* Whole, and no key set. */
    {"good", "/garbage", FETCH_RESULT_BAD_SET, ""},
    {"good", "/html", FETCH_RESULT_BAD_SET, ""},
    {"good", "/empty", FETCH_RESULT_BAD_SET, ""},
    {"good", "/empty-set", FETCH_RESULT_BAD_SET, ""},
    {"good", "/duplicate-kid", FETCH_RESULT_BAD_SET, "NEWKEY0001"},
    {"good", "/weak", FETCH_RESULT_BAD_SET, ""},
};

#define HOSTILE_CASE_COUNT ((int)(sizeof(hostile_cases) / sizeof(hostile_cases[0])))

#define HOSTILE_PATIENT_MS 60000 /* more than an answer takes on the busiest machine */
#define HOSTILE_HASTY_MS   1500  /* much less than the servers that never answer keep it up */

/* Whether it is the time-out that ends the attempt. */
static inline bool hostile_never_ends(const struct hostile_case *hostile)
{
    return hostile->result == FETCH_RESULT_TIMEOUT || strcmp(hostile->port, "silent") == 0;
}

#endif
