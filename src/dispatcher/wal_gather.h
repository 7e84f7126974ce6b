/*
 * wal_gather: a layer under SQLite that writes a commit's frames to the WAL with one call, into
 * room that was made before.
 */
#ifndef SIWA_DISPATCHER_WAL_GATHER_H
#define SIWA_DISPATCHER_WAL_GATHER_H

/* A larger commit is written in pieces. SQLite's own layer writes at most 128 KiB - 1 with one
 * call, and takes 128 KiB and its multiples for a full disk (it masks the size with 0x1ffff). */
#define WAL_GATHER_BYTES (127 * 1024)

/* How far ahead the WAL is made longer: some fifty commits of one notification. */
#define WAL_AHEAD_BYTES (1024 * 1024)

#define WAL_GATHER_VFS "siwa-wal-gather"

/* Makes the layer known to sqlite3_open_v2, above the VFS of that name; NULL means the default one.
 * A connection opened through it behaves as any other, on the same files and beside the same
 * readers, and fails with the same codes. A result code of SQLite. Main thread; calling it again
 * changes nothing. */
int wal_gather_register(const char *below);

#endif
