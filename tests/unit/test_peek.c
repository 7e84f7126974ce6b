/* peek: what may wait for keys, and what a stranger cannot make of it. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "signer.h"
#include "verifier/peek.h"

#define NOW_S INT64_C(1700000000)
#define APPLE "https://appleid.apple.com"
#define APP   "com.example.app"
#define EVENT "{\"type\":\"consent-revoked\",\"sub\":\"001\",\"event_time\":1699999990000}"

static struct signer signer;
static unsigned audience_asked;

static bool is_our_app(void *of, const char *client_id)
{
    (void)of;
    audience_asked++;
    return strcmp(client_id, APP) == 0;
}

static const char *const issuers[] = {"https://first.example", APPLE};
/* no keys, no time: neither is needed */
static const struct judge_rules rules = {
    .audience_known = is_our_app, .issuers = issuers, .issuer_count = 2};

static bool peeks_at(const char *body, struct peek *ret_peek)
{
    return peek_body(&rules, body, strlen(body), ret_peek);
}

static bool peeks_at_token(const char *token)
{
    struct peek peek = {{0}, {0}};
    char *body = signer_body(token);
    bool looks_good = peeks_at(body, &peek);

    ck_assert_int_eq(looks_good, peek.unverified_kid[0] != '\0');
    ck_assert_int_eq(looks_good, peek.unverified_aud[0] != '\0');
    free(body);
    return looks_good;
}

static bool peeks_at_payload(const char *payload)
{
    char *token = signer_token(&signer, payload);
    bool looks_good = peeks_at_token(token);

    free(token);
    return looks_good;
}

static bool peeks_at_claims(const char *iss, const char *aud, const char *events)
{
    char *payload = signer_claims(iss, aud, NOW_S, "j", events);
    bool looks_good = peeks_at_payload(payload);

    free(payload);
    return looks_good;
}

START_TEST(finds_kid_and_audience)
{
    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENT);
    char *token = signer_token(&signer, payload);
    char *body = signer_body(token);
    struct peek peek;

    ck_assert(peeks_at(body, &peek));
    ck_assert_str_eq(peek.unverified_kid, "k");
    ck_assert_str_eq(peek.unverified_aud, APP);
    free(body);
    free(token);
    free(payload);
}
END_TEST

/* Nothing but a key may be missing, and nobody is asked about what does not come from an issuer. */
START_TEST(wants_the_shape_of_a_notification_for_us)
{
    ck_assert(peeks_at_claims(APPLE, APP, EVENT));
    ck_assert(peeks_at_claims("https://first.example", APP, EVENT));
    ck_assert(peeks_at_claims(APPLE, APP, "null")); /* for the quarantine, once it is verified */
    ck_assert(!peeks_at_claims(APPLE, "com.example.app.other", EVENT));
    ck_assert(!peeks_at_claims(APPLE, "com.example", EVENT));
    audience_asked = 0;
    ck_assert(!peeks_at_claims("https://appleid.apple.com/", APP, EVENT));
    ck_assert(!peeks_at_claims("https://appleid.apple.co", APP, EVENT));
    ck_assert_uint_eq(audience_asked, 0);
}
END_TEST

START_TEST(refuses_other_payloads)
{
    static const char *const payloads[] = {
        "",
        "[]",
        "null",
        "{}",
        "{\"iss\":\"" APPLE "\"}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\"}",
        /* an ID token */
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":1,\"exp\":2,\"sub\":\"001\"}",
        /* a member twice, the first or the second of which is good */
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"aud\":\"x\",\"iat\":1,\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"x\",\"aud\":\"" APP "\",\"iat\":1,\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":[\"" APP "\"],\"iat\":1,\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\\u0000\",\"iat\":1,\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":\"1\",\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":-1,\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":1,\"events\":" EVENT "}x",
    };

    for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++)
        ck_assert_msg(!peeks_at_payload(payloads[i]), "%s", payloads[i]);
}
END_TEST

START_TEST(refuses_other_tokens)
{
    static const char *const headers[] = {
        "{\"kid\":\"k\",\"alg\":\"none\"}",
        "{\"kid\":\"k\",\"alg\":\"HS256\"}",
        "{\"kid\":\"k\",\"alg\":\"RS512\"}",
        "{\"alg\":\"RS256\"}",
        "{\"kid\":\"\",\"alg\":\"RS256\"}",
        "{\"kid\":\"k\\n\",\"alg\":\"RS256\"}",
        "{\"kid\":7,\"alg\":\"RS256\"}",
        "{\"kid\":\"0123456789012345678901234567890123456789012345678901234567890123x\","
        "\"alg\":\"RS256\"}",
        "{\"kid\":\"k\",\"alg\":\"RS256\",\"crit\":[\"exp\"]}",
        "{\"kid\":\"k\",\"alg\":\"RS256\",\"b64\":false}",
    };
    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENT);

    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        char *token = signer_token_with(&signer, headers[i], payload, strlen(payload));

        ck_assert_msg(!peeks_at_token(token), "%s", headers[i]);
        free(token);
    }
    ck_assert(!peeks_at_token(""));
    ck_assert(!peeks_at_token("a.b.c"));
    ck_assert(!peeks_at_token(".."));
    free(payload);
}
END_TEST

/* No cut of a good body is one, and reading it stays inside of it. */
START_TEST(refuses_every_beginning)
{
    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENT);
    char *token = signer_token(&signer, payload);
    char *body = signer_body(token);
    size_t bytes = strlen(body);
    struct peek peek = {{0}, {0}};

    for (size_t cut = 0; cut < bytes; cut++) {
        char *copy = malloc(cut ? cut : 1);

        ck_assert_ptr_nonnull(copy);
        memcpy(copy, body, cut);
        ck_assert_msg(!peek_body(&rules, copy, cut, &peek), "%zu", cut);
        ck_assert_int_eq(peek.unverified_kid[0], '\0');
        free(copy);
    }
    free(body);
    free(token);
    free(payload);
}
END_TEST

static bool is_any_app(void *of, const char *client_id)
{
    (void)of;
    (void)client_id;
    return true;
}

/* The longest that the parsers let through fit. */
START_TEST(copies_the_longest_whole)
{
    char kid[JWK_KID_MAX_BYTES + 1] = "", aud[NOTIFICATION_CLAIM_MAX_BYTES + 1] = "";
    char *header, *payload, *token, *body;
    struct judge_rules any = rules;
    struct peek peek;

    memset(kid, 'k', JWK_KID_MAX_BYTES);
    memset(aud, 'a', NOTIFICATION_CLAIM_MAX_BYTES);
    header = signer_text("{\"kid\":\"%s\",\"alg\":\"RS256\"}", kid);
    payload = signer_claims(APPLE, aud, NOW_S, "j", EVENT);
    token = signer_token_with(&signer, header, payload, strlen(payload));
    body = signer_body(token);
    any.audience_known = is_any_app;
    ck_assert(peek_body(&any, body, strlen(body), &peek));
    ck_assert_str_eq(peek.unverified_kid, kid);
    ck_assert_str_eq(peek.unverified_aud, aud);
    free(body);
    free(token);
    free(payload);
    free(header);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("peek");
    TCase *tests = tcase_create("peek");
    SRunner *runner = srunner_create(suite);
    int failed;

    signer = signer_make("k");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, finds_kid_and_audience);
    tcase_add_test(tests, wants_the_shape_of_a_notification_for_us);
    tcase_add_test(tests, refuses_other_payloads);
    tcase_add_test(tests, refuses_other_tokens);
    tcase_add_test(tests, refuses_every_beginning);
    tcase_add_test(tests, copies_the_longest_whole);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    signer_free(&signer);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
