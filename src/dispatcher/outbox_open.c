#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "outbox_internal.h"
#include "page_scrub.h"
#include "wal_check.h"
#include "wal_gather.h"

#define DATABASE_MODE 0640
#define LOCK_MODE     0600
#define HEADER_BYTES  100 /* https://sqlite.org/fileformat2.html section 1.3 */

#define WAL_HEADER_BYTES 32 /* section 4.1 */

/* In the lock from an open to the close that moved the -wal into the database. */
#define IN_USE "in use\n"

/* Longest addition to a path is ".new-journal". */
#define SUFFIX_MAX_BYTES 16

static const char *const statement_texts[OUTBOX_STATEMENTS] = {
    [OUTBOX_BEGIN] = "BEGIN IMMEDIATE",
    [OUTBOX_COMMIT] = "COMMIT",
    [OUTBOX_ROLLBACK] = "ROLLBACK",
    [OUTBOX_PART_BEGIN] = "SAVEPOINT part",
    [OUTBOX_PART_UNDO] = "ROLLBACK TO part",
    [OUTBOX_PART_END] = "RELEASE part",
    [OUTBOX_SEEN_INSERT] = "INSERT OR IGNORE INTO seen VALUES (?1, ?2, ?3)",
    [OUTBOX_SEEN_FIND] = "SELECT 1 FROM seen WHERE event_time_ms = ?1 AND identity = ?2",
    [OUTBOX_EVENT_INSERT] = "INSERT INTO events (id, type, client_id, app, team, sub, email, "
                            "is_private_email, event_time_ms, issued_at_ms, received_at_ms, jti, "
                            "raw_type, raw_id, person) "
                            "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, "
                            "?15)",
    [OUTBOX_RAW_INSERT] = "INSERT INTO raw VALUES (?1, ?2, ?3, ?4)",
    [OUTBOX_STATE_UPDATE] = "UPDATE state SET last_id = ?1",
    [OUTBOX_APP_UPSERT] = "INSERT INTO apps VALUES (?1, ?2) ON CONFLICT (client_id) "
                          "DO UPDATE SET last_accepted_ms = excluded.last_accepted_ms "
                          "WHERE NOT ?3 OR last_accepted_ms < excluded.last_accepted_ms",
    [OUTBOX_QUARANTINE_INSERT] = "INSERT INTO quarantine (reason, client_id, received_at_ms, "
                                 "digest, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    [OUTBOX_QUARANTINE_FIND] = "SELECT 1 FROM quarantine WHERE digest = ?1",
    [OUTBOX_DEFERRED_INSERT] = "INSERT INTO deferred (kid, client_id, received_at_ms, refresh, "
                               "digest, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [OUTBOX_DEFERRED_FIND] = "SELECT 1 FROM deferred WHERE digest = ?1",
    [OUTBOX_DEFERRED_NEXT] = "SELECT id, kid, received_at_ms, refresh FROM deferred "
                             "WHERE id > ?1 ORDER BY id LIMIT 1",
    [OUTBOX_DEFERRED_BODY] = "SELECT body FROM deferred WHERE id = ?1",
    [OUTBOX_DEFERRED_LACKED] = "SELECT id, length(body), refresh FROM deferred ORDER BY id",
    [OUTBOX_DEFERRED_DISPLACE] = "DELETE FROM deferred WHERE id <= ?1",
};

static const struct {
    unsigned long magic;
    const char *name;
} network_filesystems[] = {
    {0x6969, "NFS"},       {0x517B, "SMB"},          {0xFE534D42, "SMB2"},
    {0xFF534D42, "CIFS"},  {0x65735546, "FUSE"},     {0x01021997, "9P"},
    {0x00C36400, "Ceph"},  {0x5346414F, "AFS"},      {0x6B414653, "AFS"},
    {0x73757245, "Coda"},  {0x564C, "NCP"},          {0x786F4256, "VirtualBox shared folder"},
    {0x7461636F, "OCFS2"}, {0x01161970, "GFS2"},     {0x0BD00BD0, "Lustre"},
    {0x47504653, "GPFS"},  {0xBACBACBC, "vmhgfs"},   {0x19830326, "BeeGFS"},
    {0xAAD7AAEA, "PanFS"}, {0x20030528, "OrangeFS"},
};

const char *outbox_network_filesystem(unsigned long magic)
{
    for (size_t i = 0; i < sizeof network_filesystems / sizeof *network_filesystems; i++)
        if (network_filesystems[i].magic == (magic & 0xFFFFFFFFUL))
            return network_filesystems[i].name;
    return NULL;
}

static void close_file(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define autoclose __attribute__((cleanup(close_file)))

struct beside {
    char path[PATH_MAX + SUFFIX_MAX_BYTES];
};

static struct beside beside(const struct outbox *outbox, const char *suffix)
{
    struct beside name;

    snprintf(name.path, sizeof name.path, "%s%s", outbox->path, suffix);
    return name;
}

void outbox_name_beside(const char *path, const char *suffix, char *ret_name, size_t capacity)
{
    size_t length = strlen(path);

    if (length > 3 && strcmp(path + length - 3, ".db") == 0)
        length -= 3;
    snprintf(ret_name, capacity, "%.*s%s", (int)length, path, suffix);
}

static struct beside key_path(const struct outbox *outbox)
{
    struct beside name = {.path = ""};

    outbox_name_beside(outbox->path, ".key", name.path, sizeof name.path);
    return name;
}

/* Bytes of a file beside the database; 0 where there is none. */
static int64_t size_beside(const struct outbox *outbox, const char *suffix)
{
    struct stat file;

    return lstat(beside(outbox, suffix).path, &file) == 0 ? (int64_t)file.st_size : 0;
}

static bool exists_beside(const struct outbox *outbox, const char *suffix)
{
    struct stat file;

    return lstat(beside(outbox, suffix).path, &file) == 0;
}

/* Links of folders are the administrator's and are followed here once, so that NOFOLLOW below
 * speaks of the file alone. */
static int resolve(struct outbox *outbox, const char *path, char *ret_why)
{
    char folder[PATH_MAX], name[PATH_MAX], real[PATH_MAX];
    int length;

    if (strlen(path) >= sizeof folder)
        return outbox_explain(ret_why, -ENAMETOOLONG, "%.100s…: the path is too long", path);
    strcpy(folder, path);
    strcpy(name, path);
    if (!realpath(dirname(folder), real))
        return outbox_explain(ret_why, -errno, "%s: its folder: %s; make it", path,
                              strerror(errno));
    length = snprintf(outbox->path, sizeof outbox->path, "%s/%s", real, basename(name));
    if (length < 0 || (size_t)length >= sizeof outbox->path)
        return outbox_explain(ret_why, -ENAMETOOLONG, "%.100s…: the path is too long", path);
    return 0;
}

int outbox_sync_folder_of(const char *path)
{
    char copy[PATH_MAX];
    autoclose int fd = -1;

    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy)
        return -ENAMETOOLONG;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return 0;
}

static int check_folder(const struct outbox *outbox, char *ret_why)
{
    struct beside copy = beside(outbox, "");
    const char *folder = dirname(copy.path), *network;
    struct statfs filesystem;

    if (statfs(folder, &filesystem) < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", folder, strerror(errno));
    network = outbox_network_filesystem((unsigned long)filesystem.f_type);
    if (network)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: lies on %s, where locks and syncs cannot be trusted; set "
                              "`database` to a path on a local disk",
                              outbox->path, network);
    if (access(folder, W_OK | X_OK) < 0)
        return outbox_explain(ret_why, -errno, "%s: not writable for this user: %s; chown it",
                              folder, strerror(errno));
    return 0;
}

static int take_lock(struct outbox *outbox, char *ret_why)
{
    struct beside lock = beside(outbox, ".lock");

    outbox->lock_fd = open(lock.path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, LOCK_MODE);
    if (outbox->lock_fd < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", lock.path, strerror(errno));
    if (flock(outbox->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK)
        return outbox_explain(ret_why, -errno, "%s: %s", lock.path, strerror(errno));
    return outbox_explain(ret_why, -EBUSY,
                          "%s: another siwa-notifyd serves it (it holds %s); stop that one first",
                          outbox->path, lock.path);
}

/* Whether the run before left a -wal that held more than the database, and it is there no more. A
 * run that was cut off before it had one left no mark, and a clean stop takes the mark away. */
static bool has_lost_wal(const struct outbox *outbox)
{
    struct stat lock;

    return fstat(outbox->lock_fd, &lock) == 0 && lock.st_size > 0 && exists_beside(outbox, "") &&
           !exists_beside(outbox, "-wal");
}

/* Without it, as on a full disk, the next start is not warned; that is all it is for. */
static bool mark_in_use(const struct outbox *outbox)
{
    return pwrite(outbox->lock_fd, IN_USE, sizeof IN_USE - 1, 0) == (ssize_t)(sizeof IN_USE - 1);
}

static bool mark_unused(const struct outbox *outbox)
{
    return ftruncate(outbox->lock_fd, 0) == 0;
}

/* A first start that was killed may have left these. */
static void remove_unfinished(const struct outbox *outbox)
{
    static const char *const suffixes[] = {".new", ".new-journal", ".new-wal", ".new-shm"};

    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        unlink(beside(outbox, suffixes[i]).path);
}

/* What must not happen: a database that was lost is replaced by an empty one without a word, or an
 * old -wal is replayed into a new file. */
static int check_absence(const struct outbox *outbox, char *ret_why)
{
    if (size_beside(outbox, "-wal") > 0)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: missing, but its -wal is there; restore the database beside it, "
                              "or move the -wal away to begin anew",
                              outbox->path);
    if (exists_beside(outbox, ".failed"))
        return outbox_explain(ret_why, -EINVAL,
                              "%s: missing since a storage error; restore it from a backup, or "
                              "remove %s.failed to begin anew",
                              outbox->path, outbox->path);
    return 0;
}

static int build(const struct outbox *outbox, const char *temporary, int64_t now_ms, char *ret_why)
{
    unsigned char check[IDENTITY_BYTES];
    sqlite3 *db = NULL;
    int error = 0;
    int code;

    if (outbox_key_check(outbox->key, check) < 0)
        return outbox_explain(ret_why, -EIO, "%s: OpenSSL cannot use it", key_path(outbox).path);
    code = sqlite3_open_v2(temporary, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, NULL);
    if (code == SQLITE_OK)
        code = outbox_connection_settings(db);
    if (code == SQLITE_OK)
        code = outbox_schema_create(db, now_ms > 1000 ? now_ms / 1000 : 1, check);
    /* in the header before the file has its name: it never needs a rollback journal */
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
    if (code != SQLITE_OK)
        error = outbox_explain_sqlite(ret_why, db, code, temporary, "cannot be made");
    code = sqlite3_close(db);
    if (code != SQLITE_OK && error == 0)
        error = outbox_explain_sqlite(ret_why, NULL, code, temporary, "cannot be made");
    return error;
}

static int create_database(const struct outbox *outbox, int64_t now_ms, char *ret_why)
{
    struct beside temporary = beside(outbox, ".new");
    int fd =
        open(temporary.path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, DATABASE_MODE);
    int error;

    if (fd < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", temporary.path, strerror(errno));
    /* whatever the umask: -wal and -shm take their mode from here */
    error = fchmod(fd, DATABASE_MODE) < 0 ? -errno : 0;
    close(fd);
    if (error < 0)
        return outbox_explain(ret_why, error, "%s: %s", temporary.path, strerror(-error));
    error = build(outbox, temporary.path, now_ms, ret_why);
    if (error < 0)
        return error;
    if (link(temporary.path, outbox->path) < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", outbox->path, strerror(errno));
    unlink(temporary.path);
    error = outbox_sync_folder_of(outbox->path);
    return error == 0 ? 0
                      : outbox_explain(ret_why, error, "%s: its folder: %s", outbox->path,
                                       strerror(-error));
}

static uint32_t big_endian(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Reads through SQLite's own layer, which keeps its locks when a file is closed (POSIX drops all of
 * a process's locks on a file with the first descriptor that it closes). */
static int read_header(const char *path, unsigned char ret_header[HEADER_BYTES])
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    sqlite3_file *file = sqlite3_malloc64((sqlite3_uint64)vfs->szOsFile);
    sqlite3_filename name = sqlite3_create_filename(path, "", "", 0, NULL);
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_MAIN_DB;
    int code = SQLITE_NOMEM;

    if (file && name) {
        memset(file, 0, (size_t)vfs->szOsFile);
        code = vfs->xOpen(vfs, name, file, flags, &flags);
    }
    if (code == SQLITE_OK) {
        code = file->pMethods->xRead(file, ret_header, HEADER_BYTES, 0);
        file->pMethods->xClose(file);
    }
    sqlite3_free_filename(name);
    sqlite3_free(file);
    return code;
}

static int page_bytes_of(const unsigned char *header)
{
    int page_bytes = header[16] << 8 | header[17];

    return page_bytes == 1 ? 65536 : page_bytes; /* so it says 65536 */
}

/* SQLite reads what is missing of a last page as zeros, and quick_check need not notice. Until the
 * WAL was moved into the file its end may be one that a full disk cut off. */
static int check_whole_pages(const struct outbox *outbox, const unsigned char *header,
                             char *ret_why)
{
    int64_t page_bytes = page_bytes_of(header);
    struct stat file;

    if (lstat(outbox->path, &file) < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", outbox->path, strerror(errno));
    if (page_bytes > 0 && file.st_size % page_bytes == 0)
        return 0;
    return outbox_explain(ret_why, -EIO,
                          "%s: damaged: cut off, since its %lld bytes are not whole pages; restore "
                          "it from a backup",
                          outbox->path, (long long)file.st_size);
}

/* A WAL that SQLite does not know it takes for empty and writes over. Zeros are one that was only
 * made longer yet, also after the first bytes of the magic, where a disk was full. */
static int check_wal(const struct outbox *outbox, char *ret_why)
{
    static const unsigned char magic[] = {0x37, 0x7f, 0x06, 0x82};
    unsigned char bytes[sizeof magic] = {0};
    size_t same = 0;
    autoclose int fd =
        open(beside(outbox, "-wal").path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || pread(fd, bytes, sizeof bytes, 0) < 0) /* SQLite says why */
        return 0;
    bytes[3] &= 0xfe; /* the byte order of its checksums */
    while (same < sizeof magic && bytes[same] == magic[same])
        same++;
    while (same < sizeof magic && bytes[same] == 0)
        same++;
    if (same == sizeof magic)
        return 0;
    return outbox_explain(ret_why, -EIO,
                          "%s-wal: damaged: it does not begin as one; restore the database from a "
                          "backup, or move the -wal away to go on without what it held",
                          outbox->path);
}

/* SQLite ends a WAL where it is damaged, and writes over what was committed behind. */
static int check_wal_whole(const struct outbox *outbox, const unsigned char *header, char *ret_why)
{
    unsigned unreachable = 0;
    autoclose int fd =
        open(beside(outbox, "-wal").path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || wal_check(fd, (size_t)page_bytes_of(header), &unreachable) < 0) /* as above */
        return 0;
    if (unreachable <= 1) /* the last commit was not synced yet */
        return 0;
    return outbox_explain(ret_why, -EIO,
                          "%s-wal: damaged: %u commits stand behind a place that cannot be read; "
                          "restore the database from a backup, or move the -wal away to go on "
                          "without what it held",
                          outbox->path, unreachable);
}

/* What can be refused without SQLite, which makes files beside the database as soon as it reads
 * one. */
static int check_file(const struct outbox *outbox, char *ret_why)
{
    static const char magic[16] = "SQLite format 3";
    unsigned char header[HEADER_BYTES] = {0};
    struct stat file;
    int code, error;

    if (lstat(outbox->path, &file) < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", outbox->path, strerror(errno));
    if (S_ISLNK(file.st_mode))
        return outbox_explain(ret_why, -EINVAL,
                              "%s: a symbolic link; set `database` to the path it points to",
                              outbox->path);
    if (!S_ISREG(file.st_mode))
        return outbox_explain(ret_why, -EINVAL, "%s: not a regular file; set `database` to another",
                              outbox->path);
    if (file.st_size == 0)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: an empty file, which siwa-notifyd never makes; restore the "
                              "database from a backup, or remove the file to begin anew",
                              outbox->path);
    code = read_header(outbox->path, header);
    if (code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ)
        return outbox_explain_sqlite(ret_why, NULL, code, outbox->path, "cannot be read");
    if (memcmp(header, magic, sizeof magic) != 0)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: not a SQLite database; set `database` to another path, or "
                              "restore it from a backup",
                              outbox->path);
    error =
        outbox_marks_check(big_endian(header + 68), big_endian(header + 60), outbox->path, ret_why);
    if (error == 0)
        error = check_wal(outbox, ret_why);
    if (error == 0)
        error = check_wal_whole(outbox, header, ret_why);
    if (error == 0 && size_beside(outbox, "-wal") == 0)
        error = check_whole_pages(outbox, header, ret_why);
    return error;
}

/* `file:` and the path, with what has a meaning in a URI escaped. */
static void immutable_uri(const char *path, char *ret_uri, size_t capacity)
{
    size_t used = (size_t)snprintf(ret_uri, capacity, "file:");

    for (; *path; path++)
        used += (size_t)snprintf(ret_uri + used, capacity - used,
                                 strchr("%?#", *path) ? "%%%02X" : "%c", (unsigned char)*path);
    snprintf(ret_uri + used, capacity - used, "?immutable=1");
}

#define LOOK_FLAGS (SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOMUTEX)

int outbox_open_immutable(const char *path, sqlite3 **ret_db)
{
    char uri[3 * PATH_MAX + 32];
    int code;

    immutable_uri(path, uri, sizeof uri);
    code = sqlite3_open_v2(uri, ret_db, LOOK_FLAGS | SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
    return code == SQLITE_OK ? outbox_connection_settings(*ret_db) : code;
}

/* A connection that looks and changes nothing. Where an earlier process left nothing to recover
 * SQLite is told that the file is immutable, and makes neither -wal nor -shm; where it did, the
 * connection may recover but never moves the -wal into the file. */
static int open_to_look(const struct outbox *outbox, sqlite3 **ret_db)
{
    int code;

    if (size_beside(outbox, "-wal") == 0 && size_beside(outbox, "-journal") == 0)
        return outbox_open_immutable(outbox->path, ret_db);
    code = sqlite3_open_v2(outbox->path, ret_db, LOOK_FLAGS | SQLITE_OPEN_READWRITE, NULL);
    if (code == SQLITE_OK)
        code = outbox_connection_settings(*ret_db);
    if (code == SQLITE_OK)
        code = sqlite3_db_config(*ret_db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return code;
}

int outbox_key_matches(struct identity_key *key, sqlite3 *db, const char *key_file,
                       const char *path, char ret_why[OUTBOX_WHY_BYTES])
{
    unsigned char check[IDENTITY_BYTES];
    sqlite3_stmt *statement = NULL;
    bool same = false;
    int code;

    if (outbox_key_check(key, check) < 0)
        return outbox_explain(ret_why, -EIO, "%s: OpenSSL cannot use it", key_file);
    code = sqlite3_prepare_v2(db, "SELECT key_check FROM state", -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        same = sqlite3_column_bytes(statement, 0) == IDENTITY_BYTES &&
               memcmp(sqlite3_column_blob(statement, 0), check, IDENTITY_BYTES) == 0;
    sqlite3_finalize(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_explain_sqlite(ret_why, db, code, path, "cannot be read");
    if (!same)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: not the identity key of %s, every repeat would count as new; "
                              "restore the right key from a backup",
                              key_file, path);
    return 0;
}

/* Whether a commit may stand in the -wal: its first frame has the number of a page. */
static bool wal_has_frames(const struct outbox *outbox)
{
    autoclose int fd =
        open(beside(outbox, "-wal").path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    unsigned char page[4] = {0};

    return fd >= 0 && pread(fd, page, sizeof page, WAL_HEADER_BYTES) == (ssize_t)sizeof page &&
           big_endian(page) != 0;
}

/* What state says of itself: generation 0 where it cannot be read. */
static void read_origin(sqlite3 *db, int64_t *ret_generation, int64_t *ret_copied_at_s)
{
    if (outbox_query_number(db, "SELECT generation FROM state", ret_generation) != SQLITE_OK ||
        outbox_query_number(db, "SELECT copied_at_s FROM state", ret_copied_at_s) != SQLITE_OK)
        *ret_generation = *ret_copied_at_s = 0;
}

/* A copy that was put beside the -wal of what it replaces would have that moved into it: two states
 * mixed, and the mark of the copy overwritten. Its own -wal begins with waking it. */
static int check_copy_alone(const struct outbox *outbox, sqlite3 *db, char *ret_why)
{
    int64_t generation = 0, copied_at_s = 0, generation_with_wal = 0, copied_with_wal_s = 0;
    sqlite3 *file = NULL;

    if (!wal_has_frames(outbox))
        return 0;
    if (outbox_open_immutable(outbox->path, &file) == SQLITE_OK)
        read_origin(file, &generation, &copied_at_s);
    sqlite3_close(file);
    if (copied_at_s == 0)
        return 0;
    read_origin(db, &generation_with_wal, &copied_with_wal_s);
    if (copied_with_wal_s == 0 && generation_with_wal > generation)
        return 0;
    return outbox_explain(ret_why, -EINVAL,
                          "%s: a copy, beside the -wal of the database that it replaces; remove "
                          "%s-wal and -shm, and start again",
                          outbox->path, outbox->path);
}

/* Ids are given from state: were it behind, an id would be given twice. */
static int check_ids(const struct outbox *outbox, sqlite3 *db, char *ret_why)
{
    int64_t ahead = 0;
    int code = outbox_query_number(
        db,
        "SELECT last_id - max(coalesce((SELECT max(id) FROM events), 0), pruned_through) "
        "FROM state",
        &ahead);

    if (code != SQLITE_OK)
        return outbox_explain_sqlite(ret_why, db, code, outbox->path, "cannot be read");
    if (ahead < 0)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: holds ids beyond its own count; restore it from a backup",
                              outbox->path);
    return 0;
}

static int look(const struct outbox *outbox, char *ret_why)
{
    sqlite3 *db = NULL;
    int code = open_to_look(outbox, &db);
    int error = 0;

    if (code != SQLITE_OK)
        error = outbox_explain_sqlite(ret_why, db, code, outbox->path, "cannot be opened");
    if (error == 0)
        error = check_copy_alone(outbox, db, ret_why);
    if (error == 0)
        error = outbox_schema_check(db, outbox->path, ret_why);
    if (error == 0 && exists_beside(outbox, ".failed"))
        error = outbox_quick_check(db, outbox->path, ret_why);
    if (error == 0)
        error = outbox_key_matches(outbox->key, db, key_path(outbox).path, outbox->path, ret_why);
    if (error == 0)
        error = check_ids(outbox, db, ret_why);
    sqlite3_close(db);
    return error;
}

static int on_wal(void *context, sqlite3 *db, const char *name, int pages)
{
    struct outbox *outbox = context;

    (void)db;
    (void)name;
    outbox->wal_pages = pages;
    return SQLITE_OK;
}

#define STRINGIZE_(value) #value
#define STRINGIZE(value)  STRINGIZE_(value)

static int set_up_writer(struct outbox *outbox)
{
    int on = 1;
    int code = outbox_connection_settings(outbox->db);

    if (code == SQLITE_OK) /* a clean stop leaves the -wal: a reader of another user needs it */
        code = sqlite3_file_control(outbox->db, "main", SQLITE_FCNTL_PERSIST_WAL, &on);
    if (code == SQLITE_OK) /* until all that can go wrong here has not: then the file may change */
        code = sqlite3_db_config(outbox->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(outbox->db,
                            "PRAGMA journal_mode = WAL;"
                            "PRAGMA synchronous = FULL;"
                            "PRAGMA secure_delete = ON;"
                            "PRAGMA cell_size_check = ON;"
                            "PRAGMA mmap_size = 0;" /* an I/O error as a code, not as SIGBUS */
                            "PRAGMA temp_store = MEMORY;"
                            "PRAGMA max_page_count = " STRINGIZE(PAGE_SCRUB_PAGES_MAX) ";"
                                                      "PRAGMA cache_size = -" STRINGIZE(OUTBOX_CACHE_KIB) ";", NULL, NULL, NULL);
    if (code == SQLITE_OK) {
        char *sql = sqlite3_mprintf("PRAGMA journal_size_limit = %d", OUTBOX_WAL_LIMIT_BYTES);

        code = sql ? sqlite3_exec(outbox->db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
        sqlite3_free(sql);
    }
    if (code == SQLITE_OK) {
        sqlite3_wal_autocheckpoint(outbox->db, 0);
        sqlite3_wal_hook(outbox->db, on_wal, outbox);
    }
    for (int i = 0; code == SQLITE_OK && i < OUTBOX_STATEMENTS; i++)
        code = sqlite3_prepare_v3(outbox->db, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                                  &outbox->statements[i], NULL);
    return code;
}

static int load_counts(struct outbox *outbox)
{
    struct outbox_counts *counts = &outbox->committed;
    const struct {
        const char *sql;
        int64_t *number;
    } numbers[] = {
        {"SELECT last_id FROM state", &counts->last_id},
        {"SELECT count(*) FROM quarantine", &counts->apart.quarantine_rows},
        {"SELECT coalesce(sum(length(body)), 0) FROM quarantine", &counts->apart.quarantine_bytes},
        {"SELECT count(*) FROM deferred", &counts->apart.deferred_rows},
        {"SELECT coalesce(sum(length(body)), 0) FROM deferred", &counts->apart.deferred_bytes},
        {"SELECT coalesce(max(number), 0) FROM refreshes", &counts->refreshes},
    };
    int code = SQLITE_OK;

    for (size_t i = 0; code == SQLITE_OK && i < sizeof numbers / sizeof *numbers; i++)
        code = outbox_query_number(outbox->db, numbers[i].sql, numbers[i].number);
    outbox->refreshes_before = counts->refreshes;
    return code;
}

static bool is_wal(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    bool wal = false;

    if (sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        const unsigned char *mode = sqlite3_column_text(statement, 0);

        wal = mode && strcmp((const char *)mode, "wal") == 0;
    }
    sqlite3_finalize(statement);
    return wal;
}

static int open_writer(struct outbox *outbox, char *ret_why)
{
    int code = page_scrub_register();

    if (code == SQLITE_OK)
        code = wal_gather_register(PAGE_SCRUB_VFS);
    if (code == SQLITE_OK)
        code =
            sqlite3_open_v2(outbox->path, &outbox->db,
                            SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE |
                                SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                            WAL_GATHER_VFS);
    if (code == SQLITE_OK)
        code = set_up_writer(outbox);
    if (code == SQLITE_OK)
        code = load_counts(outbox);
    if (code != SQLITE_OK)
        return outbox_explain_sqlite(ret_why, outbox->db, code, outbox->path, "cannot be opened");
    if (!is_wal(outbox->db))
        return outbox_explain(ret_why, -EIO, "%s: cannot be put into WAL mode", outbox->path);
    return 0;
}

/* It is there: SQLite makes it with the first look into the database. */
static int note_wal(struct outbox *outbox, char *ret_why)
{
    struct beside wal = beside(outbox, "-wal");
    struct stat file;

    if (lstat(wal.path, &file) < 0)
        return outbox_explain(ret_why, -errno, "%s: %s", wal.path, strerror(errno));
    outbox->wal_device = file.st_dev;
    outbox->wal_inode = file.st_ino;
    return 0;
}

bool outbox_wal_has_moved(const struct outbox *outbox)
{
    struct stat file;

    return lstat(beside(outbox, "-wal").path, &file) < 0 || file.st_ino != outbox->wal_inode ||
           file.st_dev != outbox->wal_device;
}

static int sync_wal(const struct outbox *outbox)
{
    autoclose int fd = open(beside(outbox, "-wal").path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* A process that died between writing a commit and syncing it left rows that we can read and a
 * power cut can take away; a repeat of one of them would be called a duplicate. So all of the WAL
 * goes to the disk before anything is answered. After a sync that failed, syncing the same file
 * again proves nothing (the kernel has dropped what it could not write): the rows must be written
 * anew, into the database. On a disk that is full they stay in the WAL: what is in the way passes,
 * and whoever sends meanwhile is to be told so. */
static int settle(const struct outbox *outbox, bool had_failed, char *ret_why)
{
    unsigned char header[HEADER_BYTES] = {0};
    int in_wal = 0, moved = 0;
    int code =
        sqlite3_wal_checkpoint_v2(outbox->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_wal, &moved);
    bool full = (code & 0xff) == SQLITE_FULL && !had_failed;
    int error;

    if (code != SQLITE_OK && !full)
        return outbox_explain_sqlite(ret_why, outbox->db, code, outbox->path,
                                     "its WAL cannot be moved into it");
    if (!full && in_wal == moved) {
        code = read_header(outbox->path, header);
        return code == SQLITE_OK
                   ? check_whole_pages(outbox, header, ret_why)
                   : outbox_explain_sqlite(ret_why, NULL, code, outbox->path, "cannot be read");
    }
    if (had_failed)
        return outbox_explain(ret_why, -EBUSY,
                              "%s: a reader keeps an old state open, so that what a storage error "
                              "left cannot be made safe; end that reader",
                              outbox->path);
    error = sync_wal(outbox);
    return error == 0 ? 0
                      : outbox_explain(ret_why, error, "%s-wal: cannot be synced: %s", outbox->path,
                                       strerror(-error));
}

static int forget_failure(const struct outbox *outbox, char *ret_why)
{
    struct beside mark = beside(outbox, ".failed");

    if (unlink(mark.path) < 0 && errno != ENOENT)
        return outbox_explain(ret_why, -errno, "%s: cannot be removed: %s", mark.path,
                              strerror(errno));
    return 0;
}

/* A copy that begins to live: see dispatcher/backup.h. It never had a -wal. And one whose -wal was
 * taken away: the ids that it held were given, and are not given again. */
static int wake(struct outbox *outbox, bool wal_taken, int64_t now_ms, char *ret_why)
{
    int64_t copied_at_s = 0;
    int code = outbox_query_number(outbox->db, "SELECT copied_at_s FROM state", &copied_at_s);

    if (copied_at_s != 0 && outbox->origin == OUTBOX_ORIGIN_CUT)
        outbox->origin = OUTBOX_ORIGIN_FOUND;
    if (code == SQLITE_OK && (copied_at_s != 0 || wal_taken))
        code = outbox_wake_copy(outbox->db, now_ms);
    if (code == SQLITE_OK)
        code = load_counts(outbox);
    return code == SQLITE_OK ? 0
                             : outbox_explain_sqlite(ret_why, outbox->db, code, outbox->path,
                                                     "cannot be put into service");
}

static int open_key(struct outbox *outbox, bool create, char *ret_why)
{
    char why[JWKS_WHY_BYTES];
    int error = identity_key_open(key_path(outbox).path, create, &outbox->key, why);

    if (error == -ENOENT)
        return outbox_explain(ret_why, error,
                              "%s: missing, and without it every repeat of what %s holds would "
                              "count as new; restore it from a backup",
                              key_path(outbox).path, outbox->path);
    return error == 0 ? 0 : outbox_explain(ret_why, error, "%s", why);
}

static int make(struct outbox *outbox, int64_t now_ms, char *ret_why)
{
    bool had_key = access(key_path(outbox).path, F_OK) == 0;
    int error = check_absence(outbox, ret_why);

    if (error == 0)
        error = open_key(outbox, true, ret_why);
    if (error == 0)
        error = create_database(outbox, now_ms, ret_why);
    outbox->origin = had_key ? OUTBOX_ORIGIN_ANEW : OUTBOX_ORIGIN_NEW;
    return error;
}

static int open_all(struct outbox *outbox, const char *path, int64_t now_ms, char *ret_why)
{
    bool had_failed, wal_taken;
    int error = resolve(outbox, path, ret_why);

    if (error == 0)
        error = check_folder(outbox, ret_why);
    if (error == 0)
        error = take_lock(outbox, ret_why);
    if (error < 0)
        return error;
    remove_unfinished(outbox);
    had_failed = exists_beside(outbox, ".failed");
    if (has_lost_wal(outbox))
        outbox->origin = OUTBOX_ORIGIN_CUT;
    /* a program that has emptied it, and was the last to close the database, removes both */
    wal_taken = outbox->origin == OUTBOX_ORIGIN_CUT && exists_beside(outbox, "-shm");
    if (!exists_beside(outbox, ""))
        error = make(outbox, now_ms, ret_why);
    if (error == 0)
        error = check_file(outbox, ret_why);
    if (error == 0 && !outbox->key)
        error = open_key(outbox, false, ret_why);
    if (error == 0)
        error = look(outbox, ret_why);
    if (error == 0)
        error = open_writer(outbox, ret_why);
    if (error == 0)
        error = note_wal(outbox, ret_why);
    if (error == 0)
        error = settle(outbox, had_failed, ret_why);
    if (error == 0)
        error = wake(outbox, wal_taken, now_ms, ret_why);
    if (error == 0 && had_failed)
        error = forget_failure(outbox, ret_why);
    if (error == 0) {
        mark_in_use(outbox);
        sqlite3_db_config(outbox->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    }
    return error;
}

static int release(struct outbox *outbox)
{
    int code;

    for (int i = 0; i < OUTBOX_STATEMENTS; i++)
        sqlite3_finalize(outbox->statements[i]);
    code = sqlite3_close(outbox->db);
    identity_key_free(outbox->key);
    if (outbox->lock_fd >= 0)
        close(outbox->lock_fd);
    free(outbox);
    return code;
}

int outbox_open(const char *path, int64_t now_ms, struct outbox **ret_outbox,
                char ret_why[OUTBOX_WHY_BYTES])
{
    struct outbox *outbox = calloc(1, sizeof *outbox);
    int error;

    if (!outbox)
        return outbox_explain(ret_why, -ENOMEM, "%s: out of memory", path);
    outbox->lock_fd = -1;
    error = open_all(outbox, path, now_ms, ret_why);
    if (error < 0) {
        release(outbox);
        return error;
    }
    *ret_outbox = outbox;
    return 0;
}

enum outbox_origin outbox_origin(const struct outbox *outbox)
{
    return outbox->origin;
}

static int last_checkpoint(struct outbox *outbox, char *ret_why)
{
    int code;

    if (outbox->failed && !outbox->wal_gone) {
        /* what the WAL holds may not be what is on the disk: the next start decides */
        sqlite3_db_config(outbox->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        return outbox_explain(ret_why, -EIO,
                              "%s: left as it was after a storage error; the next start recovers",
                              outbox->path);
    }
    code = sqlite3_wal_checkpoint_v2(outbox->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (code == SQLITE_OK)
        return 0;
    sqlite3_db_config(outbox->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return outbox_explain_sqlite(ret_why, outbox->db, code, outbox->path,
                                 "its WAL was not moved into it at the end, and is kept");
}

int outbox_close(struct outbox *outbox, char ret_why[OUTBOX_WHY_BYTES])
{
    int error, code;

    if (!outbox)
        return 0;
    outbox_rollback(outbox);
    error = last_checkpoint(outbox, ret_why);
    if (error == 0)
        mark_unused(outbox);
    code = release(outbox);
    if (error == 0 && code != SQLITE_OK)
        return outbox_explain(ret_why, -EIO, "the database cannot be closed: %s",
                              sqlite3_errstr(code));
    return error;
}

int outbox_open_key(const struct outbox *outbox, struct identity_key **ret_key,
                    char ret_why[OUTBOX_WHY_BYTES])
{
    char why[JWKS_WHY_BYTES];
    int error = identity_key_open(key_path(outbox).path, false, ret_key, why);

    return error == 0 ? 0 : outbox_explain(ret_why, error, "%s", why);
}

int outbox_mark_failed(const struct outbox *outbox)
{
    autoclose int fd = open(beside(outbox, ".failed").path,
                            O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, DATABASE_MODE);

    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return outbox_sync_folder_of(outbox->path);
}
