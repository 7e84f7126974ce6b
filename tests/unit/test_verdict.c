#include <check.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/verdict.h"

/* README.md carries the table for people; it lies where `make` runs, or where README says. */
static FILE *open_readme(void)
{
    const char *path = getenv("README");
    FILE *file = fopen(path ? path : "README.md", "r");

    ck_assert_msg(file != NULL, "README.md is not in the current folder");
    return file;
}

/* A row "| `label` | status | …"; false for every other line. */
static bool read_row(const char *line, char label[64], unsigned *ret_status)
{
    return sscanf(line, "| `%63[a-z_]` | %u |", label, ret_status) == 2;
}

START_TEST(zero_is_the_failure)
{
    ck_assert_int_eq(VERDICT_INTERNAL, 0);
    ck_assert_uint_eq(verdict_status(0), 503);
}
END_TEST

/* A wild value, from a bit that flipped or a cast that went wrong, must never become a 200. */
START_TEST(outside_the_table_is_internal)
{
    const unsigned wild[] = {VERDICT_COUNT, VERDICT_COUNT + 1, 200, 0x7fffffff, 0xffffffff};

    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        ck_assert_str_eq(verdict_label((enum verdict)wild[i]), "internal");
        ck_assert_uint_eq(verdict_status((enum verdict)wild[i]), 503);
    }
}
END_TEST

/* 200 is a promise: exactly four outcomes may give it. */
START_TEST(only_four_outcomes_answer_200)
{
    unsigned given = 0;

    for (unsigned i = 0; i < VERDICT_COUNT; i++)
        given += verdict_status((enum verdict)i) == 200;
    ck_assert_uint_eq(given, 4);
    ck_assert_uint_eq(verdict_status(VERDICT_ACCEPTED), 200);
    ck_assert_uint_eq(verdict_status(VERDICT_DUPLICATE), 200);
    ck_assert_uint_eq(verdict_status(VERDICT_IGNORED), 200);
    ck_assert_uint_eq(verdict_status(VERDICT_QUARANTINED), 200);
}
END_TEST

START_TEST(labels_fit_metrics_and_differ)
{
    for (unsigned i = 0; i < VERDICT_COUNT; i++) {
        const char *label = verdict_label((enum verdict)i);
        unsigned status = verdict_status((enum verdict)i);

        ck_assert_uint_gt(strlen(label), 0);
        for (const char *at = label; *at; at++)
            ck_assert_msg(islower((unsigned char)*at) || *at == '_', "%s", label);
        ck_assert_msg(status == 200 || status == 503 || (status >= 400 && status < 500), "%s",
                      label);
        for (unsigned j = 0; j < i; j++)
            ck_assert_str_ne(label, verdict_label((enum verdict)j));
    }
}
END_TEST

/* README's section "Outcomes" names each outcome once, in the order of the table, with its status,
 * and nothing that does not exist. */
START_TEST(readme_has_the_same_table)
{
    FILE *readme = open_readme();
    char line[4096], label[64];
    bool in_section = false;
    unsigned status, rows = 0;

    while (fgets(line, sizeof(line), readme)) {
        if (strncmp(line, "## ", 3) == 0)
            in_section = strcmp(line, "## Outcomes\n") == 0;
        if (!in_section || !read_row(line, label, &status))
            continue;
        ck_assert_msg(rows < VERDICT_COUNT, "README has a row too many: %s", label);
        ck_assert_str_eq(label, verdict_label((enum verdict)rows));
        ck_assert_msg(status == verdict_status((enum verdict)rows), "README: %s is not %u", label,
                      status);
        rows++;
    }
    fclose(readme);
    ck_assert_uint_eq(rows, VERDICT_COUNT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("verdict");
    TCase *tests = tcase_create("verdict");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tests, zero_is_the_failure);
    tcase_add_test(tests, outside_the_table_is_internal);
    tcase_add_test(tests, only_four_outcomes_answer_200);
    tcase_add_test(tests, labels_fit_metrics_and_differ);
    tcase_add_test(tests, readme_has_the_same_table);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
