/*
 * backup: a consistent copy of the outbox while notifications arrive.
 *
 * A copy is three files: the database, its identity key beside it (FILE with .key for .db), and the
 * key history (.keys.json for .db). The database is marked as a copy, inside itself: whoever opens
 * it first as the writer goes on with ids and a generation that no consumer of the original can
 * have seen (BACKUP_ID_STEP, BACKUP_ID_STEP_S).
 */
#ifndef SIWA_DISPATCHER_BACKUP_H
#define SIWA_DISPATCHER_BACKUP_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "dispatcher/outbox.h"

/* How much higher the ids of a copy go on: a step, and more for each second between the copy and
 * its first start. The original cannot have given as many in that time, and neither can another
 * start of the same copy. */
#define BACKUP_ID_STEP   (INT64_C(1) << 32)
#define BACKUP_ID_STEP_S (INT64_C(1) << 20)

#define BACKUP_PATH_BYTES (PATH_MAX + 16)

enum backup_stage { BACKUP_STAGE_COPY = 1, BACKUP_STAGE_CHECK };

struct backup_settings {
    const char *database;     /* the outbox */
    const char *keys_history; /* a file to go along, or NULL; that it is absent is no error */
    const char *file;         /* the copy */
    bool force;               /* replace what stands at its places */
    int64_t now_ms;           /* wall clock */

    /* Called often; percent is 0 to 100, or -1 where it is not known. False stops. May be NULL. */
    bool (*on_progress)(void *context, enum backup_stage stage, int percent);
    void *context;
};

struct backup_result {
    int64_t last_id, generation; /* of the moment that the copy shows */
    int64_t bytes;               /* of the database */
    char key_file[BACKUP_PATH_BYTES];
    char history_file[BACKUP_PATH_BYTES]; /* empty where there was none */
};

/* Makes a copy. It is written under temporary names, checked whole (tables, quick_check, the key),
 * given the mode of the original and, where the caller may, its owner, synced, and only then
 * appears, the database last. Reads in one transaction, so the write-ahead log grows meanwhile;
 * writes nothing into the original. -EEXIST where something stands at one of the places and force
 * is not set; -EINVAL where a place or a temporary name is one of the original, or a -wal stands
 * beside it; -ECANCELED when stopped; -EBUSY when another backup writes the same copy; -EIO where
 * the copy is not sound; other -errno. One sentence in ret_why, and no temporary file left. Any
 * thread, any process. */
int backup_make(const struct backup_settings *settings, struct backup_result *ret_result,
                char ret_why[OUTBOX_WHY_BYTES]);

#endif
