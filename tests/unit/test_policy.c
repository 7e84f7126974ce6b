/* policy: a copy of the configuration that outlives it. */
#include "deliveries.h"

static struct policy *make_from_volatile_strings(void)
{
    char first[] = "com.example.b", second[] = "com.example.a", label[] = "label", team[] = "TEAM";
    const struct config_app apps[] = {
        {.client_id = first, .app = label, .team = team, .ignore_mask = 1U << EVENT_TYPE_OTHER},
        {.client_id = second,
         .app = label,
         .team = team,
         .ignore_mask = 1U << EVENT_TYPE_CONSENT_REVOKED},
    };
    const struct config config = {.apps = apps, .app_count = 2, .late = CONFIG_LATE_REJECT};
    struct policy *policy = NULL;

    ck_assert_int_eq(policy_new(&config, &policy), 0);
    memset(first, 'x', sizeof first - 1);
    memset(second, 'x', sizeof second - 1);
    memset(label, 'x', sizeof label - 1);
    memset(team, 'x', sizeof team - 1);
    return policy;
}

START_TEST(holds_its_own_copy_in_the_order_of_the_configuration)
{
    struct policy *policy = make_from_volatile_strings();

    ck_assert_uint_eq(policy_count(policy), 2);
    ck_assert_str_eq(policy_at(policy, 0)->client_id, "com.example.b");
    ck_assert_str_eq(policy_at(policy, 1)->client_id, "com.example.a");
    ck_assert_str_eq(policy_at(policy, 1)->app, "label");
    ck_assert_str_eq(policy_at(policy, 1)->team, "TEAM");
    ck_assert_int_eq(policy_late(policy), CONFIG_LATE_REJECT);
    policy_unref(policy);
}
END_TEST

/* An audience is ours only letter for letter: neither a beginning, nor a longer one, nor another
 * case. */
START_TEST(finds_exactly)
{
    static const char *const strangers[] = {
        "",    "com.example", "com.example.a ", "com.example.ab", "COM.EXAMPLE.A", "com.example.c",
        "aaa", "zzz"};
    struct policy *policy = make_from_volatile_strings();

    ck_assert_ptr_eq(policy_find(policy, "com.example.b"), policy_at(policy, 0));
    ck_assert_ptr_eq(policy_find(policy, "com.example.a"), policy_at(policy, 1));
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
        ck_assert_ptr_null(policy_find(policy, strangers[i]));
    policy_unref(policy);
}
END_TEST

START_TEST(finds_each_of_many)
{
    enum { APPS = 300 };
    static char names[APPS][32];
    static struct config_app apps[APPS];
    const struct config config = {.apps = apps, .app_count = APPS};
    struct policy *policy = NULL;

    for (unsigned i = 0; i < APPS; i++) {
        snprintf(names[i], sizeof names[i], "app.%u", (i * 7919U) % APPS);
        apps[i] = (struct config_app){.client_id = names[i], .app = "a", .team = "t"};
    }
    ck_assert_int_eq(policy_new(&config, &policy), 0);
    for (size_t i = 0; i < APPS; i++)
        ck_assert_ptr_eq(policy_find(policy, names[i]), policy_at(policy, i));
    policy_unref(policy);
}
END_TEST

START_TEST(knows_nothing_without_apps)
{
    const struct config config = {.app_count = 0};
    struct policy *policy = NULL;

    ck_assert_int_eq(policy_new(&config, &policy), 0);
    ck_assert_uint_eq(policy_count(policy), 0);
    ck_assert_ptr_null(policy_find(policy, "com.example.a"));
    policy_unref(policy);
}
END_TEST

/* What Apple may add one day is never thrown away, whatever the mask says. */
START_TEST(ignores_only_known_types_of_the_mask)
{
    struct policy *policy = make_from_volatile_strings();
    const struct config_app *other = policy_at(policy, 0), *consent = policy_at(policy, 1);

    ck_assert(!policy_ignores(other, EVENT_TYPE_OTHER));
    ck_assert(!policy_ignores(other, EVENT_TYPE_ACCOUNT_DELETE));
    ck_assert(policy_ignores(consent, EVENT_TYPE_CONSENT_REVOKED));
    ck_assert(!policy_ignores(consent, EVENT_TYPE_ACCOUNT_DELETE));
    ck_assert(!policy_ignores(consent, EVENT_TYPE_COUNT));
    policy_unref(policy);
}
END_TEST

/* A delivery under way keeps the policy that a reload has replaced; a sanitizer sees it if not. */
START_TEST(lives_as_long_as_its_last_reference)
{
    struct policy *policy = make_from_volatile_strings();
    struct policy *second = policy_ref(policy);

    ck_assert_ptr_eq(second, policy);
    policy_unref(policy);
    ck_assert_ptr_nonnull(policy_find(second, "com.example.a"));
    policy_unref(second);
    policy_unref(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("policy");
    TCase *tests = tcase_create("policy");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tests, holds_its_own_copy_in_the_order_of_the_configuration);
    tcase_add_test(tests, finds_exactly);
    tcase_add_test(tests, finds_each_of_many);
    tcase_add_test(tests, knows_nothing_without_apps);
    tcase_add_test(tests, ignores_only_known_types_of_the_mask);
    tcase_add_test(tests, lives_as_long_as_its_last_reference);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
