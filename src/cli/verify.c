/*
 * verify: judges one body or token as the daemon would, and stores nothing.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/moment.h"
#include "dispatcher/policy.h"
#include "keys/fetch.h"
#include "keys/key_cache.h"
#include "listener/event_json.h"
#include "support/clock.h"
#include "support/config.h"
#include "verifier/judge.h"

#define VERIFY_WHITE_SPACE " \t\r\n"

/* Everything that a judgement needs, opened for reading. */
struct bench {
    struct config *config;
    struct policy *policy;
    struct key_cache *cache;
    struct key_snapshot *snapshot; /* of keys.json; NULL where the published set is used instead */
    struct jwks *published;
    struct jws_context *context;
    int64_t now_s;
};

static const char verify_name[] = "verify";

static const char verify_about[] =
    "Reads a body {\"payload\": \"…\"} or a bare JWS from standard input and judges it\n"
    "as the daemon of this configuration would: one JSON line for each event, or one\n"
    "for a refusal, each with \"outcome\". The database is not opened and nothing is\n"
    "stored, so that \"accepted\" may be a duplicate for the daemon.\n"
    "\n"
    "The keys are those of keys.json beside the database, as the daemon last saved\n"
    "them; where there are none and the configuration has keys = \"file:/path\", those\n"
    "of that file. Nothing is fetched.\n"
    "\n"
    "Exit status: 0 for accepted and ignored, 1 for every other outcome or when\n"
    "something failed (then there is no JSON), 2 for a wrong command line.";

static bool audience_known(void *context, const char *client_id)
{
    const struct bench *bench = context;
    return policy_find(bench->policy, client_id) != NULL;
}

static const struct jwk *find_key(void *context, const char *kid, size_t kid_bytes,
                                  enum key_trust *ret_trust)
{
    const struct bench *bench = context;
    const struct jwk *key = NULL;

    if (bench->snapshot)
        return key_snapshot_find(bench->snapshot, kid, kid_bytes, bench->now_s, ret_trust);
    if (bench->published)
        key = jwks_find(bench->published, kid, kid_bytes);
    *ret_trust = key ? KEY_TRUST_FULL : KEY_TRUST_NONE;
    return key;
}

static int open_remembered_keys(struct bench *bench)
{
    char *path = cli_keys_file(bench->config->database);
    char why[JWKS_WHY_BYTES] = "";

    if (!path)
        return -ENOMEM;
    int error = key_cache_open(path, &bench->cache, why);
    if (error < 0)
        cli_error(verify_name, "%s: %s", path, *why ? why : strerror(-error));
    free(path);
    if (error < 0)
        return error;
    struct key_snapshot *snapshot = key_cache_snapshot(bench->cache);
    if (snapshot && key_snapshot_count(snapshot) > 0)
        bench->snapshot = snapshot;
    else
        key_snapshot_unref(snapshot);
    return 0;
}

static int read_published_keys(struct bench *bench)
{
    struct fetch_source source = {.kind = CONFIG_KEYS_FILE, .path = bench->config->keys_path};
    char why[FETCH_WHY_BYTES], why_not[JWKS_WHY_BYTES];
    size_t bytes = 0;
    char *text = NULL;

    if (fetch_keys_text(&source, &text, &bytes, why) != FETCH_RESULT_OK) {
        cli_error(verify_name, "%s", why);
        return -EIO;
    }
    int error = jwks_parse(text, bytes, &bench->published, why_not);
    if (error < 0)
        cli_error(verify_name, "%s: %s", bench->config->keys_path, why_not);
    free(text);
    return error;
}

static int open_bench(const char *config_file, struct bench *bench)
{
    if (cli_load_config(verify_name, config_file, &bench->config) != CLI_OK)
        return -EINVAL;
    int error = open_remembered_keys(bench);
    if (error < 0)
        return error;
    if (!bench->snapshot && bench->config->keys_source == CONFIG_KEYS_FILE) {
        error = read_published_keys(bench);
        if (error < 0)
            return error;
    }
    if (!bench->snapshot && !bench->published)
        cli_error(verify_name,
                  "there are no keys beside %s; has the daemon run with this "
                  "configuration?",
                  bench->config->database);
    error = policy_new(bench->config, &bench->policy);
    if (error == 0)
        error = jws_context_new(&bench->context);
    if (error < 0)
        cli_error(verify_name, "%s", strerror(-error));
    return error;
}

static void close_bench(struct bench *bench)
{
    jws_context_free(bench->context);
    policy_unref(bench->policy);
    jwks_free(bench->published);
    key_snapshot_unref(bench->snapshot);
    key_cache_free(bench->cache);
    config_free(bench->config);
}

/* What the daemon would make of it where nothing of it is stored yet. */
static enum verdict settle(const struct bench *bench, const struct judgement *judgement)
{
    if (judgement->verdict != VERDICT_QUARANTINED || judgement->reason != QUARANTINE_REASON_EXPIRED)
        return judgement->verdict;
    switch (policy_late(bench->policy)) {
    case CONFIG_LATE_DELIVER:
        return VERDICT_ACCEPTED;
    case CONFIG_LATE_REJECT:
        return VERDICT_EXPIRED;
    case CONFIG_LATE_QUARANTINE:
        break;
    }
    return VERDICT_QUARANTINED;
}

/* One line; takes over what it shows of the event, which may be NULL. */
static int print_outcome(enum verdict verdict, const struct judgement *judgement, json_t *event)
{
    json_t *line = json_pack("{s:s}", "outcome", verdict_label(verdict));
    int error = 0;

    if (line && verdict == VERDICT_QUARANTINED)
        error = json_object_set_new(line, "reason",
                                    json_string(quarantine_reason_label(judgement->reason)));
    if (line && error == 0 && *judgement->kid)
        error = json_object_set_new(line, "kid", json_string(judgement->kid));
    if (line && error == 0 && event)
        error = json_object_update(line, event);
    json_decref(event);
    if (error < 0) {
        json_decref(line);
        return -ENOMEM;
    }
    return cli_print_json(line);
}

/* The refusal of a whole notification. What its claims say is shown only where a trusted key signed
 * them. */
static int print_refusal(enum verdict verdict, const struct judgement *judgement)
{
    const struct notification *notification = &judgement->notification;
    json_t *claims = NULL;

    if (judgement->signature_verified && notification->aud) {
        claims =
            json_pack("{s:s, s:s, s:I, s:s?}", "client_id", notification->aud, "issuer",
                      notification->iss, "issued_at_ms",
                      (json_int_t)(notification->issued_at_s * 1000), "jti", notification->jti);
        if (!claims)
            return -ENOMEM;
    }
    return print_outcome(verdict, judgement, claims);
}

static int print_event(const struct bench *bench, enum verdict verdict,
                       const struct judgement *judgement, const struct event *event)
{
    static const int private_email[] = {
        [PRIVATE_EMAIL_UNSAID] = -1, [PRIVATE_EMAIL_NO] = 0, [PRIVATE_EMAIL_YES] = 1};
    const struct notification *notification = &judgement->notification;
    const struct config_app *app = policy_find(bench->policy, notification->aud);
    const struct outbox_row row = {
        .type = event->type,
        .client_id = notification->aud,
        .app = app ? app->app : NULL,
        .team = app ? app->team : NULL,
        .sub = event->sub,
        .email = event->email,
        .is_private_email = private_email[event->is_private_email],
        .event_time_ms = event->event_time_ms > 0 ? event->event_time_ms : -1,
        .issued_at_ms = notification->issued_at_s * 1000,
        .jti = notification->jti,
        .raw_type = event->raw_type,
    };
    json_t *object = event_json(&row);

    if (!object)
        return -ENOMEM;
    if (verdict == VERDICT_ACCEPTED && app && policy_ignores(app, event->kind))
        verdict = VERDICT_IGNORED;
    return print_outcome(verdict, judgement, object);
}

static int print_judgement(const struct bench *bench, const struct judgement *judgement)
{
    const struct notification *notification = &judgement->notification;
    enum verdict verdict = settle(bench, judgement);
    int error = 0;

    if ((verdict != VERDICT_ACCEPTED && verdict != VERDICT_QUARANTINED) ||
        notification->event_count == 0) {
        error = print_refusal(verdict, judgement);
    } else {
        for (size_t i = 0; i < notification->event_count && error == 0; i++)
            error = print_event(bench, verdict, judgement, &notification->events[i]);
    }
    if (error < 0) {
        /* Of standard output the caller speaks. */
        if (error == -ENOMEM)
            cli_error(verify_name, "%s", strerror(-error));
        return CLI_REFUSED;
    }
    return verdict == VERDICT_ACCEPTED ? CLI_OK : CLI_REFUSED;
}

/* A body begins with a brace, a token never does. The white space around a token is that of whoever
 * pasted it. */
static void judge_input(struct bench *bench, const char *text, size_t bytes,
                        struct judgement *ret_judgement)
{
    size_t all_bytes = bytes;
    const struct judge_rules rules = {
        .keys = {.find = find_key,
                 .context = bench,
                 .usable = bench->published ||
                           (bench->snapshot && key_snapshot_usable(bench->snapshot, bench->now_s))},
        .audience_known = audience_known,
        .audience_context = bench,
        .issuers = bench->config->issuers,
        .issuer_count = bench->config->issuer_count,
        .now_s = bench->now_s,
        .leeway_s = bench->config->limits.leeway_s,
    };

    while (bytes > 0 && strchr(VERIFY_WHITE_SPACE, *text)) {
        text++;
        bytes--;
    }
    while (bytes > 0 && strchr(VERIFY_WHITE_SPACE, text[bytes - 1]))
        bytes--;
    bool body = bytes > 0 && *text == '{';
    if ((body ? all_bytes : bytes) > bench->config->limits.body_bytes)
        *ret_judgement = (struct judgement){.verdict = VERDICT_TOO_LARGE};
    else if (body)
        judge_body(bench->context, &rules, text, bytes, ret_judgement);
    else
        judge_token(bench->context, &rules, text, bytes, ret_judgement);
}

static int verify(const char *config_file, int64_t now_s)
{
    struct judgement judgement = {.verdict = VERDICT_TOO_LARGE};
    struct bench bench = {.now_s = now_s};
    size_t bytes = 0;
    char *text = NULL;
    int code = CLI_REFUSED;

    int error = cli_read_stdin(NOTIFICATION_BODY_MAX_BYTES, &text, &bytes);
    if (error == -EFBIG) {
        (void)print_refusal(VERDICT_TOO_LARGE, &judgement);
        return CLI_REFUSED;
    }
    if (error < 0) {
        cli_error(verify_name, "standard input: %s", strerror(-error));
        return CLI_REFUSED;
    }
    if (open_bench(config_file, &bench) == 0) {
        judge_input(&bench, text, bytes, &judgement);
        code = print_judgement(&bench, &judgement);
        judgement_release(&judgement);
    }
    close_bench(&bench);
    free(text);
    return code;
}

int cli_verify(int argc, char **argv)
{
    const char *config_file = CONFIG_DEFAULT_FILE, *at = NULL;
    bool json = false;
    const struct cli_option options[] = {
        cli_text("at", "TIME", "judge as of then: " MOMENT_FORMS, &at),
        cli_config_option(&config_file),
        cli_flag("json", "as always here", &json),
        {.name = NULL}};
    const struct cli_usage usage = {
        .name = verify_name, .operands = "", .about = verify_about, .options = options};
    int64_t now_s = clock_wall_ms() / 1000;
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    if (at && moment_parse(at, &now_s) < 0) {
        cli_error(verify_name, "--at: is no time; write " MOMENT_FORMS);
        return CLI_USAGE;
    }
    return verify(config_file, now_s);
}
