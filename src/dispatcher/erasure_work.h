/*
 * What the writer does in an erasure. Private to erasure; each runs in a transaction on the writer
 * thread, for some milliseconds (below WRITER_TASK_MS), and goes on where it stopped.
 */
#ifndef SIWA_DISPATCHER_ERASURE_WORK_H
#define SIWA_DISPATCHER_ERASURE_WORK_H

#include "dispatcher/erasure.h"

/* A row that is to be erased, or a body: which of them depends on the work. */
struct erasure_hit {
    int64_t id, raw_id;
    int target; /* index of the round's target; -1 for one who is followed */
};

struct erasure_work {
    struct erasure_round *round; /* whose counts grow */
    const struct erasure_hit *hits;
    size_t count, done;
    int64_t now_ms;
};

enum outbox_error erasure_rows(struct outbox *outbox, void *work);
enum outbox_error erasure_bodies(struct outbox *outbox, void *work);
enum outbox_error erasure_quarantined(struct outbox *outbox, void *work);
enum outbox_error erasure_deferred(struct outbox *outbox, void *work);

/* The rows (all at once: the account-deletes of one person), and the person is erased from now on;
 * or, of one who was asked for, no longer asked for. */
struct erasure_end {
    struct erasure_work rows;
    const struct erasure_target *target;
};

enum outbox_error erasure_finish(struct outbox *outbox, void *end);

#endif
