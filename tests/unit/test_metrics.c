#include "support/metrics.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const no_labels[] = {NULL};
static const char *const outcome_label[] = {"outcome", NULL};
static const char *const two_labels[] = {"outcome", "client_id", NULL};
static const double one_bound[] = {1};

static struct metrics *metrics;

static void set_up(void)
{
    ck_assert_int_eq(metrics_new(&metrics), 0);
}

static void tear_down(void)
{
    metrics_free(metrics);
}

static void renders_to(const char *wanted)
{
    char *text = NULL;
    size_t bytes = 0;

    ck_assert_int_eq(metrics_render(metrics, &text, &bytes), 0);
    ck_assert_str_eq(text, wanted);
    ck_assert_uint_eq(bytes, strlen(wanted));
    free(text);
}

/* The one series of a family without labels. */
static struct metrics_series *plain(enum metrics_type type, const char *name)
{
    struct metrics_family *family = metrics_register(metrics, type, name, "Help.", NULL,
                                                     type == METRICS_HISTOGRAM ? one_bound : NULL,
                                                     type == METRICS_HISTOGRAM ? 1 : 0);

    return metrics_with(family, NULL);
}

START_TEST(test_empty)
{
    renders_to("");
}
END_TEST

START_TEST(test_counter)
{
    struct metrics_family *family =
        metrics_register(metrics, METRICS_COUNTER, "b_total", "Of b.", outcome_label, NULL, 0);
    struct metrics_series *series = metrics_with(family, (const char *[]){"ok"});

    metrics_add(series, 1);
    metrics_add(series, UINT64_C(9007199254740992)); /* together 2^53 + 1: no double holds it */
    metrics_add(metrics_with(family, (const char *[]){"bad"}), 2);
    renders_to("# HELP b_total Of b.\n# TYPE b_total counter\n"
               "b_total{outcome=\"bad\"} 2\nb_total{outcome=\"ok\"} 9007199254740993\n");
    ck_assert(metrics_value(metrics_with(family, (const char *[]){"bad"})) == 2);
}
END_TEST

/* Silence must show as zero, not as a series that is not there. */
START_TEST(test_series_without_labels_is_there_from_the_start)
{
    ck_assert_ptr_nonnull(
        metrics_register(metrics, METRICS_COUNTER, "a_total", "A.", no_labels, NULL, 0));
    ck_assert_ptr_nonnull(metrics_register(metrics, METRICS_GAUGE, "b", "B.", NULL, NULL, 0));
    renders_to("# HELP a_total A.\n# TYPE a_total counter\na_total 0\n"
               "# HELP b B.\n# TYPE b gauge\nb 0\n");
}
END_TEST

/* Of whom is no longer there nothing must be said, not even 0. */
START_TEST(test_series_removed)
{
    static const char *const names[] = {"consumer", NULL};
    struct metrics_family *family =
        metrics_register(metrics, METRICS_GAUGE, "g", "G.", names, NULL, 0);

    metrics_set(metrics_with(family, (const char *[]){"a"}), 1);
    metrics_set(metrics_with(family, (const char *[]){"b"}), 2);
    metrics_set(metrics_with(family, (const char *[]){"c"}), 3);
    metrics_remove(family, (const char *[]){"b"});
    metrics_remove(family, (const char *[]){"b"});
    metrics_remove(family, (const char *[]){"d"});
    metrics_remove(NULL, (const char *[]){"a"});
    renders_to("# HELP g G.\n# TYPE g gauge\ng{consumer=\"a\"} 1\ng{consumer=\"c\"} 3\n");
    ck_assert(metrics_value(metrics_with(family, (const char *[]){"b"})) == 0);
    metrics_remove(family, (const char *[]){"c"});
    metrics_remove(family, (const char *[]){"a"});
    renders_to("# HELP g G.\n# TYPE g gauge\ng{consumer=\"b\"} 0\n");
}
END_TEST

START_TEST(test_counter_restored)
{
    struct metrics_series *series = plain(METRICS_COUNTER, "a_total");

    metrics_set(series, 17);
    metrics_add(series, 1);
    ck_assert(metrics_value(series) == 18);
    metrics_set(series, -1);
    metrics_set(series, NAN);
    metrics_set(series, 1e30);
    ck_assert(metrics_value(series) == 18);
}
END_TEST

START_TEST(test_gauge_is_raised_and_never_lowered)
{
    struct metrics_series *gauge = plain(METRICS_GAUGE, "a");
    struct metrics_series *counter = plain(METRICS_COUNTER, "b_total");
    static const double values[][2] = {{-1, 0}, {2, 2}, {1, 2}, {(double)NAN, 2}, {3, 3}};

    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        metrics_raise(gauge, values[i][0]);
        ck_assert(metrics_value(gauge) == values[i][1]);
    }
    metrics_set(gauge, 1);
    ck_assert(metrics_value(gauge) == 1);
    metrics_raise(counter, 5);
    ck_assert(metrics_value(counter) == 0);
    metrics_raise(NULL, 5);
}
END_TEST

START_TEST(test_gauge_is_exact_and_short)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0.1, "0.1"},
        {1.0 / 3, "0.3333333333333333"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1700000000.123, "1700000000.123"},
        {-5, "-5"},
        {67108864, "67108864"},
        {1e300, "1e+300"},
        {(double)INFINITY, "+Inf"},
        {-(double)INFINITY, "-Inf"},
        {(double)NAN, "NaN"},
    };
    struct metrics_series *series = plain(METRICS_GAUGE, "g");

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char wanted[96];

        metrics_set(series, cases[i].value);
        (void)snprintf(wanted, sizeof wanted, "# HELP g Help.\n# TYPE g gauge\ng %s\n",
                       cases[i].text);
        renders_to(wanted);
    }
}
END_TEST

START_TEST(test_histogram)
{
    static const double bounds[] = {0.005, 0.1, 1};
    struct metrics_family *family =
        metrics_register(metrics, METRICS_HISTOGRAM, "h_seconds", "H.", outcome_label, bounds, 3);
    struct metrics_series *series = metrics_with(family, (const char *[]){"ok"});

    metrics_observe(series, 0.005); /* a bound belongs to its own bucket */
    metrics_observe(series, 0.25);
    metrics_observe(series, 0.25);
    metrics_observe(series, 64);
    metrics_observe(series, (double)NAN);
    renders_to("# HELP h_seconds H.\n# TYPE h_seconds histogram\n"
               "h_seconds_bucket{outcome=\"ok\",le=\"0.005\"} 1\n"
               "h_seconds_bucket{outcome=\"ok\",le=\"0.1\"} 1\n"
               "h_seconds_bucket{outcome=\"ok\",le=\"1\"} 3\n"
               "h_seconds_bucket{outcome=\"ok\",le=\"+Inf\"} 4\n"
               "h_seconds_sum{outcome=\"ok\"} 64.505\n"
               "h_seconds_count{outcome=\"ok\"} 4\n");
    ck_assert(metrics_value(series) == 4);
}
END_TEST

START_TEST(test_histogram_without_labels)
{
    metrics_observe(plain(METRICS_HISTOGRAM, "h"), 2);
    renders_to("# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"1\"} 0\n"
               "h_bucket{le=\"+Inf\"} 1\nh_sum 2\nh_count 1\n");
}
END_TEST

/* Attack: an audience named `x"} 1\nfake_total 9\n` invents series of its own. */
START_TEST(test_label_values_are_escaped)
{
    struct metrics_family *family = metrics_register(
        metrics, METRICS_COUNTER, "a_total", "One\\two\nthree \"four\".", two_labels, NULL, 0);

    ck_assert_ptr_nonnull(metrics_with(family, (const char *[]){"ok", "x\"} 1\nfake_total{y=\\"}));
    renders_to("# HELP a_total One\\\\two\\nthree \"four\".\n# TYPE a_total counter\n"
               "a_total{outcome=\"ok\",client_id=\"x\\\"} 1\\nfake_total{y=\\\\\"} 0\n");
}
END_TEST

/* The order is that of the names, whatever the order in which rooms come up. */
START_TEST(test_order)
{
    struct metrics_family *c =
        metrics_register(metrics, METRICS_GAUGE, "c", "C.", two_labels, NULL, 0);

    (void)plain(METRICS_GAUGE, "b");
    (void)plain(METRICS_GAUGE, "d");
    ck_assert_ptr_nonnull(metrics_with(c, (const char *[]){"y", "a"}));
    ck_assert_ptr_nonnull(metrics_with(c, (const char *[]){"x", "b"}));
    ck_assert_ptr_nonnull(metrics_with(c, (const char *[]){"x", "a"}));
    renders_to("# HELP b Help.\n# TYPE b gauge\nb 0\n# HELP c C.\n# TYPE c gauge\n"
               "c{outcome=\"x\",client_id=\"a\"} 0\nc{outcome=\"x\",client_id=\"b\"} 0\n"
               "c{outcome=\"y\",client_id=\"a\"} 0\n# HELP d Help.\n# TYPE d gauge\nd 0\n");
}
END_TEST

START_TEST(test_registered_and_made_once)
{
    struct metrics_family *first =
        metrics_register(metrics, METRICS_COUNTER, "a_total", "A.", outcome_label, NULL, 0);
    char value[] = "ok";
    struct metrics_series *series = metrics_with(first, (const char *[]){value});

    ck_assert_ptr_eq(metrics_register(metrics, METRICS_GAUGE, "a_total", "B.", two_labels, NULL, 0),
                     first);
    value[0] = 'O'; /* the value was copied */
    ck_assert_ptr_eq(metrics_with(first, (const char *[]){"ok"}), series);
    ck_assert_ptr_ne(metrics_with(first, (const char *[]){"Ok"}), series);
}
END_TEST

START_TEST(test_calls_that_do_not_fit)
{
    struct metrics_series *counter = plain(METRICS_COUNTER, "c_total");
    struct metrics_series *gauge = plain(METRICS_GAUGE, "g");
    struct metrics_series *histogram = plain(METRICS_HISTOGRAM, "h");

    metrics_observe(counter, 1);
    metrics_observe(gauge, 1);
    metrics_add(gauge, 1);
    metrics_add(histogram, 1);
    metrics_set(histogram, 1);
    metrics_add(NULL, 1);
    metrics_set(NULL, 1);
    metrics_observe(NULL, 1);
    ck_assert(metrics_value(NULL) == 0);
    ck_assert_ptr_null(metrics_with(NULL, NULL));
    renders_to("# HELP c_total Help.\n# TYPE c_total counter\nc_total 0\n"
               "# HELP g Help.\n# TYPE g gauge\ng 0\n# HELP h Help.\n# TYPE h histogram\n"
               "h_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n");
}
END_TEST

#define THREADS 4
#define ROUNDS  20000

static void *update(void *argument)
{
    struct metrics_series *histogram = plain(METRICS_HISTOGRAM, "h");
    struct metrics_series *counter = argument;

    for (int i = 0; i < ROUNDS; i++) {
        metrics_add(counter, 1);
        metrics_observe(histogram, 2);
    }
    return NULL;
}

START_TEST(test_no_update_is_lost_between_threads)
{
    struct metrics_series *counter = plain(METRICS_COUNTER, "c_total");
    pthread_t threads[THREADS];

    for (size_t i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, update, counter), 0);
    for (int i = 0; i < 50; i++) {
        char *text = NULL;
        size_t bytes = 0;

        ck_assert_int_eq(metrics_render(metrics, &text, &bytes), 0);
        free(text);
    }
    for (size_t i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    renders_to("# HELP c_total Help.\n# TYPE c_total counter\nc_total 80000\n"
               "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"1\"} 0\n"
               "h_bucket{le=\"+Inf\"} 80000\nh_sum 160000\nh_count 80000\n");
}
END_TEST

START_TEST(test_quantile)
{
    const double bounds[] = {1, 2, 4};
    struct metrics_series *series = metrics_with(
        metrics_register(metrics, METRICS_HISTOGRAM, "spread", "A spread.", NULL, bounds, 3), NULL);

    ck_assert(metrics_quantile(series, 0.5) == 0);
    ck_assert(metrics_quantile(NULL, 0.5) == 0);
    for (int i = 0; i < 8; i++)
        metrics_observe(series, i < 4 ? 1.5 : 3);
    ck_assert(metrics_quantile(series, 0.25) == 1.5);
    ck_assert(metrics_quantile(series, 0.5) == 2);
    ck_assert(metrics_quantile(series, 0.75) == 3);
    metrics_observe(series, 100);
    ck_assert(metrics_quantile(series, 1) == 4);
}
END_TEST

static void note_series(void *context, const struct metrics_series *series,
                        const char *const *label_values)
{
    char *text = context;
    size_t used = strlen(text);

    (void)snprintf(text + used, 256 - used, "%s/%s=%g ", label_values[0], label_values[1],
                   metrics_value(series));
}

START_TEST(test_each_series_in_order)
{
    const char *const names[] = {"a", "b", NULL};
    char text[256] = "";
    struct metrics_family *family =
        metrics_register(metrics, METRICS_COUNTER, "each_total", "Each.", names, NULL, 0);

    metrics_add(metrics_with(family, (const char *const[]){"y", "1"}), 2);
    metrics_add(metrics_with(family, (const char *const[]){"x", "2"}), 3);
    ck_assert_ptr_eq(metrics_find(metrics, "each_total"), family);
    ck_assert_ptr_null(metrics_find(metrics, "each"));
    metrics_each(metrics_find(metrics, "each_total"), note_series, text);
    ck_assert_str_eq(text, "x/2=3 y/1=2 ");
    metrics_each(NULL, note_series, text);
}
END_TEST

START_TEST(test_free_takes_null)
{
    metrics_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("metrics");
    TCase *cases = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, test_empty);
    tcase_add_test(cases, test_counter);
    tcase_add_test(cases, test_series_without_labels_is_there_from_the_start);
    tcase_add_test(cases, test_series_removed);
    tcase_add_test(cases, test_counter_restored);
    tcase_add_test(cases, test_gauge_is_raised_and_never_lowered);
    tcase_add_test(cases, test_gauge_is_exact_and_short);
    tcase_add_test(cases, test_histogram);
    tcase_add_test(cases, test_histogram_without_labels);
    tcase_add_test(cases, test_label_values_are_escaped);
    tcase_add_test(cases, test_order);
    tcase_add_test(cases, test_registered_and_made_once);
    tcase_add_test(cases, test_calls_that_do_not_fit);
    tcase_add_test(cases, test_no_update_is_lost_between_threads);
    tcase_add_test(cases, test_quantile);
    tcase_add_test(cases, test_each_series_in_order);
    tcase_add_test(cases, test_free_takes_null);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
