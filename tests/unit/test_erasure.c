/* erasure: every text of a body is looked at, and nothing that is no body does harm. The rest needs
 * a database and time: tests/integration/test_erasure.py. */
#include "deliveries.h"
#include "dispatcher/erasure.h"
#include "memory_faults.h"
#include "verifier/base64url.h"

static char seen[4096];
static const char *wanted;

static bool on_text(void *context, const char *text)
{
    ck_assert_ptr_eq(context, seen);
    strcat(strcat(seen, text), "|");
    return wanted && strcmp(text, wanted) == 0;
}

static bool texts_of(const char *body)
{
    seen[0] = '\0';
    int found = erasure_body_texts(body, strlen(body), on_text, seen);

    ck_assert_int_ge(found, 0);
    return found;
}

static bool texts_of_claims(const char *claims)
{
    char payload[4096], body[5000];

    base64url_encode((const unsigned char *)claims, strlen(claims), payload);
    snprintf(body, sizeof body, "{\"payload\":\"e30.%s.AAAA\"}", payload);
    return texts_of(body);
}

static void set_up(void)
{
    wanted = NULL;
}

START_TEST(finds_texts_at_any_depth)
{
    ck_assert(!texts_of_claims("{\"a\":\"x\",\"n\":1,\"b\":[\"y\",{\"c\":\"z\"}]}"));
    ck_assert_str_eq(seen, "x|y|z|");
    /* as Apple sends it */
    ck_assert(!texts_of_claims("{\"events\":\"{\\\"sub\\\":\\\"s1\\\"}\",\"aud\":\"a\"}"));
    ck_assert_ptr_nonnull(strstr(seen, "|s1|a|"));
    ck_assert(!texts_of_claims("{\"events\":\"[{\\\"sub\\\":\\\"s1\\\"},[\\\"s2\\\"]]\"}"));
    ck_assert_ptr_nonnull(strstr(seen, "|s1|s2|"));
    /* a shape that nobody understands */
    ck_assert(!texts_of_claims("[[[\"deep\"]],\"{broken\"]"));
    ck_assert_str_eq(seen, "deep|{broken|");
}
END_TEST

START_TEST(stops_at_the_first_that_is_wanted)
{
    wanted = "y";
    ck_assert(texts_of_claims("[\"x\",\"y\",\"z\"]"));
    ck_assert_str_eq(seen, "x|y|");
    wanted = "s1";
    ck_assert(texts_of_claims("{\"events\":\"{\\\"sub\\\":\\\"s1\\\"}\",\"z\":\"z\"}"));
    ck_assert_ptr_null(strstr(seen, "|z|"));
}
END_TEST

START_TEST(what_is_no_body_has_no_texts)
{
    static const char *const bodies[] = {
        "",
        "{}",
        "[]",
        "{\"payload\":\"\"}",
        "{\"payload\":\"a\"}",
        "{\"payload\":\"a.b\"}",
        "{\"payload\":\"..\"}",
        "{\"payload\":\"a.!!.c\"}",
        "{\"payload\":\"a.e30\"}",
        "{\"payload\":\"a.bm8.c\"}", /* "no", which is no JSON */
    };

    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        ck_assert(!texts_of(bodies[i]));
        ck_assert_str_eq(seen, "");
    }
}
END_TEST

/* Without assertions, which need memory. */
static bool is_s1(void *context, const char *text)
{
    (void)context;
    return strcmp(text, "s1") == 0;
}

/* Else a body would be kept as one without the person, and the erasure would say that it is done.
 */
START_TEST(a_body_without_memory_is_not_one_without_texts)
{
    const char *claims = "{\"events\":\"[{\\\"sub\\\":\\\"s1\\\"}]\"}";
    char payload[256], bodies[2][300];
    unsigned long failures = 0;

    base64url_encode((const unsigned char *)claims, strlen(claims), payload);
    snprintf(bodies[0], sizeof bodies[0], "{\"payload\":\"e30.%s.AAAA\"}", payload);
    /* which is read in another way */
    snprintf(bodies[1], sizeof bodies[1], "{ \"payload\": \"e30.%s.AAAA\" }", payload);
    for (size_t at = 0; at < 4; at++) {
        bool failed = true;

        for (unsigned long i = 1; failed; i++) {
            const char *body = bodies[at / 2];
            int found;

            memory_faults_arm(i, at % 2);
            found = erasure_body_texts(body, strlen(body), is_s1, NULL);
            failed = memory_faults_disarm();
            ck_assert_msg(found == 1 || (failed && found == -ENOMEM), "allocation %lu: %d", i,
                          found);
            failures += found == -ENOMEM;
        }
    }
    ck_assert_uint_gt(failures, 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("erasure");
    TCase *texts = tcase_create("texts");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(texts, set_up, NULL);
    tcase_add_test(texts, finds_texts_at_any_depth);
    tcase_add_test(texts, stops_at_the_first_that_is_wanted);
    tcase_add_test(texts, what_is_no_body_has_no_texts);
    if (MEMORY_FAULTS_WORK)
        tcase_add_test(texts, a_body_without_memory_is_not_one_without_texts);
    else
        printf("SKIP a_body_without_memory_is_not_one_without_texts: the sanitizer has its own "
               "allocator\n");
    suite_add_tcase(suite, texts);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
