/* erasure: every text of a body is looked at, and nothing that is no body does harm. The rest needs
 * a database and time: tests/integration/test_erasure.py. */
#include "deliveries.h"
#include "dispatcher/erasure.h"
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

int main(void)
{
    Suite *suite = suite_create("erasure");
    TCase *texts = tcase_create("texts");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(texts, set_up, NULL);
    tcase_add_test(texts, finds_texts_at_any_depth);
    tcase_add_test(texts, stops_at_the_first_that_is_wanted);
    tcase_add_test(texts, what_is_no_body_has_no_texts);
    suite_add_tcase(suite, texts);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
