#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/signer.h"
#include "verifier/base64url.h"
#include "verifier/judge.h"

#define NOW_S INT64_C(1752573000)

static struct signer *signer;
static char folder[] = "/tmp/siwa-signer-XXXXXX";
static char path[128];

static const char *in_folder(const char *name)
{
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* One key for all tests: making one takes a moment. They run in forks of this process. */
static void make_signer(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(signer_generate(&signer), 0);
}

static void remove_signer(void)
{
    signer_free(signer);
    (void)unlink(in_folder("keys/" SIGNER_KEY_FILE));
    (void)unlink(in_folder("keys/" SIGNER_KEY_SET_FILE));
    (void)unlink(in_folder(SIGNER_KEY_FILE));
    (void)rmdir(in_folder("keys"));
    (void)rmdir(folder);
}

static void clean_folder(void)
{
    (void)unlink(in_folder("keys/" SIGNER_KEY_FILE));
    (void)unlink(in_folder("keys/" SIGNER_KEY_SET_FILE));
    (void)unlink(in_folder(SIGNER_KEY_FILE));
}

static struct signer_notification example(void)
{
    return (struct signer_notification){.issuer = SIGNER_ISSUER,
                                        .client_id = "com.example.app",
                                        .jti = "0123456789012345678901",
                                        .issued_at_s = NOW_S,
                                        .type = "email-disabled",
                                        .sub = "a sub",
                                        .email = "someone@relay.invalid",
                                        .event_time_ms = NOW_S * 1000 - 10000};
}

static struct jwks *own_keys(const struct signer *of)
{
    char why[JWKS_WHY_BYTES];
    struct jwks *keys = NULL;
    char *text = NULL;

    ck_assert_int_eq(signer_key_set(of, &text), 0);
    ck_assert_int_eq(jwks_parse(text, strlen(text), &keys, why), 0);
    free(text);
    return keys;
}

static const struct jwk *find(void *context, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust)
{
    const struct jwk *key = jwks_find(context, kid, kid_bytes);
    *ret_trust = key ? KEY_TRUST_FULL : KEY_TRUST_NONE;
    return key;
}

static bool known(void *context, const char *client_id)
{
    (void)context;
    return strcmp(client_id, "com.example.app") == 0;
}

static void judge(struct jwks *keys, const char *body, struct judgement *ret_judgement)
{
    static const char *const issuers[] = {SIGNER_ISSUER};
    const struct judge_rules rules = {.keys = {.find = find, .context = keys, .usable = true},
                                      .audience_known = known,
                                      .issuers = issuers,
                                      .issuer_count = 1,
                                      .now_s = NOW_S + 60,
                                      .leeway_s = 300};
    struct jws_context *context = NULL;

    ck_assert_int_eq(jws_context_new(&context), 0);
    judge_body(context, &rules, body, strlen(body), ret_judgement);
    jws_context_free(context);
}

START_TEST(the_verifier_accepts_every_shape)
{
    struct jwks *keys = own_keys(signer);

    for (int shape = SIGNER_EVENTS_STRING; shape <= SIGNER_EVENTS_ARRAY; shape++) {
        struct signer_notification notification = example();
        struct judgement judgement;
        char *body = NULL;

        notification.events_as = (enum signer_events_as)shape;
        ck_assert_int_eq(signer_body(signer, &notification, &body), 0);
        judge(keys, body, &judgement);
        ck_assert_int_eq(judgement.verdict, VERDICT_ACCEPTED);
        ck_assert_str_eq(judgement.kid, signer_kid(signer));
        ck_assert_str_eq(judgement.notification.aud, notification.client_id);
        ck_assert_str_eq(judgement.notification.jti, notification.jti);
        ck_assert_int_eq(judgement.notification.issued_at_s, NOW_S);
        ck_assert_int_eq(judgement.notification.expires_at_s, NOW_S + 86400);
        ck_assert_uint_eq(judgement.notification.event_count, 1);
        ck_assert_int_eq(judgement.notification.events[0].kind, EVENT_TYPE_EMAIL_DISABLED);
        ck_assert_str_eq(judgement.notification.events[0].sub, notification.sub);
        ck_assert_str_eq(judgement.notification.events[0].email, notification.email);
        ck_assert_int_eq(judgement.notification.events[0].is_private_email, PRIVATE_EMAIL_YES);
        ck_assert_int_eq(judgement.notification.events[0].event_time_ms,
                         notification.event_time_ms);
        judgement_release(&judgement);
        free(body);
    }
    jwks_free(keys);
}
END_TEST

/* The control of the test above: another key's signature must not pass. */
START_TEST(another_key_is_another_key)
{
    struct signer_notification notification = example();
    struct signer *other = NULL;
    struct judgement judgement;
    char *body = NULL;

    ck_assert_int_eq(signer_generate(&other), 0);
    ck_assert_str_ne(signer_kid(other), signer_kid(signer));
    struct jwks *keys = own_keys(other);
    ck_assert_int_eq(signer_body(signer, &notification, &body), 0);
    judge(keys, body, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_KID_UNKNOWN);
    judgement_release(&judgement);
    free(body);
    jwks_free(keys);
    signer_free(other);
}
END_TEST

/* apple-protocol: the header is exactly {"kid":…,"alg":"RS256"}, the claims stand in this order,
 * and `events` is a string. */
START_TEST(header_and_claims_are_apples_to_the_byte)
{
    struct signer_notification notification = example();
    struct notification_token token;
    unsigned char decoded[1024];
    char expected[1024];
    char *body = NULL;
    size_t bytes;

    ck_assert_int_eq(signer_body(signer, &notification, &body), 0);
    ck_assert_int_eq(strncmp(body, "{\"payload\":\"", 12), 0);
    ck_assert_str_eq(body + strlen(body) - 2, "\"}");
    ck_assert_int_eq(notification_find_token(body, strlen(body), &token), VERDICT_ACCEPTED);

    const char *dot = memchr(token.text, '.', token.bytes);
    ck_assert_ptr_nonnull(dot);
    ck_assert_int_eq(
        base64url_decode(token.text, (size_t)(dot - token.text), decoded, sizeof decoded, &bytes),
        0);
    (void)snprintf(expected, sizeof expected, "{\"kid\":\"%s\",\"alg\":\"RS256\"}",
                   signer_kid(signer));
    ck_assert_uint_eq(bytes, strlen(expected));
    ck_assert_mem_eq(decoded, expected, bytes);

    const char *second = dot + 1, *end = strchr(second, '.');
    ck_assert_int_eq(
        base64url_decode(second, (size_t)(end - second), decoded, sizeof decoded, &bytes), 0);
    (void)snprintf(expected, sizeof expected,
                   "{\"iss\":\"https://appleid.apple.com\",\"aud\":\"com.example.app\","
                   "\"exp\":1752659400,\"iat\":1752573000,\"jti\":\"0123456789012345678901\","
                   "\"events\":\"{\\\"type\\\":\\\"email-disabled\\\",\\\"sub\\\":\\\"a sub\\\","
                   "\\\"event_time\\\":1752572990000,\\\"email\\\":\\\"someone@relay.invalid\\\","
                   "\\\"is_private_email\\\":\\\"true\\\"}\"}");
    ck_assert_uint_eq(bytes, strlen(expected));
    ck_assert_mem_eq(decoded, expected, bytes);
    notification_token_release(&token);
    free(body);
}
END_TEST

START_TEST(a_kid_may_be_another)
{
    struct signer_notification notification = example();
    struct judgement judgement;
    struct jwks *keys = own_keys(signer);
    char *body = NULL;

    notification.kid = "a-kid-that-is-longer-than-the-own";
    ck_assert_int_eq(signer_body(signer, &notification, &body), 0);
    judge(keys, body, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_KID_UNKNOWN);
    ck_assert_str_eq(judgement.kid, notification.kid);
    judgement_release(&judgement);
    free(body);
    notification.kid = "0123456789012345678901234567890123456789012345678901234567890123456789"
                       "0123456789012345678901234567890123456789";
    ck_assert_int_eq(signer_body(signer, &notification, &body), -EINVAL);
    jwks_free(keys);
}
END_TEST

START_TEST(text_that_is_not_utf8_is_refused)
{
    struct signer_notification notification = example();
    char *body = NULL;

    notification.sub = "\xff";
    ck_assert_int_eq(signer_body(signer, &notification, &body), -EINVAL);
    notification = example();
    notification.client_id = "\xc3(";
    ck_assert_int_eq(signer_body(signer, &notification, &body), -EINVAL);
    ck_assert_ptr_null(body);
}
END_TEST

START_TEST(saved_and_loaded_it_is_the_same_key)
{
    char why[SIGNER_WHY_BYTES];
    struct signer *loaded = NULL;
    struct stat status;
    char keys[sizeof path];

    (void)snprintf(keys, sizeof keys, "%s", in_folder("keys"));
    (void)umask(0027); /* the modes are those promised whatever the mask is */
    ck_assert_int_eq(signer_save(signer, keys, why), 0);
    ck_assert_int_eq(stat(in_folder("keys/" SIGNER_KEY_FILE), &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0600);
    ck_assert_int_eq(stat(in_folder("keys/" SIGNER_KEY_SET_FILE), &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0644);
    ck_assert_int_eq(signer_load(keys, &loaded, why), 0);
    ck_assert_str_eq(signer_kid(loaded), signer_kid(signer));
    signer_free(loaded);
}
END_TEST

/* A private key that something trusts must not vanish because a command was typed twice. */
START_TEST(nothing_is_overwritten)
{
    char why[SIGNER_WHY_BYTES] = "", keys[sizeof path];
    struct stat before, after;

    (void)snprintf(keys, sizeof keys, "%s", in_folder("keys"));
    ck_assert_int_eq(signer_save(signer, keys, why), 0);
    ck_assert_int_eq(stat(in_folder("keys/" SIGNER_KEY_FILE), &before), 0);
    ck_assert_int_eq(signer_save(signer, keys, why), -EEXIST);
    ck_assert_ptr_nonnull(strstr(why, SIGNER_KEY_FILE));
    ck_assert_int_eq(stat(in_folder("keys/" SIGNER_KEY_FILE), &after), 0);
    ck_assert_int_eq(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    ck_assert_uint_eq(before.st_ino, after.st_ino);
}
END_TEST

/* A link that somebody put there must not make us write elsewhere. */
START_TEST(a_symbolic_link_is_not_followed)
{
    char why[SIGNER_WHY_BYTES], target[sizeof path];

    (void)snprintf(target, sizeof target, "%s", in_folder("elsewhere"));
    ck_assert_int_eq(symlink(target, in_folder(SIGNER_KEY_FILE)), 0);
    ck_assert_int_eq(signer_save(signer, folder, why), -EEXIST);
    ck_assert_int_eq(access(target, F_OK), -1);
}
END_TEST

START_TEST(where_no_folder_can_be_made_it_says_so)
{
    char why[SIGNER_WHY_BYTES] = "";

    ck_assert_int_eq(signer_save(signer, "/proc/self/status/keys", why), -ENOTDIR);
    ck_assert_ptr_nonnull(strstr(why, "/proc/self/status/keys"));
    ck_assert_int_eq(signer_load("/nonexistent", &signer, why), -ENOENT);
    ck_assert_ptr_nonnull(strstr(why, "/nonexistent"));
}
END_TEST

static void write_key(EVP_PKEY *key, const EVP_CIPHER *cipher)
{
    FILE *file = fopen(in_folder(SIGNER_KEY_FILE), "w");
    ck_assert_ptr_nonnull(file);
    char password[] = "secret";
    ck_assert_int_eq(
        PEM_write_PrivateKey(file, key, cipher, NULL, 0, NULL, cipher ? password : NULL), 1);
    ck_assert_int_eq(fclose(file), 0);
}

static void refuses_to_load(void)
{
    char why[SIGNER_WHY_BYTES] = "";
    struct signer *loaded = NULL;

    ck_assert_int_eq(signer_load(folder, &loaded, why), -EINVAL);
    ck_assert_ptr_null(loaded);
    ck_assert_ptr_nonnull(strstr(why, SIGNER_KEY_FILE));
}

/* The daemon would pass over such a key, and whoever simulates would search the mistake there. */
START_TEST(keys_that_the_daemon_would_not_take_are_refused)
{
    EVP_PKEY *weak = EVP_RSA_gen(1024), *curve = EVP_EC_gen("P-256"), *good = EVP_RSA_gen(2048);

    ck_assert(weak && curve && good);
    write_key(weak, NULL);
    refuses_to_load();
    write_key(curve, NULL);
    refuses_to_load();
    write_key(good, EVP_aes_128_cbc()); /* and no question for a password on the terminal */
    refuses_to_load();
    FILE *file = fopen(in_folder(SIGNER_KEY_FILE), "w");
    ck_assert_ptr_nonnull(file);
    ck_assert(fputs("no key\n", file) >= 0 && fclose(file) == 0);
    refuses_to_load();
    EVP_PKEY_free(weak);
    EVP_PKEY_free(curve);
    EVP_PKEY_free(good);
}
END_TEST

START_TEST(random_values_have_apples_shapes)
{
    char jti[2][SIGNER_JTI_BYTES + 1], sub[2][SIGNER_SUB_BYTES + 1];
    char email[2][SIGNER_EMAIL_BYTES + 1];

    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(signer_random_jti(jti[i]), 0);
        ck_assert_int_eq(signer_random_sub(sub[i]), 0);
        ck_assert_int_eq(signer_random_email(email[i]), 0);
        ck_assert_uint_eq(strlen(jti[i]), SIGNER_JTI_BYTES);
        ck_assert_uint_eq(strlen(sub[i]), SIGNER_SUB_BYTES);
        ck_assert_uint_eq(strlen(email[i]), SIGNER_EMAIL_BYTES);
        ck_assert_uint_eq(strspn(sub[i], "0123456789abcdef."), SIGNER_SUB_BYTES);
        ck_assert(sub[i][6] == '.' && sub[i][39] == '.');
    }
    ck_assert_str_ne(jti[0], jti[1]);
    ck_assert_str_ne(sub[0], sub[1]);
    ck_assert_str_ne(email[0], email[1]);
    signer_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("signer");
    TCase *tests = tcase_create("signer");

    tcase_set_timeout(tests, 60);
    tcase_add_unchecked_fixture(tests, make_signer, remove_signer);
    tcase_add_checked_fixture(tests, clean_folder, clean_folder);
    tcase_add_test(tests, the_verifier_accepts_every_shape);
    tcase_add_test(tests, another_key_is_another_key);
    tcase_add_test(tests, header_and_claims_are_apples_to_the_byte);
    tcase_add_test(tests, a_kid_may_be_another);
    tcase_add_test(tests, text_that_is_not_utf8_is_refused);
    tcase_add_test(tests, saved_and_loaded_it_is_the_same_key);
    tcase_add_test(tests, nothing_is_overwritten);
    tcase_add_test(tests, a_symbolic_link_is_not_followed);
    tcase_add_test(tests, where_no_folder_can_be_made_it_says_so);
    tcase_add_test(tests, keys_that_the_daemon_would_not_take_are_refused);
    tcase_add_test(tests, random_values_have_apples_shapes);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
