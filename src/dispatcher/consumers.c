#include "dispatcher/consumers.h"

#include <errno.h>
#include <pthread.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "outbox_internal.h"
#include "support/clock.h"

/* A piece of an acknowledgement: ends with the first of these, well below WRITER_TASK_MS, and looks
 * at the clock only once in so many rows. */
#define PIECE_US       4000
#define PIECE_LOOK     32
#define USER_MAX_BYTES 16384 /* of one entry in the user database */

struct consumers {
    pthread_mutex_t lock;
    struct consumer_set set;
};

/* What a change is judged by. */
struct bounds {
    int64_t position, pruned_through, last_id;
};

/* ---- who is configured ---- */

static bool find_user(const char *name, uid_t *ret_uid)
{
    char text[USER_MAX_BYTES];
    struct passwd entry, *found = NULL;

    if (getpwnam_r(name, &entry, text, sizeof text, &found) != 0 || !found)
        return false;
    *ret_uid = found->pw_uid;
    return true;
}

/* The configuration has checked that the names fit. */
static void read_config(const struct config *config, struct consumer_set *ret_set)
{
    memset(ret_set, 0, sizeof *ret_set);
    for (size_t i = 0; i < config->consumer_count && i < CONFIG_CONSUMERS_MAX; i++) {
        const struct config_consumer *from = &config->consumers[i];
        struct consumer *to = &ret_set->list[ret_set->count++];

        strncpy(to->name, from->name, sizeof to->name - 1);
        to->start_now = from->start_now;
        if (!from->user || from->user[0] == '\0')
            continue;
        strncpy(to->user, from->user, sizeof to->user - 1);
        to->user_known = find_user(to->user, &to->uid);
    }
}

int consumers_new(const struct config *config, struct consumers **ret_consumers)
{
    struct consumers *consumers = calloc(1, sizeof *consumers);

    if (!consumers)
        return -ENOMEM;
    (void)pthread_mutex_init(&consumers->lock, NULL); /* never fails with default attributes */
    read_config(config, &consumers->set);
    *ret_consumers = consumers;
    return 0;
}

void consumers_free(struct consumers *consumers)
{
    if (!consumers)
        return;
    (void)pthread_mutex_destroy(&consumers->lock);
    free(consumers);
}

void consumers_reconfigure(struct consumers *consumers, const struct config *config)
{
    struct consumer_set set;

    read_config(config, &set); /* without the lock: it may take its time */
    pthread_mutex_lock(&consumers->lock);
    consumers->set = set;
    pthread_mutex_unlock(&consumers->lock);
}

void consumers_set(struct consumers *consumers, struct consumer_set *ret_set)
{
    pthread_mutex_lock(&consumers->lock);
    *ret_set = consumers->set;
    pthread_mutex_unlock(&consumers->lock);
}

bool consumers_find(struct consumers *consumers, const char *name, struct consumer *ret_consumer)
{
    bool found = false;

    pthread_mutex_lock(&consumers->lock);
    for (size_t i = 0; !found && i < consumers->set.count; i++) {
        found = strcmp(consumers->set.list[i].name, name) == 0;
        if (found)
            *ret_consumer = consumers->set.list[i];
    }
    pthread_mutex_unlock(&consumers->lock);
    return found;
}

/* ---- inside a transaction ---- */

static enum outbox_error read_bounds(struct outbox *outbox, struct bounds *ret_bounds)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error =
        outbox_prepare(outbox, "SELECT pruned_through FROM state", &statement);
    int code;

    if (error != OUTBOX_ERROR_NONE)
        return error;
    code = sqlite3_step(statement);
    if (code != SQLITE_ROW)
        return outbox_check(outbox, code == SQLITE_DONE ? SQLITE_CORRUPT : code);
    ret_bounds->pruned_through = sqlite3_column_int64(statement, 0);
    ret_bounds->last_id = outbox->pending.last_id;
    return OUTBOX_ERROR_NONE;
}

/* The position of a consumer; *ret_found tells whether it has a row. */
static enum outbox_error read_position(struct outbox *outbox, const char *name, bool *ret_found,
                                       int64_t *ret_position)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error =
        outbox_prepare(outbox, "SELECT position FROM consumers WHERE name = ?1", &statement);
    int code;

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    code = sqlite3_step(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_check(outbox, code);
    *ret_found = code == SQLITE_ROW;
    if (*ret_found)
        *ret_position = sqlite3_column_int64(statement, 0);
    return OUTBOX_ERROR_NONE;
}

static int64_t start_of(const struct consumer *consumer, const struct bounds *bounds)
{
    return consumer->start_now ? bounds->last_id : bounds->pruned_through;
}

static enum outbox_error add_row(struct outbox *outbox, const struct consumer *consumer,
                                 const struct bounds *bounds, int64_t now_ms)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = outbox_prepare(
        outbox, "INSERT OR IGNORE INTO consumers VALUES (?1, ?2, ?3, NULL)", &statement);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_text(statement, 1, consumer->name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, start_of(consumer, bounds));
    sqlite3_bind_int64(statement, 3, now_ms);
    return outbox_check(outbox, outbox_step(statement));
}

enum outbox_error consumers_sync(struct consumers *consumers, struct outbox *outbox, int64_t now_ms)
{
    struct consumer_set set;
    struct bounds bounds;
    enum outbox_error error = read_bounds(outbox, &bounds);

    consumers_set(consumers, &set);
    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < set.count; i++)
        error = add_row(outbox, &set.list[i], &bounds, now_ms);
    return error;
}

enum outbox_error consumers_slowest(struct consumers *consumers, struct outbox *outbox,
                                    int64_t *ret_position, size_t *ret_count)
{
    struct consumer_set set;
    struct bounds bounds;
    enum outbox_error error = read_bounds(outbox, &bounds);
    int64_t slowest = INT64_MAX;

    consumers_set(consumers, &set);
    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < set.count; i++) {
        bool found = false;
        int64_t position = 0;

        error = read_position(outbox, set.list[i].name, &found, &position);
        if (error == OUTBOX_ERROR_NONE && !found)
            position = bounds.pruned_through;
        if (position < slowest)
            slowest = position;
    }
    if (error != OUTBOX_ERROR_NONE)
        return error;
    *ret_position = slowest;
    *ret_count = set.count;
    return OUTBOX_ERROR_NONE;
}

/* ---- one position moves ---- */

static enum outbox_error write_ack(struct outbox *outbox, sqlite3_stmt *insert, int64_t event_id,
                                   const char *name, int64_t now_ms)
{
    sqlite3_bind_int64(insert, 1, event_id);
    sqlite3_bind_text(insert, 2, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(insert, 3, now_ms);
    return outbox_check(outbox, outbox_step(insert));
}

/* Records the acknowledgements above from and up to *to; where the time is over before, *to becomes
 * the row that was reached and *ret_more is set. */
static enum outbox_error write_acks(struct outbox *outbox, const char *name, int64_t from,
                                    int64_t *to, int64_t now_ms, bool *ret_more)
{
    OUTBOX_STATEMENT(rows);
    OUTBOX_STATEMENT(insert);
    int64_t until_us = clock_monotonic_us() + PIECE_US;
    int code = SQLITE_DONE;
    enum outbox_error error = outbox_prepare(
        outbox,
        "SELECT id, test = 0 AND type IN ('account-delete', 'consent-revoked') FROM events "
        "WHERE id > ?1 AND id <= ?2 ORDER BY id",
        &rows);

    if (error == OUTBOX_ERROR_NONE) /* after a seek back the first time stands */
        error = outbox_prepare(outbox, "INSERT OR IGNORE INTO acks VALUES (?1, ?2, ?3)", &insert);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_int64(rows, 1, from);
    sqlite3_bind_int64(rows, 2, *to);
    for (unsigned count = 1; (code = sqlite3_step(rows)) == SQLITE_ROW; count++) {
        int64_t id = sqlite3_column_int64(rows, 0);

        if (sqlite3_column_int(rows, 1)) {
            error = write_ack(outbox, insert, id, name, now_ms);
            if (error != OUTBOX_ERROR_NONE)
                return error;
        }
        if (count % PIECE_LOOK == 0 && id < *to && clock_monotonic_us() > until_us) {
            *to = id;
            *ret_more = true;
            return OUTBOX_ERROR_NONE;
        }
    }
    return code == SQLITE_DONE ? OUTBOX_ERROR_NONE : outbox_check(outbox, code);
}

static enum outbox_error write_position(struct outbox *outbox, const char *name, int64_t position,
                                        bool seek, int64_t now_ms)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error =
        outbox_prepare(outbox,
                       "UPDATE consumers SET position = ?2, "
                       "acknowledged_ms = coalesce(?3, acknowledged_ms) WHERE name = ?1",
                       &statement);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, position);
    if (!seek) /* what is not bound is NULL */
        sqlite3_bind_int64(statement, 3, now_ms);
    return outbox_check(outbox, outbox_step(statement));
}

static enum consumers_verdict judge(const struct consumers_change *change,
                                    const struct bounds *bounds)
{
    if (change->to > bounds->last_id)
        return CONSUMERS_BEYOND;
    if (!change->seek && change->to < bounds->position)
        return CONSUMERS_BACKWARDS;
    if (!change->seek && change->from >= 0 && change->from != bounds->position &&
        change->to != bounds->position)
        return CONSUMERS_MOVED;
    if (change->to < bounds->pruned_through)
        return CONSUMERS_PRUNED;
    return CONSUMERS_DONE;
}

/* Finds out what the change is judged by; makes the row of a consumer that has none yet. */
static enum outbox_error look(struct consumers_change *change, struct outbox *outbox,
                              const struct consumer *consumer, int64_t now_ms,
                              struct bounds *ret_bounds)
{
    bool found = false;
    enum outbox_error error = read_bounds(outbox, ret_bounds);

    if (error == OUTBOX_ERROR_NONE)
        error = read_position(outbox, consumer->name, &found, &ret_bounds->position);
    if (error == OUTBOX_ERROR_NONE && !found) {
        ret_bounds->position = start_of(consumer, ret_bounds);
        error = add_row(outbox, consumer, ret_bounds, now_ms);
    }
    if (error != OUTBOX_ERROR_NONE)
        return error;
    change->position = ret_bounds->position;
    change->last_id = ret_bounds->last_id;
    change->pruned_through = ret_bounds->pruned_through;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error move(struct consumers_change *change, struct outbox *outbox,
                              int64_t now_ms)
{
    int64_t to = change->to;
    bool more = false;
    enum outbox_error error = OUTBOX_ERROR_NONE;

    if (to == change->position)
        return error;
    if (!change->seek)
        error = write_acks(outbox, change->name, change->position, &to, now_ms, &more);
    if (error == OUTBOX_ERROR_NONE)
        error = write_position(outbox, change->name, to, change->seek, now_ms);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    change->position = to;
    change->more = more;
    if (more && change->from >= 0)
        change->from = to; /* where the next piece begins, unless somebody seeks meanwhile */
    return error;
}

static enum outbox_error run_change(struct outbox *outbox, struct writer_task *task)
{
    struct consumers_change *change = (struct consumers_change *)task;
    int64_t now_ms = clock_wall_ms();
    struct consumer consumer;
    struct bounds bounds;
    enum outbox_error error;

    change->more = false;
    change->verdict = CONSUMERS_UNKNOWN;
    if (!consumers_find(change->consumers, change->name, &consumer))
        return OUTBOX_ERROR_NONE;
    error = look(change, outbox, &consumer, now_ms, &bounds);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    change->verdict = judge(change, &bounds);
    return change->verdict == CONSUMERS_DONE ? move(change, outbox, now_ms) : OUTBOX_ERROR_NONE;
}

static void on_done(struct writer_task *task, enum outbox_error error)
{
    struct consumers_change *change = (struct consumers_change *)task;

    if (error == OUTBOX_ERROR_NONE && change->more) {
        int posted = writer_post(change->writer, task);

        if (posted == 0)
            return;
        error = posted == -EAGAIN ? OUTBOX_ERROR_TRANSIENT : OUTBOX_ERROR_FATAL;
    }
    change->error = error;
    if (error != OUTBOX_ERROR_NONE)
        change->verdict = CONSUMERS_FAILED;
    change->done(change);
}

int consumers_post(struct consumers *consumers, struct writer *writer,
                   struct consumers_change *change)
{
    change->task = (struct writer_task){.run = run_change, .done = on_done};
    change->consumers = consumers;
    change->writer = writer;
    change->verdict = CONSUMERS_FAILED;
    return writer_post(writer, &change->task);
}
