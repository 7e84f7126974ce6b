/*
 * serve: puts the rooms together, watches over them, and takes them apart again.
 *
 * Order matters in both directions. Up: what answers comes last, so that no request meets a
 * half-made daemon. Down: what answers goes first, then what stores, then the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "dispatcher/consumers.h"
#include "dispatcher/history.h"
#include "dispatcher/outbox.h"
#include "dispatcher/sweeper.h"
#include "dispatcher/writer.h"
#include "keys/fetch.h"
#include "keys/key_cache.h"
#include "keys/refresher.h"
#include "listener/control.h"
#include "listener/health.h"
#include "listener/http.h"
#include "listener/ingress.h"
#include "listener/monitor.h"
#include "support/clock.h"
#include "support/config.h"
#include "support/log.h"
#include "support/metrics.h"
#include "support/service.h"
#include "support/version.h"

#define SERVE_TICK_MS       1000  /* of the main thread: watchdog, status */
#define SERVE_DRAIN_MS      10000 /* for requests under way at a stop; more than a commit may take */
#define SERVE_FILES_MARGIN  64    /* descriptors beside those of Apple's connections */
#define SERVE_WHY_BYTES     512
#define NOTIFY_SOCKET_MODE  0666 /* a reverse proxy of any user */
#define CONTROL_SOCKET_MODE 0660

/* What the check of the whole database found, on its way to the one who writes. */
struct damage {
    struct writer_task task; /* first */
    bool found;
    char why[OUTBOX_WHY_BYTES];
};

struct serve {
    const char *config_file;
    struct config *config; /* of the start; rooms borrow from it to the end */
    struct metrics *metrics;
    struct key_cache *keys;
    struct outbox *outbox;
    struct consumers *consumers;
    struct consumer_metrics *consumer_metrics;
    struct outbox_reader *reader; /* of the reader's loop while it runs */
    struct http_loop *notify_loop, *reader_loop;
    struct http_server *notify_server, *monitor_server, *control_server;
    int notify_fd, monitor_fd, control_fd;
    struct writer *writer;
    struct refresher *refresher;
    struct ingress *ingress;
    struct probe *probe;
    struct sweeper *sweeper;
    struct history *history;
    int64_t history_ms; /* monotonic; of its last flush */
    struct health *health;
    struct monitor *monitor;
    struct control *control;
    char *keys_file;
    int failed_fd; /* eventfd: storage failed, stop */
    pthread_t check_thread;
    bool check_started;
    atomic_bool check_stop;
    struct damage damage;
    atomic_bool failed;
    bool failing, wal_long;                           /* as last told in the log */
    char status[HEALTH_WHY_BYTES + OUTBOX_WHY_BYTES]; /* as last told to the service manager */
    char why[SERVE_WHY_BYTES];                        /* of a start that failed */
};

/* -- what the other threads tell --------------------------------------------------------------- */

static void on_committed(void *context)
{
    struct serve *serve = context;
    http_loop_wake(serve->notify_loop);
    if (serve->control) /* nothing is committed for anybody before it is there */
        control_committed(serve->control);
}

static void on_fatal(void *context)
{
    struct serve *serve = context;

    atomic_store(&serve->failed, true);
    http_loop_wake(serve->notify_loop);
    if (eventfd_write(serve->failed_fd, 1) != 0)
        abort(); /* an eventfd that takes no 1 is no eventfd; dying is what this asks for anyway */
}

static void on_refresh(void *context, const struct refresher_outcome *outcome)
{
    const struct serve *serve = context;

    if (outcome->result == FETCH_RESULT_OK)
        log_event(LOG_LEVEL_INFO, "key set refreshed", log_number("keys", (int64_t)outcome->keys),
                  log_number("new", (int64_t)outcome->new_keys),
                  log_number("passed_over", (int64_t)outcome->passed_over));
    else
        log_event(LOG_LEVEL_WARNING,
                  key_cache_usable(serve->keys, clock_wall_ms() / 1000)
                      ? "key set not refreshed; the keys at hand go on serving"
                      : "key set not refreshed; without a usable key notifications are answered "
                        "503",
                  log_text("result", fetch_result_label(outcome->result)),
                  log_text("why", outcome->why), log_number("next_ms", outcome->next_in_ms));
    if (outcome->save_error)
        log_event(LOG_LEVEL_WARNING, "the key set could not be saved",
                  log_text("why", strerror(-outcome->save_error)));
}

static void on_attempt_over(void *context)
{
    struct serve *serve = context;
    http_loop_wake(serve->notify_loop);
    http_loop_wake(serve->reader_loop);
}

static enum outbox_error condemn(struct outbox *outbox, struct writer_task *task)
{
    return outbox_condemn(outbox, ((struct damage *)(void *)task)->why);
}

static void on_condemned(struct writer_task *task, enum outbox_error error)
{
    (void)task;
    (void)error; /* the writer's end, which on_fatal tells of */
}

/* Nothing may be written into a damaged file any more, so the writer ends itself. Where it takes no
 * task any more it is ending already, and serve_down sees to the rest. */
static void stop_writing(struct serve *serve)
{
    int error;

    serve->damage.found = true;
    serve->damage.task = (struct writer_task){.run = condemn, .done = on_condemned};
    do {
        error = writer_post(serve->writer, &serve->damage.task);
        if (error == -EAGAIN)
            nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    } while (error == -EAGAIN);
    if (error)
        on_fatal(serve);
}

static void on_swept(void *context, const struct sweeper_swept *swept)
{
    (void)context;
    if (swept->unacknowledged > 0)
        log_event(LOG_LEVEL_ERROR,
                  "rows were removed that not every consumer had acknowledged: they were past "
                  "retain.hard",
                  log_number("rows", swept->unacknowledged),
                  log_number("pruned_through", swept->pruned_through));
    log_event(swept->why ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
              swept->why ? "removing what is old ended early; it is tried again"
                         : "what is old was removed",
              log_number("rows", swept->removed[RETENTION_ROWS]),
              log_number("raw", swept->removed[RETENTION_RAW]),
              log_number("test", swept->removed[RETENTION_TEST]),
              log_number("quarantine", swept->removed[RETENTION_QUARANTINE]),
              log_number("deferred", swept->removed[RETENTION_DEFERRED]),
              log_number("identities", swept->removed[RETENTION_IDENTITIES]),
              log_number("facts", swept->removed[RETENTION_FACTS]),
              log_text("why", swept->why ? swept->why : ""));
}

/* What a run before this one left in the write-ahead log; how much it was is not known any more. */
static void tell_earlier(bool gone)
{
    log_write(gone ? LOG_LEVEL_NOTICE : LOG_LEVEL_WARNING,
              gone
                  ? "what was erased before the start stands nowhere any more"
                  : "a reader keeps what was erased before the start in the write-ahead log; it is "
                    "tried again until that reader ends its transaction",
              NULL);
}

static void on_erased(void *context, const struct sweeper_erased *erased)
{
    const struct erasure_counts *counts = &erased->counts;

    (void)context;
    if (erased->earlier)
        tell_earlier(erased->gone);
    if (counts->rows + counts->raw + counts->deferred + counts->quarantined == 0)
        return;
    log_event(erased->gone ? LOG_LEVEL_NOTICE : LOG_LEVEL_WARNING,
              erased->gone ? "erased; the text stands nowhere any more"
                           : "erased, but a reader keeps the text in the write-ahead log; it is "
                             "tried again until that reader ends its transaction",
              log_number("rows", counts->rows), log_number("raw", counts->raw),
              log_number("deferred", counts->deferred),
              log_number("quarantined", counts->quarantined));
}

static void on_progress(void *context)
{
    struct serve *serve = context;
    http_loop_wake(serve->reader_loop);
}

static void on_unreadable(void *context, const char *why)
{
    (void)context;
    log_event(LOG_LEVEL_WARNING, "the database cannot be read for an erasure; it is tried again",
              log_text("why", why));
}

static void on_doubt(void *context, int64_t jump_ms)
{
    (void)context;
    log_event(
        LOG_LEVEL_WARNING,
        "the clock jumped; nothing is removed for its age until it has been steady for an hour",
        log_number("jump_ms", jump_ms));
}

/* Reads the whole database once, beside the work: damage is better found now than by a consumer. */
static void *check_database(void *context)
{
    struct serve *serve = context;
    struct outbox_reader *reader = NULL;
    char *why = serve->damage.why;
    int error = outbox_reader_open(serve->config->database, &reader, why);
    bool opened = !error;

    if (opened)
        error = outbox_reader_quick_check(reader, &serve->check_stop, why);
    outbox_reader_close(reader);
    if (opened && error == -EIO) {
        log_event(LOG_LEVEL_ERROR, "the database is damaged; it is left as it is",
                  log_text("database", serve->config->database), log_text("why", why));
        stop_writing(serve);
    } else if (error && error != -ECANCELED) {
        log_event(LOG_LEVEL_WARNING, "the database could not be checked",
                  log_text("database", serve->config->database), log_text("why", why));
    }
    return NULL;
}

/* -- up ---------------------------------------------------------------------------------------- */

/* No core file, no other process of this user that reads our memory: it holds what people
 * entrusted. */
static void harden(const struct config *config)
{
    struct rlimit files;

    umask(0027);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        rlim_t wanted = (rlim_t)config->limits.connections + MONITOR_CONNECTIONS +
                        CONTROL_CONNECTIONS + SERVE_FILES_MARGIN;
        if (files.rlim_cur < wanted) {
            files.rlim_cur = wanted < files.rlim_max ? wanted : files.rlim_max;
            setrlimit(RLIMIT_NOFILE, &files);
        }
    }
}

static int refuse(struct serve *serve, int error, const char *what)
{
    if (serve->why[0])
        log_event(LOG_LEVEL_ERROR, what, log_text("why", serve->why));
    else
        log_event(LOG_LEVEL_ERROR, what, log_text("why", strerror(-error)));
    return error;
}

/* The socket that the service manager handed over under this name, or one of our own; -1 in ret_fd
 * where the configuration wants none. */
static int open_listener(struct serve *serve, const char *name,
                         const struct config_address *address, mode_t mode, int *ret_fd)
{
    int fd = service_listen_fd(name);

    if (fd == -ENOENT) {
        if (address->kind == CONFIG_ADDRESS_NONE) {
            *ret_fd = -1;
            return 0;
        }
        fd = http_listen(address, mode, serve->why);
    } else if (fd < 0) {
        snprintf(
            serve->why, sizeof(serve->why),
            "the socket that the service manager passed as \"%s\" is not a listening stream socket",
            name);
    }
    if (fd < 0)
        return refuse(serve, fd, "cannot listen");
    *ret_fd = fd;
    return 0;
}

static int open_listeners(struct serve *serve)
{
    const struct config *config = serve->config;
    int error;

    error = open_listener(serve, "notify", &config->listen, NOTIFY_SOCKET_MODE, &serve->notify_fd);
    if (!error)
        error = open_listener(serve, "monitor", &config->monitor, NOTIFY_SOCKET_MODE,
                              &serve->monitor_fd);
    if (!error)
        error = open_listener(serve, "control", &config->control, CONTROL_SOCKET_MODE,
                              &serve->control_fd);
    return error;
}

static int open_keys(struct serve *serve)
{
    char why[JWKS_WHY_BYTES] = "";
    int error;

    serve->keys_file = cli_keys_file(serve->config->database);
    if (!serve->keys_file)
        return refuse(serve, -ENOMEM, "cannot open the key cache");
    error = key_cache_open(serve->keys_file, &serve->keys, why);
    if (!error)
        return 0;
    log_event(LOG_LEVEL_WARNING, "the persisted keys are not used; they are fetched anew",
              log_text("file", serve->keys_file), log_text("why", why));
    error = key_cache_new_empty(serve->keys_file, &serve->keys);
    return error ? refuse(serve, error, "cannot make a key cache") : 0;
}

static void tell_lost_wal(const char *database)
{
    char file[PATH_MAX + 8];

    snprintf(file, sizeof(file), "%s-wal", database);
    log_event(LOG_LEVEL_WARNING,
              "the write-ahead log is missing, though the run before did not end cleanly: unless "
              "another program moved it into the database, what was committed last is lost; a "
              "newer backup may have it, and is restored as siwa-notifyd(8) tells",
              log_text("file", file));
}

/* An empty outbox where a full one is expected, or one that has lost its end, must not come in
 * silence. */
static void tell_origin(const struct serve *serve)
{
    switch (outbox_origin(serve->outbox)) {
    case OUTBOX_ORIGIN_FOUND:
        return;
    case OUTBOX_ORIGIN_NEW:
        log_event(LOG_LEVEL_NOTICE, "a new outbox was made",
                  log_text("database", serve->config->database));
        return;
    case OUTBOX_ORIGIN_ANEW:
        log_event(LOG_LEVEL_WARNING,
                  "a new outbox was made, though its identity key was there already: unless the "
                  "first start was cut off, the database was taken away; if not on purpose, stop, "
                  "and put it back",
                  log_text("database", serve->config->database));
        return;
    case OUTBOX_ORIGIN_CUT:
        tell_lost_wal(serve->config->database);
    }
}

static int open_outbox(struct serve *serve)
{
    char why[OUTBOX_WHY_BYTES] = "";
    int error = outbox_open(serve->config->database, clock_wall_ms(), &serve->outbox, why);

    if (error) {
        snprintf(serve->why, sizeof(serve->why), "%s", why);
        return refuse(serve, error, "cannot open the outbox");
    }
    tell_origin(serve);
    return 0;
}

/* A user that is made later is seen at the next reload. */
static void warn_of_users(const struct serve *serve)
{
    struct consumer_set set;

    consumers_set(serve->consumers, &set);
    for (size_t i = 0; i < set.count; i++)
        if (set.list[i].user[0] != '\0' && !set.list[i].user_known)
            log_event(LOG_LEVEL_WARNING,
                      "the user of a consumer does not exist; only root and the daemon's user can "
                      "acknowledge for it",
                      log_text("consumer", set.list[i].name), log_text("user", set.list[i].user));
}

static int open_consumers(struct serve *serve)
{
    int error = consumers_new(serve->config, &serve->consumers);
    enum outbox_error stored;

    if (error)
        return refuse(serve, error, "cannot prepare the consumers");
    stored = outbox_begin(serve->outbox);
    if (stored == OUTBOX_ERROR_NONE)
        stored = consumers_sync(serve->consumers, serve->outbox, clock_wall_ms());
    if (stored == OUTBOX_ERROR_NONE)
        stored = outbox_commit(serve->outbox);
    if (stored != OUTBOX_ERROR_NONE) {
        outbox_rollback(serve->outbox);
        snprintf(serve->why, sizeof(serve->why), "%s: %s", serve->config->database,
                 outbox_error_text(serve->outbox));
        return refuse(serve, -EIO, "cannot store the consumers");
    }
    warn_of_users(serve);
    return 0;
}

static int open_reader(struct serve *serve)
{
    char why[OUTBOX_WHY_BYTES] = "";
    int error = outbox_reader_open(serve->config->database, &serve->reader, why);

    if (error)
        snprintf(serve->why, sizeof(serve->why), "%s", why);
    return error ? refuse(serve, error, "cannot read the outbox") : 0;
}

static int start_writer(struct serve *serve)
{
    struct writer_settings settings = {
        .outbox = serve->outbox,
        .queue_events = serve->config->limits.queue_events,
        .metrics = serve->metrics,
        .on_committed = on_committed,
        .on_fatal = on_fatal,
        .context = serve,
    };
    int error = writer_start(&settings, &serve->writer);
    return error ? refuse(serve, error, "cannot start the writer") : 0;
}

static int start_sweeper(struct serve *serve)
{
    struct sweeper_settings settings = {
        .database = serve->config->database,
        .outbox = serve->outbox,
        .config = serve->config,
        .writer = serve->writer,
        .consumers = serve->consumers,
        .metrics = serve->metrics,
        .on_swept = on_swept,
        .on_doubt = on_doubt,
        .on_erased = on_erased,
        .on_progress = on_progress,
        .on_unreadable = on_unreadable,
        .context = serve,
    };
    int error = sweeper_start(&settings, &serve->sweeper);
    return error ? refuse(serve, error, "cannot start the sweeper") : 0;
}

static int start_refresher(struct serve *serve)
{
    const struct config *config = serve->config;
    struct refresher_settings settings = {
        .source = {.kind = config->keys_source,
                   .url = config->key_url,
                   .path = config->keys_path,
                   .ca_file = config->ca_file,
                   .proxy = config->proxy},
        .interval_s = config->limits.key_refresh_s,
        .cache = serve->keys,
        .metrics = serve->metrics,
        .on_outcome = on_refresh,
        .outcome_context = serve,
        .on_attempt_over = on_attempt_over,
        .context = serve,
    };
    int error = refresher_start(&settings, &serve->refresher);
    return error ? refuse(serve, error, "cannot start the key refresher") : 0;
}

static void restore_last_accepted(void *context, const char *client_id, int64_t last_ms)
{
    ingress_restore_last_accepted(context, client_id, last_ms);
}

/* Silence is measured from the last accepted notification, also across a restart. */
static void restore_history(struct serve *serve)
{
    struct outbox_reader *reader = NULL;
    char why[OUTBOX_WHY_BYTES] = "";
    int error = outbox_reader_open(serve->config->database, &reader, why);

    if (!error)
        error = outbox_reader_last_accepted(reader, restore_last_accepted, serve->ingress);
    if (error)
        log_event(LOG_LEVEL_WARNING, "when apps were last heard of could not be read",
                  log_text("why", why[0] ? why : strerror(-error)));
    outbox_reader_close(reader);
}

static int make_services(struct serve *serve)
{
    const struct config *config = serve->config;
    int error = probe_new(&serve->probe);
    struct ingress_settings ingress = {
        .config = config,
        .probe = serve->probe,
        .keys = serve->keys,
        .refresher = serve->refresher,
        .writer = serve->writer,
        .metrics = serve->metrics,
    };
    struct health_sources sources = {
        .database = config->database,
        .writer = serve->writer,
        .refresher = serve->refresher,
        .key_refresh_s = config->limits.key_refresh_s,
        .key_cache = serve->keys,
        .notify_loop = serve->notify_loop,
        .reader_loop = serve->reader_loop,
        .leeway_s = config->limits.leeway_s,
    };
    if (!error)
        error = ingress_new(&ingress, &serve->ingress);
    if (!error)
        error = history_new(serve->writer, serve->metrics, &serve->history);
    if (!error)
        error = health_new(&sources, &serve->health);
    if (!error)
        error = consumer_metrics_new(serve->consumers, serve->reader, serve->metrics,
                                     &serve->consumer_metrics);
    if (!error)
        error = monitor_new(&(struct monitor_settings){.health = serve->health,
                                                       .metrics = serve->metrics,
                                                       .version = SIWA_VERSION,
                                                       .key_cache = serve->keys,
                                                       .consumers = serve->consumer_metrics,
                                                       .ingress = serve->ingress,
                                                       .positions = serve->consumers,
                                                       .database = config->database},
                            &serve->monitor);
    if (!error)
        error = control_new(&(struct control_settings){.health = serve->health,
                                                       .key_cache = serve->keys,
                                                       .refresher = serve->refresher,
                                                       .consumers = serve->consumers,
                                                       .ingress = serve->ingress,
                                                       .sweeper = serve->sweeper,
                                                       .probe = serve->probe,
                                                       .writer = serve->writer,
                                                       .reader = serve->reader,
                                                       .loop = serve->reader_loop,
                                                       .version = SIWA_VERSION},
                            &serve->control);
    return error ? refuse(serve, error, "cannot prepare the listeners") : 0;
}

/* Of the two small listeners: the times of Apple's, their own sizes. */
static struct http_limits limits_of(const struct config *config, unsigned connections,
                                    size_t body_bytes)
{
    struct http_limits limits = ingress_limits(config);

    limits.connections = connections;
    limits.body_bytes = body_bytes;
    return limits;
}

static int serve_one(struct serve *serve, struct http_loop *loop, int fd,
                     const struct http_limits *limits, bool pending_by_suspend,
                     const struct http_service *service, void *context, const char *name,
                     struct http_server **ret_server)
{
    int error;

    if (fd < 0)
        return 0;
    error = http_loop_serve(loop, fd, limits, pending_by_suspend, service, context, ret_server);
    return error ? error : monitor_watch(serve->monitor, name, *ret_server);
}

static int start_loops(struct serve *serve)
{
    const struct config *config = serve->config;
    struct http_limits notify = ingress_limits(config);
    struct http_limits monitor = limits_of(config, MONITOR_CONNECTIONS, MONITOR_BODY_MAX_BYTES);
    struct http_limits control = limits_of(config, CONTROL_CONNECTIONS, CONTROL_BODY_MAX_BYTES);
    int error;

    error = serve_one(serve, serve->notify_loop, serve->notify_fd, &notify, false,
                      ingress_service(), serve->ingress, "notify", &serve->notify_server);
    if (!error)
        error = serve_one(serve, serve->reader_loop, serve->monitor_fd, &monitor, true,
                          &monitor_service, serve->monitor, "monitor", &serve->monitor_server);
    if (!error)
        error = serve_one(serve, serve->reader_loop, serve->control_fd, &control, true,
                          &control_service, serve->control, "control", &serve->control_server);
    if (!error)
        error = http_loop_start(serve->reader_loop);
    if (!error)
        error = http_loop_start(serve->notify_loop);
    return error ? refuse(serve, error, "cannot start the listeners") : 0;
}

static int make_basics(struct serve *serve)
{
    int error = metrics_new(&serve->metrics);

    if (!error)
        error = http_loop_new("notify", &serve->notify_loop);
    if (!error)
        error = http_loop_new("reader", &serve->reader_loop);
    if (!error) {
        serve->failed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        error = serve->failed_fd < 0 ? -errno : 0;
    }
    if (!error)
        error = fetch_init();
    return error ? refuse(serve, error, "cannot start") : 0;
}

/* What is kept waits for a key that no attempt before the restart brought; a saved set that is not
 * old yet would have it wait for up to key_refresh_s more. */
static void ask_for_deferred(struct serve *serve)
{
    struct writer_state writer;

    writer_state(serve->writer, &writer);
    if (writer.apart.deferred_rows > 0)
        (void)refresher_demand(serve->refresher);
}

static int serve_up(struct serve *serve)
{
    int error;

    error = open_listeners(serve);
    if (!error)
        error = make_basics(serve);
    if (!error)
        error = open_outbox(serve);
    if (!error)
        error = open_consumers(serve);
    if (!error)
        error = open_reader(serve);
    if (!error)
        error = open_keys(serve);
    if (!error)
        error = start_writer(serve);
    if (!error)
        error = start_refresher(serve);
    if (!error)
        error = start_sweeper(serve);
    if (!error)
        error = make_services(serve);
    if (error)
        return error;
    restore_history(serve);
    error = start_loops(serve);
    if (error)
        return error;
    ask_for_deferred(serve);
    serve->check_started = pthread_create(&serve->check_thread, NULL, check_database, serve) == 0;
    return 0;
}

/* -- down -------------------------------------------------------------------------------------- */

static void wait_for_requests(const struct http_loop *loop, int64_t for_ms)
{
    int64_t until_ms = clock_monotonic_ms() + for_ms;

    while (http_loop_requests(loop) > 0 && clock_monotonic_ms() < until_ms)
        nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
}

/* The last time: a flush that is under way took stock before the last requests. */
static void flush_history(struct serve *serve)
{
    int64_t until_ms = clock_monotonic_ms() + SERVE_DRAIN_MS;

    while (history_under_way(serve->history) && clock_monotonic_ms() < until_ms)
        nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
    history_flush(serve->history, clock_wall_ms());
}

/* What was accepted is answered, and nothing accepted is lost: no new connections; requests under
 * way get their time; the queue is committed; the last answers go out. */
static void drain(struct serve *serve)
{
    health_drain(serve->health);
    http_loop_drain(serve->notify_loop);
    wait_for_requests(serve->notify_loop, SERVE_DRAIN_MS);
    ingress_refuse_new(serve->ingress);
    flush_history(serve);
    sweeper_stop(serve->sweeper);
    writer_stop(serve->writer);
    http_loop_wake(serve->notify_loop);
    http_loop_wake(serve->reader_loop);
    wait_for_requests(serve->notify_loop, SERVE_TICK_MS);
    wait_for_requests(serve->reader_loop, SERVE_TICK_MS);
}

static int serve_down(struct serve *serve)
{
    char why[OUTBOX_WHY_BYTES] = "";
    int error;

    atomic_store(&serve->check_stop, true);
    /* First nobody is called any more, then nobody wakes a loop, then the loops may go: each side
     * looks at the other until it ends. */
    http_loop_stop(serve->reader_loop);
    http_loop_stop(serve->notify_loop);
    refresher_stop(serve->refresher);
    if (serve->check_started)
        pthread_join(serve->check_thread, NULL);
    sweeper_stop(serve->sweeper);
    if (serve->writer)
        writer_stop(serve->writer);
    if (serve->damage.found) { /* it may have been found too late for the writer */
        outbox_condemn(serve->outbox, serve->damage.why);
        outbox_mark_failed(serve->outbox);
    }
    http_loop_free(serve->reader_loop);
    http_loop_free(serve->notify_loop);
    writer_free(serve->writer);
    history_free(serve->history);
    control_free(serve->control);
    sweeper_free(serve->sweeper);
    monitor_free(serve->monitor);
    health_free(serve->health);
    ingress_free(serve->ingress);
    probe_free(serve->probe);
    consumer_metrics_free(serve->consumer_metrics);
    consumers_free(serve->consumers);
    outbox_reader_close(serve->reader);
    error = outbox_close(serve->outbox, why);
    if (error)
        log_event(error == -EBUSY ? LOG_LEVEL_WARNING : LOG_LEVEL_ERROR,
                  "the outbox was not checkpointed; nothing is lost", log_text("why", why));
    key_cache_free(serve->keys);
    metrics_free(serve->metrics);
    free(serve->keys_file);
    config_free(serve->config);
    return error == -EBUSY ? 0 : error; /* a reader that is in the way is no failure of ours */
}

/* -- in between -------------------------------------------------------------------------------- */

static int open_signals(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    /* Before the first thread, so that all of them inherit it. */
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

/* Says of each setting that differs, and that only a restart can change, that it waits for one. */
static void warn_of_restart(const char *file, const struct config *old, const struct config *new)
{
    const struct {
        const char *setting;
        bool same;
    } fixed[] = {
        {"listen", same_text(old->listen.text, new->listen.text)},
        {"monitor", same_text(old->monitor.text, new->monitor.text)},
        {"control", same_text(old->control.text, new->control.text)},
        {"path", same_text(old->path, new->path)},
        {"database", same_text(old->database, new->database)},
        {"keys", old->keys_source == new->keys_source &&same_text(old->keys_path, new->keys_path)},
        {"key_url", same_text(old->key_url, new->key_url)},
        {"ca_file", same_text(old->ca_file, new->ca_file)},
        {"proxy", same_text(old->proxy, new->proxy)},
        {"limits.connections", old->limits.connections == new->limits.connections},
        {"limits.key_refresh_s", old->limits.key_refresh_s == new->limits.key_refresh_s},
    };

    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        if (!fixed[i].same)
            log_event(LOG_LEVEL_WARNING, "a changed setting takes effect at the next restart only",
                      log_text("setting", fixed[i].setting), log_text("file", file));
}

/* Rows for the consumers that a reload added. */
struct sync_consumers {
    struct writer_task task;
    const struct serve *serve;
};

static enum outbox_error run_sync_consumers(struct outbox *outbox, struct writer_task *task)
{
    return consumers_sync(((struct sync_consumers *)task)->serve->consumers, outbox,
                          clock_wall_ms());
}

/* Without its row a consumer holds everything, and its first acknowledgement makes it. */
static void after_sync_consumers(struct writer_task *task, enum outbox_error error)
{
    const struct sync_consumers *sync = (struct sync_consumers *)task;

    if (error != OUTBOX_ERROR_NONE)
        log_event(LOG_LEVEL_WARNING, "new consumers could not be stored; reload once more",
                  log_text("why", outbox_error_text(sync->serve->outbox)));
    free(task);
}

static void reload_consumers(struct serve *serve, const struct config *config)
{
    struct sync_consumers *sync = calloc(1, sizeof(*sync));

    consumers_reconfigure(serve->consumers, config);
    warn_of_users(serve);
    if (!sync)
        return;
    sync->task = (struct writer_task){.run = run_sync_consumers, .done = after_sync_consumers};
    sync->serve = serve;
    if (writer_post(serve->writer, &sync->task) != 0)
        free(sync);
}

/* The whole file is checked before anything of it counts; a bad one changes nothing. */
static void reload(struct serve *serve)
{
    struct config *config;

    service_notify("STATUS=reading the configuration anew");
    serve->status[0] = '\0'; /* how things stand is told again, whatever comes of this */
    if (config_load(serve->config_file, stderr, &config) != 0) {
        log_event(LOG_LEVEL_ERROR, "the configuration is not valid; the one in force stays",
                  log_text("file", serve->config_file));
        return;
    }
    warn_of_restart(serve->config_file, serve->config, config);
    writer_set_queue_events(serve->writer, config->limits.queue_events);
    reload_consumers(serve, config);
    sweeper_reconfigure(serve->sweeper, config);
    health_set_leeway(serve->health, config->limits.leeway_s);
    /* last: the notify loop may adopt it at once, and frees it where memory is out */
    if (ingress_reconfigure(serve->ingress, config, serve->notify_server) != 0) {
        log_event(LOG_LEVEL_ERROR,
                  "out of memory; apps and limits stay as they were; reload once more",
                  log_text("file", serve->config_file));
        config_free(config);
        return;
    }
    http_loop_wake(serve->notify_loop);
}

/* Whether a signal asks us to stop. */
static bool asked_to_stop(struct serve *serve, int signal_fd)
{
    struct signalfd_siginfo info;

    while (read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo != SIGHUP)
            return true;
        reload(serve);
    }
    return false;
}

/* Says when storing begins to fail and when it works again, and why it ended. */
static void log_storage(struct serve *serve)
{
    struct writer_state writer;

    writer_state(serve->writer, &writer);
    if (writer.fatal)
        log_event(LOG_LEVEL_ERROR,
                  "the storage failed; stopping, so that the next start checks and recovers",
                  log_text("why", writer.why), log_text("database", serve->config->database));
    else if (writer.failing && !serve->failing)
        log_event(LOG_LEVEL_ERROR, "cannot store; answering 503 until it passes",
                  log_text("why", writer.why), log_text("database", serve->config->database));
    else if (!writer.failing && serve->failing)
        log_event(LOG_LEVEL_NOTICE, "storing works again",
                  log_text("database", serve->config->database));
    serve->failing = writer.failing;
}

/* A reader that stays in one transaction keeps the write-ahead log from being emptied. */
static void log_wal(struct serve *serve)
{
    uint64_t bytes = health_wal_bytes(serve->health);
    bool is_long = bytes > OUTBOX_WAL_LIMIT_BYTES;

    if (is_long && !serve->wal_long)
        log_event(LOG_LEVEL_WARNING,
                  "the write-ahead log grows: a reader stays in one transaction for long; end it",
                  log_number("wal_bytes", (int64_t)bytes),
                  log_text("database", serve->config->database));
    serve->wal_long = is_long;
}

/* Feeds the watchdog while every thread makes progress: the service manager restarts what does not
 * move. Tells how things stand when that has changed. */
static void tell_service_manager(struct serve *serve, bool watched)
{
    struct writer_state writer;
    char why[HEALTH_WHY_BYTES];
    char status[sizeof(serve->status)];
    bool alive = health_alive(serve->health, why);

    if (alive && watched)
        service_notify("WATCHDOG=1");
    writer_state(serve->writer, &writer);
    if (!alive)
        snprintf(status, sizeof(status), "STATUS=stuck: %s", why);
    else if (writer.failing)
        snprintf(status, sizeof(status), "STATUS=cannot store: %s", writer.why);
    else
        snprintf(status, sizeof(status), "STATUS=serving");
    if (strcmp(status, serve->status) == 0)
        return;
    memcpy(serve->status, status, sizeof(status));
    service_notify(status);
}

static void keep_history(struct serve *serve)
{
    int64_t now_ms = clock_monotonic_ms();

    if (now_ms - serve->history_ms < HISTORY_FLUSH_MS)
        return;
    serve->history_ms = now_ms;
    history_flush(serve->history, clock_wall_ms());
}

static void run(struct serve *serve, int signal_fd)
{
    struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN},
                           {.fd = serve->failed_fd, .events = POLLIN}};
    int64_t watchdog_ms = service_watchdog_ms();
    int tick_ms =
        watchdog_ms > 0 && watchdog_ms / 3 < SERVE_TICK_MS ? (int)(watchdog_ms / 3) : SERVE_TICK_MS;

    for (;;) {
        if (poll(fds, 2, tick_ms) < 0 && errno != EINTR)
            return;
        log_storage(serve);
        if (atomic_load(&serve->failed) || asked_to_stop(serve, signal_fd))
            return;
        log_wal(serve);
        tell_service_manager(serve, watchdog_ms > 0);
        keep_history(serve);
    }
}

static void log_ready(const struct serve *serve, int64_t began_ms)
{
    log_event(LOG_LEVEL_NOTICE, "ready", log_text("version", SIWA_VERSION),
              log_text("listen", serve->config->listen.text), log_text("path", serve->config->path),
              log_text("database", serve->config->database),
              log_number("apps", (int64_t)serve->config->app_count),
              log_number("ms", clock_monotonic_ms() - began_ms));
    if (serve->config->keys_source == CONFIG_KEYS_FILE)
        log_event(LOG_LEVEL_WARNING,
                  "keys come from a file: whoever can write it can sign notifications",
                  log_text("file", serve->config->keys_path));
}

static int serve_with(const char *config_file, struct config *config)
{
    struct serve serve = {.config_file = config_file,
                          .config = config,
                          .notify_fd = -1,
                          .monitor_fd = -1,
                          .control_fd = -1,
                          .failed_fd = -1};
    int64_t began_ms = clock_monotonic_ms();
    int signal_fd, error;

    harden(config);
    signal_fd = open_signals();
    error = signal_fd < 0 ? signal_fd : serve_up(&serve);
    if (!error) {
        service_notify("READY=1\nSTATUS=serving");
        log_ready(&serve, began_ms);
        run(&serve, signal_fd);
        service_notify("STOPPING=1\nSTATUS=draining");
        log_event(LOG_LEVEL_NOTICE, "stopping", log_number("storage_failed", serve.failed));
        drain(&serve);
    }
    bool failed = atomic_load(&serve.failed);
    if (serve_down(&serve) != 0)
        failed = true;
    if (signal_fd >= 0)
        close(signal_fd);
    if (!error)
        log_event(failed ? LOG_LEVEL_ERROR : LOG_LEVEL_NOTICE, "stopped",
                  log_number("failed", failed));
    return error || failed ? CLI_REFUSED : CLI_OK;
}

int cli_serve(int argc, char **argv)
{
    const char *file = CONFIG_DEFAULT_FILE;
    const struct cli_option options[] = {cli_config_option(&file), {.name = NULL}};
    const struct cli_usage usage = {
        .name = "serve",
        .operands = "",
        .about =
            "Receives notifications, verifies them, and commits them to the outbox before it\n"
            "answers 200. Runs in the foreground until SIGTERM; logs to standard error. Sockets\n"
            "that the service manager passes (notify, monitor, control) go before the\n"
            "configured ones. SIGHUP reads the configuration anew.",
        .options = options,
    };
    struct config *config;
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    log_open(LOG_LEVEL_INFO);
    json_object_seed(0);
    if (config_load(file, stderr, &config) != 0) {
        cli_error("serve", "not started; `siwa-notifyd check-config --config %s` shows the same",
                  file);
        return CLI_REFUSED;
    }
    return serve_with(file, config);
}
