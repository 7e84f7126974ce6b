/*
 * ingress: Apple's path, from a well-framed POST to the answer that the commit earned.
 *
 * Everything here runs on the thread of Apple's loop. It judges at once, hands what is to be stored
 * to the writer, and answers when the writer gives it back; nothing on this thread ever waits for
 * the disk or the network.
 */
#ifndef SIWA_LISTENER_INGRESS_H
#define SIWA_LISTENER_INGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "dispatcher/policy.h"
#include "dispatcher/writer.h"
#include "keys/key_cache.h"
#include "keys/refresher.h"
#include "listener/http.h"
#include "listener/probe.h"
#include "support/config.h"
#include "support/metrics.h"

#define INGRESS_HELD_MAX 64   /* requests that wait for keys */
#define INGRESS_HELD_MS  5000 /* how long they wait at the most */
#define INGRESS_DEFERRING_MAX \
    64 /* on their way to be deferred at once: a flood of them must not fill the queue */
#define INGRESS_COMMIT_MS \
    3000 /* a commit that takes longer is answered 503; the event may still land */
#define INGRESS_SPARE_SILENT_MS \
    100 /* at the limit of connections, a silent one younger than this makes no room for others */
#define INGRESS_SPARE_BUSY_MS \
    250 /* nor one in the middle of a request: a crowd that comes back stays so long each time */
#define INGRESS_AUDIENCES_MAX \
    32 /* names of audiences that are not configured; the rest is "other" */

struct ingress;

/* What Apple's path works with; everything is borrowed and outlives the ingress. */
struct ingress_settings {
    const struct config *config;
    struct key_cache *keys;
    struct refresher *refresher;
    struct writer *writer;
    struct metrics *metrics;
    struct probe *probe; /* NULL: no test notification is taken */
};

/* Makes an ingress; 0 or -errno. Registers siwa_notifications_total, siwa_events_total,
 * siwa_last_accepted_timestamp_seconds, siwa_deferred_total, siwa_http_refused_total and
 * siwa_probes_total, with a series for every configured app. Main thread, before the loop starts.
 */
int ingress_new(const struct ingress_settings *settings, struct ingress **ret_ingress);

/* Releases an ingress whose loop is gone; NULL is allowed. Deliveries that the writer still holds
 * stay the writer's. */
void ingress_free(struct ingress *ingress);

/* Takes over a configuration that was read anew: apps, issuers, late, leeway and the limits of
 * requests count for every request that is judged from the next turn of the loop on. Requests under
 * way go on. path, limits.connections and what lies outside Apple's path stay as they were. server
 * is the one that serves this ingress. 0, and the ingress owns config; -ENOMEM, and nothing
 * changed. Any thread. */
int ingress_reconfigure(struct ingress *ingress, struct config *config, struct http_server *server);

/* The policy in force, a new reference. Any thread. */
struct policy *ingress_policy(struct ingress *ingress);

/* Counts the rows of a delivery that became events outside of Apple's path. Any thread. */
void ingress_count_stored(struct ingress *ingress, const struct delivery *delivery);

/* The limits of Apple's listener in a configuration. */
struct http_limits ingress_limits(const struct config *config);

/* The service to be given to http_loop_serve, with the ingress as its context. */
const struct http_service *ingress_service(void);

/* Tells when an app's last notification was accepted in an earlier run, in milliseconds since 1970.
 * A client_id that is not configured is passed over. Main thread, before the loop starts. */
void ingress_restore_last_accepted(struct ingress *ingress, const char *client_id, int64_t last_ms);

/* Everything from now on is answered `draining`, 503. Any thread. */
void ingress_refuse_new(struct ingress *ingress);

#endif
