#include <stddef.h>

#include "cli/cli.h"
#include "cli/commands.h"

int main(int argc, char **argv)
{
    static const struct cli_command commands[] = {
#define CLI_COMMAND_ROW(name, text, summary) {text, summary, cli_##name},
        CLI_COMMAND_TABLE(CLI_COMMAND_ROW)
#undef CLI_COMMAND_ROW
            {NULL, NULL, NULL}};

    return cli_main(commands, argc, argv);
}
