/*
 * outbox: the SQLite file, its schema, and every statement that touches it.
 *
 * Two handles: struct outbox is the one connection that writes (the writer thread's), struct
 * outbox_reader a read-only one for commands and the monitor. The contract with consumers is the
 * view `outbox` (version 1): siwa-notifyd-outbox(7).
 */
#ifndef SIWA_DISPATCHER_OUTBOX_H
#define SIWA_DISPATCHER_OUTBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/delivery.h"
#include "support/version.h"

#define OUTBOX_APPLICATION_ID  0x53697741 /* "SiwA" */
#define OUTBOX_SCHEMA_VERSION  1
#define OUTBOX_WHY_BYTES       320
#define OUTBOX_WAL_CHECKPOINT  4000               /* pages; platform fact */
#define OUTBOX_WAL_SOON        400                /* pages, where outbox_checkpoint_soon asked */
#define OUTBOX_WAL_LIMIT_BYTES (64 * 1024 * 1024) /* a larger WAL is cut back when it restarts */
#define OUTBOX_CACHE_KIB       4096               /* platform fact: 2 to 8 MB */
#define OUTBOX_BUSY_MS         2000               /* a locked database gets its answer within 3 s */

/* Quarantine is full beyond these, and takes no new row: what came first is worth more. */
#define OUTBOX_QUARANTINE_ROWS  1000
#define OUTBOX_QUARANTINE_BYTES (16 * 1024 * 1024)

struct outbox;
struct outbox_reader;

/* Opens the database at path for the one writer, or makes it (mode 0640, its identity key beside
 * it: PATH with .key for .db). A new one is built under a temporary name and appears whole, so a
 * first start that is killed leaves nothing that the next start stumbles over; an empty file is
 * therefore never ours. Takes the lock on PATH.lock, held until outbox_close.
 *
 * Refused: another daemon's database (-EBUSY), a symbolic link, a network file system, a folder
 * that cannot be written, a foreign or empty or truncated file, another or newer schema, one whose
 * identity key is missing or another one, a -wal without its database, a copy made by backup_make
 * beside the -wal of another database, a -wal with commits behind damage (wal_check.h), and
 * whatever SQLite cannot open or recover. Such a file stays byte for byte what it was. Where
 * PATH.failed stands beside it (the last exit was for a storage error) quick_check runs before
 * anything is written, and a sound database loses that mark.
 *
 * A database whose -wal was taken away after a run that did not end cleanly goes on with ids and a
 * generation above what was given, as a copy does (dispatcher/backup.h); see OUTBOX_ORIGIN_CUT.
 *
 * What an earlier process wrote but may not have synced is synced here, before a repeat of it can
 * be called a duplicate. now_ms (wall clock) becomes the generation of a new database, in seconds,
 * so that one made anew is told from its predecessor. 0 or -errno, always with one sentence in
 * ret_why that names the file, the reason and the cure. Before the writer starts. */
int outbox_open(const char *path, int64_t now_ms, struct outbox **ret_outbox,
                char ret_why[OUTBOX_WHY_BYTES]);

/* Where an open outbox came from. */
enum outbox_origin {
    OUTBOX_ORIGIN_FOUND = 0, /* it was there */
    OUTBOX_ORIGIN_NEW,       /* made by this start */
    OUTBOX_ORIGIN_ANEW, /* made by this start, though an identity key was there: the one that it
                           belonged to was taken away, or a first start was cut off */
    OUTBOX_ORIGIN_CUT,  /* it was there, but not its -wal, though the run before did not end
                           cleanly: what that committed last is lost, unless another program
                           emptied and removed the -wal */
};

/* Any thread; never changes. */
enum outbox_origin outbox_origin(const struct outbox *outbox);

/* Checkpoints, closes, releases the lock. 0; -EBUSY when a reader kept the checkpoint from
 * completing; -EIO when it failed, or was left out because the storage had failed before. In both
 * cases the WAL holds what is not in the file yet, nothing is lost, and ret_why says so. NULL is
 * allowed. After the writer has stopped. */
int outbox_close(struct outbox *outbox, char ret_why[OUTBOX_WHY_BYTES]);

/* What a failed statement means for the daemon. */
enum outbox_error {
    OUTBOX_ERROR_INTERNAL = 0, /* a bug of ours: treated as fatal */
    OUTBOX_ERROR_NONE,
    OUTBOX_ERROR_DELIVERY,  /* this delivery cannot be stored; others can */
    OUTBOX_ERROR_TRANSIENT, /* full, read-only, locked, out of memory: 503 and try again */
    OUTBOX_ERROR_FATAL /* fsync, IOERR, CORRUPT, NOTADB: no 200 any more, exit, restart, recover */
};

/* What is stored apart from the events, as of the last commit. */
struct outbox_apart {
    int64_t quarantine_rows, quarantine_bytes;
    int64_t deferred_rows, deferred_bytes;
};
/* Writer thread, or before it starts. */
struct outbox_apart outbox_apart(const struct outbox *outbox);

/* One group commit: outbox_begin; outbox_add for each delivery, which sets its verdict as it will
 * be true once committed, rows and first_id; outbox_commit. After any error the transaction is
 * rolled back by outbox_rollback, and nothing that was added may be answered with its verdict. A
 * fatal error lasts: nothing begins after it. Writer thread.
 *
 * The order is identity, lateness, policy: an event that was stored before is a duplicate even
 * when its token has expired or its app now ignores it; one that is new but came with an expired
 * token follows policy_late; one whose type the app ignores leaves no trace. Of several events the
 * strongest counts: ACCEPTED, DUPLICATE, IGNORED. What no known key could verify goes by
 * deferral_keep (dispatcher/deferral.h). A test notification becomes a row marked `test`, outside
 * the views, their ids and what is counted: ACCEPTED, with no rows. QUARANTINED means that the body
 * stands in the quarantine (once, however often the token came), BUSY that the quarantine is full,
 * EXPIRED that late is "reject". */
enum outbox_error outbox_begin(struct outbox *outbox);
enum outbox_error outbox_add(struct outbox *outbox, struct delivery *delivery);
enum outbox_error outbox_commit(struct outbox *outbox);
void outbox_rollback(struct outbox *outbox);

/* The highest id that was ever committed, 0 for none. Writer thread. */
int64_t outbox_last_id(const struct outbox *outbox);

/* A part of a transaction that can be taken back alone: after outbox_part_begin, what is written up
 * to outbox_part_end stays or, with keep = false, goes. Parts do not nest. Writer thread. */
enum outbox_error outbox_part_begin(struct outbox *outbox);
enum outbox_error outbox_part_end(struct outbox *outbox, bool keep);

/* Moves the WAL into the file when it has grown past OUTBOX_WAL_CHECKPOINT or is to be emptied;
 * SQLite's own automatic checkpoint is off, since it hides errors and delays the answers of the
 * commit it follows. Never waits for readers; where one let nothing be moved it is tried again when
 * the WAL has grown by OUTBOX_WAL_CHECKPOINT. Between two transactions; writer thread. */
enum outbox_error outbox_checkpoint_if_due(struct outbox *outbox);

/* Asks that the WAL be moved into the file when it has grown past OUTBOX_WAL_SOON already, once,
 * after the transaction under way. Commits wait for a checkpoint, in proportion to its pages: who
 * writes many pages in little time asks in each of its transactions, so that none is long. Writer
 * thread. */
void outbox_checkpoint_soon(struct outbox *outbox);

/* Asks that the WAL be moved into the file and emptied, once, after the transaction under way:
 * erased text stands in it until then. A reader that is in the way is not waited for, and then it
 * is not emptied. Returns how often it was: a higher number from a later call tells that it was in
 * between. Writer thread. */
uint64_t outbox_empty_wal(struct outbox *outbox);

/* The last error in words without any value of a row, "disk I/O error (SQLITE_IOERR_FSYNC)", and as
 * a label of a bounded set ("full", "ioerr", …). Borrowed until the next call. Writer thread. */
const char *outbox_error_text(const struct outbox *outbox);
const char *outbox_error_kind(const struct outbox *outbox);

/* Which SQLite this is. Any thread. */
struct version_library outbox_library(void);

/* Ends all writing, for damage that a reader found: nothing begins any more and outbox_close leaves
 * the file as it is. Returns OUTBOX_ERROR_FATAL, with why as the error's text and "corrupt" as its
 * kind. Writer thread, or nobody while there is none. */
enum outbox_error outbox_condemn(struct outbox *outbox, const char *why);

/* The identity key of the database, opened once more for another thread, which frees it. 0 or
 * -errno as identity_key_open. Any thread. */
struct identity_key;
int outbox_open_key(const struct outbox *outbox, struct identity_key **ret_key,
                    char ret_why[OUTBOX_WHY_BYTES]);

/* Leaves PATH.failed, so that the next start checks first. 0 or -errno. */
int outbox_mark_failed(const struct outbox *outbox);

/* The name of a file that belongs to the database at path, such as that of its identity key,
 * ".key": the suffix in the place of .db, or behind another name. Cut off where capacity bytes, the
 * NUL among them, are too few. Any thread. */
void outbox_name_beside(const char *path, const char *suffix, char *ret_name, size_t capacity);

/* Opens read-only (mode=ro, query_only): never makes or changes a database. Refuses a foreign file
 * and another schema. 0; -ENOENT where there is none; errors and ret_why as outbox_open. A reader
 * is used by one thread at a time, and holds no transaction between two calls. */
int outbox_reader_open(const char *path, struct outbox_reader **ret_reader,
                       char ret_why[OUTBOX_WHY_BYTES]);
void outbox_reader_close(struct outbox_reader *reader); /* takes NULL */

/* One row of the view `outbox`, valid during the callback. NULL and -1 stand for SQL NULL. */
struct outbox_row {
    int64_t id;
    const char *type, *client_id, *app, *team, *sub, *email;
    int is_private_email;  /* 1, 0, -1 */
    int64_t event_time_ms; /* -1 */
    int64_t issued_at_ms, received_at_ms;
    const char *jti, *raw_type;
};

/* Calls on_row for at most limit rows with id > after, in order of id; stops early when it returns
 * false. Returns the number of rows given, or -errno (-EIO, -EBUSY, -EINVAL for a foreign schema).
 */
int outbox_reader_rows(struct outbox_reader *reader, int64_t after, unsigned limit,
                       bool (*on_row)(void *context, const struct outbox_row *row), void *context);

/* The body of the notification that a row came in, byte for byte, newly allocated, the caller's to
 * free; NULL where it was removed. All rows of one body share ret_raw_id, and were committed one
 * after the other. 0, -ENOENT where there is no such row, or -errno as above. */
int outbox_reader_raw(struct outbox_reader *reader, int64_t id, int64_t *ret_raw_id,
                      char **ret_body, size_t *ret_bytes);

/* When the test notification with this jti arrived (ms): the newest one. 0, -ENOENT where there is
 * none, or -errno as above. */
int outbox_reader_test(struct outbox_reader *reader, const char *jti, int64_t *ret_received_at_ms);

/* The view `outbox_state`. */
struct outbox_state {
    int64_t generation, pruned_through, last_id;
};
/* 0 or -errno as above. */
int outbox_reader_state(struct outbox_reader *reader, struct outbox_state *ret_state);

/* Calls on_app for every client_id that ever had an accepted notification, with the time (ms) of
 * the last one. 0 or -errno. */
int outbox_reader_last_accepted(struct outbox_reader *reader,
                                void (*on_app)(void *context, const char *client_id,
                                               int64_t last_ms),
                                void *context);

/* A line of the history of days (dispatcher/history.h), valid during the callback. */
struct outbox_day {
    int64_t day;           /* since 1970, UTC */
    const char *what;      /* "outcome", "event" or "refused" */
    const char *name;      /* the outcome's label, the event's type, the reason */
    const char *client_id; /* empty where no signature verified */
    int64_t count;
};

/* Calls on_day for everything counted on from_day and later, in the order of the days. 0 or -errno.
 */
int outbox_reader_days(struct outbox_reader *reader, int64_t from_day,
                       void (*on_day)(void *context, const struct outbox_day *day), void *context);

/* A number that changes when another connection commits (PRAGMA data_version), or -errno: -ESTALE
 * where the file was moved or deleted, as by a restore, so that nothing will be committed to it any
 * more. */
int64_t outbox_reader_data_version(struct outbox_reader *reader);

/* PRAGMA quick_check over the reader: 0 when sound, -EIO with its first finding in ret_why. Long;
 * stops with -ECANCELED soon after *stop (may be NULL) becomes true. */
int outbox_reader_quick_check(struct outbox_reader *reader, const atomic_bool *stop,
                              char ret_why[OUTBOX_WHY_BYTES]);

#endif
