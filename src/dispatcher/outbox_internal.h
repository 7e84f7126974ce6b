/*
 * What the files of the outbox share. SQLite is seen here and below only.
 */
#ifndef SIWA_DISPATCHER_OUTBOX_INTERNAL_H
#define SIWA_DISPATCHER_OUTBOX_INTERNAL_H

#include <limits.h>
#include <sqlite3.h>
#include <sys/types.h>

#include "dispatcher/identity.h"
#include "dispatcher/outbox.h"

/* The polling statement that consumers are told to use. */
#define OUTBOX_POLL_SQL \
    "SELECT id, type, client_id, app, team, sub, email, is_private_email, event_time_ms, " \
    "issued_at_ms, received_at_ms, jti, raw_type FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2"

enum outbox_statement {
    OUTBOX_BEGIN,
    OUTBOX_COMMIT,
    OUTBOX_ROLLBACK,
    OUTBOX_PART_BEGIN,
    OUTBOX_PART_UNDO,
    OUTBOX_PART_END,
    OUTBOX_SEEN_INSERT,
    OUTBOX_SEEN_FIND,
    OUTBOX_EVENT_INSERT,
    OUTBOX_RAW_INSERT,
    OUTBOX_STATE_UPDATE,
    OUTBOX_APP_UPSERT,
    OUTBOX_QUARANTINE_INSERT,
    OUTBOX_QUARANTINE_FIND,
    OUTBOX_DEFERRED_INSERT,
    OUTBOX_DEFERRED_FIND,
    OUTBOX_DEFERRED_NEXT,
    OUTBOX_DEFERRED_BODY,
    OUTBOX_DEFERRED_LACKED,
    OUTBOX_DEFERRED_DISPLACE,
    OUTBOX_STATEMENTS
};

/* Test rows have ids from here on, all below 0. */
#define OUTBOX_TEST_ID_BASE (-(INT64_C(1) << 62))

/* Apps whose last_accepted is written at the end of the transaction; more are written before. */
#define OUTBOX_PENDING_APPS 32

/* What changes with a transaction, and goes back with it. */
struct outbox_counts {
    int64_t last_id;
    struct outbox_apart apart;
    int64_t refreshes; /* of the key set, successful ones, ever counted */
};

/* Which apps had something accepted in this transaction. */
struct outbox_apps {
    struct {
        const char *client_id; /* borrowed from deliveries of this transaction */
        int64_t last_accepted_ms;
        bool was_apart; /* all of it: what arrived since stands */
    } list[OUTBOX_PENDING_APPS];
    size_t count;
};

struct outbox {
    sqlite3 *db;
    sqlite3_stmt *statements[OUTBOX_STATEMENTS];
    struct identity_key *key;
    char path[PATH_MAX]; /* absolute; of the file itself, links of folders resolved */
    int lock_fd;
    dev_t wal_device; /* of the -wal that is open */
    ino_t wal_inode;
    enum outbox_origin origin;
    bool failed;   /* a fatal error was seen: nothing is written any more, not even a checkpoint */
    bool wal_gone; /* only in that its -wal was taken away: at the end it is moved all the same */
    int wal_pages; /* in the WAL after the last commit; and how many of them are in the file */
    int wal_moved;
    int wal_vain;      /* wal_pages when a checkpoint moved nothing; 0 where the last one did */
    bool wal_soon;     /* a short WAL is due as well, after the next commit */
    bool wal_unwanted; /* it is to be emptied after the next commit */
    uint64_t wal_emptied;
    struct outbox_counts committed, pending;
    int64_t refreshes_before; /* those of the key set that earlier processes counted */
    struct outbox_apps apps;
    struct outbox_counts part_counts; /* as they were when the part under way began */
    struct outbox_apps part_apps;
    const char *error_kind;
    char error_text[OUTBOX_WHY_BYTES];
};

/* ---- for whoever writes through the outbox; all on the writer thread ---- */

/* Steps a statement that was bound to its end, and resets it. The result code of SQLite. */
int outbox_step(sqlite3_stmt *statement);

/* Whether a statement that was bound gives a row; resets it. */
enum outbox_error outbox_finds(struct outbox *outbox, sqlite3_stmt *statement, bool *ret_found);

/* What a token that is stored apart is known by, however it is wrapped. */
enum outbox_error outbox_digest(struct outbox *outbox, const struct delivery *delivery,
                                unsigned char ret_digest[IDENTITY_BYTES]);

/* What a result code means for the daemon; notes the error, so that outbox_error_text tells it. */
enum outbox_error outbox_check(struct outbox *outbox, int code);

/* A statement for the tasks that are rare; the hot path keeps its own. To be finalized by the
 * caller: OUTBOX_STATEMENT declares one that does it by itself. */
enum outbox_error outbox_prepare(struct outbox *outbox, const char *sql,
                                 sqlite3_stmt **ret_statement);
void outbox_finalize(sqlite3_stmt **statement);
#define OUTBOX_STATEMENT(name) sqlite3_stmt *name __attribute__((cleanup(outbox_finalize))) = NULL

/* ---- for whoever reads through an outbox_reader; on its thread ---- */

/* Its connection: read-only, its own. */
sqlite3 *outbox_reader_db(struct outbox_reader *reader);

/* What a result code of SQLite is as -errno. */
int outbox_reader_error(int code);

/* What a result code of SQLite means, its name ("SQLITE_IOERR_FSYNC", or of its primary code), and
 * its label in metrics. os_error is what sqlite3_system_errno gave. */
enum outbox_error outbox_error_class(int code, int os_error);
const char *outbox_error_name(int code);
const char *outbox_error_label(int code, int os_error);

/* The cure where this user may not open the file. */
#define OUTBOX_DENIED "it is for its owner and the members of its group, as is its folder"

/* Writes one sentence into ret_why and returns error. */
int outbox_explain(char ret_why[OUTBOX_WHY_BYTES], int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failure of SQLite: the path, what was tried, the error. Returns -EBUSY or -EIO. */
int outbox_explain_sqlite(char ret_why[OUTBOX_WHY_BYTES], sqlite3 *db, int code, const char *path,
                          const char *what);

/* The name of a file system, by its magic number (statfs(2)), on which locks and shared memory
 * cannot be trusted; NULL for others. */
const char *outbox_network_filesystem(unsigned long magic);

/* Makes the tables and views, the state row, the application id and the version, in a transaction.
 * Gives the result code of SQLite. */
int outbox_schema_create(sqlite3 *db, int64_t generation,
                         const unsigned char key_check[IDENTITY_BYTES]);

/* Whether the database is ours, of this version, with exactly our tables and views. 0, -EINVAL, or
 * what SQLite failed with, as outbox_explain_sqlite. Changes nothing. */
int outbox_schema_check(sqlite3 *db, const char *path, char ret_why[OUTBOX_WHY_BYTES]);

/* Whether what a database says of itself (the two numbers in its header) is ours. 0 or -EINVAL. */
int outbox_marks_check(int64_t application_id, int64_t user_version, const char *path,
                       char ret_why[OUTBOX_WHY_BYTES]);

/* One number from a statement that gives one. The result code of SQLite, SQLITE_OK on success. */
int outbox_query_number(sqlite3 *db, const char *sql, int64_t *ret_number);

/* PRAGMA quick_check. 0; -EIO with its first finding, or where the file cannot be read; -ECANCELED
 * when interrupted; -EBUSY or -EAGAIN where it could not be done now. */
int outbox_quick_check(sqlite3 *db, const char *path, char ret_why[OUTBOX_WHY_BYTES]);

/* What holds for each connection: no trust in the schema, no extensions, the time-out. */
int outbox_connection_settings(sqlite3 *db);

/* Whether the -wal that is open no longer has its name. */
bool outbox_wal_has_moved(const struct outbox *outbox);

/* Syncs the folder of the file at path. 0 or -errno. */
int outbox_sync_folder_of(const char *path);

/* Opens a file that nobody writes, and makes none beside it. The result code of SQLite. */
int outbox_open_immutable(const char *path, sqlite3 **ret_db);

/* Whether a database belongs to an identity key. 0, -EINVAL, or why it cannot be known. */
int outbox_key_matches(struct identity_key *key, sqlite3 *db, const char *key_file,
                       const char *path, char ret_why[OUTBOX_WHY_BYTES]);

/* A copy made by backup_make, or a database that has lost what was committed last, goes on with
 * higher ids and another generation in one transaction, and is a copy no more. The result code of
 * SQLite. */
int outbox_wake_copy(sqlite3 *db, int64_t now_ms);

/* A fixed value under the identity key, kept in the state row: another key is noticed. 0, -EIO. */
int outbox_key_check(struct identity_key *key, unsigned char ret_check[IDENTITY_BYTES]);

#endif
