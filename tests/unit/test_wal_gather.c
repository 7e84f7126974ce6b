/*
 * The layer that gathers WAL frames, held against SQLite without it: the same bytes, the same
 * errors, and what a power cut leaves.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/dispatcher/wal_gather.h"

#define FILE_MAX_BYTES (8 << 20)
#define SECTOR_BYTES   512
#define STEPS          80
#define SMALL_CACHE    "10" /* pages: transactions spill */
#define LARGE_CACHE    "1000"

enum { DATABASE, WAL, FILES };

static char folder[] = "/tmp/siwa-gather-XXXXXX";
static uint64_t random_state;

/* A sequence of its own: SQLite's is seeded, and must be left alone between two runs. */
static unsigned chance(unsigned below)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(random_state >> 33) % below;
}

/* ---- what is asked of the disk ---- */

/* A file as the program sees it, and as it would be after a power cut. */
struct image {
    ino_t inode;
    unsigned char *written, *synced;
    int64_t written_bytes, synced_bytes;
    bool dirty[FILE_MAX_BYTES / SECTOR_BYTES];
};

static struct image images[FILES];
static bool watching; /* keep the images, and look at what a power cut would leave */
static unsigned long wal_writes;
static long fail_at; /* the write that fails, counted down; 0: none */
static int fail_with;
static bool fail_short, fail_on;

static void look_after_power_cut(void);

static struct image *image_of(int fd)
{
    struct stat file;

    ck_assert(fstat(fd, &file) == 0);
    for (int i = 0; i < FILES; i++)
        if (images[i].inode == file.st_ino)
            return &images[i];
    return NULL;
}

static ssize_t watched_pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    struct image *image = image_of(fd);

    if (image == &images[WAL])
        wal_writes++;
    if (image && (fail_on || (fail_at > 0 && --fail_at == 0))) {
        if (fail_short && count > 1) {
            fail_short = false;
            fail_on = true; /* the rest is tried again */
            return pwrite(fd, bytes, count / 2, offset);
        }
        errno = fail_with;
        return -1;
    }
    if (image && watching) {
        look_after_power_cut();
        ck_assert_int_le(offset + (off_t)count, FILE_MAX_BYTES);
        memcpy(image->written + offset, bytes, count);
        for (size_t at = (size_t)offset / SECTOR_BYTES;
             at <= ((size_t)offset + count - 1) / SECTOR_BYTES; at++)
            image->dirty[at] = true;
        if (image->written_bytes < offset + (off_t)count)
            image->written_bytes = offset + (off_t)count;
    }
    return pwrite(fd, bytes, count, offset);
}

/* Stands before the C library's. */
int fdatasync(int fd)
{
    struct image *image = watching ? image_of(fd) : NULL;

    if (image) {
        look_after_power_cut();
        memcpy(image->synced, image->written, (size_t)image->written_bytes);
        image->synced_bytes = image->written_bytes;
        memset(image->dirty, 0, sizeof image->dirty);
    }
    return 0; /* no power is cut here but in the images */
}

/* A checkpoint sets the size of the database, which here only grows. */
static int watched_ftruncate(int fd, off_t bytes)
{
    struct image *image = watching ? image_of(fd) : NULL;

    if (image) {
        ck_assert_int_ge(bytes, image->written_bytes);
        ck_assert_int_le(bytes, FILE_MAX_BYTES);
        image->written_bytes = bytes;
    }
    return ftruncate(fd, bytes);
}

/* ---- databases ---- */

static void path_of(const char *name, int file, char ret_path[128])
{
    snprintf(ret_path, 128, "%s/%s%s", folder, name, file == WAL ? "-wal" : "");
}

static void execute(sqlite3 *db, const char *sql)
{
    char *why = NULL;

    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK, "%s: %s", sql, why);
}

static sqlite3 *open_database(const char *name, const char *vfs, const char *cache)
{
    char path[128], sql[64];
    sqlite3 *db = NULL;
    struct stat file;

    path_of(name, DATABASE, path);
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs),
                     SQLITE_OK);
    ck_assert_int_eq(sqlite3_extended_result_codes(db, 1), SQLITE_OK);
    /* salts come from here, and the same salts make the same bytes */
    sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 4711, db);
    snprintf(sql, sizeof sql, "PRAGMA cache_size = %s", cache);
    execute(db, sql);
    execute(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                "PRAGMA wal_autocheckpoint = 0;"
                "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB);"
                "CREATE TABLE IF NOT EXISTS progress (step INTEGER);"
                "INSERT INTO progress VALUES (0)");
    for (int i = 0; i < FILES; i++) {
        path_of(name, i, path);
        ck_assert(stat(path, &file) == 0);
        images[i].inode = file.st_ino;
    }
    return db;
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t result;

    ck_assert_int_eq(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(statement), SQLITE_ROW);
    result = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return result;
}

static int64_t content(sqlite3 *db)
{
    return number(db, "SELECT coalesce(sum((id * 31 + length(body)) * (1 + unicode(hex(body)))), 0)"
                      " FROM t");
}

/* The first statement that fails ends it. */
static int try(sqlite3 *db, int code, const char *format, ...)
{
    va_list arguments;
    char *sql;

    if (code != SQLITE_OK)
        return code;
    va_start(arguments, format);
    sql = sqlite3_vmprintf(format, arguments);
    va_end(arguments);
    code = sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_free(sql);
    return code;
}

/* One transaction: rows that fill pages and rows that span them, changes to old ones, a part that
 * is taken back; sometimes given up. */
static int transact(sqlite3 *db, unsigned step)
{
    unsigned rows = chance(8) == 0 ? 150 : 1 + chance(10);
    bool part = chance(4) == 0, keep = chance(6) != 0;
    int code = try(db, SQLITE_OK, "BEGIN IMMEDIATE");

    for (unsigned i = 0; i < rows; i++)
        code = try(db, code, "INSERT INTO t(body) VALUES (zeroblob(%u) || '%u')",
                   chance(30) == 0 ? 9000 : chance(900), chance(1000));
    code = try(db, code,
               "UPDATE t SET body = body || 'x' WHERE id %% 7 = %u AND id > "
               "(SELECT max(id) FROM t) - 100",
               chance(7));
    if (part)
        code = try(db, code,
                   "SAVEPOINT part; INSERT INTO t(body) VALUES (zeroblob(30000));"
                   "DELETE FROM t WHERE id %% 50 = %u; ROLLBACK TO part; RELEASE part",
                   chance(50));
    code = try(db, code, "UPDATE progress SET step = %u", step);
    code = try(db, code, keep ? "COMMIT" : "ROLLBACK");
    if (!sqlite3_get_autocommit(db)) {
        ck_assert_int_ne(code, SQLITE_OK);
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    return code;
}

static void checkpoint(sqlite3 *db)
{
    int in_wal = -1, moved = -1;

    ck_assert_int_eq(
        sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_wal, &moved), SQLITE_OK);
    ck_assert_int_eq(in_wal, moved);
}

static void remove_database(const char *name)
{
    char path[128];

    for (int i = 0; i < FILES; i++) {
        path_of(name, i, path);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/%s-shm", folder, name);
    unlink(path);
}

static void setup(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    sqlite3_syscall_ptr write_call = (sqlite3_syscall_ptr)watched_pwrite;

    ck_assert_int_eq(wal_gather_register(NULL), SQLITE_OK);
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    ck_assert(mkdtemp(folder));
    ck_assert(vfs->xSetSystemCall(vfs, "pwrite", write_call) == SQLITE_OK);
    ck_assert(vfs->xSetSystemCall(vfs, "pwrite64", write_call) == SQLITE_OK);
    ck_assert(vfs->xSetSystemCall(vfs, "ftruncate", (sqlite3_syscall_ptr)watched_ftruncate) ==
              SQLITE_OK);
    random_state = 1;
    wal_writes = 0;
}

static void teardown(void)
{
    static const char *const names[] = {"plain", "gathered", "x", "copy"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        remove_database(names[i]);
    ck_assert(rmdir(folder) == 0);
}

/* ---- the same bytes ---- */

static size_t read_file(const char *path, unsigned char *ret_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = read(fd, ret_bytes, FILE_MAX_BYTES);

    ck_assert(fd >= 0 && count >= 0);
    close(fd);
    return (size_t)count;
}

/* FNV-1a of the WAL after each step, but for zeros at its end; and what the database then holds. */
static uint64_t trace_of(const char *name, const char *vfs, const char *cache,
                         uint64_t ret_trace[STEPS], int *ret_spills)
{
    static unsigned char bytes[FILE_MAX_BYTES];
    sqlite3 *db = open_database(name, vfs, cache);
    char path[128];
    int high;

    random_state = 42;
    wal_writes = 0;
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t hash = UINT64_C(14695981039346656037);
        size_t count;

        ck_assert_int_eq(transact(db, step), SQLITE_OK);
        path_of(name, WAL, path);
        count = read_file(path, bytes);
        while (count > 0 && bytes[count - 1] == 0)
            count--;
        for (size_t i = 0; i < count; i++)
            hash = (hash ^ bytes[i]) * UINT64_C(1099511628211);
        ret_trace[step] = hash;
        if (step % 20 == 19)
            checkpoint(db);
    }
    sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_SPILL, ret_spills, &high, 0);
    high = (int)(content(db) & INT32_MAX);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    return (uint64_t)high;
}

START_TEST(the_file_is_the_same_byte_for_byte)
{
    static const char *const caches[] = {SMALL_CACHE, LARGE_CACHE};
    const char *cache = caches[_i];
    uint64_t plain[STEPS], gathered[STEPS], end;
    unsigned long plain_writes;
    int spills = 0;

    end = trace_of("plain", NULL, cache, plain, &spills);
    plain_writes = wal_writes;
    ck_assert_uint_eq(trace_of("gathered", WAL_GATHER_VFS, cache, gathered, &spills), end);
    for (unsigned step = 0; step < STEPS; step++)
        ck_assert_msg(plain[step] == gathered[step], "step %u", step);
    ck_assert_uint_lt(wal_writes * (_i == 0 ? 1 : 10), plain_writes);
    ck_assert(_i == 0 ? spills > 100 : spills == 0);
}
END_TEST

static int64_t wal_bytes(void)
{
    char path[128];
    struct stat file;

    path_of("x", WAL, path);
    ck_assert(stat(path, &file) == 0);
    return (int64_t)file.st_size;
}

START_TEST(a_commit_is_one_write_into_room_that_is_there)
{
    sqlite3 *db = open_database("x", WAL_GATHER_VFS, LARGE_CACHE);
    int64_t bytes = wal_bytes();
    unsigned grown = 0;

    for (int i = 0; i < 200; i++) {
        bool grows;

        wal_writes = 0;
        execute(db, "BEGIN; INSERT INTO t(body) VALUES (zeroblob(3000)), (zeroblob(3000)),"
                    "(zeroblob(3000)); UPDATE progress SET step = step + 1; COMMIT");
        grows = wal_bytes() > bytes;
        ck_assert(grows ? wal_bytes() >= bytes + WAL_AHEAD_BYTES : wal_writes == 1);
        grown += grows;
        bytes = wal_bytes();
    }
    ck_assert_uint_ge(grown, 3);
    ck_assert_uint_le(grown, 6);
    /* it begins anew, and is long enough for ever */
    checkpoint(db);
    wal_writes = 0;
    execute(db, "UPDATE progress SET step = step + 1");
    ck_assert_uint_eq(wal_writes, 2); /* its header, and the commit */
    ck_assert_int_eq(wal_bytes(), bytes);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

/* ---- errors ---- */

/* What stands in the files alone, as another process finds it that recovers. */
static void check_copy(int64_t expected_content)
{
    static unsigned char bytes[FILE_MAX_BYTES];
    char path[128];
    sqlite3 *db = NULL;

    for (int i = 0; i < FILES; i++) {
        size_t count;
        int fd;

        path_of("x", i, path);
        count = read_file(path, bytes);
        path_of("copy", i, path);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
        close(fd);
    }
    path_of("copy", DATABASE, path);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(content(db), expected_content);
    ck_assert_int_eq(number(db, "SELECT count(*) FROM pragma_integrity_check WHERE "
                                "integrity_check = 'ok'"),
                     1);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    remove_database("copy");
}

/* Whichever write fails, and however: the transaction it belongs to is gone, those before stand,
 * and when the disk works again so do those after. */
static void fail_each_write(const char *cache, int error, bool partly, bool lasting)
{
    bool reached = true;

    for (long at = 1; reached; at += 1 + at / 3) {
        sqlite3 *db = open_database("x", WAL_GATHER_VFS, cache);
        int64_t before = 0;

        random_state = 7;
        fail_with = error;
        fail_short = partly;
        fail_at = at;
        for (unsigned step = 0; step < 12; step++) {
            int code = transact(db, step);

            if (code != SQLITE_OK) {
                ck_assert_int_eq(code, error == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE);
                ck_assert_int_eq(content(db), before);
                if (lasting && !fail_on) {
                    fail_on = true; /* it goes on failing for one more transaction */
                    continue;
                }
                check_copy(before);
            }
            fail_on = false;
            before = content(db);
        }
        reached = fail_at == 0;
        fail_at = 0;
        fail_on = false;
        check_copy(before);
        ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
        remove_database("x");
    }
}

START_TEST(a_write_that_fails)
{
    static const struct {
        const char *cache;
        int error;
        bool partly, lasting;
    } cases[] = {
        {LARGE_CACHE, ENOSPC, false, false}, {LARGE_CACHE, EIO, false, false},
        {LARGE_CACHE, ENOSPC, true, false},  {LARGE_CACHE, ENOSPC, false, true},
        {SMALL_CACHE, ENOSPC, false, false}, {SMALL_CACHE, EIO, true, false},
        {SMALL_CACHE, ENOSPC, true, true},
    };

    fail_each_write(cases[_i].cache, cases[_i].error, cases[_i].partly, cases[_i].lasting);
}
END_TEST

/* Frames are dropped in the middle of a transaction, and whoever goes on behind them is refused: no
 * commit frame may stand behind frames that are not there. */
START_TEST(nothing_is_written_behind_a_hole)
{
    unsigned char frame[24 + 512] = {0};
    sqlite3_vfs *vfs = sqlite3_vfs_find(WAL_GATHER_VFS);
    sqlite3_file *file = calloc(1, (size_t)vfs->szOsFile);
    char path[128];
    sqlite3_filename name;
    sqlite3_int64 bytes;
    struct stat status;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_WAL;

    path_of("x", DATABASE, path); /* its mode is wanted */
    ck_assert_int_ge(creat(path, 0600), 0);
    path_of("x", WAL, path);
    name = sqlite3_create_filename(path, "", path, 0, NULL);
    ck_assert_int_eq(vfs->xOpen(vfs, name, file, flags, &flags), SQLITE_OK);
    ck_assert(stat(path, &status) == 0);
    images[WAL].inode = status.st_ino;
    ck_assert_int_eq(file->pMethods->xWrite(file, frame, 32, 0), SQLITE_OK);
    ck_assert_int_eq(file->pMethods->xWrite(file, frame, 24, 32), SQLITE_OK);
    ck_assert_int_eq(file->pMethods->xWrite(file, frame, 512, 56), SQLITE_OK);
    fail_on = true;
    fail_with = EIO;
    ck_assert_int_eq(file->pMethods->xFileSize(file, &bytes), SQLITE_IOERR_WRITE);
    fail_on = false;
    ck_assert_int_eq(file->pMethods->xWrite(file, frame, 24, 568), SQLITE_IOERR_WRITE);
    ck_assert_int_eq(file->pMethods->xWrite(file, frame, 24, 32), SQLITE_OK);
    ck_assert_int_eq(file->pMethods->xWrite(file, frame, 512, 56), SQLITE_OK);
    ck_assert_int_eq(file->pMethods->xFileSize(file, &bytes), SQLITE_OK);
    ck_assert_int_ge(bytes, 568);
    ck_assert_int_eq(file->pMethods->xClose(file), SQLITE_OK);
    sqlite3_free_filename(name);
    free(file);
}
END_TEST

/* ---- power cuts ---- */

static unsigned acknowledged; /* the last step that committed, 0: none */
static int64_t content_acknowledged;
static unsigned cuts, ahead, one_cut_in;

/* The disk has what was synced, and of what was written since, any sectors. */
static void write_survivors(int file)
{
    static unsigned char bytes[FILE_MAX_BYTES];
    struct image *image = &images[file];
    unsigned kept = chance(3) == 0 ? 100 : chance(101); /* per cent */
    int64_t end = image->synced_bytes;
    char path[128];
    int fd;

    memset(bytes, 0, (size_t)image->written_bytes);
    memcpy(bytes, image->synced, (size_t)image->synced_bytes);
    for (int64_t at = 0; at < image->written_bytes; at += SECTOR_BYTES) {
        if (!image->dirty[at / SECTOR_BYTES] || chance(100) >= kept)
            continue;
        memcpy(bytes + at, image->written + at, SECTOR_BYTES);
        if (end < at + SECTOR_BYTES)
            end = at + SECTOR_BYTES;
    }
    if (end > image->written_bytes)
        end = image->written_bytes;
    path_of("copy", file, path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert(fd >= 0 && write(fd, bytes, (size_t)end) == end);
    close(fd);
}

/* All that was acknowledged is there, and nothing else but, whole, the transaction under way. */
static void look_after_power_cut(void)
{
    sqlite3 *db = NULL;
    char path[128];
    int64_t found;

    if (chance(one_cut_in) != 0)
        return;
    watching = false;
    for (int i = 0; i < FILES; i++)
        write_survivors(i);
    path_of("copy", DATABASE, path);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(number(db, "SELECT count(*) FROM pragma_integrity_check WHERE "
                                "integrity_check = 'ok'"),
                     1);
    found = number(db, "SELECT step FROM progress");
    ck_assert_int_ge(found, acknowledged);
    if (found == acknowledged)
        ck_assert_int_eq(content(db), content_acknowledged);
    else
        ahead++;
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    remove_database("copy");
    cuts++;
    watching = true;
}

static void begin_watching(const char *name)
{
    for (int i = 0; i < FILES; i++) {
        char path[128];

        images[i].written = calloc(1, FILE_MAX_BYTES);
        images[i].synced = calloc(1, FILE_MAX_BYTES);
        ck_assert(images[i].written && images[i].synced);
        path_of(name, i, path);
        images[i].written_bytes = (int64_t)read_file(path, images[i].written);
        images[i].synced_bytes = (int64_t)read_file(path, images[i].synced);
    }
    watching = true;
}

START_TEST(a_power_cut_takes_nothing_that_was_acknowledged)
{
    sqlite3 *db = open_database("x", WAL_GATHER_VFS, _i == 0 ? LARGE_CACHE : SMALL_CACHE);

    checkpoint(db);
    one_cut_in = _i == 0 ? 2 : 30;
    begin_watching("x");
    random_state = 99 + (uint64_t)_i;
    for (unsigned step = 1; step <= 60; step++) {
        ck_assert_int_eq(transact(db, step), SQLITE_OK);
        acknowledged = (unsigned)number(db, "SELECT step FROM progress");
        content_acknowledged = content(db);
        if (step % 15 == 0)
            checkpoint(db);
    }
    watching = false;
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    printf("%u power cuts, %u left the transaction under way\n", cuts, ahead);
    ck_assert_uint_gt(cuts, 50);
    for (int i = 0; i < FILES; i++) {
        free(images[i].written);
        free(images[i].synced);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_gather");
    TCase *tests = tcase_create("wal_gather");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, the_file_is_the_same_byte_for_byte, 0, 2);
    tcase_add_test(tests, a_commit_is_one_write_into_room_that_is_there);
    tcase_add_loop_test(tests, a_write_that_fails, 0, 7);
    tcase_add_test(tests, nothing_is_written_behind_a_hole);
    tcase_add_loop_test(tests, a_power_cut_takes_nothing_that_was_acknowledged, 0, 2);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
