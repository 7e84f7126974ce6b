/*
 * probe: the one key that the operator may arm for one test notification.
 *
 * `doctor` makes a key, arms it over the control socket, signs a test notification with it and
 * sends that to the public address. The key is good for CONFIG_PROBE_ISSUER and
 * CONFIG_PROBE_CLIENT_ID alone, for one notification, for PROBE_ARMED_MS; the verifier sees to the
 * first, this to the rest.
 */
#ifndef SIWA_LISTENER_PROBE_H
#define SIWA_LISTENER_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "support/config.h"
#include "verifier/jwks.h"

#define PROBE_ARMED_MS 60000

struct probe;

/* With no key armed. 0 or -ENOMEM. */
int probe_new(struct probe **ret_probe);
void probe_free(struct probe *probe); /* takes NULL */

/* Arms a key, of which it takes a reference, until now_ms (monotonic) + PROBE_ARMED_MS; a key that
 * was armed before is not any more. -EINVAL for a kid that does not begin with CONFIG_PROBE_KID and
 * go on: no kid of Apple's may be taken for it. Any thread. */
int probe_arm(struct probe *probe, struct jwk *key, int64_t now_ms);

/* The key that is armed at now_ms (monotonic), a new reference; NULL for none. Costs next to
 * nothing while none is. NULL is allowed. Any thread. */
struct jwk *probe_key(struct probe *probe, int64_t now_ms);

/* The key has done its one service, and is not armed any more. Any thread. */
void probe_used(struct probe *probe, const struct jwk *key);

/* Whether a kid is of the kind that only such keys have. Any thread. */
bool probe_is_kid(const char *kid);

#endif
