/*
 * consumers: how far each consumer is.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/moment.h"
#include "dispatcher/consumers.h"
#include "listener/control.h"
#include "support/clock.h"

static const char consumers_name[] = "consumers";

static const char consumers_about[] =
    "Lists how far each consumer is: its position, how many events lie after it, how\n"
    "long the oldest of these has been there, and when it acknowledged last. Whether\n"
    "the daemon runs or not; who may read the database may run it. Consumers that\n"
    "left the configuration are marked with *. It says where events were removed\n"
    "before a consumer had acknowledged them; in JSON its position is then below\n"
    "pruned_through.\n"
    "\n"
    "Exit status: 0, 1 when something failed, 2 for a wrong command line.";

static json_int_t number(const json_t *consumer, const char *name)
{
    return json_integer_value(json_object_get(consumer, name));
}

static void print_consumers(const json_t *listed)
{
    const json_t *consumers = json_object_get(listed, "consumers"), *consumer;
    char acknowledged[MOMENT_TEXT_BYTES];
    size_t i;

    (void)printf("%-33s  %12s  %10s  %10s  %s\n", "CONSUMER", "POSITION", "LAG ROWS", "LAG S",
                 "LAST ACKNOWLEDGED");
    json_array_foreach(consumers, i, consumer)
    {
        json_int_t acknowledged_ms = number(consumer, "acknowledged_ms");
        bool configured = json_is_true(json_object_get(consumer, "configured"));

        moment_text(acknowledged_ms > 0 ? acknowledged_ms : -1, acknowledged);
        (void)printf("%s%-*s  %12lld  %10lld  %10lld  %s\n", configured ? "" : "*",
                     configured ? 33 : 32, json_string_value(json_object_get(consumer, "name")),
                     (long long)number(consumer, "position"),
                     (long long)number(consumer, "lag_rows"), (long long)number(consumer, "lag_s"),
                     acknowledged_ms > 0 ? acknowledged : "never");
    }
}

/* What was removed before a consumer had it is in no lag: it does not lie after anything. */
static void print_losses(const json_t *listed)
{
    const json_t *consumers = json_object_get(listed, "consumers"), *consumer;
    json_int_t pruned_through = number(listed, "pruned_through");
    size_t i;

    json_array_foreach(consumers, i, consumer)
    {
        const char *name = json_string_value(json_object_get(consumer, "name"));

        if (json_is_true(json_object_get(consumer, "configured")) &&
            number(consumer, "position") < pruned_through)
            (void)printf("\n%s: events up to %lld were removed before it acknowledged them.\n"
                         "It reads on after: siwa-notifyd seek --consumer %s --to %lld\n",
                         name, (long long)pruned_through, name, (long long)pruned_through);
    }
}

static int list(const struct config *config, json_t **ret_listed)
{
    struct outbox_reader *reader = NULL;
    struct consumers *consumers = NULL;
    char why[OUTBOX_WHY_BYTES] = "";
    int error = outbox_reader_open(config->database, &reader, why);

    if (error < 0) {
        cli_error(consumers_name, "%s", why);
        return error;
    }
    error = consumers_new(config, &consumers);
    if (error == 0)
        error = control_consumers_json(consumers, reader, clock_wall_ms(), ret_listed);
    if (error < 0)
        cli_error(consumers_name, "%s: %s", config->database, strerror(-error));
    consumers_free(consumers);
    outbox_reader_close(reader);
    return error;
}

int cli_consumers(int argc, char **argv)
{
    const char *config_file = CONFIG_DEFAULT_FILE;
    bool json = false;
    const struct cli_option options[] = {
        cli_config_option(&config_file), cli_json_option(&json), {.name = NULL}};
    const struct cli_usage usage = {
        .name = consumers_name, .operands = "", .about = consumers_about, .options = options};
    struct config *config = NULL;
    json_t *listed = NULL;
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    code = cli_load_config(consumers_name, config_file, &config);
    if (code != CLI_OK)
        return code;
    int error = list(config, &listed);
    config_free(config);
    if (error < 0)
        return CLI_REFUSED;
    if (json)
        return cli_print_json(listed) < 0 ? CLI_REFUSED : CLI_OK;
    print_consumers(listed);
    print_losses(listed);
    json_decref(listed);
    return CLI_OK;
}
