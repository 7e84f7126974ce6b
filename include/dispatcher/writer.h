/*
 * writer: the bounded queue and the one thread that commits it in groups.
 *
 * No timer: a batch is whatever queued during the last commit, and what one turn of the loop that
 * submits has for it.
 */
#ifndef SIWA_DISPATCHER_WRITER_H
#define SIWA_DISPATCHER_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/delivery.h"
#include "dispatcher/outbox.h"
#include "support/metrics.h"

struct writer;

struct writer_settings {
    struct outbox
        *outbox; /* the thread's alone from start to stop; the caller closes it afterwards */
    unsigned queue_events;               /* bound of the queue, in events */
    struct metrics *metrics;             /* NULL: none */
    void (*on_committed)(void *context); /* once a batch: outcomes are ready to be collected; and
                                            where a task has stored rows; writer thread */
    void (*on_fatal)(
        void *context); /* once: the storage failed, the daemon must exit; writer thread */
    void *context;
};

struct writer_state {
    unsigned queued_events;
    unsigned queue_events; /* their bound */
    bool committing;
    int64_t committing_since_ms; /* monotonic; with committing */
    int64_t alive_ms;            /* monotonic: when the thread last showed life */
    bool failing;                /* the last batch failed for a transient reason */
    int64_t failed_ms;           /* monotonic, with failing: when it did */
    bool fatal;
    char why[OUTBOX_WHY_BYTES]; /* with failing or fatal */
    uint64_t commits, rows;
    struct outbox_apart apart; /* as of the last commit */
};

/* Starts the thread. 0 or -errno. */
int writer_start(const struct writer_settings *settings, struct writer **ret_writer);

/* Gives a delivery to the writer, which owns it on 0. -EAGAIN: the queue is full (it never holds
 * more than queue_events, but always at least one delivery); -ESHUTDOWN: stopping; -EIO: the
 * storage failed for good. Then the delivery is still the caller's. Never blocks on the disk. Any
 * thread. */
int writer_submit(struct writer *writer, struct delivery *delivery);

#define WRITER_GROUP_EVENTS 16 /* as many are worth a commit of their own */

/* As writer_submit, where more may follow at once: the writer begins with what is queued when it
 * comes to WRITER_GROUP_EVENTS or fills the queue, with writer_flush, with any writer_submit or
 * writer_post, or at the stop. Whoever calls this calls writer_flush before it does anything else
 * that takes time. Any thread. */
int writer_submit_more(struct writer *writer, struct delivery *delivery);
void writer_flush(struct writer *writer);

/* Other work for the one connection that writes: acknowledgements, erasure, what is released from
 * quarantine. Owned by whoever posts it, from writer_post to done the writer's. */
struct writer_task {
    struct writer_task *next; /* the writer's while it has the task */

    /* Does the work on the writer thread, inside a transaction that other tasks share; keeps what
     * it found in the struct that surrounds the task. OUTBOX_ERROR_DELIVERY: this task alone
     * failed, what it wrote is taken back, the others stand. Deliveries wait meanwhile, so it takes
     * WRITER_TASK_MS at the most: long work is posted in pieces. */
    enum outbox_error (*run)(struct outbox *outbox, struct writer_task *task);

    /* Once, on the writer thread, after the commit (OUTBOX_ERROR_NONE) or without one. The task is
     * its owner's again, who may post or free it here. */
    void (*done)(struct writer_task *task, enum outbox_error error);
};

#define WRITER_TASK_MS    10
#define WRITER_TASKS_MAX  1024 /* queued at once */
#define WRITER_TASKS_TURN 16   /* run between two batches of deliveries, in one transaction */

/* Queues a task; it runs between two commits of deliveries. 0; -EAGAIN with WRITER_TASKS_MAX
 * queued, -ESHUTDOWN when the writer is stopping, -EIO when the storage failed for good: then the
 * task is still the caller's. Tasks that are queued when the writer stops are run; after a fatal
 * error they are done with it. Never blocks on the disk. Any thread. */
int writer_post(struct writer *writer, struct writer_task *task);

/* Takes all deliveries whose outcome is known, linked by next in the order of submission; NULL
 * where there is none. Each gets its verdict only after the commit, with synchronous=FULL,
 * succeeded; a failed batch gives VERDICT_STORE_FAILED for each. Any thread, one at a time. */
struct delivery *writer_collect(struct writer *writer);

/* Any thread. */
void writer_state(struct writer *writer, struct writer_state *ret_state);

/* Another bound for the queue, from now on. Any thread. */
void writer_set_queue_events(struct writer *writer, unsigned queue_events);

/* Takes nothing more, commits all that is queued, joins the thread. What was committed can still be
 * collected; then writer_free, which takes NULL and releases the rest. */
void writer_stop(struct writer *writer);
void writer_free(struct writer *writer);

#endif
