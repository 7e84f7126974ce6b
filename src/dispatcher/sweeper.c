#include "dispatcher/sweeper.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dispatcher/policy.h"
#include "support/clock.h"

#define RETRY_MS 20 /* where the writer has no room for one more task */

/* Between two attempts to empty the WAL: a reader is gone soon, or stays for long. */
#define EMPTY_FIRST_MS 20
#define EMPTY_LAST_MS  1000

/* A look for who is to be erased may read the whole database; it begins again no sooner than so
 * many times as long as the last one took, unless somebody asks. */
#define LOOK_REST 10
#define LOOK_MS   1000

struct sweeper_erasure {
    struct sweeper_erasure *next;
    unsigned references;
    enum sweeper_erasure_state state;
    struct erasure_counts counts;
    char team[ERASURE_TEAM_BYTES];
    char *sub; /* until it was hashed */
    unsigned char person[PERSON_BYTES];
};

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
    int64_t erase_after_s;
    struct policy *policy; /* for the teams of the apps */
    bool stopping, asked, sweep_asked;
    struct sweeper_erasure *erasures; /* not DONE yet */

    struct outbox_reader *reader; /* from here on the thread's alone */
    struct identity_key *key;
    bool unreadable; /* as last told */
    struct erasure_round round;
    int64_t look_ms; /* monotonic: when it may look again for who is to be erased */
    bool erasing;    /* something was erased that may stand in the WAL: the database is marked */
    bool earlier;    /* before this start, too */
    bool emptying;   /* the WAL is to be emptied */
    bool told_pending;
    uint64_t emptied; /* as often as the WAL was when emptying began */
    bool emptied_known;
    int64_t empty_ms, empty_rest_ms; /* monotonic: the next attempt, and the pause after it */
    struct erasure_counts leaving;   /* what the WAL may still hold of */
    struct metrics_series *erased_rows, *erasures_pending;
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

/* Whether somebody waits for something else than a sweep. */
static bool is_interrupted(struct sweeper *sweeper)
{
    bool interrupted;

    pthread_mutex_lock(&sweeper->lock);
    interrupted = sweeper->stopping || sweeper->asked;
    pthread_mutex_unlock(&sweeper->lock);
    return interrupted;
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
    int64_t until_ms = sweeper->next_ms < sweeper->look_ms ? sweeper->next_ms : sweeper->look_ms;
    struct timespec until;
    bool stopping;

    if (sweeper->emptying && sweeper->empty_ms < until_ms)
        until_ms = sweeper->empty_ms;
    until = moment(until_ms);
    pthread_mutex_lock(&sweeper->lock);
    while (!sweeper->stopping && !sweeper->asked && clock_monotonic_ms() < until_ms)
        pthread_cond_timedwait(&sweeper->wake, &sweeper->lock, &until);
    if (sweeper->asked)
        sweeper->look_ms = 0;
    if (sweeper->sweep_asked)
        sweeper->next_ms = 0;
    sweeper->asked = sweeper->sweep_asked = false;
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

    outbox_checkpoint_soon(outbox); /* a piece writes as many pages as a thousand commits */
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

/* What was removed stands in the file until then, where a reader kept it from being overwritten. */
static void begin_emptying(struct sweeper *sweeper)
{
    sweeper->emptying = true;
    sweeper->emptied_known = false;
    sweeper->empty_rest_ms = EMPTY_FIRST_MS;
    sweeper->empty_ms = clock_monotonic_ms();
}

static void count_piece(struct sweeper *sweeper, const struct retention_sweep *before,
                        const struct retention_sweep *after)
{
    metrics_add(sweeper->removed[after->what], (uint64_t)(after->removed - before->removed));
    metrics_add(sweeper->unacknowledged,
                (uint64_t)(after->unacknowledged - before->unacknowledged));
}

/* A piece that was not committed has removed nothing. */
static enum outbox_error sweep_one(struct sweeper *sweeper, struct retention_sweep *sweep)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;

    while (error == OUTBOX_ERROR_NONE && !sweep->over && !is_interrupted(sweeper)) {
        struct retention_sweep next = *sweep;

        error = have_done(sweeper, sweep_piece, &next);
        if (error != OUTBOX_ERROR_NONE)
            break;
        count_piece(sweeper, sweep, &next);
        *sweep = next;
    }
    return error;
}

static enum outbox_error sweep_all(struct sweeper *sweeper)
{
    struct sweeper_swept swept = {.why = NULL};
    enum outbox_error error = OUTBOX_ERROR_NONE;
    struct retention_due due;
    bool any = false, erases;

    pthread_mutex_lock(&sweeper->lock);
    retention_due_at(&sweeper->retain, clock_wall_ms(), &due);
    erases = sweeper->erase_after_s != CONFIG_ERASE_OFF;
    pthread_mutex_unlock(&sweeper->lock);
    for (int what = 0; error == OUTBOX_ERROR_NONE && what < RETENTION_COUNT; what++) {
        struct retention_sweep sweep = {.what = (enum retention_what)what,
                                        .due = due,
                                        .erases = erases,
                                        .consumers = sweeper->settings.consumers};

        error = sweep_one(sweeper, &sweep);
        swept.removed[what] = sweep.removed;
        any = any || sweep.removed > 0;
        if (what != RETENTION_ROWS)
            continue;
        swept.unacknowledged = sweep.unacknowledged;
        swept.pruned_through = sweep.pruned_through;
    }
    if (any)
        begin_emptying(sweeper);
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

/* ---- erasure ---- */

static bool stopping_of(void *context)
{
    return is_stopping(context);
}

static bool team_of(void *context, const char *client_id, char ret_team[ERASURE_TEAM_BYTES])
{
    return sweeper_team_of(context, client_id, ret_team);
}

static void show_pending(struct sweeper *sweeper)
{
    unsigned pending = 0;

    pthread_mutex_lock(&sweeper->lock);
    for (const struct sweeper_erasure *erasure = sweeper->erasures; erasure;
         erasure = erasure->next)
        pending++;
    pthread_mutex_unlock(&sweeper->lock);
    if (pending == 0 && sweeper->erasing)
        pending = 1;
    metrics_set(sweeper->erasures_pending, pending);
}

struct marked {
    enum outbox_error (*work)(struct outbox *outbox, void *argument);
    void *argument;
};

static enum outbox_error work_marked(struct outbox *outbox, void *argument)
{
    const struct marked *marked = argument;
    enum outbox_error error = erasure_mark(outbox);

    return error == OUTBOX_ERROR_NONE ? marked->work(outbox, marked->argument) : error;
}

/* From the first row on, until the WAL was emptied after the last. */
static enum outbox_error have_done_of(
    void *context, enum outbox_error (*work)(struct outbox *outbox, void *argument), void *argument)
{
    struct sweeper *sweeper = context;
    struct marked marked = {.work = work, .argument = argument};

    sweeper->erasing = true;
    show_pending(sweeper);
    return have_done(sweeper, work_marked, &marked);
}

/* The reader and the key, opened when they are first needed. */
static bool can_read(struct sweeper *sweeper)
{
    char why[OUTBOX_WHY_BYTES] = "";
    int error = 0;

    if (!sweeper->reader)
        error = outbox_reader_open(sweeper->settings.database, &sweeper->reader, why);
    if (error == 0 && !sweeper->key)
        error = outbox_open_key(sweeper->settings.outbox, &sweeper->key, why);
    if (error != 0 && !sweeper->unreadable)
        sweeper->settings.on_unreadable(sweeper->settings.context, why);
    sweeper->unreadable = error != 0;
    return error == 0;
}

static void wipe_sub(struct sweeper_erasure *erasure)
{
    if (erasure->sub)
        explicit_bzero(erasure->sub, strlen(erasure->sub));
    free(erasure->sub);
    erasure->sub = NULL;
}

/* Called with the lock held. */
static void drop_reference(struct sweeper_erasure *erasure)
{
    if (--erasure->references > 0)
        return;
    wipe_sub(erasure);
    free(erasure);
}

struct note {
    const struct sweeper_erasure *erasure;
    int64_t now_ms;
};

static enum outbox_error note_erasure(struct outbox *outbox, void *argument)
{
    const struct note *note = argument;

    return erasure_ask(outbox, note->erasure->person, note->erasure->team, note->now_ms);
}

static struct sweeper_erasure *next_asked(struct sweeper *sweeper)
{
    struct sweeper_erasure *erasure;

    pthread_mutex_lock(&sweeper->lock);
    erasure = sweeper->erasures;
    while (erasure && erasure->state != SWEEPER_ERASURE_ASKED)
        erasure = erasure->next;
    pthread_mutex_unlock(&sweeper->lock);
    return erasure;
}

static void set_state(struct sweeper *sweeper, struct sweeper_erasure *erasure,
                      enum sweeper_erasure_state state)
{
    pthread_mutex_lock(&sweeper->lock);
    erasure->state = state;
    pthread_mutex_unlock(&sweeper->lock);
}

/* Who was asked for stands in the database before anything is done, and from then on survives. */
static enum outbox_error note_asked(struct sweeper *sweeper)
{
    struct sweeper_erasure *erasure;

    while ((erasure = next_asked(sweeper))) {
        struct note note = {.erasure = erasure, .now_ms = clock_wall_ms()};
        enum outbox_error error;

        if (identity_of_person(sweeper->key, erasure->team, "", erasure->sub, erasure->person) < 0)
            return OUTBOX_ERROR_TRANSIENT;
        error = have_done(sweeper, note_erasure, &note);
        if (error != OUTBOX_ERROR_NONE)
            return error;
        wipe_sub(erasure);
        set_state(sweeper, erasure, SWEEPER_ERASURE_NOTED);
    }
    return OUTBOX_ERROR_NONE;
}

static bool any_counts(const struct erasure_counts *counts)
{
    return counts->rows > 0 || counts->raw > 0 || counts->deferred > 0 || counts->quarantined > 0;
}

/* A round that ended early may have finished with some: nobody looks for them once more. */
static void settle_asked(struct sweeper *sweeper)
{
    const struct erasure_round *round = &sweeper->round;

    pthread_mutex_lock(&sweeper->lock);
    for (struct sweeper_erasure *erasure = sweeper->erasures; erasure; erasure = erasure->next)
        for (size_t i = 0; erasure->state == SWEEPER_ERASURE_NOTED && i < round->target_count; i++)
            if (round->targets[i].finished &&
                memcmp(round->targets[i].person, erasure->person, PERSON_BYTES) == 0) {
                erasure->counts = round->targets[i].counts;
                erasure->state = SWEEPER_ERASURE_PENDING;
            }
    pthread_mutex_unlock(&sweeper->lock);
}

/* Also where a round ended early: what it erased before stands in the WAL all the same. */
static void settle_round(struct sweeper *sweeper)
{
    const struct erasure_counts *counts = &sweeper->round.counts;

    metrics_add(sweeper->erased_rows, (uint64_t)counts->rows);
    sweeper->leaving.rows += counts->rows;
    sweeper->leaving.raw += counts->raw;
    sweeper->leaving.deferred += counts->deferred;
    sweeper->leaving.quarantined += counts->quarantined;
    /* a mark is that of an earlier run: what empties for it may have ended before it was seen */
    if (sweeper->round.target_count > 0 || any_counts(counts) ||
        (sweeper->round.marked && !sweeper->emptying))
        begin_emptying(sweeper);
}

static enum outbox_error erase(struct sweeper *sweeper)
{
    struct erasure_round *round = &sweeper->round;
    int64_t began_ms = clock_monotonic_ms();
    enum outbox_error error;

    sweeper->look_ms = began_ms + LOOK_MS;
    if (!can_read(sweeper))
        return OUTBOX_ERROR_NONE;
    error = note_asked(sweeper);
    round->reader = sweeper->reader;
    round->key = sweeper->key;
    round->consumers = sweeper->settings.consumers;
    round->now_ms = clock_wall_ms();
    round->have_done = have_done_of;
    round->is_stopping = stopping_of;
    round->team_of = team_of;
    round->context = sweeper;
    pthread_mutex_lock(&sweeper->lock);
    round->after_s = sweeper->erase_after_s;
    round->removed_before_ms = round->now_ms - sweeper->retain.events_s * 1000;
    pthread_mutex_unlock(&sweeper->lock);
    if (error == OUTBOX_ERROR_NONE) {
        bool erasing = sweeper->erasing;

        error = erasure_run(round);
        sweeper->earlier = sweeper->earlier || (round->marked && !erasing);
        sweeper->erasing = sweeper->erasing || round->marked;
        settle_round(sweeper);
        settle_asked(sweeper);
    }
    sweeper->look_ms = clock_monotonic_ms();
    if (!round->more && round->target_count > 0)
        sweeper->look_ms += LOOK_REST * (sweeper->look_ms - began_ms);
    sweeper->look_ms += round->more ? 0 : LOOK_MS;
    return error;
}

/* ---- out of the WAL ---- */

static enum outbox_error try_emptying(struct outbox *outbox, void *argument)
{
    *(uint64_t *)argument = outbox_empty_wal(outbox);
    return OUTBOX_ERROR_NONE;
}

static void tell_erased(struct sweeper *sweeper, bool gone)
{
    const struct sweeper_erased erased = {
        .counts = sweeper->leaving, .earlier = sweeper->earlier, .gone = gone};

    if (erased.earlier || any_counts(&erased.counts))
        sweeper->settings.on_erased(sweeper->settings.context, &erased);
}

/* Everybody who was erased before the emptying began has left. */
static void end_emptying(struct sweeper *sweeper)
{
    struct sweeper_erasure **link = &sweeper->erasures;

    tell_erased(sweeper, true);
    sweeper->emptying = sweeper->erasing = sweeper->earlier = sweeper->told_pending = false;
    memset(&sweeper->leaving, 0, sizeof sweeper->leaving);
    pthread_mutex_lock(&sweeper->lock);
    while (*link) {
        struct sweeper_erasure *erasure = *link;

        if (erasure->state != SWEEPER_ERASURE_PENDING) {
            link = &erasure->next;
            continue;
        }
        erasure->state = SWEEPER_ERASURE_DONE;
        *link = erasure->next;
        drop_reference(erasure);
    }
    pthread_mutex_unlock(&sweeper->lock);
    sweeper->settings.on_progress(sweeper->settings.context);
}

/* The attempt is made after the errand's commit, so it is the next errand that learns of it. */
static enum outbox_error keep_emptying(struct sweeper *sweeper)
{
    uint64_t emptied = 0;
    enum outbox_error error = have_done(sweeper, try_emptying, &emptied);

    sweeper->empty_ms = clock_monotonic_ms() + sweeper->empty_rest_ms;
    if (error != OUTBOX_ERROR_NONE)
        return error;
    if (!sweeper->emptied_known) {
        sweeper->emptied = emptied;
        sweeper->emptied_known = true;
        return error;
    }
    if (emptied > sweeper->emptied) {
        if (sweeper->erasing)
            error = have_done(sweeper, erasure_unmark, NULL);
        if (error == OUTBOX_ERROR_NONE)
            end_emptying(sweeper);
        return error;
    }
    if (!sweeper->told_pending)
        tell_erased(sweeper, false);
    sweeper->told_pending = true;
    sweeper->settings.on_progress(sweeper->settings.context);
    sweeper->empty_rest_ms *= 2;
    if (sweeper->empty_rest_ms > EMPTY_LAST_MS)
        sweeper->empty_rest_ms = EMPTY_LAST_MS;
    return error;
}

/* ---- the thread ---- */

static enum outbox_error turn(struct sweeper *sweeper)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;

    if (clock_monotonic_ms() >= sweeper->look_ms)
        error = erase(sweeper);
    if (error == OUTBOX_ERROR_NONE && sweeper->emptying &&
        clock_monotonic_ms() >= sweeper->empty_ms)
        error = keep_emptying(sweeper);
    show_pending(sweeper);
    if (error != OUTBOX_ERROR_NONE || clock_monotonic_ms() < sweeper->next_ms)
        return error;
    if (believes_clock(sweeper))
        error = sweep_all(sweeper);
    /* one that was interrupted goes on after what interrupted it */
    sweeper->next_ms = clock_monotonic_ms() + (is_interrupted(sweeper) ? 0 : SWEEPER_INTERVAL_MS);
    return error;
}

static void *run(void *context)
{
    struct sweeper *sweeper = context;
    enum outbox_error error = OUTBOX_ERROR_NONE;

    begin_emptying(sweeper); /* an earlier run may have left something in it */
    while (error != OUTBOX_ERROR_FATAL && wait_for_work(sweeper))
        error = turn(sweeper);
    return NULL;
}

/* ---- asking ---- */

int sweeper_erase(struct sweeper *sweeper, const char *team, const char *sub,
                  struct sweeper_erasure **ret_erasure)
{
    struct sweeper_erasure *erasure;
    struct sweeper_erasure **end = &sweeper->erasures;

    if (strlen(team) >= sizeof erasure->team || strlen(sub) > NOTIFICATION_CLAIM_MAX_BYTES)
        return -EINVAL;
    erasure = calloc(1, sizeof *erasure);
    if (!erasure || !(erasure->sub = strdup(sub))) {
        free(erasure);
        return -ENOMEM;
    }
    strcpy(erasure->team, team);
    erasure->references = 2;
    erasure->state = SWEEPER_ERASURE_ASKED;
    pthread_mutex_lock(&sweeper->lock);
    while (*end)
        end = &(*end)->next;
    *end = erasure;
    sweeper->asked = true;
    pthread_cond_broadcast(&sweeper->wake);
    pthread_mutex_unlock(&sweeper->lock);
    *ret_erasure = erasure;
    return 0;
}

enum sweeper_erasure_state sweeper_erasure_look(struct sweeper *sweeper,
                                                struct sweeper_erasure *erasure,
                                                struct erasure_counts *ret_counts)
{
    enum sweeper_erasure_state state;

    pthread_mutex_lock(&sweeper->lock);
    state = sweeper->stopping && erasure->state != SWEEPER_ERASURE_DONE ? SWEEPER_ERASURE_FAILED
                                                                        : erasure->state;
    *ret_counts = erasure->counts;
    pthread_mutex_unlock(&sweeper->lock);
    return state;
}

bool sweeper_team_of(struct sweeper *sweeper, const char *client_id,
                     char ret_team[ERASURE_TEAM_BYTES])
{
    const struct config_app *app;

    pthread_mutex_lock(&sweeper->lock);
    app = policy_find(sweeper->policy, client_id);
    if (app)
        strncpy(ret_team, app->team, ERASURE_TEAM_BYTES - 1);
    pthread_mutex_unlock(&sweeper->lock);
    ret_team[app ? ERASURE_TEAM_BYTES - 1 : 0] = '\0';
    return app != NULL;
}

void sweeper_erasure_unref(struct sweeper *sweeper, struct sweeper_erasure *erasure)
{
    if (!erasure)
        return;
    pthread_mutex_lock(&sweeper->lock);
    drop_reference(erasure);
    pthread_mutex_unlock(&sweeper->lock);
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
    family = metrics_register(metrics, METRICS_COUNTER, "siwa_erased_rows_total",
                              "Rows that erasure took the text of.", NULL, NULL, 0);
    sweeper->erased_rows = metrics_with(family, NULL);
    family = metrics_register(metrics, METRICS_GAUGE, "siwa_erasures_pending",
                              "Erasures whose text may still stand in the database or its "
                              "write-ahead log.",
                              NULL, NULL, 0);
    sweeper->erasures_pending = metrics_with(family, NULL);
}

int sweeper_start(const struct sweeper_settings *settings, struct sweeper **ret_sweeper)
{
    struct sweeper *sweeper = calloc(1, sizeof *sweeper);
    pthread_condattr_t attributes;
    int error;

    if (!sweeper)
        return -ENOMEM;
    error = policy_new(settings->config, &sweeper->policy);
    if (error < 0) {
        free(sweeper);
        return error;
    }
    sweeper->settings = *settings;
    sweeper->settings.config = NULL;
    sweeper->retain = settings->config->retain;
    sweeper->erase_after_s = settings->config->erase_after_s;
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
    struct policy *policy = NULL, *old = NULL;
    int error = policy_new(config, &policy); /* where memory is out, the teams stay as they were */

    pthread_mutex_lock(&sweeper->lock);
    if (error == 0) {
        old = sweeper->policy;
        sweeper->policy = policy;
    }
    sweeper->retain = config->retain;
    sweeper->erase_after_s = config->erase_after_s;
    sweeper->sweep_asked = true;
    sweeper->asked = true;
    pthread_cond_broadcast(&sweeper->wake);
    pthread_mutex_unlock(&sweeper->lock);
    policy_unref(old);
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
    while (sweeper->erasures) {
        struct sweeper_erasure *next = sweeper->erasures->next;

        drop_reference(sweeper->erasures);
        sweeper->erasures = next;
    }
    policy_unref(sweeper->policy);
    outbox_reader_close(sweeper->reader);
    identity_key_free(sweeper->key);
    pthread_cond_destroy(&sweeper->wake);
    pthread_mutex_destroy(&sweeper->lock);
    free(sweeper);
}
