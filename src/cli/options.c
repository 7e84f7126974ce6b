#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "support/config.h"
#include "support/version.h"

#define READ_STEP_BYTES 65536
#define HELP_COLUMN     24

/* What getopt_long gives for an option: its index, moved away from '?', ':' and 'h'. */
#define OPTION_BASE 1000

struct cli_option cli_config_option(const char **value)
{
    return cli_text("config", "FILE", "the configuration file", value);
}

struct cli_option cli_json_option(bool *value)
{
    return cli_flag("json", "print JSON, one object a line", value);
}

void cli_error(const char *name, const char *format, ...)
{
    va_list arguments;

    (void)fprintf(stderr, SIWA_NAME " %s: ", name);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
}

static void print_option(const char *name, const char *argument, const char *help)
{
    char left[64];

    (void)snprintf(left, sizeof left, "  --%s%s%s", name, argument != NULL ? " " : "",
                   argument != NULL ? argument : "");
    (void)printf("%-*s %s\n", HELP_COLUMN, left, help);
}

static void print_usage(const struct cli_usage *usage)
{
    (void)printf("usage: " SIWA_NAME " %s [OPTION]...%s%s\n\n%s\n\nOptions:\n", usage->name,
                 *usage->operands != '\0' ? " " : "", usage->operands, usage->about);
    for (const struct cli_option *option = usage->options; option->name != NULL; option++)
        print_option(option->name, option->argument, option->help);
    print_option("help", NULL, "print this and exit");
}

/* A decimal number without anything around it. */
static bool parse_number(const char *text, int64_t *ret_number)
{
    char *end = NULL;
    long long number;

    if ((*text < '0' || *text > '9') && *text != '-')
        return false;
    errno = 0;
    number = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0')
        return false;
    *ret_number = number;
    return true;
}

static bool store(const struct cli_usage *usage, const struct cli_option *option, const char *text)
{
    int64_t number = 0;

    switch (option->kind) {
    case CLI_OPTION_FLAG:
        *(bool *)option->value = true;
        return true;
    case CLI_OPTION_TEXT:
        *(const char **)option->value = text;
        return true;
    case CLI_OPTION_NUMBER:
        if (!parse_number(text, &number) || number < option->min || number > option->max) {
            cli_error(usage->name, "--%s takes a number from %lld to %lld", option->name,
                      (long long)option->min, (long long)option->max);
            return false;
        }
        *(int64_t *)option->value = number;
        return true;
    }
    return false;
}

static bool refuse_usage(const struct cli_usage *usage, int *ret_exit)
{
    (void)fprintf(stderr, "`" SIWA_NAME " %s --help` explains the command\n", usage->name);
    *ret_exit = CLI_USAGE;
    return false;
}

static bool check_operands(const struct cli_usage *usage, int count)
{
    if (count >= usage->operands_min && count <= usage->operands_max)
        return true;
    if (usage->operands_max == 0)
        cli_error(usage->name, "takes options only, but there is something else");
    else
        cli_error(usage->name, "expects %s after the options", usage->operands);
    return false;
}

/* getopt's table for the options of a command, with help at its end. Returns how many are ours. */
static int fill_table(const struct cli_usage *usage, struct option table[CLI_OPTIONS_MAX + 2])
{
    int count = 0;

    while (count < CLI_OPTIONS_MAX && usage->options[count].name != NULL) {
        const struct cli_option *option = &usage->options[count];

        table[count] = (struct option){
            .name = option->name,
            .has_arg = option->kind == CLI_OPTION_FLAG ? no_argument : required_argument,
            .val = OPTION_BASE + count};
        count++;
    }
    table[count] = (struct option){.name = "help", .val = 'h'};
    table[count + 1] = (struct option){.name = NULL};
    return count;
}

bool cli_parse(const struct cli_usage *usage, int argc, char **argv, int *ret_operands,
               int *ret_exit)
{
    struct option table[CLI_OPTIONS_MAX + 2];
    int count = fill_table(usage, table);
    int found;

    opterr = 0;
    optind = 0; /* glibc: start anew, also when another list was read before */
    while ((found = getopt_long(argc, argv, ":h", table, NULL)) != -1) {
        if (found == 'h') {
            print_usage(usage);
            *ret_exit = CLI_OK;
            return false;
        }
        if (found == ':') {
            cli_error(usage->name, "%s needs a value", argv[optind - 1]);
            return refuse_usage(usage, ret_exit);
        }
        if (found < OPTION_BASE || found >= OPTION_BASE + count) {
            cli_error(usage->name, "there is no such option, or it takes no value: %s",
                      argv[optind - 1]);
            return refuse_usage(usage, ret_exit);
        }
        if (!store(usage, &usage->options[found - OPTION_BASE], optarg))
            return refuse_usage(usage, ret_exit);
    }
    if (!check_operands(usage, argc - optind))
        return refuse_usage(usage, ret_exit);
    *ret_operands = optind;
    return true;
}

int cli_load_config(const char *name, const char *file, struct config **ret_config)
{
    if (config_load(file, stderr, ret_config) == 0)
        return CLI_OK;
    cli_error(name, "the configuration cannot be used");
    return CLI_REFUSED;
}

int cli_read_stdin(size_t max_bytes, char **ret_text, size_t *ret_bytes)
{
    size_t capacity = 0, bytes = 0;
    char *text = NULL;

    for (;;) {
        ssize_t got;

        if (bytes == capacity) {
            size_t wanted =
                max_bytes - bytes < READ_STEP_BYTES ? max_bytes : bytes + READ_STEP_BYTES;
            /* One byte more than may come shows that more came; another is for the NUL. */
            char *larger = realloc(text, wanted + 2);

            if (larger == NULL) {
                free(text);
                return -ENOMEM;
            }
            text = larger;
            capacity = wanted + 1;
        }
        got = read(STDIN_FILENO, text + bytes, capacity - bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int error = -errno;

            free(text);
            return error;
        }
        if (got == 0)
            break;
        bytes += (size_t)got;
        if (bytes > max_bytes) {
            free(text);
            return -EFBIG;
        }
    }
    text[bytes] = '\0';
    *ret_text = text;
    *ret_bytes = bytes;
    return 0;
}

static int output_error; /* errno of the first write that failed */

int cli_output_failed(void)
{
    int error = errno != 0 ? errno : EIO;

    if (output_error == 0)
        output_error = error;
    return -error;
}

int cli_output_error(void)
{
    return output_error;
}

int cli_write_json(FILE *stream, json_t *object)
{
    int result = 0;
    char *text;

    if (object == NULL)
        return -ENOMEM;
    text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (text == NULL)
        return -ENOMEM;
    errno = 0;
    if (fputs(text, stream) < 0 || fputc('\n', stream) == EOF)
        result = errno != 0 ? -errno : -EIO;
    free(text);
    return result;
}

int cli_page_begin(struct cli_page *page)
{
    page->text = NULL;
    page->bytes = 0;
    page->stream = open_memstream(&page->text, &page->bytes);
    return page->stream ? 0 : -ENOMEM;
}

int cli_page_end(struct cli_page *page)
{
    int result = fclose(page->stream) == 0 ? 0 : -ENOMEM;

    errno = 0;
    /* A pipe takes each piece whole or not at all: a signal ends a wait for who reads it, where the
     * rest of a longer one would be waited for again. */
    for (size_t at = 0, piece; result == 0 && at < page->bytes; at += piece) {
        piece = page->bytes - at < PIPE_BUF ? page->bytes - at : PIPE_BUF;
        if (fwrite(page->text + at, 1, piece, stdout) != piece)
            result = cli_output_failed();
    }
    if (result == 0 && fflush(stdout) != 0)
        result = cli_output_failed();
    free(page->text);
    *page = (struct cli_page){.stream = NULL};
    return result;
}

int cli_print_json(json_t *object)
{
    struct cli_page page;
    int result = cli_page_begin(&page), error;

    if (result < 0) {
        json_decref(object);
        return result;
    }
    result = cli_write_json(page.stream, object);
    error = cli_page_end(&page);
    return result < 0 ? result : error;
}

char *cli_keys_file(const char *database)
{
    const char *slash = strrchr(database, '/');
    char *path = NULL;

    if (asprintf(&path, "%.*s/keys.json", slash ? (int)(slash - database) : 1,
                 slash ? database : ".") < 0)
        return NULL;
    return path;
}
