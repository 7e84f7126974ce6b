/*
 * sweeper: the thread that takes away what has been kept long enough, and who is to be erased.
 *
 * It looks by itself once a minute, and gives the writer one small piece of work at a time, with
 * pauses between them, so that a long sweep never holds up a commit for more than one piece.
 */
#ifndef SIWA_DISPATCHER_SWEEPER_H
#define SIWA_DISPATCHER_SWEEPER_H

#include <stdint.h>

#include "dispatcher/consumers.h"
#include "dispatcher/erasure.h"
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

/* What an erasure came to. It is told twice where a reader keeps the erased text in the write-ahead
 * log: when it was erased, and when the log was emptied at last. */
struct sweeper_erased {
    struct erasure_counts counts;
    bool earlier; /* an erasure before this start, whose counts are not known, is among them */
    bool gone;    /* from the log, too */
};

struct sweeper_settings {
    const char *database;
    struct outbox *outbox;       /* for its key only */
    const struct config *config; /* what it needs is copied */
    struct writer *writer;       /* these are borrowed */
    struct consumers *consumers;
    struct metrics *metrics; /* NULL: none */
    /* After each sweep that removed something or ended early; on the sweeper's thread. */
    void (*on_swept)(void *context, const struct sweeper_swept *swept);
    /* The wall clock jumped by so many milliseconds: nothing is swept for SWEEPER_DOUBT_MS. */
    void (*on_doubt)(void *context, int64_t jump_ms);
    void (*on_erased)(void *context, const struct sweeper_erased *erased);
    /* An erasure that was asked for has come further: look at it. Any thread. */
    void (*on_progress)(void *context);
    /* The database could not be read for an erasure; it is tried again. Once until it can. */
    void (*on_unreadable)(void *context, const char *why);
    void *context;
};

/* Starts the thread; the first sweep begins at once. 0 or -errno. */
int sweeper_start(const struct sweeper_settings *settings, struct sweeper **ret_sweeper);

/* Other settings from now on, and a sweep soon. Any thread. */
void sweeper_reconfigure(struct sweeper *sweeper, const struct config *config);

/* ---- erasure of one person, asked for ---- */

enum sweeper_erasure_state {
    SWEEPER_ERASURE_FAILED = 0, /* nobody works on it: the daemon stops, or memory is out */
    SWEEPER_ERASURE_ASKED,      /* not noted yet: a restart would forget it */
    SWEEPER_ERASURE_NOTED,      /* being worked on, also after a restart */
    SWEEPER_ERASURE_PENDING,    /* erased, and a reader keeps the text in the write-ahead log */
    SWEEPER_ERASURE_DONE        /* the text is nowhere any more */
};

/* Shared between who asks and the sweeper. */
struct sweeper_erasure;

/* Asks for the erasure of all there is of this sub (1 to NOTIFICATION_CLAIM_MAX_BYTES; it is wiped
 * from memory as soon as it was hashed) in all apps of a team. The caller owns one reference. 0,
 * -ENOMEM, -EINVAL for texts that are too long. Any thread. */
int sweeper_erase(struct sweeper *sweeper, const char *team, const char *sub,
                  struct sweeper_erasure **ret_erasure);

/* How it stands; counts are final with PENDING and DONE. Any thread. */
enum sweeper_erasure_state sweeper_erasure_look(struct sweeper *sweeper,
                                                struct sweeper_erasure *erasure,
                                                struct erasure_counts *ret_counts);

/* The team of a configured app, copied with its NUL; false where it is not configured. Any thread.
 */
bool sweeper_team_of(struct sweeper *sweeper, const char *client_id,
                     char ret_team[ERASURE_TEAM_BYTES]);

/* Gives the reference back; the erasure itself goes on. Before sweeper_free. Any thread. NULL is
 * allowed. */
void sweeper_erasure_unref(struct sweeper *sweeper, struct sweeper_erasure *erasure);

/* Ends the thread, within a piece; while the writer still runs. NULL is allowed. */
void sweeper_stop(struct sweeper *sweeper);

/* After sweeper_stop, or instead of it. NULL is allowed. */
void sweeper_free(struct sweeper *sweeper);

#endif
