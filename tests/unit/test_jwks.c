#include <check.h>
#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "memory_faults.h"
#include "signer.h"
#include "verifier/jwks.h"

static struct signer first, second, big;
static char *n_first, *n_second, *n_big;

/* Parses text that must be refused, with a sentence that says so. */
static void refused(const char *text, const char *sentence)
{
    struct jwks *set = (struct jwks *)&first;
    char why[JWKS_WHY_BYTES] = "";

    ck_assert_msg(jwks_parse(text, strlen(text), &set, why) == -EINVAL, "%s", text);
    ck_assert_msg(strstr(why, sentence) != NULL, "%s: %s", text, why);
    ck_assert_ptr_eq(set, &first);
    ck_assert_uint_eq(ERR_peek_error(), 0);
}

static struct jwks *accepted(const char *text)
{
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES] = "";

    ck_assert_msg(jwks_parse(text, strlen(text), &set, why) == 0, "%s: %s", text, why);
    ck_assert_uint_eq(ERR_peek_error(), 0);
    return set;
}

START_TEST(apples_shape_loads)
{
    struct signer both[] = {first, second};
    char *text = signer_jwks(both, 2);
    struct jwks *set = accepted(text);

    ck_assert_uint_eq(jwks_count(set), 2);
    ck_assert_uint_eq(jwks_passed_over(set), 0);
    ck_assert_str_eq(jwk_kid(jwks_at(set, 0)), "first");
    ck_assert_str_eq(jwk_n(jwks_at(set, 0)), n_first);
    ck_assert_str_eq(jwk_n(jwks_at(set, 1)), n_second);
    ck_assert_uint_eq(jwk_modulus_bytes(jwks_at(set, 0)), 256);
    ck_assert_int_eq(EVP_PKEY_get_bits(jwk_pkey(jwks_at(set, 0))), 2048);
    ck_assert_int_eq(EVP_PKEY_eq(jwk_pkey(jwks_at(set, 1)), second.key), 1);
    jwks_free(set);
    free(text);
}
END_TEST

START_TEST(find_wants_the_whole_kid)
{
    char *text = signer_jwks(&first, 1);
    struct jwks *set = accepted(text);

    ck_assert_ptr_eq(jwks_find(set, "first", 5), jwks_at(set, 0));
    ck_assert_ptr_null(jwks_find(set, "first", 4));
    ck_assert_ptr_null(jwks_find(set, "firstly", 7));
    ck_assert_ptr_null(jwks_find(set, "First", 5));
    ck_assert_ptr_null(jwks_find(set, "", 0));
    jwks_free(set);
    free(text);
}
END_TEST

/* One member of the set is changed from a good one; %s is the modulus of `first`. */
#define GOOD "\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\"%s\""

START_TEST(the_policy_passes_keys_over)
{
    static const struct {
        const char *key, *why;
    } cases[] = {
        {"\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\"%s\"", "not an RSA key"},
        {"\"kty\":\"EC\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\"%s\"", "not an RSA key"},
        {"\"kty\":\"rsa\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\"%s\"", "not an RSA key"},
        {"\"kty\":[\"RSA\"],\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\"%s\"", "not an RSA key"},
        {GOOD ",\"use\":\"enc\"", "use is not sig"},
        {GOOD ",\"use\":null", "use is not sig"},
        {GOOD ",\"alg\":\"PS256\"", "alg is not RS256"},
        {GOOD ",\"alg\":\"RS384\"", "alg is not RS256"},
        {GOOD ",\"alg\":1", "alg is not RS256"},
        {GOOD ",\"key_ops\":[]", "key_ops lack verify"},
        {GOOD ",\"key_ops\":[1,\"encrypt\"]", "key_ops lack verify"},
        {GOOD ",\"key_ops\":\"verify\"", "key_ops lack verify"},
        {GOOD ",\"d\":\"AQ\"", "private half"},
        {GOOD ",\"qi\":\"AQ\"", "private half"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"n\":\"%s\"", "exponent is not 65537"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"Aw\",\"n\":\"%s\"", "exponent is not 65537"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQ\",\"n\":\"%s\"", "exponent is not 65537"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AAEAAQ\",\"n\":\"%s\"", "exponent is not 65537"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":65537,\"n\":\"%s\"", "exponent is not 65537"},
        {"\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"%s\"", "no kid"},
        {"\"kty\":\"RSA\",\"kid\":7,\"e\":\"AQAB\",\"n\":\"%s\"", "no kid"},
        {"\"kty\":\"RSA\",\"kid\":\"\",\"e\":\"AQAB\",\"n\":\"%s\"", "kid is not 1 to 64"},
        {"\"kty\":\"RSA\",\"kid\":\"a\\nb\",\"e\":\"AQAB\",\"n\":\"%s\"", "kid is not 1 to 64"},
        {"\"kty\":\"RSA\",\"kid\":\"\\u007f\",\"e\":\"AQAB\",\"n\":\"%s\"", "kid is not 1 to 64"},
        {"\"kty\":\"RSA\",\"kid\":\"\xc3\xa9\",\"e\":\"AQAB\",\"n\":\"%s\"", "kid is not 1 to 64"},
        {"\"kty\":\"RSA\",\"kid\":"
         "\"0123456789012345678901234567890123456789012345678901234567890123"
         "4\",\"e\":\"AQAB\",\"n\":\"%s\"",
         "kid is not 1 to 64"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"x\":\"%s\"", "no modulus"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":[\"%s\"]", "no modulus"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\"%s=\"", "not canonical"},
        {"\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\" %s\"", "not canonical"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *key = malloc(strlen(cases[i].key) + strlen(n_first));
        const char *at = strstr(cases[i].key, "%s");
        char *alone, *beside;
        struct jwks *set;

        ck_assert(key != NULL && at != NULL);
        sprintf(key, "%.*s%s%s", (int)(at - cases[i].key), cases[i].key, n_first, at + 2);
        alone = signer_text("{\"keys\":[{%s}]}", key);
        refused(alone, cases[i].why);
        /* Beside a good key, whose kid is another one, it does no harm. */
        beside = signer_text("{\"keys\":[{%s},{\"kty\":\"RSA\",\"kid\":\"good\",\"e\":\"AQAB\","
                             "\"n\":\"%s\"}]}",
                             key, n_second);
        set = accepted(beside);
        ck_assert_uint_eq(jwks_count(set), 1);
        ck_assert_uint_eq(jwks_passed_over(set), 1);
        ck_assert_str_eq(jwk_kid(jwks_at(set, 0)), "good");
        jwks_free(set);
        free(beside);
        free(alone);
        free(key);
    }
}
END_TEST

START_TEST(what_the_policy_allows)
{
    static const char *const members[] = {
        "",
        ",\"use\":\"sig\"",
        ",\"alg\":\"RS256\"",
        ",\"key_ops\":[\"verify\"]",
        ",\"key_ops\":[7,\"sign\",\"verify\"]",
        ",\"x5c\":[\"whatever\"],\"x5u\":\"https://example.com/\",\"unknown\":{\"d\":1}",
    };

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        char *text = signer_text("{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":"
                                 "\"%s\"%s}],\"more\":[]}",
                                 n_first, members[i]);
        struct jwks *set = accepted(text);

        ck_assert_uint_eq(jwks_count(set), 1);
        jwks_free(set);
        free(text);
    }
}
END_TEST

START_TEST(texts_that_are_no_key_set)
{
    char *twice = signer_text("{\"keys\":[{" GOOD ",\"kid\":\"other\"}]}", n_first);
    char *behind = signer_text("{\"keys\":[{" GOOD "}]} x", n_first);

    refused("", "not JSON");
    refused("{", "not JSON");
    refused("\"keys\"", "not JSON");
    refused(twice, "not JSON");
    refused(behind, "not JSON");
    refused("[]", "no array named keys");
    refused("{}", "no array named keys");
    refused("{\"keys\":{}}", "no array named keys");
    refused("{\"error\":\"HTTP 503\"}", "no array named keys");
    refused("{\"keys\":[7]}", "not an object");
    refused("{\"keys\":[null]}", "not an object");
    refused("{\"keys\":[]}", "has no key");
    free(twice);
    free(behind);
}
END_TEST

/* A NUL hides what follows from whoever reads the text as a C string. */
START_TEST(nul_is_refused)
{
    char *text = signer_text("{\"x\":1 ,\"keys\":[{" GOOD "}]}", n_first);
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES];
    size_t bytes = strlen(text);

    text[6] = '\0';
    ck_assert_int_eq(jwks_parse(text, bytes, &set, why), -EINVAL);
    ck_assert_ptr_null(set);
    free(text);
}
END_TEST

/* An attacker who could add a key under a kid that is in use must not choose which one is found. */
START_TEST(a_kid_that_stands_twice_refuses_the_set)
{
    char *same = signer_text("{\"keys\":[{" GOOD "},{" GOOD "}]}", n_first, n_first);
    char *other =
        signer_text("{\"keys\":[{" GOOD "},{\"kty\":\"EC\",\"kid\":\"x\"},{\"kty\":\"oct\","
                    "\"kid\":\"k\"}]}",
                    n_first);
    char *quotes = signer_text("{\"keys\":[{\"kid\":\"a\\\"\\\\b\"},{" GOOD "},{\"kid\":"
                               "\"a\\\"\\\\b\"}]}",
                               n_first);
    char *control =
        signer_text("{\"keys\":[{\"kid\":\"a\\nb\"},{" GOOD "},{\"kid\":\"a\\nb\"}]}", n_first);

    refused(same, "the kid \"k\" stands twice");
    refused(other, "the kid \"k\" stands twice");
    refused(quotes, "the kid \"a??b\" stands twice");
    refused(control, "the kid \"?\" stands twice");
    free(same);
    free(other);
    free(quotes);
    free(control);
}
END_TEST

/* What a key server may send is bounded before it is read. */
START_TEST(sizes_are_bounded)
{
    char *text = malloc(JWKS_TEXT_MAX_BYTES + 2);
    char *many = signer_text("{\"keys\":[{" GOOD "}", n_first);
    size_t length = strlen(many);

    ck_assert(text != NULL);
    memset(text, ' ', JWKS_TEXT_MAX_BYTES + 1);
    text[JWKS_TEXT_MAX_BYTES + 1] = '\0';
    refused(text, "more than 256 KiB");
    text[JWKS_TEXT_MAX_BYTES] = '\0';
    refused(text, "not JSON");

    memcpy(text, many, length);
    for (int i = 1; i < JWKS_KEYS_MAX; i++)
        length += (size_t)sprintf(text + length, ",{\"kid\":\"%d\"}", i);
    strcpy(text + length, "]}");
    struct jwks *set = accepted(text);
    ck_assert_uint_eq(jwks_count(set), 1);
    ck_assert_uint_eq(jwks_passed_over(set), JWKS_KEYS_MAX - 1);
    jwks_free(set);
    strcpy(text + length, ",{\"kid\":\"last\"}]}");
    refused(text, "more than 64 keys");
    free(many);
    free(text);
}
END_TEST

static void refuse_modulus(const unsigned char *data, size_t bytes, const char *sentence)
{
    char *n = signer_base64url(data, bytes);
    struct jwk *key = NULL;
    char why[JWKS_WHY_BYTES] = "";

    ck_assert_int_eq(jwk_new("k", n, &key, why), -EINVAL);
    ck_assert_ptr_null(key);
    ck_assert_msg(strstr(why, sentence) != NULL, "%s", why);
    free(n);
}

START_TEST(sizes_of_the_modulus)
{
    unsigned char data[JWK_MODULUS_MAX_BYTES + 1];
    struct jwk *key = NULL;
    char why[JWKS_WHY_BYTES] = "";
    char *n;

    /* Odd, and 2 modulo 3, which no power of 65537 is: without the ROCA fingerprint. */
    memset(data, 0xff, sizeof(data));
    refuse_modulus(data, 0, "empty");
    refuse_modulus(data, 255, "fewer than 2048");
    data[0] = 0x7f;
    refuse_modulus(data, 256, "fewer than 2048");
    refuse_modulus(data, 513, "more than 4096");
    data[0] = 0;
    refuse_modulus(data, 257, "zero byte");
    data[0] = 0x80;
    data[255] = 0xfe;
    refuse_modulus(data, 256, "even");

    for (size_t bytes = 256; bytes <= 512; bytes += 256) {
        data[255] = 0xff;
        n = signer_base64url(data, bytes);
        ck_assert_msg(jwk_new("k", n, &key, why) == 0, "%s", why);
        ck_assert_uint_eq(jwk_modulus_bytes(key), bytes);
        ck_assert_str_eq(jwk_n(key), n);
        jwk_unref(key);
        free(n);
    }
}
END_TEST

START_TEST(big_keys_load)
{
    char *text = signer_jwks(&big, 1);
    struct jwks *set = accepted(text);

    ck_assert_uint_eq(jwk_modulus_bytes(jwks_at(set, 0)), 384);
    ck_assert_str_eq(jwk_n(jwks_at(set, 0)), n_big);
    jwks_free(set);
    free(text);
}
END_TEST

/* Makes a modulus that is 65537^exponent modulo the product of the primes up to 167 (so it has the
 * fingerprint of the Infineon library) and has bits bits. */
static BIGNUM *roca_modulus(int bits)
{
    static const unsigned primes[] = {
        2,  3,  5,  7,  11, 13,  17,  19,  23,  29,  31,  37,  41,  43,  47,  53,  59,  61,  67, 71,
        73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167};
    BN_CTX *context = BN_CTX_new();
    BIGNUM *product = BN_new(), *n = BN_new(), *power = BN_new(), *generator = BN_new();

    ck_assert(context && product && n && power && generator);
    BN_one(product);
    for (size_t i = 0; i < sizeof(primes) / sizeof(primes[0]); i++)
        ck_assert_int_eq(BN_mul_word(product, primes[i]), 1);
    BN_set_word(generator, 65537);
    BN_set_word(power, 1234567);
    ck_assert_int_eq(BN_mod_exp(power, generator, power, product, context), 1);
    /* n = 2^(bits-1) + something, raised to the next number with that residue. */
    ck_assert_int_eq(BN_set_bit(n, bits - 1), 1);
    ck_assert_int_eq(BN_set_bit(n, bits - 2), 1);
    BIGNUM *rest = BN_new();
    ck_assert_int_eq(BN_mod(rest, n, product, context), 1);
    ck_assert_int_eq(BN_sub(n, n, rest), 1);
    ck_assert_int_eq(BN_add(n, n, power), 1);
    ck_assert_int_eq(BN_num_bits(n), bits);
    BN_free(rest);
    BN_free(product);
    BN_free(power);
    BN_free(generator);
    BN_CTX_free(context);
    return n;
}

/* Keys of faulty smart cards can be factored from their public half: CVE-2017-15361. */
START_TEST(the_roca_fingerprint_is_refused)
{
    unsigned char data[512];
    BIGNUM *n = roca_modulus(2048);

    ck_assert_int_eq(BN_bn2bin(n, data), 256);
    refuse_modulus(data, 256, "ROCA");
    /* Off by 2 modulo one small prime alone it is no longer that fingerprint, and usable. */
    ck_assert_int_eq(BN_add_word(n, 2), 1);
    ck_assert_int_eq(BN_bn2bin(n, data), 256);
    char *text = signer_base64url(data, 256);
    struct jwk *key = NULL;
    char why[JWKS_WHY_BYTES] = "";
    ck_assert_msg(jwk_new("k", text, &key, why) == 0, "%s", why);
    jwk_unref(key);
    free(text);
    BN_free(n);
}
END_TEST

START_TEST(keys_outlive_their_set)
{
    char *text = signer_jwks(&first, 1);
    struct jwks *set = accepted(text);
    struct jwk *key = jwk_ref(jwks_at(set, 0));
    struct jwk *again = NULL, *other = NULL;
    char why[JWKS_WHY_BYTES];

    jwks_free(set);
    ck_assert_str_eq(jwk_kid(key), "first");
    ck_assert_int_eq(EVP_PKEY_eq(jwk_pkey(key), first.key), 1);

    ck_assert_int_eq(jwk_new("another kid", n_first, &again, why), 0);
    ck_assert_int_eq(jwk_new("first", n_second, &other, why), 0);
    ck_assert(jwk_same_modulus(key, again));
    ck_assert(!jwk_same_modulus(key, other));
    jwk_unref(other);
    jwk_unref(again);
    jwk_unref(key);
    jwk_unref(NULL);
    jwks_free(NULL);
    free(text);
}
END_TEST

START_TEST(jwk_new_says_what_is_wrong)
{
    struct jwk *key = NULL;
    char why[JWKS_WHY_BYTES] = "";

    ck_assert_int_eq(jwk_new("", n_first, &key, why), -EINVAL);
    ck_assert_str_eq(why,
                     "the key cannot be used: its kid is not 1 to 64 printable ASCII characters");
    ck_assert_int_eq(jwk_new("k", "+/==", &key, why), -EINVAL);
    ck_assert_str_eq(why, "the key cannot be used: its modulus is not canonical base64url");
    ck_assert_int_eq(jwk_new("k", "", &key, why), -EINVAL);
    ck_assert_ptr_null(key);
}
END_TEST

static void *take_and_drop(void *key)
{
    for (int i = 0; i < 20000; i++)
        jwk_unref(jwk_ref(key));
    return NULL;
}

START_TEST(references_count_across_threads)
{
    pthread_t threads[4];
    struct jwk *key;
    char why[JWKS_WHY_BYTES];

    ck_assert_int_eq(jwk_new("k", n_first, &key, why), 0);
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, take_and_drop, key), 0);
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_str_eq(jwk_n(key), n_first);
    jwk_unref(key);
}
END_TEST

/* Out of memory is -ENOMEM at every allocation, never a verdict about the set: a good set that is
 * called bad would be thrown away. */
START_TEST(out_of_memory_is_never_a_bad_set)
{
    struct signer both[] = {first, second};
    char *text = signer_jwks(both, 2);
    unsigned long failures = 0;

    jwks_free(accepted(text));
    for (int from_then_on = 0; from_then_on <= 1; from_then_on++) {
        for (unsigned long fail = 1;; fail++) {
            struct jwks *set = NULL;
            char why[JWKS_WHY_BYTES] = "";
            int error;

            memory_faults_arm(fail, from_then_on);
            error = jwks_parse(text, strlen(text), &set, why);
            if (!memory_faults_disarm()) {
                ck_assert_int_eq(error, 0);
                jwks_free(set);
                break;
            }
            failures++;
            /* OpenSSL can do without some of what it asks for. */
            ck_assert_msg(error == -ENOMEM || (error == 0 && jwks_count(set) == 2),
                          "allocation %lu: %d, %s", fail, error, why);
            if (error == 0)
                ck_assert(jwks_find(set, "first", 5) && jwks_find(set, "second", 6));
            if (error == 0)
                jwks_free(set);
        }
    }
    ck_assert_uint_gt(failures, 100);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("jwks");
    TCase *tests = tcase_create("jwks");
    SRunner *runner = srunner_create(suite);
    int failed;

    first = signer_make("first");
    second = signer_make("second");
    big = signer_make_with("big", 3072, 65537);
    n_first = signer_n(&first);
    n_second = signer_n(&second);
    n_big = signer_n(&big);

    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, apples_shape_loads);
    tcase_add_test(tests, find_wants_the_whole_kid);
    tcase_add_test(tests, the_policy_passes_keys_over);
    tcase_add_test(tests, what_the_policy_allows);
    tcase_add_test(tests, texts_that_are_no_key_set);
    tcase_add_test(tests, nul_is_refused);
    tcase_add_test(tests, a_kid_that_stands_twice_refuses_the_set);
    tcase_add_test(tests, sizes_are_bounded);
    tcase_add_test(tests, sizes_of_the_modulus);
    tcase_add_test(tests, big_keys_load);
    tcase_add_test(tests, the_roca_fingerprint_is_refused);
    tcase_add_test(tests, keys_outlive_their_set);
    tcase_add_test(tests, jwk_new_says_what_is_wrong);
    tcase_add_test(tests, references_count_across_threads);
    if (MEMORY_FAULTS_WORK)
        tcase_add_test(tests, out_of_memory_is_never_a_bad_set);
    else
        printf("SKIP out_of_memory_is_never_a_bad_set: the sanitizer has its own allocator\n");
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    free(n_first);
    free(n_second);
    free(n_big);
    signer_free(&first);
    signer_free(&second);
    signer_free(&big);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
