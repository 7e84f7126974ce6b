#include "dispatcher/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "outbox_internal.h"

#define STEP_PAGES        2048 /* copied between two looks at whether to stop */
#define CHECK_STEPS       100000
#define HISTORY_MAX_BYTES (4 * 1024 * 1024)
#define PRIVATE_MODE      0600
#define TEMPORARY         ".new"
/* A copy of a copy is as old as the first: what came of that one in between has ids, too. */
#define COPIED_AT_SQL \
    "UPDATE state SET copied_at_s = CASE copied_at_s WHEN 0 THEN ?1 ELSE min(copied_at_s, ?1) END"

static const char stopped[] = "stopped; no copy was left";

/* One of the three files: where it comes from, where it goes, and what it is until it is whole. */
struct part {
    char from[BACKUP_PATH_BYTES], to[BACKUP_PATH_BYTES], temporary[BACKUP_PATH_BYTES];
    int fd; /* of the temporary file, locked */
};

enum part_id { PART_DATABASE, PART_KEY, PART_HISTORY, PARTS };

struct backup {
    const struct backup_settings *set;
    struct part parts[PARTS];
    bool has_history;
    struct outbox_reader *reader;
    sqlite3 *copy;
};

static int explain_errno(char *ret_why, int error, const char *path)
{
    return outbox_explain(ret_why, error, "%s: %s", path, strerror(-error));
}

/* -- places ------------------------------------------------------------------------------------ */

static bool same_file(const char *a, const char *b)
{
    struct stat first, second;

    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* Whether both are the same file, or would be once they were there: a -wal may be missing. */
static bool same_place(const char *a, const char *b)
{
    const char *name_a = strrchr(a, '/'), *name_b = strrchr(b, '/');
    char folder_a[BACKUP_PATH_BYTES] = ".", folder_b[BACKUP_PATH_BYTES] = ".";

    if (same_file(a, b))
        return true;
    if (strcmp(name_a ? name_a + 1 : a, name_b ? name_b + 1 : b) != 0)
        return false;
    if (name_a)
        snprintf(folder_a, sizeof folder_a, "%.*s", (int)(name_a + 1 - a), a);
    if (name_b)
        snprintf(folder_b, sizeof folder_b, "%.*s", (int)(name_b + 1 - b), b);
    return same_file(folder_a, folder_b);
}

/* Whether a path is one of the files of the outbox: replacing its -wal loses what was acknowledged,
 * and replacing its lock lets a second daemon in. */
static bool is_of_outbox(const struct backup *backup, const char *path)
{
    static const char *const suffixes[] = {"-wal", "-shm", "-journal", ".lock", ".failed"};

    for (int from = 0; from < PARTS; from++)
        if (same_place(path, backup->parts[from].from))
            return true;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char beside[BACKUP_PATH_BYTES + 16];

        snprintf(beside, sizeof beside, "%s%s", backup->set->database, suffixes[i]);
        if (same_place(path, beside))
            return true;
    }
    return false;
}

static bool exists(const char *path)
{
    struct stat file;

    return lstat(path, &file) == 0;
}

static int name_parts(struct backup *backup, char *ret_why)
{
    const struct backup_settings *set = backup->set;
    struct part *parts = backup->parts;
    int longest = (int)(sizeof ".keys.json" TEMPORARY);

    if (strlen(set->file) + (size_t)longest >= PATH_MAX || strlen(set->database) >= PATH_MAX)
        return outbox_explain(ret_why, -ENAMETOOLONG, "%.100s…: the path is too long", set->file);
    snprintf(parts[PART_DATABASE].from, BACKUP_PATH_BYTES, "%s", set->database);
    snprintf(parts[PART_DATABASE].to, BACKUP_PATH_BYTES, "%s", set->file);
    outbox_name_beside(set->database, ".key", parts[PART_KEY].from, BACKUP_PATH_BYTES);
    outbox_name_beside(set->file, ".key", parts[PART_KEY].to, BACKUP_PATH_BYTES);
    snprintf(parts[PART_HISTORY].from, BACKUP_PATH_BYTES, "%s",
             set->keys_history ? set->keys_history : "");
    outbox_name_beside(set->file, ".keys.json", parts[PART_HISTORY].to, BACKUP_PATH_BYTES);
    backup->has_history = set->keys_history && exists(set->keys_history);
    for (int i = 0; i < PARTS; i++) {
        snprintf(parts[i].temporary, BACKUP_PATH_BYTES, "%.*s" TEMPORARY, PATH_MAX, parts[i].to);
        parts[i].fd = -1;
    }
    return 0;
}

/* A copy never touches the original, and an old -wal is never replayed into a copy. */
static int check_places(const struct backup *backup, char *ret_why)
{
    char wal[BACKUP_PATH_BYTES];
    struct stat file;

    for (int id = 0; id < PARTS; id++) {
        const char *to = backup->parts[id].to, *temporary = backup->parts[id].temporary;

        if (is_of_outbox(backup, to) || is_of_outbox(backup, temporary))
            return outbox_explain(ret_why, -EINVAL,
                                  "%s: belongs to the outbox itself; name another file",
                                  is_of_outbox(backup, to) ? to : temporary);
        if (lstat(to, &file) < 0)
            continue;
        if (!backup->set->force)
            return outbox_explain(ret_why, -EEXIST,
                                  "%s: is there already; name another file, or replace it with "
                                  "--force",
                                  to);
        if (!S_ISREG(file.st_mode) && !S_ISLNK(file.st_mode))
            return outbox_explain(ret_why, -EINVAL, "%s: is no file; name another place", to);
    }
    snprintf(wal, sizeof wal, "%.*s-wal", PATH_MAX, backup->set->file);
    if (stat(wal, &file) == 0 && file.st_size > 0)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: a database that is in use stands there; name another file", wal);
    return 0;
}

/* -- temporary files --------------------------------------------------------------------------- */

/* The lock keeps two backups from writing one file. It counts only while the file still has its
 * name: the other one may just have finished. */
static int open_temporary(struct part *part, char *ret_why)
{
    struct stat opened, named;

    part->fd =
        open(part->temporary, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, PRIVATE_MODE);
    if (part->fd < 0)
        return explain_errno(ret_why, -errno, part->temporary);
    if (flock(part->fd, LOCK_EX | LOCK_NB) < 0 || fstat(part->fd, &opened) < 0 ||
        lstat(part->temporary, &named) < 0 || opened.st_ino != named.st_ino) {
        close(part->fd);
        part->fd = -1;
        return outbox_explain(ret_why, -EBUSY, "%s: another backup is writing it; wait for it",
                              part->temporary);
    }
    if (!S_ISREG(opened.st_mode))
        return outbox_explain(ret_why, -EINVAL, "%s: not a regular file; remove it",
                              part->temporary);
    return ftruncate(part->fd, 0) < 0 ? explain_errno(ret_why, -errno, part->temporary) : 0;
}

static void remove_temporary(struct part *part)
{
    static const char *const suffixes[] = {"", "-journal", "-wal", "-shm"};

    if (part->fd < 0)
        return;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char path[BACKUP_PATH_BYTES + 16];

        snprintf(path, sizeof path, "%s%s", part->temporary, suffixes[i]);
        unlink(path);
    }
    close(part->fd);
    part->fd = -1;
}

/* -- the two small files ----------------------------------------------------------------------- */

static int copy_bytes(int from, int to, int64_t most_bytes)
{
    char bytes[16384];
    int64_t total = 0;
    ssize_t got;

    while ((got = read(from, bytes, sizeof bytes)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        total += got;
        if (total > most_bytes)
            return -EFBIG;
        for (ssize_t put = 0, n; put < got; put += n) {
            n = write(to, bytes + put, (size_t)(got - put));
            if (n < 0 && errno == EINTR)
                n = 0;
            if (n < 0)
                return -errno;
        }
    }
    explicit_bzero(bytes, sizeof bytes);
    return 0;
}

static int copy_part(struct backup *backup, enum part_id id, int64_t most_bytes, char *ret_why)
{
    struct part *part = &backup->parts[id];
    int error = open_temporary(part, ret_why);
    int from;

    if (error < 0)
        return error;
    from = open(part->from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (from < 0 && errno == EACCES)
        return outbox_explain(ret_why, -EACCES,
                              "%s: only root and the user of the daemon may read it; run as one of "
                              "them",
                              part->from);
    if (from < 0)
        return explain_errno(ret_why, -errno, part->from);
    error = copy_bytes(from, part->fd, most_bytes);
    close(from);
    return error < 0 ? explain_errno(ret_why, error, part->from) : 0;
}

/* -- the database ------------------------------------------------------------------------------ */

static bool go_on(const struct backup *backup, enum backup_stage stage, int percent)
{
    return !backup->set->on_progress ||
           backup->set->on_progress(backup->set->context, stage, percent);
}

/* Until BACKUP_STAGE_CHECK is over nothing here is synced: the whole file is, at the end. */
static int open_copy(struct backup *backup)
{
    int code =
        sqlite3_open_v2(backup->parts[PART_DATABASE].temporary, &backup->copy,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE |
                            SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                        NULL);

    if (code == SQLITE_OK)
        code = outbox_connection_settings(backup->copy);
    if (code == SQLITE_OK) /* no -shm for a file that nobody else knows */
        code =
            sqlite3_exec(backup->copy, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF",
                         NULL, NULL, NULL);
    return code;
}

/* The transaction of the source is held all the while: what is committed meanwhile is not seen, and
 * makes the copy neither begin anew nor mix two states. */
static int copy_pages(struct backup *backup, sqlite3 *source)
{
    sqlite3_backup *pages = sqlite3_backup_init(backup->copy, "main", source, "main");
    int code = SQLITE_OK, finished;

    if (!pages)
        return sqlite3_errcode(backup->copy);
    while (code == SQLITE_OK) {
        int total;

        code = sqlite3_backup_step(pages, STEP_PAGES);
        total = sqlite3_backup_pagecount(pages);
        if (code == SQLITE_OK &&
            !go_on(backup, BACKUP_STAGE_COPY,
                   total ? (int)(100 - INT64_C(100) * sqlite3_backup_remaining(pages) / total) : 0))
            code = SQLITE_INTERRUPT;
    }
    finished = sqlite3_backup_finish(pages);
    return code == SQLITE_DONE ? finished : code;
}

static int mark(struct backup *backup)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(backup->copy, COPIED_AT_SQL, -1, &statement, NULL);

    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(statement, 1,
                                  backup->set->now_ms > 1000 ? backup->set->now_ms / 1000 : 1);
    if (code == SQLITE_OK)
        sqlite3_step(statement);
    if (code == SQLITE_OK)
        code = sqlite3_finalize(statement);
    else
        sqlite3_finalize(statement);
    if (code == SQLITE_OK)
        code =
            sqlite3_wal_checkpoint_v2(backup->copy, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    return code;
}

static int close_copy(struct backup *backup)
{
    int code = sqlite3_close(backup->copy);

    if (code == SQLITE_OK)
        backup->copy = NULL;
    return code;
}

static int explain_copy(const struct backup *backup, int code, sqlite3 *source, char *ret_why)
{
    const char *path = backup->parts[PART_DATABASE].temporary;

    if (code == SQLITE_INTERRUPT)
        return outbox_explain(ret_why, -ECANCELED, "%s", stopped);
    if (sqlite3_errcode(source) == code && code != SQLITE_FULL)
        return outbox_explain_sqlite(ret_why, source, code, backup->set->database,
                                     "cannot be read");
    return outbox_explain_sqlite(ret_why, backup->copy, code, path, "cannot be written");
}

static int copy_database(struct backup *backup, struct backup_result *result, char *ret_why)
{
    sqlite3 *source;
    struct outbox_state state;
    int code;
    int error = open_temporary(&backup->parts[PART_DATABASE], ret_why);

    if (error == 0)
        error = outbox_reader_open(backup->set->database, &backup->reader, ret_why);
    if (error < 0)
        return error;
    source = outbox_reader_db(backup->reader);
    code = sqlite3_exec(source, "BEGIN", NULL, NULL, NULL);
    if (code == SQLITE_OK && outbox_reader_state(backup->reader, &state) < 0)
        code = sqlite3_errcode(source);
    if (code == SQLITE_OK)
        code = open_copy(backup);
    if (code == SQLITE_OK)
        code = copy_pages(backup, source);
    if (code == SQLITE_OK)
        code = mark(backup);
    if (code == SQLITE_OK)
        code = close_copy(backup);
    if (code != SQLITE_OK)
        return explain_copy(backup, code, source, ret_why);
    outbox_reader_close(backup->reader); /* the write-ahead log may be emptied again */
    backup->reader = NULL;
    result->last_id = state.last_id;
    result->generation = state.generation;
    return 0;
}

/* -- checking ---------------------------------------------------------------------------------- */

static int on_check_step(void *context)
{
    return !go_on(context, BACKUP_STAGE_CHECK, -1);
}

static int check_copy(struct backup *backup, char *ret_why)
{
    const char *path = backup->parts[PART_DATABASE].temporary;
    struct identity_key *key = NULL;
    char key_why[JWKS_WHY_BYTES];
    sqlite3 *db = NULL;
    int code = outbox_open_immutable(path, &db);
    int error = 0;

    if (code != SQLITE_OK)
        error = outbox_explain_sqlite(ret_why, db, code, path, "cannot be opened");
    if (error == 0)
        error = outbox_schema_check(db, path, ret_why);
    if (error == 0) {
        sqlite3_progress_handler(db, CHECK_STEPS, on_check_step, backup);
        error = outbox_quick_check(db, path, ret_why);
        sqlite3_progress_handler(db, 0, NULL, NULL);
    }
    if (error == 0 &&
        identity_key_open(backup->parts[PART_KEY].temporary, false, &key, key_why) < 0)
        error = outbox_explain(ret_why, -EIO, "%s", key_why);
    if (error == 0)
        error = outbox_key_matches(key, db, backup->parts[PART_KEY].from, backup->set->database,
                                   ret_why);
    identity_key_free(key);
    sqlite3_close(db);
    return error == -ECANCELED ? outbox_explain(ret_why, error, "%s", stopped) : error;
}

/* -- appearing --------------------------------------------------------------------------------- */

/* As the original: who could read that may read this, nobody else, and a restore is a plain copy.
 * Another owner is for root to give. */
static int finish_part(const struct backup *backup, enum part_id id, char *ret_why)
{
    const struct part *part = &backup->parts[id];
    struct stat original;

    if (stat(part->from, &original) < 0)
        return explain_errno(ret_why, -errno, part->from);
    if (fchown(part->fd, original.st_uid, original.st_gid) < 0 &&
        fchown(part->fd, (uid_t)-1, original.st_gid) < 0 && errno != EPERM)
        return explain_errno(ret_why, -errno, part->temporary);
    if (fchmod(part->fd, id == PART_DATABASE ? original.st_mode & 0640 : PRIVATE_MODE) < 0 ||
        fsync(part->fd) < 0)
        return explain_errno(ret_why, -errno, part->temporary);
    return 0;
}

static int appear(const struct backup *backup, enum part_id id, char *ret_why)
{
    const struct part *part = &backup->parts[id];
    int moved =
        backup->set->force ? rename(part->temporary, part->to) : link(part->temporary, part->to);

    return moved < 0 ? explain_errno(ret_why, -errno, part->to) : 0;
}

static int appear_all(const struct backup *backup, char *ret_why)
{
    const struct part *history = &backup->parts[PART_HISTORY];
    int error = 0;

    if (backup->has_history)
        error = appear(backup, PART_HISTORY, ret_why);
    else if (unlink(history->to) < 0 && errno != ENOENT) /* of what is replaced */
        error = explain_errno(ret_why, -errno, history->to);
    if (error == 0)
        error = appear(backup, PART_KEY, ret_why);
    if (error == 0)
        error = appear(backup, PART_DATABASE, ret_why);
    if (error < 0)
        return error;
    error = outbox_sync_folder_of(backup->set->file);
    return error < 0 ? explain_errno(ret_why, error, backup->set->file) : 0;
}

static int make_all(struct backup *backup, struct backup_result *result, char *ret_why)
{
    int error = check_places(backup, ret_why);

    if (error == 0)
        error = copy_database(backup, result, ret_why);
    if (error == 0)
        error = copy_part(backup, PART_KEY, IDENTITY_KEY_BYTES, ret_why);
    if (error == 0 && backup->has_history)
        error = copy_part(backup, PART_HISTORY, HISTORY_MAX_BYTES, ret_why);
    if (error == 0)
        error = check_copy(backup, ret_why);
    for (int i = 0; error == 0 && i < PARTS; i++)
        if (i != PART_HISTORY || backup->has_history)
            error = finish_part(backup, (enum part_id)i, ret_why);
    if (error == 0 && !go_on(backup, BACKUP_STAGE_CHECK, 100))
        error = outbox_explain(ret_why, -ECANCELED, "%s", stopped);
    return error == 0 ? appear_all(backup, ret_why) : error;
}

int backup_make(const struct backup_settings *settings, struct backup_result *ret_result,
                char ret_why[OUTBOX_WHY_BYTES])
{
    struct backup backup = {.set = settings};
    struct backup_result result = {.bytes = 0};
    struct stat file;
    int error = name_parts(&backup, ret_why);

    if (error < 0)
        return error;
    error = make_all(&backup, &result, ret_why);
    sqlite3_close(backup.copy);
    outbox_reader_close(backup.reader);
    for (int i = 0; i < PARTS; i++)
        remove_temporary(&backup.parts[i]);
    if (error < 0)
        return error;
    if (stat(settings->file, &file) == 0)
        result.bytes = file.st_size;
    snprintf(result.key_file, sizeof result.key_file, "%s", backup.parts[PART_KEY].to);
    if (backup.has_history)
        snprintf(result.history_file, sizeof result.history_file, "%s",
                 backup.parts[PART_HISTORY].to);
    *ret_result = result;
    return 0;
}

/* -- the first start on a copy ----------------------------------------------------------------- */

static int64_t id_step(int64_t copied_at_s, int64_t now_s)
{
    int64_t age_s = now_s - copied_at_s;

    if (age_s < 0)
        age_s = 0;
    if (age_s > INT32_MAX) /* a clock that is wrong; ids stay below 2^53, which JavaScript counts */
        age_s = INT32_MAX;
    return BACKUP_ID_STEP + age_s * BACKUP_ID_STEP_S;
}

int outbox_wake_copy(sqlite3 *db, int64_t now_ms)
{
    int64_t copied_at_s = 0, now_s = now_ms / 1000;
    sqlite3_stmt *statement = NULL;
    int code = outbox_query_number(db, "SELECT copied_at_s FROM state", &copied_at_s);

    if (code != SQLITE_OK)
        return code;
    if (copied_at_s == 0)
        copied_at_s = now_s;
    code = sqlite3_prepare_v2(db,
                              "UPDATE state SET last_id = last_id + ?1, "
                              "generation = max(generation + 1, ?2), copied_at_s = 0",
                              -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(statement, 1, id_step(copied_at_s, now_s));
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(statement, 2, now_s);
    if (code == SQLITE_OK)
        sqlite3_step(statement);
    return code == SQLITE_OK ? sqlite3_finalize(statement) : (sqlite3_finalize(statement), code);
}
