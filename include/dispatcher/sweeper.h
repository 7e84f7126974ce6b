/*
 * sweeper: the thread that takes away what has been kept long enough.
 *
 * It looks by itself once a minute, and gives the writer one small piece of work at a time, with
 * pauses between them, so that a long sweep never holds up a commit for more than one piece.
 */
#ifndef SIWA_DISPATCHER_SWEEPER_H
#define SIWA_DISPATCHER_SWEEPER_H

#include <stdint.h>

#include "dispatcher/consumers.h"
#include "dispatcher/retention.h"
#include "dispatcher/writer.h"
#include "support/config.h"
#include "support/metrics.h"

#define SWEEPER_INTERVAL_MS 60000
#define SWEEPER_REST        3 /* times as long as a piece took, commit and all, nothing is asked */

/* A clock that jumped further than this is not believed for SWEEPER_DOUBT_MS: rows that are past
 * their time by mistake cannot be brought back. */
#define SWEEPER_JUMP_MS  (3600 * 1000)
#define SWEEPER_DOUBT_MS (3600 * 1000)

struct sweeper;

/* What a sweep removed. */
struct sweeper_swept {
    int64_t removed[RETENTION_COUNT];
    int64_t unacknowledged; /* rows past retain.hard that some consumer had not acknowledged */
    int64_t pruned_through; /* where rows were removed */
    const char *why;        /* NULL; why it ended early */
};

struct sweeper_settings {
    const struct config *config; /* what it needs is copied */
    struct writer *writer;       /* these are borrowed */
    struct consumers *consumers;
    struct metrics *metrics; /* NULL: none */
    /* After each sweep that removed something or ended early; on the sweeper's thread. */
    void (*on_swept)(void *context, const struct sweeper_swept *swept);
    /* The wall clock jumped by so many milliseconds: nothing is swept for SWEEPER_DOUBT_MS. */
    void (*on_doubt)(void *context, int64_t jump_ms);
    void *context;
};

/* Starts the thread; the first sweep begins at once. 0 or -errno. */
int sweeper_start(const struct sweeper_settings *settings, struct sweeper **ret_sweeper);

/* Other settings from now on, and a sweep soon. Any thread. */
void sweeper_reconfigure(struct sweeper *sweeper, const struct config *config);

/* Ends the thread, within a piece; while the writer still runs. NULL is allowed. */
void sweeper_stop(struct sweeper *sweeper);

/* After sweeper_stop, or instead of it. NULL is allowed. */
void sweeper_free(struct sweeper *sweeper);

#endif
