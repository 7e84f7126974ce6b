/*
 * delivery: one judged notification on its way to the disk and back.
 *
 * Ownership passes hand to hand and is never shared: the ingress makes it, writer_submit gives it
 * to the writer, writer_collect gives it back with its outcome.
 */
#ifndef SIWA_DISPATCHER_DELIVERY_H
#define SIWA_DISPATCHER_DELIVERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/policy.h"
#include "verifier/judge.h"
#include "verifier/notification.h"

struct delivery {
    struct delivery *next; /* for whichever queue holds it */

    /* what is to be stored */
    struct judgement judgement; /* ACCEPTED, QUARANTINED with its reason, or to be deferred */
    struct policy *policy;      /* a reference; app points into it */
    const struct config_app *app;
    char *raw; /* the body as it came, raw_bytes long, owned */
    size_t raw_bytes;
    int64_t received_at_ms;
    uint64_t refreshes; /* to be deferred: of the keys, since start, when it was judged */
    bool was_apart;     /* from the quarantine or the deferred: others have arrived since */

    /* for the one who submits; the writer never looks */
    void *request;
    int64_t submitted_us;

    bool refused; /* private to the writer: left out of its batch */

    /* what became of it; set by the writer. ACCEPTED, DUPLICATE, IGNORED, QUARANTINED (stored
     * apart), EXPIRED (late = "reject"), BUSY (the quarantine is full), DEFERRED (kept until keys
     * arrive), KID_UNKNOWN or NO_KEYS (no room for that), STORE_FAILED, or INTERNAL where this one
     * cannot be stored and others can. */
    enum verdict verdict;
    int64_t first_id; /* of the rows stored, 0 where none */
    unsigned rows;
    uint32_t stored;    /* bit N: event number N of the notification became a row */
    bool kept;          /* DEFERRED: now, and not before already */
    unsigned displaced; /* DEFERRED: others that had to make room for it */
};

/* A delivery that takes over the judgement (which is left empty) and a copy of the body. NULL when
 * memory is out; the judgement is still the caller's then. Any thread. */
struct delivery *delivery_new(struct judgement *judgement, struct policy *policy,
                              const struct config_app *app, const char *raw, size_t raw_bytes,
                              int64_t received_at_ms);

/* Releases a delivery and all it owns; NULL is allowed. Any thread. */
void delivery_free(struct delivery *delivery);

#endif
