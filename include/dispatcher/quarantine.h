/*
 * quarantine: what an operator does with what Apple signed and nobody has seen yet.
 *
 * Into it things come by outbox_add; what it holds is read with dispatcher/apart.h.
 */
#ifndef SIWA_DISPATCHER_QUARANTINE_H
#define SIWA_DISPATCHER_QUARANTINE_H

#include <stdint.h>

#include "dispatcher/delivery.h"
#include "dispatcher/writer.h"

enum quarantine_result {
    QUARANTINE_FAILED = 0, /* the storage failed; nothing was changed */
    QUARANTINE_RELEASED,   /* delivery->verdict: ACCEPTED, DUPLICATE or IGNORED */
    QUARANTINE_DROPPED,
    QUARANTINE_MISSING, /* there is no such row */
    QUARANTINE_UNCLEAR  /* its events cannot be told from their repeats; it stays */
};

/* One change, owned by whoever posts it until done, at the address it has. */
struct quarantine_change {
    struct writer_task task; /* private */

    int64_t id;
    /* NULL drops the row. Otherwise the notification in it, judged anew: its signature verified,
     * its events understood. Whatever kept it apart is set aside, and it becomes events like any
     * other. Borrowed. */
    struct delivery *delivery;
    /* After the commit, on the writer thread. */
    void (*done)(struct quarantine_change *change);

    enum quarantine_result result; /* in done */
};

/* Has the writer do it: the row leaves in the transaction that stores its events. 0, or as
 * writer_post; then the change is still the caller's. Any thread. */
int quarantine_post(struct writer *writer, struct quarantine_change *change);

#endif
