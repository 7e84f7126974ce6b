/* outbox: what is committed is there, once, in order; and no file is touched that is not ours. */
#include <errno.h>
#include <sys/stat.h>

#include "deliveries.h"
#include "dispatcher/outbox.h"

static char why[OUTBOX_WHY_BYTES];
static struct policy *policy;

static void set_up(void)
{
    folder_make();
    policy = policy_make(CONFIG_LATE_QUARANTINE);
    why[0] = '\0';
}

static void tear_down(void)
{
    policy_unref(policy);
    folder_remove();
}

static struct outbox *outbox_make(void)
{
    struct outbox *outbox = NULL;
    int error = outbox_open(test_database, NOW_MS, &outbox, why);

    ck_assert_msg(error == 0, "%d: %s", error, why);
    return outbox;
}

static void close_clean(struct outbox *outbox)
{
    int error = outbox_close(outbox, why);

    ck_assert_msg(error == 0, "%d: %s", error, why);
}

/* Adds one delivery in a transaction of its own, and gives its verdict. */
static enum verdict store(struct outbox *outbox, struct delivery *delivery)
{
    enum verdict verdict;

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    verdict = delivery->verdict;
    delivery_free(delivery);
    return verdict;
}

START_TEST(a_repeat_is_a_duplicate_also_after_a_restart)
{
    struct outbox *outbox = outbox_make();

    ck_assert_int_eq(store(outbox, delivery_number(policy, 1)), VERDICT_ACCEPTED);
    ck_assert_int_eq(store(outbox, delivery_number(policy, 1)), VERDICT_DUPLICATE);
    close_clean(outbox);
    outbox = outbox_make();
    ck_assert_int_eq(store(outbox, delivery_number(policy, 1)), VERDICT_DUPLICATE);
    ck_assert_int_eq(store(outbox, delivery_number(policy, 2)), VERDICT_ACCEPTED);
    close_clean(outbox);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("outbox");
    TCase *tests = tcase_create("outbox");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_repeat_is_a_duplicate_also_after_a_restart);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
