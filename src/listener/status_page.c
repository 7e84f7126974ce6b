#include "listener/status_page.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "html.h"
#include "listener/control.h"
#include "listener/outcome_advice.h"

#define CHART_BAR    16 /* of one day, in the chart's own units */
#define CHART_STEP   20
#define CHART_HEIGHT 100
#define CHART_WIDTH  (HISTORY_DAYS * CHART_STEP)

/* Colours carry no meaning alone: each stands beside its word. */
static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1c1c1e;--dim:#5a5a60;--line:#d5d5da;"
    "--ok:#1a6b2f;--warn:#8a5300;--fail:#b3001b;--c0:#6b6b70;--c1:#0a66c2;--c2:#00707a;"
    "--c3:#b25000;--c4:#b3001b}"
    "@media(prefers-color-scheme:dark){:root{--bg:#151517;--fg:#f0f0f2;--dim:#a8a8ae;"
    "--line:#3a3a3e;--ok:#5fd17a;--warn:#ffb94d;--fail:#ff8080;--c0:#a8a8ae;--c1:#6cb2ff;"
    "--c2:#4fd0dc;--c3:#ffb066;--c4:#ff8080}}"
    "*{box-sizing:border-box}"
    "body{margin:0 auto;max-width:62rem;padding:1rem;background:var(--bg);color:var(--fg);"
    "font:1rem/1.5 system-ui,sans-serif}"
    "h1{font-size:1.3rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}"
    "h3{font-size:1rem;margin:1.5rem 0 .25rem;overflow-wrap:anywhere}"
    "p{margin:.25rem 0}a{color:inherit}"
    ".state{font-size:1.6rem;font-weight:600;margin:.5rem 0}"
    ".ok{color:var(--ok)}.warn{color:var(--warn)}.fail{color:var(--fail)}.dim{color:var(--dim)}"
    ".scroll{overflow-x:auto}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;"
    "border-bottom:1px solid var(--line)}"
    "th.n,td.n{text-align:right}th{font-weight:600}td,th[scope=row]{overflow-wrap:anywhere}"
    "svg{width:100%;height:auto;max-height:9rem;border-bottom:1px solid var(--line)}"
    ".t0{fill:var(--c0)}.t1{fill:var(--c1)}.t2{fill:var(--c2)}.t3{fill:var(--c3)}"
    ".t4{fill:var(--c4)}"
    ".why{display:block;font-weight:400;color:var(--dim);max-width:38rem}"
    ".axis{display:flex;justify-content:space-between;color:var(--dim);font-size:.85rem}"
    ".legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:.25rem 0;"
    "list-style:none}"
    ".legend svg{width:.8rem;height:.8rem;border:0}"
    "footer{margin-top:2rem;color:var(--dim)}";

static void write_state(FILE *out, enum health_state state)
{
    const char *label = health_state_label(state);

    (void)fprintf(out, "<span class=\"%s\">%s</span>", label, label);
}

/* "2026-11-24" of a day since 1970. */
static void write_day(FILE *out, int64_t day)
{
    time_t time = (time_t)(day * 86400);
    struct tm broken;
    char text[16] = "";

    if (gmtime_r(&time, &broken))
        (void)strftime(text, sizeof text, "%Y-%m-%d", &broken);
    (void)fputs(text, out);
}

/* ---- readiness ---- */

static void write_head(FILE *out, const struct status *status)
{
    bool ready = status->report->ready;

    (void)fprintf(out,
                  "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                  "<title>%s: siwa-notifyd</title>\n<style>%s</style>\n</head>\n<body>\n"
                  "<header>\n<h1>siwa-notifyd</h1>\n",
                  ready ? "Ready" : "Not ready", style);
    (void)fprintf(out, "<p class=\"state %s\">%s</p>\n", ready ? "ok" : "fail",
                  ready ? "Ready" : "Not ready");
    (void)fputs("<p>", out);
    if (ready)
        (void)fputs("A notification that arrives now is stored.", out);
    else
        (void)fputs("A notification that arrives now is answered 503, so that Apple may send it "
                    "again. The reasons stand below.",
                    out);
    (void)fputs("</p>\n<p class=\"dim\">As of ", out);
    html_time(out, status->now_s);
    if (status->refreshing)
        (void)fprintf(out, "; asks again every %d s, <a href=\"/?refresh=off\">stop that</a>",
                      STATUS_PAGE_REFRESH_S);
    else
        (void)fputs("; <a href=\"/\">ask again regularly</a>", out);
    (void)fputs("</p>\n</header>\n<main>\n", out);
}

static void write_checks(FILE *out, const struct health_report *report)
{
    (void)fputs("<h2>Checks</h2>\n<table>\n<thead><tr><th "
                "scope=\"col\">Check</th><th scope=\"col\">State</th><th scope=\"col\">Cause and "
                "cure</th></tr></thead>\n<tbody>\n",
                out);
    for (int id = 0; id < HEALTH_CHECK_COUNT; id++) {
        (void)fprintf(out, "<tr><th scope=\"row\">%s</th><td>",
                      health_check_label((enum health_check_id)id));
        write_state(out, report->checks[id].state);
        (void)fputs("</td><td>", out);
        html_text(out, report->checks[id].why);
        (void)fputs("</td></tr>\n", out);
    }
    (void)fputs("</tbody></table>\n", out);
}

/* ---- apps ---- */

static uint64_t day_total(const struct history_app *app, int day)
{
    uint64_t total = 0;

    for (int kind = 0; kind < EVENT_TYPE_COUNT; kind++)
        total += app->events[day][kind];
    return total;
}

static uint64_t highest_day(const struct history_app *app)
{
    uint64_t highest = 0;

    for (int day = 0; day < HISTORY_DAYS; day++)
        if (day_total(app, day) > highest)
            highest = day_total(app, day);
    return highest;
}

/* The bar of one day: its types on top of each other. */
static void write_bar(FILE *out, const struct history_app *app, int day, uint64_t highest,
                      int64_t date)
{
    double bottom = CHART_HEIGHT;

    if (day_total(app, day) == 0)
        return;
    (void)fputs("<g><title>", out);
    write_day(out, date);
    for (int kind = 0; kind < EVENT_TYPE_COUNT; kind++)
        if (app->events[day][kind] > 0)
            (void)fprintf(out, ", %" PRIu64 " %s", app->events[day][kind],
                          event_type_text((enum event_type)kind));
    (void)fputs("</title>", out);
    for (int kind = 0; kind < EVENT_TYPE_COUNT; kind++) {
        double height = CHART_HEIGHT * (double)app->events[day][kind] / (double)highest;

        if (app->events[day][kind] == 0)
            continue;
        bottom -= height;
        (void)fprintf(out, "<rect class=\"t%d\" x=\"%d\" y=\"%.2f\" width=\"%d\" height=\"%.2f\"/>",
                      kind, day * CHART_STEP, bottom, CHART_BAR, height);
    }
    (void)fputs("</g>\n", out);
}

static void write_chart(FILE *out, const struct history_app *app, int64_t today)
{
    uint64_t highest = highest_day(app);

    (void)fprintf(out,
                  "<svg role=\"img\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" "
                  "aria-label=\"Events by day, the last %d days; at most %" PRIu64 " a day\">\n",
                  CHART_WIDTH, CHART_HEIGHT, HISTORY_DAYS, highest);
    for (int day = 0; highest > 0 && day < HISTORY_DAYS; day++)
        write_bar(out, app, day, highest, today - (HISTORY_DAYS - 1 - day));
    (void)fputs("</svg>\n<p class=\"axis\"><span>", out);
    write_day(out, today - HISTORY_DAYS + 1);
    (void)fprintf(out, "</span><span>highest: %" PRIu64 " a day</span><span>", highest);
    write_day(out, today);
    (void)fputs("</span></p>\n<ul class=\"legend\">", out);
    for (int kind = EVENT_TYPE_COUNT - 1; kind >= 0; kind--) {
        uint64_t total = 0;

        for (int day = 0; day < HISTORY_DAYS; day++)
            total += app->events[day][kind];
        if (total == 0 && kind == EVENT_TYPE_OTHER)
            continue;
        (void)fprintf(out,
                      "<li><svg viewBox=\"0 0 1 1\" aria-hidden=\"true\"><rect class=\"t%d\" "
                      "width=\"1\" height=\"1\"/></svg> %s %" PRIu64 "</li>",
                      kind, event_type_text((enum event_type)kind), total);
    }
    (void)fputs("</ul>\n", out);
}

static void write_app(FILE *out, const struct status *status, const struct status_app *app)
{
    const struct history_app *events =
        status->history ? history_summary_app(status->history, app->client_id) : NULL;

    (void)fputs("<h3>", out);
    html_text(out, app->client_id);
    (void)fputs("</h3>\n<p>Last accepted: ", out);
    html_time(out, app->last_accepted_s);
    if (app->last_accepted_s > 0) {
        (void)fputs(", ", out);
        html_duration(out, status->now_s - app->last_accepted_s);
        (void)fputs(" ago", out);
    } else {
        (void)fputs(". Nothing for this app was accepted yet: `siwa-notifyd doctor` looks for the "
                    "reason.",
                    out);
    }
    (void)fputs("</p>\n", out);
    if (events)
        write_chart(out, events, status->history->today);
    else if (status->history)
        (void)fprintf(out, "<p class=\"dim\">No event in the last %d days.</p>\n", HISTORY_DAYS);
}

static void write_apps(FILE *out, const struct status *status)
{
    (void)fprintf(out, "<h2>Apps</h2>\n");
    if (!status->history)
        (void)fputs("<p class=\"warn\">The counts of the last days could not be read from the "
                    "database.</p>\n",
                    out);
    for (size_t i = 0; i < status->app_count; i++)
        write_app(out, status, &status->apps[i]);
}

/* What came before an app was added makes no stranger of it. */
static bool is_configured(const struct status *status, const char *client_id)
{
    for (size_t i = 0; i < status->app_count; i++)
        if (strcmp(status->apps[i].client_id, client_id) == 0)
            return true;
    return false;
}

static void write_strangers(FILE *out, const struct status *status)
{
    const struct history_summary *history = status->history;
    size_t shown = 0;

    for (size_t i = 0; i < history->stranger_count; i++)
        shown += !is_configured(status, history->strangers[i].client_id);
    if (shown == 0)
        return;
    (void)fputs("<h2>Not configured here</h2>\n<p class=\"warn\">Apple signed these for apps that "
                "this daemon does not know; nothing of them was stored. Add the app to `apps`, or "
                "give its App ID its own endpoint.</p>\n<ul>\n",
                out);
    for (size_t i = 0; i < history->stranger_count; i++) {
        if (is_configured(status, history->strangers[i].client_id))
            continue;
        (void)fputs("<li>", out);
        html_text(out, history->strangers[i].client_id);
        (void)fprintf(out, ": %" PRIu64 " since ", history->strangers[i].count);
        write_day(out, history->strangers[i].first_day);
        (void)fputs("</li>\n", out);
    }
    (void)fputs("</ul>\n", out);
}

/* ---- outcomes ---- */

static void write_outcome(FILE *out, enum verdict verdict, const struct history_outcome *outcome)
{
    const char *advice = outcome_advice(verdict);

    (void)fprintf(out, "<tr><th scope=\"row\">%s", verdict_label(verdict));
    if (advice[0] != '\0') {
        (void)fputs("<span class=\"why\">", out);
        html_text(out, advice);
        (void)fputs("</span>", out);
    }
    (void)fprintf(out,
                  "</th><td class=\"n\">%u</td><td class=\"n\">%" PRIu64
                  "</td><td class=\"n\">%" PRIu64 "</td><td class=\"n\">%" PRIu64 "</td></tr>\n",
                  verdict_status(verdict), outcome->today, outcome->week, outcome->month);
}

static void write_outcomes(FILE *out, const struct history_summary *history)
{
    bool any = false;

    (void)fputs("<h2>Outcomes</h2>\n", out);
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
        if (history->outcomes[verdict].month == 0)
            continue;
        if (!any)
            (void)fprintf(out,
                          "<table>\n<thead><tr><th scope=\"col\">Outcome, and what probably "
                          "stands behind it</th><th scope=\"col\" class=\"n\">Answer</th><th "
                          "scope=\"col\" class=\"n\">Today</th><th scope=\"col\" "
                          "class=\"n\">7 days</th><th scope=\"col\" class=\"n\">%d "
                          "days</th></tr></thead>\n<tbody>\n",
                          HISTORY_DAYS);
        any = true;
        write_outcome(out, (enum verdict)verdict, &history->outcomes[verdict]);
    }
    (void)fputs(any ? "</tbody></table>\n<p class=\"dim\">Days are those of UTC.</p>\n"
                    : "<p class=\"dim\">Nothing has arrived yet.</p>\n",
                out);
}

/* ---- keys ---- */

static void write_key(FILE *out, const struct status *status, const struct key_record *record)
{
    (void)fputs("<tr><th scope=\"row\">", out);
    html_text(out, jwk_kid(record->key));
    (void)fprintf(out, "</th><td>%s</td><td>",
                  control_key_state(status->keys, record, status->now_s));
    html_time(out, record->first_seen_s);
    (void)fputs("</td><td>", out);
    html_time(out, record->last_seen_s);
    (void)fputs("</td></tr>\n", out);
}

static void write_keys(FILE *out, const struct status *status)
{
    const struct refresher_state *refresher = &status->report->facts.refresher;
    int64_t refreshed_s = key_snapshot_refreshed_s(status->keys);

    (void)fputs("<h2>Apple's keys</h2>\n<p>Last fetched: ", out);
    html_time(out, refreshed_s);
    if (refreshed_s > 0) {
        (void)fputs(", ", out);
        html_duration(out, status->now_s - refreshed_s);
        (void)fputs(" ago", out);
    }
    (void)fputs(". Next in ", out);
    html_duration(out, refresher->next_scheduled_in_ms / 1000);
    (void)fputs(".</p>\n", out);
    if (refresher->attempts > 0 && refresher->last_result != FETCH_RESULT_OK) {
        (void)fputs("<p class=\"warn\">The last attempt failed: ", out);
        html_text(out, refresher->last_why);
        (void)fputs("</p>\n", out);
    }
    if (key_snapshot_count(status->keys) == 0)
        return;
    (void)fputs("<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
                "aria-label=\"Keys\"><table>\n<thead><tr><th scope=\"col\">kid</th><th "
                "scope=\"col\">State</th><th scope=\"col\">First seen</th><th scope=\"col\">Last "
                "seen</th></tr></thead>\n<tbody>\n",
                out);
    for (size_t i = 0; i < key_snapshot_count(status->keys); i++)
        write_key(out, status, key_snapshot_at(status->keys, i));
    (void)fputs("</tbody></table></div>\n", out);
}

/* ---- consumers ---- */

static void write_consumer(FILE *out, const struct consumer_state *state)
{
    (void)fputs("<tr><th scope=\"row\">", out);
    html_text(out, state->name);
    (void)fprintf(out,
                  "</th><td class=\"n\">%" PRId64 "</td><td class=\"n\">%" PRId64 "%s</td><td>",
                  state->position, state->lag_rows,
                  state->lag_rows > CONSUMERS_LAG_COUNTED ? " or fewer" : "");
    html_duration(out, state->lag_ms / 1000);
    (void)fputs("</td><td>", out);
    html_time(out, state->acknowledged_ms / 1000);
    (void)fputs("</td></tr>\n", out);
}

static void write_consumers(FILE *out, const struct status *status)
{
    if (status->consumer_count == 0)
        return;
    (void)fputs("<h2>Consumers</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
                "aria-label=\"Consumers\"><table>\n<thead><tr><th scope=\"col\">Name</th><th "
                "scope=\"col\" class=\"n\">Position</th><th scope=\"col\" class=\"n\">Rows "
                "behind</th><th scope=\"col\">The oldest waits for</th><th "
                "scope=\"col\">Last acknowledged</th></tr></thead>\n<tbody>\n",
                out);
    for (size_t i = 0; i < status->consumer_count; i++)
        write_consumer(out, &status->consumers[i]);
    (void)fputs("</tbody></table></div>\n", out);
}

/* ---- storage ---- */

static void write_row(FILE *out, const char *name)
{
    (void)fprintf(out, "<tr><th scope=\"row\">%s</th><td>", name);
}

static void write_storage(FILE *out, const struct status *status)
{
    const struct health_facts *facts = &status->report->facts;
    const struct writer_state *writer = &facts->pulse.writer;

    (void)fputs("<h2>Storage</h2>\n<table><tbody>\n", out);
    write_row(out, "Queue");
    (void)fprintf(out, "%u of %u events wait</td></tr>\n", writer->queued_events,
                  writer->queue_events);
    write_row(out, "Commits");
    (void)fprintf(out, "%" PRIu64 " since the start, %" PRIu64 " rows", writer->commits,
                  writer->rows);
    if (status->commit_p99_s > 0)
        (void)fprintf(out, "; half take at most %.1f ms, 99 of 100 at most %.1f ms",
                      status->commit_p50_s * 1000, status->commit_p99_s * 1000);
    (void)fputs("</td></tr>\n", out);
    write_row(out, "Database");
    html_bytes(out, facts->database_bytes);
    (void)fputs(", write-ahead log ", out);
    html_bytes(out, facts->wal_bytes);
    (void)fputs("</td></tr>\n", out);
    write_row(out, "Disk");
    if (facts->disk_known) {
        html_bytes(out, facts->disk_free_bytes);
        (void)fputs(" free of ", out);
        html_bytes(out, facts->disk_size_bytes);
    } else {
        (void)fputs("unknown", out);
    }
    (void)fputs("</td></tr>\n</tbody></table>\n", out);
}

/* ---- the page ---- */

static void write_page(FILE *out, const struct status *status)
{
    write_head(out, status);
    write_checks(out, status->report);
    write_apps(out, status);
    if (status->history) {
        write_strangers(out, status);
        write_outcomes(out, status->history);
    }
    write_consumers(out, status);
    write_keys(out, status);
    write_storage(out, status);
    (void)fputs("</main>\n<footer>siwa-notifyd ", out);
    html_text(out, status->version);
    (void)fputs(", running for ", out);
    html_duration(out, status->now_s - status->started_s);
    (void)fputs(" · <a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">readyz</a></footer>\n"
                "</body>\n</html>\n",
                out);
}

int status_page_render(const struct status *status, char **ret_html, size_t *ret_bytes)
{
    char *html = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&html, &bytes);

    if (!out)
        return -ENOMEM;
    write_page(out, status);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(html);
        return -ENOMEM;
    }
    *ret_html = html;
    *ret_bytes = bytes;
    return 0;
}

char *status_page_policy(void)
{
    unsigned char digest[EVP_MAX_MD_SIZE], text[2 * EVP_MAX_MD_SIZE];
    unsigned digest_bytes = 0;
    char *policy = NULL;

    if (EVP_Digest(style, sizeof style - 1, digest, &digest_bytes, EVP_sha256(), NULL) != 1)
        return NULL;
    EVP_EncodeBlock(text, digest, (int)digest_bytes);
    if (asprintf(&policy,
                 "default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; "
                 "frame-ancestors 'none'",
                 (const char *)text) < 0)
        return NULL;
    return policy;
}
