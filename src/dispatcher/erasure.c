#include "dispatcher/erasure.h"

#include "dispatcher/apart.h"
#include "erasure_work.h"
#include "outbox_internal.h"
#include "support/clock.h"

#define PIECE_US 4000

enum outbox_error erasure_ask(struct outbox *outbox, const unsigned char person[PERSON_BYTES],
                              const char *team, int64_t now_ms)
{
    OUTBOX_STATEMENT(insert);
    enum outbox_error error =
        outbox_prepare(outbox, "INSERT OR IGNORE INTO erasing VALUES (?1, ?2, ?3)", &insert);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_blob(insert, 1, person, PERSON_BYTES, SQLITE_STATIC);
    sqlite3_bind_text(insert, 2, team, -1, SQLITE_STATIC);
    sqlite3_bind_int64(insert, 3, now_ms);
    return outbox_check(outbox, outbox_step(insert));
}

/* The mark is a row of nobody: no hash is empty. */
#define MARK "x''"

enum outbox_error erasure_mark(struct outbox *outbox)
{
    OUTBOX_STATEMENT(insert);
    enum outbox_error error =
        outbox_prepare(outbox, "INSERT OR IGNORE INTO erasing VALUES (" MARK ", '', 0)", &insert);

    return error == OUTBOX_ERROR_NONE ? outbox_check(outbox, outbox_step(insert)) : error;
}

enum outbox_error erasure_unmark(struct outbox *outbox, void *unused)
{
    OUTBOX_STATEMENT(remove);
    enum outbox_error error =
        outbox_prepare(outbox, "DELETE FROM erasing WHERE person = " MARK, &remove);

    (void)unused;
    return error == OUTBOX_ERROR_NONE ? outbox_check(outbox, outbox_step(remove)) : error;
}

/* The counts that a hit belongs to are those of its target and those of the round. */
static void count(const struct erasure_work *work, const struct erasure_hit *hit,
                  const struct erasure_counts *more)
{
    struct erasure_counts *all[] = {
        &work->round->counts, hit->target < 0 ? NULL : &work->round->targets[hit->target].counts};

    for (size_t i = 0; i < 2 && all[i]; i++) {
        all[i]->rows += more->rows;
        all[i]->raw += more->raw;
        all[i]->deferred += more->deferred;
        all[i]->quarantined += more->quarantined;
    }
}

/* Runs a statement for one key; the number of rows it changed. */
static enum outbox_error change(struct outbox *outbox, sqlite3_stmt *statement, int64_t id,
                                int64_t *ret_changed)
{
    enum outbox_error error;

    sqlite3_bind_int64(statement, 1, id);
    error = outbox_check(outbox, outbox_step(statement));
    if (error == OUTBOX_ERROR_NONE)
        *ret_changed = sqlite3_changes(outbox->db);
    return error;
}

/* Where a machine is so slow that the time is over before the first, that one is done all the same:
 * an erasure would never end. */
static bool in_time(const struct erasure_work *work, size_t first, int64_t until_us)
{
    return work->done < work->count && (work->done == first || clock_monotonic_us() < until_us);
}

enum outbox_error erasure_rows(struct outbox *outbox, void *argument)
{
    struct erasure_work *work = argument;
    size_t first = work->done;
    int64_t until_us = clock_monotonic_us() + PIECE_US;
    OUTBOX_STATEMENT(row);
    OUTBOX_STATEMENT(body);
    enum outbox_error error = outbox_prepare(
        outbox,
        "UPDATE events SET sub = NULL, email = NULL, is_private_email = NULL, jti = NULL, "
        "erased_at_ms = ?2 WHERE id = ?1 AND erased_at_ms IS NULL",
        &row);

    if (error == OUTBOX_ERROR_NONE)
        error = outbox_prepare(outbox, "DELETE FROM raw WHERE id = ?1", &body);
    while (error == OUTBOX_ERROR_NONE && in_time(work, first, until_us)) {
        const struct erasure_hit *hit = &work->hits[work->done++];
        struct erasure_counts more = {.rows = 0};

        sqlite3_bind_int64(row, 2, work->now_ms);
        error = change(outbox, row, hit->id, &more.rows);
        if (error == OUTBOX_ERROR_NONE)
            error = change(outbox, body, hit->raw_id, &more.raw);
        count(work, hit, &more);
    }
    return error;
}

enum outbox_error erasure_bodies(struct outbox *outbox, void *argument)
{
    struct erasure_work *work = argument;
    size_t first = work->done;
    int64_t until_us = clock_monotonic_us() + PIECE_US;
    OUTBOX_STATEMENT(body);
    enum outbox_error error = outbox_prepare(outbox, "DELETE FROM raw WHERE id = ?1", &body);

    while (error == OUTBOX_ERROR_NONE && in_time(work, first, until_us)) {
        const struct erasure_hit *hit = &work->hits[work->done++];
        struct erasure_counts more = {.rows = 0};

        error = change(outbox, body, hit->id, &more.raw);
        count(work, hit, &more);
    }
    return error;
}

static enum outbox_error remove_apart(struct outbox *outbox, struct erasure_work *work,
                                      enum apart_table table)
{
    size_t first = work->done;
    int64_t until_us = clock_monotonic_us() + PIECE_US;
    enum outbox_error error = OUTBOX_ERROR_NONE;

    while (error == OUTBOX_ERROR_NONE && in_time(work, first, until_us)) {
        const struct erasure_hit *hit = &work->hits[work->done++];
        struct erasure_counts more = {.rows = 0};
        bool removed = false;

        error = apart_remove(outbox, table, hit->id, &removed);
        if (table == APART_QUARANTINE)
            more.quarantined = removed;
        else
            more.deferred = removed;
        count(work, hit, &more);
    }
    return error;
}

enum outbox_error erasure_quarantined(struct outbox *outbox, void *work)
{
    return remove_apart(outbox, work, APART_QUARANTINE);
}

enum outbox_error erasure_deferred(struct outbox *outbox, void *work)
{
    return remove_apart(outbox, work, APART_DEFERRED);
}

/* Runs a statement about a person; the time is the second parameter, where there is one. */
static enum outbox_error note(struct outbox *outbox, const char *sql, const struct erasure_end *end)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = outbox_prepare(outbox, sql, &statement);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_blob(statement, 1, end->target->person, PERSON_BYTES, SQLITE_STATIC);
    if (sqlite3_bind_parameter_count(statement) > 1)
        sqlite3_bind_int64(statement, 2, end->rows.now_ms);
    return outbox_check(outbox, outbox_step(statement));
}

enum outbox_error erasure_finish(struct outbox *outbox, void *argument)
{
    struct erasure_end *end = argument;
    bool deleted = !end->target->asked || end->rows.count > 0;
    enum outbox_error error = OUTBOX_ERROR_NONE;

    while (error == OUTBOX_ERROR_NONE && end->rows.done < end->rows.count)
        error = erasure_rows(outbox, &end->rows);
    if (error == OUTBOX_ERROR_NONE && deleted)
        error = note(outbox, "INSERT OR IGNORE INTO erased VALUES (?1, ?2)", end);
    if (error == OUTBOX_ERROR_NONE && end->target->asked)
        error = note(outbox, "DELETE FROM erasing WHERE person = ?1", end);
    return error;
}
