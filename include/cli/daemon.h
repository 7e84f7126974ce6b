/*
 * daemon: asking the running daemon over its control socket.
 */
#ifndef SIWA_CLI_DAEMON_H
#define SIWA_CLI_DAEMON_H

#include <jansson.h>
#include <signal.h>

#include "cli/call.h"
#include "support/config.h"

#define DAEMON_CALL_MS 30000
#define DAEMON_REPLY_MAX_BYTES \
    (16 * 1024 * 1024) /* the largest is a page of events with bodies \
                        */
#define DAEMON_WHY_BYTES 512

/* What to ask. All borrowed for the call. */
struct daemon_request {
    const struct config *config;
    const char *path;   /* "/v1/…", with its query */
    const json_t *body; /* a POST of this JSON; NULL for a GET */
    unsigned timeout_ms;
    const volatile sig_atomic_t *stop; /* ends the call within a second once it is not 0; or NULL */
};

/* Asks once. 0 with the JSON of a 200 in ret_answer, a new reference. -EREMOTEIO: the daemon
 * refused, with its status in ret_status (else 0) and its reason in ret_why. -ENOENT: no daemon
 * listens there. -EDESTADDRREQ: the configuration has no control socket, and who runs cannot be
 * asked. -ECANCELED: stop was set. Other -errno as call_send. Always one sentence in
 * ret_why. */
int daemon_ask(const struct daemon_request *request, json_t **ret_answer, unsigned *ret_status,
               char ret_why[DAEMON_WHY_BYTES]);

#endif
