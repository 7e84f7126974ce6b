/*
 * How an erasure reads, in steps, and has the writer do what was found.
 */
#include <stdlib.h>
#include <string.h>

#include "erasure_work.h"
#include "outbox_internal.h"

static enum outbox_error reader_error(int code)
{
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB
               ? OUTBOX_ERROR_FATAL
               : OUTBOX_ERROR_TRANSIENT;
}

enum outbox_error erasure_prepare(struct erasure_round *round, const char *sql,
                                  sqlite3_stmt **ret_statement)
{
    int code = sqlite3_prepare_v2(outbox_reader_db(round->reader), sql, -1, ret_statement, NULL);

    return code == SQLITE_OK ? OUTBOX_ERROR_NONE : reader_error(code);
}

enum outbox_error erasure_ended(int code)
{
    return code == SQLITE_DONE || code == SQLITE_ROW ? OUTBOX_ERROR_NONE : reader_error(code);
}

void erasure_free_hits(struct erasure_hit **hits)
{
    free(*hits);
}

enum outbox_error erasure_work_off(struct erasure_round *round,
                                   enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                   const struct erasure_hit *hits, size_t count)
{
    struct erasure_work pieces = {
        .round = round, .hits = hits, .count = count, .now_ms = round->now_ms};
    enum outbox_error error = OUTBOX_ERROR_NONE;

    while (error == OUTBOX_ERROR_NONE && pieces.done < pieces.count) {
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
        error = round->have_done(round->context, work, &pieces);
    }
    return error;
}

/* Also an error ends the search through a body. */
static bool on_text(void *context, const char *text)
{
    struct erasure_search *search = context;
    bool found = false;

    search->code = search->find(search, text, &found);
    return found || erasure_ended(search->code) != OUTBOX_ERROR_NONE;
}

static bool wants(struct erasure_search *search, sqlite3_stmt *statement)
{
    int found = 0;
    const char *body = sqlite3_column_blob(statement, 1);
    const char *client_id = (const char *)sqlite3_column_text(statement, 2);

    search->client_id = client_id ? client_id : "";
    search->target = -1;
    search->code = SQLITE_DONE;
    if (body)
        found =
            erasure_body_texts(body, (size_t)sqlite3_column_bytes(statement, 1), on_text, search);
    if (found < 0)
        search->code = SQLITE_NOMEM;
    return found > 0;
}

static enum outbox_error find_bodies(struct erasure_search *search, sqlite3_stmt *statement,
                                     struct erasure_found *found)
{
    int looked = 0, code;

    found->count = 0;
    sqlite3_bind_int64(statement, 1, found->last_id);
    if (sqlite3_bind_parameter_count(statement) > 1)
        sqlite3_bind_int64(statement, 2, search->through);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        bool wanted = wants(search, statement);

        if (erasure_ended(search->code) != OUTBOX_ERROR_NONE) {
            code = search->code;
            break;
        }
        looked++;
        found->last_id = sqlite3_column_int64(statement, 0);
        if (wanted)
            found->hits[found->count++] =
                (struct erasure_hit){.id = found->last_id, .target = search->target};
    }
    sqlite3_reset(statement);
    found->over = looked < ERASURE_STEP_BODIES;
    return erasure_ended(code);
}

enum outbox_error erasure_search(struct erasure_search *search, const char *sql,
                                 enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                 int64_t *through)
{
    OUTBOX_STATEMENT(statement);
    struct erasure_hit hits[ERASURE_STEP_BODIES];
    struct erasure_found found = {.hits = hits, .last_id = *through};
    struct erasure_round *round = search->round;
    enum outbox_error error = erasure_prepare(round, sql, &statement);

    while (error == OUTBOX_ERROR_NONE && !found.over) {
        error = find_bodies(search, statement, &found);
        if (error == OUTBOX_ERROR_NONE)
            error = erasure_work_off(round, work, found.hits, found.count);
        if (error == OUTBOX_ERROR_NONE)
            *through = found.last_id;
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
    }
    return error;
}
