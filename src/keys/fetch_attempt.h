/*
 * fetch_attempt: what the ways to fetch a key set have in common. Private to the room.
 */
#ifndef SIWA_KEYS_FETCH_ATTEMPT_H
#define SIWA_KEYS_FETCH_ATTEMPT_H

#include <stdbool.h>

#include "keys/fetch.h"

/* One attempt on its way. */
struct fetch_attempt {
    const struct fetch_source *source;
    int stop_fd;
    int64_t deadline_ms; /* monotonic */
    char *text;          /* FETCH_TEXT_MAX_BYTES + 1 bytes of room */
    size_t bytes;        /* of it used */
    char *why;           /* FETCH_WHY_BYTES */
};

/* Writes the reason (cut to its room, everything but printable ASCII replaced by '?': it may quote
 * strangers) and returns result. */
enum fetch_result fetch_attempt_fail(struct fetch_attempt *attempt, enum fetch_result result,
                                     const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Milliseconds until the deadline, at least 0. */
int fetch_attempt_remaining_ms(const struct fetch_attempt *attempt);

/* Takes in bytes of the answer; false when they exceed the room, which keeps what it had. */
bool fetch_attempt_append(struct fetch_attempt *attempt, const char *data, size_t data_bytes);

/* The ways that need no network. FETCH_RESULT_OK: the text is whole. */
enum fetch_result fetch_unix(struct fetch_attempt *attempt);
enum fetch_result fetch_file(struct fetch_attempt *attempt);

#endif
