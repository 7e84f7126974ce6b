/*
 * What the files of erasure share, private to them: what the writer does, and how the thread of the
 * reader finds what is to be done.
 */
#ifndef SIWA_DISPATCHER_ERASURE_WORK_H
#define SIWA_DISPATCHER_ERASURE_WORK_H

#include <sqlite3.h>

#include "dispatcher/erasure.h"
#include "verifier/notification.h"

/* ---- the writer's: each runs in a transaction on the writer thread, for some milliseconds (below
 * WRITER_TASK_MS), and goes on where it stopped ---- */

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

/* The rows (all at once: the account-deletes of one person), and the person is erased from now on:
 * of one who was asked for, only where there was such a row. No longer asked for in any case. */
struct erasure_end {
    struct erasure_work rows;
    const struct erasure_target *target;
};

enum outbox_error erasure_finish(struct outbox *outbox, void *end);

/* ---- the reader's: each step reads in a transaction of its own, so that the WAL can be moved on
 * between them ---- */

#define ERASURE_STEP_ROWS   4096 /* read in one transaction */
#define ERASURE_STEP_BODIES 64

#define ERASURE_STRINGIZE_(value) #value
#define ERASURE_STRINGIZE(value)  ERASURE_STRINGIZE_(value)
#define ERASURE_LIMIT_ROWS        "LIMIT " ERASURE_STRINGIZE(ERASURE_STEP_ROWS)
#define ERASURE_LIMIT_BODIES      "LIMIT " ERASURE_STRINGIZE(ERASURE_STEP_BODIES)

/* The columns of a body: id, body, and whose app it is for. The ids of its rows follow on its own,
 * and retention may have removed the first of them. */
#define ERASURE_RAW_COLUMNS \
    "id, body, (SELECT client_id FROM events WHERE events.id >= raw.id AND " \
    "events.id < raw.id + " ERASURE_STRINGIZE( \
        NOTIFICATION_EVENTS_MAX) " AND events.raw_id = raw.id LIMIT 1)"

/* What was found in a step. */
struct erasure_found {
    struct erasure_hit *hits;
    size_t count;
    int64_t last_id; /* looked at */
    bool over;
};

enum outbox_error erasure_prepare(struct erasure_round *round, const char *sql,
                                  sqlite3_stmt **ret_statement);

/* What a last result of sqlite3_step means: NONE after a row or the end. */
enum outbox_error erasure_ended(int code);

/* For the cleanup attribute. */
void erasure_free_hits(struct erasure_hit **hits);

/* Has the writer go through what was found, in as many transactions as that takes. After an error,
 * which the stop is too, the counts say nothing. */
enum outbox_error erasure_work_off(struct erasure_round *round,
                                   enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                   const struct erasure_hit *hits, size_t count);

/* A search through bodies for what somebody wants. */
struct erasure_search {
    struct erasure_round *round;
    /* Whether a text of the body makes it one. Returns SQLite's result: DONE or ROW, or an error,
     * which ends the search. */
    int (*find)(struct erasure_search *search, const char *text, bool *ret_found);
    sqlite3_stmt *lookup;  /* find's own */
    int64_t through;       /* bound as ?2, where the statement has one */
    const char *client_id; /* that the body is for; "" if unknown */
    int target;            /* set by find: whose body it is; -1 for one who is followed */
    int code;              /* find's last */
};

/* Looks through the bodies that sql gives above *through (?1; columns: id, body, client_id; at most
 * ERASURE_STEP_BODIES in the order of their ids), has the writer do the work with those that find
 * wants, and moves *through on to the last that was looked at. */
enum outbox_error erasure_search(struct erasure_search *search, const char *sql,
                                 enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                 int64_t *through);

/* Erases what came for people of `erased` since it was called last: rows and bodies that every
 * consumer acknowledged, and what is in quarantine, which nobody ever does. */
enum outbox_error erasure_follow(struct erasure_round *round, int64_t acknowledged);

#endif
