/* probe: one key, for one notification, for a minute. */
#include "listener/probe.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "signer.h"

#define BEGAN_MS 5000

static struct jwk *one, *two, *apples, *bare;
static struct probe *probe;

static struct jwk *key_named(const char *kid, const char *n)
{
    char why[JWKS_WHY_BYTES];
    struct jwk *key = NULL;

    SIGNER_NEEDS(jwk_new(kid, n, &key, why) == 0);
    return key;
}

static void set_up(void)
{
    ck_assert_int_eq(probe_new(&probe), 0);
}

static void tear_down(void)
{
    probe_free(probe);
}

static void armed_is(const struct jwk *expected, int64_t now_ms)
{
    struct jwk *key = probe_key(probe, now_ms);

    ck_assert_ptr_eq(key, expected);
    jwk_unref(key);
}

START_TEST(nothing_is_armed_at_first)
{
    armed_is(NULL, BEGAN_MS);
    ck_assert_ptr_null(probe_key(NULL, BEGAN_MS));
    probe_used(probe, one);
    probe_free(NULL);
}
END_TEST

START_TEST(a_key_is_armed_for_a_minute)
{
    ck_assert_int_eq(PROBE_ARMED_MS, 60000);
    ck_assert_int_eq(probe_arm(probe, one, BEGAN_MS), 0);
    armed_is(one, BEGAN_MS);
    armed_is(one, BEGAN_MS + PROBE_ARMED_MS - 1);
    armed_is(NULL, BEGAN_MS + PROBE_ARMED_MS);
    armed_is(NULL, BEGAN_MS); /* and stays away */
}
END_TEST

START_TEST(a_key_serves_once)
{
    ck_assert_int_eq(probe_arm(probe, one, BEGAN_MS), 0);
    probe_used(probe, one);
    armed_is(NULL, BEGAN_MS);
    ck_assert_int_eq(probe_arm(probe, two, BEGAN_MS), 0);
    probe_used(probe, one); /* which is late, and takes nothing from the other */
    armed_is(two, BEGAN_MS);
}
END_TEST

START_TEST(one_key_at_a_time)
{
    ck_assert_int_eq(probe_arm(probe, one, BEGAN_MS), 0);
    ck_assert_int_eq(probe_arm(probe, two, BEGAN_MS + 1000), 0);
    armed_is(two, BEGAN_MS + 1000);
    armed_is(two, BEGAN_MS + PROBE_ARMED_MS + 999);
    armed_is(NULL, BEGAN_MS + PROBE_ARMED_MS + 1000);
}
END_TEST

/* Attack: a key that stands in the way of one of Apple's. */
START_TEST(no_kid_of_apples_can_be_armed)
{
    ck_assert_int_eq(probe_arm(probe, two, BEGAN_MS), 0);
    ck_assert_int_eq(probe_arm(probe, apples, BEGAN_MS), -EINVAL);
    ck_assert_int_eq(probe_arm(probe, bare, BEGAN_MS), -EINVAL);
    armed_is(two, BEGAN_MS);
    ck_assert(probe_is_kid(CONFIG_PROBE_KID "1"));
    ck_assert(!probe_is_kid(CONFIG_PROBE_KID));
    ck_assert(!probe_is_kid("x" CONFIG_PROBE_KID "1"));
    ck_assert(!probe_is_kid(""));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("probe");
    TCase *tests = tcase_create("probe");
    SRunner *runner = srunner_create(suite);
    struct signer signer = signer_make("k");
    char *n = signer_n(&signer);
    int failed;

    one = key_named(CONFIG_PROBE_KID "one", n);
    two = key_named(CONFIG_PROBE_KID "two", n);
    apples = key_named("T8tIJ1zSrO", n);
    bare = key_named(CONFIG_PROBE_KID, n);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, nothing_is_armed_at_first);
    tcase_add_test(tests, a_key_is_armed_for_a_minute);
    tcase_add_test(tests, a_key_serves_once);
    tcase_add_test(tests, one_key_at_a_time);
    tcase_add_test(tests, no_kid_of_apples_can_be_armed);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    jwk_unref(one);
    jwk_unref(two);
    jwk_unref(apples);
    jwk_unref(bare);
    free(n);
    signer_free(&signer);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
