/*
 * consumer_metrics: how far behind the consumers are, for the monitor.
 *
 *   siwa_consumer_lag_rows{consumer}       rows after its position; see CONSUMERS_LAG_COUNTED
 *   siwa_consumer_lag_seconds{consumer}    since the oldest of them arrived
 *   siwa_oldest_unacknowledged_account_delete_seconds
 */
#ifndef SIWA_LISTENER_CONSUMER_METRICS_H
#define SIWA_LISTENER_CONSUMER_METRICS_H

#include "dispatcher/consumers.h"
#include "support/metrics.h"

struct consumer_metrics;

/* Registers the gauges; all is borrowed. 0 or -ENOMEM. Main thread. */
int consumer_metrics_new(struct consumers *consumers, struct outbox_reader *reader,
                         struct metrics *metrics, struct consumer_metrics **ret_metrics);
void consumer_metrics_free(struct consumer_metrics *metrics); /* takes NULL */

/* Takes the gauges as they are at now_ms (wall clock), with a bounded look into the database; where
 * that fails they stay as they were. A consumer that left the configuration has none. The
 * reader's thread. */
void consumer_metrics_update(struct consumer_metrics *metrics, int64_t now_ms);

#endif
