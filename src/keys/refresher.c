#include "keys/refresher.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "refresh_plan.h"
#include "support/clock.h"

#define LIFE_SLACK_MS 1000

struct refresher {
    struct refresher_settings settings;
    pthread_t thread;
    int stop_fd; /* an eventfd: cuts off an attempt in flight */

    pthread_mutex_t lock; /* guards what follows; never held over a fetch or a save */
    pthread_cond_t changed;
    struct refresh_plan plan;
    struct refresher_state state;
    int64_t busy_until_ms; /* until when what is being done counts as progress */
    bool stopping;

    struct metrics_series *results[FETCH_RESULT_COUNT];
    struct metrics_series *demands, *current, *refreshed, *age;
};

static struct metrics_series *register_single(struct metrics *metrics, enum metrics_type type,
                                              const char *name, const char *help)
{
    return metrics_with(metrics_register(metrics, type, name, help, NULL, NULL, 0), NULL);
}

static void register_metrics(struct refresher *refresher)
{
    struct metrics *metrics = refresher->settings.metrics;
    static const char *const result_label[] = {"result", NULL};
    struct metrics_family *results =
        metrics_register(metrics, METRICS_COUNTER, "siwa_key_refreshes_total",
                         "Attempts to fetch the key set, by result.", result_label, NULL, 0);
    for (unsigned i = 0; i < FETCH_RESULT_COUNT; i++) {
        const char *label = fetch_result_label((enum fetch_result)i);
        refresher->results[i] = metrics_with(results, &label);
    }
    refresher->demands =
        register_single(metrics, METRICS_COUNTER, "siwa_key_demand_refreshes_total",
                        "Attempts to fetch the key set because of an unknown kid.");
    refresher->current = register_single(metrics, METRICS_GAUGE, "siwa_keys_current",
                                         "Keys in the current set that are not distrusted.");
    refresher->refreshed =
        register_single(metrics, METRICS_GAUGE, "siwa_key_set_refreshed_timestamp_seconds",
                        "When the key set was last fetched successfully, 0 where it never was.");
    refresher->age =
        register_single(metrics, METRICS_GAUGE, "siwa_key_age_seconds",
                        "Seconds since the key set was last fetched successfully; since 1970 where "
                        "it never was.");
}

void refresher_update_metrics(struct refresher *refresher, int64_t now_s)
{
    struct key_snapshot *snapshot = key_cache_snapshot(refresher->settings.cache);
    int64_t refreshed_s = key_snapshot_refreshed_s(snapshot);
    size_t current = 0;
    for (size_t i = 0; i < key_snapshot_count(snapshot); i++) {
        const struct key_record *record = key_snapshot_at(snapshot, i);
        current += record->current && !record->distrusted;
    }
    key_snapshot_unref(snapshot);
    metrics_set(refresher->current, (double)current);
    metrics_set(refresher->refreshed, (double)refreshed_s);
    metrics_set(refresher->age, now_s > refreshed_s ? (double)(now_s - refreshed_s) : 0);
}

static uint32_t random_number(void)
{
    uint32_t number = 0;
    /* It only spreads waiting times: without entropy they are not spread. */
    (void)!getrandom(&number, sizeof(number), GRND_NONBLOCK);
    return number;
}

/* Waits, with the lock held, until an attempt is due (true) or the thread is to stop (false). */
static bool wait_until_due(struct refresher *refresher)
{
    while (!refresher->stopping) {
        int64_t due_ms = refresh_plan_due_ms(&refresher->plan, clock_monotonic_ms());
        if (due_ms <= clock_monotonic_ms())
            return true;
        struct timespec until = {.tv_sec = due_ms / 1000, .tv_nsec = due_ms % 1000 * 1000000};
        (void)pthread_cond_timedwait(&refresher->changed, &refresher->lock, &until);
    }
    return false;
}

static void set_busy(struct refresher *refresher, int64_t for_ms)
{
    (void)pthread_mutex_lock(&refresher->lock);
    refresher->busy_until_ms = clock_monotonic_ms() + for_ms;
    (void)pthread_mutex_unlock(&refresher->lock);
}

/* Takes a fetched text into the cache. A text that is no acceptable set leaves it as it was. */
static enum fetch_result take_text(struct refresher *refresher, const char *text, size_t bytes,
                                   struct refresher_outcome *outcome, char why[FETCH_WHY_BYTES])
{
    struct jwks *set;
    _Static_assert(JWKS_WHY_BYTES <= FETCH_WHY_BYTES, "a reason of jwks fits");
    int r = jwks_parse(text, bytes, &set, why);
    if (r < 0)
        return r == -EINVAL ? FETCH_RESULT_BAD_SET : FETCH_RESULT_INTERNAL;
    outcome->keys = jwks_count(set);
    outcome->passed_over = jwks_passed_over(set);
    set_busy(refresher, REFRESHER_SAVE_MS);
    r = key_cache_replace(refresher->settings.cache, set, clock_wall_ms() / 1000,
                          &outcome->new_keys);
    jwks_free(set);
    if (r == -ENOMEM)
        return FETCH_RESULT_INTERNAL;
    outcome->save_error = r;
    return FETCH_RESULT_OK;
}

/* One attempt, without the lock. */
static void attempt(struct refresher *refresher, struct refresher_outcome *outcome,
                    char why[FETCH_WHY_BYTES])
{
    char *text;
    size_t bytes;
    strcpy(why, "out of memory"); /* unless something else is said */
    outcome->result =
        fetch_keys_text_until(&refresher->settings.source, refresher->stop_fd, &text, &bytes, why);
    if (outcome->result == FETCH_RESULT_OK) {
        outcome->result = take_text(refresher, text, bytes, outcome, why);
        free(text);
    }
    if (outcome->result == FETCH_RESULT_OK)
        why[0] = '\0';
    metrics_add(refresher->results[outcome->result], 1);
    if (outcome->cause == REFRESHER_CAUSE_DEMAND)
        metrics_add(refresher->demands, 1);
    refresher_update_metrics(refresher, clock_wall_ms() / 1000);
}

/* Writes down, with the lock held, what an attempt came to. */
static void note(struct refresher *refresher, struct refresher_outcome *outcome)
{
    struct refresher_state *state = &refresher->state;
    int64_t now_ms = clock_monotonic_ms();
    refresh_plan_end(&refresher->plan, outcome->result == FETCH_RESULT_OK, now_ms, random_number());
    outcome->next_in_ms = refresh_plan_due_ms(&refresher->plan, now_ms) - now_ms;
    state->last_result = outcome->result;
    memcpy(state->last_why, outcome->why, strlen(outcome->why) + 1);
    state->attempts++;
    state->successes += outcome->result == FETCH_RESULT_OK;
    state->demand_attempts += outcome->cause == REFRESHER_CAUSE_DEMAND;
    state->last_attempt_ms = clock_wall_ms();
}

static void tell(const struct refresher_settings *settings, const struct refresher_outcome *outcome)
{
    if (settings->on_outcome != NULL)
        settings->on_outcome(settings->outcome_context, outcome);
    if (settings->on_attempt_over != NULL)
        settings->on_attempt_over(settings->context);
}

static void *refresh_thread(void *context)
{
    struct refresher *refresher = context;
    int timeout_ms = refresher->settings.source.timeout_ms;
    if (timeout_ms == 0)
        timeout_ms = FETCH_TIMEOUT_MS;

    (void)pthread_mutex_lock(&refresher->lock);
    while (wait_until_due(refresher)) {
        char why[FETCH_WHY_BYTES];
        int64_t now_ms = clock_monotonic_ms();
        struct refresher_outcome outcome = {.cause = refresh_plan_begin(&refresher->plan, now_ms),
                                            .why = why};
        refresher->busy_until_ms = now_ms + timeout_ms + LIFE_SLACK_MS;
        (void)pthread_mutex_unlock(&refresher->lock);
        attempt(refresher, &outcome, why);
        (void)pthread_mutex_lock(&refresher->lock);
        note(refresher, &outcome);
        bool stopping = refresher->stopping;
        (void)pthread_mutex_unlock(&refresher->lock);
        if (!stopping) /* what was cut off is no news, and those who would hear it are going */
            tell(&refresher->settings, &outcome);
        (void)pthread_mutex_lock(&refresher->lock);
    }
    (void)pthread_mutex_unlock(&refresher->lock);
    return NULL;
}

/* How long the persisted set is good for. A clock that went back tells nothing: at once. */
static int64_t first_in_ms(const struct refresher_settings *settings)
{
    struct key_snapshot *snapshot = key_cache_snapshot(settings->cache);
    int64_t now_s = clock_wall_ms() / 1000;
    int64_t age_s = now_s - key_snapshot_refreshed_s(snapshot);
    bool usable = key_snapshot_usable(snapshot, now_s);
    key_snapshot_unref(snapshot);
    return !usable || age_s < 0 || age_s >= settings->interval_s
               ? 0
               : (settings->interval_s - age_s) * 1000;
}

static int start_thread(struct refresher *refresher)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread inherits it */
    int error = pthread_create(&refresher->thread, NULL, refresh_thread, refresher);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        (void)pthread_setname_np(refresher->thread, "siwa-refresher");
    return -error;
}

/* A condition on the clock that never jumps. 0 or -errno. */
static int init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);
    if (error != 0)
        return -error;
    error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (error == 0)
        error = pthread_cond_init(condition, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    return -error;
}

int refresher_start(const struct refresher_settings *settings, struct refresher **ret_refresher)
{
    struct refresher *refresher = calloc(1, sizeof(*refresher));
    if (refresher == NULL)
        return -ENOMEM;
    refresher->settings = *settings;
    refresh_plan_start(&refresher->plan, (int64_t)settings->interval_s * 1000,
                       first_in_ms(settings), clock_monotonic_ms());
    register_metrics(refresher);
    refresher_update_metrics(refresher, clock_wall_ms() / 1000);

    int r = 0;
    refresher->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (refresher->stop_fd < 0) {
        r = -errno;
        goto free_refresher;
    }
    r = init_condition(&refresher->changed);
    if (r < 0)
        goto close_stop;
    (void)pthread_mutex_init(&refresher->lock, NULL);
    r = start_thread(refresher);
    if (r < 0)
        goto destroy_locks;
    *ret_refresher = refresher;
    return 0;

destroy_locks:
    (void)pthread_mutex_destroy(&refresher->lock);
    (void)pthread_cond_destroy(&refresher->changed);
close_stop:
    (void)close(refresher->stop_fd);
free_refresher:
    free(refresher);
    return r;
}

bool refresher_demand(struct refresher *refresher)
{
    (void)pthread_mutex_lock(&refresher->lock);
    bool granted =
        !refresher->stopping && refresh_plan_demand(&refresher->plan, clock_monotonic_ms());
    if (granted)
        (void)pthread_cond_signal(&refresher->changed);
    (void)pthread_mutex_unlock(&refresher->lock);
    return granted;
}

void refresher_refresh_now(struct refresher *refresher)
{
    (void)pthread_mutex_lock(&refresher->lock);
    refresh_plan_ask(&refresher->plan);
    (void)pthread_cond_signal(&refresher->changed);
    (void)pthread_mutex_unlock(&refresher->lock);
}

void refresher_state(struct refresher *refresher, struct refresher_state *ret_state)
{
    (void)pthread_mutex_lock(&refresher->lock);
    int64_t now_ms = clock_monotonic_ms();
    int64_t due_ms = refresh_plan_due_ms(&refresher->plan, now_ms);
    *ret_state = refresher->state;
    ret_state->in_flight = refresher->plan.in_flight;
    ret_state->next_scheduled_in_ms = due_ms > now_ms ? due_ms - now_ms : 0;
    (void)pthread_mutex_unlock(&refresher->lock);
}

int64_t refresher_alive_ms(struct refresher *refresher)
{
    (void)pthread_mutex_lock(&refresher->lock);
    int64_t now_ms = clock_monotonic_ms();
    int64_t good_until_ms = refresher->plan.in_flight
                                ? refresher->busy_until_ms
                                : refresh_plan_due_ms(&refresher->plan, now_ms) + LIFE_SLACK_MS;
    (void)pthread_mutex_unlock(&refresher->lock);
    return good_until_ms < now_ms ? good_until_ms : now_ms;
}

void refresher_stop(struct refresher *refresher)
{
    if (refresher == NULL)
        return;
    const uint64_t one = 1;
    (void)pthread_mutex_lock(&refresher->lock);
    refresher->stopping = true;
    (void)pthread_cond_signal(&refresher->changed);
    (void)pthread_mutex_unlock(&refresher->lock);
    (void)!write(refresher->stop_fd, &one, sizeof(one)); /* an eventfd at 0 takes it */
    (void)pthread_join(refresher->thread, NULL);

    (void)close(refresher->stop_fd);
    (void)pthread_cond_destroy(&refresher->changed);
    (void)pthread_mutex_destroy(&refresher->lock);
    free(refresher);
}
