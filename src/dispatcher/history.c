#include "dispatcher/history.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "outbox_internal.h"

/* A task may take WRITER_TASK_MS; an upsert takes some ten microseconds. */
#define GROWTHS_MAX 256

static const struct family {
    const char *metric, *what;
    bool has_client_id; /* as the second label, after the name */
} families[] = {
    {"siwa_notifications_total", "outcome", true},
    {"siwa_events_total", "event", true},
    {"siwa_http_refused_total", "refused", false},
};

#define FAMILY_COUNT (sizeof families / sizeof families[0])

/* A series of the metrics, whose texts live with the registry. */
struct counter {
    const struct metrics_series *series;
    const char *what, *name, *client_id;
    uint64_t stored;  /* of its value, how much the database has */
    uint64_t growing; /* how much the flush under way adds to that */
};

struct counters {
    struct counter *list; /* in the order in which the registry gives them */
    size_t count, room;
};

struct history {
    struct writer *writer;
    struct metrics_family *families[FAMILY_COUNT];
    struct counters counters;
    struct writer_task task;
    atomic_bool under_way; /* then the counters belong to the writer thread */
    int64_t day;           /* of the flush */
};

int history_new(struct writer *writer, struct metrics *metrics, struct history **ret_history)
{
    struct history *history = calloc(1, sizeof *history);

    if (!history)
        return -ENOMEM;
    history->writer = writer;
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        history->families[i] = metrics_find(metrics, families[i].metric);
    *ret_history = history;
    return 0;
}

void history_free(struct history *history)
{
    if (!history)
        return;
    free(history->counters.list);
    free(history);
}

/* ---- taking stock ---- */

struct stock {
    const struct family *family;
    const struct counters *before;
    size_t before_at; /* both lists have the order of the registry, which only gains series */
    struct counters now;
    bool failed;
};

static bool make_room(struct counters *counters)
{
    size_t room = counters->room ? 2 * counters->room : 256;
    struct counter *list;

    if (counters->count < counters->room)
        return true;
    list = reallocarray(counters->list, room, sizeof *list);
    if (!list)
        return false;
    counters->list = list;
    counters->room = room;
    return true;
}

static void take_series(void *context, const struct metrics_series *series,
                        const char *const *label_values)
{
    struct stock *stock = context;
    struct counter counter = {.series = series,
                              .what = stock->family->what,
                              .name = label_values[0],
                              .client_id = stock->family->has_client_id ? label_values[1] : ""};

    if (stock->before_at < stock->before->count &&
        stock->before->list[stock->before_at].series == series)
        counter.stored = stock->before->list[stock->before_at++].stored;
    counter.growing = (uint64_t)metrics_value(series) - counter.stored;
    if (make_room(&stock->now))
        stock->now.list[stock->now.count++] = counter;
    else
        stock->failed = true;
}

/* The counters as they stand now. False, and nothing changed, where memory is out. */
static bool take_stock(struct history *history)
{
    struct stock stock = {.before = &history->counters};

    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        stock.family = &families[i];
        metrics_each(history->families[i], take_series, &stock);
    }
    if (stock.failed) {
        free(stock.now.list);
        return false;
    }
    free(history->counters.list);
    history->counters = stock.now;
    return true;
}

/* Only so many grow in one flush; the others wait for the next. */
static bool anything_grew(struct counters *counters)
{
    size_t grew = 0;

    for (size_t i = 0; i < counters->count; i++) {
        if (counters->list[i].growing == 0)
            continue;
        if (grew < GROWTHS_MAX)
            grew++;
        else
            counters->list[i].growing = 0;
    }
    return grew > 0;
}

/* ---- on the writer thread ---- */

static struct history *history_of(struct writer_task *task)
{
    return (struct history *)((char *)task - offsetof(struct history, task));
}

static enum outbox_error add_growth(struct outbox *outbox, sqlite3_stmt *upsert, int64_t day,
                                    const struct counter *counter)
{
    int code = sqlite3_bind_int64(upsert, 1, day);

    if (code == SQLITE_OK)
        code = sqlite3_bind_text(upsert, 2, counter->what, -1, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_bind_text(upsert, 3, counter->name, -1, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_bind_text(upsert, 4, counter->client_id, -1, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(upsert, 5, (int64_t)counter->growing);
    return outbox_check(outbox, code == SQLITE_OK ? outbox_step(upsert) : code);
}

static enum outbox_error remove_before(struct outbox *outbox, int64_t day)
{
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = outbox_prepare(outbox, "DELETE FROM days WHERE day < ?1", &statement);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_int64(statement, 1, day);
    return outbox_check(outbox, outbox_step(statement));
}

static enum outbox_error run(struct outbox *outbox, struct writer_task *task)
{
    const struct history *history = history_of(task);
    OUTBOX_STATEMENT(upsert);
    enum outbox_error error = outbox_prepare(outbox,
                                             "INSERT INTO days VALUES (?1, ?2, ?3, ?4, ?5) "
                                             "ON CONFLICT DO UPDATE SET count = count + ?5",
                                             &upsert);

    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < history->counters.count; i++)
        if (history->counters.list[i].growing > 0)
            error = add_growth(outbox, upsert, history->day, &history->counters.list[i]);
    if (error == OUTBOX_ERROR_NONE)
        error = remove_before(outbox, history->day - HISTORY_DAYS + 1);
    return error;
}

static void done(struct writer_task *task, enum outbox_error error)
{
    struct history *history = history_of(task);

    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < history->counters.count; i++)
        history->counters.list[i].stored += history->counters.list[i].growing;
    atomic_store_explicit(&history->under_way, false, memory_order_release);
}

bool history_under_way(const struct history *history)
{
    return atomic_load_explicit(&history->under_way, memory_order_acquire);
}

void history_flush(struct history *history, int64_t now_ms)
{
    if (history_under_way(history))
        return;
    if (!take_stock(history) || !anything_grew(&history->counters))
        return;
    history->day = now_ms / HISTORY_DAY_MS;
    history->task = (struct writer_task){.run = run, .done = done};
    atomic_store_explicit(&history->under_way, true, memory_order_relaxed);
    if (writer_post(history->writer, &history->task) != 0)
        atomic_store_explicit(&history->under_way, false, memory_order_relaxed);
}
