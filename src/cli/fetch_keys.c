/*
 * fetch-keys: one fetch of Apple's key set, for a daemon that has no network itself.
 *
 * Runs behind a socket with Accept=yes: what it prints is what the daemon reads (keys =
 * "unix:/path"), so that even a failure is an answer there, and never only a line in a log.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "keys/fetch.h"
#include "support/config.h"
#include "support/log.h"
#include "verifier/jwks.h"

static const char fetch_keys_name[] = "fetch-keys";

static void release_text(char **text)
{
    free(*text);
}

static void release_set(struct jwks **set)
{
    jwks_free(*set);
}

static void release_config(struct config **config)
{
    config_free(*config);
}

/* Answers with a reason, and logs it. */
static int fail(const char *result, const char *why)
{
    log_event(LOG_LEVEL_WARNING, "no key set fetched", log_text("result", result),
              log_text("why", why));
    int error = cli_print_json(json_pack("{s:o}", "error", json_sprintf("%s: %s", result, why)));
    if (error < 0)
        cli_error(fetch_keys_name, "%s", strerror(-error));
    return CLI_REFUSED;
}

static int fetch(const struct config *config)
{
    /* Always key_url: `keys` may well name the socket that this runs behind. */
    const struct fetch_source source = {.kind = CONFIG_KEYS_URL,
                                        .url = config->key_url,
                                        .ca_file = config->ca_file,
                                        .proxy = config->proxy,
                                        .timeout_ms = FETCH_HELPER_TIMEOUT_MS};
    char *text __attribute__((cleanup(release_text))) = NULL;
    struct jwks *set __attribute__((cleanup(release_set))) = NULL;
    char why[FETCH_WHY_BYTES] = "";
    size_t bytes = 0;

    if (fetch_init() < 0)
        return fail(fetch_result_label(FETCH_RESULT_INTERNAL), "libcurl could not be prepared");
    enum fetch_result result = fetch_keys_text(&source, &text, &bytes, why);
    if (result != FETCH_RESULT_OK)
        return fail(fetch_result_label(result), why);

    char why_not[JWKS_WHY_BYTES] = "out of memory";
    int error = jwks_parse(text, bytes, &set, why_not);
    if (error < 0)
        return fail(
            fetch_result_label(error == -EINVAL ? FETCH_RESULT_BAD_SET : FETCH_RESULT_INTERNAL),
            why_not);
    /* As it came: the daemon judges it again, and what it cannot use is not lost on the way. */
    if (fwrite(text, 1, bytes, stdout) != bytes)
        return CLI_REFUSED; /* the caller says so */
    log_event(LOG_LEVEL_INFO, "key set fetched", log_number("keys", (int64_t)jwks_count(set)),
              log_number("passed_over", (int64_t)jwks_passed_over(set)),
              log_number("bytes", (int64_t)bytes));
    return CLI_OK;
}

int cli_fetch_keys(int argc, char **argv)
{
    const char *file = CONFIG_DEFAULT_FILE;
    bool json = false;
    const struct cli_option options[] = {
        cli_config_option(&file), cli_flag("json", "as always here", &json), {.name = NULL}};
    const struct cli_usage usage = {
        .name = fetch_keys_name,
        .operands = "",
        .about =
            "Fetches the key set from key_url (whatever `keys` says) and prints it, or\n"
            "{\"error\": \"...\"}, on standard output; logs on standard error. It is what answers\n"
            "behind the socket that keys = \"unix:/path\" names, so that the daemon itself needs\n"
            "no network.\n"
            "\n"
            "Exit status: 0 with a key set, 1 with an error, 2 for a wrong command line.",
        .options = options};
    struct config *config __attribute__((cleanup(release_config))) = NULL;
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    log_open(LOG_LEVEL_INFO);
    if (cli_load_config(usage.name, file, &config) != CLI_OK)
        return fail("configuration", "the fetch unit cannot use its configuration; see its log, or"
                                     " run check-config");
    return fetch(config);
}
