#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "cli/moment.h"

START_TEST(reads_both_forms)
{
    static const struct {
        const char *text;
        int64_t seconds;
    } cases[] = {{"1970-01-01T00:00:00Z", 0},
                 {"2025-07-15T09:50:00Z", 1752573000},
                 {"2024-02-29T23:59:59Z", 1709251199},
                 {"9999-12-31T23:59:59Z", 253402300799},
                 {"0", 0},
                 {"1752573000", 1752573000},
                 {"253402300799", 253402300799}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t seconds = -1;
        ck_assert_msg(moment_parse(cases[i].text, &seconds) == 0, "%s", cases[i].text);
        ck_assert_int_eq(seconds, cases[i].seconds);
    }
}
END_TEST

/* What a person may type by mistake must never be taken for another moment than they meant. */
START_TEST(refuses_everything_else)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "-1",
                                        "+1",
                                        "1 ",
                                        " 1",
                                        "1e9",
                                        "0x10",
                                        "now",
                                        "253402300800",
                                        "1752573000000",
                                        "99999999999999999999999999",
                                        "2025-07-15",
                                        "2025-07-15T09:50:00",
                                        "2025-07-15 09:50:00Z",
                                        "2025-07-15T09:50:00z",
                                        "2025-07-15T09:50:00+02:00",
                                        "2025-07-15T09:50:00Zjunk",
                                        "2025-02-29T00:00:00Z",
                                        "2025-13-01T00:00:00Z",
                                        "2025-00-10T00:00:00Z",
                                        "2025-07-15T24:00:00Z",
                                        "2025-07-15T09:60:00Z",
                                        "2025-07-15T09:50:60Z",
                                        "2025- 7-15T09:50:00Z",
                                        "1969-12-31T23:59:59Z"};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int64_t seconds = 42;
        ck_assert_msg(moment_parse(texts[i], &seconds) == -EINVAL, "'%s'", texts[i]);
        ck_assert_int_eq(seconds, 42);
    }
}
END_TEST

START_TEST(writes_what_it_reads)
{
    static const struct {
        int64_t time_ms;
        const char *text;
    } cases[] = {{0, "1970-01-01T00:00:00Z"},
                 {1752573000999, "2025-07-15T09:50:00Z"},
                 {INT64_C(253402300799999), "9999-12-31T23:59:59Z"},
                 {INT64_C(253402300800000), "-"},
                 {INT64_MAX, "-"},
                 {-1, "-"},
                 {INT64_MIN, "-"}};
    char text[MOMENT_TEXT_BYTES];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        moment_text(cases[i].time_ms, text);
        ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("moment");
    TCase *tests = tcase_create("moment");

    tcase_add_test(tests, reads_both_forms);
    tcase_add_test(tests, refuses_everything_else);
    tcase_add_test(tests, writes_what_it_reads);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
