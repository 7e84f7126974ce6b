/*
 * The quick reader of flat objects: whatever it takes, jansson takes, with the same values.
 */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/verifier/json_flat.h"
#include "verifier/json_text.h"

static const char apple_claims[] =
    "{\"iss\":\"https://appleid.apple.com\",\"aud\":\"com.example.app\",\"exp\":1700086400,"
    "\"iat\":1700000000,\"jti\":\"abcDEF_-0123\",\"events\":\"{\\\"type\\\":\\\"email-enabled"
    "\\\",\\\"sub\\\":\\\"000000.0123456789abcdef.0000\\\",\\\"event_time\\\":1700000000123,"
    "\\\"email\\\":\\\"a@privaterelay.appleid.com\\\",\\\"is_private_email\\\":\\\"true\\\"}\"}";
static const char apple_event[] =
    "{\"type\":\"account-delete\",\"sub\":\"000000.0123456789abcdef.0000\","
    "\"event_time\":1700000000123}";

static void compare_member(const struct json_flat_member *member, const json_t *value)
{
    ck_assert_ptr_nonnull(member);
    ck_assert_int_eq(member->kind == JSON_FLAT_STRING, json_is_string(value));
    ck_assert_int_eq(member->kind == JSON_FLAT_INTEGER, json_is_integer(value));
    ck_assert_int_eq(member->kind == JSON_FLAT_TRUE, json_is_true(value));
    ck_assert_int_eq(member->kind == JSON_FLAT_FALSE, json_is_false(value));
    if (member->kind == JSON_FLAT_STRING) {
        ck_assert_uint_eq(member->text_bytes, json_string_length(value));
        ck_assert_str_eq(member->text, json_string_value(value));
    }
    if (member->kind == JSON_FLAT_INTEGER)
        ck_assert_int_eq(member->integer, json_integer_value(value));
}

/* Whether it is read flat; then it is also held against jansson. */
static bool reads(const char *text, size_t bytes)
{
    char *copy = malloc(bytes ? bytes : 1);
    struct json_flat flat;
    const char *name;
    json_t *tree, *value;
    bool taken;

    memcpy(copy, text, bytes);
    taken = json_flat_read(copy, bytes, &flat);
    if (taken) {
        ck_assert_int_eq(json_text_parse(text, bytes, &tree), 0);
        ck_assert_uint_eq(json_object_size(tree), flat.count);
        json_object_foreach(tree, name, value) compare_member(json_flat_find(&flat, name), value);
        json_decref(tree);
    }
    free(copy);
    return taken;
}

START_TEST(what_apple_writes_is_read)
{
    static const char *const texts[] = {
        apple_claims,
        apple_event,
        "{\"a\":\"\"}",
        "{\"\":0}",
        "{\"a\":true,\"b\":false,\"c\":999999999999999999}",
        "{\"a\":\"\\\"\\\\\\/\",\"\\\"\\\\\":\"x\\\"y\"}",
        "{\"a\":\" !#~[]{},:\"}",
    };

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        ck_assert_msg(reads(texts[i], strlen(texts[i])), "%s", texts[i]);
}
END_TEST

START_TEST(everything_else_is_left_to_jansson)
{
    static const char *const texts[] = {
        "",
        "{",
        "{}",
        "[]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{\"a\":1}}",
        "{\"a\":1} ",
        " {\"a\":1}",
        "{\"a\" :1}",
        "{ \"a\":1}",
        /* other values, and numbers that are no plain integers */
        "{\"a\":null}",
        "{\"a\":[]}",
        "{\"a\":{}}",
        "{\"a\":-1}",
        "{\"a\":-0}",
        "{\"a\":01}",
        "{\"a\":00}",
        "{\"a\":1.0}",
        "{\"a\":1e3}",
        "{\"a\":1E3}",
        "{\"a\":+1}",
        "{\"a\":}",
        "{\"a\":1000000000000000000}",
        "{\"a\":9223372036854775808}",
        "{\"a\":1x}",
        "{\"a\":truex}",
        "{\"a\":tru}",
        "{\"a\":True}",
        "{\"a\":falsefalse}",
        /* strings with more in them */
        "{\"a\":\"\\u0041\"}",
        "{\"a\":\"\\n\"}",
        "{\"a\":\"\\",
        "{\"a\":\"\\\"",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\x7f\"}",
        "{\"a\":\"\x1f\"}",
        "{\"a\":\"\xc3\xa9\"}",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"x}",
        "{\"\\u0061\":1}",
        /* twice, also where it is spelled otherwise */
        "{\"a\":1,\"a\":1}",
        "{\"a/\":1,\"a\\/\":1}",
        "{\"\":1,\"\":2}",
        /* one more than there is room for */
        "{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":1,"
        "\"k\":1,\"l\":1,\"m\":1,\"n\":1,\"o\":1,\"p\":1,\"q\":1}",
    };

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        ck_assert_msg(!reads(texts[i], strlen(texts[i])), "%s", texts[i]);
    ck_assert(!reads("{\"a\":\"\0\"}", 9));
    ck_assert(!reads("{\"a\":1\0}", 8));
}
END_TEST

/* Every text that one changed, missing or additional character makes of Apple's. */
START_TEST(one_character_away)
{
    static const char *const texts[] = {apple_claims, apple_event};
    const char *text = texts[_i];
    size_t bytes = strlen(text), taken = 0;
    char changed[1024];

    for (size_t at = 0; at < bytes; at++) {
        memcpy(changed, text, bytes);
        for (unsigned c = 0; c < 256; c++) {
            changed[at] = (char)c;
            taken += reads(changed, bytes);
        }
        memcpy(changed + at, text + at + 1, bytes - at - 1);
        taken += reads(changed, bytes - 1);
        for (unsigned c = 0; c < 256; c++) {
            memcpy(changed + at + 1, text + at, bytes - at);
            changed[at] = (char)c;
            taken += reads(changed, bytes + 1);
        }
        ck_assert(!reads(text, at));
    }
    ck_assert_uint_gt(taken, bytes * 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json_flat");
    TCase *tests = tcase_create("json_flat");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, what_apple_writes_is_read);
    tcase_add_test(tests, everything_else_is_left_to_jansson);
    tcase_add_loop_test(tests, one_character_away, 0, 2);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
