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

#include "support/version.h"

#define CONFIG_DEFAULT_FILE   "/etc/siwa-notifyd/siwa-notifyd.conf"
#define CONFIG_FILE_MAX_BYTES (1024 * 1024)
#define CONFIG_APPS_MAX       1000
#define CONFIG_CONSUMERS_MAX  64
#define CONFIG_ISSUERS_MAX    16
#define CONFIG_PROBLEMS_MAX   100 /* reported of one file; the rest is counted */

/* Reserved for the daemon's own test notifications, so that no app and no issuer can ever have
 * these names. */
#define CONFIG_PROBE_CLIENT_ID "siwa-notifyd.probe" /* and whatever begins so */
#define CONFIG_PROBE_ISSUER    "urn:siwa-notifyd:probe"
#define CONFIG_PROBE_KID       "siwa-notifyd.probe." /* how the kid of their key begins */

/* The event types that an app's `ignore` may name, by bit of ignore_mask: 1 << EVENT_TYPE_… of
 * verifier/notification.h (a test holds the two together). Unknown types that Apple may add later
 * are never ignored. */
#define CONFIG_IGNORE_TABLE(X) \
    X("email-enabled", 1) \
    X("email-disabled", 2) \
    X("consent-revoked", 3) \
    X("account-delete", 4) \
    X("account-deleted", 4)

enum config_late { CONFIG_LATE_QUARANTINE = 0, CONFIG_LATE_DELIVER, CONFIG_LATE_REJECT };

/* erase_after_account_delete that is not a duration in seconds. */
#define CONFIG_ERASE_OFF   INT64_C(-1)
#define CONFIG_ERASE_ACKED INT64_C(0)

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
    const char *client_id; /* 1 to 255 visible ASCII characters; unique */
    const char *app;  /* a label for people, 1 to 64 bytes of UTF-8 without control characters */
    const char *team; /* 10 capital letters and digits */
    unsigned ignore_mask;
};

struct config_consumer {
    const char *name;
    const char *user; /* NULL: only root and the daemon's user */
    bool start_now;   /* start = "now": at the newest row; else at the oldest */
};

struct config_retain {
    int64_t events_s, hard_s, raw_s, quarantine_s, identities_s, audit_s;
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
    int64_t erase_after_s; /* every consumer acknowledged an account-delete, or CONFIG_ERASE_… */
    struct config_limits limits;
    const char *ca_file; /* "" is the system's */
    const char *proxy;   /* "", "environment", or a URL */
    void *storage;       /* private to config.c */
};

/* Reads and checks a file: a regular one of at most CONFIG_FILE_MAX_BYTES, without `@include`. On
 * success 0 and an immutable configuration in ret_config, to be released with config_free.
 * Otherwise -EINVAL (-ENOENT, -EACCES, … for a file that cannot be read, -ENOMEM) with ret_config
 * untouched. Every problem is written to problems, one line each in the order of the lines,
 * printable ASCII but for the name of the file: `FILE:LINE: setting: what is wrong; what would be
 * right`. What is allowed, but hardly meant, is written there too, as `FILE:LINE: warning: …`, also
 * on success. One thread at a time. */
int config_load(const char *file, FILE *problems, struct config **ret_config);

/* The same for a text in memory, NUL-terminated behind its text_bytes; name stands for the file.
 * -EINVAL or -ENOMEM. */
int config_parse(const char *text, size_t text_bytes, const char *name, FILE *problems,
                 struct config **ret_config);

/* Releases a configuration; NULL is allowed. */
void config_free(struct config *config);

/* Writes the configuration in effect, defaults included, in the syntax that config_load reads; read
 * back, it is the same. Errors stay with the stream. */
void config_print(const struct config *config, FILE *out);

/* What is known of one setting, for documents and tests. */
struct config_setting_info {
    const char *section;  /* "" at the top, or "retain", "limits", "apps", "consumers" */
    const char *name;     /* as it is written */
    const char *fallback; /* the default as it would be written, without quotes; NULL: required */
    int64_t min, max;     /* of a number; of a duration in seconds; both 0 for others */
    const char *help;     /* one line */
};

/* Setting number index of the table, a static one, or NULL beyond its end. Any thread. */
const struct config_setting_info *config_setting_info(size_t index);

/* Which libconfig this is. Any thread. */
struct version_library config_library(void);

/* Parses `unix:/path`, `127.0.0.1:8080`, `[::1]:8080`: an absolute path that fits a socket address,
 * or a numeric address with a port of 0 to 65535 (0: the kernel chooses). 0, or -EINVAL with
 * ret_address untouched. Pure; any thread. */
int config_address_parse(const char *text, struct config_address *ret_address);

#endif
