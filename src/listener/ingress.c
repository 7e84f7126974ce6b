#include "listener/ingress.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "ingress_deferral.h"
#include "support/clock.h"
#include "support/clock_watch.h"
#include "support/log.h"
#include "verifier/judge.h"
#include "verifier/peek.h"

enum waiting_for { WAITING_COMMIT = 1, WAITING_KEYS };

/* One request that has no answer yet. They come from a pool as large as the connection limit, so
 * that the hot path allocates nothing for them. */
struct waiting {
    TAILQ_ENTRY(waiting) link;
    enum waiting_for what;
    struct http_request *request;
    struct delivery *delivery; /* COMMIT: the writer's; only its request member is ours */
    char *body;                /* KEYS: a copy, since the request's own is gone after on_body */
    size_t body_bytes;
    uint64_t attempts; /* KEYS: those over when the wait began */
    int64_t began_us;
    int64_t deadline_ms;
};
TAILQ_HEAD(waiting_list, waiting);

struct app_series {
    struct metrics_series *outcomes[VERDICT_COUNT];
    struct metrics_series *events[EVENT_TYPE_COUNT];
    struct metrics_series *last_accepted;
};

/* A configuration on its way from the thread that read it to the loop. */
struct reload {
    struct config *config;
    struct policy *policy;
    struct http_server *server;
};

struct ingress {
    struct ingress_settings set;
    const struct config *config; /* in force: the one of the start, or owned */
    struct config *owned;
    struct policy *policy;
    pthread_mutex_t reload_lock; /* guards reload, and policy where others than the loop read it */
    struct reload reload;        /* the newest that was not adopted yet */
    struct jws_context *jws;
    struct key_snapshot *snapshot;
    uint64_t snapshot_generation;
    struct http_reply *replies[VERDICT_COUNT];
    struct http_reply *not_found, *not_allowed;

    struct waiting *pool;
    struct waiting_list unused, committing, held; /* the latter two in order of their deadlines */
    unsigned held_count;
    struct ingress_deferral *deferral;
    bool unflushed;     /* the writer has deliveries of this turn */
    unsigned deferring; /* deliveries that the writer has and nobody has verified */

    struct metrics_family *notifications, *events, *last_accepted, *probes;
    struct app_series *apps; /* one for each app of the policy, in its order */
    struct metrics_series *nameless[VERDICT_COUNT]; /* client_id "": no signature verified */
    struct metrics_series *refused_not_found, *refused_method, *refused_framing, *refused_no_length,
        *refused_too_large, *refused_timeout;
    char *audiences[INGRESS_AUDIENCES_MAX];
    unsigned audience_count;
    struct clock_watch clock;
    struct log_limit unverified_lines, verified_lines; /* refusals only */
    atomic_bool refuse_new;
};

/* -- metrics ----------------------------------------------------------------------------------- */

/* The series of an app, or NULL where a reload has taken it away while its delivery was under way.
 * The app may belong to an older policy than the one in force. */
static struct app_series *series_of(struct ingress *ingress, const char *client_id)
{
    const struct config_app *app = policy_find(ingress->policy, client_id);

    return app ? &ingress->apps[app - policy_at(ingress->policy, 0)] : NULL;
}

/* The name under which an audience that is not configured is counted: its own for the first few,
 * since a team forgets one app or two; the number must stay bounded, since everybody's apps are
 * signed for with the same keys. */
static const char *audience_name(struct ingress *ingress, const char *audience)
{
    for (unsigned i = 0; i < ingress->audience_count; i++)
        if (strcmp(ingress->audiences[i], audience) == 0)
            return ingress->audiences[i];
    if (ingress->audience_count == INGRESS_AUDIENCES_MAX)
        return "other";
    char *copy = strdup(audience);
    if (!copy)
        return "other";
    ingress->audiences[ingress->audience_count++] = copy;
    return copy;
}

static void count_notification(struct ingress *ingress, enum verdict verdict,
                               const char *verified_audience)
{
    struct app_series *series = verified_audience ? series_of(ingress, verified_audience) : NULL;

    if (series)
        metrics_add(series->outcomes[verdict], 1);
    else if (verified_audience)
        metrics_add(metrics_with(ingress->notifications,
                                 (const char *[]){verdict_label(verdict),
                                                  audience_name(ingress, verified_audience)}),
                    1);
    else
        metrics_add(ingress->nameless[verdict], 1);
}

/* Counts an outcome. What doctor sends is counted apart, and moves nothing that tells of Apple. */
static void count_outcome(struct ingress *ingress, enum verdict verdict,
                          const struct judgement *judgement, const char *verified_audience)
{
    if (judgement->probe)
        metrics_add(metrics_with(ingress->probes, (const char *[]){verdict_label(verdict)}), 1);
    else
        count_notification(ingress, verdict, verified_audience);
}

static void register_app_series(struct ingress *ingress, const char *client_id,
                                struct app_series *series)
{
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++)
        series->outcomes[verdict] =
            metrics_with(ingress->notifications,
                         (const char *[]){verdict_label((enum verdict)verdict), client_id});
    for (int kind = 0; kind < EVENT_TYPE_COUNT; kind++)
        series->events[kind] = metrics_with(
            ingress->events, (const char *[]){event_type_text((enum event_type)kind), client_id});
    series->last_accepted = metrics_with(ingress->last_accepted, (const char *[]){client_id});
}

/* Every configured app has its series from the start: silence must show as zero, not as absence. */
static struct app_series *series_of_all(struct ingress *ingress, const struct policy *policy)
{
    size_t count = policy_count(policy);
    struct app_series *all = calloc(count ? count : 1, sizeof(*all));

    for (size_t i = 0; all && i < count; i++)
        register_app_series(ingress, policy_at(policy, i)->client_id, &all[i]);
    return all;
}

static int register_metrics(struct ingress *ingress)
{
    struct metrics *metrics = ingress->set.metrics;
    struct metrics_family *refused;

    ingress->notifications = metrics_register(
        metrics, METRICS_COUNTER, "siwa_notifications_total",
        "Notifications by outcome; client_id is empty where no signature verified.",
        (const char *const[]){"outcome", "client_id", NULL}, NULL, 0);
    ingress->events = metrics_register(metrics, METRICS_COUNTER, "siwa_events_total",
                                       "Events stored in the outbox.",
                                       (const char *const[]){"type", "client_id", NULL}, NULL, 0);
    ingress->last_accepted =
        metrics_register(metrics, METRICS_GAUGE, "siwa_last_accepted_timestamp_seconds",
                         "When the last notification for this app was accepted; 0 for never.",
                         (const char *const[]){"client_id", NULL}, NULL, 0);
    refused = metrics_register(metrics, METRICS_COUNTER, "siwa_http_refused_total",
                               "Requests to Apple's listener that were turned away unread.",
                               (const char *const[]){"reason", NULL}, NULL, 0);
    ingress->probes = metrics_register(
        metrics, METRICS_COUNTER, "siwa_probes_total",
        "Test notifications of `siwa-notifyd doctor`, by outcome; they count nowhere else.",
        (const char *const[]){"outcome", NULL}, NULL, 0);
    if (!ingress->notifications || !ingress->events || !ingress->last_accepted || !refused ||
        !ingress->probes)
        return -ENOMEM;
    (void)metrics_with(ingress->probes, (const char *[]){verdict_label(VERDICT_ACCEPTED)});
    ingress->apps = series_of_all(ingress, ingress->policy);
    if (!ingress->apps)
        return -ENOMEM;

    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++)
        ingress->nameless[verdict] = metrics_with(
            ingress->notifications, (const char *[]){verdict_label((enum verdict)verdict), ""});
    ingress->refused_not_found = metrics_with(refused, (const char *[]){"not_found"});
    ingress->refused_method = metrics_with(refused, (const char *[]){"method"});
    ingress->refused_framing = metrics_with(refused, (const char *[]){"framing"});
    ingress->refused_no_length = metrics_with(refused, (const char *[]){"no_length"});
    ingress->refused_too_large = metrics_with(refused, (const char *[]){"too_large"});
    ingress->refused_timeout = metrics_with(refused, (const char *[]){"timeout"});
    return 0;
}

/* -- log --------------------------------------------------------------------------------------- */

/* One line for one notification. Refusals can be caused by strangers in any number, so they are
 * limited; a flood of what nobody signed does not use up the lines of what Apple signed. */
static void log_notification(struct ingress *ingress, enum verdict verdict,
                             const struct judgement *judgement, const struct delivery *delivery,
                             int64_t began_us)
{
    const struct notification *notification = &judgement->notification;
    bool verified = judgement->signature_verified;
    bool refused = verdict_status(verdict) != 200;
    bool loud = refused || verdict == VERDICT_QUARANTINED;
    uint64_t suppressed = 0;
    int64_t now_us = clock_monotonic_us();

    if (refused && !log_limit_pass(verified ? &ingress->verified_lines : &ingress->unverified_lines,
                                   now_us / 1000, &suppressed))
        return;
    struct log_field fields[11] = {log_text("outcome", verdict_label(verdict))};
    size_t count = 1;

    if (judgement->reason != QUARANTINE_REASON_NONE)
        fields[count++] = log_text("reason", quarantine_reason_label(judgement->reason));
    if (verified && notification->event_count > 0)
        fields[count++] = log_text("type", notification->events[0].type);
    if (verified)
        fields[count++] = log_text("client_id", notification->aud);
    if (delivery && verified && !judgement->probe)
        fields[count++] = log_text("app", delivery->app->app);
    if (delivery && verified && delivery->rows > 0) {
        fields[count++] = log_number("id", delivery->first_id);
        fields[count++] = log_number("rows", (int64_t)delivery->rows);
    }
    if (refused && judgement->kid[0])
        fields[count++] = log_text("kid", judgement->kid);
    fields[count++] = log_number("us", now_us - began_us);
    if (suppressed > 0)
        fields[count++] = log_number("suppressed", (int64_t)suppressed);
    log_write(loud ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
              judgement->probe ? "test notification" : "notification", fields);
}

/* -- requests that wait ------------------------------------------------------------------------ */

static struct waiting *wait_begin(struct ingress *ingress, enum waiting_for what,
                                  struct http_request *request, int64_t began_us, int64_t wait_ms)
{
    struct waiting *waiting = TAILQ_FIRST(&ingress->unused);

    if (!waiting)
        return NULL;
    TAILQ_REMOVE(&ingress->unused, waiting, link);
    waiting->what = what;
    waiting->request = request;
    waiting->began_us = began_us;
    /* not since it began: who was held for its keys may wait for its commit as long as others, and
     * the lists stay in the order of their deadlines */
    waiting->deadline_ms = clock_monotonic_ms() + wait_ms;
    http_request_set_user(request, waiting);
    if (what == WAITING_COMMIT) {
        TAILQ_INSERT_TAIL(&ingress->committing, waiting, link);
    } else {
        TAILQ_INSERT_TAIL(&ingress->held, waiting, link);
        ingress->held_count++;
    }
    return waiting;
}

/* Back to the pool: request and delivery forget that somebody waited. */
static void wait_end(struct ingress *ingress, struct waiting *waiting)
{
    if (waiting->what == WAITING_COMMIT) {
        TAILQ_REMOVE(&ingress->committing, waiting, link);
        waiting->delivery->request = NULL;
    } else {
        TAILQ_REMOVE(&ingress->held, waiting, link);
        ingress->held_count--;
        free(waiting->body);
    }
    http_request_set_user(waiting->request, NULL);
    *waiting = (struct waiting){0};
    TAILQ_INSERT_HEAD(&ingress->unused, waiting, link);
}

/* -- judging ----------------------------------------------------------------------------------- */

struct key_lookup {
    const struct key_snapshot *snapshot;
    int64_t now_s;
};

static const struct jwk *find_key(void *context, const char *kid, size_t kid_bytes,
                                  enum key_trust *ret_trust)
{
    const struct key_lookup *lookup = context;
    return key_snapshot_find(lookup->snapshot, kid, kid_bytes, lookup->now_s, ret_trust);
}

static void renew_snapshot(struct ingress *ingress)
{
    uint64_t generation = key_cache_generation(ingress->set.keys);

    if (ingress->snapshot && generation == ingress->snapshot_generation)
        return;
    key_snapshot_unref(ingress->snapshot);
    ingress->snapshot = key_cache_snapshot(ingress->set.keys);
    ingress->snapshot_generation = generation;
}

static void judge(struct ingress *ingress, const char *body, size_t body_bytes, int64_t now_ms,
                  struct judgement *ret_judgement)
{
    struct judge_rules rules;

    struct jwk *probe = probe_key(ingress->set.probe, clock_monotonic_ms());

    renew_snapshot(ingress);
    struct key_lookup lookup = {.snapshot = ingress->snapshot, .now_s = now_ms / 1000};
    policy_rules(ingress->policy, &rules);
    rules.now_s = lookup.now_s;
    rules.keys = (struct judge_keys){
        .find = find_key,
        .context = &lookup,
        .usable = key_snapshot_usable(ingress->snapshot, lookup.now_s),
    };
    rules.probe = (struct judge_probe){
        .key = probe, .issuer = CONFIG_PROBE_ISSUER, .client_id = CONFIG_PROBE_CLIENT_ID};
    judge_body(ingress->jws, &rules, body, body_bytes, ret_judgement);
    if (ret_judgement->probe) /* whatever becomes of it */
        probe_used(ingress->set.probe, probe);
    jwk_unref(probe);
}

static void watch_clock(struct ingress *ingress, int64_t wall_ms, int64_t monotonic_ms)
{
    int64_t leeway_ms = (int64_t)ingress->config->limits.leeway_s * 1000;

    if (clock_watch_look(&ingress->clock, wall_ms, monotonic_ms, leeway_ms))
        log_event(LOG_LEVEL_WARNING,
                  "the clock jumped; for an hour what is in time by one reading only is put off",
                  log_number("seconds", (wall_ms - clock_watch_other_ms(&ingress->clock, wall_ms,
                                                                        monotonic_ms)) /
                                            1000));
}

static bool is_over(const struct judgement *judgement, int64_t wall_ms, int64_t leeway_s)
{
    return wall_ms / 1000 >= judgement->notification.expires_at_s + leeway_s;
}

/* A clock that jumped is right before or after, and nobody here knows which. What is in time by one
 * of its readings and over by the other is neither refused nor taken. */
static void doubt_time(struct ingress *ingress, int64_t wall_ms, struct judgement *judgement)
{
    int64_t monotonic_ms = clock_monotonic_ms();
    int64_t leeway_s = ingress->config->limits.leeway_s;
    int64_t other_ms;

    watch_clock(ingress, wall_ms, monotonic_ms);
    other_ms = clock_watch_other_ms(&ingress->clock, wall_ms, monotonic_ms);
    if (other_ms == wall_ms)
        return;
    if (judgement->verdict != VERDICT_ACCEPTED && judgement->reason != QUARANTINE_REASON_EXPIRED)
        return;
    if (is_over(judgement, wall_ms, leeway_s) == is_over(judgement, other_ms, leeway_s))
        return;
    judgement->verdict = VERDICT_FROM_FUTURE;
    judgement->reason = QUARANTINE_REASON_NONE;
}

/* The request gets its answer now, and is counted and logged. */
static void conclude(struct ingress *ingress, struct http_request *request, enum verdict verdict,
                     const struct judgement *judgement, int64_t began_us)
{
    const char *audience = judgement->signature_verified ? judgement->notification.aud : NULL;

    http_request_answer(request, ingress->replies[verdict]);
    count_outcome(ingress, verdict, judgement, audience);
    log_notification(ingress, verdict, judgement, NULL, began_us);
}

/* Whether the request now waits for one refresh of the keys. */
static bool hold_for_keys(struct ingress *ingress, struct http_request *request, const char *body,
                          size_t body_bytes, int64_t began_us)
{
    struct refresher_state state;

    if (ingress->held_count >= INGRESS_HELD_MAX)
        return false;
    /* Asked before the demand, so that an attempt which ends in between counts as waited for. */
    refresher_state(ingress->set.refresher, &state);
    if (!refresher_demand(ingress->set.refresher))
        return false;
    char *copy = malloc(body_bytes ? body_bytes : 1);
    struct waiting *waiting =
        copy ? wait_begin(ingress, WAITING_KEYS, request, began_us, INGRESS_HELD_MS) : NULL;
    if (!waiting) {
        free(copy);
        return false;
    }
    memcpy(copy, body, body_bytes);
    waiting->body = copy;
    waiting->body_bytes = body_bytes;
    waiting->attempts = state.attempts;
    return true;
}

/* Gives a delivery that the writer did not take back its judgement, and ends it. */
static void undo_delivery(struct delivery *delivery, struct judgement *judgement)
{
    *judgement = delivery->judgement;
    delivery->judgement = (struct judgement){0};
    delivery_free(delivery);
}

/* Hands a delivery to the writer. VERDICT_ACCEPTED: the request now waits for the commit, and the
 * judgement stays taken over. Otherwise it is given back, and this is to be answered. */
static enum verdict submit(struct ingress *ingress, struct http_request *request,
                           struct delivery *delivery, struct judgement *judgement, int64_t began_us)
{
    struct waiting *waiting =
        wait_begin(ingress, WAITING_COMMIT, request, began_us, INGRESS_COMMIT_MS);

    if (!waiting) {
        undo_delivery(delivery, judgement);
        return VERDICT_BUSY;
    }
    waiting->delivery = delivery;
    delivery->request = waiting;
    delivery->submitted_us = began_us;

    int error = writer_submit_more(ingress->set.writer, delivery);
    if (error == 0) {
        ingress->unflushed = true;
        return VERDICT_ACCEPTED;
    }
    wait_end(ingress, waiting);
    undo_delivery(delivery, judgement);
    if (error == -EAGAIN)
        return VERDICT_BUSY;
    return error == -EIO ? VERDICT_STORE_FAILED : VERDICT_DRAINING;
}

/* Hands what Apple signed to the writer; as submit. */
static enum verdict store(struct ingress *ingress, struct http_request *request,
                          struct judgement *judgement, const char *body, size_t body_bytes,
                          int64_t now_ms, int64_t began_us)
{
    static const struct config_app nobodys = {
        .client_id = CONFIG_PROBE_CLIENT_ID, .app = "", .team = ""};
    const struct config_app *app =
        judgement->probe ? &nobodys : policy_find(ingress->policy, judgement->notification.aud);
    struct delivery *delivery =
        app ? delivery_new(judgement, ingress->policy, app, body, body_bytes, now_ms) : NULL;

    return delivery ? submit(ingress, request, delivery, judgement, began_us) : VERDICT_INTERNAL;
}

/* Whether the keys that are to come may be waited for. No server publishes the key of a test
 * notification: who sends one that is not armed causes no refresh, and nothing is kept. */
static bool may_get_key(const struct judgement *judgement)
{
    return (judgement->verdict == VERDICT_KID_UNKNOWN || judgement->verdict == VERDICT_NO_KEYS) &&
           !probe_is_kid(judgement->kid);
}

static bool kid_known(struct ingress *ingress, const char *kid)
{
    enum key_trust trust;

    return key_snapshot_find(ingress->snapshot, kid, strlen(kid), 0, &trust) != NULL;
}

static unsigned deferring_max(const struct ingress *ingress)
{
    unsigned quarter = ingress->config->limits.queue_events / 4 + 1;

    return quarter < INGRESS_DEFERRING_MAX ? quarter : INGRESS_DEFERRING_MAX;
}

/* The app of what nobody can verify yet, where it looks like a notification for us; or NULL. A key
 * that is distrusted is known, and will not be trusted later either. */
static const struct config_app *peek(struct ingress *ingress, const struct judgement *judgement,
                                     const char *body, size_t body_bytes)
{
    struct judge_rules rules;
    struct peek peek;

    if (judgement->verdict == VERDICT_KID_UNKNOWN && kid_known(ingress, judgement->kid))
        return NULL;
    policy_rules(ingress->policy, &rules);
    return peek_body(&rules, body, body_bytes, &peek)
               ? policy_find(ingress->policy, peek.unverified_aud)
               : NULL;
}

/* Whether the request now waits until it is kept for the keys to come. */
static bool defer(struct ingress *ingress, struct http_request *request,
                  struct judgement *judgement, const char *body, size_t body_bytes, int64_t now_ms,
                  int64_t began_us)
{
    const struct config_app *app = NULL;
    struct delivery *delivery;
    struct refresher_state state;

    if (ingress->deferring < deferring_max(ingress))
        app = peek(ingress, judgement, body, body_bytes);
    delivery = app ? delivery_new(judgement, ingress->policy, app, body, body_bytes, now_ms) : NULL;
    if (!delivery)
        return false;
    refresher_state(ingress->set.refresher, &state);
    delivery->refreshes = state.successes;
    if (submit(ingress, request, delivery, judgement, began_us) != VERDICT_ACCEPTED)
        return false;
    ingress->deferring++;
    return true;
}

static void receive(struct ingress *ingress, struct http_request *request, const char *body,
                    size_t body_bytes, int64_t began_us, bool may_wait_for_keys)
{
    int64_t now_ms = clock_wall_ms();
    struct judgement judgement;
    enum verdict verdict;

    judge(ingress, body, body_bytes, now_ms, &judgement);
    doubt_time(ingress, now_ms, &judgement);
    verdict = judgement.verdict;
    if (may_get_key(&judgement)) {
        if (may_wait_for_keys && hold_for_keys(ingress, request, body, body_bytes, began_us)) {
            judgement_release(&judgement);
            return;
        }
        if (defer(ingress, request, &judgement, body, body_bytes, now_ms, began_us))
            return;
    } else if (verdict == VERDICT_ACCEPTED || verdict == VERDICT_QUARANTINED) {
        verdict = store(ingress, request, &judgement, body, body_bytes, now_ms, began_us);
        if (verdict == VERDICT_ACCEPTED)
            return;
    }
    conclude(ingress, request, verdict, &judgement, began_us);
    judgement_release(&judgement);
}

/* -- what the server calls --------------------------------------------------------------------- */

static void on_headers(void *context, struct http_request *request)
{
    struct ingress *ingress = context;

    if (strcmp(http_request_path(request), ingress->set.config->path) != 0) {
        metrics_add(ingress->refused_not_found, 1);
        http_request_answer(request, ingress->not_found);
    } else if (http_request_method(request) != HTTP_METHOD_POST) {
        metrics_add(ingress->refused_method, 1);
        http_request_answer(request, ingress->not_allowed);
    }
}

static void on_body(void *context, struct http_request *request)
{
    struct ingress *ingress = context;
    int64_t began_us = clock_monotonic_us();
    size_t body_bytes;
    const char *body = http_request_body(request, &body_bytes);

    if (atomic_load_explicit(&ingress->refuse_new, memory_order_relaxed)) {
        struct judgement none = {0};
        conclude(ingress, request, VERDICT_DRAINING, &none, began_us);
        return;
    }
    receive(ingress, request, body, body_bytes, began_us, true);
}

static void on_over(void *context, struct http_request *request)
{
    struct waiting *waiting = http_request_user(request);

    if (waiting)
        wait_end(context, waiting);
}

/* A notification, as far as anybody can tell, of which nothing was read. */
static void count_unread(struct ingress *ingress, enum verdict verdict, const char *reason,
                         struct metrics_series *refused)
{
    uint64_t suppressed = 0;

    metrics_add(refused, 1);
    metrics_add(ingress->nameless[verdict], 1);
    if (!log_limit_pass(&ingress->unverified_lines, clock_monotonic_ms(), &suppressed))
        return;
    struct log_field fields[4] = {log_text("outcome", verdict_label(verdict)),
                                  log_text("reason", reason)};
    if (suppressed > 0)
        fields[2] = log_number("suppressed", (int64_t)suppressed);
    log_write(LOG_LEVEL_WARNING, "notification", fields);
}

static void on_refused(void *context, enum http_refusal refusal)
{
    struct ingress *ingress = context;

    switch (refusal) {
    case HTTP_REFUSAL_FRAMING:
        count_unread(ingress, VERDICT_BAD_FRAMING, "framing", ingress->refused_framing);
        break;
    case HTTP_REFUSAL_NO_LENGTH:
        count_unread(ingress, VERDICT_BAD_FRAMING, "no_length", ingress->refused_no_length);
        break;
    case HTTP_REFUSAL_TOO_LARGE:
        count_unread(ingress, VERDICT_TOO_LARGE, "too_large", ingress->refused_too_large);
        break;
    case HTTP_REFUSAL_TIMEOUT:
        metrics_add(ingress->refused_timeout, 1);
        break;
    }
}

static void count_stored(struct ingress *ingress, const struct delivery *delivery)
{
    const struct notification *notification = &delivery->judgement.notification;
    struct app_series *series = series_of(ingress, delivery->app->client_id);

    if (!series)
        return;
    metrics_set(series->last_accepted, (double)delivery->received_at_ms / 1000.0);
    for (size_t i = 0; i < notification->event_count; i++)
        if (delivery->stored & (UINT32_C(1) << i))
            metrics_add(series->events[notification->events[i].kind], 1);
}

/* The app under which a delivery is counted. What nobody verified counts for none. */
static const char *verified_audience_of(const struct delivery *delivery)
{
    return delivery->judgement.signature_verified ? delivery->app->client_id : NULL;
}

/* A delivery came back: its rows are on the disk, or they are not. */
static void take_back(struct ingress *ingress, struct delivery *delivery)
{
    struct waiting *waiting = delivery->request;

    if (!delivery->judgement.signature_verified) {
        ingress->deferring--;
        ingress_deferral_came_back(ingress->deferral, delivery);
    }
    if (delivery->verdict == VERDICT_ACCEPTED)
        count_stored(ingress, delivery);
    if (waiting) {
        struct http_request *request = waiting->request;
        wait_end(ingress, waiting);
        http_request_answer(request, ingress->replies[delivery->verdict]);
        count_outcome(ingress, delivery->verdict, &delivery->judgement,
                      verified_audience_of(delivery));
    }
    /* Also where nobody waits any more: the line then says what became of it after the 503. */
    log_notification(ingress, delivery->verdict, &delivery->judgement, delivery,
                     delivery->submitted_us);
    delivery_free(delivery);
}

/* Judges once more, and for good, who waited for keys. */
static void release_one(struct ingress *ingress, struct waiting *waiting)
{
    struct http_request *request = waiting->request;
    char *body = waiting->body;
    size_t body_bytes = waiting->body_bytes;
    int64_t began_us = waiting->began_us;

    waiting->body = NULL;
    wait_end(ingress, waiting);
    receive(ingress, request, body, body_bytes, began_us, false);
    free(body);
}

/* An attempt to refresh the keys is over. */
static void release_held(struct ingress *ingress)
{
    struct refresher_state state;
    struct waiting *waiting;

    if (ingress->held_count == 0)
        return;
    refresher_state(ingress->set.refresher, &state);
    while ((waiting = TAILQ_FIRST(&ingress->held)) && waiting->attempts != state.attempts)
        release_one(ingress, waiting);
}

static void adopt_reload(struct ingress *ingress)
{
    struct reload reload;
    struct app_series *apps;
    struct http_limits limits;

    pthread_mutex_lock(&ingress->reload_lock);
    reload = ingress->reload;
    ingress->reload = (struct reload){0};
    pthread_mutex_unlock(&ingress->reload_lock);
    if (!reload.config)
        return;
    apps = series_of_all(ingress, reload.policy);
    if (!apps) {
        log_write(LOG_LEVEL_ERROR,
                  "out of memory; apps and limits stay as they were; reload once more", NULL);
        policy_unref(reload.policy);
        config_free(reload.config);
        return;
    }
    free(ingress->apps);
    ingress->apps = apps;
    pthread_mutex_lock(&ingress->reload_lock);
    policy_unref(ingress->policy);
    ingress->policy = reload.policy;
    pthread_mutex_unlock(&ingress->reload_lock);
    config_free(ingress->owned);
    ingress->owned = reload.config;
    ingress->config = reload.config;
    limits = ingress_limits(reload.config);
    http_server_set_limits(reload.server, &limits);
    log_event(LOG_LEVEL_NOTICE, "the new configuration is in force",
              log_number("apps", (int64_t)policy_count(ingress->policy)));
}

static void on_wake(void *context)
{
    struct ingress *ingress = context;
    struct delivery *delivery = writer_collect(ingress->set.writer);

    log_gather(); /* a batch of commits is a batch of lines */
    while (delivery) {
        struct delivery *next = delivery->next;
        take_back(ingress, delivery);
        delivery = next;
    }
    adopt_reload(ingress);
    release_held(ingress);
    ingress_deferral_turn(ingress->deferral, ingress->policy);
    log_flush();
}

/* Whoever comes in one turn is committed together: a wake and an fsync are worth more than the
 * microseconds that the first waits for the last. */
static void on_turn(void *context)
{
    struct ingress *ingress = context;

    if (ingress->unflushed)
        writer_flush(ingress->set.writer);
    ingress->unflushed = false;
}

/* A commit that takes too long, keys that do not come: the answer waits for neither. */
static void on_tick(void *context, int64_t now_ms)
{
    struct ingress *ingress = context;
    struct waiting *waiting;

    watch_clock(ingress, clock_wall_ms(), clock_monotonic_ms());
    while ((waiting = TAILQ_FIRST(&ingress->committing)) && waiting->deadline_ms <= now_ms) {
        struct http_request *request = waiting->request;

        count_outcome(ingress, VERDICT_STORE_FAILED, &waiting->delivery->judgement,
                      verified_audience_of(waiting->delivery));
        wait_end(ingress, waiting);
        http_request_answer(request, ingress->replies[VERDICT_STORE_FAILED]);
    }
    while ((waiting = TAILQ_FIRST(&ingress->held)) && waiting->deadline_ms <= now_ms)
        release_one(ingress, waiting);
    ingress_deferral_turn(ingress->deferral, ingress->policy);
}

const struct http_service *ingress_service(void)
{
    static const struct http_service service = {
        .on_headers = on_headers,
        .on_body = on_body,
        .on_over = on_over,
        .on_refused = on_refused,
        .on_wake = on_wake,
        .on_turn = on_turn,
        .on_tick = on_tick,
    };
    return &service;
}

/* -- life cycle -------------------------------------------------------------------------------- */

static int make_reply(enum verdict verdict, struct http_reply **ret_reply)
{
    const char *label = verdict_label(verdict);
    unsigned status = verdict_status(verdict);
    /* A full queue and a restart are over in moments; keys, disks and clocks take longer. */
    bool soon = verdict == VERDICT_BUSY || verdict == VERDICT_DRAINING;
    const char *const headers[] = {"Retry-After", soon ? "5" : "60", NULL};

    return http_reply_new(status, "text/plain", label, strlen(label),
                          status == 503 ? headers : NULL, ret_reply);
}

static int make_replies(struct ingress *ingress)
{
    const char *const allow[] = {"Allow", "POST", NULL};
    int error;

    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
        error = make_reply((enum verdict)verdict, &ingress->replies[verdict]);
        if (error)
            return error;
    }
    error = http_reply_new(404, NULL, NULL, 0, NULL, &ingress->not_found);
    if (error)
        return error;
    return http_reply_new(405, NULL, NULL, 0, allow, &ingress->not_allowed);
}

static int make_pool(struct ingress *ingress)
{
    unsigned connections = ingress->set.config->limits.connections;

    TAILQ_INIT(&ingress->unused);
    TAILQ_INIT(&ingress->committing);
    TAILQ_INIT(&ingress->held);
    ingress->pool = calloc(connections, sizeof(*ingress->pool));
    if (!ingress->pool)
        return -ENOMEM;
    for (unsigned i = 0; i < connections; i++)
        TAILQ_INSERT_TAIL(&ingress->unused, &ingress->pool[i], link);
    return 0;
}

int ingress_new(const struct ingress_settings *settings, struct ingress **ret_ingress)
{
    struct ingress *ingress = calloc(1, sizeof(*ingress));
    int error;

    if (!ingress)
        return -ENOMEM;
    ingress->set = *settings;
    ingress->config = settings->config;
    pthread_mutex_init(&ingress->reload_lock, NULL);
    watch_clock(ingress, clock_wall_ms(), clock_monotonic_ms());
    ingress->unverified_lines = (struct log_limit){.burst = 20, .per_minute = 60};
    ingress->verified_lines = (struct log_limit){.burst = 20, .per_minute = 60};
    error = policy_new(settings->config, &ingress->policy);
    if (!error)
        error = make_pool(ingress);
    if (!error)
        error = jws_context_new(&ingress->jws);
    if (!error)
        error = make_replies(ingress);
    if (!error)
        error = register_metrics(ingress);
    if (!error)
        error = ingress_deferral_new(settings, ingress->events, ingress->last_accepted,
                                     &ingress->deferral);
    if (error) {
        ingress_free(ingress);
        return error;
    }
    *ret_ingress = ingress;
    return 0;
}

void ingress_free(struct ingress *ingress)
{
    if (!ingress)
        return;
    for (unsigned i = 0; i < ingress->audience_count; i++)
        free(ingress->audiences[i]);
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++)
        http_reply_free(ingress->replies[verdict]);
    http_reply_free(ingress->not_found);
    http_reply_free(ingress->not_allowed);
    ingress_deferral_free(ingress->deferral);
    free(ingress->apps);
    free(ingress->pool);
    key_snapshot_unref(ingress->snapshot);
    jws_context_free(ingress->jws);
    policy_unref(ingress->policy);
    policy_unref(ingress->reload.policy);
    config_free(ingress->reload.config);
    config_free(ingress->owned);
    pthread_mutex_destroy(&ingress->reload_lock);
    free(ingress);
}

struct http_limits ingress_limits(const struct config *config)
{
    return (struct http_limits){
        .connections = config->limits.connections,
        .body_bytes = config->limits.body_bytes,
        .headers_ms = config->limits.headers_s * 1000,
        .request_ms = config->limits.request_s * 1000,
        .idle_ms = config->limits.idle_s * 1000,
        .spare_silent_ms = INGRESS_SPARE_SILENT_MS,
        .spare_busy_ms = INGRESS_SPARE_BUSY_MS,
    };
}

int ingress_reconfigure(struct ingress *ingress, struct config *config, struct http_server *server)
{
    struct reload before, after = {.config = config, .server = server};
    int error = policy_new(config, &after.policy);

    if (error)
        return error;
    pthread_mutex_lock(&ingress->reload_lock);
    before = ingress->reload;
    ingress->reload = after;
    pthread_mutex_unlock(&ingress->reload_lock);
    policy_unref(before.policy);
    config_free(before.config);
    return 0;
}

struct policy *ingress_policy(struct ingress *ingress)
{
    pthread_mutex_lock(&ingress->reload_lock);
    struct policy *policy = policy_ref(ingress->policy);
    pthread_mutex_unlock(&ingress->reload_lock);
    return policy;
}

void ingress_count_stored(struct ingress *ingress, const struct delivery *delivery)
{
    ingress_deferral_count(ingress->deferral, delivery);
}

void ingress_restore_last_accepted(struct ingress *ingress, const char *client_id, int64_t last_ms)
{
    struct app_series *series = series_of(ingress, client_id);

    if (series)
        metrics_set(series->last_accepted, (double)last_ms / 1000.0);
}

void ingress_refuse_new(struct ingress *ingress)
{
    atomic_store_explicit(&ingress->refuse_new, true, memory_order_relaxed);
}
