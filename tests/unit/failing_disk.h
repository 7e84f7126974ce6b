/*
 * A disk that fails when a test says so: fdatasync of this program stands before the C library's,
 * and SQLite's pwrite is replaced in its own table of system calls.
 */
#ifndef SIWA_TESTS_FAILING_DISK_H
#define SIWA_TESTS_FAILING_DISK_H

#include <check.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The error each call gives; 0: none, the call is made. */
static atomic_int sync_error, write_error;

int fdatasync(int fd)
{
    int error = atomic_load(&sync_error);

    if (error != 0) {
        errno = error;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static ssize_t failing_pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    int error = atomic_load(&write_error);

    if (error != 0) {
        errno = error;
        return -1;
    }
    return pwrite(fd, bytes, count, offset);
}

static inline void failing_disk_install(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    sqlite3_syscall_ptr call = (sqlite3_syscall_ptr)failing_pwrite;

    atomic_store(&sync_error, 0);
    atomic_store(&write_error, 0);
    /* which of the two SQLite calls depends on how it was built */
    ck_assert(vfs->xSetSystemCall(vfs, "pwrite", call) == SQLITE_OK);
    ck_assert(vfs->xSetSystemCall(vfs, "pwrite64", call) == SQLITE_OK);
}

#endif
