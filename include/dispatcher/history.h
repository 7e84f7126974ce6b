/*
 * history: what arrived on each of the last days, as counts; nothing personal.
 *
 * The metrics start at zero with each start. Here their growth is added to the day's row in the
 * database, so that "since when has it been silent?" has an answer after a restart too. A crash
 * loses the counts of the last moments, never a notification.
 */
#ifndef SIWA_DISPATCHER_HISTORY_H
#define SIWA_DISPATCHER_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "dispatcher/writer.h"
#include "support/metrics.h"

#define HISTORY_DAYS     30    /* today and the 29 before; older ones are removed */
#define HISTORY_FLUSH_MS 10000 /* how often whoever owns it should flush */
#define HISTORY_DAY_MS   INT64_C(86400000)

struct history;

/* Follows siwa_notifications_total ("outcome"), siwa_events_total ("event") and
 * siwa_http_refused_total ("refused") of a registry. Both are borrowed and outlive the history; the
 * families must be registered before. 0 or -ENOMEM. Main thread. */
int history_new(struct writer *writer, struct metrics *metrics, struct history **ret_history);

/* After the writer has stopped. NULL is allowed. */
void history_free(struct history *history);

/* Posts what grew since the last flush that was committed, for the day of now_ms (wall clock); does
 * nothing where nothing grew or a flush is still under way. What could not be committed is part of
 * the next flush. Never blocks on the disk. One thread at a time. */
void history_flush(struct history *history, int64_t now_ms);

/* Whether a flush is under way: what grew since it was posted is part of the next one. The thread
 * that flushes. */
bool history_under_way(const struct history *history);

#endif
