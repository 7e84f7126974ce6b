/*
 * consume: the events of a named consumer over the control socket, shown, or given to a command one
 * by one and acknowledged.
 */
#ifndef SIWA_CLI_CONSUME_H
#define SIWA_CLI_CONSUME_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "support/config.h"

struct consume {
    const struct config *config;
    const char *consumer;
    const char *command;               /* for `sh -c`, an event on its standard input; NULL: show */
    bool raw;                          /* the body as Apple sent it, once for all events in it */
    bool follow;                       /* go on with what is committed */
    int64_t left;                      /* how many are still wanted; negative: all */
    const volatile sig_atomic_t *stop; /* end soon once it is not 0 */

    /* Shows an event (with raw: the body of its notification). 0 or -errno of writing. */
    int (*show)(void *context, const json_t *event);
    void *context;
};

/* Whether a name is one that a consumer can have, and can stand in a path as it is; explains on
 * standard error where it is not. */
bool consume_name_good(const char *command, const char *name);

/* Goes on until there is nothing more, or with follow until stop. With a command: what exits 0 is
 * acknowledged; else it is run again for the same event, after 1 s, 2 s, … 5 minutes. An event is
 * given at least once, in order, and never passed over in silence. 0; -EREMOTEIO where it cannot go
 * on, which was explained on standard error; -errno of show. */
int consume_run(struct consume *consume);

#endif
