/*
 * metrics: counters, gauges and histograms, and their Prometheus text.
 *
 * Each room registers its own families when it is made; updating one is a few atomic operations and
 * never takes a lock. No value of a label may be foreign text that is not verified or bounded.
 */
#ifndef SIWA_SUPPORT_METRICS_H
#define SIWA_SUPPORT_METRICS_H

#include <stddef.h>
#include <stdint.h>

#define METRICS_LABELS_MAX 3

struct metrics;        /* the registry */
struct metrics_family; /* one name with its help, type and label names; lives with the registry */
struct metrics_series; /* one set of label values; lives with the registry */

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

/* 0 or -ENOMEM. metrics_free takes NULL and releases all families and series. */
int metrics_new(struct metrics **ret_metrics);
void metrics_free(struct metrics *metrics);

/* Registers a family. name, help and label_names (NULL-terminated, at most METRICS_LABELS_MAX) are
 * literals. bounds (ascending, without +Inf) belongs to histograms, NULL otherwise. Registering a
 * name again gives the first family. Returns NULL when memory is out. Any thread. */
struct metrics_family *metrics_register(struct metrics *metrics, enum metrics_type type,
                                        const char *name, const char *help,
                                        const char *const *label_names, const double *bounds,
                                        size_t bound_count);

/* The series with these label values (as many as the family has names; copied, escaped when
 * rendered), made with value 0 when it is new. Hold on to the result on hot paths. NULL when memory
 * is out; all functions below take NULL and do nothing. Any thread. */
struct metrics_series *metrics_with(struct metrics_family *family, const char *const *label_values);

/* Any thread. */
void metrics_add(struct metrics_series *series, uint64_t amount); /* counters */
void metrics_set(struct metrics_series *series,
                 double value); /* gauges (and counters restored at start) */
void metrics_observe(struct metrics_series *series, double value); /* histograms */
double metrics_value(
    const struct metrics_series *series); /* counters and gauges; a histogram's count */

/* The text exposition (format 0.0.4) of everything, newly allocated, NUL-terminated; the caller
 * frees it. 0 or -ENOMEM. Any thread. */
int metrics_render(struct metrics *metrics, char **ret_text, size_t *ret_bytes);

#endif
