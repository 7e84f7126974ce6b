/*
 * SQLite writes each frame of the WAL with two calls, 24 bytes and a page; two thirds of what the
 * daemon asks of the kernel for a notification were these. Here they are copied into one buffer and
 * written when the last frame of the commit is whole.
 *
 * Why that loses nothing:
 * - What is held back are frames of a transaction that has not committed. Its last frame, the one
 *   that makes it a commit, has the size of the database in bytes 4 to 7 of its header, others have
 *   zero there (https://sqlite.org/fileformat2.html section 4.1). With that frame everything is
 *   written before the call returns, so whatever comes after a commit (the sync, the index in
 *   shared memory, other connections, a checkpoint) finds the file as SQLite would have left it:
 *   byte for byte, as test_wal_gather compares.
 * - Before that, nobody else looks: readers and checkpoints go by the index, which learns of frames
 *   when they are committed, and recovery after a crash stops before a transaction that has no
 *   commit frame, or frames whose checksums do not chain. That holds without the buffer too: frames
 *   reach the disk in any order until the sync.
 * - The connection itself may read, measure, cut or sync the file in a transaction that does not
 *   fit into its cache: what is held back is written first. Only a close lets it go, as there
 *   nothing of it was committed.
 * - A write that fails may thus fail one that SQLite was told had worked. The frames are dropped,
 *   and until SQLite goes back to where they began, which it does by rolling back, nothing is
 *   written behind the hole that they left.
 *
 * And a sync costs a third less where the file has not become longer, for then there is nothing but
 * the data to write. So whenever a write reaches the end of the file, zeros follow it there, which
 * the commits to come overwrite; a WAL that begins anew is long enough already. Zeros are no frame:
 * the number of its page may not be 0, nor its salts differ from the header's, so recovery stops
 * there as it does at the frames of an earlier round, and nothing else goes by the length of the
 * file. Where they cannot be written, SQLite's own writes will meet the reason.
 *
 * Everything but the WAL goes past this layer.
 */
#include "wal_gather.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_HEADER_BYTES 24 /* nothing else in a WAL is written in this size */
#define NOWHERE            INT64_MAX

struct wal {
    sqlite3_file base; /* first: what SQLite sees */
    sqlite3_file *file;
    unsigned char *held;
    int held_bytes;
    sqlite3_int64 held_at;
    sqlite3_int64 next; /* where the last write ended */
    sqlite3_int64 hole; /* where frames were dropped, else NOWHERE */
    sqlite3_int64 size; /* of the file, with the zeros at its end */
    bool commits;       /* the last frame header was that of a commit */
};

/* The file below lies behind, as SQLite gives one piece of memory for both. */
#define WAL_BYTES ((sizeof(struct wal) + 15) / 16 * 16)

static struct wal *wal_of(sqlite3_file *file)
{
    return (struct wal *)file;
}

static void write_ahead(struct wal *wal, sqlite3_int64 end)
{
    static const unsigned char zeros[64 * 1024];

    wal->size = end;
    while (wal->size < end + WAL_AHEAD_BYTES) {
        if (wal->file->pMethods->xWrite(wal->file, zeros, sizeof zeros, wal->size) != SQLITE_OK)
            return;
        wal->size += (sqlite3_int64)sizeof zeros;
    }
}

static int write_through(struct wal *wal, const void *bytes, int count, sqlite3_int64 offset)
{
    int code = wal->file->pMethods->xWrite(wal->file, bytes, count, offset);

    if (code != SQLITE_OK)
        wal->hole = offset;
    else if (offset + count > wal->size)
        write_ahead(wal, offset + count);
    return code;
}

static int let_go(struct wal *wal)
{
    int count = wal->held_bytes;

    wal->held_bytes = 0;
    return count > 0 ? write_through(wal, wal->held, count, wal->held_at) : SQLITE_OK;
}

static bool is_commit(const unsigned char header[FRAME_HEADER_BYTES])
{
    return (header[4] | header[5] | header[6] | header[7]) != 0;
}

static int wal_write(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 offset)
{
    struct wal *wal = wal_of(file);
    bool follows = offset == wal->next;
    bool is_header = count == FRAME_HEADER_BYTES;
    int code = SQLITE_OK;

    if (offset > wal->hole)
        return SQLITE_IOERR_WRITE;
    wal->hole = NOWHERE;
    wal->next = offset + count;
    if (is_header)
        wal->commits = is_commit(bytes);
    if (!follows || count > WAL_GATHER_BYTES - wal->held_bytes)
        code = let_go(wal);
    if (code != SQLITE_OK)
        return code;
    if (!follows || count > WAL_GATHER_BYTES)
        return write_through(wal, bytes, count, offset);
    if (wal->held_bytes == 0)
        wal->held_at = offset;
    memcpy(wal->held + wal->held_bytes, bytes, (size_t)count);
    wal->held_bytes += count;
    return wal->commits && !is_header ? let_go(wal) : SQLITE_OK;
}

static int wal_read(sqlite3_file *file, void *ret_bytes, int count, sqlite3_int64 offset)
{
    struct wal *wal = wal_of(file);
    int code = let_go(wal);

    return code == SQLITE_OK ? wal->file->pMethods->xRead(wal->file, ret_bytes, count, offset)
                             : code;
}

static int wal_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
    struct wal *wal = wal_of(file);
    int code = let_go(wal);

    if (code == SQLITE_OK)
        code = wal->file->pMethods->xTruncate(wal->file, bytes);
    if (code == SQLITE_OK)
        wal->size = bytes;
    return code;
}

static int wal_sync(sqlite3_file *file, int flags)
{
    struct wal *wal = wal_of(file);
    int code = let_go(wal);

    return code == SQLITE_OK ? wal->file->pMethods->xSync(wal->file, flags) : code;
}

static int wal_size(sqlite3_file *file, sqlite3_int64 *ret_bytes)
{
    struct wal *wal = wal_of(file);
    int code = let_go(wal);

    return code == SQLITE_OK ? wal->file->pMethods->xFileSize(wal->file, ret_bytes) : code;
}

static int wal_close(sqlite3_file *file)
{
    struct wal *wal = wal_of(file);

    free(wal->held);
    wal->held = NULL;
    return wal->file->pMethods->xClose(wal->file);
}

static int wal_lock(sqlite3_file *file, int level)
{
    struct wal *wal = wal_of(file);

    return wal->file->pMethods->xLock(wal->file, level);
}

static int wal_unlock(sqlite3_file *file, int level)
{
    struct wal *wal = wal_of(file);

    return wal->file->pMethods->xUnlock(wal->file, level);
}

static int wal_check_lock(sqlite3_file *file, int *ret_locked)
{
    struct wal *wal = wal_of(file);

    return wal->file->pMethods->xCheckReservedLock(wal->file, ret_locked);
}

static int wal_control(sqlite3_file *file, int operation, void *argument)
{
    struct wal *wal = wal_of(file);

    return wal->file->pMethods->xFileControl(wal->file, operation, argument);
}

static int wal_sector_bytes(sqlite3_file *file)
{
    struct wal *wal = wal_of(file);

    return wal->file->pMethods->xSectorSize(wal->file);
}

static int wal_characteristics(sqlite3_file *file)
{
    struct wal *wal = wal_of(file);

    return wal->file->pMethods->xDeviceCharacteristics(wal->file);
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1, /* no shared memory and no mapping: SQLite wants them of the database alone */
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_check_lock,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector_bytes,
    .xDeviceCharacteristics = wal_characteristics,
};

static sqlite3_vfs gather;

static sqlite3_vfs *below(void)
{
    return gather.pAppData;
}

static int open_wal(const char *name, struct wal *wal, int flags, int *ret_flags)
{
    int code;

    memset(wal, 0, WAL_BYTES + (size_t)below()->szOsFile);
    wal->file = (sqlite3_file *)((char *)wal + WAL_BYTES);
    wal->next = -1;
    wal->hole = NOWHERE;
    wal->held = malloc(WAL_GATHER_BYTES);
    if (!wal->held)
        return SQLITE_NOMEM;
    code = below()->xOpen(below(), name, wal->file, flags, ret_flags);
    if (code == SQLITE_OK)
        code = wal->file->pMethods->xFileSize(wal->file, &wal->size);
    if (code == SQLITE_OK) {
        wal->base.pMethods = &wal_methods;
        return SQLITE_OK;
    }
    if (wal->file->pMethods)
        wal->file->pMethods->xClose(wal->file);
    free(wal->held);
    return code;
}

static int open_any(sqlite3_vfs *self, const char *name, sqlite3_file *file, int flags,
                    int *ret_flags)
{
    (void)self;
    if (flags & SQLITE_OPEN_WAL)
        return open_wal(name, wal_of(file), flags, ret_flags);
    return below()->xOpen(below(), name, file, flags, ret_flags);
}

/* A copy of the VFS below, which must look at nothing of its own in it but where it opens a file:
 * so it is with page_scrub's and with SQLite's. */
int wal_gather_register(const char *name)
{
    sqlite3_vfs *found = sqlite3_vfs_find(name);

    if (gather.pAppData)
        return SQLITE_OK;
    if (!found)
        return SQLITE_ERROR;
    gather = *found;
    gather.zName = WAL_GATHER_VFS;
    gather.pNext = NULL;
    gather.pAppData = found;
    gather.szOsFile = (int)WAL_BYTES + found->szOsFile;
    gather.xOpen = open_any;
    return sqlite3_vfs_register(&gather, 0);
}
