/*
 * wal_check: whether a write-ahead log was damaged where commits still follow.
 *
 * SQLite recovers a WAL up to the first frame whose checksum is wrong, and writes over the rest
 * (https://sqlite.org/fileformat2.html section 4.2). Of a process or a machine that died that is
 * right: what was not synced yet, the last commit at most, nobody was told of. More commits behind
 * that place were synced one after the other, so the disk has changed what it held.
 */
#ifndef SIWA_DISPATCHER_WAL_CHECK_H
#define SIWA_DISPATCHER_WAL_CHECK_H

#include <stddef.h>

/* How many commits of its present round a WAL holds behind the place where recovery ends; 0 for
 * what is no WAL, or empty. Up to 1 is in order. page_bytes is that of its database. 0, or -errno
 * where it cannot be read. Any thread. */
int wal_check(int fd, size_t page_bytes, unsigned *ret_unreachable);

#endif
