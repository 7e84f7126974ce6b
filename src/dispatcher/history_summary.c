#include "dispatcher/history_summary.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct summing {
    struct history_summary summary;
    int error;
};

static enum verdict verdict_of(const char *label)
{
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++)
        if (strcmp(verdict_label((enum verdict)verdict), label) == 0)
            return (enum verdict)verdict;
    return VERDICT_COUNT; /* of another version */
}

static struct history_app *app_of(struct history_summary *summary, const char *client_id)
{
    const struct history_app *known = history_summary_app(summary, client_id);
    struct history_app *apps;

    if (known)
        return &summary->apps[known - summary->apps];
    apps = reallocarray(summary->apps, summary->app_count + 1, sizeof *apps);
    if (!apps)
        return NULL;
    summary->apps = apps;
    apps[summary->app_count] = (struct history_app){.client_id = strdup(client_id)};
    if (!apps[summary->app_count].client_id)
        return NULL;
    return &apps[summary->app_count++];
}

static int add_event(struct history_summary *summary, const struct outbox_day *day)
{
    int64_t ago = summary->today - day->day;
    struct history_app *app;

    if (ago < 0 || ago >= HISTORY_DAYS || summary->app_count >= HISTORY_SUMMARY_NAMES_MAX)
        return 0;
    app = app_of(summary, day->client_id);
    if (!app)
        return -ENOMEM;
    app->events[HISTORY_DAYS - 1 - ago][event_type_of(day->name)] += (uint64_t)day->count;
    return 0;
}

static int add_stranger(struct history_summary *summary, const struct outbox_day *day)
{
    struct history_stranger *strangers;

    for (size_t i = 0; i < summary->stranger_count; i++) {
        struct history_stranger *stranger = &summary->strangers[i];

        if (strcmp(stranger->client_id, day->client_id) == 0) {
            stranger->count += (uint64_t)day->count;
            stranger->last_day = day->day;
            return 0;
        }
    }
    if (summary->stranger_count >= HISTORY_SUMMARY_NAMES_MAX)
        return 0;
    strangers = reallocarray(summary->strangers, summary->stranger_count + 1, sizeof *strangers);
    if (!strangers)
        return -ENOMEM;
    summary->strangers = strangers;
    strangers[summary->stranger_count] =
        (struct history_stranger){.client_id = strdup(day->client_id),
                                  .count = (uint64_t)day->count,
                                  .first_day = day->day,
                                  .last_day = day->day};
    if (!strangers[summary->stranger_count].client_id)
        return -ENOMEM;
    summary->stranger_count++;
    return 0;
}

static int add_outcome(struct history_summary *summary, const struct outbox_day *day)
{
    enum verdict verdict = verdict_of(day->name);
    int64_t ago = summary->today - day->day;

    if (verdict == VERDICT_COUNT)
        return 0;
    struct history_outcome *outcome = &summary->outcomes[verdict];
    uint64_t count = (uint64_t)day->count;
    outcome->month += count;
    if (ago < 7)
        outcome->week += count;
    if (ago < 1)
        outcome->today += count;
    return verdict == VERDICT_WRONG_AUDIENCE ? add_stranger(summary, day) : 0;
}

static void add_day(void *context, const struct outbox_day *day)
{
    struct summing *summing = context;

    if (summing->error)
        return;
    if (strcmp(day->what, "event") == 0)
        summing->error = add_event(&summing->summary, day);
    else if (strcmp(day->what, "outcome") == 0)
        summing->error = add_outcome(&summing->summary, day);
}

int history_summarise(struct outbox_reader *reader, int64_t now_ms,
                      struct history_summary *ret_summary)
{
    struct summing summing = {.summary.today = now_ms / HISTORY_DAY_MS};
    int error =
        outbox_reader_days(reader, summing.summary.today - HISTORY_DAYS + 1, add_day, &summing);

    if (!error)
        error = summing.error;
    if (error) {
        history_summary_release(&summing.summary);
        return error;
    }
    *ret_summary = summing.summary;
    return 0;
}

const struct history_app *history_summary_app(const struct history_summary *summary,
                                              const char *client_id)
{
    for (size_t i = 0; i < summary->app_count; i++)
        if (strcmp(summary->apps[i].client_id, client_id) == 0)
            return &summary->apps[i];
    return NULL;
}

void history_summary_release(struct history_summary *summary)
{
    for (size_t i = 0; i < summary->app_count; i++)
        free(summary->apps[i].client_id);
    for (size_t i = 0; i < summary->stranger_count; i++)
        free(summary->strangers[i].client_id);
    free(summary->apps);
    free(summary->strangers);
    *summary = (struct history_summary){0};
}
