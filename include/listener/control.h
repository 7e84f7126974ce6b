/*
 * control: what the commands and consumers ask of the running daemon, over a unix socket.
 *
 * HTTP with JSON below /v1/; an error is application/problem+json (RFC 7807). Who may open the
 * socket may read; who changes something must be root or the daemon's user (SO_PEERCRED).
 *
 *   GET  /v1/keys            the keys as control_keys_json gives them
 *   POST /v1/keys/refresh    fetches the key set now; answers when the attempt is over
 *   POST /v1/keys/distrust   {"kid": "…"}: never trusted again, at once and after restarts
 *   GET  /v1/state           version, pid, uptime, readiness, keys, refresh, queue, writer
 */
#ifndef SIWA_LISTENER_CONTROL_H
#define SIWA_LISTENER_CONTROL_H

#include <stdint.h>

#include "keys/key_cache.h"
#include "keys/refresher.h"
#include "listener/health.h"
#include "listener/http.h"

#define CONTROL_BODY_MAX_BYTES  4096 /* http_limits.body_bytes of its server */
#define CONTROL_CONNECTIONS     128
#define CONTROL_REFRESH_WAIT_MS 15000 /* an attempt in flight, and one more, with room to spare */

#define CONTROL_TYPE_JSON    "application/json"
#define CONTROL_TYPE_PROBLEM "application/problem+json"

struct control;

struct control_settings {
    struct health *health; /* these three borrowed */
    struct key_cache *key_cache;
    struct refresher *refresher;
    const char *version; /* copied */
};

/* 0 or -errno. Main thread. */
int control_new(const struct control_settings *settings, struct control **ret_control);

/* After the loop that serves it. NULL is allowed. */
void control_free(struct control *control);

/* The service for http_loop_serve, with pending_by_suspend, whose context is the control. */
extern const struct http_service control_service;

/* Waiting requests are looked at in on_tick, four times a second; http_loop_wake on the loop when a
 * refresh attempt is over makes it sooner. */

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
