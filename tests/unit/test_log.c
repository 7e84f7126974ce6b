#include "support/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What the wall clock shows; 0: the real time. Stands before the C library's. */
static _Atomic int64_t wall_ms;

int clock_gettime(clockid_t clock, struct timespec *ret_time)
{
    int64_t ms = clock == CLOCK_REALTIME ? wall_ms : 0;

    if (ms == 0)
        return (int)syscall(SYS_clock_gettime, clock, ret_time);
    *ret_time = (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = ms % 1000 * 1000000};
    return 0;
}

/* Standard error of this (forked) test goes to a file. */
static FILE *captured;

static void capture(void)
{
    captured = tmpfile();
    ck_assert_ptr_nonnull(captured);
    ck_assert_int_eq(dup2(fileno(captured), STDERR_FILENO), STDERR_FILENO);
    ck_assert_int_eq(unsetenv("JOURNAL_STREAM"), 0);
}

static void forget(void)
{
    ck_assert_int_eq(ftruncate(fileno(captured), 0), 0);
    ck_assert_int_eq(lseek(STDERR_FILENO, 0, SEEK_SET), 0);
}

/* All that was written so far. */
static const char *written(void)
{
    static char text[1 << 16];
    ssize_t bytes = pread(fileno(captured), text, sizeof text - 1, 0);

    ck_assert_int_ge(bytes, 0);
    text[bytes] = '\0';
    return text;
}

/* The line without its time, whose form is checked on the way. */
static const char *after_time(const char *line)
{
    int year, month, day, hour, minute, second, ms, end = 0;

    ck_assert_int_eq(sscanf(line, "time=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day,
                            &hour, &minute, &second, &ms, &end),
                     7);
    ck_assert_int_gt(end, 0);
    return line + end;
}

/* JOURNAL_STREAM names what standard error is, followed by rest. */
static void journal_is_stderr(const char *rest)
{
    struct stat status;
    char stream[64];

    ck_assert_int_eq(fstat(STDERR_FILENO, &status), 0);
    (void)snprintf(stream, sizeof stream, "%ju:%ju%s", (uintmax_t)status.st_dev,
                   (uintmax_t)status.st_ino, rest);
    ck_assert_int_eq(setenv("JOURNAL_STREAM", stream, 1), 0);
}

START_TEST(test_line)
{
    capture();
    log_open(LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_INFO, "notification", log_text("outcome", "accepted"),
              log_text("absent", NULL), log_number("id", -42), log_text("app", "Example web"));
    ck_assert_str_eq(after_time(written()),
                     "level=info msg=notification outcome=accepted id=-42 app=\"Example web\"\n");
}
END_TEST

/* Also when the clock goes back, and when it passes midnight. */
START_TEST(test_each_line_has_its_own_time)
{
    static const struct {
        int64_t ms;
        const char *text;
    } times[] = {{1767311999000, "time=2026-01-01T23:59:59.000Z "},
                 {1767311999999, "time=2026-01-01T23:59:59.999Z "},
                 {1767312000007, "time=2026-01-02T00:00:00.007Z "},
                 {1767312000080, "time=2026-01-02T00:00:00.080Z "},
                 {1767311999123, "time=2026-01-01T23:59:59.123Z "},
                 {1835395199456, "time=2028-02-28T23:59:59.456Z "},
                 {1835395200000, "time=2028-02-29T00:00:00.000Z "}};

    capture();
    log_open(LOG_LEVEL_INFO);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        wall_ms = times[i].ms;
        forget();
        log_write(LOG_LEVEL_INFO, "m", NULL);
        ck_assert_mem_eq(written(), times[i].text, strlen(times[i].text));
    }
    wall_ms = 0;
}
END_TEST

START_TEST(test_numbers)
{
    static const struct {
        int64_t number;
        const char *text;
    } numbers[] = {{0, " n=0\n"},
                   {9, " n=9\n"},
                   {10, " n=10\n"},
                   {-1, " n=-1\n"},
                   {-10, " n=-10\n"},
                   {INT64_MAX, " n=9223372036854775807\n"},
                   {INT64_MIN, " n=-9223372036854775808\n"}};

    capture();
    log_open(LOG_LEVEL_INFO);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        forget();
        log_event(LOG_LEVEL_INFO, "m", log_number("n", numbers[i].number));
        ck_assert_ptr_nonnull(strstr(written(), numbers[i].text));
    }
}
END_TEST

START_TEST(test_line_without_fields)
{
    capture();
    log_open(LOG_LEVEL_INFO);
    log_write(LOG_LEVEL_ERROR, "the disk is full", NULL);
    ck_assert_str_eq(after_time(written()), "level=error msg=\"the disk is full\"\n");
}
END_TEST

START_TEST(test_threshold)
{
    capture();
    log_open(LOG_LEVEL_NOTICE);
    log_write(LOG_LEVEL_INFO, "quiet", NULL);
    log_write(LOG_LEVEL_DEBUG, "quiet", NULL);
    ck_assert_str_eq(written(), "");
    log_write(LOG_LEVEL_NOTICE, "loud", NULL);
    ck_assert_str_eq(after_time(written()), "level=notice msg=loud\n");
}
END_TEST

START_TEST(test_journal_gets_priority_and_no_time)
{
    capture();
    journal_is_stderr("");
    log_open(LOG_LEVEL_DEBUG);
    log_write(LOG_LEVEL_ERROR, "a", NULL);
    log_write(LOG_LEVEL_WARNING, "b", NULL);
    log_write(LOG_LEVEL_DEBUG, "c", NULL);
    ck_assert_str_eq(written(),
                     "<3>level=error msg=a\n<4>level=warning msg=b\n<7>level=debug msg=c\n");
}
END_TEST

/* The variable is inherited by whoever is started from a service, while standard error may have
 * been redirected to a file since. */
START_TEST(test_journal_of_another_descriptor)
{
    capture();
    ck_assert_int_eq(setenv("JOURNAL_STREAM", "1:1", 1), 0);
    log_open(LOG_LEVEL_INFO);
    log_write(LOG_LEVEL_INFO, "a", NULL);
    ck_assert_str_eq(after_time(written()), "level=info msg=a\n");
}
END_TEST

START_TEST(test_journal_variable_malformed)
{
    capture();
    journal_is_stderr("x");
    log_open(LOG_LEVEL_INFO);
    log_write(LOG_LEVEL_INFO, "a", NULL);
    ck_assert_str_eq(after_time(written()), "level=info msg=a\n");
}
END_TEST

START_TEST(test_keeps_errno)
{
    capture();
    log_open(LOG_LEVEL_INFO);
    ck_assert_int_eq(close(STDERR_FILENO), 0);
    errno = ENOSPC;
    log_write(LOG_LEVEL_INFO, "into the void", NULL);
    ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

/* Attack: a client_id, a path or a kid that holds a line feed writes a line of its own into the
 * log ("level=info msg=notification outcome=accepted ..."), or sequences into the terminal of
 * whoever reads it. */
START_TEST(test_foreign_text_cannot_leave_its_value)
{
    static const char attack[] =
        "x\" outcome=accepted\nlevel=info msg=\"forged\x1b[2J\x7f\xc3\xa9\\";

    capture();
    log_open(LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_INFO, "refused", log_text("aud", attack));
    ck_assert_str_eq(after_time(written()),
                     "level=info msg=refused aud=\"x\\x22 outcome=accepted\\x0alevel=info "
                     "msg=\\x22forged\\x1b[2J\\x7f\\xc3\\xa9\\x5c\"\n");
}
END_TEST

/* Attack: values so long that the journal splits the line, and what follows looks like a line of
 * its own. */
START_TEST(test_long_values_are_cut_and_the_line_ends_well)
{
    char nasty[LOG_VALUE_MAX_BYTES * 2];
    const char *line;
    size_t bytes;

    memset(nasty, '\n', sizeof nasty - 1);
    nasty[sizeof nasty - 1] = '\0';
    capture();
    journal_is_stderr("");
    log_open(LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_INFO, "m", log_text("a", nasty), log_text("b", nasty), log_number("d", 1));
    line = written();
    bytes = strlen(line);
    ck_assert_uint_le(bytes, LOG_LINE_MAX_BYTES);
    ck_assert_ptr_eq(strchr(line, '\n'), line + bytes - 1);
    ck_assert_str_eq(line + bytes - strlen("...\" cut=yes\n"), "...\" cut=yes\n");
    ck_assert_ptr_null(strstr(line, " b="));
    ck_assert_ptr_null(strstr(line, " d="));
}
END_TEST

/* Whatever the lengths are, a line fits, is one line, and has an even number of quotes. */
START_TEST(test_every_length_fits)
{
    static char text[LOG_VALUE_MAX_BYTES + 3];

    capture();
    journal_is_stderr("");
    log_open(LOG_LEVEL_INFO);
    for (size_t length = 0; length < sizeof text; length++) {
        size_t quotes = 0, bytes;
        const char *line;

        memset(text, length % 3 == 0 ? '"' : 'x', length);
        text[length] = '\0';
        forget();
        log_event(LOG_LEVEL_INFO, "m", log_text("a", text), log_text("b", text),
                  log_text("c", text), log_number("n", INT64_MIN), log_text("d", text),
                  log_number("last", 7));
        line = written();
        bytes = strlen(line);
        ck_assert_uint_le(bytes, LOG_LINE_MAX_BYTES);
        ck_assert_ptr_eq(strchr(line, '\n'), line + bytes - 1);
        for (const char *at = line; *at != '\0'; at++)
            quotes += *at == '"';
        ck_assert_uint_eq(quotes % 2, 0);
        /* Either all is there, or the line says that it is not. */
        ck_assert_int_ne(strstr(line, " last=7\n") != NULL, strstr(line, " cut=yes\n") != NULL);
    }
}
END_TEST

/* A number is written whole or not at all: a part of it would be another number. */
START_TEST(test_numbers_are_never_shortened)
{
    static char text[LOG_VALUE_MAX_BYTES + 1];
    unsigned whole = 0, left_out = 0;

    capture();
    journal_is_stderr("");
    log_open(LOG_LEVEL_INFO);
    for (size_t bytes = 200; bytes <= LOG_VALUE_MAX_BYTES; bytes++) {
        const char *line, *number;

        memset(text, 'x', bytes);
        text[bytes] = '\0';
        forget();
        log_event(LOG_LEVEL_INFO, "m", log_text("a", text), log_text("b", text),
                  log_text("c", text), log_text("d", text), log_number("number", INT64_MAX));
        line = written();
        number = strstr(line, " number=");
        if (number != NULL) {
            ck_assert_str_eq(number, " number=9223372036854775807\n");
            whole++;
        } else {
            ck_assert_ptr_nonnull(strstr(line, " cut=yes\n"));
            left_out++;
        }
    }
    ck_assert_uint_gt(whole, 0);
    ck_assert_uint_gt(left_out, 0);
}
END_TEST

static void *write_lines(void *argument)
{
    char text[201];

    (void)argument;
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < 200; i++)
        log_event(LOG_LEVEL_INFO, "thread", log_text("text", text), log_number("i", i));
    return NULL;
}

/* A process that dies between two system calls must not have said half a line; and what is gathered
 * must come out whole, in order, also when there is more of it than the buffer holds. */
START_TEST(test_gathered_lines_come_out_whole_and_in_order)
{
    const char *text;
    char wanted[32];
    int lines = 3 * LOG_GATHER_BYTES / 64;

    capture();
    log_open(LOG_LEVEL_INFO);
    log_gather();
    log_event(LOG_LEVEL_INFO, "first", log_number("n", 0));
    ck_assert_str_eq(written(), "");
    log_flush();
    ck_assert_ptr_nonnull(strstr(written(), "msg=first n=0\n"));
    log_event(LOG_LEVEL_INFO, "direct", log_number("n", 1));
    ck_assert_ptr_nonnull(strstr(written(), "msg=direct n=1\n"));

    forget();
    log_gather();
    for (int i = 0; i < lines; i++)
        log_event(LOG_LEVEL_INFO, "many", log_number("n", i));
    log_flush();
    text = written();
    for (int i = 0; i < lines; i++) {
        (void)snprintf(wanted, sizeof wanted, " n=%d\n", i);
        text = strstr(text, wanted);
        ck_assert_ptr_nonnull(text);
    }
    ck_assert_uint_eq(strlen(text), strlen(wanted));
}
END_TEST

START_TEST(test_lines_of_threads_do_not_mix)
{
    char line[LOG_LINE_MAX_BYTES + 2];
    pthread_t threads[4];
    size_t lines = 0;

    capture();
    ck_assert_int_eq(fcntl(STDERR_FILENO, F_SETFL, O_APPEND), 0);
    log_open(LOG_LEVEL_INFO);
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_lines, NULL), 0);
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    rewind(captured);
    while (fgets(line, sizeof line, captured) != NULL) {
        int i = -1;

        ck_assert_int_eq(sscanf(after_time(line), "level=info msg=thread text=%*200[y] i=%d", &i),
                         1);
        lines++;
    }
    ck_assert_uint_eq(lines, 800);
}
END_TEST

static void escapes_to(const char *text, const char *wanted)
{
    char out[LOG_LINE_MAX_BYTES + 64];
    size_t bytes = log_escape(text, strlen(text), out, sizeof out);

    ck_assert_str_eq(out, wanted);
    ck_assert_uint_eq(bytes, strlen(wanted));
}

START_TEST(test_escape)
{
    escapes_to("", "\"\"");
    escapes_to("com.example.app", "com.example.app");
    escapes_to("a b", "\"a b\"");
    escapes_to("a=b", "\"a=b\"");
    escapes_to("\t", "\"\\x09\"");
    escapes_to("\\", "\"\\x5c\"");
    escapes_to("\xff", "\"\\xff\"");
}
END_TEST

START_TEST(test_escape_nul_inside)
{
    char out[32];

    ck_assert_uint_eq(log_escape("a\0b", 3, out, sizeof out), strlen("\"a\\x00b\""));
    ck_assert_str_eq(out, "\"a\\x00b\"");
}
END_TEST

START_TEST(test_escape_every_capacity)
{
    static const char *const texts[] = {"abcdefgh", "a b c d ", "\n\n\n\n\n\n\n\n", ""};
    char out[64];

    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        for (size_t capacity = 0; capacity < 48; capacity++) {
            size_t bytes;

            memset(out, '#', sizeof out);
            bytes = log_escape(texts[t], strlen(texts[t]), out, capacity);
            ck_assert_int_eq(out[capacity], '#');
            if (capacity == 0) {
                ck_assert_uint_eq(bytes, 0);
                continue;
            }
            ck_assert_uint_lt(bytes, capacity);
            ck_assert_uint_eq(strlen(out), bytes);
            if (capacity >= LOG_VALUE_ROOM)
                ck_assert_uint_gt(bytes, 0);
            if (bytes > 0 && out[0] == '"')
                ck_assert(bytes >= 2 && out[bytes - 1] == '"');
        }
    }
}
END_TEST

START_TEST(test_escape_caps_input)
{
    static char text[LOG_VALUE_MAX_BYTES + 1], out[LOG_VALUE_MAX_BYTES * 4 + 8];

    memset(text, 'x', sizeof text);
    ck_assert_uint_eq(log_escape(text, LOG_VALUE_MAX_BYTES, out, sizeof out), LOG_VALUE_MAX_BYTES);
    ck_assert_uint_eq(log_escape(text, LOG_VALUE_MAX_BYTES + 1, out, sizeof out),
                      LOG_VALUE_MAX_BYTES + 3);
    ck_assert_str_eq(out + LOG_VALUE_MAX_BYTES, "...");
}
END_TEST

START_TEST(test_limit)
{
    struct log_limit limit = {.burst = 3, .per_minute = 2};
    uint64_t suppressed = 99;

    for (int i = 0; i < 3; i++)
        ck_assert(log_limit_pass(&limit, 1000, &suppressed));
    ck_assert_uint_eq(suppressed, 0);
    ck_assert(!log_limit_pass(&limit, 1000, &suppressed));
    ck_assert(!log_limit_pass(&limit, 30999, &suppressed));
    ck_assert(log_limit_pass(&limit, 31000, &suppressed)); /* 30 s earn one line */
    ck_assert_uint_eq(suppressed, 2);
    ck_assert(!log_limit_pass(&limit, 31000, NULL));
    /* A bucket holds burst and no more, also after ages. */
    for (int i = 0; i < 3; i++)
        ck_assert(log_limit_pass(&limit, INT64_MAX, NULL));
    ck_assert(!log_limit_pass(&limit, INT64_MAX, NULL));
}
END_TEST

/* A flood asks every millisecond: each step earns less than a line, and nothing of it may be lost
 * to rounding. Nor may the bucket leak more than it says. */
START_TEST(test_limit_under_a_flood)
{
    struct log_limit limit = {.burst = 10, .per_minute = 7};
    uint64_t suppressed, told = 0;
    unsigned passed = 0;

    for (int64_t now_ms = 0; now_ms < 600000; now_ms++) {
        if (log_limit_pass(&limit, now_ms, &suppressed)) {
            passed++;
            told += suppressed;
        }
    }
    ck_assert_uint_ge(passed, 10 + 69);
    ck_assert_uint_le(passed, 10 + 70);
    ck_assert_uint_eq(told + limit.suppressed + passed, 600000);
}
END_TEST

START_TEST(test_limit_of_zero_passes_nothing)
{
    struct log_limit limit = {.burst = 0, .per_minute = 0};

    ck_assert(!log_limit_pass(&limit, 0, NULL));
    ck_assert(!log_limit_pass(&limit, 1000000, NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *lines = tcase_create("lines");
    TCase *values = tcase_create("values");
    TCase *limits = tcase_create("limits");
    SRunner *runner;
    int failed;

    tcase_add_test(lines, test_line);
    tcase_add_test(lines, test_each_line_has_its_own_time);
    tcase_add_test(lines, test_numbers);
    tcase_add_test(lines, test_line_without_fields);
    tcase_add_test(lines, test_threshold);
    tcase_add_test(lines, test_journal_gets_priority_and_no_time);
    tcase_add_test(lines, test_journal_of_another_descriptor);
    tcase_add_test(lines, test_journal_variable_malformed);
    tcase_add_test(lines, test_keeps_errno);
    tcase_add_test(lines, test_foreign_text_cannot_leave_its_value);
    tcase_add_test(lines, test_long_values_are_cut_and_the_line_ends_well);
    tcase_add_test(lines, test_every_length_fits);
    tcase_add_test(lines, test_numbers_are_never_shortened);
    tcase_add_test(lines, test_gathered_lines_come_out_whole_and_in_order);
    tcase_add_test(lines, test_lines_of_threads_do_not_mix);
    tcase_add_test(values, test_escape);
    tcase_add_test(values, test_escape_nul_inside);
    tcase_add_test(values, test_escape_every_capacity);
    tcase_add_test(values, test_escape_caps_input);
    tcase_add_test(limits, test_limit);
    tcase_add_test(limits, test_limit_under_a_flood);
    tcase_add_test(limits, test_limit_of_zero_passes_nothing);
    suite_add_tcase(suite, lines);
    suite_add_tcase(suite, values);
    suite_add_tcase(suite, limits);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
