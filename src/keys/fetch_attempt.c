#include "fetch_attempt.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "support/clock.h"

enum fetch_result fetch_attempt_fail(struct fetch_attempt *attempt, enum fetch_result result,
                                     const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(attempt->why, FETCH_WHY_BYTES, format, arguments);
    va_end(arguments);
    for (char *c = attempt->why; *c != '\0'; c++)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
    return result;
}

int fetch_attempt_remaining_ms(const struct fetch_attempt *attempt)
{
    int64_t remaining_ms = attempt->deadline_ms - clock_monotonic_ms();
    return remaining_ms > 0 ? (int)remaining_ms : 0;
}

bool fetch_attempt_append(struct fetch_attempt *attempt, const char *data, size_t data_bytes)
{
    if (data_bytes > FETCH_TEXT_MAX_BYTES - attempt->bytes)
        return false;
    memcpy(attempt->text + attempt->bytes, data, data_bytes);
    attempt->bytes += data_bytes;
    return true;
}
