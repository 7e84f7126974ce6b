/*
 * preload_memory: stands between a program and the C library and lets a chosen allocation fail, in
 * whatever library it is asked for.
 *
 * FAULT_MEMORY names a file that holds a struct control, which is shared memory.
 * tests/fault/memory_errors.py is the other side.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {
    uint32_t armed;
    uint32_t lasting; /* not only allocation number `at`, but all after it too */
    uint64_t at;      /* counted from 1 */
    _Atomic uint64_t seen, struck;
};

static struct control *control;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

__attribute__((constructor)) static void set_up(void)
{
    const char *path = getenv("FAULT_MEMORY");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *memory;

    if (fd < 0)
        return;
    memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED)
        _exit(99);
    control = memory;
}

static bool strike(void)
{
    uint64_t number;

    if (!control || !control->armed)
        return false;
    number = atomic_fetch_add(&control->seen, 1) + 1;
    if (number != control->at && !(control->lasting && number > control->at))
        return false;
    atomic_fetch_add(&control->struck, 1);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    return strike() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    return strike() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    return strike() ? NULL : __libc_realloc(memory, bytes);
}
