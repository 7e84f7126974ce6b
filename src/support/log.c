#include "support/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "support/clock.h"

#define CUT_VALUE "..."
#define CUT_LINE  " cut=yes"

static enum log_level log_threshold = LOG_LEVEL_DEBUG;
static bool log_to_journal;

/* A line under construction. There is always room left for CUT_LINE and the newline. */
struct line {
    char text[LOG_LINE_MAX_BYTES];
    size_t bytes;
    bool cut;
};

#define LINE_ROOM (LOG_LINE_MAX_BYTES - sizeof CUT_LINE) /* its NUL pays for the newline */

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_WARNING:
        return "warning";
    case LOG_LEVEL_NOTICE:
        return "notice";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_DEBUG:
        return "debug";
    }
    return "error";
}

/* Whether JOURNAL_STREAM, "DEVICE:INODE" in decimal, names what standard error is now: the variable
 * is inherited, the descriptor may have been redirected since. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    uintmax_t device, inode;
    struct stat status;
    char rest;

    if (stream == NULL ||
        sscanf(stream, "%" SCNuMAX ":%" SCNuMAX "%c", &device, &inode, &rest) != 2)
        return false;
    if (fstat(STDERR_FILENO, &status) != 0)
        return false;
    return (uintmax_t)status.st_dev == device && (uintmax_t)status.st_ino == inode;
}

void log_open(enum log_level threshold)
{
    log_threshold = threshold;
    log_to_journal = stderr_is_journal();
}

static bool is_plain(unsigned char byte)
{
    return byte > ' ' && byte < 0x7f && byte != '"' && byte != '\\';
}

static bool needs_quotes(const unsigned char *text, size_t text_bytes)
{
    if (text_bytes == 0)
        return true;
    for (size_t i = 0; i < text_bytes; i++) {
        if (!is_plain(text[i]) || text[i] == '=')
            return true;
    }
    return false;
}

size_t log_escape(const char *text, size_t text_bytes, char *ret_out, size_t capacity)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *in = (const unsigned char *)text;
    bool cut = text_bytes > LOG_VALUE_MAX_BYTES;
    size_t in_bytes = cut ? LOG_VALUE_MAX_BYTES : text_bytes;
    size_t out = 0, room, whole;
    bool quotes;

    if (capacity < LOG_VALUE_ROOM) {
        if (capacity > 0)
            ret_out[0] = '\0';
        return 0;
    }
    quotes = needs_quotes(in, in_bytes);
    if (!quotes && !cut && in_bytes < capacity) { /* nearly every value: as it is */
        memcpy(ret_out, text, in_bytes);
        ret_out[in_bytes] = '\0';
        return in_bytes;
    }
    /* What may be used before the closing quote and the NUL; whole is where the text may end so
     * that the sign of a cut still fits. */
    room = capacity - 1 - (quotes ? 1 : 0);
    if (quotes)
        ret_out[out++] = '"';
    whole = out;
    for (size_t i = 0; i < in_bytes; i++) {
        bool plain = is_plain(in[i]) || in[i] == ' ';
        size_t wanted = plain ? 1 : 4;

        if (out + wanted > room) {
            cut = true;
            break;
        }
        if (plain) {
            ret_out[out++] = (char)in[i];
        } else {
            ret_out[out++] = '\\';
            ret_out[out++] = 'x';
            ret_out[out++] = hex[in[i] >> 4];
            ret_out[out++] = hex[in[i] & 15];
        }
        if (out + strlen(CUT_VALUE) <= room)
            whole = out;
    }
    if (cut) {
        memcpy(ret_out + whole, CUT_VALUE, strlen(CUT_VALUE));
        out = whole + strlen(CUT_VALUE);
    }
    if (quotes)
        ret_out[out++] = '"';
    ret_out[out] = '\0';
    return out;
}

/* Appends ` key=value` (without the space at the start of a line), or marks the line as cut. */
static void line_add(struct line *line, const char *key, const char *value, size_t value_bytes)
{
    size_t key_bytes = strlen(key);
    size_t prefix_bytes = key_bytes + 2;

    if (line->cut || line->bytes + prefix_bytes + LOG_VALUE_ROOM > LINE_ROOM) {
        line->cut = true;
        return;
    }
    if (line->bytes > 0 && line->text[line->bytes - 1] != '>')
        line->text[line->bytes++] = ' ';
    memcpy(line->text + line->bytes, key, key_bytes);
    line->bytes += key_bytes;
    line->text[line->bytes++] = '=';
    line->bytes +=
        log_escape(value, value_bytes, line->text + line->bytes, LINE_ROOM - line->bytes);
}

/* Writes digits from the end of a buffer to the front; returns where they begin. */
static char *digits_before(char *end, uint64_t number)
{
    do {
        *--end = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    return end;
}

static void line_add_number(struct line *line, const char *key, int64_t number)
{
    char text[24], *end = text + sizeof text;
    char *begin = digits_before(end, number < 0 ? -(uint64_t)number : (uint64_t)number);

    if (number < 0)
        *--begin = '-';
    if (line->bytes + strlen(key) + 2 + (size_t)(end - begin) >= LINE_ROOM) {
        line->cut = true; /* a number is never shortened: it would be another number */
        return;
    }
    line_add(line, key, begin, (size_t)(end - begin));
}

#define STAMP        "2026-01-31T23:59:59.123Z"
#define SECOND_BYTES (sizeof "2026-01-31T23:59:59" - 1)

/* The last second that this thread wrote, in words: a calendar for each line would be half of what
 * a line costs. */
static _Thread_local struct {
    bool known;
    time_t second;
    char text[sizeof STAMP];
} stamp;

static bool stamp_second(time_t second)
{
    struct tm broken;

    if (stamp.known && stamp.second == second)
        return true;
    stamp.known =
        gmtime_r(&second, &broken) &&
        strftime(stamp.text, sizeof stamp.text, "%Y-%m-%dT%H:%M:%S", &broken) == SECOND_BYTES;
    stamp.second = second;
    return stamp.known;
}

static void line_add_time(struct line *line)
{
    int64_t now_ms = clock_wall_ms();
    int ms = (int)(now_ms % 1000);

    if (!stamp_second((time_t)(now_ms / 1000)))
        return;
    stamp.text[SECOND_BYTES] = '.';
    stamp.text[SECOND_BYTES + 1] = (char)('0' + ms / 100);
    stamp.text[SECOND_BYTES + 2] = (char)('0' + ms / 10 % 10);
    stamp.text[SECOND_BYTES + 3] = (char)('0' + ms % 10);
    stamp.text[SECOND_BYTES + 4] = 'Z';
    line_add(line, "time", stamp.text, sizeof STAMP - 1);
}

static void line_begin(struct line *line, enum log_level level)
{
    line->bytes = 0;
    line->cut = false;
    if (log_to_journal)
        line->bytes = (size_t)snprintf(line->text, sizeof line->text, "<%d>", (int)level);
    else
        line_add_time(line);
    line_add(line, "level", level_name(level), strlen(level_name(level)));
}

/* Lines of this thread that wait for log_flush. */
static _Thread_local struct {
    bool on;
    size_t bytes;
    char text[LOG_GATHER_BYTES];
} gathered;

static void write_out(const char *text, size_t text_bytes)
{
    ssize_t written;

    do {
        written = write(STDERR_FILENO, text, text_bytes);
    } while (written < 0 && errno == EINTR);
    /* Nothing can be done about a log that cannot be written, and there is nowhere to say so. */
}

static void write_gathered(void)
{
    if (gathered.bytes > 0)
        write_out(gathered.text, gathered.bytes);
    gathered.bytes = 0;
}

void log_gather(void)
{
    gathered.on = true;
}

void log_flush(void)
{
    int saved_errno = errno;

    gathered.on = false;
    write_gathered();
    errno = saved_errno;
}

static void line_write(struct line *line)
{
    if (line->cut) {
        memcpy(line->text + line->bytes, CUT_LINE, strlen(CUT_LINE));
        line->bytes += strlen(CUT_LINE);
    }
    line->text[line->bytes++] = '\n';
    if (!gathered.on) {
        write_out(line->text, line->bytes);
        return;
    }
    if (gathered.bytes + line->bytes > sizeof gathered.text)
        write_gathered();
    memcpy(gathered.text + gathered.bytes, line->text, line->bytes);
    gathered.bytes += line->bytes;
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields)
{
    int saved_errno = errno;
    struct line line;

    if (level > log_threshold)
        return;
    line_begin(&line, level);
    line_add(&line, "msg", msg, strlen(msg));
    for (const struct log_field *field = fields; field != NULL && field->key != NULL; field++) {
        if (field->kind == LOG_FIELD_NUMBER)
            line_add_number(&line, field->key, field->number);
        else if (field->text != NULL)
            line_add(&line, field->key, field->text, strlen(field->text));
    }
    line_write(&line);
    errno = saved_errno;
}

/* Earns credit for the time since the last call, up to a full bucket. */
static void log_limit_earn(struct log_limit *limit, int64_t now_ms)
{
    int64_t full = (int64_t)limit->burst * LOG_LIMIT_LINE_COST;
    int64_t elapsed_ms = now_ms - limit->last_ms;

    if (!limit->started) {
        limit->started = true;
        limit->credit = full;
    } else if (elapsed_ms > 0 && limit->per_minute > 0) {
        if (elapsed_ms >= (full - limit->credit) / limit->per_minute + 1)
            limit->credit = full;
        else
            limit->credit += elapsed_ms * limit->per_minute;
    }
    if (limit->credit > full)
        limit->credit = full;
    limit->last_ms = now_ms;
}

bool log_limit_pass(struct log_limit *limit, int64_t now_ms, uint64_t *ret_suppressed)
{
    log_limit_earn(limit, now_ms);
    if (limit->credit < LOG_LIMIT_LINE_COST) {
        limit->suppressed++;
        return false;
    }
    limit->credit -= LOG_LIMIT_LINE_COST;
    if (ret_suppressed != NULL)
        *ret_suppressed = limit->suppressed;
    limit->suppressed = 0;
    return true;
}
