/*
 * history_summary: the days of the history, put together for people who ask what arrived.
 */
#ifndef SIWA_DISPATCHER_HISTORY_SUMMARY_H
#define SIWA_DISPATCHER_HISTORY_SUMMARY_H

#include <stddef.h>
#include <stdint.h>

#include "dispatcher/history.h"
#include "dispatcher/outbox.h"
#include "verifier/notification.h"
#include "verifier/verdict.h"

#define HISTORY_SUMMARY_NAMES_MAX \
    1024 /* of apps, and of strangers; what comes after is left out \
          */

/* Events stored for one app, by day (the last is today) and type. */
struct history_app {
    char *client_id;
    uint64_t events[HISTORY_DAYS][EVENT_TYPE_COUNT];
};

struct history_outcome {
    uint64_t today, week, month; /* each includes the one before; 7 and HISTORY_DAYS days */
};

/* An audience for which Apple signed something, but that was not configured when it arrived. */
struct history_stranger {
    char *client_id;
    uint64_t count;
    int64_t first_day, last_day; /* since 1970 */
};

struct history_summary {
    int64_t today; /* days since 1970 */
    struct history_app *apps;
    size_t app_count;
    struct history_outcome outcomes[VERDICT_COUNT];
    struct history_stranger *strangers;
    size_t stranger_count;
};

/* Sums up the last HISTORY_DAYS days as of now_ms (wall clock). 0, with a summary that belongs to
 * the caller; -ENOMEM, or what outbox_reader_days gives. The reader's thread. */
int history_summarise(struct outbox_reader *reader, int64_t now_ms,
                      struct history_summary *ret_summary);

/* The app's events, NULL where it had none. Borrowed. */
const struct history_app *history_summary_app(const struct history_summary *summary,
                                              const char *client_id);

/* Takes an empty summary too. */
void history_summary_release(struct history_summary *summary);

#endif
