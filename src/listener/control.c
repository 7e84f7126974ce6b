#include "listener/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control_private.h"
#include "support/clock.h"
#include "verifier/json_text.h"

#define DETAIL_BYTES 512

/* ---- answers ---- */

const struct problem problem_request = {"bad-request", 400, "The request cannot be understood"};
const struct problem problem_draining = {"shutting-down", 503, "The daemon is shutting down"};
const struct problem problem_consumer = {"no-such-consumer", 404,
                                         "No consumer of this name is configured"};
const struct problem problem_pruned = {"rows-pruned", 410, "Rows above the cursor were removed"};
const struct problem problem_database = {"database-unavailable", 503,
                                         "The database cannot be read now"};
static const struct problem problem_not_found = {"not-found", 404, "There is no such resource"};
static const struct problem problem_method = {"method-not-allowed", 405,
                                              "The resource does not have this method"};
static const struct problem problem_permission = {
    "not-permitted", 403, "Only root and the user of the daemon may do this"};
static const struct problem problem_memory = {"out-of-memory", 503, "Memory is out"};

/* What the guard turns away before there is a path to ask, by its status. */
static const struct refusal {
    struct problem problem;
    const char *detail;
} refusals[CONTROL_REFUSALS] = {
    {{"bad-http", 400, "The request is no good HTTP"},
     "a GET has no body, a target begins with / and has at most 512 bytes; every header is as RFC "
     "9110 has it, and a body is not sent in chunks"},
    {{"length-required", 411, "A POST needs Content-Length"}, "0 where there is no body"},
    {{"body-too-large", 413, "The body is too large"}, "it may have 4096 bytes"},
    {{"expectation-failed", 417, "The expectation cannot be met"}, "only 100-continue can"},
};

_Static_assert(CONTROL_BODY_MAX_BYTES == 4096, "as is said above");

static const char *const no_store[] = {"Cache-Control", "no-store", NULL};
static const char *const ask_again[] = {"Cache-Control", "no-store", "Retry-After", "5", NULL};

/* What a problem of this status has besides its type. */
static const char *const *headers_of(unsigned status)
{
    return status == 503 ? ask_again : no_store;
}

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

void control_answer_ok(struct control *control, struct http_request *request, json_t *value)
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

void control_answer_problem(struct control *control, struct http_request *request,
                            const struct problem *problem, const char *format, ...)
{
    char detail[DETAIL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(detail, sizeof detail, format, arguments); /* cut at its end is fine */
    va_end(arguments);
    answer_json(control, request, problem->status, CONTROL_TYPE_PROBLEM,
                headers_of(problem->status), problem_json(problem, detail));
}

void control_answer_problem_with(struct control *control, struct http_request *request,
                                 const struct problem *problem, json_t *members, const char *format,
                                 ...)
{
    char detail[DETAIL_BYTES];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    json_t *value = problem_json(problem, detail);
    if (!members || !value || json_object_update(value, members) < 0) {
        json_decref(value);
        value = NULL;
    }
    json_decref(members);
    answer_json(control, request, problem->status, CONTROL_TYPE_PROBLEM,
                headers_of(problem->status), value);
}

void control_answer_no_memory(struct control *control, struct http_request *request)
{
    http_request_answer(request, control->out_of_memory);
}

static int unpack(json_t *document, const char *format, va_list arguments)
{
    json_error_t error;

    if (json_vunpack_ex(document, &error, 0, format, arguments) == 0)
        return 0;
    return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
}

int control_unpack_body(struct control *control, struct http_request *request,
                        json_t **ret_document, const char *format, ...)
{
    size_t bytes = 0;
    const char *body = http_request_body(request, &bytes);
    json_t *document = NULL;
    int error = body ? json_text_parse(body, bytes, &document) : -EINVAL;
    va_list arguments;

    va_start(arguments, format);
    if (error == 0)
        error = unpack(document, format, arguments);
    va_end(arguments);
    if (error == 0) {
        *ret_document = document;
        return 0;
    }
    json_decref(document);
    if (error == -ENOMEM)
        control_answer_no_memory(control, request);
    return error;
}

/* ---- requests that wait ---- */

void control_wait(struct control *control, struct control_waiting *waiting)
{
    waiting->next = control->waiting;
    control->waiting = waiting;
    http_request_set_user(waiting->request, waiting);
}

static void forget(struct control *control, struct control_waiting *waiting)
{
    for (struct control_waiting **link = &control->waiting; *link; link = &(*link)->next) {
        if (*link != waiting)
            continue;
        *link = waiting->next;
        waiting->forget(waiting);
        return;
    }
}

static void look_after_waiting(struct control *control, int64_t now_ms)
{
    bool draining = control->waiting && health_draining(control->settings.health);
    struct control_poll_pass pass;

    control_collect_changes(control);
    control_events_begin_pass(control, &pass);
    for (struct control_waiting *waiting = control->waiting, *next; waiting; waiting = next) {
        struct http_request *request = waiting->request;

        next = waiting->next;
        if (!waiting->look(control, waiting, now_ms, draining))
            continue;
        http_request_set_user(request, NULL);
        forget(control, waiting);
    }
    control_events_end_pass(control);
}

/* ---- routes ---- */

bool control_is_operator(const struct http_request *request)
{
    uid_t uid;
    pid_t pid;

    return http_request_peer(request, &uid, &pid) && (uid == 0 || uid == geteuid());
}

static bool by_operator(struct control *control, struct http_request *request)
{
    if (control_is_operator(request))
        return true;
    control_answer_problem(control, request, &problem_permission,
                           "ask again as root or as the user that the daemon runs as");
    return false;
}

static const struct route {
    const char *path; /* where `*` stands for one part of it */
    enum http_method method;
    /* Whether this peer may: answers where it may not. NULL: whoever may open the socket. */
    bool (*permits)(struct control *control, struct http_request *request);
    void (*answer)(struct control *control, struct http_request *request);
} routes[] = {
    {"/v1/keys", HTTP_METHOD_GET, NULL, control_get_keys},
    {"/v1/keys/refresh", HTTP_METHOD_POST, by_operator, control_post_refresh},
    {"/v1/keys/distrust", HTTP_METHOD_POST, by_operator, control_post_distrust},
    {"/v1/quarantine", HTTP_METHOD_GET, by_operator, control_get_quarantine},
    {"/v1/quarantine/*/release", HTTP_METHOD_POST, by_operator, control_post_release},
    {"/v1/quarantine/*/drop", HTTP_METHOD_POST, by_operator, control_post_drop},
    {"/v1/erase", HTTP_METHOD_POST, by_operator, control_post_erase},
    {"/v1/probe", HTTP_METHOD_POST, by_operator, control_post_probe},
    {"/v1/probe/*", HTTP_METHOD_GET, by_operator, control_get_probe},
    {"/v1/state", HTTP_METHOD_GET, NULL, control_get_state},
    {"/v1/events", HTTP_METHOD_GET, NULL, control_get_events},
    {"/v1/consumers", HTTP_METHOD_GET, NULL, control_get_consumers},
    {"/v1/consumers/*/ack", HTTP_METHOD_POST, control_by_consumer, control_post_ack},
    {"/v1/consumers/*/seek", HTTP_METHOD_POST, by_operator, control_post_seek},
};

static bool path_matches(const char *pattern, const char *path)
{
    while (*pattern && *pattern != '*' && *pattern == *path) {
        pattern++;
        path++;
    }
    if (*pattern != '*')
        return *pattern == *path;
    size_t part = strcspn(path, "/");
    return part > 0 && strcmp(pattern + 1, path + part) == 0;
}

static const struct route *route_of(const struct http_request *request)
{
    const char *path = http_request_path(request);

    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (path_matches(routes[i].path, path))
            return &routes[i];
    return NULL;
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
        control_answer_problem(control, request, &problem_not_found,
                               "siwa-notifyd-outbox(7) lists what there is below /v1/");
    else if (http_request_method(request) != route->method)
        answer_method(control, request, route);
    else if (route->permits)
        (void)route->permits(control, request); /* which has answered where it does not */
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

static const struct http_reply *refusal(void *context, unsigned status)
{
    const struct control *control = context;

    for (size_t i = 0; i < CONTROL_REFUSALS; i++)
        if (refusals[i].problem.status == status)
            return control->refusals[i];
    return NULL;
}

const struct http_service control_service = {
    .on_headers = on_headers,
    .on_body = on_body,
    .on_over = on_over,
    .on_wake = on_wake,
    .on_tick = on_tick,
    .refusal = refusal,
};

/* ---- life ---- */

static int prepare(const struct problem *problem, const char *detail, struct http_reply **ret_reply)
{
    json_t *value = problem_json(problem, detail);
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    int error = text ? http_reply_new(problem->status, CONTROL_TYPE_PROBLEM, text, strlen(text),
                                      headers_of(problem->status), ret_reply)
                     : -ENOMEM;

    free(text);
    json_decref(value);
    return error;
}

static int prepare_replies(struct control *control)
{
    int error = prepare(&problem_memory, "try again later", &control->out_of_memory);

    for (size_t i = 0; error == 0 && i < CONTROL_REFUSALS; i++)
        error = prepare(&refusals[i].problem, refusals[i].detail, &control->refusals[i]);
    return error;
}

int control_new(const struct control_settings *settings, struct control **ret_control)
{
    struct control *control = calloc(1, sizeof *control);

    if (!control)
        return -ENOMEM;
    (void)pthread_mutex_init(&control->lock, NULL); /* never fails with default attributes */
    control->settings = *settings;
    control->version = strdup(settings->version);
    control->started_ms = clock_wall_ms();
    control->started_mono_ms = clock_monotonic_ms();
    int error = control->version ? prepare_replies(control) : -ENOMEM;
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
    control_collect_changes(control);
    (void)pthread_mutex_destroy(&control->lock);
    http_reply_free(control->out_of_memory);
    for (size_t i = 0; i < CONTROL_REFUSALS; i++)
        http_reply_free(control->refusals[i]);
    free(control->version);
    free(control);
}
