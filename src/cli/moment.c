#include "cli/moment.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "verifier/notification.h"

#define SECONDS_DIGITS_MAX 12 /* the end of the year 9999 */

static bool is_digit(char character)
{
    return character >= '0' && character <= '9';
}

/* Whether text has digits where the pattern has 0, and is the pattern elsewhere. strptime() alone
 * would let spaces and missing digits pass. */
static bool has_shape(const char *text, const char *pattern)
{
    if (strlen(text) != strlen(pattern))
        return false;
    for (size_t i = 0; pattern[i]; i++) {
        if (pattern[i] == '0' ? !is_digit(text[i]) : text[i] != pattern[i])
            return false;
    }
    return true;
}

static int parse_calendar(const char *text, int64_t *ret_s)
{
    char again[MOMENT_TEXT_BYTES];
    struct tm parts = {0};

    if (!strptime(text, "%Y-%m-%dT%H:%M:%SZ", &parts))
        return -EINVAL;
    time_t seconds = timegm(&parts);
    /* 30 February and 24:61 come back as another moment. */
    moment_text((int64_t)seconds * 1000, again);
    if (strcmp(text, again) != 0)
        return -EINVAL;
    *ret_s = seconds;
    return 0;
}

int moment_parse(const char *text, int64_t *ret_s)
{
    if (has_shape(text, "0000-00-00T00:00:00Z"))
        return parse_calendar(text, ret_s);

    size_t digits = 0;
    int64_t seconds = 0;
    for (; digits < SECONDS_DIGITS_MAX && is_digit(text[digits]); digits++)
        seconds = seconds * 10 + (text[digits] - '0');
    if (digits == 0 || text[digits] || seconds > NOTIFICATION_TIME_MAX_S)
        return -EINVAL;
    *ret_s = seconds;
    return 0;
}

void moment_text(int64_t time_ms, char ret_text[MOMENT_TEXT_BYTES])
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm parts;

    if (time_ms < 0 || seconds > NOTIFICATION_TIME_MAX_S || !gmtime_r(&seconds, &parts) ||
        strftime(ret_text, MOMENT_TEXT_BYTES, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        (void)snprintf(ret_text, MOMENT_TEXT_BYTES, "-");
}
