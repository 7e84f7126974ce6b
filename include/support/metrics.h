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
struct metrics_series; /* one set of label values; lives with the registry, or to metrics_remove */

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

/* 0 or -ENOMEM. metrics_free takes NULL and releases all families and series. */
int metrics_new(struct metrics **ret_metrics);
void metrics_free(struct metrics *metrics);

/* Registers a family. name, help and the label names (NULL-terminated, at most METRICS_LABELS_MAX;
 * label_names itself may be NULL for none) are literals and only borrowed. bounds (ascending,
 * without +Inf; copied) belongs to histograms, NULL otherwise. A family without label names has its
 * one series from the start, so that it is never absent. Registering a name again gives the first
 * family. Returns NULL when memory is out. Any thread. */
struct metrics_family *metrics_register(struct metrics *metrics, enum metrics_type type,
                                        const char *name, const char *help,
                                        const char *const *label_names, const double *bounds,
                                        size_t bound_count);

/* The family of this name, NULL where nobody has registered it. Any thread. */
struct metrics_family *metrics_find(struct metrics *metrics, const char *name);

/* The series with these label values (as many as the family has names; copied; valid UTF-8, escaped
 * when rendered; NULL where the family has no names), made with value 0 when it is new. Hold on to
 * the result on hot paths. NULL when memory is out or the family is NULL; all functions below take
 * NULL and do nothing. Any thread. */
struct metrics_series *metrics_with(struct metrics_family *family, const char *const *label_values);

/* Takes away the series with these label values, where there is one, and frees it. For gauges of
 * what is no longer there, in families whose series nobody holds on to. Nothing for NULL. Any
 * thread. */
void metrics_remove(struct metrics_family *family, const char *const *label_values);

/* Counters count, gauges are set (and so are counters that are restored at start, to a whole number
 * that is not negative) or raised, which leaves a higher value alone, histograms observe; a call
 * that does not fit the type does nothing, and neither does raising to NaN or observing it.
 * Lock-free; any thread. */
void metrics_add(struct metrics_series *series, uint64_t amount);
void metrics_set(struct metrics_series *series, double value);
void metrics_raise(struct metrics_series *series, double value);
void metrics_observe(struct metrics_series *series, double value);

/* The value of a counter or gauge, the count of a histogram; 0 for NULL. Any thread. */
double metrics_value(const struct metrics_series *series);

/* The value below which this part of what a histogram observed lies (0.5: the median), taken
 * evenly within a bucket as Prometheus does; the last bound where it lies beyond; 0 where nothing
 * was observed, for NULL and for other types. Any thread. */
double metrics_quantile(const struct metrics_series *series, double part);

/* Calls on_series for each series of a family, in the order of their label values, with as many of
 * them as the family has names; both live as long as the series. The registry is locked
 * meanwhile: of the functions here, on_series may call metrics_value only. Nothing for NULL. Any
 * thread. */
void metrics_each(struct metrics_family *family,
                  void (*on_series)(void *context, const struct metrics_series *series,
                                    const char *const *label_values),
                  void *context);

/* The text exposition (format 0.0.4) of everything, newly allocated, NUL-terminated; the caller
 * frees it. Families stand in the order of their names, series in that of their label values.
 * 0 or -ENOMEM. Any thread; updates go on meanwhile. */
int metrics_render(struct metrics *metrics, char **ret_text, size_t *ret_bytes);

#endif
