/*
 * config: the settings, read with libconfig, checked, and immutable from then on.
 *
 * One table in config.c names every setting with its type, default and bounds; siwa-notifyd.conf(5)
 * and `check-config --print` follow it, and a test holds them together.
 */
#ifndef SIWA_SUPPORT_CONFIG_H
#define SIWA_SUPPORT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_DEFAULT_FILE "/etc/siwa-notifyd/siwa-notifyd.conf"

/* Event types that an app's `ignore` may name; bit EVENT_TYPE_… of ignore_mask. Unknown types that
 * Apple may add later are never ignored. */

enum config_late { CONFIG_LATE_QUARANTINE = 0, CONFIG_LATE_DELIVER, CONFIG_LATE_REJECT };

enum config_keys_source { CONFIG_KEYS_URL = 0, CONFIG_KEYS_UNIX, CONFIG_KEYS_FILE };

/* Where a listener is to be, or where something is to be connected to. */
enum config_address_kind { CONFIG_ADDRESS_NONE = 0, CONFIG_ADDRESS_UNIX, CONFIG_ADDRESS_TCP };
struct config_address {
    enum config_address_kind kind;
    char text[160]; /* as it was written; for messages */
    char path[108]; /* UNIX: absolute path */
    char host[64];  /* TCP: numeric IPv4 or IPv6, without brackets */
    uint16_t port;
};

struct config_app {
    const char *client_id;
    const char *app;
    const char *team;
    unsigned ignore_mask;
};

struct config_consumer {
    const char *name;
    const char *user; /* NULL: only root and the daemon's user */
    bool start_now;   /* start = "now": at the newest row; else at the oldest */
};

struct config_retain {
    int64_t events_s, hard_s, raw_s, quarantine_s, identities_s;
};

struct config_limits {
    unsigned connections;
    size_t body_bytes;
    unsigned headers_s, request_s, idle_s;
    unsigned queue_events;
    unsigned leeway_s;
    unsigned deferred_events;
    size_t deferred_bytes;
    unsigned key_refresh_s;
};

/* Everything, after defaults. Strings belong to the struct. */
struct config {
    struct config_address listen, monitor, control;
    const char *path;
    const char *database;
    const char *key_url;
    enum config_keys_source keys_source;
    const char *keys_path; /* of "unix:/path" and "file:/path" */
    const char *const *issuers;
    size_t issuer_count;
    const struct config_app *apps;
    size_t app_count;
    const struct config_consumer *consumers;
    size_t consumer_count;
    enum config_late late;
    struct config_retain retain;
    struct config_limits limits;
    const char *ca_file; /* "" is the system's */
    const char *proxy;   /* "", "environment", or a URL */
    void *storage;       /* private to config.c */
};

/* Reads and checks a file. On success 0 and an immutable configuration in ret_config, to be
 * released with config_free. Otherwise -EINVAL (or -ENOENT, -EACCES, … for a file that cannot be
 * read), after every problem was written to problems, one line each: `FILE:LINE: setting: what is
 * wrong; what would be right`. All problems are reported, not only the first. ret_config is
 * untouched then. */
int config_load(const char *file, FILE *problems, struct config **ret_config);

/* Releases a configuration; NULL is allowed. */
void config_free(struct config *config);

/* Writes the configuration in effect, defaults included, in the syntax that config_load reads. */
void config_print(const struct config *config, FILE *out);

/* Parses `unix:/path`, `127.0.0.1:8080`, `[::1]:8080` (numeric only). 0, or -EINVAL. */
int config_address_parse(const char *text, struct config_address *ret_address);

#endif
