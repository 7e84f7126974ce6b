/*
 * config: any bytes as a configuration. A word for every refusal, and nothing in it that is not
 * printable; what is accepted is complete, and prints and reads back as the same.
 *
 * Leaks are counted here, against what libconfig alone leaves behind of the same text: 1.5 leaks
 * what it was reading when it met a syntax error, or keeps it until the next time. libFuzzer's own
 * search for leaks, eight milliseconds each, would follow every other input.
 */
#include <libconfig.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../src/support/config_repeats.h"
#include "fuzz.h"
#include "support/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
const char *__lsan_default_suppressions(void);
const char *__asan_default_options(void);
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static ptrdiff_t blocks; /* allocated and not yet freed */

const char *__lsan_default_suppressions(void)
{
    return "leak:strbuf_append\nleak:libconfig_yylex\n";
}

/* Most of the time would go into fresh pages otherwise. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

static void on_malloc(const volatile void *block, size_t bytes)
{
    (void)bytes;
    blocks += block != NULL;
}

static void on_free(const volatile void *block)
{
    blocks -= block != NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    HOLDS(__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) > 0);
    return 0;
}

/* Reads a text; what was said of it is checked here. */
static struct config *parse(const char *text, size_t bytes)
{
    struct config *config = NULL;
    char *said = NULL;
    size_t said_bytes = 0;
    FILE *problems = open_memstream(&said, &said_bytes);
    int result;

    HOLDS(problems != NULL);
    result = config_parse(text, bytes, "f", problems, &config);
    HOLDS(fclose(problems) == 0);
    HOLDS((result == 0) == (config != NULL));
    HOLDS(result == 0 || said_bytes > 0);
    for (size_t i = 0; i < said_bytes; i++)
        HOLDS(said[i] == '\n' || (said[i] >= ' ' && said[i] < 0x7f));
    free(said);
    return config;
}

static char *print(const struct config *config, size_t *ret_bytes)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_bytes);

    HOLDS(out != NULL);
    config_print(config, out);
    HOLDS(fclose(out) == 0);
    return text;
}

static void check_accepted(const struct config *config)
{
    size_t first_bytes = 0, second_bytes = 0;
    char *first = print(config, &first_bytes);
    struct config *again = parse(first, first_bytes);
    ptrdiff_t before = blocks;
    char *second;

    HOLDS(config->app_count > 0 && config->issuer_count > 0);
    HOLDS(config->retain.hard_s >= config->retain.events_s);
    HOLDS(config->limits.connections > 0 && config->limits.body_bytes > 0);
    HOLDS(again != NULL);
    second = print(again, &second_bytes);
    HOLDS(strcmp(first, second) == 0);
    free(second);
    HOLDS(blocks == before);
    config_free(again);
    free(first);
}

static void ignore_repeat(void *context, const struct config_repeat *repeat)
{
    (void)context;
    HOLDS(repeat->name_bytes > 0 && repeat->first_line > 0 && repeat->first_line <= repeat->line);
}

/* Whether what libconfig stopped at is a setting that stands there twice. */
static bool read_once_by_libconfig(const char *text)
{
    struct config_t tree;
    bool repeated;

    config_init(&tree);
    config_set_include_dir(&tree, "/dev/null");
    repeated = !config_read_string(&tree, text) && config_error_text(&tree) != NULL &&
               strstr(config_error_text(&tree), "duplicate") != NULL;
    config_destroy(&tree);
    return repeated;
}

/* As the daemon has it read. */
static void read_by_libconfig(const char *text)
{
    char *copy;

    if (!read_once_by_libconfig(text))
        return;
    copy = strdup(text);
    HOLDS(copy != NULL);
    if (config_repeats_blank(copy, ignore_repeat, NULL))
        HOLDS(!read_once_by_libconfig(copy));
    else
        (void)read_once_by_libconfig(copy);
    HOLDS(strlen(copy) == strlen(text));
    free(copy);
}

static void check_leaks(const char *text, size_t bytes)
{
    ptrdiff_t before, ours, theirs;

    read_by_libconfig(text); /* now it holds of this text what it will hold */
    before = blocks;
    config_free(parse(text, bytes));
    ours = blocks - before;
    before = blocks;
    read_by_libconfig(text);
    theirs = blocks - before;
    HOLDS(ours == theirs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *config;
    char *text = malloc(size + 1); /* its own, so that a byte too far is seen */

    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    config = parse(text, size);
    if (config != NULL)
        check_accepted(config);
    config_free(config);
    if (strlen(text) == size)
        check_leaks(text, size);
    free(text);
    return 0;
}
