/*
 * The erasure of one person, over the control socket. The sub comes in a body and goes to the
 * sweeper; it stands in no answer, no log line and no error.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control_private.h"
#include "support/clock.h"
#include "verifier/notification.h"

#define TEAM_BYTES 10 /* capital letters and digits */

/* To note who is to be erased, also for who waits for nothing else: what was not noted is not
 * pending. */
#define NOTE_MS 5000

static const struct problem problem_app = {"app-unknown", 404, "No such app is configured"};
static const struct problem problem_late = {"erasure-unfinished", 503,
                                            "The erasure could not begin in time"};

struct erase {
    struct control_waiting waiting; /* first */
    struct sweeper *sweeper;
    struct sweeper_erasure *erasure;
    int64_t deadline_ms, note_deadline_ms; /* monotonic */
};

static void answer_erased(struct control *control, struct http_request *request,
                          const struct erasure_counts *counts, const char *state)
{
    control_answer_ok(control, request,
                      json_pack("{s:I,s:I,s:I,s:I,s:s}", "rows", (json_int_t)counts->rows, "raw",
                                (json_int_t)counts->raw, "deferred", (json_int_t)counts->deferred,
                                "quarantined", (json_int_t)counts->quarantined, "state", state));
}

static bool look_at_erasure(struct control *control, struct control_waiting *waiting,
                            int64_t now_ms, bool draining)
{
    const struct erase *erase = (struct erase *)waiting;
    struct erasure_counts counts = {.rows = 0};
    enum sweeper_erasure_state state =
        sweeper_erasure_look(erase->sweeper, erase->erasure, &counts);
    bool late = draining || now_ms >= erase->deadline_ms;

    if (state == SWEEPER_ERASURE_DONE)
        answer_erased(control, waiting->request, &counts, "done");
    else if (late && (state == SWEEPER_ERASURE_NOTED || state == SWEEPER_ERASURE_PENDING))
        answer_erased(control, waiting->request, &counts, "pending");
    else if (draining || state == SWEEPER_ERASURE_FAILED)
        control_answer_problem(control, waiting->request, &problem_draining,
                               "ask again once it is back");
    else if (late && now_ms >= erase->note_deadline_ms)
        control_answer_problem(control, waiting->request, &problem_late,
                               "the database takes nothing at the moment, or other erasures come "
                               "first; see /readyz, and ask again");
    else
        return false;
    return true;
}

static void forget_erasure(struct control_waiting *waiting)
{
    struct erase *erase = (struct erase *)waiting;

    sweeper_erasure_unref(erase->sweeper, erase->erasure);
    free(erase);
}

static void wait_for(struct control *control, struct http_request *request,
                     struct sweeper_erasure *erasure, json_int_t wait_s)
{
    struct erase *erase = calloc(1, sizeof *erase);
    int64_t now_ms = clock_monotonic_ms();

    if (!erase) {
        sweeper_erasure_unref(control->settings.sweeper, erasure);
        control_answer_no_memory(control, request);
        return;
    }
    erase->sweeper = control->settings.sweeper;
    erase->erasure = erasure;
    erase->deadline_ms = now_ms + wait_s * 1000;
    erase->note_deadline_ms = now_ms + NOTE_MS;
    erase->waiting = (struct control_waiting){
        .request = request, .look = look_at_erasure, .forget = forget_erasure};
    control_wait(control, &erase->waiting);
}

static bool is_team(const char *text)
{
    return strlen(text) == TEAM_BYTES &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == TEAM_BYTES;
}

static void erase(struct control *control, struct http_request *request, const char *team,
                  const char *sub, json_int_t wait_s)
{
    struct sweeper_erasure *erasure = NULL;
    int error = sweeper_erase(control->settings.sweeper, team, sub, &erasure);

    if (error < 0)
        control_answer_no_memory(control, request);
    else
        wait_for(control, request, erasure, wait_s);
}

/* What is wrong with a request, NULL for nothing. */
static const char *complaint(const char *team, const char *client_id, const char *sub,
                             json_int_t wait_s)
{
    if (!team == !client_id)
        return "it takes team or client_id, one of them";
    if (team && !is_team(team))
        return "a team has 10 capital letters and digits";
    if (sub[0] == '\0' || strlen(sub) > NOTIFICATION_CLAIM_MAX_BYTES)
        return "sub is empty, or longer than any that Apple gives";
    if (wait_s < 0 || wait_s > CONTROL_ERASE_WAIT_MAX_S)
        return "wait_s is a number of seconds from 0 to 100";
    return NULL;
}

void control_post_erase(struct control *control, struct http_request *request)
{
    json_t *document = NULL;
    const char *team = NULL, *client_id = NULL, *sub = NULL, *wrong = NULL;
    char team_of_app[ERASURE_TEAM_BYTES];
    json_int_t wait_s = CONTROL_ERASE_WAIT_S;
    int error = control_unpack_body(control, request, &document, "{s?:s,s?:s,s:s,s?:I !}", "team",
                                    &team, "client_id", &client_id, "sub", &sub, "wait_s", &wait_s);

    if (error == -ENOMEM)
        return;
    bool understood = error == 0 && control->settings.sweeper;
    if (understood)
        wrong = complaint(team, client_id, sub, wait_s);
    if (!understood || wrong)
        control_answer_problem(control, request, &problem_request, "%s",
                               wrong ? wrong
                                     : "the body must be {\"team\": \"…\" or \"client_id\": "
                                       "\"…\", \"sub\": \"…\", \"wait_s\": 30}");
    else if (client_id && !sweeper_team_of(control->settings.sweeper, client_id, team_of_app))
        control_answer_problem(control, request, &problem_app,
                               "apps does not have it; name its team instead");
    else
        erase(control, request, team ? team : team_of_app, sub, wait_s);
    json_decref(document);
}
