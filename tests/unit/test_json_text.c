/* json_text: what it takes and refuses, and that jansson never finds memory out while it reads. */
#include "verifier/json_text.h"

#include <check.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory_faults.h"

static int parse(const char *text)
{
    json_t *value = NULL;
    int error = json_text_parse(text, strlen(text), &value);

    json_decref(value);
    return error;
}

START_TEST(takes_one_object_or_array_and_nothing_else)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "1",
                                      "\"a\"",
                                      "{} {}",
                                      "{}x",
                                      "[1,]",
                                      "{\"a\"}",
                                      "[\"\\u0000\"]",
                                      "[\"\xff\"]",
                                      "{\"a\":1,\"a\":1}",
                                      "[1e999]",
                                      "[9223372036854775808]"};

    ck_assert_int_eq(parse("{\"a\":[1,2.5,null,true,\"x\"]}"), 0);
    ck_assert_int_eq(parse(" [] "), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(parse(bad[i]) == -EINVAL, "%s", bad[i]);
    ck_assert_int_eq(json_text_parse("[1]\0", 4, &(json_t *){NULL}), -EINVAL);
    ck_assert_int_eq(json_text_parse("[]", SIZE_MAX, &(json_t *){NULL}), -EINVAL);
}
END_TEST

START_TEST(a_lenient_one_takes_a_member_twice)
{
    const char *text = "{\"a\":1,\"a\":2}";
    json_t *value = NULL;

    ck_assert_int_eq(json_text_parse_lenient(text, strlen(text), &value), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(value, "a")), 2);
    json_decref(value);
    ck_assert_int_eq(json_text_parse_lenient("{", 1, &value), -EINVAL);
    text = "[] 1"; /* and nothing else that is lenient */
    ck_assert_int_eq(json_text_parse_lenient(text, strlen(text), &value), -EINVAL);
    text = "1";
    ck_assert_int_eq(json_text_parse_lenient(text, strlen(text), &value), -EINVAL);
}
END_TEST

/* ---- memory that is out ---- */

static json_malloc_t guarded_malloc;
static unsigned long refused; /* how often jansson was given nothing */
static unsigned long unaligned;

static void *watch(size_t bytes)
{
    void *memory = guarded_malloc(bytes);

    refused += memory == NULL;
    unaligned += (uintptr_t)memory % _Alignof(max_align_t) != 0;
    return memory;
}

static json_free_t guarded_free;

static void set_up(void)
{
    json_get_alloc_funcs(&guarded_malloc, &guarded_free);
    json_set_alloc_funcs(watch, guarded_free);
    refused = unaligned = 0;
}

static void tear_down(void)
{
    json_set_alloc_funcs(guarded_malloc, guarded_free);
}

/* Each allocation fails once, and from then on. The number of them. */
static unsigned long fail_each(const char *text)
{
    bool failed = true;
    unsigned long at = 0;

    for (unsigned i = 0; failed; i++) {
        json_t *value = NULL;
        int error;

        at = i / 2 + 1;
        memory_faults_arm(at, i % 2);
        error = json_text_parse(text, strlen(text), &value);
        failed = memory_faults_disarm();
        ck_assert_msg(error == (failed ? -ENOMEM : 0), "allocation %lu of %s: %d", at, text, error);
        ck_assert_msg(refused == 0, "jansson was refused allocation %lu of %s", at, text);
        ck_assert_uint_eq(unaligned, 0);
        ck_assert(failed == (value == NULL));
        json_decref(value);
    }
    return at;
}

/* A text of count pieces between two ends; released by the caller. */
static char *repeat(const char *begin, const char *piece, size_t count, const char *end)
{
    char *text = malloc(strlen(begin) + count * strlen(piece) + strlen(end) + 1);

    ck_assert_ptr_nonnull(text);
    strcpy(text, begin);
    for (size_t i = 0; i < count; i++)
        strcat(text, piece);
    return strcat(text, end);
}

START_TEST(jansson_is_never_refused_memory)
{
    /* The buffer grows at some of these lengths just for the quote at the end. */
    for (size_t bytes = 0; bytes < 140; bytes++) {
        static const struct {
            const char *begin, *piece, *end;
        } shapes[] = {
            {"[\"", "a", "\"]"}, {"{\"", "a", "\":1}"}, {"[1", "0", "]"}, {"[\"", "\\n", "\"]"}};

        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            char *text = repeat(shapes[i].begin, shapes[i].piece, i == 2 ? bytes % 18 : bytes,
                                shapes[i].end);

            ck_assert_uint_gt(fail_each(text), 3);
            free(text);
        }
    }
}
END_TEST

START_TEST(the_reserve_lasts_for_any_shape)
{
    static const struct {
        const char *begin, *piece, *end;
        size_t count;
    } shapes[] = {
        {"[{}", ",{}", "]", 300},  {"[", "[],", "[]]", 300},     {"[0", ",1", "]", 1000},
        {"{\"a\":{}", "", "}", 0}, {"[\"\"", ",\"\"", "]", 300},
    };
    char *text, *end;

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        text = repeat(shapes[i].begin, shapes[i].piece, shapes[i].count, shapes[i].end);
        fail_each(text);
        free(text);
    }
    text = repeat("", "[", 500, "");
    end = repeat(text, "]", 500, "");
    fail_each(end);
    free(text);
    free(end);
    /* members of different names */
    text = malloc(300 * 12 + 3);
    ck_assert_ptr_nonnull(text);
    strcpy(text, "{");
    for (unsigned i = 0; i < 300; i++)
        sprintf(text + strlen(text), "%s\"k%u\":%u", i ? "," : "", i, i % 10);
    strcat(text, "}");
    fail_each(text);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json_text");
    TCase *tests = tcase_create("json_text");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, takes_one_object_or_array_and_nothing_else);
    tcase_add_test(tests, a_lenient_one_takes_a_member_twice);
    if (MEMORY_FAULTS_WORK) {
        tcase_add_test(tests, jansson_is_never_refused_memory);
        tcase_add_test(tests, the_reserve_lasts_for_any_shape);
    } else {
        printf("SKIP jansson_is_never_refused_memory, the_reserve_lasts_for_any_shape: "
               "the sanitizer has its own allocator\n");
    }
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
