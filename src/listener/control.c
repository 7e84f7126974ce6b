#include "listener/control.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/clock.h"
#include "support/log.h"

#define DETAIL_BYTES 512

/* A request that waits for a refresh attempt to end. */
struct waiting {
    struct waiting *next;
    struct http_request *request;
    uint64_t attempts_before;
    int64_t deadline_ms; /* monotonic */
};

struct control {
    struct control_settings settings;
    char *version;
    int64_t started_ms; /* wall clock */
    int64_t started_mono_ms;
    struct waiting *waiting;          /* at most one for each connection */
    struct http_reply *out_of_memory; /* made when there still was some */
};

/* ---- errors: RFC 7807 ---- */

/* name is the last part of the problem's type; status and title never change for a name. */
struct problem {
    const char *name;
    unsigned status;
    const char *title;
};

static const struct problem problem_not_found = {"not-found", 404, "There is no such resource"};
static const struct problem problem_method = {"method-not-allowed", 405,
                                              "The resource does not have this method"};
static const struct problem problem_permission = {
    "not-permitted", 403, "Only root and the user of the daemon may do this"};
static const struct problem problem_request = {"bad-request", 400,
                                               "The request cannot be understood"};
static const struct problem problem_refresh = {"refresh-failed", 502,
                                               "The key set could not be fetched"};
static const struct problem problem_refresh_late = {"refresh-unfinished", 504,
                                                    "The key set was not fetched in time"};
static const struct problem problem_save = {"not-saved", 500,
                                            "The change could not be saved in keys.json"};
static const struct problem problem_full = {"list-full", 409, "There is no room for one more"};
static const struct problem problem_draining = {"shutting-down", 503,
                                                "The daemon is shutting down"};
static const struct problem problem_memory = {"out-of-memory", 503, "Memory is out"};

static const char *const no_store[] = {"Cache-Control", "no-store", NULL};

/* Answers with a JSON value, whose reference is taken; NULL stands for memory that is out. */
static void answer_json(struct control *control, struct http_request *request, unsigned status,
                        const char *type, const char *const *headers, json_t *value)
{
    struct http_reply *reply = NULL;
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;

    if (text && http_reply_new(status, type, text, strlen(text), headers, &reply) == 0)
        http_request_answer(request, reply);
    else
        http_request_answer(request, control->out_of_memory);
    http_reply_free(reply);
    free(text);
    json_decref(value);
}

static void answer_ok(struct control *control, struct http_request *request, json_t *value)
{
    answer_json(control, request, 200, CONTROL_TYPE_JSON, no_store, value);
}

static json_t *problem_json(const struct problem *problem, const char *detail)
{
    char type[64];

    (void)snprintf(type, sizeof type, "/problems/%s", problem->name); /* names are short literals */
    return json_pack("{s:s,s:s,s:I,s:s}", "type", type, "title", problem->title, "status",
                     (json_int_t)problem->status, "detail", detail);
}

__attribute__((format(printf, 4, 5))) static void answer_problem(struct control *control,
                                                                 struct http_request *request,
                                                                 const struct problem *problem,
                                                                 const char *format, ...)
{
    char detail[DETAIL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(detail, sizeof detail, format, arguments); /* cut at its end is fine */
    va_end(arguments);
    answer_json(control, request, problem->status, CONTROL_TYPE_PROBLEM, no_store,
                problem_json(problem, detail));
}

/* ---- keys ---- */

const char *control_key_state(const struct key_snapshot *snapshot, const struct key_record *record,
                              int64_t now_s)
{
    const char *kid = jwk_kid(record->key);
    enum key_trust trust = KEY_TRUST_NONE;

    if (record->distrusted)
        return "distrusted";
    if (record->current)
        return "current";
    (void)key_snapshot_find(snapshot, kid, strlen(kid), now_s, &trust);
    return trust == KEY_TRUST_FULL ? "grace" : "old";
}

static json_t *record_json(const struct key_snapshot *snapshot, const struct key_record *record,
                           int64_t now_s)
{
    return json_pack("{s:s,s:s,s:I,s:I}", "kid", jwk_kid(record->key), "state",
                     control_key_state(snapshot, record, now_s), "first_seen_s",
                     (json_int_t)record->first_seen_s, "last_seen_s",
                     (json_int_t)record->last_seen_s);
}

static json_t *records_json(const struct key_snapshot *snapshot, int64_t now_s)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < key_snapshot_count(snapshot); i++) {
        if (json_array_append_new(array,
                                  record_json(snapshot, key_snapshot_at(snapshot, i), now_s)) == 0)
            continue;
        json_decref(array);
        array = NULL;
    }
    return array;
}

static bool kid_known(const struct key_snapshot *snapshot, const char *kid)
{
    for (size_t i = 0; i < key_snapshot_count(snapshot); i++)
        if (strcmp(jwk_kid(key_snapshot_at(snapshot, i)->key), kid) == 0)
            return true;
    return false;
}

static json_t *distrusted_unknown_json(const struct key_snapshot *snapshot)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < key_snapshot_distrusted_count(snapshot); i++) {
        const char *kid = key_snapshot_distrusted_at(snapshot, i);
        if (kid_known(snapshot, kid) || json_array_append_new(array, json_string(kid)) == 0)
            continue;
        json_decref(array);
        array = NULL;
    }
    return array;
}

json_t *control_keys_json(const struct key_snapshot *snapshot, int64_t now_s)
{
    int64_t refreshed_s = key_snapshot_refreshed_s(snapshot);
    json_t *refreshed = refreshed_s > 0 ? json_integer(refreshed_s) : json_null();

    return json_pack("{s:o,s:b,s:o,s:o}", "refreshed_s", refreshed, "usable",
                     key_snapshot_usable(snapshot, now_s), "keys", records_json(snapshot, now_s),
                     "distrusted_unknown", distrusted_unknown_json(snapshot));
}

static json_t *keys_now_json(struct control *control)
{
    struct key_snapshot *snapshot = key_cache_snapshot(control->settings.key_cache);
    json_t *keys = control_keys_json(snapshot, clock_wall_ms() / 1000);

    key_snapshot_unref(snapshot);
    return keys;
}

static void get_keys(struct control *control, struct http_request *request)
{
    answer_ok(control, request, keys_now_json(control));
}

/* ---- refresh ---- */

static void post_refresh(struct control *control, struct http_request *request)
{
    struct waiting *waiting = calloc(1, sizeof *waiting);
    struct refresher_state before;

    if (!waiting) {
        http_request_answer(request, control->out_of_memory);
        return;
    }
    refresher_state(control->settings.refresher, &before);
    waiting->request = request;
    waiting->attempts_before = before.attempts;
    waiting->deadline_ms = clock_monotonic_ms() + CONTROL_REFRESH_WAIT_MS;
    waiting->next = control->waiting;
    control->waiting = waiting;
    http_request_set_user(request, waiting);
    refresher_refresh_now(control->settings.refresher);
}

static void forget(struct control *control, struct waiting *waiting)
{
    for (struct waiting **link = &control->waiting; *link; link = &(*link)->next) {
        if (*link != waiting)
            continue;
        *link = waiting->next;
        free(waiting);
        return;
    }
}

static void answer_refreshed(struct control *control, struct http_request *request,
                             const struct refresher_state *state)
{
    if (state->last_result == FETCH_RESULT_OK)
        answer_ok(control, request,
                  json_pack("{s:s,s:o}", "result", fetch_result_label(state->last_result), "keys",
                            keys_now_json(control)));
    else
        answer_problem(control, request, &problem_refresh,
                       "%s: %s; the keys that were known go on serving",
                       fetch_result_label(state->last_result), state->last_why);
}

static void look_after_waiting(struct control *control, int64_t now_ms)
{
    struct refresher_state state;
    bool draining = health_draining(control->settings.health);

    if (!control->waiting)
        return;
    refresher_state(control->settings.refresher, &state);
    for (struct waiting *waiting = control->waiting, *next; waiting; waiting = next) {
        struct http_request *request = waiting->request;
        bool over = state.attempts != waiting->attempts_before;

        next = waiting->next;
        if (!over && !draining && now_ms < waiting->deadline_ms)
            continue;
        http_request_set_user(request, NULL);
        forget(control, waiting);
        if (over)
            answer_refreshed(control, request, &state);
        else if (draining)
            answer_problem(control, request, &problem_draining,
                           "the attempt ends with it; ask again once it is back");
        else
            answer_problem(control, request, &problem_refresh_late,
                           "no attempt ended within %d s; it goes on, look again later",
                           CONTROL_REFRESH_WAIT_MS / 1000);
    }
}

/* ---- distrust ---- */

static bool kid_distrusted(const struct key_snapshot *snapshot, const char *kid)
{
    for (size_t i = 0; i < key_snapshot_distrusted_count(snapshot); i++)
        if (strcmp(key_snapshot_distrusted_at(snapshot, i), kid) == 0)
            return true;
    return false;
}

json_t *control_distrusted_json(const struct key_snapshot *snapshot, const char *kid, int64_t now_s)
{
    return json_pack("{s:s,s:b,s:b}", "kid", kid, "known", kid_known(snapshot, kid), "keys_usable",
                     key_snapshot_usable(snapshot, now_s));
}

static void distrust(struct control *control, struct http_request *request, const char *kid)
{
    int error = key_cache_distrust(control->settings.key_cache, kid);

    if (error == -EINVAL) {
        answer_problem(control, request, &problem_request,
                       "a kid has 1 to %d printable ASCII characters", JWK_KID_MAX_BYTES);
        return;
    }
    struct key_snapshot *snapshot = key_cache_snapshot(control->settings.key_cache);
    bool distrusted = kid_distrusted(snapshot, kid);
    log_event(LOG_LEVEL_NOTICE, "key distrusted by hand", log_text("kid", kid),
              log_text("in_effect", distrusted ? "yes" : "no"),
              log_text("saved", error == 0 ? "yes" : strerror(-error)));
    if (error == 0)
        answer_ok(control, request, control_distrusted_json(snapshot, kid, clock_wall_ms() / 1000));
    else if (distrusted)
        answer_problem(control, request, &problem_save,
                       "the kid is distrusted from now on, but not after a restart: %s; mend that "
                       "and ask again",
                       strerror(-error));
    else if (error == -ENOSPC)
        answer_problem(control, request, &problem_full,
                       "%d kids are distrusted already, more are not remembered",
                       KEY_CACHE_DISTRUSTED_MAX);
    else
        http_request_answer(request, control->out_of_memory);
    key_snapshot_unref(snapshot);
}

static void post_distrust(struct control *control, struct http_request *request)
{
    size_t bytes = 0;
    const char *body = http_request_body(request, &bytes);
    json_t *document = body ? json_loadb(body, bytes, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const char *kid = NULL;

    if (document && json_unpack(document, "{s:s !}", "kid", &kid) == 0)
        distrust(control, request, kid);
    else
        answer_problem(control, request, &problem_request,
                       "the body must be {\"kid\": \"…\"} and nothing else");
    json_decref(document);
}

/* ---- state ---- */

static json_t *refresh_json(const struct refresher_state *state)
{
    bool failed = state->last_attempt_ms != 0 && state->last_result != FETCH_RESULT_OK;
    json_t *result = state->last_attempt_ms != 0
                         ? json_string(fetch_result_label(state->last_result))
                         : json_null();
    json_t *why = failed ? json_string(state->last_why) : json_null();

    /* A reason that is not UTF-8 is left out rather than the whole answer. */
    return json_pack("{s:o,s:o,s:I,s:I,s:I,s:I,s:b}", "result", result, "why",
                     why ? why : json_null(), "attempts", (json_int_t)state->attempts,
                     "demand_attempts", (json_int_t)state->demand_attempts, "last_attempt_s",
                     (json_int_t)(state->last_attempt_ms / 1000), "next_in_s",
                     (json_int_t)(state->next_scheduled_in_ms / 1000), "in_flight",
                     state->in_flight);
}

static void get_state(struct control *control, struct http_request *request)
{
    struct health_report report = {0};

    health_report(control->settings.health, &report);
    const struct writer_state *writer = &report.facts.pulse.writer;
    answer_ok(control, request,
              json_pack("{s:s,s:I,s:I,s:I,s:o,s:o,s:o,s:{s:I,s:I,s:I,s:I}}", "version",
                        control->version, "pid", (json_int_t)getpid(), "started_s",
                        (json_int_t)(control->started_ms / 1000), "uptime_s",
                        (json_int_t)((clock_monotonic_ms() - control->started_mono_ms) / 1000),
                        "health", health_json(&report), "keys", keys_now_json(control), "refresh",
                        refresh_json(&report.facts.refresher), "writer", "queued_events",
                        (json_int_t)writer->queued_events, "queue_events",
                        (json_int_t)writer->queue_events, "commits", (json_int_t)writer->commits,
                        "rows", (json_int_t)writer->rows));
}

/* ---- routes ---- */

static const struct route {
    const char *path;
    enum http_method method;
    bool changes; /* only root and the daemon's user */
    void (*answer)(struct control *control, struct http_request *request);
} routes[] = {
    {"/v1/keys", HTTP_METHOD_GET, false, get_keys},
    {"/v1/keys/refresh", HTTP_METHOD_POST, true, post_refresh},
    {"/v1/keys/distrust", HTTP_METHOD_POST, true, post_distrust},
    {"/v1/state", HTTP_METHOD_GET, false, get_state},
};

static const struct route *route_of(const struct http_request *request)
{
    const char *path = http_request_path(request);

    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (strcmp(routes[i].path, path) == 0)
            return &routes[i];
    return NULL;
}

/* Without credentials of the peer, nobody is permitted. */
static bool may_change(const struct http_request *request)
{
    uid_t uid;
    pid_t pid;

    return http_request_peer(request, &uid, &pid) && (uid == 0 || uid == geteuid());
}

static void answer_method(struct control *control, struct http_request *request,
                          const struct route *route)
{
    const char *method = route->method == HTTP_METHOD_GET ? "GET" : "POST";
    const char *const headers[] = {"Allow", method, NULL};
    char detail[64];

    (void)snprintf(detail, sizeof detail, "it has %s only", method);
    answer_json(control, request, problem_method.status, CONTROL_TYPE_PROBLEM, headers,
                problem_json(&problem_method, detail));
}

/* Who may not ask is turned away before a byte of the body is read. */
static void on_headers(void *context, struct http_request *request)
{
    struct control *control = context;
    const struct route *route = route_of(request);

    if (!route)
        answer_problem(control, request, &problem_not_found,
                       "the control socket knows what siwa-notifyd(8) lists, below /v1/");
    else if (http_request_method(request) != route->method)
        answer_method(control, request, route);
    else if (route->changes && !may_change(request))
        answer_problem(control, request, &problem_permission,
                       "ask again as root or as the user that the daemon runs as");
}

static void on_body(void *context, struct http_request *request)
{
    struct control *control = context;
    const struct route *route = route_of(request);

    if (route)
        route->answer(control, request);
}

static void on_over(void *context, struct http_request *request)
{
    struct control *control = context;

    if (http_request_user(request))
        forget(control, http_request_user(request));
}

static void on_wake(void *context)
{
    look_after_waiting(context, clock_monotonic_ms());
}

static void on_tick(void *context, int64_t now_ms)
{
    look_after_waiting(context, now_ms);
}

const struct http_service control_service = {
    .on_headers = on_headers,
    .on_body = on_body,
    .on_over = on_over,
    .on_wake = on_wake,
    .on_tick = on_tick,
};

/* ---- life ---- */

static int prepare_out_of_memory(struct control *control)
{
    json_t *value = problem_json(&problem_memory, "try again later");
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    int error = text ? http_reply_new(problem_memory.status, CONTROL_TYPE_PROBLEM, text,
                                      strlen(text), no_store, &control->out_of_memory)
                     : -ENOMEM;

    free(text);
    json_decref(value);
    return error;
}

int control_new(const struct control_settings *settings, struct control **ret_control)
{
    struct control *control = calloc(1, sizeof *control);

    if (!control)
        return -ENOMEM;
    control->settings = *settings;
    control->version = strdup(settings->version);
    control->started_ms = clock_wall_ms();
    control->started_mono_ms = clock_monotonic_ms();
    int error = control->version ? prepare_out_of_memory(control) : -ENOMEM;
    if (error < 0) {
        control_free(control);
        return error;
    }
    *ret_control = control;
    return 0;
}

void control_free(struct control *control)
{
    if (!control)
        return;
    while (control->waiting)
        forget(control, control->waiting);
    http_reply_free(control->out_of_memory);
    free(control->version);
    free(control);
}
