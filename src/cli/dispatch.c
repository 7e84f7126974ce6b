#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "support/version.h"
#include "support/words.h"

static const struct cli_command *find(const struct cli_command *commands, const char *name)
{
    for (const struct cli_command *command = commands; command->name != NULL; command++) {
        if (strcmp(command->name, name) == 0)
            return command;
    }
    return NULL;
}

static const char *nearest(const struct cli_command *commands, const char *name)
{
    const char *best = NULL;
    size_t best_distance = WORDS_ALIKE_MOST + 1;

    for (const struct cli_command *command = commands; command->name != NULL; command++) {
        size_t changes = words_distance(name, command->name);

        if (changes < best_distance) {
            best_distance = changes;
            best = command->name;
        }
    }
    return best;
}

static void print_help(const struct cli_command *commands, FILE *out)
{
    (void)fputs(
        "usage: " SIWA_NAME " COMMAND [OPTION]...\n"
        "\n"
        "Receives the server-to-server notifications of Sign in with Apple, verifies them,\n"
        "and commits them to an outbox before it answers 200.\n"
        "\n"
        "Commands:\n",
        out);
    for (const struct cli_command *command = commands; command->name != NULL; command++)
        (void)fprintf(out, "  %-13s %s\n", command->name, command->summary);
    (void)fputs("\n"
                "`" SIWA_NAME " COMMAND --help` explains one of them; " SIWA_NAME "(8) all.\n",
                out);
}

static int unknown_command(const struct cli_command *commands, const char *name)
{
    const char *like = nearest(commands, name);

    if (like != NULL)
        (void)fprintf(stderr, SIWA_NAME ": there is no command '%s'; did you mean '%s'?\n", name,
                      like);
    else
        (void)fprintf(stderr,
                      SIWA_NAME ": there is no command '%s'; `" SIWA_NAME " --help` lists them\n",
                      name);
    return CLI_USAGE;
}

static int run_help(const struct cli_command *commands, int argc, char **argv)
{
    const struct cli_command *command;
    char help[] = "--help";

    if (argc < 3 || strcmp(argv[2], help) == 0) {
        print_help(commands, stdout);
        return CLI_OK;
    }
    command = find(commands, argv[2]);
    if (command == NULL)
        return unknown_command(commands, argv[2]);
    return command->run(2, (char *[]){argv[2], help, NULL});
}

static int dispatch(const struct cli_command *commands, int argc, char **argv)
{
    const struct cli_command *command;

    if (argc < 2) {
        print_help(commands, stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(commands, stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "help") == 0)
        return run_help(commands, argc, argv);
    if (strcmp(argv[1], "--version") == 0) {
        (void)puts(SIWA_NAME " " SIWA_VERSION);
        return CLI_OK;
    }
    command = find(commands, argv[1]);
    if (command == NULL)
        return unknown_command(commands, argv[1]);
    return command->run(argc - 1, argv + 1);
}

/* A closed descriptor below 3 would be given to the next file that is opened, and the log would be
 * written into the database. What stands in for output refuses to be written, so that an output
 * that goes nowhere is still noticed. */
static void occupy_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
            continue;
        /* The lowest free number is this one, as those below are occupied. */
        (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
}

int cli_main(const struct cli_command *commands, int argc, char **argv)
{
    int code;

    occupy_standard_descriptors();
    (void)signal(SIGPIPE, SIG_IGN);
    code = dispatch(commands, argc, argv);
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        int error = cli_output_error() != 0 ? cli_output_error() : errno;

        /* Who stops reading knows; everybody else should. */
        if (error != EPIPE)
            (void)fprintf(stderr, SIWA_NAME ": cannot write standard output: %s\n",
                          error != 0 ? strerror(error) : "an earlier write failed");
        return code == CLI_OK ? CLI_REFUSED : code;
    }
    return code;
}
