/*
 * outbox: the SQLite file, its schema, and every statement that touches it.
 *
 * Two handles: struct outbox is the one connection that writes (the writer thread's), struct
 * outbox_reader a read-only one for commands and the monitor. The contract with consumers is the
 * view `outbox` (version 1): siwa-notifyd-outbox(7).
 */
#ifndef SIWA_DISPATCHER_OUTBOX_H
#define SIWA_DISPATCHER_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/delivery.h"

#define OUTBOX_APPLICATION_ID  0x53697741 /* "SiwA" */
#define OUTBOX_SCHEMA_VERSION  1
#define OUTBOX_WHY_BYTES       256
#define OUTBOX_WAL_CHECKPOINT  4000               /* pages; platform fact */
#define OUTBOX_WAL_LIMIT_BYTES (64 * 1024 * 1024) /* a larger WAL is cut back at a checkpoint */

struct outbox;
struct outbox_reader;

/* How a start may go wrong, in the words of its reason; the exit code is 1 for all. */

/* Opens (or makes, mode 0640, with its identity key) the database at path for the one writer: takes
 * the lock on PATH.lock, refuses symbolic links, network file systems, foreign files, newer schema
 * versions and whatever fails to open or recover, and leaves such a file untouched. When
 * check_first is set (the last exit was for a storage error: PATH.failed stands beside it),
 * quick_check runs before anything is written. 0; -EBUSY when another daemon has it; -EINVAL and
 * others otherwise, always with one sentence in ret_why that names the file, the reason and the
 * cure. Main thread, before the writer. */
int outbox_open(const char *path, int64_t now_ms, struct outbox **ret_outbox,
                char ret_why[OUTBOX_WHY_BYTES]);

/* Checkpoints, closes, releases the lock. 0, or -EIO with a reason when the checkpoint or close
 * failed: then the WAL holds what is not in the file yet, and nothing is lost. NULL is allowed. */
int outbox_close(struct outbox *outbox, char ret_why[OUTBOX_WHY_BYTES]);

/* What a failed statement means for the daemon. */
enum outbox_error {
    OUTBOX_ERROR_INTERNAL = 0, /* a bug of ours: treated as fatal */
    OUTBOX_ERROR_NONE,
    OUTBOX_ERROR_TRANSIENT, /* full, read-only, locked, out of memory: 503 and try again */
    OUTBOX_ERROR_FATAL /* fsync, IOERR, CORRUPT, NOTADB: no 200 any more, exit, restart, recover */
};

/* One group commit: outbox_begin; outbox_add for each delivery, which sets its verdict (ACCEPTED,
 * DUPLICATE, IGNORED, QUARANTINED or EXPIRED, as they will be true once committed), rows and
 * first_id; outbox_commit. After any error the transaction is rolled back by outbox_rollback, and
 * nothing that was added may be answered with its verdict. Writer thread. */
enum outbox_error outbox_begin(struct outbox *outbox);
enum outbox_error outbox_add(struct outbox *outbox, struct delivery *delivery);
enum outbox_error outbox_commit(struct outbox *outbox);
void outbox_rollback(struct outbox *outbox);

/* The last error in words without any value of a row: "disk I/O error (SQLITE_IOERR_FSYNC)".
 * Borrowed until the next call. Writer thread. */
const char *outbox_error_text(const struct outbox *outbox);

/* Leaves PATH.failed, so that the next start checks first. 0 or -errno. */
int outbox_mark_failed(const struct outbox *outbox);

/* Opens read-only (mode=ro), never makes or changes a file. Errors as outbox_open. */
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

/* The view `outbox_state`. */
struct outbox_state {
    int64_t generation, pruned_through, last_id;
};
int outbox_reader_state(struct outbox_reader *reader, struct outbox_state *ret_state);

/* Calls on_app for every client_id that ever had an accepted notification, with the time (ms) of
 * the last one. 0 or -errno. */
int outbox_reader_last_accepted(struct outbox_reader *reader,
                                void (*on_app)(void *context, const char *client_id,
                                               int64_t last_ms),
                                void *context);

/* A number that changes when another connection commits (PRAGMA data_version), or -errno. */
int64_t outbox_reader_data_version(struct outbox_reader *reader);

/* PRAGMA quick_check over the reader: 0 when sound, -EIO with its first finding in ret_why. Long;
 * stops with -ECANCELED soon after *stop becomes true. */
int outbox_reader_quick_check(struct outbox_reader *reader, const volatile bool *stop,
                              char ret_why[OUTBOX_WHY_BYTES]);

#endif
