/*
 * config_table: every setting, once. Private to config.
 *
 * X(section, name, kind, struct, field, fallback, min, max, help): section "" is the top of the
 * file; a row of kind GROUP or LIST opens the section of its own name. fallback is written as text
 * whatever the kind, NULL where a setting is required. min and max bound numbers and (in seconds)
 * durations.
 */
#ifndef SIWA_SUPPORT_CONFIG_TABLE_H
#define SIWA_SUPPORT_CONFIG_TABLE_H

#include <stddef.h>

#include "support/config.h"

#define MINUTE_S 60
#define DAY_S    86400
#define YEARS_S  (INT64_C(36500) * DAY_S) /* a hundred of them: for ever */

/* A token lives for a day, and leeway_s may add another. An identity that is forgotten earlier lets
 * the same token in as a new event. */
#define IDENTITIES_MIN_S (2 * DAY_S)

#define CONFIG_TABLE(X) \
    X("", "listen", ADDRESS, config, listen, "unix:/run/siwa-notifyd/notify.sock", 0, 0, \
      "where notifications arrive: unix:/path, 127.0.0.1:8080 or [::1]:8080") \
    X("", "path", HTTP_PATH, config, path, "/apple/notifications", 0, 0, \
      "the path of the URL that is registered at Apple") \
    X("", "monitor", ADDRESS_OR_NONE, config, monitor, "127.0.0.1:9180", 0, 0, \
      "health, metrics and status page; empty for none") \
    X("", "control", UNIX_OR_NONE, config, control, "unix:/run/siwa-notifyd/control.sock", 0, 0, \
      "the socket of the commands and of consumers; empty for none") \
    X("", "database", FILE_PATH, config, database, "/var/lib/siwa-notifyd/outbox.db", 0, 0, \
      "the outbox; its keys and locks stand beside it") \
    X("", "key_url", HTTPS_URL, config, key_url, "https://appleid.apple.com/auth/keys", 0, 0, \
      "where Apple publishes its keys") \
    X("", "keys", KEYS, config, keys_source, "url", 0, 0, \
      "who fetches them: url, unix:/path of the fetch unit, or file:/path") \
    X("", "issuers", ISSUERS, config, issuers, "https://appleid.apple.com", 0, 0, \
      "the values of iss that are Apple's") \
    X("", "apps", APPS, config, apps, NULL, 0, 0, "the apps whose notifications are taken") \
    X("", "consumers", CONSUMERS, config, consumers, "", 0, 0, \
      "who acknowledges rows, so that they can be pruned") \
    X("", "late", LATE, config, late, "quarantine", 0, 0, \
      "what becomes of expired notifications: quarantine, deliver or reject") \
    X("", "retain", GROUP, config, retain, "", 0, 0, "how long what is kept") \
    X("", "erase_after_account_delete", ERASE_AFTER, config, erase_after_s, "off", 0, 0, \
      "when the data of a person go: off, acked, or how long after every consumer acknowledged") \
    X("", "limits", GROUP, config, limits, "", 0, 0, "what strangers can use up") \
    X("", "ca_file", FILE_PATH_OR_NONE, config, ca_file, "", 0, 0, \
      "the authorities that may vouch for key_url; empty for the system's") \
    X("", "proxy", PROXY, config, proxy, "", 0, 0, \
      "the way to key_url: empty for direct, environment, or a URL") \
    X("apps", "client_id", CLIENT_ID, config_app, client_id, NULL, 0, 0, \
      "the App ID or Services ID, as it stands in aud") \
    X("apps", "app", LABEL, config_app, app, NULL, 0, 0, "a label for people") \
    X("apps", "team", TEAM, config_app, team, NULL, 0, 0, "the Apple team that owns the app") \
    X("apps", "ignore", IGNORE, config_app, ignore_mask, "", 0, 0, \
      "types of events that are answered and not stored") \
    X("consumers", "name", CONSUMER_NAME, config_consumer, name, NULL, 0, 0, \
      "what the consumer is called") \
    X("consumers", "user", USER, config_consumer, user, "", 0, 0, \
      "the system user that may acknowledge for it; empty: only root and the daemon's") \
    X("consumers", "start", START, config_consumer, start_now, "oldest", 0, 0, \
      "where a new consumer begins: oldest or now") \
    X("retain", "events", DURATION, config, retain.events_s, "90d", MINUTE_S, YEARS_S, \
      "rows that every consumer acknowledged") \
    X("retain", "hard", DURATION, config, retain.hard_s, "365d", MINUTE_S, YEARS_S, \
      "rows whether acknowledged or not; at least events") \
    X("retain", "raw", DURATION, config, retain.raw_s, "7d", 0, YEARS_S, \
      "bodies as Apple sent them; 0s keeps none") \
    X("retain", "quarantine", DURATION, config, retain.quarantine_s, "90d", MINUTE_S, YEARS_S, \
      "what stands in quarantine") \
    X("retain", "identities", DURATION, config, retain.identities_s, "400d", IDENTITIES_MIN_S, \
      YEARS_S, "the hashes by which a repeat is known") \
    X("retain", "audit", DURATION, config, retain.audit_s, "400d", MINUTE_S, YEARS_S, \
      "what the audit tells of account-delete and consent-revoked") \
    X("limits", "connections", NUMBER, config, limits.connections, "512", 1, 16384, \
      "connections at once; more wait") \
    X("limits", "body_bytes", SIZE, config, limits.body_bytes, "65536", 1024, 65536, \
      "of one request") \
    X("limits", "headers_s", NUMBER, config, limits.headers_s, "5", 1, 300, \
      "seconds until the headers are complete") \
    X("limits", "request_s", NUMBER, config, limits.request_s, "15", 1, 300, \
      "seconds until the whole request is; at least headers_s") \
    X("limits", "idle_s", NUMBER, config, limits.idle_s, "60", 1, 3600, \
      "seconds between requests of one connection") \
    X("limits", "queue_events", NUMBER, config, limits.queue_events, "4096", 1, 65536, \
      "events that wait for the disk") \
    X("limits", "leeway_s", NUMBER, config, limits.leeway_s, "300", 0, DAY_S, \
      "seconds by which two clocks may differ") \
    X("limits", "deferred_events", NUMBER, config, limits.deferred_events, "10000", 0, 1000000, \
      "notifications kept until keys arrive") \
    X("limits", "deferred_bytes", SIZE, config, limits.deferred_bytes, "67108864", 0, 1073741824, \
      "of these, together") \
    X("limits", "key_refresh_s", NUMBER, config, limits.key_refresh_s, "3600", 60, DAY_S, \
      "seconds between fetches of the keys")

enum config_kind {
    CONFIG_KIND_ADDRESS,
    CONFIG_KIND_ADDRESS_OR_NONE,
    CONFIG_KIND_UNIX_OR_NONE,
    CONFIG_KIND_HTTP_PATH,
    CONFIG_KIND_FILE_PATH,
    CONFIG_KIND_FILE_PATH_OR_NONE,
    CONFIG_KIND_HTTPS_URL,
    CONFIG_KIND_PROXY,
    CONFIG_KIND_CLIENT_ID,
    CONFIG_KIND_LABEL,
    CONFIG_KIND_TEAM,
    CONFIG_KIND_CONSUMER_NAME,
    CONFIG_KIND_USER,
    CONFIG_KIND_KEYS,
    CONFIG_KIND_LATE,
    CONFIG_KIND_START,
    CONFIG_KIND_ERASE_AFTER,
    CONFIG_KIND_DURATION,
    CONFIG_KIND_NUMBER, /* an unsigned */
    CONFIG_KIND_SIZE,   /* a size_t */
    CONFIG_KIND_ISSUERS,
    CONFIG_KIND_IGNORE,
    CONFIG_KIND_APPS,
    CONFIG_KIND_CONSUMERS,
    CONFIG_KIND_GROUP
};

struct config_row {
    struct config_setting_info info;
    enum config_kind kind;
    size_t offset; /* into the struct of its section */
};

extern const struct config_row config_rows[];
extern const size_t config_row_count;

#endif
