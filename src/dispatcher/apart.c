#include "dispatcher/apart.h"

#include "outbox_internal.h"

static const struct {
    const char *rows, *row, *length, *remove;
} texts[] = {
    [APART_QUARANTINE] =
        {
            .rows = "SELECT id, reason, client_id, received_at_ms, length(body), "
                    "CASE WHEN ?3 THEN body END FROM quarantine WHERE id > ?1 ORDER BY id LIMIT ?2",
            .row = "SELECT id, reason, client_id, received_at_ms, length(body), body "
                   "FROM quarantine WHERE id = ?1",
            .length = "SELECT length(body) FROM quarantine WHERE id = ?1",
            .remove = "DELETE FROM quarantine WHERE id = ?1",
        },
    [APART_DEFERRED] =
        {
            .rows = "SELECT id, 'kid_unknown', client_id, received_at_ms, length(body), "
                    "CASE WHEN ?3 THEN body END FROM deferred WHERE id > ?1 ORDER BY id LIMIT ?2",
            .row = "SELECT id, 'kid_unknown', client_id, received_at_ms, length(body), body "
                   "FROM deferred WHERE id = ?1",
            .length = "SELECT length(body) FROM deferred WHERE id = ?1",
            .remove = "DELETE FROM deferred WHERE id = ?1",
        },
};

static void read_row(sqlite3_stmt *statement, struct apart_row *ret_row)
{
    *ret_row = (struct apart_row){
        .id = sqlite3_column_int64(statement, 0),
        .reason = (const char *)sqlite3_column_text(statement, 1),
        .client_id = (const char *)sqlite3_column_text(statement, 2),
        .received_at_ms = sqlite3_column_int64(statement, 3),
        .body_bytes = (size_t)sqlite3_column_int64(statement, 4),
        .body = sqlite3_column_blob(statement, 5),
    };
}

static int give_rows(sqlite3_stmt *statement,
                     bool (*on_row)(void *context, const struct apart_row *row), void *context)
{
    int count = 0;
    int code;

    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct apart_row row;

        read_row(statement, &row);
        count++;
        if (!on_row(context, &row))
            break;
    }
    return code == SQLITE_ROW || code == SQLITE_DONE ? count : outbox_reader_error(code);
}

int apart_rows(struct outbox_reader *reader, enum apart_table table, int64_t after, unsigned limit,
               bool with_bodies, bool (*on_row)(void *context, const struct apart_row *row),
               void *context)
{
    OUTBOX_STATEMENT(statement);
    int code =
        sqlite3_prepare_v2(outbox_reader_db(reader), texts[table].rows, -1, &statement, NULL);

    if (code != SQLITE_OK)
        return outbox_reader_error(code);
    sqlite3_bind_int64(statement, 1, after);
    sqlite3_bind_int64(statement, 2, limit);
    sqlite3_bind_int(statement, 3, with_bodies);
    return give_rows(statement, on_row, context);
}

int apart_row(struct outbox_reader *reader, enum apart_table table, int64_t id,
              bool (*on_row)(void *context, const struct apart_row *row), void *context)
{
    OUTBOX_STATEMENT(statement);
    int code = sqlite3_prepare_v2(outbox_reader_db(reader), texts[table].row, -1, &statement, NULL);

    if (code != SQLITE_OK)
        return outbox_reader_error(code);
    sqlite3_bind_int64(statement, 1, id);
    return give_rows(statement, on_row, context);
}

static void count_less(struct outbox_apart *apart, enum apart_table table, int64_t bytes)
{
    if (table == APART_QUARANTINE) {
        apart->quarantine_rows--;
        apart->quarantine_bytes -= bytes;
    } else {
        apart->deferred_rows--;
        apart->deferred_bytes -= bytes;
    }
}

enum outbox_error apart_remove(struct outbox *outbox, enum apart_table table, int64_t id,
                               bool *ret_removed)
{
    OUTBOX_STATEMENT(length);
    OUTBOX_STATEMENT(remove);
    enum outbox_error error = outbox_prepare(outbox, texts[table].length, &length);
    int64_t bytes;
    int code;

    if (error == OUTBOX_ERROR_NONE)
        error = outbox_prepare(outbox, texts[table].remove, &remove);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_int64(length, 1, id);
    code = sqlite3_step(length);
    bytes = sqlite3_column_int64(length, 0);
    sqlite3_reset(length);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_check(outbox, code);
    *ret_removed = code == SQLITE_ROW;
    if (code == SQLITE_DONE)
        return OUTBOX_ERROR_NONE;
    sqlite3_bind_int64(remove, 1, id);
    error = outbox_check(outbox, outbox_step(remove));
    if (error == OUTBOX_ERROR_NONE)
        count_less(&outbox->pending.apart, table, bytes);
    return error;
}
