/*
 * The reading side of an erasure: whom it is about, and where something of them stands. Each step
 * reads in a transaction of its own, so that the WAL can be moved on between them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erasure_work.h"
#include "outbox_internal.h"

#define STEP_ROWS   4096 /* read in one transaction */
#define STEP_BODIES 64

#define STRINGIZE_(value) #value
#define STRINGIZE(value)  STRINGIZE_(value)
#define LIMIT_BODIES      "LIMIT " STRINGIZE(STEP_BODIES)

/* What was found in a step. */
struct found {
    struct erasure_hit *hits;
    size_t count;
    int64_t last_id;
    bool over;
};

static enum outbox_error reader_error(int code)
{
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB
               ? OUTBOX_ERROR_FATAL
               : OUTBOX_ERROR_TRANSIENT;
}

static enum outbox_error prepare(struct erasure_round *round, const char *sql,
                                 sqlite3_stmt **ret_statement)
{
    int code = sqlite3_prepare_v2(outbox_reader_db(round->reader), sql, -1, ret_statement, NULL);

    return code == SQLITE_OK ? OUTBOX_ERROR_NONE : reader_error(code);
}

static enum outbox_error ended(int code)
{
    return code == SQLITE_DONE || code == SQLITE_ROW ? OUTBOX_ERROR_NONE : reader_error(code);
}

/* ---- whom ---- */

static int compare_targets(const void *a, const void *b)
{
    return memcmp(((const struct erasure_target *)a)->person,
                  ((const struct erasure_target *)b)->person, PERSON_BYTES);
}

static int find_target(const struct erasure_round *round, const unsigned char person[PERSON_BYTES])
{
    struct erasure_target key = {.asked = false};
    const struct erasure_target *found;

    memcpy(key.person, person, PERSON_BYTES);
    found = bsearch(&key, round->targets, round->target_count, sizeof key, compare_targets);
    return found ? (int)(found - round->targets) : -1;
}

/* Keeps the list sorted, and each person in it once. Columns: person, team. */
static void add_target(struct erasure_round *round, sqlite3_stmt *statement, bool asked)
{
    const void *person = sqlite3_column_blob(statement, 0);
    const unsigned char *team = sqlite3_column_text(statement, 1);
    struct erasure_target *target = &round->targets[round->target_count];

    if (sqlite3_column_bytes(statement, 0) != PERSON_BYTES || find_target(round, person) >= 0)
        return;
    memset(target, 0, sizeof *target);
    memcpy(target->person, person, PERSON_BYTES);
    strncpy(target->team, team ? (const char *)team : "", sizeof target->team - 1);
    target->asked = asked;
    round->target_count++;
    qsort(round->targets, round->target_count, sizeof *round->targets, compare_targets);
}

static enum outbox_error find_asked(struct erasure_round *round)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error =
        prepare(round, "SELECT person, team FROM erasing ORDER BY since_ms", &statement);
    int code = SQLITE_DONE;

    while (error == OUTBOX_ERROR_NONE && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        if (round->target_count == ERASURE_TARGETS_MAX) {
            round->more = true;
            break;
        }
        add_target(round, statement, true);
    }
    return error == OUTBOX_ERROR_NONE ? ended(code) : error;
}

/* When the last of the configured consumers acknowledged a row, as far as that is known: one that
 * was moved past it has no time of its own. */
static enum outbox_error acknowledged_ms(sqlite3_stmt *acks, const struct consumer_set *set,
                                         int64_t event_id, int64_t *ret_ms)
{
    int code;

    sqlite3_bind_int64(acks, 1, event_id);
    while ((code = sqlite3_step(acks)) == SQLITE_ROW) {
        const unsigned char *name = sqlite3_column_text(acks, 0);

        for (size_t i = 0; i < set->count; i++)
            if (name && strcmp(set->list[i].name, (const char *)name) == 0 &&
                sqlite3_column_int64(acks, 1) > *ret_ms)
                *ret_ms = sqlite3_column_int64(acks, 1);
    }
    sqlite3_reset(acks);
    return ended(code);
}

static enum outbox_error find_acknowledged(struct erasure_round *round, int64_t slowest)
{
    OUTBOX_STATEMENT(deletes);
    OUTBOX_STATEMENT(acks);
    struct consumer_set set;
    int code = SQLITE_DONE;
    enum outbox_error error = prepare(
        round,
        "SELECT person, team, id, received_at_ms FROM events WHERE type = 'account-delete' AND "
        "test = 0 AND erased_at_ms IS NULL AND person IS NOT NULL AND id <= ?1 ORDER BY id",
        &deletes);

    if (error == OUTBOX_ERROR_NONE)
        error =
            prepare(round, "SELECT consumer, acknowledged_ms FROM acks WHERE event_id = ?1", &acks);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    consumers_set(round->consumers, &set);
    sqlite3_bind_int64(deletes, 1, slowest);
    while (error == OUTBOX_ERROR_NONE && (code = sqlite3_step(deletes)) == SQLITE_ROW) {
        int64_t ms = sqlite3_column_int64(deletes, 3);

        if (round->after_s > 0)
            error = acknowledged_ms(acks, &set, sqlite3_column_int64(deletes, 2), &ms);
        if (error != OUTBOX_ERROR_NONE)
            return error;
        /* they are acknowledged in the order of their ids */
        if (round->after_s > 0 && ms + round->after_s * 1000 > round->now_ms)
            break;
        if (round->target_count == ERASURE_TARGETS_MAX) {
            round->more = true;
            break;
        }
        add_target(round, deletes, false);
    }
    return error == OUTBOX_ERROR_NONE ? ended(code) : error;
}

/* The position of the slowest configured consumer; -1 where there is none, or one without a row. */
static enum outbox_error find_slowest(struct erasure_round *round, int64_t *ret_slowest)
{
    OUTBOX_STATEMENT(statement);
    struct consumer_set set;
    int64_t slowest = INT64_MAX;
    enum outbox_error error =
        prepare(round, "SELECT position FROM consumers WHERE name = ?1", &statement);

    consumers_set(round->consumers, &set);
    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < set.count; i++) {
        int64_t position;
        int code;

        sqlite3_bind_text(statement, 1, set.list[i].name, -1, SQLITE_STATIC);
        code = sqlite3_step(statement);
        position = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : -1;
        if (position < slowest)
            slowest = position;
        sqlite3_reset(statement);
        error = ended(code);
    }
    if (error == OUTBOX_ERROR_NONE)
        *ret_slowest = set.count > 0 ? slowest : -1;
    return error;
}

/* ---- doing ---- */

/* Has the writer go through what was found. After an error the counts say nothing. */
static enum outbox_error work_off(struct erasure_round *round,
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

/* ---- rows ---- */

/* The account-deletes of those who are not asked for, which come last. */
struct last {
    struct erasure_hit *hits;
    size_t count, room;
};

static bool add_last(struct last *last, const struct erasure_hit *hit)
{
    if (last->count == last->room) {
        size_t room = last->room ? 2 * last->room : 64;
        struct erasure_hit *hits = reallocarray(last->hits, room, sizeof *hits);

        if (!hits)
            return false;
        last->hits = hits;
        last->room = room;
    }
    last->hits[last->count++] = *hit;
    return true;
}

static void release_last(struct last *last)
{
    free(last->hits);
}

static void free_hits(struct erasure_hit **hits)
{
    free(*hits);
}

/* Columns: id, raw_id, person, whether it is an account-delete. */
static bool take_row(struct erasure_round *round, sqlite3_stmt *statement, int64_t acknowledged,
                     struct found *found, struct last *last)
{
    struct erasure_hit hit = {.id = sqlite3_column_int64(statement, 0),
                              .raw_id = sqlite3_column_int64(statement, 1),
                              .target = -1};

    found->last_id = hit.id;
    if (sqlite3_column_bytes(statement, 2) != PERSON_BYTES)
        return true;
    hit.target = find_target(round, sqlite3_column_blob(statement, 2));
    if (hit.target < 0)
        return true;
    if (!round->targets[hit.target].asked) {
        if (hit.id > acknowledged)
            return true;
        if (sqlite3_column_int(statement, 3))
            return add_last(last, &hit);
    }
    found->hits[found->count++] = hit;
    return true;
}

static enum outbox_error find_rows(struct erasure_round *round, sqlite3_stmt *statement,
                                   int64_t acknowledged, struct found *found, struct last *last)
{
    int looked = 0, code;

    found->count = 0;
    sqlite3_bind_int64(statement, 1, found->last_id);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        looked++;
        if (!take_row(round, statement, acknowledged, found, last)) {
            sqlite3_reset(statement);
            return OUTBOX_ERROR_TRANSIENT;
        }
    }
    sqlite3_reset(statement);
    found->over = looked < STEP_ROWS;
    return ended(code);
}

static enum outbox_error erase_rows(struct erasure_round *round, int64_t acknowledged,
                                    struct last *last)
{
    OUTBOX_STATEMENT(statement);
    struct erasure_hit *hits __attribute__((cleanup(free_hits))) = calloc(STEP_ROWS, sizeof *hits);
    struct found found = {.hits = hits};
    enum outbox_error error =
        prepare(round, "SELECT id, raw_id, CASE WHEN erased_at_ms IS NULL THEN person END, "
                       "type = 'account-delete' AND test = 0 FROM events WHERE id > ?1 ORDER BY id "
                       "LIMIT " STRINGIZE(STEP_ROWS), &statement);

    if (!hits)
        return OUTBOX_ERROR_TRANSIENT;
    while (error == OUTBOX_ERROR_NONE && !found.over) {
        error = find_rows(round, statement, acknowledged, &found, last);
        if (error == OUTBOX_ERROR_NONE)
            error = work_off(round, erasure_rows, found.hits, found.count);
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
    }
    return error;
}

/* ---- those who were erased before, and came again ---- */

static enum outbox_error has_erased(struct erasure_round *round, bool *ret_any)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = prepare(round, "SELECT 1 FROM erased LIMIT 1", &statement);
    int code;

    if (error != OUTBOX_ERROR_NONE)
        return error;
    code = sqlite3_step(statement);
    *ret_any = code == SQLITE_ROW;
    return ended(code);
}

static enum outbox_error find_followed(sqlite3_stmt *statement, int64_t acknowledged,
                                       struct found *found)
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
    found->over = looked < STEP_ROWS;
    return ended(code);
}

static enum outbox_error follow(struct erasure_round *round, int64_t acknowledged)
{
    OUTBOX_STATEMENT(statement);
    struct erasure_hit *hits __attribute__((cleanup(free_hits))) = calloc(STEP_ROWS, sizeof *hits);
    struct found found = {.hits = hits, .last_id = round->followed_through};
    enum outbox_error error = prepare(
        round, "SELECT id, raw_id, erased_at_ms IS NULL AND "
               "EXISTS (SELECT 1 FROM erased WHERE erased.person = events.person) "
               "FROM events WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT " STRINGIZE(STEP_ROWS),
                                                                                     &statement);

    if (!hits)
        return OUTBOX_ERROR_TRANSIENT;
    while (error == OUTBOX_ERROR_NONE && !found.over) {
        error = find_followed(statement, acknowledged, &found);
        if (error == OUTBOX_ERROR_NONE)
            error = work_off(round, erasure_rows, found.hits, found.count);
        if (error == OUTBOX_ERROR_NONE)
            round->followed_through = found.last_id;
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
    }
    return error;
}

/* ---- bodies ---- */

struct match {
    struct erasure_round *round;
    int target;
};

/* A sub is one for all apps of a team, so the app that a body is for does not matter. */
static bool is_target(void *context, const char *text)
{
    struct match *match = context;
    const struct erasure_round *round = match->round;
    unsigned char person[PERSON_BYTES];

    for (size_t i = 0; i < round->target_count; i++) {
        /* many targets are of one team; hashing once for each of them finds the same */
        if (i > 0 && strcmp(round->targets[i].team, round->targets[i - 1].team) == 0)
            continue;
        if (identity_of_person(round->key, round->targets[i].team, "", text, person) < 0)
            continue;
        match->target = find_target(round, person);
        if (match->target >= 0)
            return true;
    }
    return false;
}

/* Columns: id, body. */
static enum outbox_error find_bodies(struct erasure_round *round, sqlite3_stmt *statement,
                                     struct found *found)
{
    int looked = 0, code;

    found->count = 0;
    sqlite3_bind_int64(statement, 1, found->last_id);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct match match = {.round = round, .target = -1};
        const char *body = sqlite3_column_blob(statement, 1);

        looked++;
        found->last_id = sqlite3_column_int64(statement, 0);
        if (body &&
            erasure_body_texts(body, (size_t)sqlite3_column_bytes(statement, 1), is_target, &match))
            found->hits[found->count++] =
                (struct erasure_hit){.id = found->last_id, .target = match.target};
    }
    sqlite3_reset(statement);
    found->over = looked < STEP_BODIES;
    return ended(code);
}

static enum outbox_error erase_bodies(struct erasure_round *round, const char *sql,
                                      enum outbox_error (*work)(struct outbox *outbox,
                                                                void *argument))
{
    OUTBOX_STATEMENT(statement);
    struct erasure_hit hits[STEP_BODIES];
    struct found found = {.hits = hits};
    enum outbox_error error = prepare(round, sql, &statement);

    while (error == OUTBOX_ERROR_NONE && !found.over) {
        error = find_bodies(round, statement, &found);
        if (error == OUTBOX_ERROR_NONE)
            error = work_off(round, work, found.hits, found.count);
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
    }
    return error;
}

static enum outbox_error erase_copies(struct erasure_round *round)
{
    static const struct {
        const char *sql;
        enum outbox_error (*work)(struct outbox *outbox, void *argument);
    } places[] = {
        {"SELECT id, body FROM raw WHERE mixed = 1 AND id > ?1 ORDER BY id " LIMIT_BODIES,
         erasure_bodies},
        {"SELECT id, body FROM quarantine WHERE id > ?1 ORDER BY id " LIMIT_BODIES,
         erasure_quarantined},
        {"SELECT id, body FROM deferred WHERE id > ?1 ORDER BY id " LIMIT_BODIES, erasure_deferred},
    };
    enum outbox_error error = OUTBOX_ERROR_NONE;

    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < sizeof places / sizeof *places; i++)
        error = erase_bodies(round, places[i].sql, places[i].work);
    return error;
}

/* ---- all of it ---- */

static int compare_hits(const void *a, const void *b)
{
    const struct erasure_hit *left = a, *right = b;

    return (left->target > right->target) - (left->target < right->target);
}

/* Their account-deletes, each person's in one transaction with the note that they are erased: until
 * then the next round finds them again. */
static enum outbox_error finish(struct erasure_round *round, struct last *last)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;
    size_t at = 0;

    if (last->count > 0)
        qsort(last->hits, last->count, sizeof *last->hits, compare_hits);
    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < round->target_count; i++) {
        struct erasure_end end = {
            .target = &round->targets[i],
            .rows = {.round = round, .hits = last->hits + at, .now_ms = round->now_ms}};

        while (at < last->count && last->hits[at].target == (int)i) {
            at++;
            end.rows.count++;
        }
        error = round->have_done(round->context, erasure_finish, &end);
    }
    return error;
}

static enum outbox_error erase_targets(struct erasure_round *round, int64_t acknowledged)
{
    struct last last __attribute__((cleanup(release_last))) = {.hits = NULL};
    enum outbox_error error = erase_rows(round, acknowledged, &last);

    if (error == OUTBOX_ERROR_NONE)
        error = erase_copies(round);
    return error == OUTBOX_ERROR_NONE ? finish(round, &last) : error;
}

enum outbox_error erasure_run(struct erasure_round *round)
{
    int64_t slowest = -1;
    bool automatic = false, any_erased = false;
    enum outbox_error error;

    round->target_count = 0;
    round->more = false;
    memset(&round->counts, 0, sizeof round->counts);
    error = find_asked(round);
    if (error == OUTBOX_ERROR_NONE && round->after_s != CONFIG_ERASE_OFF)
        error = find_slowest(round, &slowest);
    automatic = error == OUTBOX_ERROR_NONE && slowest >= 0;
    if (automatic)
        error = find_acknowledged(round, slowest);
    if (slowest < round->followed_through) /* a consumer went back */
        slowest = round->followed_through;
    if (error == OUTBOX_ERROR_NONE && round->target_count > 0)
        error = erase_targets(round, slowest);
    if (error == OUTBOX_ERROR_NONE && automatic)
        error = has_erased(round, &any_erased);
    if (error == OUTBOX_ERROR_NONE && automatic && any_erased)
        error = follow(round, slowest);
    return error;
}
