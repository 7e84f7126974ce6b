/*
 * vectors: finds and reads the test vectors, which are not part of this repository.
 *
 * They lie in ../shared/vectors, or where the environment's VECTORS_DIR says. Where they are absent
 * the tests that use them say that they skip, and pass.
 */
#ifndef SIWA_TESTS_VECTORS_H
#define SIWA_TESTS_VECTORS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static inline const char *vectors_folder(void)
{
    const char *folder = getenv("VECTORS_DIR");

    return folder && *folder ? folder : "../shared/vectors";
}

/* Whether the vectors are here; says so on standard output where they are not. */
static inline bool vectors_present(const char *test)
{
    struct stat status;

    if (stat(vectors_folder(), &status) == 0 && S_ISDIR(status.st_mode))
        return true;
    printf("SKIP %s: no test vectors in %s (VECTORS_DIR names another place)\n", test,
           vectors_folder());
    return false;
}

/* Reads a whole file by its full path, or aborts. The caller frees; a NUL follows the content. */
static inline char *vectors_read_path(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "rb");
    char *data = NULL;
    size_t bytes = 0;

    if (!file) {
        perror(path);
        abort();
    }
    for (size_t capacity = 0;;) {
        if (bytes + 4096 + 1 > capacity) {
            capacity = (bytes + 4096 + 1) * 2;
            data = realloc(data, capacity);
            if (!data)
                abort();
        }
        size_t got = fread(data + bytes, 1, 4096, file);

        if (got == 0)
            break;
        bytes += got;
    }
    if (ferror(file))
        abort();
    fclose(file);
    data[bytes] = '\0';
    *ret_bytes = bytes;
    return data;
}

/* The same by its place below the folder of the vectors. */
static inline char *vectors_read(const char *name, size_t *ret_bytes)
{
    char *path, *data;

    if (asprintf(&path, "%s/%s", vectors_folder(), name) < 0)
        abort();
    data = vectors_read_path(path, ret_bytes);
    free(path);
    return data;
}

#endif
