#include "listener/monitor.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dispatcher/history_summary.h"
#include "dispatcher/policy.h"
#include "listener/ingress.h"
#include "listener/status_page.h"
#include "support/clock.h"

#define WATCHED_MAX      4
#define METRICS_TYPE     "text/plain; version=0.0.4; charset=utf-8"
#define TEXT_TYPE        "text/plain; charset=utf-8"
#define HTML_TYPE        "text/html; charset=utf-8"
#define JSON_TYPE        "application/json"
#define ONE_LABEL(label) ((const char *const[]){(label), NULL})

/* What is true only at the moment of a scrape and belongs to no other room. */
enum gauge {
    GAUGE_READY,
    GAUGE_DATABASE_MAIN,
    GAUGE_DATABASE_WAL,
    GAUGE_DISK_FREE,
    GAUGE_RESIDENT,
    GAUGE_OPEN_FDS,
    GAUGE_COUNT
};

struct watched {
    const struct http_server *server;
    struct metrics_series *connections, *evicted;
};

struct monitor {
    struct health *health;
    struct metrics *metrics;
    struct metrics_series *gauges[GAUGE_COUNT];
    struct metrics_family *connections, *evicted;
    struct watched watched[WATCHED_MAX];
    size_t watched_count;
    struct key_cache *key_cache;
    struct consumer_metrics *consumers;
    struct ingress *ingress;
    struct consumers *positions;
    const char *database;
    struct outbox_reader *reader; /* opened when somebody looks at the status page */
    char *version, *policy;
    int64_t started_s;
    struct http_reply *alive, *stuck, *not_found, *not_allowed, *out_of_memory;
};

/* A monitor is asked for what is true now. */
static const char *const no_store[] = {"Cache-Control", "no-store", NULL};
static const char *const allow_get[] = {"Allow", "GET, HEAD", NULL};

/* ---- gauges ---- */

static struct metrics_series *one_series(struct metrics *metrics, const char *name,
                                         const char *help, const char *label, const char *value)
{
    struct metrics_family *family = metrics_register(metrics, METRICS_GAUGE, name, help,
                                                     label ? ONE_LABEL(label) : NULL, NULL, 0);
    return family ? metrics_with(family, label ? ONE_LABEL(value) : NULL) : NULL;
}

static int register_gauges(struct monitor *monitor, const char *version)
{
    static const struct {
        enum gauge gauge;
        const char *name, *help, *label, *value;
    } table[] = {
        {GAUGE_READY, "siwa_ready", "Whether a notification that arrives now can be stored.", NULL,
         NULL},
        {GAUGE_DATABASE_MAIN, "siwa_database_bytes", "Size of the database by file.", "file",
         "main"},
        {GAUGE_DATABASE_WAL, "siwa_database_bytes", "Size of the database by file.", "file", "wal"},
        {GAUGE_DISK_FREE, "siwa_disk_free_bytes", "Free space beside the database.", NULL, NULL},
        {GAUGE_RESIDENT, "process_resident_memory_bytes", "Resident memory.", NULL, NULL},
        {GAUGE_OPEN_FDS, "process_open_fds", "Open file descriptors.", NULL, NULL},
    };
    struct metrics *metrics = monitor->metrics;

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct metrics_series *series =
            one_series(metrics, table[i].name, table[i].help, table[i].label, table[i].value);
        if (!series)
            return -ENOMEM;
        monitor->gauges[table[i].gauge] = series;
    }

    struct metrics_series *build = one_series(
        metrics, "siwa_build_info", "Always 1; the version is a label.", "version", version);
    struct metrics_series *start = one_series(metrics, "siwa_start_time_seconds",
                                              "When the daemon started, since 1970.", NULL, NULL);
    monitor->connections =
        metrics_register(metrics, METRICS_GAUGE, "siwa_connections",
                         "Open connections by listener.", ONE_LABEL("listener"), NULL, 0);
    monitor->evicted = metrics_register(metrics, METRICS_COUNTER, "siwa_connections_evicted_total",
                                        "Connections closed to make room for others, by listener.",
                                        ONE_LABEL("listener"), NULL, 0);
    if (!build || !start || !monitor->connections || !monitor->evicted)
        return -ENOMEM;
    metrics_set(build, 1);
    metrics_set(start, (double)clock_wall_ms() / 1000);
    return 0;
}

/* Where /proc is not to be had, the value stays 0. */
static double resident_bytes(void)
{
    unsigned long long size, resident;
    FILE *file = fopen("/proc/self/statm", "re");

    if (!file)
        return 0;
    int fields = fscanf(file, "%llu %llu", &size, &resident);
    (void)fclose(file); /* read only */
    return fields == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : 0;
}

static double open_fds(void)
{
    size_t entries = 0;
    DIR *directory = opendir("/proc/self/fd");

    if (!directory)
        return 0;
    for (const struct dirent *entry = readdir(directory); entry; entry = readdir(directory))
        if (entry->d_name[0] != '.')
            entries++;
    (void)closedir(directory);
    return entries > 0 ? (double)(entries - 1) : 0; /* without the one that looks */
}

static void take_gauges(struct monitor *monitor, const struct health_report *report)
{
    const struct health_facts *facts = &report->facts;
    const double values[GAUGE_COUNT] = {
        [GAUGE_READY] = report->ready ? 1 : 0,
        [GAUGE_DATABASE_MAIN] = (double)facts->database_bytes,
        [GAUGE_DATABASE_WAL] = (double)facts->wal_bytes,
        [GAUGE_DISK_FREE] = (double)facts->disk_free_bytes,
        [GAUGE_RESIDENT] = resident_bytes(),
        [GAUGE_OPEN_FDS] = open_fds(),
    };

    for (size_t i = 0; i < GAUGE_COUNT; i++)
        metrics_set(monitor->gauges[i], values[i]);
    for (size_t i = 0; i < monitor->watched_count; i++) {
        const struct watched *watched = &monitor->watched[i];

        metrics_set(watched->connections, http_server_connections(watched->server));
        metrics_set(watched->evicted, (double)http_server_evicted(watched->server));
    }
}

/* ---- answers ---- */

static void answer_new(struct monitor *monitor, struct http_request *request, unsigned status,
                       const char *type, const char *body, size_t body_bytes)
{
    struct http_reply *reply = NULL;

    if (http_reply_new(status, type, body, body_bytes, no_store, &reply) < 0) {
        http_request_answer(request, monitor->out_of_memory);
        return;
    }
    http_request_answer(request, reply);
    http_reply_free(reply);
}

static void answer_healthz(struct monitor *monitor, struct http_request *request)
{
    char why[HEALTH_WHY_BYTES]; /* told by /readyz and the log; this answer stays one word */

    http_request_answer(request,
                        health_alive(monitor->health, why) ? monitor->alive : monitor->stuck);
}

static void answer_readyz(struct monitor *monitor, struct http_request *request)
{
    struct health_report report = {0};

    health_report(monitor->health, &report);
    json_t *object = health_json(&report);
    char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    if (text)
        answer_new(monitor, request, report.ready ? 200 : 503, JSON_TYPE, text, strlen(text));
    else
        http_request_answer(request, monitor->out_of_memory);
    free(text);
    json_decref(object);
}

static void answer_metrics(struct monitor *monitor, struct http_request *request)
{
    struct health_report report = {0};
    char *text = NULL;
    size_t bytes = 0;

    health_report(monitor->health, &report);
    health_update_metrics(monitor->health);
    if (monitor->consumers)
        consumer_metrics_update(monitor->consumers, clock_wall_ms());
    take_gauges(monitor, &report);
    if (metrics_render(monitor->metrics, &text, &bytes) == 0)
        answer_new(monitor, request, 200, METRICS_TYPE, text, bytes);
    else
        http_request_answer(request, monitor->out_of_memory);
    free(text);
}

/* ---- the status page ---- */

#define STATUS_APPS_MAX   1024
#define STRINGIZE_(value) #value
#define STRINGIZE(value)  STRINGIZE_(value)

struct app_list {
    struct status_app apps[STATUS_APPS_MAX];
    size_t count;
    struct policy *policy; /* NULL: all of them */
};

struct consumer_list {
    struct consumer_state list[CONFIG_CONSUMERS_MAX];
    char names[CONFIG_CONSUMERS_MAX][CONSUMER_NAME_BYTES];
    size_t count;
};

static void list_app(void *context, const struct metrics_series *series,
                     const char *const *label_values)
{
    struct app_list *list = context;

    /* a metric stays when its app has left the configuration */
    if (list->policy && !policy_find(list->policy, label_values[0]))
        return;
    if (list->count < STATUS_APPS_MAX)
        list->apps[list->count++] = (struct status_app){
            .client_id = label_values[0], .last_accepted_s = (int64_t)metrics_value(series)};
}

/* Whether the summary could be made. A database that was damaged or replaced is closed again. */
static bool read_history(struct monitor *monitor, int64_t now_ms,
                         struct history_summary *ret_summary)
{
    char why[OUTBOX_WHY_BYTES]; /* told by /readyz and the log */

    if (!monitor->reader && outbox_reader_open(monitor->database, &monitor->reader, why) < 0)
        return false;
    if (history_summarise(monitor->reader, now_ms, ret_summary) == 0)
        return true;
    outbox_reader_close(monitor->reader);
    monitor->reader = NULL;
    return false;
}

static void answer_html(struct monitor *monitor, struct http_request *request, const char *html,
                        size_t bytes, bool refreshing)
{
    const char *const headers[] = {"Content-Security-Policy",
                                   monitor->policy,
                                   "Cache-Control",
                                   "no-store",
                                   "X-Content-Type-Options",
                                   "nosniff",
                                   "Referrer-Policy",
                                   "no-referrer",
                                   refreshing ? "Refresh" : NULL,
                                   STRINGIZE(STATUS_PAGE_REFRESH_S), NULL};
    struct http_reply *reply = NULL;

    if (http_reply_new(200, HTML_TYPE, html, bytes, headers, &reply) < 0) {
        http_request_answer(request, monitor->out_of_memory);
        return;
    }
    http_request_answer(request, reply);
    http_reply_free(reply);
}

static void list_consumer(void *context, const struct consumer_state *state)
{
    struct consumer_list *list = context;

    if (!state->configured || list->count == CONFIG_CONSUMERS_MAX)
        return;
    list->list[list->count] = *state;
    (void)snprintf(list->names[list->count], sizeof list->names[0], "%s", state->name);
    list->list[list->count].name = list->names[list->count];
    list->count++;
}

static void answer_status(struct monitor *monitor, struct http_request *request)
{
    int64_t now_ms = clock_wall_ms();
    const char *refresh = http_request_query(request, "refresh");
    struct metrics_series *commits =
        metrics_with(metrics_find(monitor->metrics, "siwa_commit_seconds"), NULL);
    struct health_report report = {0};
    struct history_summary history = {0};
    struct consumer_list consumers = {.count = 0};
    struct app_list *list = calloc(1, sizeof *list);
    char *html = NULL;
    size_t bytes = 0;

    if (!list) {
        http_request_answer(request, monitor->out_of_memory);
        return;
    }
    health_report(monitor->health, &report);
    list->policy = monitor->ingress ? ingress_policy(monitor->ingress) : NULL;
    metrics_each(metrics_find(monitor->metrics, "siwa_last_accepted_timestamp_seconds"), list_app,
                 list);
    policy_unref(list->policy);
    bool readable = read_history(monitor, now_ms, &history);
    if (readable && monitor->positions)
        (void)consumers_list(monitor->positions, monitor->reader, now_ms, list_consumer,
                             &consumers); /* what cannot be read is not shown */
    struct key_snapshot *keys = key_cache_snapshot(monitor->key_cache);
    const struct status status = {
        .version = monitor->version,
        .now_s = now_ms / 1000,
        .started_s = monitor->started_s,
        .report = &report,
        .keys = keys,
        .apps = list->apps,
        .app_count = list->count,
        .history = readable ? &history : NULL,
        .consumers = consumers.list,
        .consumer_count = consumers.count,
        .commit_p50_s = metrics_quantile(commits, 0.5),
        .commit_p99_s = metrics_quantile(commits, 0.99),
        .refreshing = !refresh || strcmp(refresh, "off") != 0,
    };
    if (status_page_render(&status, &html, &bytes) == 0)
        answer_html(monitor, request, html, bytes, status.refreshing);
    else
        http_request_answer(request, monitor->out_of_memory);
    free(html);
    key_snapshot_unref(keys);
    history_summary_release(&history);
    free(list);
}

static const struct page {
    const char *path;
    void (*answer)(struct monitor *monitor, struct http_request *request);
} pages[] = {
    {"/", answer_status},
    {"/healthz", answer_healthz},
    {"/readyz", answer_readyz},
    {"/metrics", answer_metrics},
};

static void on_headers(void *context, struct http_request *request)
{
    struct monitor *monitor = context;

    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        if (strcmp(http_request_path(request), pages[i].path) != 0)
            continue;
        if (!(http_request_method(request) & (HTTP_METHOD_GET | HTTP_METHOD_HEAD)))
            http_request_answer(request, monitor->not_allowed);
        else
            pages[i].answer(monitor, request);
        return;
    }
    http_request_answer(request, monitor->not_found);
}

/* Every request is answered in on_headers, so these have nothing to do. */
static void on_body(void *context, struct http_request *request)
{
    (void)context;
    (void)request;
}

static void on_over(void *context, struct http_request *request)
{
    (void)context;
    (void)request;
}

static void on_tick(void *context, int64_t now_ms)
{
    struct monitor *monitor = context;

    (void)now_ms;
    health_tick(monitor->health);
}

const struct http_service monitor_service = {
    .on_headers = on_headers,
    .on_body = on_body,
    .on_over = on_over,
    .on_tick = on_tick,
};

/* ---- life ---- */

static int text_reply(unsigned status, const char *text, const char *const *headers,
                      struct http_reply **ret_reply)
{
    return http_reply_new(status, TEXT_TYPE, text, strlen(text), headers, ret_reply);
}

static int prepare_replies(struct monitor *monitor)
{
    int error = text_reply(200, "ok\n", no_store, &monitor->alive);

    if (error == 0)
        error = text_reply(503, "stuck\n", no_store, &monitor->stuck);
    if (error == 0)
        error = text_reply(404, "not found\n", NULL, &monitor->not_found);
    if (error == 0)
        error = text_reply(405, "method not allowed\n", allow_get, &monitor->not_allowed);
    if (error == 0)
        error = text_reply(503, "out of memory\n", no_store, &monitor->out_of_memory);
    return error;
}

int monitor_new(const struct monitor_settings *settings, struct monitor **ret_monitor)
{
    struct monitor *monitor = calloc(1, sizeof *monitor);

    if (!monitor)
        return -ENOMEM;
    monitor->health = settings->health;
    monitor->metrics = settings->metrics;
    monitor->key_cache = settings->key_cache;
    monitor->consumers = settings->consumers;
    monitor->ingress = settings->ingress;
    monitor->positions = settings->positions;
    monitor->database = settings->database;
    monitor->started_s = clock_wall_ms() / 1000;
    monitor->version = strdup(settings->version);
    monitor->policy = status_page_policy();
    int error =
        monitor->version && monitor->policy ? register_gauges(monitor, settings->version) : -ENOMEM;
    if (error == 0)
        error = prepare_replies(monitor);
    if (error < 0) {
        monitor_free(monitor);
        return error;
    }
    *ret_monitor = monitor;
    return 0;
}

void monitor_free(struct monitor *monitor)
{
    if (!monitor)
        return;
    http_reply_free(monitor->alive);
    http_reply_free(monitor->stuck);
    http_reply_free(monitor->not_found);
    http_reply_free(monitor->not_allowed);
    http_reply_free(monitor->out_of_memory);
    outbox_reader_close(monitor->reader);
    free(monitor->version);
    free(monitor->policy);
    free(monitor);
}

int monitor_watch(struct monitor *monitor, const char *name, const struct http_server *server)
{
    if (monitor->watched_count == WATCHED_MAX)
        return -ENOSPC;
    struct metrics_series *series = metrics_with(monitor->connections, ONE_LABEL(name));
    struct metrics_series *evicted = metrics_with(monitor->evicted, ONE_LABEL(name));
    if (!series || !evicted)
        return -ENOMEM;
    monitor->watched[monitor->watched_count++] =
        (struct watched){.server = server, .connections = series, .evicted = evicted};
    return 0;
}
