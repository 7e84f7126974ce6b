#include "page_scrub.h"

#include <sqlite3.h>
#include <string.h>

/* https://sqlite.org/fileformat2.html section 1.6 */
#define TABLE_LEAF         0x0d
#define HEADER_BYTES       8
#define CELL_COUNT_AT      3
#define CONTENT_AT         5
#define CELL_POINTER_BYTES 2

/* The file of the VFS below comes after it in memory. */
struct file {
    sqlite3_file base;
};

static sqlite3_vfs vfs;

static sqlite3_vfs *below(void)
{
    return vfs.pAppData;
}

static sqlite3_file *real(sqlite3_file *file)
{
    return (sqlite3_file *)((struct file *)file + 1);
}

static size_t number_at(const unsigned char *bytes)
{
    return (size_t)bytes[0] << 8 | bytes[1];
}

void page_scrub(unsigned char page[PAGE_SCRUB_BYTES])
{
    size_t begin = HEADER_BYTES + CELL_POINTER_BYTES * number_at(page + CELL_COUNT_AT);
    size_t end = number_at(page + CONTENT_AT);

    if (page[0] == TABLE_LEAF && begin < end && end <= PAGE_SCRUB_BYTES)
        memset(page + begin, 0, end - begin);
}

static int file_write(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 offset)
{
    unsigned char page[PAGE_SCRUB_BYTES];

    if (count != PAGE_SCRUB_BYTES)
        return real(file)->pMethods->xWrite(real(file), bytes, count, offset);
    memcpy(page, bytes, PAGE_SCRUB_BYTES); /* SQLite may go on using its own */
    page_scrub(page);
    return real(file)->pMethods->xWrite(real(file), page, count, offset);
}

static int file_close(sqlite3_file *file)
{
    return real(file)->pMethods->xClose(real(file));
}

static int file_read(sqlite3_file *file, void *bytes, int count, sqlite3_int64 offset)
{
    return real(file)->pMethods->xRead(real(file), bytes, count, offset);
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
    return real(file)->pMethods->xTruncate(real(file), bytes);
}

static int file_sync(sqlite3_file *file, int flags)
{
    return real(file)->pMethods->xSync(real(file), flags);
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_bytes)
{
    return real(file)->pMethods->xFileSize(real(file), ret_bytes);
}

static int file_lock(sqlite3_file *file, int level)
{
    return real(file)->pMethods->xLock(real(file), level);
}

static int file_unlock(sqlite3_file *file, int level)
{
    return real(file)->pMethods->xUnlock(real(file), level);
}

static int file_check_reserved(sqlite3_file *file, int *ret_reserved)
{
    return real(file)->pMethods->xCheckReservedLock(real(file), ret_reserved);
}

static int file_control(sqlite3_file *file, int what, void *argument)
{
    return real(file)->pMethods->xFileControl(real(file), what, argument);
}

static int file_sector(sqlite3_file *file)
{
    return real(file)->pMethods->xSectorSize(real(file));
}

static int file_device(sqlite3_file *file)
{
    return real(file)->pMethods->xDeviceCharacteristics(real(file));
}

static int file_shm_map(sqlite3_file *file, int region, int bytes, int extend,
                        void volatile **ret_memory)
{
    return real(file)->pMethods->xShmMap(real(file), region, bytes, extend, ret_memory);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    return real(file)->pMethods->xShmLock(real(file), offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file)
{
    real(file)->pMethods->xShmBarrier(real(file));
}

static int file_shm_unmap(sqlite3_file *file, int delete)
{
    return real(file)->pMethods->xShmUnmap(real(file), delete);
}

/* Version 2: without memory mapping, which would write past xWrite. */
static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_device,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

/* Whatever is not a database (the WAL, a journal) is opened by the VFS below alone. */
static int vfs_open(sqlite3_vfs *self, sqlite3_filename name, sqlite3_file *file, int flags,
                    int *ret_flags)
{
    int code;

    (void)self;
    if (!(flags & SQLITE_OPEN_MAIN_DB))
        return below()->xOpen(below(), name, file, flags, ret_flags);
    file->pMethods = NULL;
    memset(real(file), 0, (size_t)below()->szOsFile);
    code = below()->xOpen(below(), name, real(file), flags, ret_flags);
    if (code == SQLITE_OK)
        file->pMethods = &methods;
    else if (real(file)->pMethods)
        real(file)->pMethods->xClose(real(file));
    return code;
}

/* Everything but xOpen is that of the VFS below, which is told that it is called itself. */
static int vfs_delete(sqlite3_vfs *self, const char *name, int sync)
{
    (void)self;
    return below()->xDelete(below(), name, sync);
}

static int vfs_access(sqlite3_vfs *self, const char *name, int flags, int *ret_can)
{
    (void)self;
    return below()->xAccess(below(), name, flags, ret_can);
}

static int vfs_full_path(sqlite3_vfs *self, const char *name, int capacity, char *ret_path)
{
    (void)self;
    return below()->xFullPathname(below(), name, capacity, ret_path);
}

static int vfs_last_error(sqlite3_vfs *self, int capacity, char *ret_text)
{
    (void)self;
    return below()->xGetLastError(below(), capacity, ret_text);
}

int page_scrub_register(void)
{
    sqlite3_vfs *base = sqlite3_vfs_find(NULL);

    if (vfs.pAppData)
        return SQLITE_OK;
    if (!base)
        return SQLITE_ERROR;
    vfs = *base; /* what runs without a file, such as the clock, needs nothing of ours */
    vfs.zName = PAGE_SCRUB_VFS;
    vfs.pNext = NULL;
    vfs.pAppData = base;
    vfs.szOsFile = (int)sizeof(struct file) + base->szOsFile;
    vfs.xOpen = vfs_open;
    vfs.xDelete = vfs_delete;
    vfs.xAccess = vfs_access;
    vfs.xFullPathname = vfs_full_path;
    vfs.xGetLastError = vfs_last_error;
    return sqlite3_vfs_register(&vfs, 0);
}
