/*
 * monitor: health and metrics for machines; nothing personal, no permission needed.
 *
 *   GET /          the status page, HTML for people; with ?refresh=off it does not ask again
 *   GET /healthz   "ok", or 503 "stuck" when a thread makes no progress
 *   GET /readyz    JSON, 200 when ready, 503 when not, with every check and its reason
 *   GET /metrics   Prometheus text (format 0.0.4), its gauges taken at this moment
 */
#ifndef SIWA_LISTENER_MONITOR_H
#define SIWA_LISTENER_MONITOR_H

#include "listener/consumer_metrics.h"
#include "listener/health.h"
#include "listener/http.h"
#include "support/metrics.h"

#define MONITOR_BODY_MAX_BYTES 1 /* nobody may send one: http_limits.body_bytes of its server */
#define MONITOR_CONNECTIONS    64

struct monitor;

struct monitor_settings {
    struct health *health;              /* borrowed */
    struct metrics *metrics;            /* borrowed */
    const char *version;                /* for siwa_build_info; copied */
    struct key_cache *key_cache;        /* borrowed */
    struct consumer_metrics *consumers; /* borrowed; NULL: none */
    struct ingress *ingress;            /* knows the apps; borrowed; NULL: all that were heard of */
    struct consumers *positions;        /* for the status page; borrowed; NULL: none */
    const char *database;               /* its path, for the counts of the last days; borrowed */
};

/* Registers the gauges and prepares fixed answers. 0 or -errno. Main thread. */
int monitor_new(const struct monitor_settings *settings, struct monitor **ret_monitor);

/* After the loop that serves it. NULL is allowed. */
void monitor_free(struct monitor *monitor);

/* The service for http_loop_serve, whose context is the monitor. Its on_tick also watches the
 * clock (health_tick). */
extern const struct http_service monitor_service;

/* Shows the connections of a server as siwa_connections{listener="name"}, and those that had to go
 * as siwa_connections_evicted_total. Before http_loop_start;
 * the server must live as long as requests are answered. 0 or -errno. */
int monitor_watch(struct monitor *monitor, const char *name, const struct http_server *server);

#endif
