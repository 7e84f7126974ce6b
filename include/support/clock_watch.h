/*
 * clock_watch: notices that the wall clock jumped, and remembers what it would show if it had not.
 *
 * Which of the two readings is right nobody here can know: a clock that is set jumps from wrong to
 * right, a clock that breaks from right to wrong.
 */
#ifndef SIWA_SUPPORT_CLOCK_WATCH_H
#define SIWA_SUPPORT_CLOCK_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#define CLOCK_WATCH_DOUBT_MS (3600 * 1000) /* then the wall clock is believed again */
#define CLOCK_WATCH_LEAST_MS 2000          /* less is no jump, whatever the leeway */

/* All zero is a watch that has not looked yet. */
struct clock_watch {
    bool looked, in_doubt;
    int64_t offset_ms;   /* wall clock less monotonic clock, when it last looked */
    int64_t before_ms;   /* the same before the jump, with in_doubt */
    int64_t doubtful_ms; /* monotonic; how long the doubt lasts, with in_doubt */
};

/* Looks at the two clocks. A step of more than leeway_ms between two looks is a jump, and true is
 * returned; slow drift is none. A jump back to where the clock stood before ends the doubt. Pure,
 * as all here; one thread a watch. */
bool clock_watch_look(struct clock_watch *watch, int64_t wall_ms, int64_t monotonic_ms,
                      int64_t leeway_ms);

/* What the wall clock would show without the jump; wall_ms itself where there is no doubt. */
int64_t clock_watch_other_ms(const struct clock_watch *watch, int64_t wall_ms,
                             int64_t monotonic_ms);

#endif
