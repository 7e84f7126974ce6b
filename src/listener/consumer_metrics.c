#include "listener/consumer_metrics.h"

#include <errno.h>
#include <stdlib.h>

struct consumer_metrics {
    struct consumers *consumers;
    struct outbox_reader *reader;
    struct metrics_family *rows, *seconds;
    struct metrics_series *oldest_delete;
    struct consumers_watch watch;
};

int consumer_metrics_new(struct consumers *consumers, struct outbox_reader *reader,
                         struct metrics *registry, struct consumer_metrics **ret_metrics)
{
    static const char *const labels[] = {"consumer", NULL};
    struct consumer_metrics *metrics = calloc(1, sizeof *metrics);

    if (!metrics)
        return -ENOMEM;
    metrics->consumers = consumers;
    metrics->reader = reader;
    metrics->rows =
        metrics_register(registry, METRICS_GAUGE, "siwa_consumer_lag_rows",
                         "Events that a consumer has not acknowledged.", labels, NULL, 0);
    metrics->seconds =
        metrics_register(registry, METRICS_GAUGE, "siwa_consumer_lag_seconds",
                         "Time since the oldest event arrived that a consumer has not "
                         "acknowledged.",
                         labels, NULL, 0);
    metrics->oldest_delete = metrics_with(
        metrics_register(registry, METRICS_GAUGE,
                         "siwa_oldest_unacknowledged_account_delete_seconds",
                         "Time since the oldest account-delete arrived that not every consumer has "
                         "acknowledged.",
                         NULL, NULL, 0),
        NULL);
    if (!metrics->rows || !metrics->seconds || !metrics->oldest_delete) {
        consumer_metrics_free(metrics);
        return -ENOMEM;
    }
    *ret_metrics = metrics;
    return 0;
}

void consumer_metrics_free(struct consumer_metrics *metrics)
{
    free(metrics);
}

/* One that left the configuration, in this run or before, must not raise an alarm; nor does it lag
 * by 0, which says that all is well. */
static void take(void *context, const struct consumer_state *state)
{
    struct consumer_metrics *metrics = context;
    const char *const values[] = {state->name, NULL};

    if (!state->configured) {
        metrics_remove(metrics->rows, values);
        metrics_remove(metrics->seconds, values);
        return;
    }
    metrics_set(metrics_with(metrics->rows, values), (double)state->lag_rows);
    metrics_set(metrics_with(metrics->seconds, values), (double)state->lag_ms / 1000);
}

void consumer_metrics_update(struct consumer_metrics *metrics, int64_t now_ms)
{
    int64_t received_ms = 0;

    (void)consumers_list(metrics->consumers, metrics->reader, now_ms, take, metrics);
    if (consumers_oldest_delete(metrics->consumers, metrics->reader, &metrics->watch,
                                &received_ms) < 0)
        return;
    metrics_set(metrics->oldest_delete, received_ms > 0 && received_ms < now_ms
                                            ? (double)(now_ms - received_ms) / 1000
                                            : 0);
}
