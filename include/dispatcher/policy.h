/*
 * policy: which apps are ours, whom we hear, what each app ignores, what becomes of late events.
 */
#ifndef SIWA_DISPATCHER_POLICY_H
#define SIWA_DISPATCHER_POLICY_H

#include <stdbool.h>
#include <stddef.h>

#include "support/config.h"
#include "verifier/judge.h"
#include "verifier/notification.h"

/* An immutable copy of what the configuration says about notifications, reference counted, so that
 * a reload can replace it while deliveries still hold the old one. */
struct policy;

/* Copies what it needs from the configuration (apps, issuers, late, leeway_s, the deferred_…
 * limits). The caller owns one reference. 0 or -ENOMEM. */
int policy_new(const struct config *config, struct policy **ret_policy);

/* Adds a reference and returns the policy; drops one. Any thread, also at once. */
struct policy *policy_ref(struct policy *policy);
void policy_unref(struct policy *policy); /* takes NULL */

/* The app with exactly this client_id (an Apple `aud`), borrowed from the policy, or NULL. A few
 * string comparisons. Any thread, as all below. */
const struct config_app *policy_find(const struct policy *policy, const char *client_id);

/* Whether the app does not want events of this kind. Unknown kinds are never ignored. */
bool policy_ignores(const struct config_app *app, enum event_type kind);

/* Audiences, issuers and leeway for a judgement; borrowed from the policy. The keys and the time
 * are the caller's to add. Any thread. */
void policy_rules(const struct policy *policy, struct judge_rules *ret_rules);

/* How much may wait for keys. Any thread. */
unsigned policy_deferred_events(const struct policy *policy);
size_t policy_deferred_bytes(const struct policy *policy);

/* What becomes of an event that is new to the outbox but came after its token had expired. */
enum config_late policy_late(const struct policy *policy);

/* Whether the bodies of stored notifications are kept at all. */
bool policy_keeps_raw(const struct policy *policy);

/* The configured apps, borrowed, in the order of the configuration; index below policy_count. */
size_t policy_count(const struct policy *policy);
const struct config_app *policy_at(const struct policy *policy, size_t index);

#endif
