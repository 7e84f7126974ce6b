/*
 * audit: what became of each account-delete and consent-revoked, for a data-protection officer.
 *
 * Told from what the outbox keeps of such events, also after erasure and, for retain.audit, after
 * their rows were removed. No personal data: a person is a keyed hash, the same for all events of
 * one person and team, and of no use without outbox.key.
 */
#ifndef SIWA_DISPATCHER_AUDIT_H
#define SIWA_DISPATCHER_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/outbox.h"

#define AUDIT_PERSON_BYTES 33  /* hexadecimal, with its NUL */
#define AUDIT_ACKS_MAX     256 /* of one event; more consumers than can be configured at a time */

struct audit_ack {
    const char *consumer;
    int64_t acknowledged_ms;
};

/* One event, valid during the callback. Times are milliseconds since 1970, 0 for never. */
struct audit_row {
    int64_t id;
    const char *type, *client_id, *app, *team;
    char person[AUDIT_PERSON_BYTES]; /* empty where the event named none */
    int64_t signed_ms;               /* by Apple (iat) */
    int64_t committed_ms;            /* arrived, and was committed before it was answered */
    int64_t erased_ms;               /* its personal data */
    int64_t removed_ms;              /* the row itself, by retention */
    const struct audit_ack *acks;    /* by name of the consumer */
    size_t ack_count;
};

/* Calls on_row for every such event that was committed at since_ms or later, in the order of ids;
 * stops early when it returns false. Reads in pieces, each a transaction of its own, so that it
 * keeps no write-ahead log however long it takes, and calls on_piece after each: on_row must not
 * wait for anybody, on_piece may. What is removed meanwhile is told once at most. 0, or -errno as
 * outbox_reader_rows or of on_piece, which ends it. The reader's thread. */
int audit_rows(struct outbox_reader *reader, int64_t since_ms,
               bool (*on_row)(void *context, const struct audit_row *row),
               int (*on_piece)(void *context), void *context);

#endif
