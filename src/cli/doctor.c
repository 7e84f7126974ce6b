/*
 * doctor: why does nothing arrive? Looks at everything between Apple and the outbox.
 */
#include "doctor.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "dispatcher/outbox.h"
#include "support/clock.h"

#define DOCTOR_WAIT_TURN_MS 500

static const char doctor_name[] = "doctor";

static const char doctor_about[] =
    "Looks at everything between Apple and the outbox, and says of each part whether it\n"
    "is in order, what is wrong, and what mends it: the configuration, the database, the\n"
    "sockets, the clock, the keys, the running daemon, and what arrived lately.\n"
    "\n"
    "--url https://HOST/PATH looks from outside too, at the address that was registered\n"
    "at Apple: names, TLS, certificate, whether a POST reaches the daemon unchanged, and\n"
    "whether a signed test notification, which no consumer sees, is committed.\n"
    "--wait SECONDS then waits for a real event. What Apple's portal has registered\n"
    "cannot be seen by anyone but you. Best run as root, on the machine of the daemon.\n"
    "\n"
    "Exit status: 0 when nothing fails, 1 when something does, 2 for a wrong command\n"
    "line.";

struct output {
    bool json;
    bool colour;
    json_t *findings; /* with json */
};

static const struct {
    const char *label, *colour;
} states[DOCTOR_STATES] = {
    [DOCTOR_FAIL] = {"fail", "\033[1;31m"},
    [DOCTOR_WARN] = {"warn", "\033[33m"},
    [DOCTOR_OK] = {"ok", "\033[32m"},
    [DOCTOR_SKIP] = {"skip", "\033[2m"},
};

/* What a server or a certificate says must not steer the terminal. */
static void tame(char *text)
{
    for (; *text != '\0'; text++)
        if (iscntrl((unsigned char)*text))
            *text = '?';
}

void doctor_tell(struct doctor *doctor, const char *check, enum doctor_state state,
                 const char *cure, const char *format, ...)
{
    struct doctor_finding finding = {.check = check, .state = state};
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(finding.cause, sizeof finding.cause, format, arguments);
    va_end(arguments);
    (void)snprintf(finding.cure, sizeof finding.cure, "%s", cure ? cure : "");
    tame(finding.cause);
    tame(finding.cure);
    doctor->counts[state]++;
    doctor->on_finding(&finding, doctor->context);
}

/* ---- telling ---- */

static void print_finding(const struct output *output, const struct doctor_finding *finding)
{
    (void)printf("%s%-4s%s  %-22s %s\n", output->colour ? states[finding->state].colour : "",
                 states[finding->state].label, output->colour ? "\033[0m" : "", finding->check,
                 finding->cause);
    if (finding->cure[0] != '\0')
        (void)printf("      %-22s → %s\n", "", finding->cure);
    (void)fflush(stdout);
}

static void on_finding(const struct doctor_finding *finding, void *context)
{
    struct output *output = context;

    if (!output->json) {
        print_finding(output, finding);
        return;
    }
    /* A finding that memory was out for makes the array NULL, and that is noticed at the end. */
    json_t *object =
        json_pack("{s:s,s:s,s:s,s:s}", "check", finding->check, "state",
                  states[finding->state].label, "cause", finding->cause, "cure", finding->cure);
    if (!object || json_array_append_new(output->findings, object) != 0) {
        json_decref(output->findings);
        output->findings = NULL;
    }
}

static int summarise(const struct doctor *doctor, struct output *output)
{
    const unsigned *counts = doctor->counts;
    int error = 0;

    if (output->json)
        error = cli_print_json(
            output->findings ? json_pack("{s:b,s:i,s:i,s:i,s:i,s:o}", "sound",
                                         counts[DOCTOR_FAIL] == 0, "ok", counts[DOCTOR_OK], "warn",
                                         counts[DOCTOR_WARN], "fail", counts[DOCTOR_FAIL], "skip",
                                         counts[DOCTOR_SKIP], "checks", output->findings)
                             : NULL);
    else
        (void)printf("\n%u ok, %u warn, %u fail, %u skip\n", counts[DOCTOR_OK], counts[DOCTOR_WARN],
                     counts[DOCTOR_FAIL], counts[DOCTOR_SKIP]);
    if (error)
        cli_error(doctor_name, "%s", strerror(-error));
    return error || counts[DOCTOR_FAIL] > 0 ? CLI_REFUSED : CLI_OK;
}

/* ---- the wait for a real event ---- */

static bool first_row(void *context, const struct outbox_row *row)
{
    struct doctor *doctor = context;

    doctor_tell(doctor, "apple.event", DOCTOR_OK, NULL,
                "a real notification arrived and is stored: id %lld, %s for %s", (long long)row->id,
                row->type, row->client_id);
    return false;
}

static void wait_for_event(struct doctor *doctor, int64_t wait_s)
{
    int64_t until_ms = clock_monotonic_ms() + wait_s * 1000;
    struct outbox_reader *reader = NULL;
    struct outbox_state state;
    char why[OUTBOX_WHY_BYTES] = "";
    int rows = 0;

    if (!doctor->config || outbox_reader_open(doctor->config->database, &reader, why) < 0 ||
        outbox_reader_state(reader, &state) < 0) {
        doctor_tell(doctor, "apple.event", DOCTOR_SKIP, NULL, "the outbox cannot be read: %s", why);
        outbox_reader_close(reader);
        return;
    }
    if (isatty(STDERR_FILENO))
        (void)fprintf(stderr, "waiting up to %lld s for a real event …\n", (long long)wait_s);
    while (rows == 0 && clock_monotonic_ms() < until_ms) {
        rows = outbox_reader_rows(reader, state.last_id, 1, first_row, doctor);
        if (rows == 0)
            nanosleep(&(struct timespec){.tv_nsec = DOCTOR_WAIT_TURN_MS * 1000000L}, NULL);
    }
    if (rows <= 0)
        doctor_tell(doctor, "apple.event", DOCTOR_FAIL,
                    "see whether the portal names this URL on the primary App ID, and that the "
                    "event was caused with an app of its group",
                    "no notification arrived within %lld s", (long long)wait_s);
    outbox_reader_close(reader);
}

static void tell_limits(struct doctor *doctor, int64_t wait_s)
{
    doctor_tell(doctor, "apple.portal", DOCTOR_SKIP,
                "developer.apple.com, Identifiers, the primary App ID, Sign in with Apple: "
                "Server-to-Server Notification Endpoint; then cause an event on a device: "
                "Settings, Apple Account, Sign in with Apple, your app, Stop Using",
                "which URL Apple has registered cannot be seen from here");
    if (wait_s > 0)
        wait_for_event(doctor, wait_s);
}

/* ---- the command ---- */

static void load(struct doctor *doctor, struct config **ret_config)
{
    char *problems = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&problems, &bytes);
    int error = out ? config_load(doctor->config_file, out, ret_config) : -ENOMEM;

    if (out)
        (void)fclose(out);
    if (bytes > 0 && problems[bytes - 1] == '\n')
        problems[bytes - 1] = '\0';
    if (error == 0 && bytes == 0)
        doctor_tell(doctor, "local.configuration", DOCTOR_OK, NULL, "%s is valid",
                    doctor->config_file);
    else if (error == 0)
        doctor_tell(doctor, "local.configuration", DOCTOR_WARN, "`siwa-notifyd check-config`",
                    "%.400s", problems);
    else
        doctor_tell(doctor, "local.configuration", DOCTOR_FAIL,
                    "mend it; `siwa-notifyd check-config` names every mistake; run as root where "
                    "it may not be read",
                    "%.400s", problems && bytes > 0 ? problems : strerror(-error));
    free(problems);
}

int cli_doctor(int argc, char **argv)
{
    const char *file = CONFIG_DEFAULT_FILE, *url = NULL, *ca_file = "";
    bool json = false, test_setup = false;
    int64_t wait_s = 0;
    const struct cli_option options[] = {
        cli_config_option(&file),
        cli_text("url", "URL", "look from outside too, at this address", &url),
        cli_text("ca-file", "FILE", "trust these authorities for it, not the system's", &ca_file),
        cli_number("wait", "SECONDS", "wait for a real event at the end", &wait_s, 1, 86400),
        cli_flag("test-setup", "what only a test set-up may have is a warning", &test_setup),
        cli_json_option(&json),
        {.name = NULL},
    };
    const struct cli_usage usage = {
        .name = doctor_name, .operands = "", .about = doctor_about, .options = options};
    int operands, exit_code;
    struct config *config = NULL;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    struct output output = {.json = json,
                            .colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR"),
                            .findings = json ? json_array() : NULL};
    struct doctor doctor = {.config_file = file,
                            .url = url,
                            .ca_file = ca_file,
                            .test_setup = test_setup,
                            .on_finding = on_finding,
                            .context = &output};
    load(&doctor, &config);
    doctor.config = config;
    doctor_local(&doctor);
    doctor_await_keys(&doctor);
    doctor_keys(&doctor);
    doctor_daemon(&doctor);
    doctor_history(&doctor);
    doctor_outside(&doctor);
    tell_limits(&doctor, wait_s);
    config_free(config);
    return summarise(&doctor, &output);
}
