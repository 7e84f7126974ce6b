#include "ingress_deferral.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dispatcher/deferral.h"
#include "support/clock.h"
#include "support/log.h"

/* After a round that failed. */
#define RETRY_MS 5000

struct ingress_deferral {
    struct deferral *deferral;
    struct key_cache *keys;
    struct refresher *refresher;
    uint64_t generation; /* of the keys, of the last round; 0 where another one is due */
    uint64_t refreshes;  /* successful ones, of the last round */
    int64_t not_before_ms;

    struct metrics_family *results, *events, *last_accepted;
    struct metrics_series *kept, *full, *displaced;
};

/* -- after a commit, on the writer thread ------------------------------------------------------ */

void ingress_deferral_count(struct ingress_deferral *deferral, const struct delivery *delivery)
{
    const struct notification *notification = &delivery->judgement.notification;
    const char *client_id = delivery->app->client_id;

    for (size_t i = 0; i < notification->event_count; i++)
        if (delivery->stored & (UINT32_C(1) << i))
            metrics_add(metrics_with(deferral->events,
                                     (const char *[]){event_type_text(notification->events[i].kind),
                                                      client_id}),
                        1);
    if (delivery->verdict == VERDICT_ACCEPTED) /* others may have arrived since this one did */
        metrics_raise(metrics_with(deferral->last_accepted, (const char *[]){client_id}),
                      (double)delivery->received_at_ms / 1000.0);
}

/* A line for each that Apple signed; a flood of what nobody did is only counted. */
static void log_delivered(const struct deferral_settled *settled)
{
    const struct delivery *delivery = settled->delivery;
    const struct notification *notification = &delivery->judgement.notification;
    int64_t waited_ms = clock_wall_ms() - settled->received_at_ms;
    struct log_field fields[9] = {log_text("outcome", deferral_result_label(settled->result))};
    size_t count = 1;

    if (delivery->judgement.reason != QUARANTINE_REASON_NONE)
        fields[count++] = log_text("reason", quarantine_reason_label(delivery->judgement.reason));
    if (notification->event_count > 0)
        fields[count++] = log_text("type", notification->events[0].type);
    fields[count++] = log_text("client_id", notification->aud);
    fields[count++] = log_text("app", delivery->app->app);
    if (delivery->rows > 0) {
        fields[count++] = log_number("id", delivery->first_id);
        fields[count++] = log_number("rows", (int64_t)delivery->rows);
    }
    fields[count++] = log_number("waited_ms", waited_ms);
    log_write(LOG_LEVEL_INFO, "deferred notification", fields);
}

static void on_settled(void *context, const struct deferral_settled *settled)
{
    struct ingress_deferral *deferral = context;

    metrics_add(
        metrics_with(deferral->results, (const char *[]){deferral_result_label(settled->result)}),
        1);
    if (!settled->delivery)
        return;
    ingress_deferral_count(deferral, settled->delivery);
    log_delivered(settled);
}

/* -- rounds ------------------------------------------------------------------------------------ */

/* The keys of a round. */
struct round_keys {
    struct key_snapshot *snapshot;
    int64_t now_s;
};

static const struct jwk *find_key(void *context, const char *kid, size_t kid_bytes,
                                  enum key_trust *ret_trust)
{
    const struct round_keys *keys = context;

    return key_snapshot_find(keys->snapshot, kid, kid_bytes, keys->now_s, ret_trust);
}

static void release_keys(void *context)
{
    struct round_keys *keys = context;

    key_snapshot_unref(keys->snapshot);
    free(keys);
}

/* Takes the snapshot over. 0 or -errno. */
static int begin(struct ingress_deferral *deferral, struct policy *policy,
                 struct key_snapshot *snapshot, int64_t now_ms, uint64_t refreshes)
{
    struct round_keys *keys = malloc(sizeof *keys);
    int error;

    if (!keys) {
        key_snapshot_unref(snapshot);
        return -ENOMEM;
    }
    *keys = (struct round_keys){.snapshot = snapshot, .now_s = now_ms / 1000};
    error = deferral_begin(
        deferral->deferral,
        &(struct deferral_round){.keys = {.find = find_key, .context = keys, .usable = true},
                                 .policy = policy,
                                 .now_ms = now_ms,
                                 .refreshes = refreshes,
                                 .release = release_keys});
    if (error != 0)
        release_keys(keys);
    return error;
}

void ingress_deferral_turn(struct ingress_deferral *deferral, struct policy *policy)
{
    int64_t now_ms = clock_wall_ms();
    struct refresher_state state;
    struct key_snapshot *snapshot;
    uint64_t generation;

    if (deferral_unfinished(deferral->deferral)) {
        if (deferral->generation != 0)
            deferral->not_before_ms = clock_monotonic_ms() + RETRY_MS;
        deferral->generation = 0;
    }
    /* in this order: a success is in the cache before it is told */
    refresher_state(deferral->refresher, &state);
    generation = key_cache_generation(deferral->keys);
    if ((deferral->generation == generation && deferral->refreshes == state.successes) ||
        clock_monotonic_ms() < deferral->not_before_ms)
        return;
    snapshot = key_cache_snapshot(deferral->keys);
    if (!key_snapshot_usable(snapshot, now_ms / 1000)) {
        key_snapshot_unref(snapshot);
        deferral->generation = generation;
        deferral->refreshes = state.successes;
        return;
    }
    if (begin(deferral, policy, snapshot, now_ms, state.successes) == 0) {
        deferral->generation = generation;
        deferral->refreshes = state.successes;
        deferral->not_before_ms = 0;
    }
}

void ingress_deferral_came_back(struct ingress_deferral *deferral, const struct delivery *delivery)
{
    const char *kid = delivery->judgement.kid;
    struct key_snapshot *snapshot;
    enum key_trust trust;

    if (delivery->verdict == delivery->judgement.verdict)
        metrics_add(deferral->full, 1);
    if (delivery->verdict != VERDICT_DEFERRED)
        return;
    metrics_add(deferral->kept, delivery->kept);
    metrics_add(deferral->displaced, delivery->displaced);
    /* The round that these keys began may have been over before this one was committed. */
    snapshot = key_cache_snapshot(deferral->keys);
    if (key_snapshot_find(snapshot, kid, strlen(kid), clock_wall_ms() / 1000, &trust))
        deferral->generation = 0;
    key_snapshot_unref(snapshot);
}

/* -- life -------------------------------------------------------------------------------------- */

static int register_metrics(struct ingress_deferral *deferral, struct metrics *metrics)
{
    deferral->results =
        metrics_register(metrics, METRICS_COUNTER, "siwa_deferred_total",
                         "Notifications that were to wait for keys, by what became of them.",
                         (const char *const[]){"result", NULL}, NULL, 0);
    if (!deferral->results)
        return -ENOMEM;
    deferral->kept = metrics_with(deferral->results, (const char *[]){"kept"});
    deferral->full = metrics_with(deferral->results, (const char *[]){"full"});
    deferral->displaced = metrics_with(deferral->results, (const char *[]){"displaced"});
    for (int result = DEFERRAL_RESULT_DELIVERED; result < DEFERRAL_RESULT_COUNT; result++)
        metrics_with(deferral->results,
                     (const char *[]){deferral_result_label((enum deferral_result)result)});
    return 0;
}

int ingress_deferral_new(const struct ingress_settings *settings, struct metrics_family *events,
                         struct metrics_family *last_accepted,
                         struct ingress_deferral **ret_deferral)
{
    struct ingress_deferral *deferral = calloc(1, sizeof *deferral);
    int error;

    if (!deferral)
        return -ENOMEM;
    deferral->keys = settings->keys;
    deferral->refresher = settings->refresher;
    deferral->events = events;
    deferral->last_accepted = last_accepted;
    error = register_metrics(deferral, settings->metrics);
    if (!error)
        error = deferral_new(&(struct deferral_settings){.writer = settings->writer,
                                                         .on_settled = on_settled,
                                                         .context = deferral},
                             &deferral->deferral);
    if (error) {
        ingress_deferral_free(deferral);
        return error;
    }
    *ret_deferral = deferral;
    return 0;
}

void ingress_deferral_free(struct ingress_deferral *deferral)
{
    if (!deferral)
        return;
    deferral_free(deferral->deferral);
    free(deferral);
}
