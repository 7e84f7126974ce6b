/*
 * fuzz: what the fuzz targets share.
 */
#ifndef SIWA_TESTS_FUZZ_H
#define SIWA_TESTS_FUZZ_H

#include <stdio.h>
#include <stdlib.h>

/* An invariant: where it does not hold the input is a finding. */
#define HOLDS(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

#endif
