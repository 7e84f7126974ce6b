/*
 * memory_faults: lets the allocation of a chosen number fail, in our code and in every library.
 *
 * The program's own malloc, calloc and realloc stand before glibc's for all that is linked to it,
 * OpenSSL and jansson included. To be included by one file of a test program. Where a sanitizer has
 * its own allocator MEMORY_FAULTS_WORK is 0 and the tests that need this must say that they skip.
 */
#ifndef SIWA_TESTS_MEMORY_FAULTS_H
#define SIWA_TESTS_MEMORY_FAULTS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_FAULTS_WORK 0
#else
#define MEMORY_FAULTS_WORK 1
#endif

static _Thread_local struct {
    unsigned long seen; /* allocations since arming */
    unsigned long fail; /* the one that fails, counted from 1; 0: none */
    bool from_then_on;  /* and all after it */
    bool failed;        /* whether one did fail */
} memory_faults;

/* From this many bytes on no allocation of any thread succeeds; 0: all do. */
static _Atomic size_t memory_faults_from_bytes __attribute__((unused));

/* From now on allocation number fail of this thread fails, and all after it if from_then_on. */
static inline void memory_faults_arm(unsigned long fail, bool from_then_on)
{
    memory_faults.seen = 0;
    memory_faults.failed = false;
    memory_faults.from_then_on = from_then_on;
    memory_faults.fail = fail;
}

/* Back to normal. Whether an allocation failed in between. */
static inline bool memory_faults_disarm(void)
{
    memory_faults.fail = 0;
    return memory_faults.failed;
}

#if MEMORY_FAULTS_WORK
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *malloc(size_t bytes);
void *calloc(size_t count, size_t bytes);
void *realloc(void *memory, size_t bytes);

static bool memory_faults_strike(size_t bytes)
{
    if (memory_faults_from_bytes != 0 && bytes >= memory_faults_from_bytes) {
        errno = ENOMEM;
        return true;
    }
    if (memory_faults.fail == 0)
        return false;
    memory_faults.seen++;
    if (memory_faults.seen != memory_faults.fail &&
        !(memory_faults.from_then_on && memory_faults.seen > memory_faults.fail))
        return false;
    memory_faults.failed = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    return memory_faults_strike(bytes) ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    return memory_faults_strike(count * bytes) ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    return memory_faults_strike(bytes) ? NULL : __libc_realloc(memory, bytes);
}
#endif

#endif
