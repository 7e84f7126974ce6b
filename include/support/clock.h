/*
 * clock: the one place where time is read.
 */
#ifndef SIWA_SUPPORT_CLOCK_H
#define SIWA_SUPPORT_CLOCK_H

#include <stdint.h>

/* The wall clock in milliseconds since 1970; for what people and Apple call a time. It may jump. */
int64_t clock_wall_ms(void);

/* A clock that never jumps, in milliseconds or microseconds since some start; for durations and
 * time-outs. */
int64_t clock_monotonic_ms(void);
int64_t clock_monotonic_us(void);

#endif
