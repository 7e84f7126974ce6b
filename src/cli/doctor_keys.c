/* The part of doctor that looks at Apple's keys: those at hand, and whether they can be fetched. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/call.h"
#include "cli/cli.h"
#include "doctor.h"
#include "keys/fetch.h"
#include "keys/key_cache.h"
#include "listener/health.h"
#include "support/clock.h"
#include "verifier/jwks.h"

#define CLOCK_WARN_S 5

/* ---- those at hand ---- */

static void tell_age(struct doctor *doctor, const struct key_snapshot *snapshot)
{
    int64_t now_s = clock_wall_ms() / 1000;
    int64_t refreshed_s = key_snapshot_refreshed_s(snapshot);
    double hours = (double)(now_s - refreshed_s) / 3600;

    if (refreshed_s == 0)
        doctor_tell(doctor, "keys.age", DOCTOR_FAIL,
                    "see keys.fetch below; then `siwa-notifyd keys --refresh`",
                    "no key set was ever fetched: every notification is answered 503");
    else if (!key_snapshot_usable(snapshot, now_s))
        doctor_tell(doctor, "keys.age", DOCTOR_FAIL,
                    "see keys.fetch below; then `siwa-notifyd keys --refresh`",
                    "the keys are %.1f days old, or all distrusted: none is used any more",
                    hours / 24);
    else if (now_s - refreshed_s > HEALTH_KEYS_WARN_S)
        doctor_tell(doctor, "keys.age", DOCTOR_WARN, "see keys.fetch below",
                    "the last refresh that succeeded is %.1f hours ago", hours);
    else
        doctor_tell(doctor, "keys.age", DOCTOR_OK, NULL, "%zu known, refreshed %.1f hours ago",
                    key_snapshot_count(snapshot), hours);
}

static void release_path(char **path)
{
    free(*path);
}

static void look_at_cache(struct doctor *doctor)
{
    __attribute__((cleanup(release_path))) char *path = cli_keys_file(doctor->config->database);
    char why[JWKS_WHY_BYTES] = "";
    struct key_cache *cache;
    int error = path ? key_cache_open(path, &cache, why) : -ENOMEM;

    if (error < 0) {
        doctor_tell(doctor, "keys.age", error == -EACCES ? DOCTOR_SKIP : DOCTOR_FAIL,
                    error == -EACCES ? "run as root"
                                     : "move it aside and restart: the keys are fetched anew",
                    "%s: %s", path ? path : "keys.json", why[0] ? why : strerror(-error));
        return;
    }
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    tell_age(doctor, snapshot);
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}

static void look_at_source(struct doctor *doctor)
{
    const struct config *config = doctor->config;

    if (config->keys_source == CONFIG_KEYS_FILE)
        doctor_tell(doctor, "keys.source", doctor->test_setup ? DOCTOR_WARN : DOCTOR_FAIL,
                    "keys = \"url\", or the key fetch socket; --test-setup where this is a test",
                    "the keys come from %s: whoever may write it can sign notifications",
                    config->keys_path);
    else
        doctor_tell(doctor, "keys.source", DOCTOR_OK, NULL, "the daemon gets its keys from %s",
                    config->keys_source == CONFIG_KEYS_URL ? config->key_url : config->keys_path);
}

/* ---- the key server ---- */

static void tell_set(struct doctor *doctor, const char *text, size_t bytes)
{
    char why[JWKS_WHY_BYTES] = "";
    struct jwks *set;

    if (jwks_parse(text, bytes, &set, why) < 0) {
        doctor_tell(doctor, "keys.fetch", DOCTOR_FAIL, "set key_url to Apple's key set",
                    "%s gives no key set: %s", doctor->config->key_url, why);
        return;
    }
    doctor_tell(doctor, "keys.fetch", DOCTOR_OK, NULL, "%s gives %zu keys", doctor->config->key_url,
                jwks_count(set));
    jwks_free(set);
}

static void fetch_set(struct doctor *doctor)
{
    const struct config *config = doctor->config;
    const struct fetch_source source = {.kind = CONFIG_KEYS_URL,
                                        .url = config->key_url,
                                        .ca_file = config->ca_file,
                                        .proxy = config->proxy};
    char why[FETCH_WHY_BYTES] = "", *text = NULL;
    size_t bytes = 0;
    enum fetch_result result = FETCH_RESULT_INTERNAL;

    if (fetch_init() == 0)
        result = fetch_keys_text(&source, &text, &bytes, why);
    if (result == FETCH_RESULT_OK)
        tell_set(doctor, text, bytes);
    else
        doctor_tell(doctor, "keys.fetch", doctor->test_setup ? DOCTOR_WARN : DOCTOR_FAIL,
                    "let this machine reach it: firewall, proxy, ca_file, name resolution",
                    "the key set cannot be fetched now (%s): %s", fetch_result_label(result), why);
    free(text);
}

/* Apple's clock, by the Date of the key server's answer. */
static void compare_clock(struct doctor *doctor)
{
    const struct call_request request = {.url = doctor->config->key_url,
                                         .method = "HEAD",
                                         .timeout_ms = DOCTOR_CALL_MS,
                                         .reply_max_bytes = DOCTOR_REPLY_MAX_BYTES,
                                         .ca_file = doctor->config->ca_file};
    char why[CALL_WHY_BYTES] = "", date[64] = "";
    struct call_reply reply = {0};
    struct tm broken = {0};

    if (call_send(&request, &reply, why) < 0 ||
        call_reply_header(&reply, "Date", date, sizeof date) < 0 ||
        !strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &broken)) {
        doctor_tell(doctor, "clock.server", DOCTOR_SKIP, NULL,
                    "the key server's clock could not be asked: %s", why[0] ? why : "no Date");
        call_reply_release(&reply);
        return;
    }
    call_reply_release(&reply);
    long long difference_s = (long long)(clock_wall_ms() / 1000 - timegm(&broken));
    long long leeway_s = (long long)doctor->config->limits.leeway_s;
    enum doctor_state state = llabs(difference_s) > leeway_s       ? DOCTOR_FAIL
                              : llabs(difference_s) > CLOCK_WARN_S ? DOCTOR_WARN
                                                                   : DOCTOR_OK;
    doctor_tell(doctor, "clock.server", state,
                state == DOCTOR_OK ? NULL : "set the clock, and have it kept by NTP",
                "the clock here is %lld s %s that of the key server; limits.leeway_s is %lld",
                llabs(difference_s), difference_s < 0 ? "behind" : "ahead of", leeway_s);
}

static void look_at_server(struct doctor *doctor)
{
    char why[CALL_WHY_BYTES];
    struct call_url url;

    if (call_split_url(doctor->config->key_url, &url, why) == 0)
        doctor_tls(doctor, &(struct doctor_address){.host = url.host, .port = url.port},
                   doctor->config->ca_file, true);
}

void doctor_keys(struct doctor *doctor)
{
    if (!doctor->config)
        return;
    look_at_source(doctor);
    look_at_cache(doctor);
    fetch_set(doctor);
    look_at_server(doctor);
    compare_clock(doctor);
}
