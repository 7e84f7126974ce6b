#include <stdio.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "support/config.h"

int cli_check_config(int argc, char **argv)
{
    const char *file = CONFIG_DEFAULT_FILE;
    bool print = false;
    const struct cli_option options[] = {
        cli_config_option(&file),
        cli_flag("print", "print the configuration in effect, defaults included", &print),
        {.name = NULL}};
    const struct cli_usage usage = {
        .name = "check-config",
        .operands = "",
        .about =
            "Reads a configuration as the daemon would, and names every problem with its line\n"
            "on standard error. What --print writes can be read back.",
        .options = options};
    struct config *config = NULL;
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    exit_code = cli_load_config(usage.name, file, &config);
    if (exit_code != CLI_OK)
        return exit_code;
    if (print)
        config_print(config, stdout);
    else
        (void)printf("%s: ok (apps: %zu, consumers: %zu)\n", file, config->app_count,
                     config->consumer_count);
    config_free(config);
    return CLI_OK;
}
