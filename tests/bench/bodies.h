/*
 * bodies: a file of signed bodies, made by presign and read by the others through mmap.
 *
 * Layout, in the byte order of the machine: magic, count, count + 1 offsets from the start of the
 * file, the bodies one after the other.
 */
#ifndef BENCH_BODIES_H
#define BENCH_BODIES_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BODIES_MAGIC UINT64_C(0x31736569646f6273) /* "sbodies1" */

struct bodies {
    const char *file;
    const uint64_t *offsets;
    size_t count;
};

static inline const char *bodies_at(const struct bodies *bodies, size_t index, size_t *ret_bytes)
{
    *ret_bytes = (size_t)(bodies->offsets[index + 1] - bodies->offsets[index]);
    return bodies->file + bodies->offsets[index];
}

/* Maps a file until the process ends; ends the process when it is none. */
static inline struct bodies bodies_open(const char *path)
{
    struct bodies bodies = {0};
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &status) < 0) {
        perror(path);
        exit(2);
    }
    size_t bytes = (size_t)status.st_size;
    void *map = bytes >= 3 * sizeof(uint64_t)
                    ? mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0)
                    : MAP_FAILED;
    const uint64_t *words = map;
    if (map == MAP_FAILED || words[0] != BODIES_MAGIC || words[1] == 0 ||
        words[1] > bytes / sizeof(uint64_t) - 3 || words[2 + words[1]] != bytes) {
        fprintf(stderr, "%s: is no file of bodies\n", path);
        exit(2);
    }
    (void)close(fd);
    bodies.file = map;
    bodies.offsets = words + 2;
    bodies.count = (size_t)words[1];
    return bodies;
}

#endif
