#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "outbox_internal.h"

/* How many steps of SQLite's machine pass between two looks at whether a check is to stop. */
#define STOP_CHECK_STEPS 10000

enum reader_statement {
    READER_ROWS,
    READER_RAW,
    READER_TEST,
    READER_STATE,
    READER_APPS,
    READER_DAYS,
    READER_DATA_VERSION,
    READER_STATEMENTS
};

static const char *const statement_texts[READER_STATEMENTS] = {
    [READER_ROWS] = OUTBOX_POLL_SQL,
    [READER_RAW] = "SELECT raw_id, body FROM events LEFT JOIN raw ON raw.id = raw_id "
                   "WHERE events.id = ?1",
    [READER_TEST] = "SELECT received_at_ms FROM events WHERE test = 1 AND jti = ?1 "
                    "ORDER BY id DESC LIMIT 1",
    [READER_STATE] = "SELECT generation, pruned_through, last_id FROM outbox_state",
    [READER_APPS] = "SELECT client_id, last_accepted_ms FROM apps",
    [READER_DAYS] = "SELECT day, what, name, client_id, count FROM days WHERE day >= ?1 "
                    "ORDER BY day, what, name, client_id",
    [READER_DATA_VERSION] = "PRAGMA data_version",
};

struct outbox_reader {
    sqlite3 *db;
    sqlite3_stmt *statements[READER_STATEMENTS];
    char path[PATH_MAX];
};

int outbox_reader_error(int code)
{
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_ERROR: /* a table or view is missing */
    case SQLITE_SCHEMA:
        return -EINVAL;
    default:
        return -EIO;
    }
}

sqlite3 *outbox_reader_db(struct outbox_reader *reader)
{
    return reader->db;
}

static int prepare(struct outbox_reader *reader)
{
    int code =
        sqlite3_exec(reader->db, "PRAGMA query_only = ON; PRAGMA mmap_size = 0", NULL, NULL, NULL);

    for (int i = 0; code == SQLITE_OK && i < READER_STATEMENTS; i++)
        code = sqlite3_prepare_v3(reader->db, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                                  &reader->statements[i], NULL);
    return code;
}

static int open_all(struct outbox_reader *reader, const char *path, char *ret_why)
{
    struct stat file;
    int code, error;

    if (strlen(path) >= sizeof reader->path)
        return outbox_explain(ret_why, -ENAMETOOLONG, "%.100s…: the path is too long", path);
    strcpy(reader->path, path);
    if (stat(path, &file) < 0)
        return outbox_explain(ret_why, -errno, "%s: %s; %s", path, strerror(errno),
                              errno == EACCES ? OUTBOX_DENIED
                                              : "is `database` right, and did `serve` run?");
    code = sqlite3_open_v2(path, &reader->db,
                           SQLITE_OPEN_READONLY | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOMUTEX |
                               SQLITE_OPEN_PRIVATECACHE,
                           NULL);
    if (code == SQLITE_OK)
        code = outbox_connection_settings(reader->db);
    if (code != SQLITE_OK)
        return outbox_explain_sqlite(ret_why, reader->db, code, path, "cannot be opened");
    error = outbox_schema_check(reader->db, path, ret_why);
    if (error < 0)
        return error;
    code = prepare(reader);
    if (code != SQLITE_OK)
        return outbox_explain_sqlite(ret_why, reader->db, code, path, "cannot be read");
    return 0;
}

int outbox_reader_open(const char *path, struct outbox_reader **ret_reader,
                       char ret_why[OUTBOX_WHY_BYTES])
{
    struct outbox_reader *reader = calloc(1, sizeof *reader);
    int error;

    if (!reader)
        return outbox_explain(ret_why, -ENOMEM, "%s: out of memory", path);
    error = open_all(reader, path, ret_why);
    if (error < 0) {
        outbox_reader_close(reader);
        return error;
    }
    *ret_reader = reader;
    return 0;
}

void outbox_reader_close(struct outbox_reader *reader)
{
    if (!reader)
        return;
    for (int i = 0; i < READER_STATEMENTS; i++)
        sqlite3_finalize(reader->statements[i]);
    sqlite3_close(reader->db); /* nothing was written: nothing can be lost */
    free(reader);
}

static const char *text(sqlite3_stmt *statement, int column)
{
    return (const char *)sqlite3_column_text(statement, column);
}

static int64_t number_or(sqlite3_stmt *statement, int column, int64_t absent)
{
    if (sqlite3_column_type(statement, column) == SQLITE_NULL)
        return absent;
    return sqlite3_column_int64(statement, column);
}

static void read_row(sqlite3_stmt *statement, struct outbox_row *ret_row)
{
    ret_row->id = sqlite3_column_int64(statement, 0);
    ret_row->type = text(statement, 1);
    ret_row->client_id = text(statement, 2);
    ret_row->app = text(statement, 3);
    ret_row->team = text(statement, 4);
    ret_row->sub = text(statement, 5);
    ret_row->email = text(statement, 6);
    ret_row->is_private_email = (int)number_or(statement, 7, -1);
    ret_row->event_time_ms = number_or(statement, 8, -1);
    ret_row->issued_at_ms = sqlite3_column_int64(statement, 9);
    ret_row->received_at_ms = sqlite3_column_int64(statement, 10);
    ret_row->jti = text(statement, 11);
    ret_row->raw_type = text(statement, 12);
}

int outbox_reader_rows(struct outbox_reader *reader, int64_t after, unsigned limit,
                       bool (*on_row)(void *context, const struct outbox_row *row), void *context)
{
    sqlite3_stmt *statement = reader->statements[READER_ROWS];
    unsigned most = limit < INT_MAX ? limit : INT_MAX;
    int count = 0;
    int code;

    sqlite3_bind_int64(statement, 1, after);
    sqlite3_bind_int64(statement, 2, most);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct outbox_row row;

        read_row(statement, &row);
        count++;
        if (!on_row(context, &row))
            break;
    }
    sqlite3_reset(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? count : outbox_reader_error(code);
}

static int read_raw(sqlite3_stmt *statement, int64_t *ret_raw_id, char **ret_body,
                    size_t *ret_bytes)
{
    const void *body = sqlite3_column_blob(statement, 1); /* NULL also where it is empty */
    size_t bytes = (size_t)sqlite3_column_bytes(statement, 1);
    char *copy = NULL;

    if (body) {
        copy = malloc(bytes);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, body, bytes);
    }
    *ret_raw_id = sqlite3_column_int64(statement, 0);
    *ret_body = copy;
    *ret_bytes = copy ? bytes : 0;
    return 0;
}

int outbox_reader_raw(struct outbox_reader *reader, int64_t id, int64_t *ret_raw_id,
                      char **ret_body, size_t *ret_bytes)
{
    sqlite3_stmt *statement = reader->statements[READER_RAW];
    int code, error;

    sqlite3_bind_int64(statement, 1, id);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        error = read_raw(statement, ret_raw_id, ret_body, ret_bytes);
    else
        error = code == SQLITE_DONE ? -ENOENT : outbox_reader_error(code);
    sqlite3_reset(statement);
    return error;
}

int outbox_reader_test(struct outbox_reader *reader, const char *jti, int64_t *ret_received_at_ms)
{
    sqlite3_stmt *statement = reader->statements[READER_TEST];
    int code;

    sqlite3_bind_text(statement, 1, jti, -1, SQLITE_TRANSIENT);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret_received_at_ms = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    if (code == SQLITE_ROW)
        return 0;
    return code == SQLITE_DONE ? -ENOENT : outbox_reader_error(code);
}

int outbox_reader_state(struct outbox_reader *reader, struct outbox_state *ret_state)
{
    sqlite3_stmt *statement = reader->statements[READER_STATE];
    int code = sqlite3_step(statement);

    if (code == SQLITE_ROW) {
        ret_state->generation = sqlite3_column_int64(statement, 0);
        ret_state->pruned_through = sqlite3_column_int64(statement, 1);
        ret_state->last_id = sqlite3_column_int64(statement, 2);
    }
    sqlite3_reset(statement);
    return code == SQLITE_ROW ? 0 : code == SQLITE_DONE ? -EIO : outbox_reader_error(code);
}

int outbox_reader_last_accepted(struct outbox_reader *reader,
                                void (*on_app)(void *context, const char *client_id,
                                               int64_t last_ms),
                                void *context)
{
    sqlite3_stmt *statement = reader->statements[READER_APPS];
    int code;

    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        on_app(context, text(statement, 0), sqlite3_column_int64(statement, 1));
    sqlite3_reset(statement);
    return code == SQLITE_DONE ? 0 : outbox_reader_error(code);
}

int outbox_reader_days(struct outbox_reader *reader, int64_t from_day,
                       void (*on_day)(void *context, const struct outbox_day *day), void *context)
{
    sqlite3_stmt *statement = reader->statements[READER_DAYS];
    int code;

    sqlite3_bind_int64(statement, 1, from_day);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        const struct outbox_day day = {.day = sqlite3_column_int64(statement, 0),
                                       .what = text(statement, 1),
                                       .name = text(statement, 2),
                                       .client_id = text(statement, 3),
                                       .count = sqlite3_column_int64(statement, 4)};
        on_day(context, &day);
    }
    sqlite3_reset(statement);
    return code == SQLITE_DONE ? 0 : outbox_reader_error(code);
}

int64_t outbox_reader_data_version(struct outbox_reader *reader)
{
    sqlite3_stmt *statement = reader->statements[READER_DATA_VERSION];
    int code = sqlite3_step(statement), moved = 0;
    int64_t version = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;

    sqlite3_reset(statement);
    if (code != SQLITE_ROW)
        return outbox_reader_error(code);
    code = sqlite3_file_control(reader->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    if (code != SQLITE_OK)
        return outbox_reader_error(code);
    return moved ? -ESTALE : version;
}

static int must_stop(void *context)
{
    const atomic_bool *stop = context;

    return atomic_load_explicit(stop, memory_order_relaxed);
}

int outbox_reader_quick_check(struct outbox_reader *reader, const atomic_bool *stop,
                              char ret_why[OUTBOX_WHY_BYTES])
{
    int error;

    if (stop)
        sqlite3_progress_handler(reader->db, STOP_CHECK_STEPS, must_stop, (void *)(uintptr_t)stop);
    error = outbox_quick_check(reader->db, reader->path, ret_why);
    sqlite3_progress_handler(reader->db, 0, NULL, NULL);
    return error;
}
