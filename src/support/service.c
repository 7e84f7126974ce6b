#include "support/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_FDS_START 3 /* sd_listen_fds(3) */

/* What was passed, taken over once. */
static struct {
    bool taken;
    size_t count;
    char *names; /* one after the other, each with its NUL */
    const char *name[SERVICE_LISTEN_FDS_MAX];
} passed;

/* A decimal number of at most max from the environment, or -1 where there is none or another
 * thing. */
static int64_t number_from_env(const char *variable, int64_t max)
{
    const char *text = getenv(variable);
    int64_t number = 0;

    if (text == NULL || *text == '\0')
        return -1;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        number = number * 10 + (*text - '0');
        if (number > max)
            return -1;
    }
    return number;
}

int service_notify(const char *state)
{
    const char *target = getenv("NOTIFY_SOCKET");
    const struct timeval patience = {.tv_sec = SERVICE_NOTIFY_PATIENCE_S};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t state_bytes = strlen(state), target_bytes;
    socklen_t address_bytes;
    ssize_t sent;
    int fd, error;

    if (target == NULL || *target == '\0')
        return 0;
    target_bytes = strlen(target);
    if ((*target != '/' && *target != '@') || target_bytes < 2 ||
        target_bytes >= sizeof address.sun_path)
        return -EINVAL;
    memcpy(address.sun_path, target, target_bytes);
    if (*target == '@')
        address.sun_path[0] = '\0';
    /* An abstract name is all of its bytes: the length must end with it. */
    address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + target_bytes);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* The queue of a manager that does not read is full after a few states, and whoever tells it
     * something has other things to do, such as noticing SIGTERM. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    do {
        sent = sendto(fd, state, state_bytes, MSG_NOSIGNAL, (const struct sockaddr *)&address,
                      address_bytes);
    } while (sent < 0 && errno == EINTR);
    error = sent < 0 ? -errno : 0;
    (void)close(fd);
    if (error == 0 && (size_t)sent != state_bytes)
        return -EIO;
    return error;
}

int64_t service_watchdog_ms(void)
{
    int64_t interval_us = number_from_env("WATCHDOG_USEC", INT64_MAX / 100);

    if (interval_us <= 0)
        return 0;
    if (getenv("WATCHDOG_PID") != NULL && number_from_env("WATCHDOG_PID", INT32_MAX) != getpid())
        return 0;
    return interval_us < 1000 ? 1 : interval_us / 1000;
}

/* Cuts "a:b:c" into names; a socket without one gets "". */
static void take_names(void)
{
    const char *listed = getenv("LISTEN_FDNAMES");
    char *rest;

    for (size_t i = 0; i < passed.count; i++)
        passed.name[i] = "";
    if (listed == NULL) {
        if (passed.count == 1)
            passed.name[0] = "notify";
        return;
    }
    passed.names = strdup(listed);
    rest = passed.names; /* out of memory: nameless sockets, which serve nobody and are noticed */
    for (size_t i = 0; i < passed.count && rest != NULL; i++)
        passed.name[i] = strsep(&rest, ":");
}

static void take_passed(void)
{
    int64_t count;

    if (passed.taken)
        return;
    passed.taken = true;
    count = number_from_env("LISTEN_FDS", SERVICE_LISTEN_FDS_MAX);
    if (count > 0 && number_from_env("LISTEN_PID", INT32_MAX) == getpid()) {
        passed.count = (size_t)count;
        take_names();
        for (size_t i = 0; i < passed.count; i++) {
            int fd = LISTEN_FDS_START + (int)i;
            int flags = fcntl(fd, F_GETFD);

            if (flags >= 0)
                (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
        }
    }
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDNAMES");
}

static bool socket_option_is(int fd, int option, int wanted)
{
    int value = 0;
    socklen_t bytes = sizeof value;

    return getsockopt(fd, SOL_SOCKET, option, &value, &bytes) == 0 && value == wanted;
}

int service_listen_fd(const char *name)
{
    int found = -ENOENT;

    take_passed();
    for (size_t i = 0; i < passed.count; i++) {
        if (strcmp(passed.name[i], name) != 0)
            continue;
        if (found >= 0)
            return -ENOTUNIQ;
        found = LISTEN_FDS_START + (int)i;
    }
    if (found < 0)
        return found;
    if (!socket_option_is(found, SO_TYPE, SOCK_STREAM) ||
        !socket_option_is(found, SO_ACCEPTCONN, 1))
        return -EINVAL;
    return found;
}

const char *service_listen_name(size_t index)
{
    take_passed();
    return index < passed.count ? passed.name[index] : NULL;
}
