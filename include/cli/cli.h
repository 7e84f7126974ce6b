/*
 * cli: what all subcommands have in common: options, help, exit codes, input and output.
 *
 * A subcommand is one file, src/cli/NAME.c, with one function `int cli_NAME(int argc, char **argv)`
 * that stands in the table of commands.h. argv[0] is the subcommand's own name. It describes itself
 * in a struct cli_usage, calls cli_parse, does its work and returns an exit code; standard output
 * is flushed, and its errors noticed, by the caller.
 */
#ifndef SIWA_CLI_CLI_H
#define SIWA_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The exit codes of every subcommand. */
#define CLI_OK      0
#define CLI_REFUSED 1 /* it did not work, or the answer is no */
#define CLI_USAGE   2 /* the command line is wrong */

struct cli_command {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv);
};

/* Runs the subcommand that argv[1] names (or --help, --version, help COMMAND) and returns the exit
 * code of the process. Ignores SIGPIPE, so that a reader that goes away is an error like any other,
 * and occupies the standard descriptors that are closed, so that no file or socket of ours ever
 * becomes one. commands ends with a name of NULL. Once, from main. */
int cli_main(const struct cli_command *commands, int argc, char **argv);

/* One long option. Made by the functions below. */
#define CLI_OPTIONS_MAX 16
struct cli_option {
    const char *name;     /* without the dashes; NULL ends a list */
    const char *argument; /* what stands in the help, such as "FILE"; NULL for a flag */
    const char *help;     /* one line, lower case, no full stop */
    enum { CLI_OPTION_FLAG, CLI_OPTION_TEXT, CLI_OPTION_NUMBER } kind;
    void *value;
    int64_t min, max;
};

/* --NAME sets *value to true. */
static inline struct cli_option cli_flag(const char *name, const char *help, bool *value)
{
    return (struct cli_option){.name = name, .help = help, .kind = CLI_OPTION_FLAG, .value = value};
}

/* --NAME ARGUMENT stores the text, borrowed from argv. Given twice, the last one counts. */
static inline struct cli_option cli_text(const char *name, const char *argument, const char *help,
                                         const char **value)
{
    return (struct cli_option){
        .name = name, .argument = argument, .help = help, .kind = CLI_OPTION_TEXT, .value = value};
}

/* --NAME ARGUMENT stores a decimal number of min to max; others are a usage error. */
static inline struct cli_option cli_number(const char *name, const char *argument, const char *help,
                                           int64_t *value, int64_t min, int64_t max)
{
    return (struct cli_option){.name = name,
                               .argument = argument,
                               .help = help,
                               .kind = CLI_OPTION_NUMBER,
                               .value = value,
                               .min = min,
                               .max = max};
}

/* --config FILE (-c); set *value to CONFIG_DEFAULT_FILE before. */
struct cli_option cli_config_option(const char **value);

/* --json. */
struct cli_option cli_json_option(bool *value);

/* Loads a configuration for the subcommand name, and explains on standard error what is wrong with
 * it, or hardly meant. CLI_OK, or CLI_REFUSED with ret_config untouched. */
struct config;
int cli_load_config(const char *name, const char *file, struct config **ret_config);

/* The path of keys.json, which stands beside the database; the caller frees it. NULL when memory is
 * out. */
char *cli_keys_file(const char *database);

/* What a subcommand says of itself. --help (-h) need not be listed. */
struct cli_usage {
    const char *name;     /* as typed */
    const char *operands; /* what follows the options, such as "FILE"; "" for nothing */
    int operands_min, operands_max;
    const char *about;                /* a paragraph or more, each line at most 79 columns */
    const struct cli_option *options; /* at most CLI_OPTIONS_MAX */
};

/* Reads the options of argv and leaves the number of its first operand in ret_operands (operands
 * may stand between options; after `--` there are no options). Returns true to go on. After --help
 * or an error, which was explained on standard error, returns false with the exit code in ret_exit.
 */
bool cli_parse(const struct cli_usage *usage, int argc, char **argv, int *ret_operands,
               int *ret_exit);

/* Writes `siwa-notifyd NAME: …` and a newline on standard error. */
void cli_error(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* All of standard input, up to max_bytes, newly allocated with a NUL after its end; the caller
 * frees it. 0, -EFBIG when there is more, -ENOMEM, -errno of reading. */
int cli_read_stdin(size_t max_bytes, char **ret_text, size_t *ret_bytes);

/* To be called when a write on standard output has failed, with errno as it left it: stdio keeps
 * only that one did, and cli_main shall say why. Returns -errno, -EIO where that is 0. */
int cli_output_failed(void);

/* The errno of the first write that was told of so; 0 for none. */
int cli_output_error(void);

/* Writes one JSON object as one line on standard output and flushes it. Takes over the reference,
 * also on error; NULL (memory was out when it was built) is -ENOMEM. Only for objects of our own
 * making: the library's dump recurses. 0, or -errno of writing. */
int cli_print_json(json_t *object);

/* The same on any stream, not flushed. */
int cli_write_json(FILE *stream, json_t *object);

/* What is printed of a transaction is gathered while it lasts, and written after it: with somebody
 * who does not read on, a pager say, it would stay open, and with it the write-ahead log would grow
 * and an erasure stay pending. */
struct cli_page {
    FILE *stream; /* to be written to between begin and end; else NULL */
    char *text;   /* private */
    size_t bytes;
};

int cli_page_begin(struct cli_page *page); /* 0 or -ENOMEM */

/* Writes it on standard output and flushes that. 0, -ENOMEM, or -errno of writing. */
int cli_page_end(struct cli_page *page);

#endif
