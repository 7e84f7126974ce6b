/*
 * moment: a point in time as people write it on a command line.
 */
#ifndef SIWA_CLI_MOMENT_H
#define SIWA_CLI_MOMENT_H

#include <stdint.h>

#define MOMENT_TEXT_BYTES sizeof "9999-12-31T23:59:59Z"
#define MOMENT_FORMS      "2025-07-15T09:50:00Z or seconds since 1970"

/* Reads `2025-07-15T09:50:00Z` (RFC 3339, in UTC) or seconds since 1970, up to the end of the year
 * 9999, into seconds since 1970. 0, or -EINVAL for anything else, also for days that no calendar
 * has. */
int moment_parse(const char *text, int64_t *ret_s);

/* Writes a time in milliseconds since 1970 as RFC 3339 in UTC, cut to the second; "-" for what lies
 * outside the years 1970 to 9999. */
void moment_text(int64_t time_ms, char ret_text[MOMENT_TEXT_BYTES]);

#endif
