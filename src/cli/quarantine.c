/*
 * quarantine: shows what the daemon stored apart; releases or drops one of it.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/daemon.h"
#include "cli/moment.h"
#include "support/config.h"

static const char quarantine_name[] = "quarantine";

static const char quarantine_about[] =
    "list shows what the daemon stored apart: what Apple signed for one of the apps, but\n"
    "was expired on arrival (expired), of an issuer that is not configured\n"
    "(unknown_issuer), by a key that Apple withdrew 48 hours ago or longer (old_key), or\n"
    "with events that cannot be understood (events_unclear).\n"
    "\n"
    "release ID verifies its signature again and makes events of it, as if it had been\n"
    "accepted; what was stored before is a duplicate. What cannot be understood stays.\n"
    "drop ID removes it for good.\n"
    "\n"
    "Asks the running daemon, as root or as its user. Exit status: 0 when done, 1 when\n"
    "not, 2 for a wrong command line.";

static void release_json(json_t **value)
{
    json_decref(*value);
}

static int ask(const struct config *config, const char *path, const json_t *body,
               json_t **ret_answer)
{
    const struct daemon_request request = {
        .config = config, .path = path, .body = body, .timeout_ms = DAEMON_CALL_MS};
    char why[DAEMON_WHY_BYTES] = "";
    unsigned status;
    int error = daemon_ask(&request, ret_answer, &status, why);

    if (error == 0)
        return CLI_OK;
    cli_error(quarantine_name, "%s%s", error == -ENOENT ? "the daemon is not running: " : "", why);
    return CLI_REFUSED;
}

/* ---- the actions ---- */

static int print_json(json_t *value)
{
    int error = cli_print_json(value);

    if (error == 0)
        return CLI_OK;
    cli_error(quarantine_name, "%s", strerror(-error));
    return CLI_REFUSED;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "-";
}

/* Whatever cannot be written is noticed when standard output is flushed. */
static void print_list(const json_t *rows)
{
    if (json_array_size(rows) == 0) {
        (void)puts("nothing is in quarantine");
        return;
    }
    (void)printf("%6s  %-15s  %-20s  %6s  %s\n", "ID", "REASON", "RECEIVED", "BYTES", "CLIENT_ID");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        char received[MOMENT_TEXT_BYTES];

        moment_text(json_integer_value(json_object_get(row, "received_at_ms")), received);
        (void)printf("%6lld  %-15s  %-20s  %6lld  %s\n",
                     (long long)json_integer_value(json_object_get(row, "id")),
                     text_of(row, "reason"), received,
                     (long long)json_integer_value(json_object_get(row, "bytes")),
                     text_of(row, "client_id"));
    }
}

static int list(const struct config *config, bool json)
{
    __attribute__((cleanup(release_json))) json_t *answer = NULL;
    int code = ask(config, "/v1/quarantine", NULL, &answer);

    if (code != CLI_OK)
        return code;
    if (json)
        return print_json(json_incref(answer));
    print_list(json_object_get(answer, "quarantine"));
    return CLI_OK;
}

static void print_change(const json_t *answer)
{
    long long id = (long long)json_integer_value(json_object_get(answer, "id"));
    long long rows = (long long)json_integer_value(json_object_get(answer, "rows"));
    long long first = (long long)json_integer_value(json_object_get(answer, "first_row"));

    (void)printf("%lld: %s", id, text_of(answer, "outcome"));
    if (rows == 1)
        (void)printf(", row %lld of the outbox", first);
    else if (rows > 1)
        (void)printf(", rows %lld to %lld of the outbox", first, first + rows - 1);
    (void)puts("");
}

static int change(const struct config *config, const char *verb, const char *id, bool json)
{
    __attribute__((cleanup(release_json))) json_t *answer = NULL, *nothing = json_object();
    char path[64];

    if (!nothing) {
        cli_error(quarantine_name, "memory is out");
        return CLI_REFUSED;
    }
    (void)snprintf(path, sizeof path, "/v1/quarantine/%s/%s", id, verb);
    int code = ask(config, path, nothing, &answer);
    if (code != CLI_OK)
        return code;
    if (json)
        return print_json(json_incref(answer));
    print_change(answer);
    return CLI_OK;
}

/* ---- the command ---- */

static bool is_id(const char *text)
{
    size_t digits = strspn(text, "0123456789");

    return digits > 0 && digits < 19 && text[digits] == '\0';
}

/* CLI_OK, or what is wrong with the operands, which was explained. */
static int check_operands(int count, char **operands)
{
    bool changes = strcmp(operands[0], "release") == 0 || strcmp(operands[0], "drop") == 0;

    if (!changes && strcmp(operands[0], "list") != 0)
        cli_error(quarantine_name, "there is no `%s`; it has list, release ID and drop ID",
                  operands[0]);
    else if (count != (changes ? 2 : 1))
        cli_error(quarantine_name,
                  changes ? "%s takes one ID, as `quarantine list` shows it"
                          : "%s takes no operand",
                  operands[0]);
    else if (changes && !is_id(operands[1]))
        cli_error(quarantine_name, "an ID is a number, as `quarantine list` shows it");
    else
        return CLI_OK;
    return CLI_USAGE;
}

int cli_quarantine(int argc, char **argv)
{
    const char *config_file = CONFIG_DEFAULT_FILE;
    bool json = false;
    const struct cli_option options[] = {
        cli_config_option(&config_file), cli_json_option(&json), {.name = NULL}};
    const struct cli_usage usage = {.name = quarantine_name,
                                    .operands = "list | release ID | drop ID",
                                    .operands_min = 1,
                                    .operands_max = 2,
                                    .about = quarantine_about,
                                    .options = options};
    struct config *config;
    int first, exit_code;

    if (!cli_parse(&usage, argc, argv, &first, &exit_code))
        return exit_code;
    exit_code = check_operands(argc - first, &argv[first]);
    if (exit_code != CLI_OK)
        return exit_code;
    if (cli_load_config(quarantine_name, config_file, &config) != CLI_OK)
        return CLI_REFUSED;
    exit_code = strcmp(argv[first], "list") == 0
                    ? list(config, json)
                    : change(config, argv[first], argv[first + 1], json);
    config_free(config);
    return exit_code;
}
