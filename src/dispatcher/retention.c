#include "dispatcher/retention.h"

#include <string.h>

#include "dispatcher/apart.h"
#include "outbox_internal.h"
#include "support/clock.h"
#include "verifier/notification.h"

/* A piece ends with the first step that ends later than this; a step is a few hundred microseconds
 * where the pages are at hand. It takes one step at least: on a machine that is slow enough to
 * spend the time before, a sweep would never end. */
#define PIECE_US  2000
#define STEP_ROWS 32

#define STRINGIZE_(value) #value
#define STRINGIZE(value)  STRINGIZE_(value)
#define LIMIT_STEP        "LIMIT " STRINGIZE(STEP_ROWS)

/* What a step looks at, and how far of it is due. */
struct step {
    int64_t slowest; /* the position of the slowest consumer */
    int64_t through; /* the last that is due, 0 for none */
    int64_t rows, unacknowledged;
    bool full; /* all that was looked at is due: there may be more */
};

static const char *const labels[] = {
#define RETENTION_LABEL(name, label) [RETENTION_##name] = label,
    RETENTION_TABLE(RETENTION_LABEL)
#undef RETENTION_LABEL
};

const char *retention_label(enum retention_what what)
{
    return what < RETENTION_COUNT ? labels[what] : "";
}

void retention_due_at(const struct config_retain *retain, int64_t now_ms,
                      struct retention_due *ret_due)
{
    const int64_t kept_s[RETENTION_COUNT] = {
        [RETENTION_ROWS] = retain->events_s,         [RETENTION_RAW] = retain->raw_s,
        [RETENTION_TEST] = RETENTION_TEST_S,         [RETENTION_QUARANTINE] = retain->quarantine_s,
        [RETENTION_DEFERRED] = RETENTION_DEFERRED_S, [RETENTION_IDENTITIES] = retain->identities_s,
        [RETENTION_FACTS] = retain->audit_s,
    };

    for (int i = 0; i < RETENTION_COUNT; i++)
        ret_due->before_ms[i] = now_ms - kept_s[i] * 1000;
    ret_due->hard_ms = now_ms - retain->hard_s * 1000;
    ret_due->now_ms = now_ms;
}

/* ---- what goes in the order of its id ---- */

/* Whether the row names somebody whom an erasure is still to find by it. */
static bool names_somebody(const struct retention_sweep *sweep, sqlite3_stmt *oldest)
{
    return sweep->erases && sweep->what == RETENTION_ROWS && sqlite3_column_int(oldest, 3);
}

/* The statement gives id, arrival, and whether it is a row that consumers see; for ROWS also
 * whether it is an account-delete that is not erased. */
static enum outbox_error look(struct outbox *outbox, sqlite3_stmt *oldest,
                              const struct retention_sweep *sweep, struct step *step)
{
    int looked = 0, code;

    step->through = step->rows = step->unacknowledged = 0;
    step->full = false;
    while ((code = sqlite3_step(oldest)) == SQLITE_ROW) {
        int64_t id = sqlite3_column_int64(oldest, 0);
        int64_t received_ms = sqlite3_column_int64(oldest, 1);
        bool acknowledged = id <= step->slowest;
        bool settled = acknowledged && !names_somebody(sweep, oldest);

        if (received_ms >= (settled ? sweep->due.before_ms[sweep->what] : sweep->due.hard_ms))
            break;
        step->through = id;
        step->rows++;
        step->unacknowledged += !acknowledged && sqlite3_column_int(oldest, 2);
        looked++;
    }
    sqlite3_reset(oldest);
    step->full = looked == STEP_ROWS;
    return code == SQLITE_ROW || code == SQLITE_DONE ? OUTBOX_ERROR_NONE
                                                     : outbox_check(outbox, code);
}

#define REMOVALS_MAX 4

/* The other rows of a body, one for each further event in it: their ids follow on its own. */
#define FOLLOWING_ROWS \
    "FROM events WHERE events.id < raw.id + " STRINGIZE( \
        NOTIFICATION_EVENTS_MAX) " AND events.raw_id = raw.id AND events.id > "

/* Whatever is removed together; ?1 is the last id, ?2 the time. */
struct removal {
    const char *oldest; /* what `look` steps through, the oldest first */
    const char *texts[REMOVALS_MAX];
    bool waits; /* for the consumers */
};

static const struct removal removals[RETENTION_COUNT] = {
    [RETENTION_ROWS] =
        {
            .oldest = "SELECT id, received_at_ms, test = 0, test = 0 AND type = 'account-delete' "
                      "AND person IS NOT NULL AND erased_at_ms IS NULL FROM events WHERE id > 0 "
                      "ORDER BY id " LIMIT_STEP,
            .texts = {"INSERT OR IGNORE INTO facts SELECT id, type, client_id, app, team, "
                      "issued_at_ms, received_at_ms, person, erased_at_ms, ?2 FROM events WHERE "
                      "id > 0 AND id <= ?1 AND test = 0 AND type IN ('account-delete', "
                      "'consent-revoked')",
                      /* not one that a row which stays came in */
                      "DELETE FROM raw WHERE id <= ?1 AND NOT EXISTS (SELECT 1 " FOLLOWING_ROWS
                      "?1)",
                      "DELETE FROM events WHERE id > 0 AND id <= ?1",
                      "UPDATE state SET pruned_through = max(pruned_through, ?1)"},
            .waits = true,
        },
    [RETENTION_RAW] =
        {
            /* its last row stands for a body: all of them must have been acknowledged */
            .oldest = "SELECT coalesce((SELECT max(events.id) " FOLLOWING_ROWS
                      "raw.id), id), received_at_ms, 0 FROM raw ORDER BY id " LIMIT_STEP,
            .texts = {"DELETE FROM raw WHERE id <= ?1"},
            .waits = true,
        },
    [RETENTION_TEST] =
        {
            .oldest =
                "SELECT id, received_at_ms, 0 FROM events WHERE test = 1 ORDER BY id " LIMIT_STEP,
            .texts = {"DELETE FROM raw WHERE id IN (SELECT raw_id FROM events WHERE test = 1 AND "
                      "id <= ?1)",
                      "DELETE FROM events WHERE test = 1 AND id <= ?1"},
        },
    [RETENTION_FACTS] =
        {
            .oldest = "SELECT id, received_at_ms, 0 FROM facts ORDER BY id " LIMIT_STEP,
            .texts = {"DELETE FROM acks WHERE event_id <= ?1", "DELETE FROM facts WHERE id <= ?1"},
        },
};

struct statements {
    sqlite3_stmt *oldest, *remove[REMOVALS_MAX];
};

static void statements_finalize(struct statements *statements)
{
    sqlite3_finalize(statements->oldest);
    for (int i = 0; i < REMOVALS_MAX; i++)
        sqlite3_finalize(statements->remove[i]);
}

static enum outbox_error prepare(struct outbox *outbox, const struct removal *removal,
                                 struct statements *statements)
{
    enum outbox_error error = outbox_prepare(outbox, removal->oldest, &statements->oldest);

    for (int i = 0; error == OUTBOX_ERROR_NONE && i < REMOVALS_MAX && removal->texts[i]; i++)
        error = outbox_prepare(outbox, removal->texts[i], &statements->remove[i]);
    return error;
}

static enum outbox_error remove_through(struct outbox *outbox, const struct statements *statements,
                                        int64_t through, int64_t now_ms)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;

    for (int i = 0; error == OUTBOX_ERROR_NONE && i < REMOVALS_MAX && statements->remove[i]; i++) {
        sqlite3_stmt *statement = statements->remove[i];

        sqlite3_bind_int64(statement, 1, through);
        if (sqlite3_bind_parameter_count(statement) > 1)
            sqlite3_bind_int64(statement, 2, now_ms);
        error = outbox_check(outbox, outbox_step(statement));
    }
    return error;
}

static enum outbox_error remove_oldest(struct outbox *outbox, struct retention_sweep *sweep,
                                       const struct removal *removal, int64_t until_us)
{
    struct statements statements __attribute__((cleanup(statements_finalize))) = {NULL};
    struct step step = {.slowest = INT64_MAX, .full = true};
    enum outbox_error error = prepare(outbox, removal, &statements);
    size_t count;

    if (error == OUTBOX_ERROR_NONE && removal->waits)
        error = consumers_slowest(sweep->consumers, outbox, &step.slowest, &count);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    do {
        error = look(outbox, statements.oldest, sweep, &step);
        if (error != OUTBOX_ERROR_NONE || step.through == 0)
            break;
        error = remove_through(outbox, &statements, step.through, sweep->due.now_ms);
        sweep->removed += step.rows;
        sweep->unacknowledged += step.unacknowledged;
        sweep->pruned_through = step.through;
    } while (error == OUTBOX_ERROR_NONE && step.full && clock_monotonic_us() < until_us);
    sweep->over = !step.full;
    return error;
}

/* ---- identities ---- */

struct identity_row {
    int64_t event_time_ms, received_at_ms;
    unsigned char identity[IDENTITY_BYTES];
};

static enum outbox_error read_identities(struct outbox *outbox, struct retention_sweep *sweep,
                                         sqlite3_stmt *next, struct identity_row rows[STEP_ROWS],
                                         size_t *ret_count)
{
    size_t count = 0;
    int code;

    sqlite3_bind_int64(next, 1, sweep->event_time_ms);
    sqlite3_bind_blob(next, 2, sweep->identity, IDENTITY_BYTES, SQLITE_STATIC);
    sqlite3_bind_int64(next, 3, sweep->due.before_ms[RETENTION_IDENTITIES]);
    while ((code = sqlite3_step(next)) == SQLITE_ROW && count < STEP_ROWS) {
        struct identity_row *row = &rows[count++];

        row->event_time_ms = sqlite3_column_int64(next, 0);
        memset(row->identity, 0, IDENTITY_BYTES);
        if (sqlite3_column_bytes(next, 1) == IDENTITY_BYTES)
            memcpy(row->identity, sqlite3_column_blob(next, 1), IDENTITY_BYTES);
        row->received_at_ms = sqlite3_column_int64(next, 2);
    }
    sqlite3_reset(next);
    *ret_count = count;
    return code == SQLITE_ROW || code == SQLITE_DONE ? OUTBOX_ERROR_NONE
                                                     : outbox_check(outbox, code);
}

/* They are ordered by the time of the event, which says little where Apple names none, or an odd
 * one: whether one is due, its arrival tells. */
static enum outbox_error next_identities(struct outbox *outbox, struct retention_sweep *sweep,
                                         sqlite3_stmt *next, sqlite3_stmt *remove)
{
    struct identity_row rows[STEP_ROWS] = {0};
    size_t count = 0;
    enum outbox_error error = read_identities(outbox, sweep, next, rows, &count);

    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < count; i++) {
        sweep->event_time_ms = rows[i].event_time_ms;
        memcpy(sweep->identity, rows[i].identity, IDENTITY_BYTES);
        if (rows[i].received_at_ms >= sweep->due.before_ms[RETENTION_IDENTITIES])
            continue;
        sqlite3_bind_int64(remove, 1, rows[i].event_time_ms);
        sqlite3_bind_blob(remove, 2, rows[i].identity, IDENTITY_BYTES, SQLITE_STATIC);
        error = outbox_check(outbox, outbox_step(remove));
        sweep->removed++;
    }
    sweep->over = count < STEP_ROWS;
    return error;
}

static enum outbox_error remove_identities(struct outbox *outbox, struct retention_sweep *sweep,
                                           int64_t until_us)
{
    OUTBOX_STATEMENT(next);
    OUTBOX_STATEMENT(remove);
    enum outbox_error error =
        outbox_prepare(outbox,
                       "SELECT event_time_ms, identity, received_at_ms FROM seen WHERE "
                       "(event_time_ms, identity) > (?1, ?2) AND event_time_ms < ?3 "
                       "ORDER BY event_time_ms, identity " LIMIT_STEP,
                       &next);

    if (error == OUTBOX_ERROR_NONE)
        error = outbox_prepare(
            outbox, "DELETE FROM seen WHERE event_time_ms = ?1 AND identity = ?2", &remove);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    do
        error = next_identities(outbox, sweep, next, remove);
    while (error == OUTBOX_ERROR_NONE && !sweep->over && clock_monotonic_us() < until_us);
    return error;
}

/* ---- what is stored apart ---- */

/* The oldest that is due; 0 for none. The order of ids is that of arrival. */
static enum outbox_error next_apart(struct outbox *outbox, sqlite3_stmt *oldest, int64_t before_ms,
                                    int64_t *ret_id)
{
    int64_t id = 0;
    int code = sqlite3_step(oldest);

    if (code == SQLITE_ROW && sqlite3_column_int64(oldest, 1) < before_ms)
        id = sqlite3_column_int64(oldest, 0);
    sqlite3_reset(oldest);
    *ret_id = id;
    return code == SQLITE_ROW || code == SQLITE_DONE ? OUTBOX_ERROR_NONE
                                                     : outbox_check(outbox, code);
}

static enum outbox_error remove_apart(struct outbox *outbox, struct retention_sweep *sweep,
                                      int64_t until_us)
{
    bool quarantine = sweep->what == RETENTION_QUARANTINE;
    OUTBOX_STATEMENT(oldest);
    enum outbox_error error =
        outbox_prepare(outbox,
                       quarantine ? "SELECT id, received_at_ms FROM quarantine ORDER BY id LIMIT 1"
                                  : "SELECT id, received_at_ms FROM deferred ORDER BY id LIMIT 1",
                       &oldest);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    do {
        bool removed = false;
        int64_t id = 0;

        error = next_apart(outbox, oldest, sweep->due.before_ms[sweep->what], &id);
        sweep->over = id == 0;
        if (error == OUTBOX_ERROR_NONE && id != 0)
            error =
                apart_remove(outbox, quarantine ? APART_QUARANTINE : APART_DEFERRED, id, &removed);
        sweep->removed += removed;
    } while (error == OUTBOX_ERROR_NONE && !sweep->over && clock_monotonic_us() < until_us);
    return error;
}

enum outbox_error retention_sweep_piece(struct outbox *outbox, struct retention_sweep *sweep)
{
    int64_t until_us = clock_monotonic_us() + PIECE_US;

    if (sweep->what == RETENTION_IDENTITIES)
        return remove_identities(outbox, sweep, until_us);
    if (sweep->what == RETENTION_QUARANTINE || sweep->what == RETENTION_DEFERRED)
        return remove_apart(outbox, sweep, until_us);
    return remove_oldest(outbox, sweep, &removals[sweep->what], until_us);
}
