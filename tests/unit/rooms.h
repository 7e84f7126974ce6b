/*
 * rooms: the real rooms of a small daemon in a folder of its own, for the tests of those that look
 * at all of them. Only what listens is chosen by the test.
 */
#ifndef SIWA_TESTS_ROOMS_H
#define SIWA_TESTS_ROOMS_H

#include <check.h>
#include <ftw.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/call.h"
#include "dispatcher/consumers.h"
#include "keys/fetch.h"
#include "listener/health.h"
#include "signer.h"
#include "support/clock.h"
#include "support/metrics.h"

#define ROOMS_QUEUE_EVENTS 64
#define ROOMS_CALL_MS      30000 /* only bounds how long a broken answer holds a run up */

struct rooms {
    char folder[64];
    char database[96], keys_file[96], set_file[96];
    struct config_address address;
    struct metrics *metrics;
    struct outbox *outbox;
    struct consumers *consumers;
    struct outbox_reader *reader;
    struct writer *writer;
    struct key_cache *keys;
    struct refresher *refresher;
    struct http_loop *notify_loop, *reader_loop;
    struct health *health;
    int fd;
};

static const struct config_consumer rooms_consumers[] = {{.name = "accounts", .user = "nobody"},
                                                         {.name = "mailer"}};
static const struct config rooms_config = {.consumers = rooms_consumers, .consumer_count = 2};

static inline int rooms_remove_entry(const char *path, const struct stat *file, int kind,
                                     struct FTW *ftw)
{
    (void)file;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static inline void rooms_nothing(void *context)
{
    (void)context;
}

static inline void rooms_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

/* What the key server publishes from now on. */
static inline void rooms_publish(const struct rooms *rooms, const char *set)
{
    rooms_write(rooms->set_file, set);
}

/* Waits until so many attempts to refresh are over. */
static inline void rooms_await_attempts(const struct rooms *rooms, uint64_t attempts)
{
    struct refresher_state state = {0};

    do {
        (void)usleep(1000);
        refresher_state(rooms->refresher, &state);
    } while (state.attempts < attempts);
}

/* A daemon that has fetched this set, or failed to where set is NULL. */
static inline void rooms_make(struct rooms *rooms, const char *set)
{
    char why[OUTBOX_WHY_BYTES] = "";

    *rooms = (struct rooms){.folder = "/tmp/siwa-rooms-XXXXXX", .fd = -1};
    ck_assert_ptr_nonnull(mkdtemp(rooms->folder));
    (void)snprintf(rooms->database, sizeof rooms->database, "%s/outbox.db", rooms->folder);
    (void)snprintf(rooms->keys_file, sizeof rooms->keys_file, "%s/keys.json", rooms->folder);
    (void)snprintf(rooms->set_file, sizeof rooms->set_file, "%s/set.json", rooms->folder);
    rooms->address.kind = CONFIG_ADDRESS_UNIX;
    (void)snprintf(rooms->address.path, sizeof rooms->address.path, "%s/socket", rooms->folder);
    if (set)
        rooms_publish(rooms, set);

    ck_assert_int_eq(fetch_init(), 0);
    ck_assert_int_eq(metrics_new(&rooms->metrics), 0);
    ck_assert_msg(outbox_open(rooms->database, clock_wall_ms(), &rooms->outbox, why) == 0, "%s",
                  why);
    ck_assert_int_eq(consumers_new(&rooms_config, &rooms->consumers), 0);
    ck_assert_msg(outbox_reader_open(rooms->database, &rooms->reader, why) == 0, "%s", why);
    ck_assert_int_eq(key_cache_new_empty(rooms->keys_file, &rooms->keys), 0);
    ck_assert_int_eq(http_loop_new("notify", &rooms->notify_loop), 0);
    ck_assert_int_eq(http_loop_new("reader", &rooms->reader_loop), 0);
    const struct writer_settings writer = {.outbox = rooms->outbox,
                                           .queue_events = ROOMS_QUEUE_EVENTS,
                                           .metrics = rooms->metrics,
                                           .on_committed = rooms_nothing,
                                           .on_fatal = rooms_nothing};
    ck_assert_int_eq(writer_start(&writer, &rooms->writer), 0);
    const struct refresher_settings refresher = {
        .source = {.kind = CONFIG_KEYS_FILE, .path = rooms->set_file},
        .interval_s = 3600,
        .cache = rooms->keys,
        .metrics = rooms->metrics};
    ck_assert_int_eq(refresher_start(&refresher, &rooms->refresher), 0);
    rooms_await_attempts(rooms, 1);
    const struct health_sources sources = {.database = rooms->database,
                                           .writer = rooms->writer,
                                           .refresher = rooms->refresher,
                                           .key_refresh_s = 3600,
                                           .key_cache = rooms->keys,
                                           .notify_loop = rooms->notify_loop,
                                           .reader_loop = rooms->reader_loop,
                                           .leeway_s = 300};
    ck_assert_int_eq(health_new(&sources, &rooms->health), 0);
}

/* Puts a service on the reader's loop, at address, and lets it run. */
static inline struct http_server *rooms_serve(struct rooms *rooms,
                                              const struct http_service *service, void *context,
                                              size_t body_bytes)
{
    const struct http_limits limits = {.connections = 16,
                                       .body_bytes = body_bytes,
                                       .headers_ms = 30000,
                                       .request_ms = 30000,
                                       .idle_ms = 30000,
                                       .spare_silent_ms = 30000,
                                       .spare_busy_ms = 30000};
    struct http_server *server = NULL;
    char why[256] = "";

    rooms->fd = http_listen(&rooms->address, 0666, why);
    ck_assert_msg(rooms->fd >= 0, "%s", why);
    ck_assert_int_eq(
        http_loop_serve(rooms->reader_loop, rooms->fd, &limits, true, service, context, &server),
        0);
    return server;
}

/* Call it once the test has nothing more to add to the loops. */
static inline void rooms_run(struct rooms *rooms)
{
    ck_assert_int_eq(http_loop_start(rooms->reader_loop), 0);
}

/* Ends the loops and the writer; then the test frees what it served, and then rooms_remove the
 * rest. */
static inline void rooms_stop(struct rooms *rooms)
{
    http_loop_stop(rooms->reader_loop);
    http_loop_stop(rooms->notify_loop);
    writer_stop(rooms->writer);
    http_loop_free(rooms->reader_loop);
    http_loop_free(rooms->notify_loop);
}

static inline void rooms_remove(struct rooms *rooms)
{
    char why[OUTBOX_WHY_BYTES];

    health_free(rooms->health);
    refresher_stop(rooms->refresher);
    writer_free(rooms->writer);
    consumers_free(rooms->consumers);
    outbox_reader_close(rooms->reader);
    (void)outbox_close(rooms->outbox, why);
    key_cache_free(rooms->keys);
    metrics_free(rooms->metrics);
    if (rooms->fd >= 0)
        (void)close(rooms->fd);
    (void)nftw(rooms->folder, rooms_remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* One request over the socket; its status. ret_reply is to be released. */
static inline unsigned rooms_call(const struct rooms *rooms, const char *method, const char *path,
                                  const char *body, struct call_reply *ret_reply)
{
    char url[256], why[CALL_WHY_BYTES] = "";
    const struct call_request request = {.url = url,
                                         .unix_socket = rooms->address.path,
                                         .method = method,
                                         .body = body,
                                         .body_bytes = body ? strlen(body) : 0,
                                         .timeout_ms = ROOMS_CALL_MS,
                                         .reply_max_bytes = 1 << 20};

    (void)snprintf(url, sizeof url, "http://daemon%s", path);
    ck_assert_msg(call_send(&request, ret_reply, why) == 0, "%s %s: %s", method, path, why);
    return ret_reply->status;
}

/* The same where the answer is JSON; a reference to it. */
static inline json_t *rooms_call_json(const struct rooms *rooms, const char *method,
                                      const char *path, const char *body, unsigned status,
                                      const char *type)
{
    struct call_reply reply;
    char value[64] = "";
    unsigned given = rooms_call(rooms, method, path, body, &reply);

    ck_assert_msg(given == status, "%s %s: %u, not %u: %s", method, path, given, status,
                  reply.body);
    ck_assert_int_eq(call_reply_header(&reply, "Content-Type", value, sizeof value), 0);
    ck_assert_str_eq(value, type);
    json_t *json = json_loadb(reply.body, reply.body_bytes, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_msg(json != NULL, "%s", reply.body);
    call_reply_release(&reply);
    return json;
}

#endif
