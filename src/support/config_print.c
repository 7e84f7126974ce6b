#include <inttypes.h>
#include <string.h>

#include "config_table.h"
#include "support/config.h"

static void print_quoted(FILE *out, const char *text)
{
    (void)fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            (void)fputc('\\', out);
        (void)fputc(*text, out);
    }
    (void)fputc('"', out);
}

static void print_duration(FILE *out, int64_t seconds)
{
    static const struct {
        int64_t unit_s;
        char letter;
    } units[] = {{DAY_S, 'd'}, {60 * MINUTE_S, 'h'}, {MINUTE_S, 'm'}, {1, 's'}};
    size_t i = 0;

    while (seconds % units[i].unit_s != 0)
        i++;
    /* Nothing is 0s, whatever the unit. */
    if (seconds == 0)
        i = sizeof units / sizeof *units - 1;
    (void)fprintf(out, "\"%" PRId64 "%c\"", seconds / units[i].unit_s, units[i].letter);
}

static void print_keys(FILE *out, const struct config *config)
{
    (void)fprintf(out, "\"%s",
                  config->keys_source == CONFIG_KEYS_URL    ? "url"
                  : config->keys_source == CONFIG_KEYS_UNIX ? "unix:"
                                                            : "file:");
    /* A path may hold a quote; the first one is ours. */
    for (const char *at = config->keys_path; at != NULL && *at != '\0'; at++) {
        if (*at == '"' || *at == '\\')
            (void)fputc('\\', out);
        (void)fputc(*at, out);
    }
    (void)fputc('"', out);
}

static void print_ignore(FILE *out, unsigned mask)
{
    const char *separator = " ";

    (void)fputc('[', out);
#define IGNORE_ROW(text, bit) \
    if ((mask & 1U << (bit)) != 0) { \
        (void)fprintf(out, "%s\"%s\"", separator, text); \
        separator = ", "; \
        mask &= ~(1U << (bit)); \
    }
    CONFIG_IGNORE_TABLE(IGNORE_ROW)
#undef IGNORE_ROW
    (void)fputs(" ]", out);
}

static void print_issuers(FILE *out, const struct config *config)
{
    (void)fputs("[ ", out);
    for (size_t i = 0; i < config->issuer_count; i++) {
        (void)fputs(i > 0 ? ", " : "", out);
        print_quoted(out, config->issuers[i]);
    }
    (void)fputs(" ]", out);
}

static void print_section(FILE *out, const struct config *config, const char *section,
                          const void *owner, const char *indent, const char *end);

static void print_groups(FILE *out, const struct config *config, const char *section,
                         const void *array, size_t count, size_t each_bytes)
{
    (void)fputc('(', out);
    for (size_t i = 0; i < count; i++) {
        (void)fputs(i > 0 ? ",\n  { " : "\n  { ", out);
        print_section(out, config, section, (const char *)array + i * each_bytes, "", " ");
        (void)fputc('}', out);
    }
    (void)fputs(count > 0 ? "\n)" : " )", out);
}

static void print_value(FILE *out, const struct config *config, const struct config_row *row,
                        const void *owner)
{
    const void *field = (const char *)owner + row->offset;
    const char *text;

    switch (row->kind) {
    case CONFIG_KIND_ADDRESS:
    case CONFIG_KIND_ADDRESS_OR_NONE:
    case CONFIG_KIND_UNIX_OR_NONE:
        print_quoted(out, ((const struct config_address *)field)->text);
        break;
    case CONFIG_KIND_KEYS:
        print_keys(out, config);
        break;
    case CONFIG_KIND_LATE:
        print_quoted(out, config->late == CONFIG_LATE_DELIVER  ? "deliver"
                          : config->late == CONFIG_LATE_REJECT ? "reject"
                                                               : "quarantine");
        break;
    case CONFIG_KIND_START:
        print_quoted(out, *(const bool *)field ? "now" : "oldest");
        break;
    case CONFIG_KIND_ERASE_AFTER:
        if (config->erase_after_s > 0)
            print_duration(out, config->erase_after_s);
        else
            print_quoted(out, config->erase_after_s == CONFIG_ERASE_OFF ? "off" : "acked");
        break;
    case CONFIG_KIND_DURATION:
        print_duration(out, *(const int64_t *)field);
        break;
    case CONFIG_KIND_NUMBER:
        (void)fprintf(out, "%u", *(const unsigned *)field);
        break;
    case CONFIG_KIND_SIZE:
        (void)fprintf(out, "%zu", *(const size_t *)field);
        break;
    case CONFIG_KIND_IGNORE:
        print_ignore(out, *(const unsigned *)field);
        break;
    case CONFIG_KIND_ISSUERS:
        print_issuers(out, config);
        break;
    case CONFIG_KIND_APPS:
        print_groups(out, config, "apps", config->apps, config->app_count, sizeof *config->apps);
        break;
    case CONFIG_KIND_CONSUMERS:
        print_groups(out, config, "consumers", config->consumers, config->consumer_count,
                     sizeof *config->consumers);
        break;
    case CONFIG_KIND_GROUP:
        (void)fputs("{\n", out);
        print_section(out, config, row->info.name, config, "  ", "\n");
        (void)fputc('}', out);
        break;
    default:
        text = *(const char *const *)field;
        print_quoted(out, text != NULL ? text : "");
        break;
    }
}

static void print_section(FILE *out, const struct config *config, const char *section,
                          const void *owner, const char *indent, const char *end)
{
    for (size_t i = 0; i < config_row_count; i++) {
        if (strcmp(config_rows[i].info.section, section) != 0)
            continue;
        (void)fprintf(out, "%s%s = ", indent, config_rows[i].info.name);
        print_value(out, config, &config_rows[i], owner);
        (void)fprintf(out, ";%s", end);
    }
}

void config_print(const struct config *config, FILE *out)
{
    print_section(out, config, "", config, "", "\n");
}
