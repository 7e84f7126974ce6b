/*
 * The reading side of an erasure: whom it is about, and where something of them stands.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erasure_work.h"
#include "outbox_internal.h"

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
        erasure_prepare(round, "SELECT person, team FROM erasing ORDER BY since_ms", &statement);
    int code = SQLITE_DONE;

    while (error == OUTBOX_ERROR_NONE && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        if (sqlite3_column_bytes(statement, 0) == 0) {
            round->marked = true;
            continue;
        }
        if (round->target_count == ERASURE_TARGETS_MAX) {
            round->more = true;
            break;
        }
        add_target(round, statement, true);
    }
    return error == OUTBOX_ERROR_NONE ? erasure_ended(code) : error;
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
    return erasure_ended(code);
}

static enum outbox_error find_acknowledged(struct erasure_round *round, int64_t slowest)
{
    OUTBOX_STATEMENT(deletes);
    OUTBOX_STATEMENT(acks);
    struct consumer_set set;
    int code = SQLITE_DONE;
    enum outbox_error error = erasure_prepare(
        round,
        "SELECT person, team, id, received_at_ms FROM events WHERE type = 'account-delete' AND "
        "test = 0 AND erased_at_ms IS NULL AND person IS NOT NULL AND id <= ?1 ORDER BY id",
        &deletes);

    if (error == OUTBOX_ERROR_NONE)
        error = erasure_prepare(
            round, "SELECT consumer, acknowledged_ms FROM acks WHERE event_id = ?1", &acks);
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
        /* They are acknowledged in the order of their ids. One whose row retention is to remove
         * does not wait any longer, since the row names the person. */
        if (round->after_s > 0 && ms + round->after_s * 1000 > round->now_ms &&
            sqlite3_column_int64(deletes, 3) >= round->removed_before_ms)
            break;
        if (round->target_count == ERASURE_TARGETS_MAX) {
            round->more = true;
            break;
        }
        add_target(round, deletes, false);
    }
    return error == OUTBOX_ERROR_NONE ? erasure_ended(code) : error;
}

/* The position of the slowest configured consumer; -1 where there is none, or one without a row. */
static enum outbox_error find_slowest(struct erasure_round *round, int64_t *ret_slowest)
{
    OUTBOX_STATEMENT(statement);
    struct consumer_set set;
    int64_t slowest = INT64_MAX;
    enum outbox_error error =
        erasure_prepare(round, "SELECT position FROM consumers WHERE name = ?1", &statement);

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
        error = erasure_ended(code);
    }
    if (error == OUTBOX_ERROR_NONE)
        *ret_slowest = set.count > 0 ? slowest : -1;
    return error;
}

/* ---- rows ---- */

/* The account-deletes, which come last. */
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

/* An app that has rows of another team than it is in now. */
struct erasure_moved {
    struct erasure_moved *next;
    char client_id[];
};

static bool was_moved(const struct erasure_round *round, const char *client_id)
{
    for (const struct erasure_moved *moved = round->moved; moved; moved = moved->next)
        if (strcmp(moved->client_id, client_id) == 0)
            return true;
    return false;
}

/* Keeps each app once: there are at most as many as the configuration has. */
static bool note_moved(struct erasure_round *round, const char *client_id)
{
    size_t bytes = strlen(client_id) + 1;
    struct erasure_moved *moved;

    if (was_moved(round, client_id))
        return true;
    moved = malloc(sizeof *moved + bytes);
    if (!moved)
        return false;
    memcpy(moved->client_id, client_id, bytes);
    moved->next = round->moved;
    round->moved = moved;
    return true;
}

static void forget_moved(struct erasure_round *round)
{
    while (round->moved) {
        struct erasure_moved *next = round->moved->next;

        free(round->moved);
        round->moved = next;
    }
}

/* Whose row it is; -1 for nobody's who is to be erased. It is of the team under which it was
 * stored, and of the one that its app has now: that may have been corrected, or the app
 * transferred. */
static bool find_owner(struct erasure_round *round, sqlite3_stmt *statement, int *ret_target)
{
    const char *client_id = (const char *)sqlite3_column_text(statement, 4);
    const char *team = (const char *)sqlite3_column_text(statement, 5);
    const char *sub = (const char *)sqlite3_column_text(statement, 6);
    unsigned char person[PERSON_BYTES];
    char team_now[ERASURE_TEAM_BYTES];
    bool moved = client_id && team && round->team_of(round->context, client_id, team_now) &&
                 strcmp(team, team_now) != 0;

    *ret_target = -1;
    if (moved && !note_moved(round, client_id))
        return false;
    if (sqlite3_column_bytes(statement, 2) != PERSON_BYTES)
        return true;
    *ret_target = find_target(round, sqlite3_column_blob(statement, 2));
    if (*ret_target >= 0 || !moved || !sub)
        return true;
    if (identity_of_person(round->key, team_now, client_id, sub, person) < 0)
        return false;
    *ret_target = find_target(round, person);
    return true;
}

/* Columns: id, raw_id, person, whether it is an account-delete, client_id, team, sub. */
static bool take_row(struct erasure_round *round, sqlite3_stmt *statement, int64_t acknowledged,
                     struct erasure_found *found, struct last *last)
{
    struct erasure_hit hit = {.id = sqlite3_column_int64(statement, 0),
                              .raw_id = sqlite3_column_int64(statement, 1)};

    found->last_id = hit.id;
    if (!find_owner(round, statement, &hit.target))
        return false;
    if (hit.target < 0)
        return true;
    if (!round->targets[hit.target].asked && hit.id > acknowledged)
        return true;
    if (sqlite3_column_int(statement, 3))
        return add_last(last, &hit);
    found->hits[found->count++] = hit;
    return true;
}

static enum outbox_error find_rows(struct erasure_round *round, sqlite3_stmt *statement,
                                   int64_t acknowledged, struct erasure_found *found,
                                   struct last *last)
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
    found->over = looked < ERASURE_STEP_ROWS;
    return erasure_ended(code);
}

/* Of the rows above *through, and moves it on to the last that there is. */
static enum outbox_error erase_rows(struct erasure_round *round, int64_t acknowledged,
                                    int64_t *through, struct last *last)
{
    OUTBOX_STATEMENT(statement);
    struct erasure_hit *hits __attribute__((cleanup(erasure_free_hits))) =
        calloc(ERASURE_STEP_ROWS, sizeof *hits);
    struct erasure_found found = {.hits = hits, .last_id = *through};
    enum outbox_error error =
        erasure_prepare(round,
                        "SELECT id, raw_id, CASE WHEN erased_at_ms IS NULL THEN person END, "
                        "type = 'account-delete' AND test = 0, client_id, team, sub FROM events "
                        "WHERE id > ?1 ORDER BY id " ERASURE_LIMIT_ROWS,
                        &statement);

    if (!hits)
        return OUTBOX_ERROR_TRANSIENT;
    while (error == OUTBOX_ERROR_NONE && !found.over) {
        error = find_rows(round, statement, acknowledged, &found, last);
        if (error == OUTBOX_ERROR_NONE)
            error = erasure_work_off(round, erasure_rows, found.hits, found.count);
        *through = found.last_id;
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
    }
    return error;
}

/* ---- bodies ---- */

static int find_in_team(struct erasure_search *search, const char *team, const char *text,
                        bool *ret_found)
{
    unsigned char person[PERSON_BYTES];
    int error = identity_of_person(search->round->key, team, search->client_id, text, person);

    if (error < 0)
        return error == -EINVAL ? SQLITE_DONE : SQLITE_NOMEM; /* as in erasure_follow */
    search->target = find_target(search->round, person);
    *ret_found = search->target >= 0;
    return SQLITE_DONE;
}

/* The same sub in another team is somebody else. Which team a body is of is known while its app has
 * been in one only; where the app is not configured any more, or has rows of an earlier team, a
 * body that may be the person's goes: nobody would look for it again. */
static int find_in_targets(struct erasure_search *search, const char *text, bool *ret_found)
{
    const struct erasure_round *round = search->round;
    char team[ERASURE_TEAM_BYTES];
    int code = SQLITE_DONE;

    if (round->team_of(round->context, search->client_id, team) &&
        !was_moved(round, search->client_id))
        return find_in_team(search, team, text, ret_found);
    for (size_t i = 0; code == SQLITE_DONE && !*ret_found && i < round->target_count; i++)
        /* many targets are of one team; hashing once for each of them finds the same */
        if (i == 0 || strcmp(round->targets[i].team, round->targets[i - 1].team) != 0)
            code = find_in_team(search, round->targets[i].team, text, ret_found);
    return code;
}

static enum outbox_error erase_bodies(struct erasure_round *round, const char *sql,
                                      enum outbox_error (*work)(struct outbox *outbox,
                                                                void *argument))
{
    struct erasure_search search = {.round = round, .find = find_in_targets};
    int64_t through = 0;

    return erasure_search(&search, sql, work, &through);
}

static enum outbox_error erase_deferred(struct erasure_round *round)
{
    return erase_bodies(
        round,
        "SELECT id, body, client_id FROM deferred WHERE id > ?1 ORDER BY id " ERASURE_LIMIT_BODIES,
        erasure_deferred);
}

static enum outbox_error erase_quarantined(struct erasure_round *round)
{
    return erase_bodies(round,
                        "SELECT id, body, client_id FROM quarantine WHERE id > ?1 "
                        "ORDER BY id " ERASURE_LIMIT_BODIES,
                        erasure_quarantined);
}

static enum outbox_error erase_mixed(struct erasure_round *round)
{
    return erase_bodies(round,
                        "SELECT " ERASURE_RAW_COLUMNS " FROM raw "
                        "WHERE mixed = 1 AND id > ?1 ORDER BY id " ERASURE_LIMIT_BODIES,
                        erasure_bodies);
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
        if (round->is_stopping(round->context))
            return OUTBOX_ERROR_TRANSIENT;
        struct erasure_end end = {
            .target = &round->targets[i],
            .rows = {.round = round, .hits = last->hits + at, .now_ms = round->now_ms}};

        while (at < last->count && last->hits[at].target == (int)i) {
            at++;
            end.rows.count++;
        }
        error = round->have_done(round->context, erasure_finish, &end);
        round->targets[i].finished = error == OUTBOX_ERROR_NONE;
    }
    return error;
}

/* Meanwhile keys may arrive, or an operator may release: what is deferred becomes a row or is
 * quarantined, what is quarantined becomes a row, and each brings its body. Looked at in this order
 * nothing gets past. The rows come first, too, since they tell which app had another team. */
static enum outbox_error erase_targets(struct erasure_round *round, int64_t acknowledged)
{
    struct last last __attribute__((cleanup(release_last))) = {.hits = NULL};
    int64_t through = 0;
    enum outbox_error error = erase_rows(round, acknowledged, &through, &last);

    if (error == OUTBOX_ERROR_NONE)
        error = erase_deferred(round);
    if (error == OUTBOX_ERROR_NONE)
        error = erase_quarantined(round);
    if (error == OUTBOX_ERROR_NONE)
        error = erase_rows(round, acknowledged, &through, &last);
    if (error == OUTBOX_ERROR_NONE)
        error = erase_mixed(round);
    forget_moved(round);
    return error == OUTBOX_ERROR_NONE ? finish(round, &last) : error;
}

enum outbox_error erasure_run(struct erasure_round *round)
{
    int64_t slowest = -1;
    bool automatic = false;
    enum outbox_error error;

    round->target_count = 0;
    round->more = round->marked = false;
    memset(&round->counts, 0, sizeof round->counts);
    error = find_asked(round);
    if (error == OUTBOX_ERROR_NONE && round->after_s != CONFIG_ERASE_OFF)
        error = find_slowest(round, &slowest);
    automatic = error == OUTBOX_ERROR_NONE && slowest >= 0;
    if (automatic)
        error = find_acknowledged(round, slowest);
    if (slowest < round->followed.rows_through) /* a consumer went back */
        slowest = round->followed.rows_through;
    if (error == OUTBOX_ERROR_NONE && round->target_count > 0)
        error = erase_targets(round, slowest);
    if (error == OUTBOX_ERROR_NONE && automatic)
        error = erasure_follow(round, slowest);
    return error;
}
