/*
 * preload_disk: stands between a program and the C library and lets the disk be slow, full or
 * broken.
 *
 * FAULT_CONTROL names a file that holds a struct control (it is shared memory: whoever maps it sees
 * the counts and may change the orders while the program runs), FAULT_FOLDER the folder whose files
 * are meant; every other file works as ever. SQLite makes its calls through the C library, so they
 * come by here. tests/fault/disk.py is the other side.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The bits of control.kinds, and the places of control.seen. */
enum kind { OPENED, WRITTEN, TRUNCATED, SYNCED, MOVED, KINDS };

enum action { FAIL = 0, SHORTEN, KILL };

struct control {
    uint32_t armed;
    uint32_t kinds;    /* a bit for each kind that counts */
    uint32_t error;    /* errno, with FAIL; 0: only the delay */
    uint32_t action;   /* enum action */
    uint32_t lasting;  /* not only call number `at`, but all after it too */
    uint32_t delay_ms; /* before each call that is struck */
    uint64_t at;       /* which call is struck, counted from 1; 0: every one */
    _Atomic uint64_t seen, struck;
    _Atomic uint64_t seen_of[KINDS];
};

#define FDS_MAX 65536

static struct control *control;
static char folder[PATH_MAX];
static size_t folder_bytes;
static atomic_bool ours[FDS_MAX];

static void *next_of(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (!found)
        _exit(99);
    return found;
}

/* A function pointer of the next library, looked up once. */
#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) \
    *(void **)&next = next_of(name)

__attribute__((constructor)) static void set_up(void)
{
    const char *path = getenv("FAULT_CONTROL"), *in = getenv("FAULT_FOLDER");
    int (*next_open)(const char *, int, ...);
    int fd;

    if (!path || !in || !realpath(in, folder))
        return;
    folder_bytes = strlen(folder);
    *(void **)&next_open = next_of("open");
    fd = next_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        _exit(99);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (control == MAP_FAILED)
        _exit(99);
}

static bool inside(const char *path)
{
    char absolute[2 * PATH_MAX];

    if (!control || !path)
        return false;
    if (path[0] != '/') {
        char here[PATH_MAX];

        if (!getcwd(here, sizeof here))
            return false;
        snprintf(absolute, sizeof absolute, "%s/%s", here, path);
        path = absolute;
    }
    return strncmp(path, folder, folder_bytes) == 0 && path[folder_bytes] == '/';
}

static bool is_ours(int fd)
{
    return control && fd >= 0 && fd < FDS_MAX && atomic_load(&ours[fd]);
}

/* Whether this call is struck; errno is set where it shall fail. ret_action says how. */
static bool strike(enum kind kind, enum action *ret_action)
{
    uint64_t number;

    if (!control->armed || !(control->kinds & (1u << kind)))
        return false;
    atomic_fetch_add(&control->seen_of[kind], 1);
    number = atomic_fetch_add(&control->seen, 1) + 1;
    if (control->at != 0 && number != control->at && !(control->lasting && number > control->at))
        return false;
    atomic_fetch_add(&control->struck, 1);
    if (control->delay_ms > 0) {
        struct timespec delay = {control->delay_ms / 1000,
                                 (long)(control->delay_ms % 1000) * 1000000};

        while (nanosleep(&delay, &delay) < 0 && errno == EINTR)
            ;
    }
    *ret_action = (enum action)control->action;
    if (*ret_action == KILL)
        raise(SIGKILL);
    if (*ret_action == FAIL && control->error == 0)
        return false;
    errno = (int)control->error;
    return true;
}

static int opened(const char *path, int flags, mode_t mode, int (*next)(const char *, int, ...))
{
    enum action action;
    bool meant = inside(path);
    int fd;

    if (meant && strike(OPENED, &action)) {
        if (errno == 0)
            errno = EIO; /* nothing to shorten here */
        return -1;
    }
    fd = next(path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX)
        atomic_store(&ours[fd], meant);
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        static int (*next)(const char *, int, ...); \
        mode_t mode = 0; \
        va_list rest; \
        if (!next) \
            *(void **)&next = next_of(#name); \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        return opened(path, flags, mode, next); \
    }
OPEN(open)
OPEN(open64)

int close(int fd)
{
    NEXT(int, "close", int);
    if (fd >= 0 && fd < FDS_MAX)
        atomic_store(&ours[fd], false);
    return next(fd);
}

/* How many bytes of a write get through: all, half (and at least one), or -1 for a failure. */
static ssize_t allowed(int fd, size_t count)
{
    enum action action;

    if (!is_ours(fd) || !strike(WRITTEN, &action))
        return (ssize_t)count;
    if (action == SHORTEN && count > 1)
        return (ssize_t)(count / 2);
    return action == SHORTEN ? (ssize_t)count : -1;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    NEXT(ssize_t, "write", int, const void *, size_t);
    ssize_t most = allowed(fd, count);
    return most < 0 ? -1 : next(fd, bytes, (size_t)most);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *bytes, size_t count, offset_type offset) \
    { \
        NEXT(ssize_t, #name, int, const void *, size_t, offset_type); \
        ssize_t most = allowed(fd, count); \
        return most < 0 ? -1 : next(fd, bytes, (size_t)most, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ONE_FD(name, kind, ...) \
    { \
        enum action action; \
        if (is_ours(fd) && strike(kind, &action)) { \
            if (errno == 0) \
                errno = EIO; \
            return -1; \
        } \
        return next(__VA_ARGS__); \
    }

int ftruncate(int fd, off_t length)
{
    NEXT(int, "ftruncate", int, off_t);
    ONE_FD(ftruncate, TRUNCATED, fd, length)
}

int ftruncate64(int fd, off64_t length)
{
    NEXT(int, "ftruncate64", int, off64_t);
    ONE_FD(ftruncate64, TRUNCATED, fd, length)
}

int fsync(int fd)
{
    NEXT(int, "fsync", int);
    ONE_FD(fsync, SYNCED, fd)
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int);
    ONE_FD(fdatasync, SYNCED, fd)
}

#define TWO_PATHS(name) \
    int name(const char *from, const char *to) \
    { \
        NEXT(int, #name, const char *, const char *); \
        enum action action; \
        if (inside(to) && strike(MOVED, &action)) { \
            if (errno == 0) \
                errno = EIO; \
            return -1; \
        } \
        return next(from, to); \
    }
TWO_PATHS(rename)
TWO_PATHS(link)
