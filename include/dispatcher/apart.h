/*
 * apart: the bodies that are stored apart from the events.
 *
 * Quarantine holds what Apple signed and nobody may see yet; deferred holds what nobody could
 * verify yet. Of both only the body, the client_id, the time and the reason or kid are known.
 * Whoever looks for a person in them reads the bodies (verifier/notification.h): what a deferred
 * one says is not verified, and good enough for an erasure.
 */
#ifndef SIWA_DISPATCHER_APART_H
#define SIWA_DISPATCHER_APART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/outbox.h"

enum apart_table { APART_QUARANTINE = 0, APART_DEFERRED };

/* One row, valid during the callback. */
struct apart_row {
    int64_t id;         /* of its table; never reused */
    const char *reason; /* a label of verifier/judge.h; of a deferred one "kid_unknown" */
    const char *client_id;
    int64_t received_at_ms;
    const char *body; /* as it came, body_bytes long; NULL where bodies were not asked for */
    size_t body_bytes;
};

/* Calls on_row for at most limit rows with id > after, in order of id; stops early when it returns
 * false. Returns the number of rows given, or -errno as outbox_reader_rows. The reader's thread. */
int apart_rows(struct outbox_reader *reader, enum apart_table table, int64_t after, unsigned limit,
               bool with_bodies, bool (*on_row)(void *context, const struct apart_row *row),
               void *context);

/* The same for the row with exactly this id: 1 when there is one, 0 when not, or -errno. */
int apart_row(struct outbox_reader *reader, enum apart_table table, int64_t id,
              bool (*on_row)(void *context, const struct apart_row *row), void *context);

/* Removes one row; *ret_removed says whether it was there. In a transaction; writer thread. */
enum outbox_error apart_remove(struct outbox *outbox, enum apart_table table, int64_t id,
                               bool *ret_removed);

#endif
