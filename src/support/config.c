#include "support/config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config_repeats.h"
#include "config_table.h"
#include "config_values.h"
#include "support/log.h"
#include "support/words.h"

/* Memory that lives as long as the configuration. */
struct block {
    struct block *next;
    _Alignas(max_align_t) char bytes[];
};

struct problem {
    unsigned line; /* 0: of the whole file */
    char *text;
};

/* One reading of one file. */
struct reader {
    struct config *config;
    struct config_t tree;
    struct problem problems[CONFIG_PROBLEMS_MAX];
    size_t problem_count;
    size_t problems_left_out;
    bool refused;
    bool out_of_memory;
};

struct version_library config_library(void)
{
    struct version_library library = {.name = "libconfig"};

    (void)snprintf(library.built, sizeof library.built, "%d.%d.%d", LIBCONFIG_VER_MAJOR,
                   LIBCONFIG_VER_MINOR, LIBCONFIG_VER_REVISION);
    memcpy(library.running, library.built, sizeof library.built); /* it does not tell */
    return library;
}

static void add_problem(struct reader *reader, unsigned line, const char *format, va_list arguments)
{
    struct problem problem = {.line = line};

    if (reader->problem_count == CONFIG_PROBLEMS_MAX) {
        reader->problems_left_out++;
        return;
    }
    if (vasprintf(&problem.text, format, arguments) < 0) {
        reader->out_of_memory = true;
        return;
    }
    reader->problems[reader->problem_count++] = problem;
}

static void __attribute__((format(printf, 3, 4)))
refuse(struct reader *reader, unsigned line, const char *format, ...)
{
    va_list arguments;

    reader->refused = true;
    va_start(arguments, format);
    add_problem(reader, line, format, arguments);
    va_end(arguments);
}

static void __attribute__((format(printf, 3, 4)))
warn(struct reader *reader, unsigned line, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    add_problem(reader, line, format, arguments);
    va_end(arguments);
}

/* Zeroed memory of the configuration, or NULL with out_of_memory set. */
static void *keep(struct reader *reader, size_t count, size_t each_bytes)
{
    struct block *block;

    if (count > (SIZE_MAX - sizeof *block) / each_bytes ||
        (block = calloc(1, sizeof *block + count * each_bytes)) == NULL) {
        reader->out_of_memory = true;
        return NULL;
    }
    block->next = reader->config->storage;
    reader->config->storage = block;
    return block->bytes;
}

static const char *keep_text(struct reader *reader, const char *text)
{
    char *copy = keep(reader, strlen(text) + 1, 1);

    if (copy != NULL)
        memcpy(copy, text, strlen(text));
    return copy;
}

static unsigned line_of(const config_setting_t *setting)
{
    return setting != NULL ? config_setting_source_line(setting) : 0;
}

/* The line of a setting by its path, or 0 where it is not in the file. */
static unsigned line_at(const struct reader *reader, const char *path)
{
    return line_of(config_lookup(&reader->tree, path));
}

/* "retain.events", "listen"; for messages. */
struct full_name {
    char text[64];
};

static struct full_name full_name_of(const struct config_row *row)
{
    struct full_name name;

    (void)snprintf(name.text, sizeof name.text, "%s%s%s", row->info.section,
                   *row->info.section != '\0' ? "." : "", row->info.name);
    return name;
}

static const char *expected_of(const struct config_row *row)
{
    switch (row->kind) {
    case CONFIG_KIND_NUMBER:
    case CONFIG_KIND_SIZE:
        return "a whole number, without quotes";
    case CONFIG_KIND_DURATION:
        return "a duration in quotes, such as \"90d\", \"12h\", \"30m\" or \"45s\"";
    case CONFIG_KIND_ISSUERS:
        return "an array of texts, [ \"https://appleid.apple.com\" ]";
    case CONFIG_KIND_IGNORE:
        return "an array of texts, [ \"email-enabled\", \"email-disabled\" ]";
    case CONFIG_KIND_APPS:
        return "a list of groups, ( { client_id = \"...\"; app = \"...\"; team = \"...\"; } )";
    case CONFIG_KIND_CONSUMERS:
        return "a list of groups, ( { name = \"...\"; user = \"...\"; } )";
    case CONFIG_KIND_GROUP:
        return "a group of settings, { ... }";
    default:
        return "text in quotes";
    }
}

static void refuse_type(struct reader *reader, const struct config_row *row,
                        const config_setting_t *setting)
{
    refuse(reader, line_of(setting), "%s: is of another type; takes %s", full_name_of(row).text,
           expected_of(row));
}

/* Stores a text that passed config_value_complaint. */
static void store_text(struct reader *reader, const struct config_row *row, const char *text,
                       void *field)
{
    switch (row->kind) {
    case CONFIG_KIND_ADDRESS:
    case CONFIG_KIND_ADDRESS_OR_NONE:
    case CONFIG_KIND_UNIX_OR_NONE:
        if (*text != '\0')
            (void)config_address_parse(text, field);
        break;
    case CONFIG_KIND_KEYS:
        if (config_value_keys(text, field, &reader->config->keys_path) &&
            reader->config->keys_path != NULL)
            reader->config->keys_path = keep_text(reader, reader->config->keys_path);
        break;
    case CONFIG_KIND_LATE:
        *(enum config_late *)field = strcmp(text, "deliver") == 0  ? CONFIG_LATE_DELIVER
                                     : strcmp(text, "reject") == 0 ? CONFIG_LATE_REJECT
                                                                   : CONFIG_LATE_QUARANTINE;
        break;
    case CONFIG_KIND_START:
        *(bool *)field = strcmp(text, "now") == 0;
        break;
    case CONFIG_KIND_ERASE_AFTER:
        (void)config_value_erase_after(text, field);
        break;
    case CONFIG_KIND_DURATION:
        (void)config_value_duration(text, field);
        break;
    case CONFIG_KIND_USER:
        *(const char **)field = *text != '\0' ? keep_text(reader, text) : NULL;
        break;
    default:
        *(const char **)field = keep_text(reader, text);
        break;
    }
}

static void read_text(struct reader *reader, const struct config_row *row,
                      const config_setting_t *setting, void *field)
{
    const char *complaint, *text;

    if (config_setting_type(setting) != CONFIG_TYPE_STRING) {
        refuse_type(reader, row, setting);
        return;
    }
    text = config_setting_get_string(setting);
    complaint = config_value_complaint(row->kind, text);
    if (complaint != NULL) {
        refuse(reader, line_of(setting), "%s: %s", full_name_of(row).text, complaint);
        return;
    }
    store_text(reader, row, text, field);
    if (row->kind == CONFIG_KIND_DURATION &&
        (*(int64_t *)field < row->info.min || *(int64_t *)field > row->info.max))
        refuse(reader, line_of(setting),
               "%s: is out of range; takes \"%" PRId64 "s\" to \"%" PRId64 "d\"",
               full_name_of(row).text, row->info.min, row->info.max / DAY_S);
}

static void store_number(const struct config_row *row, int64_t number, void *field)
{
    if (row->kind == CONFIG_KIND_SIZE)
        *(size_t *)field = (size_t)number;
    else
        *(unsigned *)field = (unsigned)number;
}

static void read_number(struct reader *reader, const struct config_row *row,
                        const config_setting_t *setting, void *field)
{
    int64_t number;

    if (config_setting_type(setting) == CONFIG_TYPE_INT) {
        number = config_setting_get_int(setting);
    } else if (config_setting_type(setting) == CONFIG_TYPE_INT64) {
        number = config_setting_get_int64(setting);
    } else {
        refuse_type(reader, row, setting);
        return;
    }
    if (number < row->info.min || number > row->info.max) {
        refuse(reader, line_of(setting), "%s: is out of range; takes %" PRId64 " to %" PRId64,
               full_name_of(row).text, row->info.min, row->info.max);
        return;
    }
    store_number(row, number, field);
}

/* Whether a setting is an array or list of texts that are all in order; says what is not. */
static bool check_texts(struct reader *reader, const struct config_row *row,
                        const config_setting_t *setting)
{
    bool good = true;

    if (!config_setting_is_array(setting) && !config_setting_is_list(setting)) {
        refuse_type(reader, row, setting);
        return false;
    }
    for (int i = 0; i < config_setting_length(setting); i++) {
        const config_setting_t *element = config_setting_get_elem(setting, (unsigned)i);
        const char *complaint;

        if (config_setting_type(element) != CONFIG_TYPE_STRING) {
            refuse_type(reader, row, element);
            return false;
        }
        complaint = config_value_complaint(row->kind, config_setting_get_string(element));
        if (complaint != NULL) {
            refuse(reader, line_of(element), "%s: %s", full_name_of(row).text, complaint);
            good = false;
        }
    }
    return good;
}

static void read_ignore(struct reader *reader, const struct config_row *row,
                        const config_setting_t *setting, void *field)
{
    unsigned mask = 0;

    if (!check_texts(reader, row, setting))
        return;
    for (int i = 0; i < config_setting_length(setting); i++) {
        const char *type = config_setting_get_string_elem(setting, i);
        unsigned bit = config_value_ignore_bit(type);

        if ((mask & bit) != 0)
            refuse(reader, line_of(setting), "apps.ignore: %s is named twice; once is enough",
                   type);
        mask |= bit;
        if (bit != config_value_ignore_bit("email-enabled") &&
            bit != config_value_ignore_bit("email-disabled"))
            warn(reader, line_of(setting),
                 "warning: apps.ignore: with %s ignored, nobody learns which personal data must "
                 "not be kept any longer",
                 type);
    }
    *(unsigned *)field = mask;
}

static void read_issuers(struct reader *reader, const struct config_row *row,
                         const config_setting_t *setting)
{
    struct config *config = reader->config;
    const char **issuers;
    int count;

    if (!check_texts(reader, row, setting))
        return;
    count = config_setting_length(setting);
    if (count == 0 || count > CONFIG_ISSUERS_MAX) {
        refuse(reader, line_of(setting), "issuers: there are %d; takes 1 to %d", count,
               CONFIG_ISSUERS_MAX);
        return;
    }
    issuers = keep(reader, (size_t)count, sizeof *issuers);
    for (int i = 0; issuers != NULL && i < count; i++) {
        issuers[i] = keep_text(reader, config_setting_get_string_elem(setting, i));
        for (int j = 0; j < i; j++) {
            if (issuers[i] != NULL && issuers[j] != NULL && strcmp(issuers[i], issuers[j]) == 0)
                refuse(reader, line_of(setting),
                       "issuers: number %d is number %d again; once is "
                       "enough",
                       i + 1, j + 1);
        }
    }
    config->issuers = issuers;
    config->issuer_count = issuers != NULL ? (size_t)count : 0;
}

static void read_section(struct reader *reader, const char *section, const config_setting_t *group,
                         void *owner);

/* Reads a list of groups into an array of structs, or NULL where the list itself is wrong. */
static void *read_groups(struct reader *reader, const struct config_row *row,
                         const config_setting_t *setting, int max, size_t each_bytes,
                         size_t *ret_count)
{
    char *array;
    int count;

    if (!config_setting_is_list(setting)) {
        refuse_type(reader, row, setting);
        return NULL;
    }
    count = config_setting_length(setting);
    if (count > max) {
        refuse(reader, line_of(setting), "%s: there are %d; takes at most %d", row->info.name,
               count, max);
        return NULL;
    }
    array = keep(reader, (size_t)count, each_bytes);
    for (int i = 0; array != NULL && i < count; i++) {
        const config_setting_t *element = config_setting_get_elem(setting, (unsigned)i);

        if (config_setting_is_group(element))
            read_section(reader, row->info.name, element, array + (size_t)i * each_bytes);
        else
            refuse_type(reader, row, element);
    }
    *ret_count = array != NULL ? (size_t)count : 0;
    return array;
}

/* Says which of the groups in a list repeat a text that must be their own. The texts are read from
 * the tree, so that what was refused for another reason is compared too. */
static void refuse_repeated(struct reader *reader, const char *list_name, const char *name)
{
    const config_setting_t *list = config_lookup(&reader->tree, list_name);
    int count = list != NULL && config_setting_is_list(list) ? config_setting_length(list) : 0;

    for (int i = 1; i < count; i++) {
        const char *text, *earlier;
        config_setting_t *group = config_setting_get_elem(list, (unsigned)i);

        if (!config_setting_is_group(group) || !config_setting_lookup_string(group, name, &text))
            continue;
        for (int j = 0; j < i; j++) {
            config_setting_t *other = config_setting_get_elem(list, (unsigned)j);
            char shown[80];

            if (!config_setting_is_group(other) ||
                !config_setting_lookup_string(other, name, &earlier) || strcmp(text, earlier) != 0)
                continue;
            (void)log_escape(text, strlen(text), shown, sizeof shown);
            refuse(reader, line_of(config_setting_get_member(group, name)),
                   "%s.%s: %s stands in line %u already; each takes one entry", list_name, name,
                   shown, line_of(config_setting_get_member(other, name)));
            break;
        }
    }
}

static void read_apps(struct reader *reader, const struct config_row *row,
                      const config_setting_t *setting)
{
    struct config *config = reader->config;

    config->apps = read_groups(reader, row, setting, CONFIG_APPS_MAX, sizeof *config->apps,
                               &config->app_count);
    if (config->apps != NULL && config->app_count == 0)
        refuse(reader, line_of(setting),
               "apps: there is none, so that every notification would be "
               "turned away; takes %s",
               expected_of(row));
    if (config->apps != NULL)
        refuse_repeated(reader, "apps", "client_id");
}

static void read_consumers(struct reader *reader, const struct config_row *row,
                           const config_setting_t *setting)
{
    struct config *config = reader->config;

    config->consumers = read_groups(reader, row, setting, CONFIG_CONSUMERS_MAX,
                                    sizeof *config->consumers, &config->consumer_count);
    if (config->consumers != NULL)
        refuse_repeated(reader, "consumers", "name");
}

static void read_setting(struct reader *reader, const struct config_row *row,
                         const config_setting_t *setting, void *owner)
{
    void *field = (char *)owner + row->offset;

    switch (row->kind) {
    case CONFIG_KIND_NUMBER:
    case CONFIG_KIND_SIZE:
        read_number(reader, row, setting, field);
        break;
    case CONFIG_KIND_ISSUERS:
        read_issuers(reader, row, setting);
        break;
    case CONFIG_KIND_IGNORE:
        read_ignore(reader, row, setting, field);
        break;
    case CONFIG_KIND_APPS:
        read_apps(reader, row, setting);
        break;
    case CONFIG_KIND_CONSUMERS:
        read_consumers(reader, row, setting);
        break;
    case CONFIG_KIND_GROUP:
        if (config_setting_is_group(setting))
            read_section(reader, row->info.name, setting, owner);
        else
            refuse_type(reader, row, setting);
        break;
    default:
        read_text(reader, row, setting, field);
        break;
    }
}

static void store_issuer_fallback(struct reader *reader, const char *issuer)
{
    const char **issuers = keep(reader, 1, sizeof *issuers);

    if (issuers == NULL)
        return;
    issuers[0] = keep_text(reader, issuer);
    reader->config->issuers = issuers;
    reader->config->issuer_count = 1;
}

/* What a setting is where the file does not name it. */
static void store_fallback(struct reader *reader, const struct config_row *row,
                           const config_setting_t *group, void *owner)
{
    void *field = (char *)owner + row->offset;

    if (row->info.fallback == NULL) {
        refuse(reader, *row->info.section != '\0' ? line_of(group) : 0, "%s: is missing; takes %s",
               full_name_of(row).text, expected_of(row));
        return;
    }
    switch (row->kind) {
    case CONFIG_KIND_NUMBER:
    case CONFIG_KIND_SIZE:
        store_number(row, strtoll(row->info.fallback, NULL, 10), field);
        break;
    case CONFIG_KIND_ISSUERS:
        store_issuer_fallback(reader, row->info.fallback);
        break;
    case CONFIG_KIND_IGNORE: /* the struct is zero */
    case CONFIG_KIND_APPS:
    case CONFIG_KIND_CONSUMERS:
        break;
    case CONFIG_KIND_GROUP:
        read_section(reader, row->info.name, NULL, owner);
        break;
    default:
        store_text(reader, row, row->info.fallback, field);
        break;
    }
}

static bool is_known(const char *section, const char *name)
{
    for (size_t i = 0; i < config_row_count; i++) {
        if (strcmp(config_rows[i].info.section, section) == 0 &&
            strcmp(config_rows[i].info.name, name) == 0)
            return true;
    }
    return false;
}

static const char *nearest_in(const char *section, const char *name)
{
    const char *nearest = NULL;
    size_t nearest_distance = WORDS_ALIKE_MOST + 1;

    for (size_t i = 0; i < config_row_count; i++) {
        size_t distance = words_distance(config_rows[i].info.name, name);

        if (strcmp(config_rows[i].info.section, section) == 0 && distance < nearest_distance) {
            nearest = config_rows[i].info.name;
            nearest_distance = distance;
        }
    }
    return nearest;
}

static void refuse_unknown(struct reader *reader, const char *section,
                           const config_setting_t *group)
{
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *member = config_setting_get_elem(group, (unsigned)i);
        const char *name = config_setting_name(member);
        const char *nearest;
        char shown[80];

        if (is_known(section, name))
            continue;
        nearest = nearest_in(section, name);
        (void)log_escape(name, strlen(name), shown, sizeof shown);
        refuse(reader, line_of(member), "%s%s%s: there is no such setting; %s%s", section,
               *section != '\0' ? "." : "", shown,
               nearest != NULL ? "did you mean " : "siwa-notifyd.conf(5) lists those there are",
               nearest != NULL ? nearest : "");
    }
}

/* Reads all settings of a section into its struct; group is NULL where the file has none. */
static void read_section(struct reader *reader, const char *section, const config_setting_t *group,
                         void *owner)
{
    for (size_t i = 0; i < config_row_count; i++) {
        const config_setting_t *member;

        if (strcmp(config_rows[i].info.section, section) != 0)
            continue;
        member = group != NULL ? config_setting_get_member(group, config_rows[i].info.name) : NULL;
        if (member != NULL)
            read_setting(reader, &config_rows[i], member, owner);
        else
            store_fallback(reader, &config_rows[i], group, owner);
    }
    if (group != NULL)
        refuse_unknown(reader, section, group);
}

static bool same_address(const struct config_address *a, const struct config_address *b)
{
    if (a->kind != b->kind || a->kind == CONFIG_ADDRESS_NONE)
        return false;
    if (a->kind == CONFIG_ADDRESS_UNIX)
        return strcmp(a->path, b->path) == 0;
    return a->port == b->port && a->port != 0 && strcmp(a->host, b->host) == 0;
}

/* The line of the first of two settings that the file names. */
static unsigned line_of_either(const struct reader *reader, const char *path, const char *other)
{
    unsigned line = line_at(reader, path);

    return line > 0 ? line : line_at(reader, other);
}

/* What only two settings together show. What was refused for itself is zero or off, and left
 * alone. */
static void check_together(struct reader *reader)
{
    const struct config *config = reader->config;

    if (config->retain.hard_s > 0 && config->retain.hard_s < config->retain.events_s)
        refuse(reader, line_of_either(reader, "retain.hard", "retain.events"),
               "retain.hard: is shorter than retain.events; takes at least as long");
    if (config->erase_after_s != CONFIG_ERASE_OFF && config->consumer_count == 0)
        refuse(reader, line_at(reader, "erase_after_account_delete"),
               "erase_after_account_delete: waits for consumers to acknowledge, and there is none; "
               "takes at least one in consumers, or \"off\"");
    if (config->retain.events_s > 0 && config->erase_after_s > config->retain.events_s)
        refuse(reader, line_of_either(reader, "erase_after_account_delete", "retain.events"),
               "erase_after_account_delete: is longer than retain.events, which removes the row "
               "before; takes at most as long");
    if (config->limits.request_s > 0 && config->limits.request_s < config->limits.headers_s)
        refuse(reader, line_of_either(reader, "limits.request_s", "limits.headers_s"),
               "limits.request_s: is less than limits.headers_s; takes at least as much");
    if (same_address(&config->listen, &config->monitor))
        refuse(reader, line_of_either(reader, "monitor", "listen"),
               "monitor: is the address of listen; takes one of its own");
    if (same_address(&config->listen, &config->control))
        refuse(reader, line_of_either(reader, "control", "listen"),
               "control: is the address of listen; takes one of its own");
    if (same_address(&config->monitor, &config->control))
        refuse(reader, line_of_either(reader, "control", "monitor"),
               "control: is the address of monitor; takes one of its own");
    if (config->keys_source == CONFIG_KEYS_FILE)
        warn(reader, line_at(reader, "keys"),
             "warning: keys: whoever can write that file decides what counts as signed by Apple; "
             "meant for tests");
}

/* Reads an open file of at most size_bytes (and never more than that, whatever becomes of it
 * meanwhile) to its end. Returns the bytes read, or -errno. */
static ssize_t read_all(int fd, char *text, size_t size_bytes)
{
    size_t bytes = 0;

    while (bytes < size_bytes) {
        ssize_t got = read(fd, text + bytes, size_bytes - bytes);

        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return -errno;
        bytes += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)bytes;
}

/* Whether an open file is one to read settings from; says why not. */
static bool check_file(struct reader *reader, const struct stat *status)
{
    if (!S_ISREG(status->st_mode)) {
        refuse(reader, 0, "this is not a regular file");
        return false;
    }
    if (status->st_size > CONFIG_FILE_MAX_BYTES) {
        refuse(reader, 0, "is larger than %d bytes; takes less", CONFIG_FILE_MAX_BYTES);
        return false;
    }
    if ((status->st_mode & S_IWOTH) != 0)
        warn(reader, 0, "warning: every user of this machine can write this file; chmod o-w it");
    return true;
}

/* Reads a whole regular file, NUL-terminated. 0 or -errno; -EINVAL after saying why. */
static int read_file(struct reader *reader, const char *file, char **ret_text, size_t *ret_bytes)
{
    /* Not blocking, so that a FIFO in the place of the file is refused instead of waited for. */
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    char *text = NULL;
    ssize_t bytes;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) != 0) {
        bytes = -errno;
    } else if (!check_file(reader, &status)) {
        bytes = -EINVAL;
    } else {
        text = malloc((size_t)status.st_size + 1);
        bytes = text != NULL ? read_all(fd, text, (size_t)status.st_size) : -ENOMEM;
    }
    (void)close(fd);
    if (text == NULL || bytes < 0) {
        free(text);
        return (int)bytes;
    }
    text[bytes] = '\0';
    *ret_text = text;
    *ret_bytes = (size_t)bytes;
    return 0;
}

static int compare_problems(const void *a, const void *b)
{
    const struct problem *one = a, *other = b;

    return (one->line > other->line) - (one->line < other->line);
}

/* Writes and forgets what was found. */
static void write_problems(struct reader *reader, const char *file, FILE *out)
{
    /* Few, and mostly in order: qsort is not stable, and what is said of one line has an order. */
    for (size_t i = 1; i < reader->problem_count; i++) {
        for (size_t j = i;
             j > 0 && compare_problems(&reader->problems[j - 1], &reader->problems[j]) > 0; j--) {
            struct problem swapped = reader->problems[j];

            reader->problems[j] = reader->problems[j - 1];
            reader->problems[j - 1] = swapped;
        }
    }
    for (size_t i = 0; i < reader->problem_count; i++) {
        struct problem *problem = &reader->problems[i];

        if (problem->line > 0)
            (void)fprintf(out, "%s:%u: %s\n", file, problem->line, problem->text);
        else
            (void)fprintf(out, "%s: %s\n", file, problem->text);
        free(problem->text);
    }
    if (reader->problems_left_out > 0)
        (void)fprintf(out, "%s: and %zu more\n", file, reader->problems_left_out);
}

static void refuse_syntax(struct reader *reader)
{
    const char *text = config_error_text(&reader->tree);

    refuse(reader, (unsigned)config_error_line(&reader->tree), "%s; %s",
           text != NULL ? text : "syntax error",
           text != NULL && strstr(text, "include") != NULL
               ? "@include is not supported, a configuration is one file"
           : text != NULL && strstr(text, "duplicate") != NULL
               ? "each setting takes one line"
               : "look here and in the line before for a missing ; quote or bracket");
}

static void refuse_repeat(void *context, const struct config_repeat *repeat)
{
    char section[80] = "", name[80];

    if (repeat->section_bytes > 0)
        (void)log_escape(repeat->section, repeat->section_bytes, section, sizeof section);
    (void)log_escape(repeat->name, repeat->name_bytes, name, sizeof name);
    refuse(context, repeat->line,
           "%s%s%s: is repeated, it stands in line %u already; each setting "
           "takes one line",
           section, *section != '\0' ? "." : "", name, repeat->first_line);
}

/* Reads a text into a fresh tree. */
static bool read_tree(struct reader *reader, const char *text)
{
    config_init(&reader->tree);
    /* An included file can only be looked for below this, where there is none: settings come from
     * one file, which a reload sees whole. */
    config_set_include_dir(&reader->tree, "/dev/null");
    return config_read_string(&reader->tree, text);
}

/* The same without what stands in the text a second time, where that is what libconfig stopped at:
 * all else is then judged as well. */
static bool read_tree_without_repeats(struct reader *reader, const char *text)
{
    const char *error = config_error_text(&reader->tree);
    char *copy;
    bool good;

    if (error == NULL || strstr(error, "duplicate") == NULL)
        return false;
    copy = strdup(text);
    if (copy == NULL) {
        reader->out_of_memory = true;
        return false;
    }
    (void)config_repeats_blank(copy, refuse_repeat, reader);
    config_destroy(&reader->tree);
    good = read_tree(reader, copy);
    free(copy);
    return good;
}

/* Judges a text; the reader says what is wrong. 0, -EINVAL or -ENOMEM. */
static int judge_text(struct reader *reader, const char *text, size_t text_bytes)
{
    if (strlen(text) != text_bytes) {
        refuse(reader, 0, "holds a NUL byte; a configuration is text");
        return -EINVAL;
    }
    if (read_tree(reader, text) || read_tree_without_repeats(reader, text)) {
        read_section(reader, "", config_root_setting(&reader->tree), reader->config);
        check_together(reader);
    } else {
        refuse_syntax(reader);
    }
    config_destroy(&reader->tree);
    if (reader->out_of_memory)
        return -ENOMEM;
    return reader->refused ? -EINVAL : 0;
}

static int reader_new(struct reader **ret_reader)
{
    struct reader *reader = calloc(1, sizeof *reader);

    if (reader == NULL)
        return -ENOMEM;
    reader->config = calloc(1, sizeof *reader->config);
    if (reader->config == NULL) {
        free(reader);
        return -ENOMEM;
    }
    reader->config->erase_after_s = CONFIG_ERASE_OFF; /* its zero is "acked" */
    *ret_reader = reader;
    return 0;
}

/* Says what was found, and gives the configuration away or releases it. Takes the reader. */
static int reader_end(struct reader *reader, int error, const char *file, FILE *problems,
                      struct config **ret_config)
{
    if (error != 0 && error != -EINVAL)
        refuse(reader, 0, "cannot be read: %s", strerror(-error));
    write_problems(reader, file, problems);
    if (error == 0)
        *ret_config = reader->config;
    else
        config_free(reader->config);
    free(reader);
    return error;
}

int config_load(const char *file, FILE *problems, struct config **ret_config)
{
    struct reader *reader;
    size_t text_bytes = 0;
    char *text = NULL;
    int error = reader_new(&reader);

    if (error != 0)
        return error;
    error = read_file(reader, file, &text, &text_bytes);
    if (error == 0)
        error = judge_text(reader, text, text_bytes);
    free(text);
    return reader_end(reader, error, file, problems, ret_config);
}

int config_parse(const char *text, size_t text_bytes, const char *name, FILE *problems,
                 struct config **ret_config)
{
    struct reader *reader;
    int error = reader_new(&reader);

    if (error != 0)
        return error;
    return reader_end(reader, judge_text(reader, text, text_bytes), name, problems, ret_config);
}

void config_free(struct config *config)
{
    struct block *block;

    if (config == NULL)
        return;
    block = config->storage;
    while (block != NULL) {
        struct block *next = block->next;

        free(block);
        block = next;
    }
    free(config);
}
