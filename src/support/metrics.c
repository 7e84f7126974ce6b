#include "support/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_BYTES 32

/* 2^64: the first double that a counter cannot hold. */
#define COUNTER_END 18446744073709551616.0

struct metrics_series {
    struct metrics_series *next;
    const struct metrics_family *family;
    char *label_values[METRICS_LABELS_MAX];
    _Atomic uint64_t number; /* counter: the count; gauge and histogram's sum: bits of a double */
    _Atomic uint64_t buckets[]; /* histogram: not cumulative, +Inf last */
};

struct metrics_family {
    struct metrics_family *next;
    struct metrics *metrics;
    enum metrics_type type;
    const char *name;
    const char *help;
    const char *label_names[METRICS_LABELS_MAX];
    size_t label_count;
    double *bounds;
    size_t bound_count;
    struct metrics_series *series; /* ascending by label values */
};

struct metrics {
    /* Guards the lists, never the values: series are freed with everything, or by metrics_remove,
     * whose caller knows that nobody else holds on to the one. */
    pthread_mutex_t lock;
    struct metrics_family *families; /* ascending by name */
};

static uint64_t bits_of(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

int metrics_new(struct metrics **ret_metrics)
{
    struct metrics *metrics = calloc(1, sizeof *metrics);

    if (metrics == NULL)
        return -ENOMEM;
    if (pthread_mutex_init(&metrics->lock, NULL) != 0) {
        free(metrics);
        return -ENOMEM;
    }
    *ret_metrics = metrics;
    return 0;
}

static void series_free(struct metrics_series *series)
{
    if (series == NULL)
        return;
    for (size_t i = 0; i < METRICS_LABELS_MAX; i++)
        free(series->label_values[i]);
    free(series);
}

static void family_free(struct metrics_family *family)
{
    struct metrics_series *series = family->series;

    while (series != NULL) {
        struct metrics_series *next = series->next;

        series_free(series);
        series = next;
    }
    free(family->bounds);
    free(family);
}

void metrics_free(struct metrics *metrics)
{
    struct metrics_family *family;

    if (metrics == NULL)
        return;
    family = metrics->families;
    while (family != NULL) {
        struct metrics_family *next = family->next;

        family_free(family);
        family = next;
    }
    (void)pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

static struct metrics_family *family_new(struct metrics *metrics, enum metrics_type type,
                                         const char *name, const char *help,
                                         const char *const *label_names, const double *bounds,
                                         size_t bound_count)
{
    struct metrics_family *family = calloc(1, sizeof *family);

    if (family == NULL)
        return NULL;
    family->metrics = metrics;
    family->type = type;
    family->name = name;
    family->help = help;
    while (label_names != NULL && family->label_count < METRICS_LABELS_MAX &&
           label_names[family->label_count] != NULL) {
        family->label_names[family->label_count] = label_names[family->label_count];
        family->label_count++;
    }
    if (type == METRICS_HISTOGRAM && bound_count > 0) {
        family->bounds = calloc(bound_count, sizeof *family->bounds);
        if (family->bounds == NULL) {
            free(family);
            return NULL;
        }
        memcpy(family->bounds, bounds, bound_count * sizeof *bounds);
        family->bound_count = bound_count;
    }
    return family;
}

struct metrics_family *metrics_register(struct metrics *metrics, enum metrics_type type,
                                        const char *name, const char *help,
                                        const char *const *label_names, const double *bounds,
                                        size_t bound_count)
{
    struct metrics_family **place = &metrics->families;
    struct metrics_family *family;
    int order = -1;

    (void)pthread_mutex_lock(&metrics->lock);
    while (*place != NULL && (order = strcmp((*place)->name, name)) < 0)
        place = &(*place)->next;
    if (*place != NULL && order == 0) {
        family = *place;
    } else {
        family = family_new(metrics, type, name, help, label_names, bounds, bound_count);
        if (family != NULL) {
            family->next = *place;
            *place = family;
        }
    }
    (void)pthread_mutex_unlock(&metrics->lock);
    if (family != NULL && family->label_count == 0 && metrics_with(family, NULL) == NULL)
        return NULL;
    return family;
}

struct metrics_family *metrics_find(struct metrics *metrics, const char *name)
{
    struct metrics_family *family;

    (void)pthread_mutex_lock(&metrics->lock);
    family = metrics->families;
    while (family != NULL && strcmp(family->name, name) != 0)
        family = family->next;
    (void)pthread_mutex_unlock(&metrics->lock);
    return family;
}

static int series_compare(const struct metrics_series *series, const char *const *label_values)
{
    for (size_t i = 0; i < series->family->label_count; i++) {
        int order = strcmp(series->label_values[i], label_values[i]);

        if (order != 0)
            return order;
    }
    return 0;
}

static struct metrics_series *series_new(const struct metrics_family *family,
                                         const char *const *label_values)
{
    size_t buckets = family->type == METRICS_HISTOGRAM ? family->bound_count + 1 : 0;
    struct metrics_series *series = calloc(1, sizeof *series + buckets * sizeof series->buckets[0]);

    if (series == NULL)
        return NULL;
    series->family = family;
    for (size_t i = 0; i < family->label_count; i++) {
        series->label_values[i] = strdup(label_values[i]);
        if (series->label_values[i] == NULL) {
            series_free(series);
            return NULL;
        }
    }
    return series; /* all zero bits: 0 as a count and as a double */
}

struct metrics_series *metrics_with(struct metrics_family *family, const char *const *label_values)
{
    struct metrics_series **place;
    struct metrics_series *series;
    int order = -1;

    if (family == NULL)
        return NULL;
    (void)pthread_mutex_lock(&family->metrics->lock);
    place = &family->series;
    while (*place != NULL && (order = series_compare(*place, label_values)) < 0)
        place = &(*place)->next;
    if (*place != NULL && order == 0) {
        series = *place;
    } else {
        series = series_new(family, label_values);
        if (series != NULL) {
            series->next = *place;
            *place = series;
        }
    }
    (void)pthread_mutex_unlock(&family->metrics->lock);
    return series;
}

void metrics_remove(struct metrics_family *family, const char *const *label_values)
{
    struct metrics_series **place;
    struct metrics_series *series;

    if (family == NULL)
        return;
    (void)pthread_mutex_lock(&family->metrics->lock);
    place = &family->series;
    while (*place != NULL && series_compare(*place, label_values) != 0)
        place = &(*place)->next;
    series = *place;
    if (series != NULL)
        *place = series->next;
    (void)pthread_mutex_unlock(&family->metrics->lock);
    series_free(series);
}

void metrics_add(struct metrics_series *series, uint64_t amount)
{
    if (series != NULL && series->family->type == METRICS_COUNTER)
        atomic_fetch_add_explicit(&series->number, amount, memory_order_relaxed);
}

void metrics_set(struct metrics_series *series, double value)
{
    if (series == NULL)
        return;
    if (series->family->type == METRICS_GAUGE)
        atomic_store_explicit(&series->number, bits_of(value), memory_order_relaxed);
    else if (series->family->type == METRICS_COUNTER && value >= 0 && value < COUNTER_END)
        atomic_store_explicit(&series->number, (uint64_t)value, memory_order_relaxed);
}

void metrics_raise(struct metrics_series *series, double value)
{
    uint64_t seen;

    if (series == NULL || series->family->type != METRICS_GAUGE)
        return;
    seen = atomic_load_explicit(&series->number, memory_order_relaxed);
    while (double_of(seen) < value &&
           !atomic_compare_exchange_weak_explicit(&series->number, &seen, bits_of(value),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

static void add_to_sum(struct metrics_series *series, double value)
{
    uint64_t seen = atomic_load_explicit(&series->number, memory_order_relaxed);

    while (!atomic_compare_exchange_weak_explicit(&series->number, &seen,
                                                  bits_of(double_of(seen) + value),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void metrics_observe(struct metrics_series *series, double value)
{
    const struct metrics_family *family;
    size_t bucket = 0;

    if (series == NULL || series->family->type != METRICS_HISTOGRAM || isnan(value))
        return;
    family = series->family;
    while (bucket < family->bound_count && value > family->bounds[bucket])
        bucket++;
    atomic_fetch_add_explicit(&series->buckets[bucket], 1, memory_order_relaxed);
    add_to_sum(series, value);
}

double metrics_value(const struct metrics_series *series)
{
    uint64_t count = 0;

    if (series == NULL)
        return 0;
    switch (series->family->type) {
    case METRICS_COUNTER:
        return (double)atomic_load_explicit(&series->number, memory_order_relaxed);
    case METRICS_GAUGE:
        return double_of(atomic_load_explicit(&series->number, memory_order_relaxed));
    case METRICS_HISTOGRAM:
        for (size_t i = 0; i <= series->family->bound_count; i++)
            count += atomic_load_explicit(&series->buckets[i], memory_order_relaxed);
        return (double)count;
    }
    return 0;
}

double metrics_quantile(const struct metrics_series *series, double part)
{
    double rank = part * metrics_value(series), below = 0, from = 0;

    if (series == NULL || series->family->type != METRICS_HISTOGRAM || rank <= 0)
        return 0;
    for (size_t i = 0; i < series->family->bound_count; i++) {
        double here = (double)atomic_load_explicit(&series->buckets[i], memory_order_relaxed);
        double bound = series->family->bounds[i];

        if (here > 0 && below + here >= rank)
            return from + (bound - from) * (rank - below) / here;
        below += here;
        from = bound;
    }
    return from;
}

void metrics_each(struct metrics_family *family,
                  void (*on_series)(void *context, const struct metrics_series *series,
                                    const char *const *label_values),
                  void *context)
{
    if (family == NULL)
        return;
    (void)pthread_mutex_lock(&family->metrics->lock);
    for (const struct metrics_series *series = family->series; series != NULL;
         series = series->next)
        on_series(context, series, (const char *const *)series->label_values);
    (void)pthread_mutex_unlock(&family->metrics->lock);
}

/* The shortest decimal that reads back as the same double. */
static void format_double(double value, char ret_text[NUMBER_BYTES])
{
    if (isnan(value)) {
        (void)snprintf(ret_text, NUMBER_BYTES, "NaN");
        return;
    }
    if (isinf(value)) {
        (void)snprintf(ret_text, NUMBER_BYTES, value > 0 ? "+Inf" : "-Inf");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(ret_text, NUMBER_BYTES, "%.*g", digits, value);
        if (bits_of(strtod(ret_text, NULL)) == bits_of(value))
            return;
    }
}

static void render_escaped(FILE *out, const char *text, bool in_quotes)
{
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            (void)fputs("\\\\", out);
        else if (*text == '\n')
            (void)fputs("\\n", out);
        else if (*text == '"' && in_quotes)
            (void)fputs("\\\"", out);
        else
            (void)fputc(*text, out);
    }
}

/* `name_suffix{label="value",…,le="…"} `; le may be NULL. */
static void render_name(FILE *out, const struct metrics_series *series, const char *suffix,
                        const char *le)
{
    const struct metrics_family *family = series->family;
    const char *separator = "{";

    (void)fprintf(out, "%s%s", family->name, suffix);
    for (size_t i = 0; i < family->label_count; i++) {
        (void)fprintf(out, "%s%s=\"", separator, family->label_names[i]);
        render_escaped(out, series->label_values[i], true);
        (void)fputc('"', out);
        separator = ",";
    }
    if (le != NULL) {
        (void)fprintf(out, "%sle=\"%s\"", separator, le);
        separator = ",";
    }
    (void)fputs(*separator == ',' ? "} " : " ", out);
}

static void render_histogram(FILE *out, const struct metrics_series *series)
{
    const struct metrics_family *family = series->family;
    char number[NUMBER_BYTES];
    uint64_t count = 0;

    for (size_t i = 0; i < family->bound_count; i++) {
        count += atomic_load_explicit(&series->buckets[i], memory_order_relaxed);
        format_double(family->bounds[i], number);
        render_name(out, series, "_bucket", number);
        (void)fprintf(out, "%" PRIu64 "\n", count);
    }
    count += atomic_load_explicit(&series->buckets[family->bound_count], memory_order_relaxed);
    render_name(out, series, "_bucket", "+Inf");
    (void)fprintf(out, "%" PRIu64 "\n", count);
    render_name(out, series, "_sum", NULL);
    format_double(double_of(atomic_load_explicit(&series->number, memory_order_relaxed)), number);
    (void)fprintf(out, "%s\n", number);
    render_name(out, series, "_count", NULL);
    (void)fprintf(out, "%" PRIu64 "\n", count);
}

static void render_series(FILE *out, const struct metrics_series *series)
{
    uint64_t number = atomic_load_explicit(&series->number, memory_order_relaxed);
    char text[NUMBER_BYTES];

    switch (series->family->type) {
    case METRICS_COUNTER:
        render_name(out, series, "", NULL);
        (void)fprintf(out, "%" PRIu64 "\n", number);
        break;
    case METRICS_GAUGE:
        render_name(out, series, "", NULL);
        format_double(double_of(number), text);
        (void)fprintf(out, "%s\n", text);
        break;
    case METRICS_HISTOGRAM:
        render_histogram(out, series);
        break;
    }
}

static void render_family(FILE *out, const struct metrics_family *family)
{
    static const char *const type_names[] = {[METRICS_COUNTER] = "counter",
                                             [METRICS_GAUGE] = "gauge",
                                             [METRICS_HISTOGRAM] = "histogram"};

    (void)fprintf(out, "# HELP %s ", family->name);
    render_escaped(out, family->help, false);
    (void)fprintf(out, "\n# TYPE %s %s\n", family->name, type_names[family->type]);
    for (const struct metrics_series *series = family->series; series != NULL;
         series = series->next)
        render_series(out, series);
}

int metrics_render(struct metrics *metrics, char **ret_text, size_t *ret_bytes)
{
    char *text = NULL;
    size_t bytes = 0;
    bool failed;
    FILE *out = open_memstream(&text, &bytes);

    if (out == NULL)
        return -ENOMEM;
    (void)pthread_mutex_lock(&metrics->lock);
    for (const struct metrics_family *family = metrics->families; family != NULL;
         family = family->next)
        render_family(out, family);
    (void)pthread_mutex_unlock(&metrics->lock);
    failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return -ENOMEM;
    }
    *ret_text = text;
    *ret_bytes = bytes;
    return 0;
}
