/*
 * ingress_deferral: when what was kept is looked at again, and what is told of it.
 *
 * Everything here runs on the thread of Apple's loop, but for what the writer calls back.
 */
#ifndef SIWA_LISTENER_INGRESS_DEFERRAL_H
#define SIWA_LISTENER_INGRESS_DEFERRAL_H

#include <stdint.h>

#include "listener/ingress.h"

struct ingress_deferral;

/* Registers siwa_deferred_total. 0 or -errno. events and last_accepted are the families of ingress:
 * what is delivered late counts there too. */
int ingress_deferral_new(const struct ingress_settings *settings, struct metrics_family *events,
                         struct metrics_family *last_accepted,
                         struct ingress_deferral **ret_deferral);
void ingress_deferral_free(struct ingress_deferral *deferral); /* takes NULL */

/* Begins a round under this policy where one is due: keys have changed since the last, or it did
 * not come to its end. Call it at least four times a second. */
void ingress_deferral_turn(struct ingress_deferral *deferral, struct policy *policy);

/* A delivery that was to be kept came back: counts it, and has it looked at where keys have arrived
 * meanwhile. */
void ingress_deferral_came_back(struct ingress_deferral *deferral, const struct delivery *delivery);

/* Counts the rows of a delivery that did not come by Apple's path. Any thread. */
void ingress_deferral_count(struct ingress_deferral *deferral, const struct delivery *delivery);

#endif
