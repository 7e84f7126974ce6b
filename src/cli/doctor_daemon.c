/* The part of doctor that asks the running daemon, and what it remembers of the last days. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/call.h"
#include "cli/moment.h"
#include "dispatcher/history_summary.h"
#include "doctor.h"
#include "listener/outcome_advice.h"
#include "support/clock.h"
#include "verifier/json_text.h"

/* GETs JSON of a listener of the daemon, NULL with a sentence where there is none. */
static json_t *ask(const struct config_address *address, const char *path,
                   char ret_why[CALL_WHY_BYTES])
{
    struct call_reply reply = {0};
    char url[256];
    const struct call_request request = {
        .url = url,
        .unix_socket = address->kind == CONFIG_ADDRESS_UNIX ? address->path : NULL,
        .method = "GET",
        .timeout_ms = DOCTOR_CALL_MS,
        .reply_max_bytes = DOCTOR_REPLY_MAX_BYTES,
    };

    (void)snprintf(url, sizeof url, "http://%s%s",
                   address->kind == CONFIG_ADDRESS_TCP ? address->text : "localhost", path);
    if (call_send(&request, &reply, ret_why) < 0)
        return NULL;
    json_t *answer = NULL;
    if (json_text_parse(reply.body, reply.body_bytes, &answer) < 0)
        (void)snprintf(ret_why, CALL_WHY_BYTES, "the answer of %s is not ours", address->text);
    call_reply_release(&reply);
    return answer;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

/* ---- the first moments ---- */

static bool fetches_its_first_keys(const struct doctor *doctor)
{
    char why[CALL_WHY_BYTES];
    json_t *answer = ask(&doctor->config->control, "/v1/state", why);
    const json_t *refresh = json_object_get(answer, "refresh");
    const json_t *attempts = json_object_get(refresh, "attempts");
    /* One that remembers keys from before may fetch none for an hour. Keys that were just fetched
     * are usable before they are in the file that is looked at next: as long as the attempt is in
     * flight, it is not over. */
    bool first = json_is_integer(attempts) && json_integer_value(attempts) == 0 &&
                 (!json_is_true(json_object_get(json_object_get(answer, "keys"), "usable")) ||
                  json_is_true(json_object_get(refresh, "in_flight")));

    json_decref(answer);
    return first;
}

void doctor_await_keys(const struct doctor *doctor)
{
    int64_t until_ms = clock_monotonic_ms() + DOCTOR_CALL_MS;

    if (!doctor->config || doctor->config->control.kind == CONFIG_ADDRESS_NONE)
        return;
    while (fetches_its_first_keys(doctor) && clock_monotonic_ms() < until_ms)
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000000L}, NULL);
}

/* ---- readiness ---- */

static void tell_checks(struct doctor *doctor, json_t *checks)
{
    const char *name;
    json_t *check;

    json_object_foreach(checks, name, check)
    {
        const char *state = text_of(check, "state");

        if (strcmp(state, "ok") != 0)
            doctor_tell(doctor, "daemon.check",
                        strcmp(state, "warn") == 0 ? DOCTOR_WARN : DOCTOR_FAIL, NULL, "%s: %s",
                        name, text_of(check, "why"));
    }
}

static void look_at_readiness(struct doctor *doctor)
{
    char why[CALL_WHY_BYTES] = "";
    json_t *answer;

    if (doctor->config->monitor.kind == CONFIG_ADDRESS_NONE) {
        doctor_tell(doctor, "daemon.ready", DOCTOR_WARN, "set `monitor`",
                    "no monitor is configured: nobody can see how the daemon is");
        return;
    }
    answer = ask(&doctor->config->monitor, "/readyz", why);
    if (!answer)
        doctor_tell(doctor, "daemon.ready", DOCTOR_FAIL,
                    "start it: systemctl enable --now siwa-notifyd", "%s", why);
    else if (json_is_true(json_object_get(answer, "ready")))
        doctor_tell(doctor, "daemon.ready", DOCTOR_OK, NULL,
                    "ready: a notification that arrives now is stored");
    else
        doctor_tell(doctor, "daemon.ready", DOCTOR_FAIL, "see the lines below",
                    "it runs, but is not ready: notifications are answered 503");
    tell_checks(doctor, json_object_get(answer, "checks"));
    json_decref(answer);
}

static void look_at_version(struct doctor *doctor)
{
    char why[CALL_WHY_BYTES] = "no control socket is configured";
    json_t *answer = doctor->config->control.kind == CONFIG_ADDRESS_NONE
                         ? NULL
                         : ask(&doctor->config->control, "/v1/state", why);
    const char *version = text_of(answer, "version");
    const json_t *refresh = json_object_get(answer, "refresh");

    doctor->daemon_answers = answer != NULL;
    if (!answer)
        doctor_tell(doctor, "daemon.version", DOCTOR_SKIP, "run as root; start the daemon", "%s",
                    why);
    else if (strcmp(version, SIWA_VERSION) != 0)
        doctor_tell(doctor, "daemon.version", DOCTOR_WARN, "systemctl restart siwa-notifyd",
                    "the daemon is %s, this command %s", version, SIWA_VERSION);
    else
        doctor_tell(doctor, "daemon.version", DOCTOR_OK, NULL, "the daemon is %s like this command",
                    version);
    if (json_is_string(json_object_get(refresh, "why")))
        doctor_tell(doctor, "daemon.refresh", DOCTOR_WARN,
                    "see keys.fetch; the daemon has less network than you",
                    "its last attempt to refresh the keys failed: %s", text_of(refresh, "why"));
    json_decref(answer);
}

void doctor_daemon(struct doctor *doctor)
{
    if (!doctor->config)
        return;
    look_at_readiness(doctor);
    look_at_version(doctor);
}

/* ---- history ---- */

/* So long after a database was made its silence says nothing yet. */
#define YOUNG_S 86400

struct heard {
    const char *client_id;
    int64_t last_ms;
};

static void hear(void *context, const char *client_id, int64_t last_ms)
{
    struct heard *heard = context;

    if (strcmp(client_id, heard->client_id) == 0)
        heard->last_ms = last_ms;
}

static bool is_young(struct outbox_reader *reader, int64_t now_ms)
{
    struct outbox_state state;

    return outbox_reader_state(reader, &state) == 0 && now_ms / 1000 - state.generation < YOUNG_S;
}

/* Whether the app was heard of within the days of the history. */
static bool tell_app(struct doctor *doctor, struct outbox_reader *reader,
                     const struct history_summary *history, const struct config_app *app,
                     bool young)
{
    const struct history_app *events = history_summary_app(history, app->client_id);
    struct heard heard = {.client_id = app->client_id};
    char last[MOMENT_TEXT_BYTES];
    uint64_t count = 0;

    if (outbox_reader_last_accepted(reader, hear, &heard) < 0 || heard.last_ms == 0) {
        doctor_tell(doctor, "history.app", young ? DOCTOR_SKIP : DOCTOR_WARN,
                    "look from outside with --url, then cause an event on a device",
                    "nothing for %s was ever accepted%s", app->client_id,
                    young ? ", in a database that is less than a day old" : "");
        return false;
    }
    for (int day = 0; events && day < HISTORY_DAYS; day++)
        for (int kind = 0; kind < EVENT_TYPE_COUNT; kind++)
            count += events->events[day][kind];
    moment_text(heard.last_ms, last);
    bool lately = heard.last_ms / HISTORY_DAY_MS > history->today - HISTORY_DAYS;
    if (count == 0 && lately) /* the counts follow within seconds */
        doctor_tell(doctor, "history.app", DOCTOR_OK, NULL, "%s: last accepted %s", app->client_id,
                    last);
    else
        doctor_tell(doctor, "history.app", DOCTOR_OK, NULL,
                    "%s: last accepted %s, %" PRIu64 " events in %d days", app->client_id, last,
                    count, HISTORY_DAYS);
    return lately;
}

/* What came before an app was added makes no stranger of it. */
static bool is_configured(const struct config *config, const char *client_id)
{
    for (size_t i = 0; i < config->app_count; i++)
        if (strcmp(config->apps[i].client_id, client_id) == 0)
            return true;
    return false;
}

static void tell_strangers(struct doctor *doctor, const struct history_summary *history)
{
    char since[MOMENT_TEXT_BYTES];

    for (size_t i = 0; i < history->stranger_count; i++) {
        const struct history_stranger *stranger = &history->strangers[i];

        if (is_configured(doctor->config, stranger->client_id))
            continue;
        moment_text(stranger->first_day * HISTORY_DAY_MS, since);
        doctor_tell(doctor, "history.audience", DOCTOR_WARN,
                    "add it to `apps`, or correct the endpoint of that App ID",
                    "%" PRIu64 " notifications for %s since %.10s: it is not configured",
                    stranger->count, stranger->client_id, since);
    }
}

/* Strangers may send anything at any time; what Apple signed, or what is our fault, is worth a
 * warning, and so is everything while nothing is accepted at all. */
static bool worth_a_warning(const struct history_summary *history, enum verdict verdict, bool young)
{
    bool strangers = verdict_status(verdict) / 100 == 4 && verdict != VERDICT_EXPIRED &&
                     verdict != VERDICT_CLAIMS_MALFORMED && verdict != VERDICT_NOT_A_NOTIFICATION;

    if (young && verdict == VERDICT_JWS_MALFORMED)
        return false; /* doctor's own, from outside */
    return !strangers || history->outcomes[VERDICT_ACCEPTED].month == 0;
}

static void tell_outcomes(struct doctor *doctor, const struct history_summary *history, bool young,
                          bool heard)
{
    uint64_t total = 0;

    for (int i = 0; i < VERDICT_COUNT; i++) {
        enum verdict verdict = (enum verdict)i;
        const struct history_outcome *outcome = &history->outcomes[i];

        total += outcome->month;
        if (outcome->month == 0 || verdict == VERDICT_WRONG_AUDIENCE)
            continue;
        doctor_tell(doctor, "history.outcome",
                    outcome_advice(verdict)[0] != '\0' && worth_a_warning(history, verdict, young)
                        ? DOCTOR_WARN
                        : DOCTOR_OK,
                    outcome_advice(verdict),
                    "%s: %" PRIu64 " today, %" PRIu64 " in 7 days, %" PRIu64 " in %d",
                    verdict_label(verdict), outcome->today, outcome->week, outcome->month,
                    HISTORY_DAYS);
    }
    if (total == 0 && !heard)
        doctor_tell(doctor, "history.outcome", young ? DOCTOR_SKIP : DOCTOR_WARN,
                    "look from outside with --url: whether a POST reaches the daemon at all",
                    "in %d days no request reached the daemon%s", HISTORY_DAYS,
                    young ? ", and its database is less than a day old" : "");
}

void doctor_history(struct doctor *doctor)
{
    struct history_summary history = {0};
    struct outbox_reader *reader = NULL;
    char why[OUTBOX_WHY_BYTES] = "";

    if (!doctor->config)
        return;
    if (outbox_reader_open(doctor->config->database, &reader, why) < 0 ||
        history_summarise(reader, clock_wall_ms(), &history) < 0) {
        doctor_tell(doctor, "history.outcome", DOCTOR_SKIP, NULL, "the database cannot be read%s%s",
                    why[0] ? ": " : "", why);
        outbox_reader_close(reader);
        return;
    }
    bool young = is_young(reader, clock_wall_ms()), heard = false;
    for (size_t i = 0; i < doctor->config->app_count; i++)
        if (tell_app(doctor, reader, &history, &doctor->config->apps[i], young))
            heard = true;
    tell_strangers(doctor, &history);
    tell_outcomes(doctor, &history, young, heard);
    history_summary_release(&history);
    outbox_reader_close(reader);
}
