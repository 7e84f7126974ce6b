/*
 * The keys, over the control socket: shown, fetched anew, distrusted.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control_private.h"
#include "support/clock.h"
#include "support/log.h"

static const struct problem problem_refresh = {"refresh-failed", 502,
                                               "The key set could not be fetched"};
static const struct problem problem_refresh_late = {"refresh-unfinished", 504,
                                                    "The key set was not fetched in time"};
static const struct problem problem_save = {"not-saved", 500,
                                            "The change could not be saved in keys.json"};
static const struct problem problem_full = {"list-full", 409, "There is no room for one more"};

/* ---- keys ---- */

const char *control_key_state(const struct key_snapshot *snapshot, const struct key_record *record,
                              int64_t now_s)
{
    const char *kid = jwk_kid(record->key);
    enum key_trust trust = KEY_TRUST_NONE;

    if (record->distrusted)
        return "distrusted";
    if (record->current)
        return "current";
    (void)key_snapshot_find(snapshot, kid, strlen(kid), now_s, &trust);
    return trust == KEY_TRUST_FULL ? "grace" : "old";
}

static json_t *record_json(const struct key_snapshot *snapshot, const struct key_record *record,
                           int64_t now_s)
{
    return json_pack("{s:s,s:s,s:I,s:I}", "kid", jwk_kid(record->key), "state",
                     control_key_state(snapshot, record, now_s), "first_seen_s",
                     (json_int_t)record->first_seen_s, "last_seen_s",
                     (json_int_t)record->last_seen_s);
}

static json_t *records_json(const struct key_snapshot *snapshot, int64_t now_s)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < key_snapshot_count(snapshot); i++) {
        if (json_array_append_new(array,
                                  record_json(snapshot, key_snapshot_at(snapshot, i), now_s)) == 0)
            continue;
        json_decref(array);
        array = NULL;
    }
    return array;
}

static bool kid_known(const struct key_snapshot *snapshot, const char *kid)
{
    for (size_t i = 0; i < key_snapshot_count(snapshot); i++)
        if (strcmp(jwk_kid(key_snapshot_at(snapshot, i)->key), kid) == 0)
            return true;
    return false;
}

static json_t *distrusted_unknown_json(const struct key_snapshot *snapshot)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < key_snapshot_distrusted_count(snapshot); i++) {
        const char *kid = key_snapshot_distrusted_at(snapshot, i);
        if (kid_known(snapshot, kid) || json_array_append_new(array, json_string(kid)) == 0)
            continue;
        json_decref(array);
        array = NULL;
    }
    return array;
}

json_t *control_keys_json(const struct key_snapshot *snapshot, int64_t now_s)
{
    int64_t refreshed_s = key_snapshot_refreshed_s(snapshot);
    json_t *refreshed = refreshed_s > 0 ? json_integer(refreshed_s) : json_null();

    return json_pack("{s:o,s:b,s:o,s:o}", "refreshed_s", refreshed, "usable",
                     key_snapshot_usable(snapshot, now_s), "keys", records_json(snapshot, now_s),
                     "distrusted_unknown", distrusted_unknown_json(snapshot));
}

json_t *control_keys_now_json(struct control *control)
{
    struct key_snapshot *snapshot = key_cache_snapshot(control->settings.key_cache);
    json_t *keys = control_keys_json(snapshot, clock_wall_ms() / 1000);

    key_snapshot_unref(snapshot);
    return keys;
}

void control_get_keys(struct control *control, struct http_request *request)
{
    control_answer_ok(control, request, control_keys_now_json(control));
}

/* ---- refresh ---- */

/* A request that waits for a refresh attempt to end. */
struct refresh {
    struct control_waiting waiting; /* first */
    uint64_t attempts_before;
    int64_t deadline_ms; /* monotonic */
};

static void answer_refreshed(struct control *control, struct http_request *request,
                             const struct refresher_state *state)
{
    if (state->last_result == FETCH_RESULT_OK)
        control_answer_ok(control, request,
                          json_pack("{s:s,s:o}", "result", fetch_result_label(state->last_result),
                                    "keys", control_keys_now_json(control)));
    else
        control_answer_problem(control, request, &problem_refresh, "%s: %s; %s",
                               fetch_result_label(state->last_result), state->last_why,
                               key_cache_usable(control->settings.key_cache, clock_wall_ms() / 1000)
                                   ? "the keys that were known go on serving"
                                   : "no usable key is known, and notifications are answered 503");
}

static bool look_at_refresh(struct control *control, struct control_waiting *waiting,
                            int64_t now_ms, bool draining)
{
    const struct refresh *refresh = (struct refresh *)waiting;
    struct refresher_state state;

    refresher_state(control->settings.refresher, &state);
    if (state.attempts != refresh->attempts_before)
        answer_refreshed(control, waiting->request, &state);
    else if (draining)
        control_answer_problem(control, waiting->request, &problem_draining,
                               "the attempt ends with it; ask again once it is back");
    else if (now_ms >= refresh->deadline_ms)
        control_answer_problem(control, waiting->request, &problem_refresh_late,
                               "no attempt ended within %d s; it goes on, look again later",
                               CONTROL_REFRESH_WAIT_MS / 1000);
    else
        return false;
    return true;
}

static void forget_refresh(struct control_waiting *waiting)
{
    free(waiting);
}

void control_post_refresh(struct control *control, struct http_request *request)
{
    struct refresh *refresh = calloc(1, sizeof *refresh);
    struct refresher_state before;

    if (!refresh) {
        control_answer_no_memory(control, request);
        return;
    }
    refresher_state(control->settings.refresher, &before);
    refresh->attempts_before = before.attempts;
    refresh->deadline_ms = clock_monotonic_ms() + CONTROL_REFRESH_WAIT_MS;
    refresh->waiting = (struct control_waiting){
        .request = request, .look = look_at_refresh, .forget = forget_refresh};
    control_wait(control, &refresh->waiting);
    refresher_refresh_now(control->settings.refresher);
}

/* ---- distrust ---- */

static bool kid_distrusted(const struct key_snapshot *snapshot, const char *kid)
{
    for (size_t i = 0; i < key_snapshot_distrusted_count(snapshot); i++)
        if (strcmp(key_snapshot_distrusted_at(snapshot, i), kid) == 0)
            return true;
    return false;
}

json_t *control_distrusted_json(const struct key_snapshot *snapshot, const char *kid, int64_t now_s)
{
    return json_pack("{s:s,s:b,s:b}", "kid", kid, "known", kid_known(snapshot, kid), "keys_usable",
                     key_snapshot_usable(snapshot, now_s));
}

static void distrust(struct control *control, struct http_request *request, const char *kid)
{
    int error = key_cache_distrust(control->settings.key_cache, kid);

    if (error == -EINVAL) {
        control_answer_problem(control, request, &problem_request,
                               "a kid has 1 to %d printable ASCII characters", JWK_KID_MAX_BYTES);
        return;
    }
    struct key_snapshot *snapshot = key_cache_snapshot(control->settings.key_cache);
    bool distrusted = kid_distrusted(snapshot, kid);
    log_event(LOG_LEVEL_NOTICE, "key distrusted by hand", log_text("kid", kid),
              log_text("in_effect", distrusted ? "yes" : "no"),
              log_text("saved", error == 0 ? "yes" : strerror(-error)));
    if (error == 0)
        control_answer_ok(control, request,
                          control_distrusted_json(snapshot, kid, clock_wall_ms() / 1000));
    else if (distrusted)
        control_answer_problem(
            control, request, &problem_save,
            "the kid is distrusted from now on, but not after a restart: %s; mend that "
            "and ask again",
            strerror(-error));
    else if (error == -ENOSPC)
        control_answer_problem(control, request, &problem_full,
                               "%d kids are distrusted already, more are not remembered",
                               KEY_CACHE_DISTRUSTED_MAX);
    else
        control_answer_no_memory(control, request);
    key_snapshot_unref(snapshot);
}

void control_post_distrust(struct control *control, struct http_request *request)
{
    json_t *document = NULL;
    const char *kid = NULL;
    int error = control_unpack_body(control, request, &document, "{s:s !}", "kid", &kid);

    if (error == 0)
        distrust(control, request, kid);
    else if (error != -ENOMEM)
        control_answer_problem(control, request, &problem_request,
                               "the body must be {\"kid\": \"…\"} and nothing else");
    json_decref(document);
}
