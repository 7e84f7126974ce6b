/* Any bytes as a configuration: no crash, no leak, a word for every refusal, and whatever is
 * accepted prints and reads back as the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/config.h"

#define REQUIRE(condition) \
    do { \
        if (!(condition)) \
            abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
const char *__lsan_default_suppressions(void);
const char *__asan_default_options(void);

/* libconfig 1.5 itself leaks the text that it was reading when it met a syntax error. */
const char *__lsan_default_suppressions(void)
{
    return "leak:strbuf_append\nleak:libconfig_yylex\n";
}

/* Loads bytes through a file that is only memory. What was said is checked here. */
static struct config *load(const void *data, size_t bytes)
{
    char file[32], *said = NULL;
    struct config *config = NULL;
    int fd = memfd_create("config", MFD_CLOEXEC);
    size_t said_bytes = 0;
    FILE *problems = open_memstream(&said, &said_bytes);
    int result;

    REQUIRE(fd >= 0 && problems != NULL);
    REQUIRE(write(fd, data, bytes) == (ssize_t)bytes);
    (void)snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    result = config_load(file, problems, &config);
    REQUIRE(fclose(problems) == 0);
    (void)close(fd);
    REQUIRE((result == 0) == (config != NULL));
    REQUIRE(result == 0 || said_bytes > 0);
    for (size_t i = 0; i < said_bytes; i++)
        REQUIRE(said[i] == '\n' || (said[i] >= ' ' && said[i] < 0x7f));
    free(said);
    return config;
}

static char *print(const struct config *config, size_t *ret_bytes)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_bytes);

    REQUIRE(out != NULL);
    config_print(config, out);
    REQUIRE(fclose(out) == 0);
    return text;
}

/* Most of the time would go into fresh pages otherwise. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct config *config = load(data, bytes), *again;
    char *first, *second;
    size_t first_bytes = 0, second_bytes = 0;

    if (config == NULL)
        return 0;
    REQUIRE(config->app_count > 0 && config->issuer_count > 0);
    REQUIRE(config->retain.hard_s >= config->retain.events_s);
    REQUIRE(config->limits.connections > 0 && config->limits.body_bytes > 0);
    first = print(config, &first_bytes);
    again = load(first, first_bytes);
    REQUIRE(again != NULL);
    second = print(again, &second_bytes);
    REQUIRE(strcmp(first, second) == 0);
    free(first);
    free(second);
    config_free(config);
    config_free(again);
    return 0;
}
