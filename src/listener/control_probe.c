/*
 * The test notification of doctor, over the control socket: its key is armed, its row is looked
 * for.
 */
#include <errno.h>
#include <string.h>

#include "control_private.h"
#include "dispatcher/outbox.h"
#include "listener/probe.h"
#include "support/clock.h"
#include "support/log.h"

static const struct problem problem_no_probe = {"no-probe", 404,
                                                "This daemon takes no test notifications"};

static void answer_armed(struct control *control, struct http_request *request, const char *kid)
{
    log_event(LOG_LEVEL_NOTICE, "armed for one test notification", log_text("kid", kid),
              log_number("seconds", PROBE_ARMED_MS / 1000));
    control_answer_ok(control, request,
                      json_pack("{s:s,s:s,s:s,s:i}", "kid", kid, "issuer", CONFIG_PROBE_ISSUER,
                                "client_id", CONFIG_PROBE_CLIENT_ID, "armed_ms", PROBE_ARMED_MS));
}

static bool is_published(struct control *control, const char *kid)
{
    struct key_snapshot *snapshot = key_cache_snapshot(control->settings.key_cache);
    enum key_trust trust;
    bool published = key_snapshot_find(snapshot, kid, strlen(kid), 0, &trust) != NULL;

    key_snapshot_unref(snapshot);
    return published;
}

/* One key and no more, under the same policy as Apple's, and none that stands in the way of one of
 * Apple's. */
static int arm(struct control *control, const struct jwks *set, const char **ret_kid)
{
    struct jwk *key = jwks_at(set, 0);

    if (jwks_count(set) != 1 || jwks_passed_over(set) > 0 || is_published(control, jwk_kid(key)))
        return -EINVAL;
    *ret_kid = jwk_kid(key);
    return probe_arm(control->settings.probe, key, clock_monotonic_ms());
}

void control_post_probe(struct control *control, struct http_request *request)
{
    size_t bytes = 0;
    const char *body = http_request_body(request, &bytes), *kid = NULL;
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES] = "";

    if (!control->settings.probe) {
        control_answer_problem(control, request, &problem_no_probe, "it was started without");
        return;
    }
    int error = body ? jwks_parse(body, bytes, &set, why) : -EINVAL;
    if (error == 0)
        error = arm(control, set, &kid);
    if (error == 0)
        answer_armed(control, request, kid);
    else if (error == -ENOMEM)
        control_answer_no_memory(control, request);
    else
        control_answer_problem(control, request, &problem_request,
                               "the body must be a set of one RSA public key for RS256, whose kid "
                               "begins with " CONFIG_PROBE_KID "%s%s",
                               why[0] ? ": " : "", why);
    jwks_free(set);
}

void control_get_probe(struct control *control, struct http_request *request)
{
    const char *jti = strrchr(http_request_path(request), '/') + 1; /* the route has one */
    struct jwk *key = probe_key(control->settings.probe, clock_monotonic_ms());
    int64_t received_at_ms = 0;
    int error = outbox_reader_test(control->settings.reader, jti, &received_at_ms);

    if (error == 0 || error == -ENOENT)
        control_answer_ok(control, request,
                          json_pack("{s:b,s:o,s:b}", "stored", error == 0, "received_at_ms",
                                    error == 0 ? json_integer(received_at_ms) : json_null(),
                                    "armed", key != NULL));
    else
        control_answer_problem(control, request, &problem_database, "%s; ask again later",
                               strerror(-error));
    jwk_unref(key);
}
