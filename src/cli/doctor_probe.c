/* The part of doctor that sends a signed test notification the way that Apple's take: a key of its
 * own, which the running daemon takes for this one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/daemon.h"
#include "cli/signer.h"
#include "doctor.h"
#include "support/clock.h"
#include "verifier/json_text.h"

#define CHECK "outside.probe"
#define WHAT  "a signed test notification"

struct probe {
    struct signer *signer;
    char kid[sizeof CONFIG_PROBE_KID + SIGNER_KID_BYTES];
    char jti[SIGNER_JTI_BYTES + 1];
    char *body;
};

static void probe_release(struct probe *probe)
{
    free(probe->body);
    signer_free(probe->signer);
}

static int sign(struct probe *probe)
{
    int error = signer_random_jti(probe->jti);
    int64_t now_ms = clock_wall_ms();

    if (error == 0)
        error = signer_generate(&probe->signer);
    if (error < 0)
        return error;
    (void)snprintf(probe->kid, sizeof probe->kid, CONFIG_PROBE_KID "%s", signer_kid(probe->signer));
    const struct signer_notification notification = {.kid = probe->kid,
                                                     .issuer = CONFIG_PROBE_ISSUER,
                                                     .client_id = CONFIG_PROBE_CLIENT_ID,
                                                     .jti = probe->jti,
                                                     .issued_at_s = now_ms / 1000,
                                                     .type = "test",
                                                     .sub = "siwa-notifyd.doctor",
                                                     .event_time_ms = now_ms};
    return signer_body(probe->signer, &notification, &probe->body);
}

/* The key set to be armed, NULL when memory is out. */
static json_t *key_set(const struct probe *probe)
{
    char *text = NULL;
    json_t *set = NULL;

    if (signer_key_set(probe->signer, &text) == 0)
        (void)json_text_parse(text, strlen(text), &set);
    free(text);
    json_t *key = json_array_get(json_object_get(set, "keys"), 0);
    if (json_object_set_new(key, "kid", json_string(probe->kid)) == 0)
        return set;
    json_decref(set);
    return NULL;
}

static int ask(const struct doctor *doctor, const char *path, const json_t *body,
               json_t **ret_answer, unsigned *ret_status, char ret_why[DAEMON_WHY_BYTES])
{
    const struct daemon_request request = {
        .config = doctor->config, .path = path, .body = body, .timeout_ms = DOCTOR_CALL_MS};

    return daemon_ask(&request, ret_answer, ret_status, ret_why);
}

/* Whether the running daemon now waits for the test notification. */
static bool arm(struct doctor *doctor, const struct probe *probe)
{
    char why[DAEMON_WHY_BYTES] = "memory is out";
    json_t *set = key_set(probe), *answer = NULL;
    unsigned status = 0;
    int error = set ? ask(doctor, "/v1/probe", set, &answer, &status, why) : -ENOMEM;

    json_decref(answer);
    json_decref(set);
    if (error == 0)
        return true;
    doctor_tell(doctor, CHECK, DOCTOR_SKIP,
                status == 403 || error == -EACCES ? "run as root"
                : status == 404                   ? "systemctl restart siwa-notifyd"
                : error == -EDESTADDRREQ          ? "set `control`"
                : status != 0                     ? "see the daemon's log"
                                                  : "start the daemon, and run this on its machine",
                "no test notification was sent, since the daemon was not told of it: %s", why);
    return false;
}

/* What the daemon knows of it. */
struct seen {
    bool known; /* else the rest is not */
    bool stored, armed;
};

static struct seen look(const struct doctor *doctor, const struct probe *probe)
{
    char why[DAEMON_WHY_BYTES], path[64];
    json_t *answer = NULL;
    unsigned status;

    (void)snprintf(path, sizeof path, "/v1/probe/%s", probe->jti);
    if (ask(doctor, path, NULL, &answer, &status, why) < 0)
        return (struct seen){.known = false};
    struct seen seen = {.known = true,
                        .stored = json_is_true(json_object_get(answer, "stored")),
                        .armed = json_is_true(json_object_get(answer, "armed"))};
    json_decref(answer);
    return seen;
}

static void tell_refused(struct doctor *doctor, const struct call_reply *reply,
                         const struct seen *seen)
{
    bool no_key = doctor_answers(reply, VERDICT_KID_UNKNOWN) ||
                  doctor_answers(reply, VERDICT_NO_KEYS) || doctor_answers(reply, VERDICT_DEFERRED);

    if (seen->stored)
        doctor_tell(
            doctor, CHECK, DOCTOR_FAIL,
            "have the proxy pass the daemon's answer as it is: Apple takes 200 for received",
            WHAT " was committed, but the answer that came back was %u, not 200", reply->status);
    else if (no_key && seen->known && seen->armed)
        doctor_tell(doctor, CHECK, DOCTOR_FAIL,
                    "point the name or the proxy at this daemon, or run doctor where that one runs",
                    WHAT " reached another siwa-notifyd than the one of this configuration, which "
                         "answered %u",
                    reply->status);
    else if (no_key && seen->known)
        doctor_tell(doctor, CHECK, DOCTOR_FAIL,
                    "find what holds requests up on their way, and run one doctor at a time",
                    "the key of " WHAT " had expired, or was used up, when it arrived");
    else
        doctor_tell_answer(doctor, CHECK, reply, VERDICT_ACCEPTED, WHAT);
}

static void tell(struct doctor *doctor, const struct call_reply *reply, const struct seen *seen,
                 int64_t ms)
{
    if (!doctor_answers(reply, VERDICT_ACCEPTED))
        tell_refused(doctor, reply, seen);
    else if (!seen->known)
        doctor_tell(doctor, CHECK, DOCTOR_FAIL,
                    "see the checks of the daemon, and run doctor again",
                    WHAT " was answered 200, but the daemon does not say whether it is stored");
    else if (!seen->stored)
        doctor_tell(doctor, CHECK, DOCTOR_FAIL,
                    "point the name or the proxy at this daemon: what answers there takes "
                    "notifications, and nobody here will see them",
                    WHAT " was answered 200 by another server: it is not in this database");
    else
        doctor_tell(doctor, CHECK, DOCTOR_OK, NULL,
                    WHAT " was verified, committed and answered 200 within %lld ms; it is kept "
                         "apart from the outbox",
                    (long long)ms);
}

static void send_it(struct doctor *doctor, const struct probe *probe)
{
    struct call_reply reply = {0};
    char why[CALL_WHY_BYTES];
    int64_t ms;

    int error = doctor_post(doctor, probe->body, strlen(probe->body), &reply, &ms, why);
    if (error < 0) {
        doctor_tell(doctor, CHECK, DOCTOR_FAIL, doctor_cure_of_call(error), "%s", why);
        return;
    }
    const struct seen seen = look(doctor, probe);
    tell(doctor, &reply, &seen, ms);
    call_reply_release(&reply);
}

void doctor_probe(struct doctor *doctor)
{
    struct probe probe = {0};

    if (!doctor->config) {
        doctor_tell(doctor, CHECK, DOCTOR_SKIP, "mend the configuration",
                    "no test notification was sent: the daemon cannot be told of it");
        return;
    }
    int error = sign(&probe);
    if (error < 0)
        doctor_tell(doctor, CHECK, DOCTOR_SKIP, "run doctor again",
                    "no test notification was sent, since none could be signed: %s",
                    strerror(-error));
    else if (arm(doctor, &probe))
        send_it(doctor, &probe);
    probe_release(&probe);
}
