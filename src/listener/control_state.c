/*
 * How the daemon is, over the control socket.
 */
#include <unistd.h>

#include "control_private.h"
#include "support/clock.h"

static json_t *refresh_json(const struct refresher_state *state)
{
    bool failed = state->last_attempt_ms != 0 && state->last_result != FETCH_RESULT_OK;
    json_t *result = state->last_attempt_ms != 0
                         ? json_string(fetch_result_label(state->last_result))
                         : json_null();
    json_t *why = failed ? json_string(state->last_why) : json_null();

    /* A reason that is not UTF-8 is left out rather than the whole answer. */
    return json_pack("{s:o,s:o,s:I,s:I,s:I,s:I,s:b}", "result", result, "why",
                     why ? why : json_null(), "attempts", (json_int_t)state->attempts,
                     "demand_attempts", (json_int_t)state->demand_attempts, "last_attempt_s",
                     (json_int_t)(state->last_attempt_ms / 1000), "next_in_s",
                     (json_int_t)(state->next_scheduled_in_ms / 1000), "in_flight",
                     state->in_flight);
}

void control_get_state(struct control *control, struct http_request *request)
{
    struct health_report report = {0};

    health_report(control->settings.health, &report);
    const struct writer_state *writer = &report.facts.pulse.writer;
    control_answer_ok(
        control, request,
        json_pack(
            "{s:s,s:I,s:I,s:I,s:o,s:o,s:o,s:{s:I,s:I,s:I,s:I}}", "version", control->version, "pid",
            (json_int_t)getpid(), "started_s", (json_int_t)(control->started_ms / 1000), "uptime_s",
            (json_int_t)((clock_monotonic_ms() - control->started_mono_ms) / 1000), "health",
            health_json(&report), "keys", control_keys_now_json(control), "refresh",
            refresh_json(&report.facts.refresher), "writer", "queued_events",
            (json_int_t)writer->queued_events, "queue_events", (json_int_t)writer->queue_events,
            "commits", (json_int_t)writer->commits, "rows", (json_int_t)writer->rows));
}
