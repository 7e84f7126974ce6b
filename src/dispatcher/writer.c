#include "dispatcher/writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support/clock.h"

/* How often an idle thread shows that it lives. */
#define WRITER_IDLE_MS 250

/* What is stored apart from the events, in the order of struct outbox_apart. */
static const char *const apart_gauges[][2] = {
    {"siwa_quarantined_events", "Notifications in quarantine."},
    {"siwa_quarantined_bytes", "Bytes of the notifications in quarantine."},
    {"siwa_deferred_events", "Notifications that wait for keys."},
    {"siwa_deferred_bytes", "Bytes of the notifications that wait for keys."},
};
#define WRITER_APART_GAUGES (sizeof apart_gauges / sizeof *apart_gauges)

struct list {
    struct delivery *head, **tail;
};

struct task_list {
    struct writer_task *head, **tail;
};

/* What the thread took to do in one turn. */
struct work {
    struct delivery *batch, **batch_tail;
    struct writer_task *tasks;
};

struct writer {
    struct writer_settings settings;
    pthread_t thread;
    bool joined;

    pthread_mutex_t
        lock; /* guards what follows, up to the next blank line; never held over a commit */
    pthread_cond_t wake;
    struct list queue; /* submitted, not yet begun */
    struct list done;  /* outcome known, not yet collected */
    unsigned queued_events;
    bool released; /* what is queued waits for nothing more */
    struct task_list tasks;
    unsigned queued_tasks;
    bool stopping;
    struct writer_state state;

    struct metrics_series *commit_seconds, *commit_rows, *queue_gauge;
    struct metrics_series *apart[WRITER_APART_GAUGES];
    struct metrics_family *errors;
};

static void list_init(struct list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void list_append(struct list *list, struct delivery *first, struct delivery **tail)
{
    if (!first)
        return;
    *list->tail = first;
    list->tail = tail;
}

static struct delivery *list_take(struct list *list)
{
    struct delivery *head = list->head;

    list_init(list);
    return head;
}

static void list_free(struct delivery *head)
{
    while (head) {
        struct delivery *next = head->next;

        delivery_free(head);
        head = next;
    }
}

/* A delivery without events (quarantine) takes the room of one. */
static unsigned room_of(const struct delivery *delivery)
{
    size_t events = delivery->judgement.notification.event_count;

    return events > 0 ? (unsigned)events : 1;
}

static void register_metrics(struct writer *writer)
{
    static const double seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                     0.1,    0.25,  0.5,    1,     2.5,  5,     10};
    static const double rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};
    static const char *const none[] = {NULL};
    static const char *const kind[] = {"kind", NULL};
    struct metrics *metrics = writer->settings.metrics;

    if (!metrics)
        return;
    writer->commit_seconds = metrics_with(
        metrics_register(metrics, METRICS_HISTOGRAM, "siwa_commit_seconds",
                         "Time of one group commit, from its begin to the end of its fsync.", none,
                         seconds, sizeof seconds / sizeof *seconds),
        none);
    writer->commit_rows =
        metrics_with(metrics_register(metrics, METRICS_HISTOGRAM, "siwa_commit_rows",
                                      "Rows stored by one group commit.", none, rows,
                                      sizeof rows / sizeof *rows),
                     none);
    writer->queue_gauge =
        metrics_with(metrics_register(metrics, METRICS_GAUGE, "siwa_queue_events",
                                      "Events that wait for the next group commit.", none, NULL, 0),
                     none);
    for (size_t i = 0; i < WRITER_APART_GAUGES; i++)
        writer->apart[i] = metrics_with(metrics_register(metrics, METRICS_GAUGE, apart_gauges[i][0],
                                                         apart_gauges[i][1], none, NULL, 0),
                                        none);
    writer->errors = metrics_register(metrics, METRICS_COUNTER, "siwa_database_errors_total",
                                      "Errors of the database, by kind.", kind, NULL, 0);
}

static void count_error(struct writer *writer)
{
    const char *const kind[] = {outbox_error_kind(writer->settings.outbox), NULL};

    if (writer->errors)
        metrics_add(metrics_with(writer->errors, kind), 1);
}

/* One attempt at a whole batch. *ret_bad is the delivery that cannot be stored, where that is the
 * error. */
static enum outbox_error attempt(struct outbox *outbox, struct delivery *batch, uint64_t *ret_rows,
                                 struct delivery **ret_bad)
{
    enum outbox_error error = outbox_begin(outbox);
    uint64_t rows = 0;

    for (struct delivery *delivery = batch; error == OUTBOX_ERROR_NONE && delivery;
         delivery = delivery->next) {
        if (delivery->refused)
            continue;
        error = outbox_add(outbox, delivery);
        rows += delivery->rows;
        if (error == OUTBOX_ERROR_DELIVERY)
            *ret_bad = delivery;
    }
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_commit(outbox);
    if (error == OUTBOX_ERROR_NONE)
        *ret_rows = rows;
    else
        outbox_rollback(outbox);
    return error;
}

/* A delivery that the database refuses must not take the others with it: it is left out, and they
 * are tried again. Each round leaves out one, so this ends. */
static enum outbox_error store(struct writer *writer, struct delivery *batch, uint64_t *ret_rows)
{
    enum outbox_error error;

    for (;;) {
        struct delivery *bad = NULL;

        error = attempt(writer->settings.outbox, batch, ret_rows, &bad);
        if (error != OUTBOX_ERROR_DELIVERY || !bad)
            return error;
        count_error(writer);
        bad->refused = true;
    }
}

/* Called with the lock held, or before the thread starts. */
static void note_apart(struct writer *writer)
{
    struct outbox_apart apart = outbox_apart(writer->settings.outbox);
    const int64_t values[WRITER_APART_GAUGES] = {apart.quarantine_rows, apart.quarantine_bytes,
                                                 apart.deferred_rows, apart.deferred_bytes};

    writer->state.apart = apart;
    for (size_t i = 0; i < WRITER_APART_GAUGES; i++)
        metrics_set(writer->apart[i], (double)values[i]);
}

static void set_outcome(struct delivery *delivery, enum verdict verdict)
{
    delivery->verdict = verdict;
    delivery->rows = 0;
    delivery->first_id = 0;
}

/* What was said of a batch before its commit is true only now, or not at all. */
static void settle(struct delivery *batch, enum outbox_error error)
{
    for (struct delivery *delivery = batch; delivery; delivery = delivery->next) {
        if (error != OUTBOX_ERROR_NONE)
            set_outcome(delivery, VERDICT_STORE_FAILED);
        else if (delivery->refused)
            set_outcome(delivery, VERDICT_INTERNAL);
    }
}

static bool is_fatal(enum outbox_error error)
{
    return error != OUTBOX_ERROR_NONE && error != OUTBOX_ERROR_TRANSIENT;
}

/* Called with the lock held. */
static void note_error(struct writer *writer, enum outbox_error error)
{
    writer->state.failing = error == OUTBOX_ERROR_TRANSIENT;
    if (writer->state.failing)
        writer->state.failed_ms = clock_monotonic_ms();
    writer->state.fatal = is_fatal(error);
    snprintf(writer->state.why, sizeof writer->state.why, "%s",
             error == OUTBOX_ERROR_NONE ? "" : outbox_error_text(writer->settings.outbox));
}

static void task_list_init(struct task_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

/* Cuts off the first few tasks. Called with the lock held. */
static struct writer_task *take_tasks(struct writer *writer, unsigned most)
{
    struct writer_task *first = writer->tasks.head, **end = &writer->tasks.head;

    while (*end && most > 0) {
        end = &(*end)->next;
        writer->queued_tasks--;
        most--;
    }
    if (end == &writer->tasks.head)
        return NULL;
    writer->tasks.head = *end;
    *end = NULL;
    if (!writer->tasks.head)
        writer->tasks.tail = &writer->tasks.head;
    return first;
}

/* Called with the lock held. */
static void wait_for_work(struct writer *writer)
{
    while (!writer->released && !writer->tasks.head && !writer->stopping) {
        struct timespec until;

        writer->state.alive_ms = clock_monotonic_ms();
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WRITER_IDLE_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&writer->wake, &writer->lock, &until);
    }
}

/* Waits until there is work; false when the writer is to end. Leaves state.committing set. */
static bool next_work(struct writer *writer, struct work *ret_work)
{
    struct work work = {.batch = NULL};

    pthread_mutex_lock(&writer->lock);
    wait_for_work(writer);
    work.tasks = take_tasks(writer, WRITER_TASKS_TURN);
    if (writer->queue.head) {
        work.batch_tail = writer->queue.tail;
        work.batch = list_take(&writer->queue);
        writer->queued_events = 0;
        metrics_set(writer->queue_gauge, 0);
    }
    writer->released = false;
    if (work.batch || work.tasks) {
        writer->state.alive_ms = clock_monotonic_ms();
        writer->state.committing = true;
        writer->state.committing_since_ms = writer->state.alive_ms;
    }
    pthread_mutex_unlock(&writer->lock);
    *ret_work = work;
    return work.batch || work.tasks;
}

/* Hands a batch back. After a fatal error, so is what was queued meanwhile. */
static void deliver(struct writer *writer, struct delivery *batch, struct delivery **tail,
                    enum outbox_error error, uint64_t rows)
{
    struct delivery *given_up = NULL;

    if (is_fatal(error)) /* before anybody learns of it, since the daemon exits then; where even
                            this cannot be written, recovery at the next start is what there is */
        outbox_mark_failed(writer->settings.outbox);
    settle(batch, error);
    pthread_mutex_lock(&writer->lock);
    note_error(writer, error);
    if (error == OUTBOX_ERROR_NONE) {
        writer->state.commits++;
        writer->state.rows += rows;
        note_apart(writer);
    }
    list_append(&writer->done, batch, tail);
    if (is_fatal(error)) {
        struct delivery **last = writer->queue.tail;

        given_up = list_take(&writer->queue);
        writer->queued_events = 0;
        metrics_set(writer->queue_gauge, 0);
        settle(given_up, error);
        list_append(&writer->done, given_up, last);
    }
    pthread_mutex_unlock(&writer->lock);
    writer->settings.on_committed(writer->settings.context);
}

/* What doctor sends counts for nothing: it is no traffic, and its commit no measure of it. */
static bool all_test(const struct delivery *batch)
{
    for (; batch; batch = batch->next)
        if (!batch->judgement.probe)
            return false;
    return true;
}

/* Errors that only the next commit would meet anyway leave the outcome of this one as it is. */
static enum outbox_error checkpoint(struct writer *writer)
{
    enum outbox_error error = outbox_checkpoint_if_due(writer->settings.outbox);

    if (error == OUTBOX_ERROR_NONE)
        return error;
    count_error(writer);
    if (is_fatal(error))
        deliver(writer, NULL, NULL, error, 0);
    return error;
}

static enum outbox_error commit_batch(struct writer *writer, struct delivery *batch,
                                      struct delivery **tail)
{
    int64_t began_us = clock_monotonic_us();
    uint64_t rows = 0;
    enum outbox_error error = store(writer, batch, &rows);

    if (error != OUTBOX_ERROR_NONE) {
        count_error(writer);
    } else if (!all_test(batch)) {
        metrics_observe(writer->commit_seconds, (double)(clock_monotonic_us() - began_us) / 1e6);
        metrics_observe(writer->commit_rows, (double)rows);
    }
    deliver(writer, batch, tail, error, rows);
    return error;
}

/* One task as a part of the transaction. What it came to on its own stands in *ret_own; the result
 * is NONE as long as the transaction may go on. */
static enum outbox_error run_task(struct outbox *outbox, struct writer_task *task,
                                  enum outbox_error *ret_own)
{
    enum outbox_error error = outbox_part_begin(outbox);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    *ret_own = task->run(outbox, task);
    if (*ret_own != OUTBOX_ERROR_NONE && *ret_own != OUTBOX_ERROR_DELIVERY)
        return *ret_own;
    return outbox_part_end(outbox, *ret_own == OUTBOX_ERROR_NONE);
}

static void finish_tasks(struct writer_task *task, const enum outbox_error *own,
                         enum outbox_error error)
{
    for (unsigned i = 0; task; i++) {
        struct writer_task *next = task->next; /* its owner may free it in done */

        task->done(task, error == OUTBOX_ERROR_NONE && own ? own[i] : error);
        task = next;
    }
}

static enum outbox_error run_tasks(struct writer *writer, struct writer_task *tasks)
{
    struct outbox *outbox = writer->settings.outbox;
    enum outbox_error own[WRITER_TASKS_TURN];
    int64_t last_id = outbox_last_id(outbox);
    enum outbox_error error = outbox_begin(outbox);
    unsigned i = 0;

    for (struct writer_task *task = tasks; error == OUTBOX_ERROR_NONE && task; task = task->next)
        error = run_task(outbox, task, &own[i++]);
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_commit(outbox);
    if (error != OUTBOX_ERROR_NONE) {
        outbox_rollback(outbox);
        count_error(writer);
    }
    if (is_fatal(error))
        deliver(writer, NULL, NULL, error, 0);
    pthread_mutex_lock(&writer->lock);
    note_apart(writer);
    pthread_mutex_unlock(&writer->lock);
    if (outbox_last_id(outbox) > last_id) /* whoever waits for rows waits for these as well */
        writer->settings.on_committed(writer->settings.context);
    finish_tasks(tasks, own, error);
    return error;
}

static enum outbox_error do_work(struct writer *writer, const struct work *work)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;

    if (work->batch)
        error = commit_batch(writer, work->batch, work->batch_tail);
    if (work->tasks && is_fatal(error))
        finish_tasks(work->tasks, NULL, error);
    else if (work->tasks)
        error = run_tasks(writer, work->tasks);
    return is_fatal(error) ? error : checkpoint(writer);
}

/* Nobody runs them any more. */
static void give_up_tasks(struct writer *writer)
{
    struct writer_task *tasks;

    pthread_mutex_lock(&writer->lock);
    tasks = take_tasks(writer, WRITER_TASKS_MAX);
    pthread_mutex_unlock(&writer->lock);
    finish_tasks(tasks, NULL, OUTBOX_ERROR_FATAL);
}

static void *run(void *context)
{
    struct writer *writer = context;
    enum outbox_error error = OUTBOX_ERROR_NONE;
    struct work work;

    while (!is_fatal(error) && next_work(writer, &work)) {
        error = do_work(writer, &work);
        pthread_mutex_lock(&writer->lock);
        writer->state.committing = false;
        writer->state.alive_ms = clock_monotonic_ms();
        pthread_mutex_unlock(&writer->lock);
    }
    if (is_fatal(error)) {
        give_up_tasks(writer);
        writer->settings.on_fatal(writer->settings.context);
    }
    return NULL;
}

int writer_start(const struct writer_settings *settings, struct writer **ret_writer)
{
    struct writer *writer = calloc(1, sizeof *writer);
    pthread_condattr_t attributes;
    int error;

    if (!writer)
        return -ENOMEM;
    writer->settings = *settings;
    list_init(&writer->queue);
    list_init(&writer->done);
    task_list_init(&writer->tasks);
    writer->state.alive_ms = clock_monotonic_ms();
    register_metrics(writer);
    note_apart(writer);
    pthread_mutex_init(&writer->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&writer->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    error = pthread_create(&writer->thread, NULL, run, writer);
    if (error != 0) {
        writer->joined = true;
        writer_free(writer);
        return -error;
    }
    *ret_writer = writer;
    return 0;
}

/* Why nothing is taken any more, or 0. Called with the lock held. */
static int closed(const struct writer *writer)
{
    if (writer->state.fatal)
        return -EIO;
    return writer->stopping ? -ESHUTDOWN : 0;
}

/* Called with the lock held. */
static int enqueue(struct writer *writer, struct delivery *delivery)
{
    unsigned room = room_of(delivery);
    int error = closed(writer);

    if (error != 0)
        return error;
    if (writer->queue.head && (writer->queued_events >= writer->settings.queue_events ||
                               room > writer->settings.queue_events - writer->queued_events))
        return -EAGAIN;
    delivery->next = NULL;
    delivery->refused = false;
    list_append(&writer->queue, delivery, &delivery->next);
    writer->queued_events += room;
    metrics_set(writer->queue_gauge, writer->queued_events);
    return 0;
}

/* Lets the writer have what is queued. Called with the lock held; whether it has to be told. */
static bool release(struct writer *writer)
{
    bool first = !writer->released && writer->queue.head;

    writer->released = writer->released || first;
    return first;
}

static int submit(struct writer *writer, struct delivery *delivery, bool more)
{
    bool wake = false;

    pthread_mutex_lock(&writer->lock);
    int error = enqueue(writer, delivery);
    if (!more || error != 0 || writer->queued_events >= WRITER_GROUP_EVENTS ||
        writer->queued_events >= writer->settings.queue_events)
        wake = release(writer);
    pthread_mutex_unlock(&writer->lock);
    if (wake)
        pthread_cond_signal(&writer->wake);
    return error;
}

int writer_submit(struct writer *writer, struct delivery *delivery)
{
    return submit(writer, delivery, false);
}

int writer_submit_more(struct writer *writer, struct delivery *delivery)
{
    return submit(writer, delivery, true);
}

void writer_flush(struct writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    bool wake = release(writer);
    pthread_mutex_unlock(&writer->lock);
    if (wake)
        pthread_cond_signal(&writer->wake);
}

int writer_post(struct writer *writer, struct writer_task *task)
{
    int error;

    pthread_mutex_lock(&writer->lock);
    error = closed(writer);
    if (error == 0 && writer->queued_tasks >= WRITER_TASKS_MAX)
        error = -EAGAIN;
    if (error == 0) {
        task->next = NULL;
        *writer->tasks.tail = task;
        writer->tasks.tail = &task->next;
        writer->queued_tasks++;
    }
    pthread_mutex_unlock(&writer->lock);
    if (error == 0)
        pthread_cond_signal(&writer->wake);
    return error;
}

struct delivery *writer_collect(struct writer *writer)
{
    struct delivery *done;

    pthread_mutex_lock(&writer->lock);
    done = list_take(&writer->done);
    pthread_mutex_unlock(&writer->lock);
    return done;
}

void writer_state(struct writer *writer, struct writer_state *ret_state)
{
    pthread_mutex_lock(&writer->lock);
    *ret_state = writer->state;
    ret_state->queued_events = writer->queued_events;
    ret_state->queue_events = writer->settings.queue_events;
    pthread_mutex_unlock(&writer->lock);
}

void writer_set_queue_events(struct writer *writer, unsigned queue_events)
{
    pthread_mutex_lock(&writer->lock);
    writer->settings.queue_events = queue_events;
    pthread_mutex_unlock(&writer->lock);
}

void writer_stop(struct writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    writer->stopping = true;
    pthread_mutex_unlock(&writer->lock);
    pthread_cond_signal(&writer->wake);
    if (!writer->joined)
        pthread_join(writer->thread, NULL);
    writer->joined = true;
}

void writer_free(struct writer *writer)
{
    if (!writer)
        return;
    if (!writer->joined)
        writer_stop(writer);
    list_free(writer->queue.head);
    list_free(writer->done.head);
    pthread_cond_destroy(&writer->wake);
    pthread_mutex_destroy(&writer->lock);
    free(writer);
}
