#include "dispatcher/sweeper.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "support/clock.h"

#define RETRY_MS 20 /* where the writer has no room for one more task */

/* A piece of work for the writer, and the wait for it. */
struct errand {
    struct writer_task task;
    enum outbox_error (*work)(struct outbox *outbox, void *argument);
    void *argument;
    struct sweeper *sweeper;
    enum outbox_error result;
    bool over;
};

struct sweeper {
    struct sweeper_settings settings; /* but config, which is not kept */
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* guards what follows, up to the next blank line */
    pthread_cond_t wake;
    struct config_retain retain;
    bool stopping, asked;

    int64_t wall_ms, mono_ms; /* the clocks as last looked at; the thread's alone */
    int64_t doubt_until_ms;   /* monotonic */
    int64_t next_ms;          /* monotonic: when the next sweep is due */
    struct metrics_series *removed[RETENTION_COUNT], *unacknowledged;
};

/* ---- waiting ---- */

static struct timespec moment(int64_t mono_ms)
{
    return (struct timespec){.tv_sec = mono_ms / 1000, .tv_nsec = mono_ms % 1000 * 1000000};
}

static bool is_stopping(struct sweeper *sweeper)
{
    bool stopping;

    pthread_mutex_lock(&sweeper->lock);
    stopping = sweeper->stopping;
    pthread_mutex_unlock(&sweeper->lock);
    return stopping;
}

/* Until that moment or the stop. */
static void rest_until(struct sweeper *sweeper, int64_t until_ms)
{
    struct timespec until = moment(until_ms);

    pthread_mutex_lock(&sweeper->lock);
    while (!sweeper->stopping && clock_monotonic_ms() < until_ms)
        pthread_cond_timedwait(&sweeper->wake, &sweeper->lock, &until);
    pthread_mutex_unlock(&sweeper->lock);
}

/* Until there is something to do; false when the thread is to end. */
static bool wait_for_work(struct sweeper *sweeper)
{
    struct timespec until = moment(sweeper->next_ms);
    bool stopping;

    pthread_mutex_lock(&sweeper->lock);
    while (!sweeper->stopping && !sweeper->asked && clock_monotonic_ms() < sweeper->next_ms)
        pthread_cond_timedwait(&sweeper->wake, &sweeper->lock, &until);
    sweeper->asked = false;
    stopping = sweeper->stopping;
    pthread_mutex_unlock(&sweeper->lock);
    return !stopping;
}

/* ---- errands ---- */

static struct errand *errand_of(struct writer_task *task)
{
    return (struct errand *)((char *)task - offsetof(struct errand, task));
}

static enum outbox_error run_errand(struct outbox *outbox, struct writer_task *task)
{
    struct errand *errand = errand_of(task);

    return errand->work(outbox, errand->argument);
}

static void end_errand(struct writer_task *task, enum outbox_error error)
{
    struct errand *errand = errand_of(task);
    struct sweeper *sweeper = errand->sweeper;

    pthread_mutex_lock(&sweeper->lock);
    errand->result = error;
    errand->over = true;
    pthread_cond_broadcast(&sweeper->wake);
    pthread_mutex_unlock(&sweeper->lock);
}

/* Has the writer do it and waits for the commit, then rests in proportion. */
static enum outbox_error have_done(struct sweeper *sweeper,
                                   enum outbox_error (*work)(struct outbox *outbox, void *argument),
                                   void *argument)
{
    struct errand errand = {.task = {.run = run_errand, .done = end_errand},
                            .work = work,
                            .argument = argument,
                            .sweeper = sweeper};
    int64_t began_ms = clock_monotonic_ms();
    int error;

    while ((error = writer_post(sweeper->settings.writer, &errand.task)) == -EAGAIN &&
           !is_stopping(sweeper))
        rest_until(sweeper, clock_monotonic_ms() + RETRY_MS);
    if (error == -EAGAIN)
        return OUTBOX_ERROR_TRANSIENT;
    if (error != 0)
        return OUTBOX_ERROR_FATAL;
    pthread_mutex_lock(&sweeper->lock);
    while (!errand.over)
        pthread_cond_wait(&sweeper->wake, &sweeper->lock);
    pthread_mutex_unlock(&sweeper->lock);
    rest_until(sweeper, clock_monotonic_ms() + SWEEPER_REST * (clock_monotonic_ms() - began_ms));
    return errand.result;
}

/* ---- retention ---- */

static enum outbox_error sweep_piece(struct outbox *outbox, void *argument)
{
    return retention_sweep_piece(outbox, argument);
}

static enum outbox_error empty_wal(struct outbox *outbox, void *argument)
{
    (void)argument;
    (void)outbox_empty_wal(outbox);
    return OUTBOX_ERROR_NONE;
}

/* A piece that was not committed has removed nothing. */
static enum outbox_error sweep_one(struct sweeper *sweeper, struct retention_sweep *sweep)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;

    while (error == OUTBOX_ERROR_NONE && !sweep->over && !is_stopping(sweeper)) {
        struct retention_sweep next = *sweep;

        error = have_done(sweeper, sweep_piece, &next);
        if (error == OUTBOX_ERROR_NONE)
            *sweep = next;
    }
    metrics_add(sweeper->removed[sweep->what], (uint64_t)sweep->removed);
    metrics_add(sweeper->unacknowledged, (uint64_t)sweep->unacknowledged);
    return error;
}

static enum outbox_error sweep_all(struct sweeper *sweeper)
{
    struct sweeper_swept swept = {.why = NULL};
    enum outbox_error error = OUTBOX_ERROR_NONE;
    struct retention_due due;
    bool any = false;

    pthread_mutex_lock(&sweeper->lock);
    retention_due_at(&sweeper->retain, clock_wall_ms(), &due);
    pthread_mutex_unlock(&sweeper->lock);
    for (int what = 0; error == OUTBOX_ERROR_NONE && what < RETENTION_COUNT; what++) {
        struct retention_sweep sweep = {.what = (enum retention_what)what,
                                        .due = due,
                                        .consumers = sweeper->settings.consumers};

        error = sweep_one(sweeper, &sweep);
        swept.removed[what] = sweep.removed;
        any = any || sweep.removed > 0;
        if (what != RETENTION_ROWS)
            continue;
        swept.unacknowledged = sweep.unacknowledged;
        swept.pruned_through = sweep.pruned_through;
    }
    if (any && error == OUTBOX_ERROR_NONE)
        error = have_done(sweeper, empty_wal, NULL);
    if (error != OUTBOX_ERROR_NONE)
        swept.why = "the database did not take it; see the errors of the writer";
    if (any || swept.why)
        sweeper->settings.on_swept(sweeper->settings.context, &swept);
    return error;
}

/* Whether the wall clock can be believed: it went on with the monotonic one. */
static bool believes_clock(struct sweeper *sweeper)
{
    int64_t wall_ms = clock_wall_ms(), mono_ms = clock_monotonic_ms();
    int64_t jump_ms = (wall_ms - sweeper->wall_ms) - (mono_ms - sweeper->mono_ms);

    sweeper->wall_ms = wall_ms;
    sweeper->mono_ms = mono_ms;
    if (jump_ms > SWEEPER_JUMP_MS || jump_ms < -SWEEPER_JUMP_MS) {
        sweeper->doubt_until_ms = mono_ms + SWEEPER_DOUBT_MS;
        sweeper->settings.on_doubt(sweeper->settings.context, jump_ms);
    }
    return mono_ms >= sweeper->doubt_until_ms;
}

static void *run(void *context)
{
    struct sweeper *sweeper = context;
    enum outbox_error error = OUTBOX_ERROR_NONE;

    while (error != OUTBOX_ERROR_FATAL && wait_for_work(sweeper)) {
        if (believes_clock(sweeper))
            error = sweep_all(sweeper);
        sweeper->next_ms = clock_monotonic_ms() + SWEEPER_INTERVAL_MS;
    }
    return NULL;
}

/* ---- life ---- */

static void register_metrics(struct sweeper *sweeper)
{
    static const char *const label[] = {"what", NULL};
    struct metrics *metrics = sweeper->settings.metrics;
    struct metrics_family *family;

    if (!metrics)
        return;
    family = metrics_register(metrics, METRICS_COUNTER, "siwa_pruned_total",
                              "What retention removed, by kind.", label, NULL, 0);
    for (int what = 0; what < RETENTION_COUNT; what++) {
        const char *const value[] = {retention_label((enum retention_what)what), NULL};

        sweeper->removed[what] = metrics_with(family, value);
    }
    family = metrics_register(metrics, METRICS_COUNTER, "siwa_pruned_unacknowledged_total",
                              "Rows removed past retain.hard that a consumer had not acknowledged.",
                              NULL, NULL, 0);
    sweeper->unacknowledged = metrics_with(family, NULL);
}

int sweeper_start(const struct sweeper_settings *settings, struct sweeper **ret_sweeper)
{
    struct sweeper *sweeper = calloc(1, sizeof *sweeper);
    pthread_condattr_t attributes;
    int error;

    if (!sweeper)
        return -ENOMEM;
    sweeper->settings = *settings;
    sweeper->settings.config = NULL;
    sweeper->retain = settings->config->retain;
    sweeper->wall_ms = clock_wall_ms();
    sweeper->mono_ms = clock_monotonic_ms();
    sweeper->next_ms = sweeper->mono_ms;
    register_metrics(sweeper);
    pthread_mutex_init(&sweeper->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&sweeper->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    error = pthread_create(&sweeper->thread, NULL, run, sweeper);
    sweeper->started = error == 0;
    if (error != 0) {
        sweeper_free(sweeper);
        return -error;
    }
    *ret_sweeper = sweeper;
    return 0;
}

void sweeper_reconfigure(struct sweeper *sweeper, const struct config *config)
{
    pthread_mutex_lock(&sweeper->lock);
    sweeper->retain = config->retain;
    sweeper->asked = true;
    pthread_cond_broadcast(&sweeper->wake);
    pthread_mutex_unlock(&sweeper->lock);
}

void sweeper_stop(struct sweeper *sweeper)
{
    if (!sweeper || !sweeper->started)
        return;
    pthread_mutex_lock(&sweeper->lock);
    sweeper->stopping = true;
    pthread_cond_broadcast(&sweeper->wake);
    pthread_mutex_unlock(&sweeper->lock);
    pthread_join(sweeper->thread, NULL);
    sweeper->started = false;
}

void sweeper_free(struct sweeper *sweeper)
{
    if (!sweeper)
        return;
    sweeper_stop(sweeper);
    pthread_cond_destroy(&sweeper->wake);
    pthread_mutex_destroy(&sweeper->lock);
    free(sweeper);
}
