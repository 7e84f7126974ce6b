/*
 * consumers: who reads the outbox by name, how far each of them is, and what it acknowledged.
 *
 * A position is the id of the last row that a consumer is done with. It lies in the table
 * `consumers`, and only the writer thread moves it. The table `acks` remembers, for every
 * account-delete and consent-revoked, when each consumer acknowledged it first.
 *
 * A name that is new in the configuration begins at the oldest row there is, or, with start =
 * "now", after the newest. A name that left it no longer counts for anything, and neither ack nor
 * seek know it; its position is kept, so that it goes on where it was if it comes back.
 */
#ifndef SIWA_DISPATCHER_CONSUMERS_H
#define SIWA_DISPATCHER_CONSUMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dispatcher/outbox.h"
#include "dispatcher/writer.h"
#include "support/config.h"

#define CONSUMER_NAME_BYTES 33 /* with its NUL; config allows 32 */

/* Lag is counted row by row up to here; beyond, ids are counted, of which some may be gaps. */
#define CONSUMERS_LAG_COUNTED 1000

/* One that the configuration names. */
struct consumer {
    char name[CONSUMER_NAME_BYTES];
    char user[CONSUMER_NAME_BYTES]; /* "": only root and the daemon's user may acknowledge */
    bool user_known;                /* there was such a user when the configuration was read */
    uid_t uid;                      /* with user_known */
    bool start_now;
};

/* The configured ones at one moment, in the order of the configuration; a plain value. */
struct consumer_set {
    size_t count;
    struct consumer list[CONFIG_CONSUMERS_MAX];
};

/* The configured ones from now on; shared between threads. */
struct consumers;

/* Takes the names from the configuration and looks their users up (getpwnam_r, which may ask the
 * network). 0 or -ENOMEM. */
int consumers_new(const struct config *config, struct consumers **ret_consumers);
void consumers_free(struct consumers *consumers); /* takes NULL */

/* Others from now on; their rows are made by consumers_sync. Main thread. */
void consumers_reconfigure(struct consumers *consumers, const struct config *config);

/* A copy of what is configured now. Any thread. */
void consumers_set(struct consumers *consumers, struct consumer_set *ret_set);

/* The configured consumer of this name: false where there is none. Any thread. */
bool consumers_find(struct consumers *consumers, const char *name, struct consumer *ret_consumer);

/* ---- inside a transaction of the outbox: before the writer starts, or on its thread ---- */

/* Makes rows for the configured consumers that have none. */
enum outbox_error consumers_sync(struct consumers *consumers, struct outbox *outbox,
                                 int64_t now_ms);

/* The lowest position of the configured consumers, and how many there are. Without any, nobody is
 * waited for: INT64_MAX. One that has no row yet is as far as pruned_through. */
enum outbox_error consumers_slowest(struct consumers *consumers, struct outbox *outbox,
                                    int64_t *ret_position, size_t *ret_count);

/* What becomes of an acknowledgement or a seek. */
enum consumers_verdict {
    CONSUMERS_FAILED = 0, /* the database did; see the error */
    CONSUMERS_DONE,
    CONSUMERS_UNKNOWN,   /* no consumer of this name is configured */
    CONSUMERS_BACKWARDS, /* an acknowledgement below the position */
    CONSUMERS_BEYOND,    /* above last_id */
    CONSUMERS_PRUNED,    /* below pruned_through: rows were removed before they were acknowledged */
    CONSUMERS_MOVED      /* the position is not where the acknowledgement begins */
};

/* A change of one position, as work for the writer. */
struct consumers_change {
    struct writer_task task; /* private, as all down to the blank line */
    struct consumers *consumers;
    struct writer *writer;
    bool more;

    /* asked */
    char name[CONSUMER_NAME_BYTES];
    bool seek; /* to any position from pruned_through to last_id; else acknowledge through it */
    int64_t to;
    int64_t from; /* an acknowledgement holds for a consumer that is here; < 0: wherever it is */
    void (*done)(struct consumers_change *change); /* once, on the writer thread */
    void *context;                                 /* of whoever asks */

    /* answered, before done */
    enum consumers_verdict verdict;
    enum outbox_error error; /* with CONSUMERS_FAILED */
    int64_t position;        /* after the change, or as it stays; unless FAILED or UNKNOWN */
    int64_t last_id, pruned_through; /* as the verdict saw them */
};

/* Starts a change; the caller has filled what is asked, and the struct stays alive until done. An
 * acknowledgement of many rows is done in pieces of a few milliseconds, each committed, with
 * notifications between them: one that fails midway leaves the position in between, and asking
 * again goes on from there, unless from says where it began: then it is CONSUMERS_MOVED. To
 * acknowledge the position itself once more changes nothing and is no error, whatever from says:
 * the answer may have been lost. Rows that a seek passes over are not acknowledged, and the table
 * acks does not have them. 0, or -EAGAIN, -ESHUTDOWN, -EIO as writer_post: then done is not called.
 * Any thread. */
int consumers_post(struct consumers *consumers, struct writer *writer,
                   struct consumers_change *change);

/* ---- for readers ---- */

/* How far one is. */
struct consumer_state {
    const char *name;
    bool configured;         /* else it left the configuration */
    int64_t position;        /* may be below pruned_through: rows were removed unacknowledged */
    int64_t added_ms;        /* 0: it is configured, and serve has not seen it yet */
    int64_t acknowledged_ms; /* when it did last; 0: never */
    int64_t lag_rows;        /* above its position; see CONSUMERS_LAG_COUNTED */
    int64_t lag_ms;          /* since the oldest of them arrived; 0 where there is none */
};

/* Calls on_consumer for every consumer, the configured ones first; all of them as of one moment.
 * Costs at most CONSUMERS_LAG_COUNTED rows for each. 0 or -errno as outbox_reader_rows. The
 * reader's thread. */
int consumers_list(struct consumers *consumers, struct outbox_reader *reader, int64_t now_ms,
                   void (*on_consumer)(void *context, const struct consumer_state *state),
                   void *context);

/* The position of a configured consumer; -ENOENT where none of this name is configured, -errno as
 * outbox_reader_rows. The reader's thread. */
int consumers_position(struct consumers *consumers, struct outbox_reader *reader, const char *name,
                       int64_t *ret_position);

/* What is known of the oldest account-delete that a configured consumer has not acknowledged; all
 * zero at first. */
struct consumers_watch {
    int64_t from;    /* the slowest position when the search began */
    int64_t scanned; /* up to here all was looked at */
    int64_t found_id, found_ms;
};

/* When the oldest account-delete arrived that not every configured consumer has acknowledged; 0
 * where there is none, or none was found yet: a call looks at no more than CONSUMERS_WATCH_ROWS
 * rows, and the next one goes on from there. 0 or -errno as outbox_reader_rows. The reader's
 * thread. */
#define CONSUMERS_WATCH_ROWS 2000
int consumers_oldest_delete(struct consumers *consumers, struct outbox_reader *reader,
                            struct consumers_watch *watch, int64_t *ret_received_ms);

#endif
