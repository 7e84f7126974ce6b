#include "cli/cli.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "support/words.h"
#include "verifier/verdict.h"

/* A command that shows what it was given. */
static const char *got_text;
static int64_t got_number;
static bool got_flag;
static char got_operand[16];
static bool parsed;

static int run_probe(int argc, char **argv)
{
    const struct cli_option options[] = {
        cli_flag("flag", "a flag", &got_flag),
        cli_text("text", "TEXT", "a text", &got_text),
        cli_number("number", "N", "a number", &got_number, -5, 1000),
        {.name = NULL}};
    const struct cli_usage usage = {.name = "probe",
                                    .operands = "[FILE]",
                                    .operands_max = 1,
                                    .about = "Shows what it was given.",
                                    .options = options};
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    parsed = true;
    (void)snprintf(got_operand, sizeof got_operand, "%s",
                   operands < argc ? argv[operands] : "none");
    return CLI_OK;
}

static int run_no(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return CLI_REFUSED;
}

static int run_print(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    (void)puts("printed");
    return CLI_OK;
}

static const struct cli_command commands[] = {{"probe", "show what it was given", run_probe},
                                              {"refuse", "say no", run_no},
                                              {"print", "print a line", run_print},
                                              {NULL, NULL, NULL}};

/* Standard output and error of this (forked) test go to one file. */
static FILE *captured;

static void capture(void)
{
    captured = tmpfile();
    ck_assert_ptr_nonnull(captured);
    ck_assert_int_eq(fflush(NULL), 0);
    ck_assert_int_eq(dup2(fileno(captured), STDOUT_FILENO), STDOUT_FILENO);
    ck_assert_int_eq(dup2(fileno(captured), STDERR_FILENO), STDERR_FILENO);
}

static const char *said(void)
{
    static char text[8192];
    ssize_t bytes = pread(fileno(captured), text, sizeof text - 1, 0);

    ck_assert_int_ge(bytes, 0);
    text[bytes] = '\0';
    return text;
}

/* Runs `siwa-notifyd WORDS...` (NULL at the end) and returns the exit code. The words live until
 * the next run: texts are borrowed from them. */
static int run(const char *first, ...)
{
    static char *kept[16];
    char *argv[16] = {NULL};
    int argc = 0;
    va_list words;

    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        free(kept[i]);
        kept[i] = NULL;
    }
    kept[argc++] = strdup("siwa-notifyd");
    va_start(words, first);
    for (const char *word = first; word != NULL; word = va_arg(words, const char *))
        kept[argc++] = strdup(word);
    va_end(words);
    memcpy(argv, kept, sizeof argv); /* getopt changes their order */
    return cli_main(commands, argc, argv);
}

START_TEST(test_options)
{
    ck_assert_int_eq(
        run("probe", "--flag", "--text", "a b", "operand", "--number=-5", (char *)NULL), CLI_OK);
    ck_assert(parsed && got_flag);
    ck_assert_str_eq(got_text, "a b");
    ck_assert_int_eq(got_number, -5);
    ck_assert_str_eq(got_operand, "operand");
}
END_TEST

START_TEST(test_options_absent)
{
    ck_assert_int_eq(run("probe", (char *)NULL), CLI_OK);
    ck_assert(parsed && !got_flag);
    ck_assert_ptr_null(got_text);
    ck_assert_str_eq(got_operand, "none");
}
END_TEST

START_TEST(test_no_options_after_two_dashes)
{
    ck_assert_int_eq(run("probe", "--", "--flag", (char *)NULL), CLI_OK);
    ck_assert(!got_flag);
    ck_assert_str_eq(got_operand, "--flag");
}
END_TEST

static void usage_error(int code, const char *wanted)
{
    ck_assert_int_eq(code, CLI_USAGE);
    ck_assert(!parsed);
    ck_assert_msg(strstr(said(), wanted) != NULL, "said %s", said());
}

START_TEST(test_usage_errors)
{
    capture();
    usage_error(run("probe", "--nonsense", (char *)NULL),
                "no such option, or it takes no value: --nonsense");
    usage_error(run("probe", "-x", (char *)NULL), "no such option, or it takes no value: -x");
    usage_error(run("probe", "--flag=1", (char *)NULL),
                "no such option, or it takes no value: --flag=1");
    usage_error(run("probe", "--text", (char *)NULL), "--text needs a value");
    usage_error(run("probe", "a", "b", (char *)NULL), "expects [FILE] after the options");
    usage_error(run("probe", "--number", "", (char *)NULL),
                "--number takes a number from -5 to 1000");
    usage_error(run("version", (char *)NULL), "there is no command 'version'");
}
END_TEST

START_TEST(test_numbers)
{
    static const char *const bad[] = {"-6",
                                      "1001",
                                      "1x",
                                      "x",
                                      "",
                                      " 1",
                                      "+1",
                                      "0x1",
                                      "1.0",
                                      "99999999999999999999",
                                      "-99999999999999999999"};

    capture();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(run("probe", "--number", bad[i], (char *)NULL) == CLI_USAGE, "%s", bad[i]);
    ck_assert(!parsed);
    ck_assert_int_eq(run("probe", "--number", "1000", (char *)NULL), CLI_OK);
    ck_assert_int_eq(got_number, 1000);
}
END_TEST

START_TEST(test_help_of_a_command)
{
    static const char help[] = "usage: siwa-notifyd probe [OPTION]... [FILE]\n\n"
                               "Shows what it was given.\n\nOptions:\n"
                               "  --flag                 a flag\n"
                               "  --text TEXT            a text\n"
                               "  --number N             a number\n"
                               "  --help                 print this and exit\n";
    char three_times[sizeof help * 3];

    capture();
    ck_assert_int_eq(run("probe", "--help", (char *)NULL), CLI_OK);
    ck_assert_int_eq(run("probe", "-h", (char *)NULL), CLI_OK);
    ck_assert_int_eq(run("help", "probe", (char *)NULL), CLI_OK);
    ck_assert(!parsed);
    (void)snprintf(three_times, sizeof three_times, "%s%s%s", help, help, help);
    ck_assert_str_eq(said(), three_times);
}
END_TEST

START_TEST(test_help)
{
    capture();
    ck_assert_int_eq(run("--help", (char *)NULL), CLI_OK);
    for (const struct cli_command *command = commands; command->name != NULL; command++) {
        ck_assert_ptr_nonnull(strstr(said(), command->name));
        ck_assert_ptr_nonnull(strstr(said(), command->summary));
    }
}
END_TEST

START_TEST(test_no_command)
{
    capture();
    ck_assert_int_eq(run(NULL), CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(said(), "Commands:"));
}
END_TEST

START_TEST(test_unknown_command)
{
    capture();
    ck_assert_int_eq(run("prob", (char *)NULL), CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(said(), "no command 'prob'; did you mean 'probe'?"));
    ck_assert_int_eq(run("help", "--help", (char *)NULL), CLI_OK); /* it explains itself, too */
    ck_assert_int_eq(run("help", "refusee", (char *)NULL), CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(said(), "did you mean 'refuse'?"));
    ck_assert_int_eq(run("something-quite-different", (char *)NULL), CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(said(), "different'; `siwa-notifyd --help` lists them"));
}
END_TEST

START_TEST(test_exit_code_of_the_command)
{
    ck_assert_int_eq(run("refuse", (char *)NULL), CLI_REFUSED);
}
END_TEST

/* A script that reads half an answer from a full disk must learn of it. */
START_TEST(test_output_error)
{
    int full;

    capture();
    full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(full, 0);
    ck_assert_int_eq(dup2(full, STDOUT_FILENO), STDOUT_FILENO);
    ck_assert_int_eq(run("print", (char *)NULL), CLI_REFUSED);
    ck_assert_str_eq(said(),
                     "siwa-notifyd: cannot write standard output: No space left on device\n");
}
END_TEST

/* Who stops reading (`| head`) gets no complaint, but no success either. */
START_TEST(test_reader_that_left)
{
    int ends[2];

    capture();
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(dup2(ends[1], STDOUT_FILENO), STDOUT_FILENO);
    ck_assert_int_eq(close(ends[1]), 0);
    ck_assert_int_eq(close(ends[0]), 0);
    ck_assert_int_eq(run("print", (char *)NULL), CLI_REFUSED);
    ck_assert_str_eq(said(), "");
}
END_TEST

/* Attack: started with standard error closed, the daemon opens its database as descriptor 2, and
 * the next log line is written into it. */
START_TEST(test_closed_descriptors_are_occupied)
{
    int fd;

    capture();
    ck_assert_int_eq(close(STDIN_FILENO), 0);
    ck_assert_int_eq(close(STDERR_FILENO), 0);
    ck_assert_int_eq(run("refuse", (char *)NULL), CLI_REFUSED);
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_gt(fd, STDERR_FILENO);
    ck_assert_int_eq(write(STDERR_FILENO, "x", 1), -1);
    ck_assert_int_eq(errno, EBADF);
}
END_TEST

START_TEST(test_output_that_is_closed)
{
    capture();
    ck_assert_int_eq(close(STDOUT_FILENO), 0);
    ck_assert_int_eq(run("print", (char *)NULL), CLI_REFUSED);
    ck_assert_str_eq(said(), "siwa-notifyd: cannot write standard output: Bad file descriptor\n");
}
END_TEST

/* Standard input is a file with these bytes. */
static void feed(const char *text, size_t bytes)
{
    FILE *input = tmpfile();

    ck_assert_ptr_nonnull(input);
    ck_assert_uint_eq(fwrite(text, 1, bytes, input), bytes);
    ck_assert_int_eq(fflush(input), 0);
    ck_assert_int_eq(lseek(fileno(input), 0, SEEK_SET), 0);
    ck_assert_int_eq(dup2(fileno(input), STDIN_FILENO), STDIN_FILENO);
}

static void reads(size_t bytes, size_t max_bytes, int wanted)
{
    char *sent = malloc(bytes + 1), *text = NULL;
    size_t got = 77;
    int result;

    ck_assert_ptr_nonnull(sent);
    for (size_t i = 0; i < bytes; i++)
        sent[i] = (char)(i * 7);
    feed(sent, bytes);
    result = cli_read_stdin(max_bytes, &text, &got);
    ck_assert_int_eq(result, wanted);
    if (result == 0) {
        ck_assert_uint_eq(got, bytes);
        ck_assert_mem_eq(text, sent, bytes);
        ck_assert_int_eq(text[bytes], '\0');
    } else {
        ck_assert_ptr_null(text);
        ck_assert_uint_eq(got, 77);
    }
    free(text);
    free(sent);
}

START_TEST(test_read_stdin)
{
    reads(0, 0, 0);
    reads(0, 100, 0);
    reads(1, 0, -EFBIG);
    reads(100, 100, 0);
    reads(101, 100, -EFBIG);
    reads(65536, 65536, 0);
    reads(65537, 65536, -EFBIG);
    reads(200001, 200001, 0);
    reads(200001, 1000000, 0);
    reads(200001, 200000, -EFBIG);
}
END_TEST

START_TEST(test_read_stdin_that_cannot_be_read)
{
    char *text = NULL;
    size_t bytes;
    int folder = open("/", O_RDONLY | O_CLOEXEC | O_DIRECTORY);

    ck_assert_int_eq(dup2(folder, STDIN_FILENO), STDIN_FILENO);
    ck_assert_int_eq(cli_read_stdin(10, &text, &bytes), -EISDIR);
    ck_assert_ptr_null(text);
}
END_TEST

START_TEST(test_print_json)
{
    capture();
    ck_assert_int_eq(cli_print_json(json_pack("{s:s,s:i}", "b", "x\ny", "a", 1)), 0);
    ck_assert_int_eq(cli_print_json(json_pack("{}")), 0);
    ck_assert_str_eq(said(), "{\"b\":\"x\\ny\",\"a\":1}\n{}\n");
    ck_assert_int_eq(cli_print_json(NULL), -ENOMEM);
}
END_TEST

START_TEST(test_print_json_into_a_full_disk)
{
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    ck_assert_int_ge(full, 0);
    ck_assert_int_eq(fflush(stdout), 0);
    ck_assert_int_eq(dup2(full, STDOUT_FILENO), STDOUT_FILENO);
    ck_assert_int_eq(cli_print_json(json_pack("{}")), -ENOSPC);
}
END_TEST

START_TEST(test_words)
{
    ck_assert_uint_eq(words_distance("", ""), 0);
    ck_assert_uint_eq(words_distance("verify", "verify"), 0);
    ck_assert_uint_eq(words_distance("verfy", "verify"), 1);
    ck_assert_uint_eq(words_distance("verify", "verfy"), 1);
    ck_assert_uint_eq(words_distance("virify", "verify"), 1);
    ck_assert_uint_eq(words_distance("evrify", "verify"), 2);
    ck_assert_uint_eq(words_distance("", "abc"), 3);
    ck_assert_uint_eq(words_distance("kitten", "sitting"), 3);
    ck_assert_uint_eq(words_distance("x", "aaaaaaaaaabbbbbbbbbbccccccccccddd"), SIZE_MAX);
}
END_TEST

/* The manual tells of every command that exists and of every outcome with its status. */
START_TEST(test_manual)
{
    char *text = calloc(1, 65536);
    FILE *in = fopen("doc/man/siwa-notifyd.8", "r");
    char entry[64];

    ck_assert_ptr_nonnull(text);
    ck_assert_msg(in != NULL, "no manual: run the tests from the top of the source");
    ck_assert_uint_lt(fread(text, 1, 65535, in), 65535);
    ck_assert_int_eq(fclose(in), 0);
#define CHECK_COMMAND(name, word, summary) \
    ck_assert_msg(strstr(text, "\n.It Ic " word " ") != NULL, "siwa-notifyd(8) lacks %s", word);
    CLI_COMMAND_TABLE(CHECK_COMMAND)
#undef CHECK_COMMAND
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
        (void)snprintf(entry, sizeof entry, "\n.It Li %s Pq %u\n",
                       verdict_label((enum verdict)verdict), verdict_status((enum verdict)verdict));
        ck_assert_msg(strstr(text, entry) != NULL, "siwa-notifyd(8) lacks%s", entry);
    }
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cli");
    TCase *cases = tcase_create("cli");
    SRunner *runner;
    int failed;

    tcase_add_test(cases, test_options);
    tcase_add_test(cases, test_options_absent);
    tcase_add_test(cases, test_no_options_after_two_dashes);
    tcase_add_test(cases, test_usage_errors);
    tcase_add_test(cases, test_numbers);
    tcase_add_test(cases, test_help_of_a_command);
    tcase_add_test(cases, test_help);
    tcase_add_test(cases, test_no_command);
    tcase_add_test(cases, test_unknown_command);
    tcase_add_test(cases, test_exit_code_of_the_command);
    tcase_add_test(cases, test_output_error);
    tcase_add_test(cases, test_reader_that_left);
    tcase_add_test(cases, test_closed_descriptors_are_occupied);
    tcase_add_test(cases, test_output_that_is_closed);
    tcase_add_test(cases, test_read_stdin);
    tcase_add_test(cases, test_read_stdin_that_cannot_be_read);
    tcase_add_test(cases, test_print_json);
    tcase_add_test(cases, test_print_json_into_a_full_disk);
    tcase_add_test(cases, test_words);
    tcase_add_test(cases, test_manual);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
