#include "move.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/daemon.h"
#include "consume.h"

static int ask(const struct move *move, const struct config *config, const char *consumer,
               int64_t id, bool json)
{
    char path[128], why[DAEMON_WHY_BYTES];
    json_t *body = json_pack("{s:I}", move->option, (json_int_t)id), *answer = NULL;
    const struct daemon_request request = {
        .config = config, .path = path, .body = body, .timeout_ms = DAEMON_CALL_MS};
    unsigned status;

    (void)snprintf(path, sizeof path, "/v1/consumers/%s/%s", consumer, move->name);
    int error = body ? daemon_ask(&request, &answer, &status, why) : -ENOMEM;
    json_decref(body);
    if (error == -ENOMEM) {
        cli_error(move->name, "memory is out");
        return CLI_REFUSED;
    }
    if (error < 0) {
        cli_error(move->name, "%s%s", error == -ENOENT ? "the daemon is not running: " : "", why);
        return CLI_REFUSED;
    }
    if (json)
        return cli_print_json(answer) < 0 ? CLI_REFUSED : CLI_OK;
    (void)printf("%s: %s %lld\n", consumer, move->done, (long long)id);
    json_decref(answer);
    return CLI_OK;
}

int move_run(const struct move *move, int argc, char **argv)
{
    const char *config_file = CONFIG_DEFAULT_FILE, *consumer = NULL;
    int64_t id = -1;
    bool json = false;
    const struct cli_option options[] = {
        cli_text("consumer", "NAME", "which consumer, as the configuration names it", &consumer),
        cli_number(move->option, "ID", move->help, &id, 0, INT64_MAX),
        cli_config_option(&config_file),
        cli_json_option(&json),
        {.name = NULL}};
    const struct cli_usage usage = {
        .name = move->name, .operands = "", .about = move->about, .options = options};
    struct config *config = NULL;
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    if (!consumer || id < 0) {
        cli_error(move->name, "it takes --consumer NAME and --%s ID", move->option);
        return CLI_USAGE;
    }
    if (!consume_name_good(move->name, consumer))
        return CLI_USAGE;
    code = cli_load_config(move->name, config_file, &config);
    if (code != CLI_OK)
        return code;
    code = ask(move, config, consumer, id, json);
    config_free(config);
    return code;
}
