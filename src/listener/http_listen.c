/*
 * Making a listening socket.
 */
#include "http_private.h"
#include "support/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define WHY_BYTES 256

static void cleanup_close(int *fd)
{
    int saved = errno;

    if (*fd >= 0)
        close(*fd);
    errno = saved;
}

#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close)))

static int take(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}

__attribute__((format(printf, 3, 4))) static int fail(int error, char ret_why[WHY_BYTES],
                                                      const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(ret_why, WHY_BYTES, format, arguments);
    va_end(arguments);
    return -error;
}

/* Whether the file in the way is a socket that nobody listens on. 0 once it is out of the way. */
static int clear_stale(const struct config_address *address, const struct sockaddr_un *name,
                       char ret_why[WHY_BYTES])
{
    CLEANUP_CLOSE int probe = -1;
    struct stat status;

    if (lstat(address->path, &status) != 0) {
        if (errno == ENOENT)
            return 0;
        return fail(errno, ret_why, "%s: cannot look at it: %s", address->path, strerror(errno));
    }
    if (!S_ISSOCK(status.st_mode))
        return fail(EEXIST, ret_why,
                    "%s: there is a file that is not a socket; remove it or choose another path",
                    address->path);
    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return fail(errno, ret_why, "%s: cannot make a socket: %s", address->path, strerror(errno));
    if (connect(probe, (const struct sockaddr *)name, sizeof(*name)) == 0 || errno != ECONNREFUSED)
        return fail(EADDRINUSE, ret_why,
                    "%s: another process listens there; stop it or choose another path",
                    address->path);
    if (unlink(address->path) != 0 && errno != ENOENT)
        return fail(errno, ret_why, "%s: cannot remove the old socket: %s", address->path,
                    strerror(errno));
    return 0;
}

static int listen_unix(const struct config_address *address, mode_t mode, char ret_why[WHY_BYTES])
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    CLEANUP_CLOSE int fd = -1;
    struct stat status;
    int r;

    if (strlen(address->path) >= sizeof(name.sun_path))
        return fail(ENAMETOOLONG, ret_why, "%s: longer than the %zu bytes of a socket's path",
                    address->path, sizeof(name.sun_path) - 1);
    memcpy(name.sun_path, address->path, strlen(address->path) + 1);
    r = clear_stale(address, &name, ret_why);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(errno, ret_why, "%s: cannot make a socket: %s", address->path, strerror(errno));
    /* Linux makes the file with the mode of the descriptor, less the umask: never more open than
     * wanted, not for a moment. What the umask took is given afterwards. */
    if (fchmod(fd, mode) != 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) != 0)
        return fail(errno, ret_why, "%s: cannot bind: %s", address->path, strerror(errno));
    if (lstat(address->path, &status) != 0 ||
        ((status.st_mode & 07777) != mode && chmod(address->path, mode) != 0) ||
        listen(fd, HTTP_BACKLOG) != 0) {
        r = fail(errno, ret_why, "%s: cannot listen: %s", address->path, strerror(errno));
        (void)unlink(address->path);
        return r;
    }
    return take(&fd);
}

static int listen_tcp(const struct config_address *address, char ret_why[WHY_BYTES])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(address->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(address->port)};
    const struct sockaddr *name;
    socklen_t bytes;
    CLEANUP_CLOSE int fd = -1;
    int on = 1;

    if (inet_pton(AF_INET, address->host, &v4.sin_addr) == 1) {
        name = (struct sockaddr *)&v4;
        bytes = sizeof(v4);
    } else if (inet_pton(AF_INET6, address->host, &v6.sin6_addr) == 1) {
        name = (struct sockaddr *)&v6;
        bytes = sizeof(v6);
    } else {
        return fail(EINVAL, ret_why, "%s: not a numeric address", address->text);
    }
    fd = socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(errno, ret_why, "%s: cannot make a socket: %s", address->text, strerror(errno));
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
        (name->sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0))
        return fail(errno, ret_why, "%s: cannot set up the socket: %s", address->text,
                    strerror(errno));
    if (bind(fd, name, bytes) != 0 || listen(fd, HTTP_BACKLOG) != 0)
        return fail(errno, ret_why, "%s: cannot listen: %s", address->text, strerror(errno));
    return take(&fd);
}

int http_listen(const struct config_address *address, mode_t mode, char ret_why[WHY_BYTES])
{
    if (address->kind == CONFIG_ADDRESS_UNIX)
        return listen_unix(address, mode, ret_why);
    if (address->kind == CONFIG_ADDRESS_TCP)
        return listen_tcp(address, ret_why);
    return fail(EINVAL, ret_why, "no address to listen on");
}
