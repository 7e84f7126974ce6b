/* The status page, rendered from made-up states: every text is text, every number is where it
 * belongs. */
#include <check.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/listener/html.h"
#include "key_sets.h"
#include "listener/outcome_advice.h"
#include "listener/status_page.h"

#define NOW_S   INT64_C(1795500000)
#define HOSTILE "<script>alert('1')</script>&\"\x01"
#define TAMED   "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\xEF\xBF\xBD"

static struct key_cache *cache;
static struct key_snapshot *keys;
static struct health_report report;
static char app_name[] = "com.example.app";
static struct history_app history_app;
static struct history_stranger stranger;
static struct history_summary history;
static struct status_app app;
static struct status status;
static char folder[64], file[96];

static void set_up(void)
{
    strcpy(folder, "/tmp/siwa-status-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(file, sizeof file, "%s/keys.json", folder);
    ck_assert_int_eq(key_cache_new_empty(file, &cache), 0);
    struct jwks *set = key_sets_make("kid-one");
    ck_assert_int_eq(key_cache_replace(cache, set, NOW_S - 90, NULL), 0);
    jwks_free(set);
    keys = key_cache_snapshot(cache);

    report = (struct health_report){.ready = true};
    for (int id = 0; id < HEALTH_CHECK_COUNT; id++)
        report.checks[id].state = HEALTH_STATE_OK;
    history_app = (struct history_app){.client_id = app_name};
    history = (struct history_summary){
        .today = NOW_S / 86400, .apps = &history_app, .app_count = 1, .strangers = &stranger};
    app = (struct status_app){.client_id = "com.example.app", .last_accepted_s = NOW_S - 7500};
    status = (struct status){.version = "1.2.3",
                             .now_s = NOW_S,
                             .started_s = NOW_S - 60,
                             .report = &report,
                             .keys = keys,
                             .apps = &app,
                             .app_count = 1,
                             .history = &history};
}

static void tear_down(void)
{
    key_snapshot_unref(keys);
    key_cache_free(cache);
    (void)unlink(file);
    (void)rmdir(folder);
}

static char *render(void)
{
    char *html = NULL;
    size_t bytes = 0;

    ck_assert_int_eq(status_page_render(&status, &html, &bytes), 0);
    ck_assert_uint_eq(strlen(html), bytes);
    return html;
}

static void check_shows(const char *text, bool shown)
{
    char *html = render();

    ck_assert_msg((strstr(html, text) != NULL) == shown, "%s %s:\n%s", text,
                  shown ? "is not in" : "is in", html);
    free(html);
}

START_TEST(test_ready_or_why_not)
{
    check_shows("<p class=\"state ok\">Ready</p>", true);
    report.ready = false;
    report.checks[HEALTH_CHECK_KEYS].state = HEALTH_STATE_FAIL;
    strcpy(report.checks[HEALTH_CHECK_KEYS].why, "no key set was ever fetched");
    check_shows("<p class=\"state fail\">Not ready</p>", true);
    check_shows(
        "<th scope=\"row\">keys</th><td><span class=\"fail\">fail</span></td><td>no key set "
        "was ever fetched</td>",
        true);
}
END_TEST

START_TEST(test_no_text_becomes_markup)
{
    char why[HEALTH_WHY_BYTES] = HOSTILE;

    status.version = HOSTILE;
    app.client_id = history_app.client_id = (char[]){HOSTILE "app"};
    stranger = (struct history_stranger){.client_id = (char[]){HOSTILE "stranger"}, .count = 12};
    history.stranger_count = 1;
    memcpy(report.checks[HEALTH_CHECK_DISK].why, why, sizeof why);
    report.facts.refresher.attempts = 1;
    report.facts.refresher.last_result = FETCH_RESULT_INTERNAL;
    strcpy(report.facts.refresher.last_why, HOSTILE "fetch");
    char *html = render();
    ck_assert_ptr_null(strstr(html, "<script"));
    ck_assert_ptr_nonnull(strstr(html, TAMED "app"));
    ck_assert_ptr_nonnull(strstr(html, TAMED "stranger: 12 since "));
    ck_assert_ptr_nonnull(strstr(html, TAMED "fetch"));
    ck_assert_ptr_nonnull(strstr(html, "siwa-notifyd " TAMED));
    free(html);
}
END_TEST

START_TEST(test_long_text_is_cut_between_characters)
{
    char text[2 * HTML_TEXT_BYTES + 2] = "x", *written = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&written, &bytes);

    for (size_t i = 0; i < HTML_TEXT_BYTES; i++)
        memcpy(text + 1 + 2 * i, "\xC3\xA4", 3);
    html_text(out, text);
    ck_assert_int_eq(fclose(out), 0);
    /* one byte, 255 characters of two, and the ellipsis of three */
    ck_assert_uint_eq(bytes, 1 + 2 * (HTML_TEXT_BYTES / 2 - 1) + 3);
    ck_assert_str_eq(written + bytes - 5, "\xC3\xA4\xE2\x80\xA6");
    free(written);
}
END_TEST

START_TEST(test_a_silent_app_is_told_so)
{
    check_shows("2 h 5 min ago", true);
    app.last_accepted_s = 0;
    history.app_count = 0;
    check_shows("Last accepted: never", true);
    check_shows("No event in the last 30 days.", true);
}
END_TEST

START_TEST(test_bars_stand_on_each_other)
{
    history_app.events[HISTORY_DAYS - 1][EVENT_TYPE_ACCOUNT_DELETE] = 1;
    history_app.events[HISTORY_DAYS - 1][EVENT_TYPE_CONSENT_REVOKED] = 3;
    history_app.events[0][EVENT_TYPE_EMAIL_DISABLED] = 2;
    char *html = render();
    ck_assert_ptr_nonnull(
        strstr(html, "<title>2026-11-24, 3 consent-revoked, 1 account-delete</title>"
                     "<rect class=\"t3\" x=\"580\" y=\"25.00\" width=\"16\" height=\"75.00\"/>"
                     "<rect class=\"t4\" x=\"580\" y=\"0.00\" width=\"16\" height=\"25.00\"/>"));
    ck_assert_ptr_nonnull(strstr(html, "<rect class=\"t2\" x=\"0\" y=\"50.00\" width=\"16\" "
                                       "height=\"50.00\"/>"));
    ck_assert_ptr_nonnull(strstr(html, "at most 4 a day"));
    free(html);
}
END_TEST

START_TEST(test_outcomes_with_their_cause)
{
    check_shows("Nothing has arrived yet.", true);
    history.outcomes[VERDICT_BAD_SIGNATURE] =
        (struct history_outcome){.today = 1, .week = 22, .month = 333};
    check_shows("bad_signature<span class=\"why\">Not signed by the key", true);
    check_shows("</span></th><td class=\"n\">400</td><td class=\"n\">1</td><td "
                "class=\"n\">22</td><td class=\"n\">333</td>",
                true);
    check_shows("Nothing has arrived yet.", false);
    status.history = NULL;
    check_shows("could not be read", true);
}
END_TEST

START_TEST(test_every_refusal_has_an_advice)
{
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++)
        if (verdict_status((enum verdict)verdict) != 200)
            ck_assert_msg(outcome_advice((enum verdict)verdict)[0] != '\0', "%s has none",
                          verdict_label((enum verdict)verdict));
    ck_assert_str_eq(outcome_advice(VERDICT_ACCEPTED), "");
    ck_assert_str_eq(outcome_advice(VERDICT_COUNT), "");
}
END_TEST

START_TEST(test_keys_and_their_next_refresh)
{
    report.facts.refresher.next_scheduled_in_ms = 3510 * 1000;
    check_shows("1 min 30 s ago. Next in 58 min 30 s.", true);
    check_shows("<th scope=\"row\">kid-one</th><td>current</td>", true);
}
END_TEST

START_TEST(test_consumers_and_how_far_behind)
{
    const struct consumer_state state = {.name = HOSTILE "accounts",
                                         .configured = true,
                                         .position = 41,
                                         .lag_rows = 3,
                                         .lag_ms = 7200 * 1000,
                                         .acknowledged_ms = NOW_S * 1000};

    check_shows("<h2>Consumers</h2>", false);
    status.consumers = &state;
    status.consumer_count = 1;
    check_shows(TAMED "accounts</th><td class=\"n\">41</td><td class=\"n\">3</td><td>2 h</td><td>"
                      "<time datetime=\"2026-11-24T06:00:00Z\">",
                true);
}
END_TEST

/* A browser computes this hash over the text between the tags. */
START_TEST(test_the_policy_names_the_style)
{
    unsigned char digest[EVP_MAX_MD_SIZE], text[2 * EVP_MAX_MD_SIZE];
    char *html = render(), *policy = status_page_policy();
    const char *from = strstr(html, "<style>") + strlen("<style>");
    unsigned bytes = 0;

    EVP_Digest(from, (size_t)(strstr(from, "</style>") - from), digest, &bytes, EVP_sha256(), NULL);
    EVP_EncodeBlock(text, digest, (int)bytes);
    ck_assert_ptr_nonnull(strstr(policy, (const char *)text));
    ck_assert_int_eq(strncmp(policy, "default-src 'none'; ", 20), 0);
    ck_assert_ptr_null(strstr(html, " style="));
    free(html);
    free(policy);
}
END_TEST

START_TEST(test_asking_again_can_be_stopped)
{
    status.refreshing = true;
    check_shows("<a href=\"/?refresh=off\">", true);
    status.refreshing = false;
    check_shows("<a href=\"/?refresh=off\">", false);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status_page");
    TCase *page = tcase_create("page");
    SRunner *runner = srunner_create(suite);

    tcase_add_checked_fixture(page, set_up, tear_down);
    tcase_add_test(page, test_ready_or_why_not);
    tcase_add_test(page, test_no_text_becomes_markup);
    tcase_add_test(page, test_long_text_is_cut_between_characters);
    tcase_add_test(page, test_a_silent_app_is_told_so);
    tcase_add_test(page, test_bars_stand_on_each_other);
    tcase_add_test(page, test_outcomes_with_their_cause);
    tcase_add_test(page, test_every_refusal_has_an_advice);
    tcase_add_test(page, test_keys_and_their_next_refresh);
    tcase_add_test(page, test_consumers_and_how_far_behind);
    tcase_add_test(page, test_the_policy_names_the_style);
    tcase_add_test(page, test_asking_again_can_be_stopped);
    suite_add_tcase(suite, page);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
