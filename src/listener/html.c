#include "html.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

static const char *escaped(unsigned char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return c < 0x20 || c == 0x7f ? "\xEF\xBF\xBD" : NULL;
    }
}

/* How much of text is shown: not more than the cap, and no half of a character. */
static size_t shown_bytes(const char *text)
{
    size_t bytes = strnlen(text, HTML_TEXT_BYTES + 1);

    if (bytes <= HTML_TEXT_BYTES)
        return bytes;
    bytes = HTML_TEXT_BYTES;
    while (bytes > 0 && ((unsigned char)text[bytes] & 0xC0) == 0x80)
        bytes--;
    return bytes;
}

void html_text(FILE *out, const char *text)
{
    size_t bytes = text ? shown_bytes(text) : 0;

    for (size_t i = 0; i < bytes; i++) {
        const char *escape = escaped((unsigned char)text[i]);

        if (escape)
            (void)fputs(escape, out);
        else
            (void)fputc(text[i], out);
    }
    if (text && text[bytes] != '\0')
        (void)fputs("\xE2\x80\xA6", out);
}

void html_bytes(FILE *out, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    (void)fprintf(out, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

void html_duration(FILE *out, int64_t seconds)
{
    static const struct {
        int64_t seconds;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    const size_t last = sizeof units / sizeof units[0] - 1;
    size_t unit = 0;

    while (unit < last && seconds < units[unit].seconds)
        unit++;
    (void)fprintf(out, "%" PRId64 " %s", seconds > 0 ? seconds / units[unit].seconds : 0,
                  units[unit].name);
    if (unit == last)
        return;
    int64_t rest = seconds % units[unit].seconds / units[unit + 1].seconds;
    if (rest > 0)
        (void)fprintf(out, " %" PRId64 " %s", rest, units[unit + 1].name);
}

void html_time(FILE *out, int64_t seconds)
{
    time_t time = (time_t)seconds;
    struct tm broken;
    char text[64];

    if (seconds <= 0 || !gmtime_r(&time, &broken)) {
        (void)fputs("never", out);
        return;
    }
    (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &broken);
    (void)fprintf(out, "<time datetime=\"%s\">", text);
    (void)strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &broken);
    (void)fprintf(out, "%s</time>", text);
}
