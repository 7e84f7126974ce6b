/*
 * The rows of deferral: what is kept, and what makes room.
 */
#include "deferral_rows.h"

#include <string.h>

#include "dispatcher/deferral.h"

/* Ids and the numbers of refreshes grow together: those that have lacked the most are the oldest.
 */
struct room {
    int64_t through; /* the last id that has to go */
    int64_t rows, bytes;
};

/* Looks for the fewest of the oldest that a refresh has lacked and whose leaving makes room for so
 * many bytes; *ret_fits says whether there are so many. */
static enum outbox_error find_room(struct outbox *outbox, const struct delivery *delivery,
                                   struct room *ret_room, bool *ret_fits)
{
    const struct outbox_apart *apart = &outbox->pending.apart;
    int64_t most_rows = policy_deferred_events(delivery->policy);
    int64_t most_bytes = (int64_t)policy_deferred_bytes(delivery->policy);
    int64_t need_rows = apart->deferred_rows + 1 - most_rows;
    int64_t need_bytes = apart->deferred_bytes + (int64_t)delivery->raw_bytes - most_bytes;
    sqlite3_stmt *statement = outbox->statements[OUTBOX_DEFERRED_LACKED];
    struct room room = {0};
    int code = SQLITE_ROW;

    while ((room.rows < need_rows || room.bytes < need_bytes) &&
           (code = sqlite3_step(statement)) == SQLITE_ROW &&
           sqlite3_column_int64(statement, 2) < outbox->pending.refreshes) {
        room.through = sqlite3_column_int64(statement, 0);
        room.bytes += sqlite3_column_int64(statement, 1);
        room.rows++;
    }
    sqlite3_reset(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_check(outbox, code);
    *ret_room = room;
    *ret_fits = most_rows > 0 && room.rows >= need_rows && room.bytes >= need_bytes;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error displace(struct outbox *outbox, const struct room *room)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_DEFERRED_DISPLACE];
    enum outbox_error error;

    if (room->rows == 0)
        return OUTBOX_ERROR_NONE;
    sqlite3_bind_int64(statement, 1, room->through);
    error = outbox_check(outbox, outbox_step(statement));
    if (error == OUTBOX_ERROR_NONE) {
        outbox->pending.apart.deferred_rows -= room->rows;
        outbox->pending.apart.deferred_bytes -= room->bytes;
    }
    return error;
}

static enum outbox_error insert(struct outbox *outbox, struct delivery *delivery,
                                const unsigned char digest[IDENTITY_BYTES])
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_DEFERRED_INSERT];
    enum outbox_error error;
    int code;

    sqlite3_bind_text(statement, 1, delivery->judgement.kid, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, delivery->app->client_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, delivery->received_at_ms);
    sqlite3_bind_int64(statement, 4, outbox->refreshes_before + (int64_t)delivery->refreshes);
    sqlite3_bind_blob(statement, 5, digest, IDENTITY_BYTES, SQLITE_STATIC);
    code = sqlite3_bind_blob64(statement, 6, delivery->raw, delivery->raw_bytes, SQLITE_STATIC);
    error = outbox_check(outbox, code == SQLITE_OK ? outbox_step(statement) : code);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    outbox->pending.apart.deferred_rows++;
    outbox->pending.apart.deferred_bytes += (int64_t)delivery->raw_bytes;
    delivery->kept = true;
    delivery->verdict = VERDICT_DEFERRED;
    return OUTBOX_ERROR_NONE;
}

enum outbox_error deferral_keep(struct outbox *outbox, struct delivery *delivery)
{
    sqlite3_stmt *find = outbox->statements[OUTBOX_DEFERRED_FIND];
    unsigned char digest[IDENTITY_BYTES];
    bool found = false, fits = false;
    struct room room = {0};
    enum outbox_error error = outbox_digest(outbox, delivery, digest);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_blob(find, 1, digest, IDENTITY_BYTES, SQLITE_STATIC);
    error = outbox_finds(outbox, find, &found);
    if (error == OUTBOX_ERROR_NONE && !found)
        error = find_room(outbox, delivery, &room, &fits);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    delivery->verdict = found ? VERDICT_DEFERRED : delivery->judgement.verdict;
    if (!fits)
        return OUTBOX_ERROR_NONE;
    error = displace(outbox, &room);
    if (error == OUTBOX_ERROR_NONE)
        error = insert(outbox, delivery, digest);
    if (error == OUTBOX_ERROR_NONE)
        delivery->displaced = (unsigned)room.rows;
    return error;
}

/* The latest refresh that is old enough to be the first of those that lacked what is dropped: all
 * before it say nothing more. */
#define OLD_ENOUGH \
    "coalesce((SELECT max(number) FROM refreshes WHERE number <= ?1 AND at_ms <= ?2), 0)"

static void bind_old_enough(sqlite3_stmt *statement, const struct outbox *outbox, int64_t now_ms)
{
    sqlite3_bind_int64(statement, 1, outbox->pending.refreshes - (DEFERRAL_REFRESHES - 1));
    sqlite3_bind_int64(statement, 2, now_ms - DEFERRAL_LACKING_MS);
}

enum outbox_error deferral_count_refreshes(struct outbox *outbox, uint64_t refreshes,
                                           int64_t now_ms)
{
    OUTBOX_STATEMENT(insert_one);
    OUTBOX_STATEMENT(forget);
    int64_t number = outbox->refreshes_before + (int64_t)refreshes;
    enum outbox_error error;

    if (number <= outbox->pending.refreshes)
        return OUTBOX_ERROR_NONE;
    error = outbox_prepare(outbox, "INSERT INTO refreshes VALUES (?1, ?2)", &insert_one);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_int64(insert_one, 1, number);
    sqlite3_bind_int64(insert_one, 2, now_ms);
    error = outbox_check(outbox, outbox_step(insert_one));
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_prepare(outbox, "DELETE FROM refreshes WHERE number < " OLD_ENOUGH, &forget);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    outbox->pending.refreshes = number;
    bind_old_enough(forget, outbox, now_ms);
    return outbox_check(outbox, outbox_step(forget));
}

enum outbox_error deferral_given_up(struct outbox *outbox, int64_t now_ms, int64_t *ret_refresh)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = outbox_prepare(outbox, "SELECT " OLD_ENOUGH, &statement);
    int code;

    if (error != OUTBOX_ERROR_NONE)
        return error;
    bind_old_enough(statement, outbox, now_ms);
    code = sqlite3_step(statement);
    if (code != SQLITE_ROW)
        return outbox_check(outbox, code);
    *ret_refresh = sqlite3_column_int64(statement, 0) - 1;
    return OUTBOX_ERROR_NONE;
}

enum outbox_error deferral_next(struct outbox *outbox, int64_t after, struct deferral_row *ret_row)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_DEFERRED_NEXT];
    struct deferral_row row = {0};
    const unsigned char *kid;
    int code, reset;

    sqlite3_bind_int64(statement, 1, after);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        row.id = sqlite3_column_int64(statement, 0);
        kid = sqlite3_column_text(statement, 1);
        if (kid)
            strncpy(row.kid, (const char *)kid, JWK_KID_MAX_BYTES);
        row.received_at_ms = sqlite3_column_int64(statement, 2);
        row.refresh = sqlite3_column_int64(statement, 3);
    }
    reset = sqlite3_reset(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_check(outbox, reset != SQLITE_OK ? reset : code);
    *ret_row = row;
    return OUTBOX_ERROR_NONE;
}

enum outbox_error deferral_body(struct outbox *outbox, int64_t id,
                                void (*on_body)(void *context, const char *body, size_t bytes),
                                void *context)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_DEFERRED_BODY];
    int code, reset;

    sqlite3_bind_int64(statement, 1, id);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const void *body = sqlite3_column_blob(statement, 0);
        int bytes = sqlite3_column_bytes(statement, 0);

        on_body(context, body ? body : "", body ? (size_t)bytes : 0);
    }
    reset = sqlite3_reset(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_check(outbox, reset != SQLITE_OK ? reset : code);
    return OUTBOX_ERROR_NONE;
}
