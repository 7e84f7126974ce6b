/*
 * A close with unread bytes makes the kernel send a reset, and a reset makes the client's kernel
 * throw away an answer that its program has not read yet. So whoever was refused in the middle of
 * sending is read for a while longer, within bounds, and never answered again.
 */
#include "http_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum sink { SINK_OVER = 0, SINK_EMPTY };

/* Reads away what is there, up to the bytes left. */
static enum sink sink(int fd, size_t *bytes)
{
    char away[4096];

    while (*bytes <= HTTP_LINGER_MAX_BYTES) {
        ssize_t got = recv(fd, away, sizeof(away), MSG_DONTWAIT);

        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return SINK_EMPTY;
        if (got <= 0)
            return SINK_OVER;
        *bytes += (size_t)got;
    }
    return SINK_OVER;
}

int http_linger_open(struct http_linger *linger)
{
    linger->count = 0;
    linger->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return linger->epoll_fd < 0 ? -errno : 0;
}

static void drop(struct http_linger *linger, size_t index)
{
    close(linger->lingerers[index].fd);
    linger->lingerers[index] = linger->lingerers[--linger->count];
}

void http_linger_close(struct http_linger *linger)
{
    while (linger->count > 0)
        drop(linger, linger->count - 1);
    if (linger->epoll_fd >= 0)
        close(linger->epoll_fd);
    linger->epoll_fd = -1;
}

bool http_linger_add(struct http_linger *linger, int fd, int64_t now_ms)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP};
    size_t bytes = 0;
    int kept;

    if (sink(fd, &bytes) == SINK_OVER)
        return bytes > 0;
    if (linger->count == HTTP_LINGER_MAX)
        return true;
    kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (kept < 0)
        return true;
    if (epoll_ctl(linger->epoll_fd, EPOLL_CTL_ADD, kept, &event) != 0) {
        close(kept);
        return true;
    }
    linger->lingerers[linger->count++] =
        (struct http_lingerer){.fd = kept, .deadline_ms = now_ms + HTTP_LINGER_MS, .bytes = bytes};
    return true;
}

void http_linger_run(struct http_linger *linger, int64_t now_ms)
{
    for (size_t i = linger->count; i-- > 0;) {
        struct http_lingerer *lingerer = &linger->lingerers[i];

        if (sink(lingerer->fd, &lingerer->bytes) == SINK_OVER || now_ms >= lingerer->deadline_ms)
            drop(linger, i);
    }
}
