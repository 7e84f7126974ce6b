/*
 * status_page: what the daemon knows of itself, as one page for a browser.
 *
 * Self-contained HTML without a script; light and dark, readable on a phone. Nothing personal.
 * Rendering is pure, so that every state can be shown without producing it.
 */
#ifndef SIWA_LISTENER_STATUS_PAGE_H
#define SIWA_LISTENER_STATUS_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/consumers.h"
#include "dispatcher/history_summary.h"
#include "keys/key_cache.h"
#include "listener/health.h"

#define STATUS_PAGE_REFRESH_S 30 /* how often a browser asks again */

struct status_app {
    const char *client_id;
    int64_t last_accepted_s; /* since 1970, 0 for never */
};

/* What is shown; everything is borrowed. */
struct status {
    const char *version;
    int64_t now_s;
    int64_t started_s;
    const struct health_report *report;
    const struct key_snapshot *keys;
    const struct status_app *apps; /* the configured ones */
    size_t app_count;
    const struct history_summary *history; /* NULL where it could not be read */
    const struct consumer_state *consumers;
    size_t consumer_count;
    double commit_p50_s, commit_p99_s; /* 0 where nothing was committed yet */
    bool refreshing;                   /* whether the browser was told to ask again */
};

/* The page, newly allocated; the caller frees it. 0 or -ENOMEM. Any thread. */
int status_page_render(const struct status *status, char **ret_html, size_t *ret_bytes);

/* The Content-Security-Policy under which it works: nothing is loaded, and of styles only the one
 * in the page, named by its hash. Newly allocated, the caller frees it; NULL when memory is out. */
char *status_page_policy(void);

#endif
