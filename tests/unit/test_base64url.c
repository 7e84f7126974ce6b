#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/base64url.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int decode(const char *text, size_t text_bytes, unsigned char *data, size_t capacity,
                  size_t *bytes)
{
    int error = base64url_decode(text, text_bytes, data, capacity, bytes);

    /* Given room enough, the two ways of asking agree. */
    ck_assert_int_eq(base64url_is_canonical(text, text_bytes), error == 0);
    return error;
}

/* RFC 4648 section 10, without the padding. */
START_TEST(rfc_4648_examples)
{
    static const char *const pairs[][2] = {
        {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},         {"foo", "Zm9v"},
        {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}};

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        const char *plain = pairs[i][0], *text = pairs[i][1];
        unsigned char data[16];
        char encoded[16];
        size_t bytes = 99;

        ck_assert_int_eq(decode(text, strlen(text), data, sizeof(data), &bytes), 0);
        ck_assert_uint_eq(bytes, strlen(plain));
        ck_assert_mem_eq(data, plain, bytes);
        base64url_encode((const unsigned char *)plain, strlen(plain), encoded);
        ck_assert_str_eq(encoded, text);
        ck_assert_uint_eq(strlen(encoded), BASE64URL_ENCODED(strlen(plain)));
    }
}
END_TEST

/* Every text of up to three characters: decoding takes exactly those that encoding makes. */
START_TEST(one_spelling_for_each_value)
{
    size_t taken = 0;

    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            char text[3] = {(char)a, (char)b, 'A'};
            unsigned char data[3];
            char again[5];
            size_t bytes;

            for (size_t length = 1; length <= 3; length++) {
                if (decode(text, length, data, sizeof(data), &bytes) != 0)
                    continue;
                taken++;
                base64url_encode(data, bytes, again);
                ck_assert_uint_eq(strlen(again), length);
                ck_assert_mem_eq(again, text, length);
            }
        }
    }
    /* 256 values of one byte, 4096 * 16 / 64 texts of two bytes that end in 'A'. */
    ck_assert_uint_eq(taken, 256 + 64 * 64);
}
END_TEST

/* A character outside the alphabet is refused wherever it stands; so is padding, and the plain
 * base64 alphabet. An attacker who may respell a token can walk past a list of seen ones. */
START_TEST(foreign_characters_are_refused_everywhere)
{
    char text[12];
    unsigned char data[9];
    size_t bytes;

    for (size_t length = 2; length <= sizeof(text); length++) {
        if (length % 4 == 1)
            continue;
        for (size_t at = 0; at < length; at++) {
            for (unsigned character = 0; character < 256; character++) {
                bool inside = character != 0 && strchr(alphabet, (int)character) != NULL;

                memset(text, 'A', sizeof(text));
                text[at] = (char)character;
                if (!inside)
                    ck_assert_int_eq(decode(text, length, data, sizeof(data), &bytes), -EINVAL);
                else if (at + 1 < length)
                    ck_assert_int_eq(decode(text, length, data, sizeof(data), &bytes), 0);
            }
        }
    }
}
END_TEST

START_TEST(the_alphabet_is_64_characters_at_each_place)
{
    char text[] = "AAAAAAAAA"; /* of a length that no value has */
    const size_t bytes = sizeof(text) - 1;

    ck_assert(base64url_in_alphabet(text, 0));
    for (size_t at = 0; at < bytes; at++) {
        for (unsigned c = 0; c < 256; c++) {
            text[at] = (char)c;
            ck_assert_int_eq(base64url_in_alphabet(text, bytes), c && strchr(alphabet, (int)c));
        }
        text[at] = 'A';
    }
}
END_TEST

START_TEST(a_lone_last_character_is_refused)
{
    unsigned char data[16];
    size_t bytes = 99;

    ck_assert_int_eq(decode("A", 1, data, sizeof(data), &bytes), -EINVAL);
    ck_assert_int_eq(decode("AAAAA", 5, data, sizeof(data), &bytes), -EINVAL);
    ck_assert_uint_eq(bytes, 99);
}
END_TEST

START_TEST(capacity_is_honoured)
{
    unsigned char data[4] = {0, 0, 0, 0xaa};
    size_t bytes = 99;

    ck_assert_int_eq(base64url_decode("Zm9vYg", 6, data, 3, &bytes), -ENOBUFS);
    ck_assert_uint_eq(bytes, 99);
    ck_assert_int_eq(base64url_decode("Zm9v", 4, data, 3, &bytes), 0);
    ck_assert_uint_eq(bytes, 3);
    ck_assert_uint_eq(data[3], 0xaa);
    ck_assert_int_eq(base64url_decode("", 0, data, 0, &bytes), 0);
    ck_assert_uint_eq(bytes, 0);
}
END_TEST

START_TEST(every_length_goes_round)
{
    unsigned char data[300], again[300];
    char text[BASE64URL_ENCODED(300) + 1];
    size_t bytes;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 167 + 13);
    for (size_t length = 0; length <= sizeof(data); length++) {
        base64url_encode(data, length, text);
        ck_assert_uint_eq(strlen(text), BASE64URL_ENCODED(length));
        ck_assert_uint_le(length, BASE64URL_DECODED_MAX(strlen(text)));
        ck_assert_int_eq(decode(text, strlen(text), again, sizeof(again), &bytes), 0);
        ck_assert_uint_eq(bytes, length);
        ck_assert_mem_eq(again, data, length);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base64url");
    TCase *tests = tcase_create("base64url");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, rfc_4648_examples);
    tcase_add_test(tests, one_spelling_for_each_value);
    tcase_add_test(tests, foreign_characters_are_refused_everywhere);
    tcase_add_test(tests, the_alphabet_is_64_characters_at_each_place);
    tcase_add_test(tests, a_lone_last_character_is_refused);
    tcase_add_test(tests, capacity_is_honoured);
    tcase_add_test(tests, every_length_goes_round);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
