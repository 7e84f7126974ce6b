#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "outbox_internal.h"

struct version_library outbox_library(void)
{
    struct version_library library = {.name = "sqlite", .built = SQLITE_VERSION};

    (void)snprintf(library.running, sizeof library.running, "%s", sqlite3_libversion());
    return library;
}

#define NAMED(code) \
    { \
        code, #code \
    }

static const struct {
    int code;
    const char *name;
} names[] = {
    NAMED(SQLITE_ERROR),
    NAMED(SQLITE_INTERNAL),
    NAMED(SQLITE_PERM),
    NAMED(SQLITE_ABORT),
    NAMED(SQLITE_BUSY),
    NAMED(SQLITE_BUSY_RECOVERY),
    NAMED(SQLITE_BUSY_SNAPSHOT),
    NAMED(SQLITE_LOCKED),
    NAMED(SQLITE_NOMEM),
    NAMED(SQLITE_READONLY),
    NAMED(SQLITE_READONLY_RECOVERY),
    NAMED(SQLITE_READONLY_CANTLOCK),
    NAMED(SQLITE_READONLY_CANTINIT),
    NAMED(SQLITE_READONLY_ROLLBACK),
    NAMED(SQLITE_READONLY_DBMOVED),
    NAMED(SQLITE_READONLY_DIRECTORY),
    NAMED(SQLITE_INTERRUPT),
    NAMED(SQLITE_IOERR),
    NAMED(SQLITE_IOERR_READ),
    NAMED(SQLITE_IOERR_SHORT_READ),
    NAMED(SQLITE_IOERR_WRITE),
    NAMED(SQLITE_IOERR_FSYNC),
    NAMED(SQLITE_IOERR_DIR_FSYNC),
    NAMED(SQLITE_IOERR_TRUNCATE),
    NAMED(SQLITE_IOERR_FSTAT),
    NAMED(SQLITE_IOERR_UNLOCK),
    NAMED(SQLITE_IOERR_RDLOCK),
    NAMED(SQLITE_IOERR_DELETE),
    NAMED(SQLITE_IOERR_NOMEM),
    NAMED(SQLITE_IOERR_ACCESS),
    NAMED(SQLITE_IOERR_LOCK),
    NAMED(SQLITE_IOERR_CLOSE),
    NAMED(SQLITE_IOERR_SHMOPEN),
    NAMED(SQLITE_IOERR_SHMSIZE),
    NAMED(SQLITE_IOERR_SHMLOCK),
    NAMED(SQLITE_IOERR_SHMMAP),
    NAMED(SQLITE_IOERR_CORRUPTFS),
    NAMED(SQLITE_CORRUPT),
    NAMED(SQLITE_CORRUPT_INDEX),
    NAMED(SQLITE_FULL),
    NAMED(SQLITE_CANTOPEN),
    NAMED(SQLITE_CANTOPEN_FULLPATH),
    NAMED(SQLITE_CANTOPEN_ISDIR),
    NAMED(SQLITE_CANTOPEN_SYMLINK),
    NAMED(SQLITE_PROTOCOL),
    NAMED(SQLITE_SCHEMA),
    NAMED(SQLITE_TOOBIG),
    NAMED(SQLITE_CONSTRAINT),
    NAMED(SQLITE_CONSTRAINT_CHECK),
    NAMED(SQLITE_CONSTRAINT_DATATYPE),
    NAMED(SQLITE_CONSTRAINT_NOTNULL),
    NAMED(SQLITE_CONSTRAINT_PRIMARYKEY),
    NAMED(SQLITE_CONSTRAINT_ROWID),
    NAMED(SQLITE_CONSTRAINT_UNIQUE),
    NAMED(SQLITE_MISMATCH),
    NAMED(SQLITE_MISUSE),
    NAMED(SQLITE_AUTH),
    NAMED(SQLITE_RANGE),
    NAMED(SQLITE_NOTADB),
};

static const char *exact_name(int code)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code)
            return names[i].name;
    return NULL;
}

const char *outbox_error_name(int code)
{
    const char *name = exact_name(code);

    if (!name)
        name = exact_name(code & 0xff);
    return name ? name : "SQLITE_ERROR";
}

/* SQLite calls ENOSPC full only where it comes from write(2) itself, a quota never, and a file
 * system that was made read-only under an open file an I/O error like any other. All three pass. */
static bool is_full(int os_error)
{
    return os_error == ENOSPC || os_error == EDQUOT;
}

const char *outbox_error_label(int code, int os_error)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
        return "full";
    case SQLITE_READONLY:
        return "readonly";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return "locked";
    case SQLITE_NOMEM:
        return "memory";
    case SQLITE_CANTOPEN:
        return "cantopen";
    case SQLITE_IOERR:
        return code == SQLITE_IOERR_NOMEM ? "memory"
               : is_full(os_error)        ? "full"
               : os_error == EROFS        ? "readonly"
                                          : "ioerr";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return "corrupt";
    case SQLITE_CONSTRAINT:
    case SQLITE_TOOBIG:
    case SQLITE_MISMATCH:
    case SQLITE_RANGE:
        return "row";
    default:
        return "other";
    }
}

static bool is_sync(int code)
{
    return code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC;
}

enum outbox_error outbox_error_class(int code, int os_error)
{
    switch (code & 0xff) {
    case SQLITE_OK:
        return OUTBOX_ERROR_NONE;
    case SQLITE_READONLY:
        /* a file that was moved away: what is written into it is lost to everybody */
        return code == SQLITE_READONLY_DBMOVED ? OUTBOX_ERROR_FATAL : OUTBOX_ERROR_TRANSIENT;
    case SQLITE_FULL:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
    case SQLITE_NOMEM:
    case SQLITE_CANTOPEN:
        return OUTBOX_ERROR_TRANSIENT;
    case SQLITE_IOERR:
        if (code == SQLITE_IOERR_NOMEM)
            return OUTBOX_ERROR_TRANSIENT;
        /* after a sync that failed, whatever the reason, nobody knows what is on the disk */
        if ((is_full(os_error) || os_error == EROFS) && !is_sync(code))
            return OUTBOX_ERROR_TRANSIENT;
        return OUTBOX_ERROR_FATAL;
    case SQLITE_CONSTRAINT:
    case SQLITE_TOOBIG:
    case SQLITE_MISMATCH:
    case SQLITE_RANGE:
        return OUTBOX_ERROR_DELIVERY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return OUTBOX_ERROR_FATAL;
    default:
        return OUTBOX_ERROR_INTERNAL;
    }
}

int outbox_explain(char ret_why[OUTBOX_WHY_BYTES], int error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(ret_why, OUTBOX_WHY_BYTES, format, arguments);
    va_end(arguments);
    return error;
}

int outbox_explain_sqlite(char ret_why[OUTBOX_WHY_BYTES], sqlite3 *db, int code, const char *path,
                          const char *what)
{
    int os_error = db ? sqlite3_system_errno(db) : 0;
    bool locked = (code & 0xff) == SQLITE_BUSY;
    const char *cure = locked               ? "end the program that holds it"
                       : os_error == EACCES ? OUTBOX_DENIED
                                            : "check the file and its disk, or restore it from a "
                                              "backup";

    return outbox_explain(ret_why, locked ? -EBUSY : -EIO, "%s: %s: %s (%s%s%s); %s", path, what,
                          sqlite3_errstr(code), outbox_error_name(code), os_error ? ", " : "",
                          os_error ? strerror(os_error) : "", cure);
}
