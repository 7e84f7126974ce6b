/*
 * How far consumers are, for those who only read.
 */
#include <errno.h>
#include <string.h>

#include "dispatcher/consumers.h"
#include "outbox_internal.h"

/* A gap at least this wide is the one that a restored backup leaves, not one of rows. */
#define GAP_IDS (INT64_C(1) << 31)

/* One listing. */
struct list {
    sqlite3 *db;
    struct consumer_set set;
    int64_t now_ms, last_id;
    void (*on_consumer)(void *context, const struct consumer_state *state);
    void *context;
};

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret_statement)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

    if (code == SQLITE_OK)
        *ret_statement = statement;
    return code;
}

/* One number about the rows above id and up to most; ret_number stays where it is NULL. */
static int number_of(sqlite3 *db, const char *sql, int64_t id, int64_t most, int64_t *ret_number)
{
    OUTBOX_STATEMENT(statement);
    int code = prepare(db, sql, &statement);

    if (code != SQLITE_OK)
        return code;
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, most);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW && sqlite3_column_type(statement, 0) != SQLITE_NULL)
        *ret_number = sqlite3_column_int64(statement, 0);
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

/* The ids above position, without those that a restored backup left out. */
static int count_ids(const struct list *list, int64_t position, int64_t *ret_ids)
{
    int64_t ids = 0, high = list->last_id;
    int code = SQLITE_OK;

    while (code == SQLITE_OK && high - position >= GAP_IDS) {
        int64_t below = position, first = high;

        code = number_of(list->db, "SELECT max(id) FROM events WHERE id > ?1 AND id <= ?2",
                         position, high - GAP_IDS, &below);
        if (code == SQLITE_OK)
            code = number_of(list->db, "SELECT min(id) FROM events WHERE id > ?1 AND id <= ?2",
                             below, high, &first);
        ids += high - first + 1;
        high = below;
    }
    if (code == SQLITE_OK)
        *ret_ids = ids + high - position;
    return code;
}

static int measure_lag(const struct list *list, struct consumer_state *state)
{
    int64_t rows = 0, oldest_ms = list->now_ms;
    int code = number_of(list->db,
                         "SELECT count(*) FROM "
                         "(SELECT 1 FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2)",
                         state->position, CONSUMERS_LAG_COUNTED + 1, &rows);

    if (code == SQLITE_OK && rows > CONSUMERS_LAG_COUNTED)
        code = count_ids(list, state->position, &rows);
    if (code == SQLITE_OK)
        code = number_of(list->db,
                         "SELECT received_at_ms FROM outbox WHERE id > ?1 ORDER BY id LIMIT 1",
                         state->position, 0, &oldest_ms);
    state->lag_rows = rows;
    state->lag_ms = oldest_ms < list->now_ms ? list->now_ms - oldest_ms : 0;
    return code;
}

/* The columns of the table consumers, from the second on. */
static void read_state(sqlite3_stmt *row, struct consumer_state *state)
{
    state->position = sqlite3_column_int64(row, 1);
    state->added_ms = sqlite3_column_int64(row, 2);
    state->acknowledged_ms = sqlite3_column_int64(row, 3); /* NULL gives 0 */
}

static int tell(const struct list *list, struct consumer_state *state)
{
    int code = measure_lag(list, state);

    if (code == SQLITE_OK)
        list->on_consumer(list->context, state);
    return code;
}

static int list_one(const struct list *list, const struct consumer *consumer,
                    int64_t pruned_through)
{
    OUTBOX_STATEMENT(statement);
    struct consumer_state state = {.name = consumer->name, .configured = true};
    int code = prepare(list->db, "SELECT * FROM consumers WHERE name = ?1", &statement);

    if (code != SQLITE_OK)
        return code;
    sqlite3_bind_text(statement, 1, consumer->name, -1, SQLITE_STATIC);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        read_state(statement, &state);
    else if (code == SQLITE_DONE)
        state.position = consumer->start_now ? list->last_id : pruned_through;
    else
        return code;
    return tell(list, &state);
}

static bool is_configured(const struct consumer_set *set, const char *name)
{
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->list[i].name, name) == 0)
            return true;
    return false;
}

static int list_former(const struct list *list)
{
    OUTBOX_STATEMENT(statement);
    int code = prepare(list->db, "SELECT * FROM consumers ORDER BY name", &statement);

    if (code != SQLITE_OK)
        return code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct consumer_state state = {.name = (const char *)sqlite3_column_text(statement, 0)};

        if (!state.name)
            return SQLITE_NOMEM;
        if (is_configured(&list->set, state.name))
            continue;
        read_state(statement, &state);
        code = tell(list, &state);
        if (code != SQLITE_OK)
            return code;
    }
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

static int list_all(struct list *list)
{
    int64_t pruned_through = 0;
    int code =
        outbox_query_number(list->db, "SELECT pruned_through FROM outbox_state", &pruned_through);

    if (code == SQLITE_OK)
        code = outbox_query_number(list->db, "SELECT last_id FROM outbox_state", &list->last_id);
    for (size_t i = 0; code == SQLITE_OK && i < list->set.count; i++)
        code = list_one(list, &list->set.list[i], pruned_through);
    return code == SQLITE_OK ? list_former(list) : code;
}

int consumers_list(struct consumers *consumers, struct outbox_reader *reader, int64_t now_ms,
                   void (*on_consumer)(void *context, const struct consumer_state *state),
                   void *context)
{
    struct list list = {.db = outbox_reader_db(reader),
                        .now_ms = now_ms,
                        .on_consumer = on_consumer,
                        .context = context};
    int code = sqlite3_exec(list.db, "BEGIN", NULL, NULL, NULL);

    if (code != SQLITE_OK)
        return outbox_reader_error(code);
    consumers_set(consumers, &list.set);
    code = list_all(&list);
    sqlite3_exec(list.db, "COMMIT", NULL, NULL, NULL); /* nothing was written: it cannot fail */
    return code == SQLITE_OK ? 0 : outbox_reader_error(code);
}

/* The lowest position of those that are configured; INT64_MAX without any. */
static int find_slowest(struct consumers *consumers, struct outbox_reader *reader,
                        int64_t *ret_position)
{
    struct consumer_set set;
    int64_t slowest = INT64_MAX;

    consumers_set(consumers, &set);
    for (size_t i = 0; i < set.count; i++) {
        int64_t position = 0;
        int error = consumers_position(consumers, reader, set.list[i].name, &position);

        if (error < 0 && error != -ENOENT) /* it may have left the configuration just now */
            return error;
        if (error == 0 && position < slowest)
            slowest = position;
    }
    *ret_position = slowest;
    return 0;
}

/* Looks at the next rows for an account-delete. The result code of SQLite. */
static int search(sqlite3 *db, struct consumers_watch *watch)
{
    OUTBOX_STATEMENT(rows);
    int code = prepare(db,
                       "SELECT id, type = 'account-delete', received_at_ms FROM outbox "
                       "WHERE id > ?1 ORDER BY id LIMIT ?2",
                       &rows);

    if (code != SQLITE_OK)
        return code;
    sqlite3_bind_int64(rows, 1, watch->scanned);
    sqlite3_bind_int64(rows, 2, CONSUMERS_WATCH_ROWS);
    while (watch->found_id == 0 && (code = sqlite3_step(rows)) == SQLITE_ROW) {
        watch->scanned = sqlite3_column_int64(rows, 0);
        if (!sqlite3_column_int(rows, 1))
            continue;
        watch->found_id = watch->scanned;
        watch->found_ms = sqlite3_column_int64(rows, 2);
    }
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

int consumers_oldest_delete(struct consumers *consumers, struct outbox_reader *reader,
                            struct consumers_watch *watch, int64_t *ret_received_ms)
{
    struct outbox_state state;
    int64_t from = 0;
    int error = find_slowest(consumers, reader, &from);

    if (error == 0)
        error = outbox_reader_state(reader, &state);
    if (error < 0)
        return error;
    if (from < state.pruned_through)
        from = state.pruned_through;
    /* After a seek back, or once the one that was found is acknowledged, the search begins anew. */
    if (from < watch->from || (watch->found_id != 0 && from >= watch->found_id) ||
        from > watch->scanned)
        *watch = (struct consumers_watch){.from = from, .scanned = from};
    if (watch->found_id == 0 && from < INT64_MAX) {
        int code = search(outbox_reader_db(reader), watch);

        if (code != SQLITE_OK)
            return outbox_reader_error(code);
    }
    *ret_received_ms = watch->found_id != 0 ? watch->found_ms : 0;
    return 0;
}

int consumers_position(struct consumers *consumers, struct outbox_reader *reader, const char *name,
                       int64_t *ret_position)
{
    OUTBOX_STATEMENT(statement);
    struct outbox_state state;
    struct consumer consumer;
    int code;

    if (!consumers_find(consumers, name, &consumer))
        return -ENOENT;
    code = prepare(outbox_reader_db(reader), "SELECT position FROM consumers WHERE name = ?1",
                   &statement);
    if (code != SQLITE_OK)
        return outbox_reader_error(code);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        *ret_position = sqlite3_column_int64(statement, 0);
        return 0;
    }
    if (code != SQLITE_DONE)
        return outbox_reader_error(code);
    int error = outbox_reader_state(reader, &state);
    if (error < 0)
        return error;
    *ret_position = consumer.start_now ? state.last_id : state.pruned_through;
    return 0;
}
