/*
 * keys: shows what keys.json remembers; has the running daemon fetch anew or distrust a key.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/daemon.h"
#include "cli/moment.h"
#include "keys/key_cache.h"
#include "listener/control.h"
#include "support/clock.h"
#include "support/config.h"

#define KEYS_CALL_MS    10000
#define KEYS_REFRESH_MS (CONTROL_REFRESH_WAIT_MS + 5000)

static const char keys_name[] = "keys";

static const char keys_about[] =
    "Lists the keys that keys.json beside the database remembers, whether the daemon\n"
    "runs or not. States: current (in the published set), grace (left it, trusted for\n"
    "48 hours), old (verifies for quarantine only), distrusted.\n"
    "\n"
    "--refresh has the running daemon fetch the key set now and waits for the result.\n"
    "--distrust KID ends the trust in a key at once and for good, also when Apple\n"
    "publishes it again; without a running daemon keys.json itself is changed. Both\n"
    "are for root and the user of the daemon.\n"
    "\n"
    "Exit status: 0 when done, 1 when not, 2 for a wrong command line.";

struct keys {
    struct config *config;
    char *folder; /* of the database and keys.json */
    char *file;   /* keys.json */
    bool json;
};

static void release_json(json_t **value)
{
    json_decref(*value);
}

/* ---- showing ---- */

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "-";
}

static void print_time(const json_t *seconds, const char *end)
{
    char text[MOMENT_TEXT_BYTES] = "-";

    if (json_is_integer(seconds))
        moment_text(json_integer_value(seconds) * 1000, text);
    (void)printf("%-20s%s", text, end);
}

static void print_row(const char *kid, const char *state, const json_t *first, const json_t *last)
{
    (void)printf("%-12s  %-10s  ", kid, state);
    print_time(first, "  ");
    print_time(last, "\n");
}

/* Whatever cannot be written is noticed when standard output is flushed. */
static void print_keys(const json_t *keys)
{
    const json_t *known = json_object_get(keys, "keys");
    const json_t *unknown = json_object_get(keys, "distrusted_unknown");

    (void)printf("%-12s  %-10s  %-20s  %s\n", "KID", "STATE", "FIRST SEEN", "LAST SEEN");
    for (size_t i = 0; i < json_array_size(known); i++) {
        const json_t *key = json_array_get(known, i);
        print_row(text_of(key, "kid"), text_of(key, "state"), json_object_get(key, "first_seen_s"),
                  json_object_get(key, "last_seen_s"));
    }
    for (size_t i = 0; i < json_array_size(unknown); i++)
        print_row(json_string_value(json_array_get(unknown, i)), "distrusted", NULL, NULL);
    (void)fputs("last refresh  ", stdout);
    print_time(json_object_get(keys, "refreshed_s"), "");
    (void)puts(json_is_true(json_object_get(keys, "usable")) ? "  usable" : "  not usable");
}

/* Takes the reference. */
static int print_json(json_t *value)
{
    int error = cli_print_json(value);

    if (error == 0)
        return CLI_OK;
    cli_error(keys_name, "%s", strerror(-error));
    return CLI_REFUSED;
}

static int open_cache(const struct keys *keys, struct key_cache **ret_cache)
{
    char why[JWKS_WHY_BYTES] = "";
    int error = key_cache_open(keys->file, ret_cache, why);

    if (error < 0)
        cli_error(keys_name, "%s: %s", keys->file, why[0] != '\0' ? why : strerror(-error));
    return error;
}

static int list(const struct keys *keys)
{
    __attribute__((cleanup(release_json))) json_t *listed = NULL;
    struct key_cache *cache = NULL;

    if (open_cache(keys, &cache) < 0)
        return CLI_REFUSED;
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    bool empty = key_snapshot_count(snapshot) == 0 && key_snapshot_distrusted_count(snapshot) == 0;
    listed = control_keys_json(snapshot, clock_wall_ms() / 1000);
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
    if (keys->json || !listed)
        return print_json(json_incref(listed));
    if (empty)
        cli_error(keys_name, "%s holds no keys yet; the daemon writes it after its first fetch",
                  keys->file);
    else
        print_keys(listed);
    return CLI_OK;
}

/* ---- asking the daemon ---- */

/* POSTs to the control socket. 0 with the answer of a 200; -ENOENT with a sentence in ret_why where
 * no daemon listens, -EDESTADDRREQ where none can be asked; every other error is explained here. */
static int ask_daemon(const struct keys *keys, const char *path, const json_t *body,
                      unsigned timeout_ms, json_t **ret_answer, char ret_why[DAEMON_WHY_BYTES])
{
    const struct daemon_request request = {
        .config = keys->config, .path = path, .body = body, .timeout_ms = timeout_ms};
    unsigned status;
    int error = daemon_ask(&request, ret_answer, &status, ret_why);

    if (error < 0 && error != -ENOENT && error != -EDESTADDRREQ)
        cli_error(keys_name, "%s", ret_why);
    return error;
}

static int refresh(const struct keys *keys)
{
    __attribute__((cleanup(release_json))) json_t *body = json_object();
    __attribute__((cleanup(release_json))) json_t *answer = NULL;
    char why[DAEMON_WHY_BYTES];

    if (!body) {
        cli_error(keys_name, "%s", strerror(ENOMEM));
        return CLI_REFUSED;
    }
    int error = ask_daemon(keys, "/v1/keys/refresh", body, KEYS_REFRESH_MS, &answer, why);

    if (error == -ENOENT)
        cli_error(keys_name, "the daemon is not running: %s; start it, it fetches the keys then",
                  why);
    else if (error == -EDESTADDRREQ)
        cli_error(keys_name, "%s; set `control`", why);
    if (error < 0)
        return CLI_REFUSED;
    if (keys->json)
        return print_json(json_incref(answer));
    print_keys(json_object_get(answer, "keys"));
    return CLI_OK;
}

/* ---- distrusting ---- */

/* Takes the reference. */
static int print_distrusted(const struct keys *keys, json_t *answer)
{
    if (keys->json || !answer)
        return print_json(answer);
    (void)printf("%s is distrusted from now on", text_of(answer, "kid"));
    if (!json_is_true(json_object_get(answer, "known")))
        (void)fputs(" (it was never seen so far)", stdout);
    (void)puts("");
    if (!json_is_true(json_object_get(answer, "keys_usable")))
        cli_error(keys_name, "no usable key is left; notifications are put off until there is");
    json_decref(answer);
    return CLI_OK;
}

/* What root writes here must still belong to the user of the daemon, who owns the folder. */
static int work_as_owner(const struct keys *keys)
{
    struct stat folder;

    if (stat(keys->folder, &folder) < 0)
        return -errno;
    if (geteuid() != 0 || folder.st_uid == 0)
        return 0;
    if (setgroups(0, NULL) < 0 || setegid(folder.st_gid) < 0 || seteuid(folder.st_uid) < 0)
        return -errno;
    return 0;
}

/* Keeps a daemon from starting while its keys are changed: holds the lock that it would take, until
 * ret_fd is closed. The file is not made here: without one no daemon was ever here, and ret_fd is
 * -1. 0, -EWOULDBLOCK while a daemon holds it, or -errno. */
static int keep_daemon_out(const struct keys *keys, int *ret_fd)
{
    char *path = NULL;

    if (asprintf(&path, "%s.lock", keys->config->database) < 0)
        return -ENOMEM;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int error = fd < 0 ? -errno : 0;
    free(path);
    if (error < 0 && error != -ENOENT)
        return error;
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        error = -errno;
        (void)close(fd);
        return error;
    }
    *ret_fd = fd;
    return 0;
}

static int distrust_in_file(const struct keys *keys, const char *kid)
{
    struct key_cache *cache = NULL;

    if (open_cache(keys, &cache) < 0)
        return CLI_REFUSED;
    int error = key_cache_distrust(cache, kid);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    json_t *answer = control_distrusted_json(snapshot, kid, clock_wall_ms() / 1000);
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
    if (error == 0)
        return print_distrusted(keys, answer);
    json_decref(answer);
    cli_error(keys_name, "%s: %s; nothing was changed", keys->file,
              error == -EINVAL ? "a kid has 1 to 64 printable characters" : strerror(-error));
    return CLI_REFUSED;
}

static int distrust_without_daemon(const struct keys *keys, const char *kid, const char *why)
{
    int lock_fd = -1;
    int error = work_as_owner(keys);

    if (error == 0)
        error = keep_daemon_out(keys, &lock_fd);
    if (error == -EWOULDBLOCK)
        cli_error(keys_name,
                  "a daemon has %s open, but cannot be asked: %s; name its control socket in the "
                  "configuration, or stop it",
                  keys->config->database, why);
    else if (error < 0)
        cli_error(keys_name, "%s cannot be changed: %s", keys->file, strerror(-error));
    int code = error < 0 ? CLI_REFUSED : distrust_in_file(keys, kid);
    if (lock_fd >= 0)
        (void)close(lock_fd);
    return code;
}

static int distrust(const struct keys *keys, const char *kid)
{
    __attribute__((cleanup(release_json))) json_t *question = json_pack("{s:s}", "kid", kid);
    json_t *answer = NULL;
    char why[DAEMON_WHY_BYTES];

    if (!question) {
        cli_error(keys_name, "--distrust: a kid has 1 to 64 printable characters");
        return CLI_USAGE;
    }
    int error = ask_daemon(keys, "/v1/keys/distrust", question, KEYS_CALL_MS, &answer, why);
    if (error == -ENOENT || error == -EDESTADDRREQ)
        return distrust_without_daemon(keys, kid, why);
    return error < 0 ? CLI_REFUSED : print_distrusted(keys, answer);
}

/* ---- the command ---- */

static int open_keys(const char *config_file, struct keys *keys)
{
    int error = config_load(config_file, stderr, &keys->config);

    if (error < 0)
        return error;
    const char *database = keys->config->database, *slash = strrchr(database, '/');
    keys->folder =
        slash ? strndup(database, slash == database ? 1 : (size_t)(slash - database)) : strdup(".");
    keys->file = cli_keys_file(database);
    return keys->folder && keys->file ? 0 : -ENOMEM;
}

static void close_keys(struct keys *keys)
{
    config_free(keys->config);
    free(keys->folder);
    free(keys->file);
}

int cli_keys(int argc, char **argv)
{
    __attribute__((cleanup(close_keys))) struct keys keys = {0};
    const char *config_file = CONFIG_DEFAULT_FILE, *kid = NULL;
    bool fetch = false;
    const struct cli_option options[] = {
        cli_config_option(&config_file),
        cli_flag("refresh", "have the daemon fetch the key set now", &fetch),
        cli_text("distrust", "KID", "never trust this key again", &kid),
        cli_json_option(&keys.json),
        {.name = NULL},
    };
    const struct cli_usage usage = {
        .name = keys_name, .operands = "", .about = keys_about, .options = options};
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    if (fetch && kid) {
        cli_error(keys_name, "--refresh and --distrust exclude each other");
        return CLI_USAGE;
    }
    if (open_keys(config_file, &keys) < 0)
        return CLI_REFUSED;
    if (fetch)
        return refresh(&keys);
    return kid ? distrust(&keys, kid) : list(&keys);
}
