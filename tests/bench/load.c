/*
 * load: sends pre-signed notifications over many connections and measures what comes back.
 *
 * One thread, epoll, one request at a time on each connection. The result is one line of JSON.
 *
 * Without --rate each connection asks again as soon as it is answered. With it requests are due at
 * a steady rate whatever the answers do, and each one's time counts from when it was due: what
 * waits behind a slow answer is slow too.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

#include "bodies.h"

#define HEAD_BYTES     256
#define REPLY_BYTES    4096
#define STALL_US       1000000  /* what the aim calls a stall */
#define RETRY_US       1000     /* before the next try where the backlog is full */
#define GIVE_UP_US     20000000 /* without one answer: the server hangs for good */
#define STATUS_MAX     600
#define LATENCIES_STEP 65536
#define READY_MAX      256

struct options {
    const char *target, *path, *file;
    size_t connections, count, first;
    double seconds, rate;
    bool close, forge;
};

enum state { IDLE = 0, CONNECTING, SENDING, WAITING };

struct connection {
    int fd;
    enum state state;
    uint32_t watched;   /* what epoll was told to wait for; 0 when not in its set */
    int64_t started_us; /* of the request, in close mode with its connect */
    size_t body_index;
    char *forged; /* with --forge: this connection's spoiled copy */
    size_t forged_capacity;
    char head[HEAD_BYTES];
    size_t head_bytes, sent, reply_bytes;
    char reply[REPLY_BYTES];
};

struct run {
    struct options options;
    struct bodies bodies;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    int epoll;
    struct connection *connections;
    size_t started, answered, in_flight;
    uint64_t errors, retries;
    uint64_t statuses[STATUS_MAX];
    uint32_t *latencies_us;
    size_t latencies_capacity;
    int64_t begin_us, end_us, last_answer_us, max_gap_us;
    uint64_t stalls;
};

static int64_t now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

__attribute__((noreturn)) static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void resolve(struct run *run)
{
    const char *target = run->options.target;
    if (strncmp(target, "unix:", 5) == 0) {
        struct sockaddr_un *address = (struct sockaddr_un *)&run->address;
        address->sun_family = AF_UNIX;
        (void)snprintf(address->sun_path, sizeof address->sun_path, "%s", target + 5);
        run->address_bytes = sizeof *address;
        return;
    }
    const char *colon = strrchr(target, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;
    char host[64];
    if (!colon || (size_t)(colon - target) >= sizeof host) {
        fprintf(stderr, "load: %s: neither unix:/path nor address:port\n", target);
        exit(2);
    }
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - target), target);
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
        fprintf(stderr, "load: %s: neither unix:/path nor address:port\n", target);
        exit(2);
    }
    memcpy(&run->address, found->ai_addr, found->ai_addrlen);
    run->address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
}

static bool more_to_start(const struct run *run, int64_t now)
{
    return run->started < run->options.count && now < run->end_us;
}

/* When the next request is due; with no rate it always is. */
static int64_t due_us(const struct run *run, int64_t now)
{
    if (run->options.rate <= 0)
        return now;
    return run->begin_us + (int64_t)((double)run->started * 1e6 / run->options.rate);
}

/* Changes one character of the signature, each time another one, and keeps the spelling valid. */
static const char *forge(struct connection *connection, const char *body, size_t bytes)
{
    if (connection->forged_capacity < bytes) {
        char *grown = realloc(connection->forged, bytes);
        if (!grown)
            die("memory");
        connection->forged = grown;
        connection->forged_capacity = bytes;
    }
    memcpy(connection->forged, body, bytes);
    size_t at = bytes - 300 + connection->body_index % 200;
    connection->forged[at] = connection->forged[at] == 'A' ? 'B' : 'A';
    return connection->forged;
}

static const char *body_of(struct run *run, struct connection *connection, size_t *ret_bytes)
{
    const char *body = bodies_at(&run->bodies, connection->body_index, ret_bytes);
    return run->options.forge ? connection->forged : body;
}

/* One call fewer for each request of a kept connection: it waits for the same as before. */
static void watch(struct run *run, struct connection *connection, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (connection->watched == events)
        return;
    int operation = connection->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(run->epoll, operation, connection->fd, &event) < 0)
        die("epoll_ctl");
    connection->watched = events;
}

static void hang_up(struct connection *connection)
{
    if (connection->fd >= 0)
        (void)close(connection->fd); /* leaves the epoll set with it */
    connection->fd = -1;
    connection->watched = 0;
    connection->state = IDLE;
}

static void fail(struct run *run, struct connection *connection)
{
    run->errors++;
    run->in_flight--;
    hang_up(connection);
}

/* Sends what is left of the request; true when all of it went out. */
static bool send_rest(struct run *run, struct connection *connection)
{
    size_t body_bytes, sent = connection->sent;
    const char *body = body_of(run, connection, &body_bytes);
    size_t head_left = sent < connection->head_bytes ? connection->head_bytes - sent : 0;
    size_t body_sent = sent > connection->head_bytes ? sent - connection->head_bytes : 0;
    union {
        const char *from;
        void *base;
    } head = {.from = connection->head + connection->head_bytes - head_left},
      rest = {.from = body + body_sent};
    struct iovec parts[] = {{.iov_base = head.base, .iov_len = head_left},
                            {.iov_base = rest.base, .iov_len = body_bytes - body_sent}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

    ssize_t written = sendmsg(connection->fd, &message, MSG_NOSIGNAL);
    if (written < 0 && errno != EAGAIN) {
        fail(run, connection);
        return false;
    }
    connection->sent += written > 0 ? (size_t)written : 0;
    return connection->sent == connection->head_bytes + body_bytes;
}

static void push(struct run *run, struct connection *connection)
{
    connection->state = SENDING;
    bool done = send_rest(run, connection);
    if (connection->state == IDLE)
        return;
    if (done) {
        connection->state = WAITING;
        connection->reply_bytes = 0;
        watch(run, connection, EPOLLIN);
    } else {
        watch(run, connection, EPOLLOUT);
    }
}

/* The next request of a connection that is open. */
static void begin_request(struct run *run, struct connection *connection)
{
    size_t body_bytes;

    connection->body_index = (run->options.first + run->started++) % run->bodies.count;
    run->in_flight++;
    const char *body = bodies_at(&run->bodies, connection->body_index, &body_bytes);
    if (run->options.forge)
        (void)forge(connection, body, body_bytes);
    int length =
        snprintf(connection->head, sizeof connection->head,
                 "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%s"
                 "Content-Length: %zu\r\n\r\n",
                 run->options.path, run->options.close ? "Connection: close\r\n" : "", body_bytes);
    if (length < 0 || (size_t)length >= sizeof connection->head) {
        errno = ENAMETOOLONG;
        die("--path");
    }
    connection->head_bytes = (size_t)length;
    connection->sent = 0;
}

/* Opens a connection; a full backlog is tried again later. */
static void dial(struct run *run, struct connection *connection)
{
    int yes = 1;
    connection->fd = socket(run->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket");
    if (run->address.ss_family != AF_UNIX)
        (void)setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(connection->fd, (struct sockaddr *)&run->address, run->address_bytes) < 0) {
        if (errno == EAGAIN || errno == EADDRNOTAVAIL) {
            run->retries++;
            hang_up(connection);
            return;
        }
        if (errno != EINPROGRESS)
            die(run->options.target);
    }
    connection->state = CONNECTING;
    watch(run, connection, EPOLLOUT);
    begin_request(run, connection);
}

static void note_answer(struct run *run, struct connection *connection, int64_t now,
                        unsigned status)
{
    if (run->answered == run->latencies_capacity) {
        run->latencies_capacity += LATENCIES_STEP + run->latencies_capacity / 2;
        uint32_t *grown = realloc(run->latencies_us, run->latencies_capacity * sizeof *grown);
        if (!grown)
            die("memory");
        run->latencies_us = grown;
    }
    run->latencies_us[run->answered++] = (uint32_t)(now - connection->started_us);
    run->statuses[status < STATUS_MAX ? status : 0]++;
    run->in_flight--;
    if (now - run->last_answer_us > run->max_gap_us)
        run->max_gap_us = now - run->last_answer_us;
    if (now - run->last_answer_us >= STALL_US)
        run->stalls++;
    run->last_answer_us = now;
}

/* The status of a reply that is complete, 0 for one that is not yet. Replies here always carry
 * Content-Length. */
static unsigned complete_status(const struct connection *connection, bool *ret_closing)
{
    const char *end = memmem(connection->reply, connection->reply_bytes, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head_bytes = (size_t)(end - connection->reply) + 4;
    char head[REPLY_BYTES + 1];
    memcpy(head, connection->reply, head_bytes);
    head[head_bytes] = '\0';
    const char *length = strcasestr(head, "\r\nContent-Length:");
    size_t body_bytes = length ? (size_t)strtoul(length + 17, NULL, 10) : 0;
    *ret_closing = strcasestr(head, "\r\nConnection: close") != NULL;
    if (connection->reply_bytes < head_bytes + body_bytes || head_bytes < 13)
        return 0;
    return (unsigned)strtoul(head + 9, NULL, 10);
}

static void receive(struct run *run, struct connection *connection, int64_t now)
{
    ssize_t got = recv(connection->fd, connection->reply + connection->reply_bytes,
                       sizeof connection->reply - connection->reply_bytes, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        fail(run, connection);
        return;
    }
    connection->reply_bytes += (size_t)got;
    bool closing = false;
    unsigned status = complete_status(connection, &closing);
    if (status == 0) {
        if (connection->reply_bytes == sizeof connection->reply)
            fail(run, connection);
        return;
    }
    note_answer(run, connection, now, status);
    if (run->options.close || closing) {
        hang_up(connection);
        return;
    }
    connection->state = IDLE;
}

/* Puts an idle connection to work. */
static void employ(struct run *run, struct connection *connection, int64_t now)
{
    int64_t due = due_us(run, now);

    if (connection->state != IDLE || !more_to_start(run, now) || due > now)
        return;
    connection->started_us = due;
    if (connection->fd < 0) {
        dial(run, connection);
        return;
    }
    begin_request(run, connection);
    push(run, connection);
}

static void serve_event(struct run *run, const struct epoll_event *event)
{
    struct connection *connection = event->data.ptr;
    int64_t now = now_us();

    if (connection->state == CONNECTING || connection->state == SENDING)
        push(run, connection);
    else if (connection->state == WAITING)
        receive(run, connection, now);
    else if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        hang_up(connection); /* the server closed an idle connection */
    employ(run, connection, now_us());
}

/* Waits for answers, and with a rate no longer than until the next request is due. */
static int wait_ready(struct run *run, struct epoll_event events[READY_MAX], int timeout_ms)
{
    int64_t now = now_us(), until_due = due_us(run, now) - now;
    int64_t wait_us = (int64_t)timeout_ms * 1000;
    struct timespec wait;

    if (run->options.rate > 0 && run->in_flight < run->options.connections && until_due < wait_us)
        wait_us = until_due > 0 ? until_due : 0;
    wait = (struct timespec){.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000};
    return epoll_pwait2(run->epoll, events, READY_MAX, &wait, NULL);
}

static void drive(struct run *run)
{
    struct epoll_event events[READY_MAX];
    bool all_employed = false;

    run->begin_us = run->last_answer_us = now_us();
    run->end_us = run->options.seconds > 0
                      ? run->begin_us + (int64_t)(run->options.seconds * 1000000)
                      : INT64_MAX;
    for (;;) {
        int64_t now = now_us();
        uint64_t retries = run->retries;
        for (size_t i = 0; !all_employed && i < run->options.connections; i++)
            employ(run, &run->connections[i], now);
        all_employed = run->retries == retries && run->options.rate <= 0;
        if (run->in_flight == 0 && !more_to_start(run, now))
            break;
        if (now - run->last_answer_us > GIVE_UP_US) {
            run->errors += run->in_flight;
            run->stalls++;
            run->max_gap_us = now - run->last_answer_us;
            break;
        }
        int ready = wait_ready(run, events, all_employed ? 100 : RETRY_US / 1000);
        if (ready < 0 && errno != EINTR)
            die("epoll_wait");
        retries = run->retries;
        for (int i = 0; i < ready; i++)
            serve_event(run, &events[i]);
        all_employed = all_employed && run->retries == retries && run->options.rate <= 0;
    }
    run->end_us = now_us();
}

static int by_value(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static uint32_t percentile(const struct run *run, double share)
{
    if (run->answered == 0)
        return 0;
    return run->latencies_us[(size_t)(share * (double)(run->answered - 1))];
}

static void report(struct run *run)
{
    double seconds = (double)(run->end_us - run->begin_us) / 1e6;
    if (run->answered > 0)
        qsort(run->latencies_us, run->answered, sizeof *run->latencies_us, by_value);
    printf("{\"answered\":%zu,\"seconds\":%.6f,\"rate\":%.1f,\"p50_us\":%" PRIu32
           ",\"p99_us\":%" PRIu32 ",\"max_us\":%" PRIu32 ",\"max_gap_us\":%" PRId64
           ",\"stalls\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"retries\":%" PRIu64 ",\"status\":{",
           run->answered, seconds, (double)run->answered / seconds, percentile(run, 0.5),
           percentile(run, 0.99), percentile(run, 1), run->max_gap_us, run->stalls, run->errors,
           run->retries);
    const char *comma = "";
    for (unsigned status = 0; status < STATUS_MAX; status++) {
        if (run->statuses[status] == 0)
            continue;
        printf("%s\"%u\":%" PRIu64, comma, status, run->statuses[status]);
        comma = ",";
    }
    printf("}}\n");
}

static void usage(void)
{
    fprintf(stderr,
            "usage: load --target unix:PATH|ADDRESS:PORT --file BODIES [--path PATH]\n"
            "            [--connections N] [--count N] [--seconds S] [--first N] [--rate N] "
            "[--close] [--forge]\n"
            "Sends --count notifications, beginning with number --first and starting over at the\n"
            "end of the file, but for at most --seconds and at most --rate a second. --forge "
            "spoils each\n"
            "signature.\n");
    exit(2);
}

static struct options read_options(int argc, char **argv)
{
    static const struct option names[] = {{"target", required_argument, NULL, 't'},
                                          {"file", required_argument, NULL, 'f'},
                                          {"path", required_argument, NULL, 'p'},
                                          {"connections", required_argument, NULL, 'c'},
                                          {"count", required_argument, NULL, 'n'},
                                          {"seconds", required_argument, NULL, 's'},
                                          {"first", required_argument, NULL, 'i'},
                                          {"rate", required_argument, NULL, 'r'},
                                          {"close", no_argument, NULL, 'x'},
                                          {"forge", no_argument, NULL, 'g'},
                                          {NULL, 0, NULL, 0}};
    struct options options = {.path = "/apple/notifications", .connections = 64};

    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (option) {
        case 't':
            options.target = optarg;
            break;
        case 'f':
            options.file = optarg;
            break;
        case 'p':
            options.path = optarg;
            break;
        case 'c':
            options.connections = (size_t)strtoul(optarg, NULL, 10);
            break;
        case 'n':
            options.count = (size_t)strtoul(optarg, NULL, 10);
            break;
        case 's':
            options.seconds = strtod(optarg, NULL);
            break;
        case 'i':
            options.first = (size_t)strtoul(optarg, NULL, 10);
            break;
        case 'r':
            options.rate = strtod(optarg, NULL);
            break;
        case 'x':
            options.close = true;
            break;
        case 'g':
            options.forge = true;
            break;
        default:
            usage();
        }
    }
    if (!options.target || !options.file || options.connections == 0 || optind != argc)
        usage();
    if (options.count == 0)
        options.count = options.seconds > 0 ? SIZE_MAX : options.connections;
    return options;
}

int main(int argc, char **argv)
{
    struct run run = {.options = read_options(argc, argv)};
    run.bodies = bodies_open(run.options.file);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.connections = calloc(run.options.connections, sizeof *run.connections);
    if (run.epoll < 0 || !run.connections)
        die("start");
    for (size_t i = 0; i < run.options.connections; i++)
        run.connections[i].fd = -1;
    resolve(&run);
    drive(&run);
    report(&run);
    for (size_t i = 0; i < run.options.connections; i++) {
        hang_up(&run.connections[i]);
        free(run.connections[i].forged);
    }
    free(run.connections);
    free(run.latencies_us);
    (void)close(run.epoll);
    return run.errors == 0 ? 0 : 1;
}
