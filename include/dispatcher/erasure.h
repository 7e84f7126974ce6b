/*
 * erasure: takes the text of a person out of the outbox, and leaves the fact that something came.
 *
 * A row loses sub, email, is_private_email and jti, and the body that it came in goes; so do copies
 * in quarantine and among the deferred. What stays is id, type, client_id, app, team, the times,
 * the raw type and the keyed hash of the person; and the identity, so that a repeat is a duplicate.
 *
 * A sub belongs to a team. A row is of the team under which it was stored and of the one that its
 * app has now, since the configuration may have been corrected, or the app transferred. A copy has
 * no team but that of its app; where the app is not configured, or has rows of another team too, a
 * copy that may be the person's goes.
 *
 * Found is everything by reading, away from the writer, which then removes by id. What is to be
 * done follows from tables alone (`erasing`, `erased`, the rows themselves): after a restart it
 * goes on. The text has left the disk only when the WAL was emptied after the last of it:
 * outbox_empty_wal.
 */
#ifndef SIWA_DISPATCHER_ERASURE_H
#define SIWA_DISPATCHER_ERASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/consumers.h"
#include "dispatcher/identity.h"
#include "dispatcher/outbox.h"

#define ERASURE_TEAM_BYTES  16  /* with its NUL */
#define ERASURE_TARGETS_MAX 256 /* people erased in one round; the others follow in the next */

struct erasure_counts {
    int64_t rows, raw, deferred, quarantined;
};

/* Somebody to be erased. */
struct erasure_target {
    unsigned char person[PERSON_BYTES];
    char team[ERASURE_TEAM_BYTES];
    bool asked; /* by an operator: whatever there is. Else all that every consumer acknowledged */
    bool finished; /* set by the round: no row has their text any more */
    struct erasure_counts counts;
};

struct erasure_moved;

/* What happened in a round. */
struct erasure_round {
    /* given */
    struct outbox_reader *reader;
    struct identity_key *key; /* this thread's own */
    struct consumers *consumers;
    int64_t after_s;           /* erase_after_account_delete */
    int64_t now_ms;            /* wall clock */
    int64_t removed_before_ms; /* wall clock: retention removes what arrived before */
    /* Has the writer do the work in a transaction, and waits for the commit. */
    enum outbox_error (*have_done)(void *context,
                                   enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                   void *argument);
    bool (*is_stopping)(void *context);
    /* The team of an app; false where the app is not configured. */
    bool (*team_of)(void *context, const char *client_id, char ret_team[ERASURE_TEAM_BYTES]);
    void *context;

    /* kept from round to round; zero at first */
    struct { /* ids that were looked at for people of `erased` */
        int64_t rows_through, bodies_through, quarantine_through;
    } followed;

    /* found */
    struct erasure_target targets[ERASURE_TARGETS_MAX]; /* in the order of their hashes */
    size_t target_count;
    struct erasure_counts counts; /* of everybody, those who are followed too */
    bool marked;                  /* see erasure_mark */
    bool more;                    /* there were more people than one round takes */
    struct erasure_moved *moved;  /* private: apps that have rows of another team than theirs */
};

/* Notes that a person is to be erased, so that it is not forgotten. In a transaction, writer
 * thread. */
enum outbox_error erasure_ask(struct outbox *outbox, const unsigned char person[PERSON_BYTES],
                              const char *team, int64_t now_ms);

/* Marks the database: text that was erased may stand in the WAL, also after a restart; or takes the
 * mark away. In a transaction, writer thread. */
enum outbox_error erasure_mark(struct outbox *outbox);
enum outbox_error erasure_unmark(struct outbox *outbox, void *unused);

/* Erases whoever is asked for and, as erase_after_account_delete says, whose account-delete was
 * acknowledged, with whatever came later for those who were erased before: rows and their bodies
 * once acknowledged, quarantined copies at once, and deferred ones when they have become rows,
 * since who sent them is not known before. targets says whom it was about, and whose text
 * stands in no row any more: when it returns NONE, that of nobody; else the next round goes on with
 * the others. The thread of the reader; it may read all of the database, in steps. */
enum outbox_error erasure_run(struct erasure_round *round);

/* Calls on_text for each text in the claims of a body's token, also within texts that are JSON
 * themselves, until it returns true: 1 where it did, 0 where not, or -ENOMEM, where some may not
 * have been looked at. Nothing is verified. Pure. */
int erasure_body_texts(const char *body, size_t body_bytes,
                       bool (*on_text)(void *context, const char *text), void *context);

#endif
