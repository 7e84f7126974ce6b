/*
 * control: what the commands and consumers ask of the running daemon, over a unix socket.
 *
 * HTTP with JSON below /v1/; an error is application/problem+json (RFC 7807). Who may open the
 * socket may read; who changes something must be root or the daemon's user (SO_PEERCRED), or, to
 * acknowledge, the user of that consumer.
 *
 *   GET  /v1/events          the rows after a cursor; waits for the next one if told to
 *   GET  /v1/consumers       how far each consumer is
 *   POST /v1/consumers/NAME/ack    {"through": ID}
 *   POST /v1/consumers/NAME/seek   {"to": ID}: by root and the daemon's user only
 *   GET  /v1/keys            the keys as control_keys_json gives them
 *   POST /v1/keys/refresh    fetches the key set now; answers when the attempt is over
 *   POST /v1/keys/distrust   {"kid": "…"}: never trusted again, at once and after restarts
 *   GET  /v1/quarantine      what was stored apart: {"quarantine": [{"id", "reason", "client_id",
 *                            "received_at_ms", "bytes"}], "most_rows"}
 *   POST /v1/quarantine/ID/release   verified again, it becomes events like any other
 *   POST /v1/quarantine/ID/drop      it is removed
 *   POST /v1/erase           {"team" or "client_id": "…", "sub": "…", "wait_s": 30}: erases them;
 *                            {"rows", "raw", "deferred", "quarantined", "state"}
 *   POST /v1/probe           {"keys": [JWK]}: arms this key for one test notification (probe.h);
 *                            {"kid", "issuer", "client_id", "armed_ms"}
 *   GET  /v1/probe/JTI       {"stored", "received_at_ms", "armed"}: whether that test notification
 *                            was committed, and whether a key is armed still
 *   GET  /v1/state           version, pid, uptime, readiness, keys, refresh, queue, writer
 */
#ifndef SIWA_LISTENER_CONTROL_H
#define SIWA_LISTENER_CONTROL_H

#include <stdint.h>

#include "dispatcher/consumers.h"
#include "dispatcher/sweeper.h"
#include "keys/key_cache.h"
#include "keys/refresher.h"
#include "listener/health.h"
#include "listener/http.h"
#include "listener/ingress.h"

#define CONTROL_BODY_MAX_BYTES  4096 /* http_limits.body_bytes of its server */
#define CONTROL_CONNECTIONS     128
#define CONTROL_POLLS_MAX       112   /* that wait for rows; the others are for who does not wait */
#define CONTROL_REFRESH_WAIT_MS 15000 /* an attempt in flight, and one more, with room to spare */

/* Of GET /v1/events. An answer ends early, with at least one row, where it grows beyond so many
 * bytes. */
#define CONTROL_EVENTS_LIMIT     100 /* where the request names none */
#define CONTROL_EVENTS_LIMIT_MAX 1000
#define CONTROL_EVENTS_WAIT_S    60 /* the longest */
#define CONTROL_EVENTS_BYTES     (1024 * 1024)

/* How long a request to erase waits for the text to leave the write-ahead log. */
#define CONTROL_ERASE_WAIT_S     30
#define CONTROL_ERASE_WAIT_MAX_S 100

#define CONTROL_TYPE_JSON    "application/json"
#define CONTROL_TYPE_PROBLEM "application/problem+json"

struct control;

struct control_settings {
    struct health *health; /* all but the last borrowed */
    struct key_cache *key_cache;
    struct refresher *refresher;
    struct consumers *consumers;
    struct ingress *ingress; /* whose policy a release goes by; NULL: there are none */
    struct sweeper *sweeper; /* NULL: nothing can be erased */
    struct probe *probe;     /* NULL: nothing can be armed */
    struct writer *writer;
    struct outbox_reader *reader; /* of the loop's thread while the loop runs */
    struct http_loop *loop;       /* that serves it; may be NULL until the first request */
    const char *version;          /* copied */
};

/* 0 or -errno. Main thread. */
int control_new(const struct control_settings *settings, struct control **ret_control);

/* After the loop that serves it, and after the writer has stopped. NULL is allowed. */
void control_free(struct control *control);

/* The service for http_loop_serve, with pending_by_suspend, whose context is the control. */
extern const struct http_service control_service;

/* Something was committed: whoever waits for rows is looked at soon. Costs next to nothing while
 * nobody waits. Any thread. */
void control_committed(struct control *control);

/* Waiting requests are looked at in on_tick, four times a second; http_loop_wake on the loop when a
 * refresh attempt is over makes it sooner. */

/* How far the consumers are at now_ms: {"consumers": [{"name", "configured", "position",
 * "lag_rows", "lag_s", "added_ms", "acknowledged_ms"}], "last_id", "pruned_through"}; see
 * consumers_list. 0 with a new reference, or -errno. The reader's thread. */
int control_consumers_json(struct consumers *consumers, struct outbox_reader *reader,
                           int64_t now_ms, struct json_t **ret_json);

/* How a key of the snapshot stands at now_s: "current", "grace" (left the published set, but is
 * still trusted), "old" (verifies for quarantine only), "distrusted". Static string. Any thread. */
const char *control_key_state(const struct key_snapshot *snapshot, const struct key_record *record,
                              int64_t now_s);

/* The keys at now_s: {"refreshed_s", "usable", "keys": [{"kid", "state", "first_seen_s",
 * "last_seen_s"}], "distrusted_unknown": [kid]}. A new reference, NULL when memory is out. Any
 * thread. */
struct json_t *control_keys_json(const struct key_snapshot *snapshot, int64_t now_s);

/* What follows from a kid having been distrusted: {"kid", "known": whether it was ever seen,
 * "keys_usable": whether anything can still be verified}. A new reference, NULL when memory is out.
 * Any thread. */
struct json_t *control_distrusted_json(const struct key_snapshot *snapshot, const char *kid,
                                       int64_t now_s);

#endif
