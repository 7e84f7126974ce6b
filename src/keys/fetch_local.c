#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fetch_attempt.h"
#include "verifier/json_text.h"

#define BUSY_RETRY_MS 20

static void fd_release(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

/* Waits until fd (-1 for none) is ready, for at most wait_ms. 1 ready, 0 not, -ECANCELED when the
 * attempt is to stop, or another -errno. */
static int wait_for(const struct fetch_attempt *attempt, int fd, short events, int wait_ms)
{
    struct pollfd fds[2] = {{.fd = fd, .events = events},
                            {.fd = attempt->stop_fd, .events = POLLIN}};
    int n = poll(fds, 2, wait_ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[1].revents != 0)
        return -ECANCELED;
    return fds[0].revents != 0;
}

static enum fetch_result fail_errno(struct fetch_attempt *attempt, enum fetch_result result,
                                    const char *what, int r)
{
    return fetch_attempt_fail(attempt, result, "%s %s: %s", what, attempt->source->path,
                              r == -ECANCELED ? "stopped" : strerror(-r));
}

/* A connected socket, or -errno; -ETIMEDOUT where nobody accepted in time. */
static int connect_unix(const struct fetch_attempt *attempt)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t path_bytes = strlen(attempt->source->path);
    if (path_bytes >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, attempt->source->path, path_bytes);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    for (;;) {
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
            return fd;
        int r = -errno;
        /* A full backlog cannot be waited for with poll (unix(7)): ask again. */
        if (r == -EAGAIN)
            r = fetch_attempt_remaining_ms(attempt) > 0 ? wait_for(attempt, -1, 0, BUSY_RETRY_MS)
                                                        : -ETIMEDOUT;
        if (r < 0 && r != -EINTR) {
            (void)close(fd);
            return r;
        }
    }
}

/* Reads until the end of the stream. 0, -EFBIG, -ETIMEDOUT, -ECANCELED or another -errno. */
static int read_stream(struct fetch_attempt *attempt, int fd)
{
    char piece[4096];
    for (;;) {
        ssize_t n = read(fd, piece, sizeof(piece));
        if (n == 0)
            return 0;
        if (n > 0 && !fetch_attempt_append(attempt, piece, (size_t)n))
            return -EFBIG;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        /* Asked after each piece: a peer that drips never lets the wait itself run out. */
        int remaining_ms = fetch_attempt_remaining_ms(attempt);
        if (remaining_ms == 0)
            return -ETIMEDOUT;
        int r = wait_for(attempt, fd, POLLIN, remaining_ms);
        if (r < 0)
            return r;
    }
}

/* The sentence of an answer {"error": "…"}, if it is one. */
static enum fetch_result judge_helper(struct fetch_attempt *attempt)
{
    if (attempt->bytes == 0)
        return fetch_attempt_fail(attempt, FETCH_RESULT_CUT_SHORT,
                                  "%s closed without an answer; see the log of the fetch unit",
                                  attempt->source->path);
    json_t *answer = NULL;
    if (json_text_parse(attempt->text, attempt->bytes, &answer) == -ENOMEM)
        return fetch_attempt_fail(attempt, FETCH_RESULT_INTERNAL, "memory is out");
    const char *error = json_string_value(json_object_get(answer, "error"));
    enum fetch_result result = FETCH_RESULT_OK;
    if (error != NULL)
        result = fetch_attempt_fail(attempt, FETCH_RESULT_HELPER, "the fetch unit says: %s", error);
    json_decref(answer);
    return result;
}

enum fetch_result fetch_unix(struct fetch_attempt *attempt)
{
    int fd __attribute__((cleanup(fd_release))) = connect_unix(attempt);
    if (fd == -ECANCELED)
        return fail_errno(attempt, FETCH_RESULT_INTERNAL, "asking", fd);
    if (fd < 0)
        return fail_errno(attempt, FETCH_RESULT_UNREACHABLE, "cannot connect to", fd);

    int r = read_stream(attempt, fd);
    switch (r) {
    case 0:
        return judge_helper(attempt);
    case -EFBIG:
        return fetch_attempt_fail(attempt, FETCH_RESULT_TOO_LARGE, "%s sent more than %d bytes",
                                  attempt->source->path, FETCH_TEXT_MAX_BYTES);
    case -ETIMEDOUT:
        return fetch_attempt_fail(attempt, FETCH_RESULT_TIMEOUT, "%s did not answer in time",
                                  attempt->source->path);
    case -ECANCELED:
        return fail_errno(attempt, FETCH_RESULT_INTERNAL, "asking", r);
    default:
        return fail_errno(attempt, FETCH_RESULT_CUT_SHORT, "reading from", r);
    }
}

/* A symbolic link is followed here: whoever may write the path is trusted with the keys anyway (the
 * daemon warns about that), and mounted configuration is commonly swapped by one. */
enum fetch_result fetch_file(struct fetch_attempt *attempt)
{
    /* O_NONBLOCK: a FIFO must not hang the refresh. */
    int fd __attribute__((cleanup(fd_release))) =
        open(attempt->source->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat file;
    if (fd < 0 || fstat(fd, &file) < 0)
        return fail_errno(attempt, FETCH_RESULT_UNREACHABLE, "cannot open", -errno);
    if (!S_ISREG(file.st_mode))
        return fetch_attempt_fail(attempt, FETCH_RESULT_UNREACHABLE, "%s is not a regular file",
                                  attempt->source->path);

    int r = read_stream(attempt, fd);
    if (r == -EFBIG)
        return fetch_attempt_fail(attempt, FETCH_RESULT_TOO_LARGE, "%s is larger than %d bytes",
                                  attempt->source->path, FETCH_TEXT_MAX_BYTES);
    if (r == -ETIMEDOUT)
        return fetch_attempt_fail(attempt, FETCH_RESULT_TIMEOUT, "%s could not be read in time",
                                  attempt->source->path);
    if (r < 0)
        return fail_errno(attempt, FETCH_RESULT_INTERNAL, "reading", r);
    return FETCH_RESULT_OK;
}
