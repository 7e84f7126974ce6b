/*
 * Those who were erased before, and came again: Apple may send, or send again, after an
 * account-delete.
 */
#include <errno.h>
#include <stdlib.h>

#include "erasure_work.h"
#include "outbox_internal.h"
#include "verifier/notification.h"

static enum outbox_error has_erased(struct erasure_round *round, bool *ret_any)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = erasure_prepare(round, "SELECT 1 FROM erased LIMIT 1", &statement);
    int code;

    if (error != OUTBOX_ERROR_NONE)
        return error;
    code = sqlite3_step(statement);
    *ret_any = code == SQLITE_ROW;
    return erasure_ended(code);
}

/* ---- rows ---- */

static enum outbox_error find_rows(sqlite3_stmt *statement, int64_t acknowledged,
                                   struct erasure_found *found)
{
    int looked = 0, code;

    found->count = 0;
    sqlite3_bind_int64(statement, 1, found->last_id);
    sqlite3_bind_int64(statement, 2, acknowledged);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        looked++;
        found->last_id = sqlite3_column_int64(statement, 0);
        if (sqlite3_column_int(statement, 2))
            found->hits[found->count++] = (struct erasure_hit){
                .id = found->last_id, .raw_id = sqlite3_column_int64(statement, 1), .target = -1};
    }
    sqlite3_reset(statement);
    found->over = looked < ERASURE_STEP_ROWS;
    return erasure_ended(code);
}

static enum outbox_error follow_rows(struct erasure_round *round, int64_t acknowledged)
{
    OUTBOX_STATEMENT(statement);
    struct erasure_hit *hits __attribute__((cleanup(erasure_free_hits))) =
        calloc(ERASURE_STEP_ROWS, sizeof *hits);
    struct erasure_found found = {.hits = hits, .last_id = round->followed.rows_through};
    enum outbox_error error =
        erasure_prepare(round,
                        "SELECT id, raw_id, erased_at_ms IS NULL AND "
                        "EXISTS (SELECT 1 FROM erased WHERE erased.person = events.person) "
                        "FROM events WHERE id > ?1 AND id <= ?2 ORDER BY id " ERASURE_LIMIT_ROWS,
                        &statement);

    if (!hits)
        return OUTBOX_ERROR_TRANSIENT;
    while (error == OUTBOX_ERROR_NONE && !found.over) {
        error = find_rows(statement, acknowledged, &found);
        if (error == OUTBOX_ERROR_NONE)
            error = erasure_work_off(round, erasure_rows, found.hits, found.count);
        if (error == OUTBOX_ERROR_NONE)
            round->followed.rows_through = found.last_id;
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
    }
    return error;
}

/* ---- bodies ---- */

/* The rows of a body have ids that follow on its own, so the bodies that are not acknowledged to
 * their last row come after all that are, and none of them is passed over. */
#define MIXED_BODIES \
    "SELECT " ERASURE_RAW_COLUMNS " FROM raw " \
    "WHERE mixed = 1 AND id > ?1 AND id <= ?2 AND NOT EXISTS (SELECT 1 FROM events " \
    "WHERE events.id > ?2 AND events.id < raw.id + " ERASURE_STRINGIZE( \
        NOTIFICATION_EVENTS_MAX) " AND events.raw_id = raw.id) ORDER BY id " ERASURE_LIMIT_BODIES

#define QUARANTINED_BODIES \
    "SELECT id, body, client_id FROM quarantine WHERE id > ?1 ORDER BY id " ERASURE_LIMIT_BODIES

static int find_erased(struct erasure_search *search, const char *text, bool *ret_found)
{
    struct erasure_round *round = search->round;
    unsigned char person[PERSON_BYTES];
    char team[ERASURE_TEAM_BYTES] = "";
    int code;

    (void)round->team_of(round->context, search->client_id, team);
    code = identity_of_person(round->key, team, search->client_id, text, person);
    if (code < 0)
        return code == -EINVAL ? SQLITE_DONE : SQLITE_NOMEM; /* too long for a sub, or no HMAC */
    sqlite3_bind_blob(search->lookup, 1, person, PERSON_BYTES, SQLITE_STATIC);
    code = sqlite3_step(search->lookup);
    *ret_found = code == SQLITE_ROW;
    sqlite3_reset(search->lookup);
    return code;
}

static enum outbox_error follow_bodies(struct erasure_round *round, int64_t acknowledged)
{
    OUTBOX_STATEMENT(lookup);
    enum outbox_error error =
        erasure_prepare(round, "SELECT 1 FROM erased WHERE person = ?1", &lookup);
    struct erasure_search search = {
        .round = round, .find = find_erased, .lookup = lookup, .through = acknowledged};

    if (error == OUTBOX_ERROR_NONE)
        error =
            erasure_search(&search, MIXED_BODIES, erasure_bodies, &round->followed.bodies_through);
    if (error == OUTBOX_ERROR_NONE)
        error = erasure_search(&search, QUARANTINED_BODIES, erasure_quarantined,
                               &round->followed.quarantine_through);
    return error;
}

enum outbox_error erasure_follow(struct erasure_round *round, int64_t acknowledged)
{
    bool any = false;
    enum outbox_error error = has_erased(round, &any);

    if (error == OUTBOX_ERROR_NONE && any)
        error = follow_rows(round, acknowledged);
    if (error == OUTBOX_ERROR_NONE && any)
        error = follow_bodies(round, acknowledged);
    return error;
}
