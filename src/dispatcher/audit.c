#include "dispatcher/audit.h"

#include <stdio.h>
#include <string.h>

#include "dispatcher/consumers.h"
#include "outbox_internal.h"

#define PIECE_IDS 50000 /* looked at in one transaction */

#define COLUMNS "id, type, client_id, app, team, issued_at_ms, received_at_ms, person, erased_at_ms"

/* Facts are of rows that retention removed: lower ids than those of any row that is left. */
static const char facts_sql[] = "SELECT " COLUMNS ", removed_at_ms FROM facts "
                                "WHERE id > ?1 AND id <= ?2 AND received_at_ms >= ?3 ORDER BY id";
static const char events_sql[] = "SELECT " COLUMNS ", NULL FROM events "
                                 "WHERE id > ?1 AND id <= ?2 AND received_at_ms >= ?3 AND test = 0 "
                                 "AND type IN ('account-delete', 'consent-revoked') ORDER BY id";
static const char next_sql[] =
    "SELECT min(coalesce((SELECT min(id) FROM facts WHERE id > ?1), 9223372036854775807), "
    "coalesce((SELECT min(id) FROM events WHERE id > ?1), 9223372036854775807))";
static const char acks_sql[] =
    "SELECT consumer, acknowledged_ms FROM acks WHERE event_id = ?1 ORDER BY consumer";

struct reading {
    struct outbox_reader *reader;
    sqlite3_stmt *facts, *events, *acks, *next;
    int64_t since_ms;
    bool (*on_row)(void *context, const struct audit_row *row);
    int (*on_piece)(void *context);
    void *context;
    int error; /* of on_piece */
    bool stopped;
    struct audit_ack list[AUDIT_ACKS_MAX];
    char names[AUDIT_ACKS_MAX][CONSUMER_NAME_BYTES];
};

static const char *text(sqlite3_stmt *statement, int column)
{
    const unsigned char *value = sqlite3_column_text(statement, column);

    return value ? (const char *)value : "";
}

static void write_person(sqlite3_stmt *statement, int column, char ret_text[AUDIT_PERSON_BYTES])
{
    const unsigned char *bytes = sqlite3_column_blob(statement, column);
    int count = sqlite3_column_bytes(statement, column);

    ret_text[0] = '\0';
    for (int i = 0; bytes && i < count && 2 * i + 2 < AUDIT_PERSON_BYTES; i++)
        (void)snprintf(ret_text + 2 * i, 3, "%02x", bytes[i]);
}

static int read_acks(struct reading *reading, int64_t id, size_t *ret_count)
{
    size_t count = 0;
    int code;

    sqlite3_bind_int64(reading->acks, 1, id);
    while ((code = sqlite3_step(reading->acks)) == SQLITE_ROW && count < AUDIT_ACKS_MAX) {
        (void)snprintf(reading->names[count], sizeof reading->names[count], "%s",
                       text(reading->acks, 0));
        reading->list[count] =
            (struct audit_ack){.consumer = reading->names[count],
                               .acknowledged_ms = sqlite3_column_int64(reading->acks, 1)};
        count++;
    }
    sqlite3_reset(reading->acks);
    *ret_count = count;
    return code == SQLITE_DONE || code == SQLITE_ROW ? SQLITE_OK : code;
}

static int tell_row(struct reading *reading, sqlite3_stmt *statement)
{
    struct audit_row row = {
        .id = sqlite3_column_int64(statement, 0),
        .type = text(statement, 1),
        .client_id = text(statement, 2),
        .app = text(statement, 3),
        .team = text(statement, 4),
        .signed_ms = sqlite3_column_int64(statement, 5),
        .committed_ms = sqlite3_column_int64(statement, 6),
        .erased_ms = sqlite3_column_int64(statement, 8),
        .removed_ms = sqlite3_column_int64(statement, 9),
        .acks = reading->list,
    };
    int code = read_acks(reading, row.id, &row.ack_count);

    if (code != SQLITE_OK)
        return code;
    write_person(statement, 7, row.person);
    reading->stopped = !reading->on_row(reading->context, &row);
    return SQLITE_OK;
}

/* What one statement finds in (after, through]. */
static int read_piece(struct reading *reading, sqlite3_stmt *statement, int64_t after,
                      int64_t through)
{
    int code = SQLITE_OK, stepped = SQLITE_DONE;

    sqlite3_bind_int64(statement, 1, after);
    sqlite3_bind_int64(statement, 2, through);
    sqlite3_bind_int64(statement, 3, reading->since_ms);
    while (code == SQLITE_OK && !reading->stopped &&
           (stepped = sqlite3_step(statement)) == SQLITE_ROW)
        code = tell_row(reading, statement);
    sqlite3_reset(statement);
    if (code != SQLITE_OK)
        return code;
    return stepped == SQLITE_DONE || stepped == SQLITE_ROW ? SQLITE_OK : stepped;
}

/* The first id above after in either table, INT64_MAX where there is none: after a restore from a
 * backup ids go on far above. */
static int next_id(struct reading *reading, int64_t after, int64_t *ret_id)
{
    sqlite3_bind_int64(reading->next, 1, after);
    int code = sqlite3_step(reading->next);

    if (code == SQLITE_ROW)
        *ret_id = sqlite3_column_int64(reading->next, 0);
    sqlite3_reset(reading->next);
    return code == SQLITE_ROW ? SQLITE_OK : code;
}

static int read_all(struct reading *reading)
{
    sqlite3 *db = outbox_reader_db(reading->reader);
    int64_t after = 0, next = 0;
    int code = next_id(reading, 0, &next);

    while (code == SQLITE_OK && !reading->stopped && reading->error == 0 && next < INT64_MAX) {
        after = next - 1;
        /* Both tables and the acknowledgements as of one moment: retention moves rows between. */
        code = sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
        if (code == SQLITE_OK)
            code = read_piece(reading, reading->facts, after, after + PIECE_IDS);
        if (code == SQLITE_OK)
            code = read_piece(reading, reading->events, after, after + PIECE_IDS);
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL); /* nothing was written: it cannot fail */
        reading->error = reading->on_piece(reading->context);
        if (code == SQLITE_OK)
            code = next_id(reading, after + PIECE_IDS, &next);
    }
    return code;
}

static void release(struct reading *reading)
{
    sqlite3_finalize(reading->facts);
    sqlite3_finalize(reading->events);
    sqlite3_finalize(reading->acks);
    sqlite3_finalize(reading->next);
}

int audit_rows(struct outbox_reader *reader, int64_t since_ms,
               bool (*on_row)(void *context, const struct audit_row *row),
               int (*on_piece)(void *context), void *context)
{
    __attribute__((cleanup(release))) struct reading reading = {.reader = reader,
                                                                .since_ms = since_ms,
                                                                .on_row = on_row,
                                                                .on_piece = on_piece,
                                                                .context = context};
    sqlite3 *db = outbox_reader_db(reader);
    int code = sqlite3_prepare_v2(db, facts_sql, -1, &reading.facts, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(db, events_sql, -1, &reading.events, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(db, acks_sql, -1, &reading.acks, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(db, next_sql, -1, &reading.next, NULL);
    if (code == SQLITE_OK)
        code = read_all(&reading);
    return code == SQLITE_OK ? reading.error : outbox_reader_error(code);
}
