/*
 * One thread that turns: sleeps until a socket or another thread has something, lets each server
 * work, and looks at the clock four times a second.
 */
#include "http_private.h"
#include "support/clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A number of the library, two hexadecimal digits a part. */
struct version_library http_library(void)
{
    struct version_library library = {.name = "libmicrohttpd"};
    unsigned number = MHD_VERSION;

    (void)snprintf(library.built, sizeof(library.built), "%x.%x.%x", number >> 24,
                   number >> 16 & 0xff, number >> 8 & 0xff);
    (void)snprintf(library.running, sizeof(library.running), "%s", MHD_get_version());
    return library;
}

static int make_refusals(struct http_loop *loop)
{
    static const struct {
        enum http_guard verdict;
        unsigned status;
    } refusals[] = {{HTTP_GUARD_FRAMING, MHD_HTTP_BAD_REQUEST},
                    {HTTP_GUARD_NO_LENGTH, MHD_HTTP_LENGTH_REQUIRED},
                    {HTTP_GUARD_TOO_LARGE, MHD_HTTP_CONTENT_TOO_LARGE},
                    {HTTP_GUARD_EXPECTATION, MHD_HTTP_EXPECTATION_FAILED}};

    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        int r = http_reply_new(refusals[i].status, NULL, NULL, 0, NULL,
                               &loop->refusals[refusals[i].verdict]);

        if (r < 0)
            return r;
    }
    return 0;
}

int http_loop_new(const char *name, struct http_loop **ret_loop)
{
    struct http_loop *loop = calloc(1, sizeof(*loop));
    int r;

    if (!loop)
        return -ENOMEM;
    loop->linger.epoll_fd = -1;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = loop->wake_fd < 0 ? -errno : http_linger_open(&loop->linger);
    if (r == 0)
        r = make_refusals(loop);
    if (r < 0) {
        http_loop_free(loop);
        return r;
    }
    (void)strncpy(loop->name, name, sizeof(loop->name) - 1);
    loop->now_ms = clock_monotonic_ms();
    loop->tick_ms = loop->now_ms;
    atomic_store(&loop->alive_ms, loop->now_ms);
    *ret_loop = loop;
    return 0;
}

int http_loop_serve(struct http_loop *loop, int listen_fd, const struct http_limits *limits,
                    bool pending_by_suspend, const struct http_service *service, void *context,
                    struct http_server **ret_server)
{
    struct http_server *server;
    int r;

    if (loop->running)
        return -EBUSY;
    if (loop->server_count == HTTP_SERVERS_MAX)
        return -ENOSPC;
    server = &loop->servers[loop->server_count];
    *server = (struct http_server){.loop = loop,
                                   .limits = *limits,
                                   .by_suspend = pending_by_suspend,
                                   .service = service,
                                   .context = context};
    r = http_server_open(server, listen_fd);
    if (r < 0)
        return r;
    loop->server_count++;
    if (ret_server)
        *ret_server = server;
    return 0;
}

/* A writer that comes while the loop is awake needs no system call, and neither does the loop. */
void http_loop_wake(struct http_loop *loop)
{
    uint64_t one = 1;
    int saved = errno;

    if (!atomic_exchange(&loop->woken, true) && atomic_exchange(&loop->asleep, false))
        (void)!write(loop->wake_fd, &one, sizeof(one));
    errno = saved;
}

static int patience_ms(struct http_loop *loop, int wait_ms)
{
    int64_t to_tick_ms = loop->tick_ms - loop->now_ms;
    int64_t least_ms = wait_ms;

    if (to_tick_ms < least_ms)
        least_ms = to_tick_ms > 0 ? to_tick_ms : 0;
    for (unsigned i = 0; i < loop->server_count && least_ms > 0; i++) {
        int64_t server_ms = http_server_patience_ms(&loop->servers[i]);

        if (server_ms < least_ms)
            least_ms = server_ms;
    }
    return (int)least_ms;
}

/* Sleeps until something is to do. Where something is already, the servers find their events
 * without being told which: one poll less. */
static void sleep_until_due(struct http_loop *loop, int wait_ms)
{
    struct pollfd fds[2 * HTTP_SERVERS_MAX + 2] = {0};
    nfds_t count = 0;
    uint64_t wakes;

    if (wait_ms == 0)
        return;
    for (; count < loop->server_count; count++)
        fds[count] = (struct pollfd){.fd = loop->servers[count].epoll_fd, .events = POLLIN};
    fds[count++] = (struct pollfd){.fd = loop->wake_fd, .events = POLLIN};
    fds[count++] = (struct pollfd){.fd = loop->linger.epoll_fd, .events = POLLIN};
    /* The library does not listen while it has as many connections as it may; so we do. */
    for (unsigned i = 0; i < loop->server_count; i++)
        if (loop->servers[i].full && !loop->servers[i].crowded)
            fds[count++] = (struct pollfd){.fd = loop->servers[i].listen_fd, .events = POLLIN};
    atomic_store(&loop->asleep, true);
    if (!atomic_load(&loop->woken))
        (void)poll(fds, count, wait_ms);
    atomic_store(&loop->asleep, false);
    if (fds[loop->server_count].revents)
        (void)!read(loop->wake_fd, &wakes, sizeof(wakes));
    if (fds[loop->server_count + 1].revents)
        http_linger_run(&loop->linger, clock_monotonic_ms());
}

static void begin_drain(struct http_loop *loop)
{
    loop->draining = true;
    for (unsigned i = 0; i < loop->server_count; i++)
        http_server_quiesce(&loop->servers[i]);
    atomic_store(&loop->quiesced, true);
}

static void tick(struct http_loop *loop)
{
    loop->tick_ms = loop->now_ms + (loop->draining ? HTTP_DRAIN_TICK_MS : HTTP_TICK_MS);
    http_linger_run(&loop->linger, loop->now_ms);
    for (unsigned i = 0; i < loop->server_count; i++) {
        struct http_server *server = &loop->servers[i];

        http_server_reap(server);
        if (server->service->on_tick)
            server->service->on_tick(server->context, loop->now_ms);
    }
}

static void see_the_time(struct http_loop *loop)
{
    int64_t now_ms = clock_monotonic_ms();

    if (now_ms >= loop->now_ms + HTTP_STANDSTILL_MS)
        loop->awake_ms = now_ms;
    loop->now_ms = now_ms;
    atomic_store(&loop->alive_ms, now_ms);
}

void http_loop_turn(struct http_loop *loop, int wait_ms)
{
    sleep_until_due(loop, patience_ms(loop, wait_ms));
    see_the_time(loop);
    loop->turn++;
    if (atomic_load(&loop->drain) && !loop->draining)
        begin_drain(loop);
    if (atomic_exchange(&loop->woken, false))
        for (unsigned i = 0; i < loop->server_count; i++)
            if (loop->servers[i].service->on_wake)
                loop->servers[i].service->on_wake(loop->servers[i].context);
    for (unsigned i = 0; i < loop->server_count; i++)
        http_server_run(&loop->servers[i]);
    if (loop->now_ms >= loop->tick_ms)
        tick(loop);
    for (unsigned i = 0; i < loop->server_count; i++)
        if (loop->servers[i].service->on_turn)
            loop->servers[i].service->on_turn(loop->servers[i].context);
}

static void *run(void *context)
{
    struct http_loop *loop = context;

    while (!atomic_load(&loop->stop))
        http_loop_turn(loop, HTTP_TICK_MS);
    for (unsigned i = 0; i < loop->server_count; i++)
        http_server_close(&loop->servers[i]);
    return NULL;
}

int http_loop_start(struct http_loop *loop)
{
    sigset_t all, before;
    int r;

    /* Signals are for the thread that waits for them. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&loop->thread, NULL, run, loop);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return -r;
    loop->running = true;
    (void)pthread_setname_np(loop->thread, loop->name);
    return 0;
}

int64_t http_loop_alive_ms(const struct http_loop *loop)
{
    return atomic_load(&loop->alive_ms);
}

void http_loop_drain(struct http_loop *loop)
{
    atomic_store(&loop->drain, true);
    http_loop_wake(loop);
}

unsigned http_loop_requests(const struct http_loop *loop)
{
    unsigned count = 0;

    if (!atomic_load(&loop->drain))
        return atomic_load(&loop->requests);
    bool quiesced = atomic_load(&loop->quiesced); /* before counting: nothing comes after it */
    for (unsigned i = 0; i < loop->server_count; i++)
        count += http_server_connections(&loop->servers[i]);
    /* Until the listening sockets are left alone the turn under way may take one more. */
    return quiesced || count > 0 ? count : 1;
}

void http_loop_stop(struct http_loop *loop)
{
    if (!loop || !loop->running)
        return;
    atomic_store(&loop->stop, true);
    http_loop_wake(loop);
    (void)pthread_join(loop->thread, NULL);
    loop->running = false;
}

void http_loop_free(struct http_loop *loop)
{
    if (!loop)
        return;
    http_loop_stop(loop);
    for (unsigned i = 0; i < loop->server_count; i++)
        http_server_close(&loop->servers[i]);
    http_linger_close(&loop->linger);
    for (size_t i = 0; i < sizeof(loop->refusals) / sizeof(loop->refusals[0]); i++)
        http_reply_free(loop->refusals[i]);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop);
}
