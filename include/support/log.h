/*
 * log: one event, one line of logfmt on standard error.
 *
 * Foreign text is escaped and capped here, so that a caller cannot forget it. What may never be
 * handed to this module: a sub, an e-mail address, a token, a body.
 */
#ifndef SIWA_SUPPORT_LOG_H
#define SIWA_SUPPORT_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_NOTICE,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG
};

#define LOG_LINE_MAX_BYTES  1024 /* with its newline; what does not fit is cut, never wrapped */
#define LOG_VALUE_MAX_BYTES 256  /* of one value before escaping */
#define LOG_VALUE_ROOM      6    /* the shortest value that says it was cut: `"..."` and NUL */

/* A field of a line. Made by the functions below, used at once. */
struct log_field {
    const char *key; /* lower case, digits, underscores; a literal. NULL ends a list */
    enum { LOG_FIELD_TEXT, LOG_FIELD_NUMBER } kind;
    const char *text; /* NULL is written as an absent field */
    int64_t number;
};

/* A field with a text, borrowed until the line is written; NULL leaves the field out. */
static inline struct log_field log_text(const char *key, const char *text)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_TEXT, .text = text};
}

/* A field with a number. */
static inline struct log_field log_number(const char *key, int64_t number)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_NUMBER, .number = number};
}

/* Sets the threshold and decides once, before the first line and the first thread, how lines begin:
 * with a `<N>` priority where standard error is the journal (JOURNAL_STREAM names its device and
 * inode, systemd.exec(5)), with `time=2026-01-31T23:59:59.123Z ` everywhere else. Without it lines
 * begin with the time and all levels are written. */
void log_open(enum log_level threshold);

/* Writes one line `level=… msg="…" key=value …` with one write(2), so that lines of several threads
 * do not mix. msg is a literal; fields end with one whose key is NULL, and may be NULL for none.
 * A line is printable ASCII whatever the values were. Fields that no longer fit into
 * LOG_LINE_MAX_BYTES are left out, and the line then ends with `cut=yes`. Never fails visibly,
 * never blocks on anything but standard error, keeps errno. Any thread. */
void log_write(enum log_level level, const char *msg, const struct log_field *fields);

/* From log_gather to log_flush the lines of the calling thread are collected and written together,
 * in order, with one write(2) for up to LOG_GATHER_BYTES of whole lines: a system call for each
 * notification would be a third of all. What is collected is lost when the process is killed in
 * between, so whoever gathers flushes before it waits for anything. */
#define LOG_GATHER_BYTES 16384
void log_gather(void);
void log_flush(void);

/* The same with the fields written out: log_event(LOG_LEVEL_INFO, "started", log_text("a", b)). */
#define log_event(level, msg, ...) \
    log_write((level), (msg), (const struct log_field[]){__VA_ARGS__, {.key = NULL}})

/* A bucket for lines that strangers can cause: at most burst lines at once and per_minute in the
 * long run; the number of suppressed ones is told with the next line that passes. */
struct log_limit {
    unsigned burst, per_minute; /* set these, leave the rest zero */
    /* private */
    bool started;
    int64_t credit; /* a line costs LOG_LIMIT_LINE_COST, a millisecond earns per_minute */
    int64_t last_ms;
    uint64_t suppressed;
};

#define LOG_LIMIT_LINE_COST 60000

/* Whether a line may be written now; when it may, ret_suppressed (which may be NULL) is the number
 * of lines held back since the last one. Not synchronised: one bucket, one thread. now_ms is
 * monotonic. */
bool log_limit_pass(struct log_limit *limit, int64_t now_ms, uint64_t *ret_suppressed);

/* Writes text as one complete logfmt value into ret_out (capacity bytes, always NUL-terminated
 * where there is any): printable ASCII alone, in quotes where it is empty or holds a space, an
 * equals sign or an escape. Quotes, backslashes and every byte that is not printable ASCII become
 * \xNN, so that between two quotes there is never a third. Input beyond LOG_VALUE_MAX_BYTES, and
 * what does not fit into capacity, is cut at a whole character with `...` in its place; where not
 * even LOG_VALUE_ROOM bytes are there, nothing is written. Returns the bytes written without NUL.
 * Pure; any thread. */
size_t log_escape(const char *text, size_t text_bytes, char *ret_out, size_t capacity);

#endif
