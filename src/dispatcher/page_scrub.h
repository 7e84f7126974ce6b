/*
 * page_scrub: a VFS under which no page of the database file keeps what was deleted from it.
 *
 * PRAGMA secure_delete overwrites a cell where it is removed, but when SQLite lays the cells of a
 * page out anew, to merge it with its neighbours, the old copies of those that stay are left in the
 * space between them and the page's list of cells. If such a row is erased later, only the copy
 * that is in use goes. That space has no meaning (https://sqlite.org/fileformat2.html section 1.6),
 * so every leaf of a table gets zeros there on its way into the file. The WAL is written as it is,
 * and has to be emptied.
 */
#ifndef SIWA_DISPATCHER_PAGE_SCRUB_H
#define SIWA_DISPATCHER_PAGE_SCRUB_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SCRUB_VFS   "siwa-scrub"
#define PAGE_SCRUB_BYTES 4096 /* a page; those of a file with another size are not touched */

/* A table's leaf is known by its first byte, 0x0d. Pages that hold what does not fit begin with the
 * number of another page, which has this first byte only in files of more pages than this. */
#define PAGE_SCRUB_PAGES_MAX 0x0cffffff

/* Makes the VFS known to sqlite3_open_v2, above the default one. A result code of SQLite. Main
 * thread; calling it again does no harm. */
int page_scrub_register(void);

/* Zeros what a page leaves unused between its list of cells and the cells; a page that is no sound
 * leaf of a table stays as it is. Any thread. */
void page_scrub(unsigned char page[PAGE_SCRUB_BYTES]);

#endif
