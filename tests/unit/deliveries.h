/*
 * What the tests of the dispatcher share: a temporary folder, apps, and judged notifications made
 * by hand (the verifier's tests are elsewhere).
 */
#ifndef SIWA_TESTS_DELIVERIES_H
#define SIWA_TESTS_DELIVERIES_H

#include <check.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dispatcher/delivery.h"
#include "dispatcher/outbox.h"
#include "dispatcher/policy.h"

#define APP_PLAIN   "com.example.app" /* wants everything */
#define APP_NO_MAIL "com.example.web" /* ignores the e-mail events */
#define NOW_MS      INT64_C(1700000000000)

static char test_folder[PATH_MAX];
static char test_database[PATH_MAX + 16];

static inline int remove_entry(const char *path, const struct stat *file, int kind, struct FTW *ftw)
{
    (void)file;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static inline void folder_make(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(test_folder, sizeof test_folder, "%s/siwa-test-XXXXXX", base && *base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(test_folder));
    snprintf(test_database, sizeof test_database, "%s/outbox.db", test_folder);
}

static inline void folder_remove(void)
{
    nftw(test_folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static inline struct policy *policy_make(enum config_late late)
{
    static const struct config_app apps[] = {
        {.client_id = APP_PLAIN, .app = "Example", .team = "ABCDE12345"},
        {.client_id = APP_NO_MAIL,
         .app = "Example web",
         .team = "ABCDE12345",
         .ignore_mask = 1U << EVENT_TYPE_EMAIL_ENABLED | 1U << EVENT_TYPE_EMAIL_DISABLED},
    };
    const struct config config = {
        .apps = apps, .app_count = 2, .late = late, .retain = {.raw_s = 1}};
    struct policy *policy = NULL;

    ck_assert_int_eq(policy_new(&config, &policy), 0);
    return policy;
}

/* A delivery of the given events (JSON, as in the claim) for the app; ACCEPTED. */
static inline struct delivery *delivery_of(struct policy *policy, const char *client_id,
                                           const char *jti, const char *events)
{
    struct judgement judgement = {.verdict = VERDICT_ACCEPTED, .signature_verified = true};
    struct delivery *delivery;
    char claims[8192], jti_member[512] = "", raw[8300];

    if (jti)
        snprintf(jti_member, sizeof jti_member, "\"jti\":\"%s\",", jti);
    snprintf(claims, sizeof claims,
             "{\"iss\":\"https://appleid.apple.com\",\"aud\":\"%s\",\"iat\":1700000000,%s"
             "\"events\":%s}",
             client_id, jti_member, events);
    ck_assert_int_eq(notification_parse(claims, strlen(claims), &judgement.notification),
                     VERDICT_ACCEPTED);
    /* only the dispatcher looks at it, and only at its bytes: the claims stand for the token */
    snprintf(raw, sizeof raw, "{\"payload\":%zu, \"jti\":\"%s\", \"x\":\"%s\"}", strlen(events),
             jti ? jti : "", client_id);
    delivery =
        delivery_new(&judgement, policy, policy_find(policy, client_id), raw, strlen(raw), NOW_MS);
    ck_assert_ptr_nonnull(delivery);
    return delivery;
}

/* Adds it in a transaction of its own, and releases it; the verdict. */
static inline enum verdict delivery_add(struct outbox *outbox, struct delivery *delivery)
{
    enum verdict verdict;

    ck_assert_int_eq(outbox_begin(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_add(outbox, delivery), OUTBOX_ERROR_NONE);
    ck_assert_int_eq(outbox_commit(outbox), OUTBOX_ERROR_NONE);
    verdict = delivery->verdict;
    delivery_free(delivery);
    return verdict;
}

/* One event: its number makes sub and time. */
static inline struct delivery *delivery_number(struct policy *policy, unsigned number)
{
    char events[512], jti[64];

    snprintf(events, sizeof events,
             "{\"type\":\"consent-revoked\",\"sub\":\"%06u.0123456789abcdef0123456789abcdef.0000\","
             "\"event_time\":%lld}",
             number, (long long)(NOW_MS + number));
    snprintf(jti, sizeof jti, "jti-%u", number);
    return delivery_of(policy, APP_PLAIN, jti, events);
}

/* The test notification of an operator. */
static inline struct delivery *delivery_test(struct policy *policy, const char *jti)
{
    static const struct config_app nobodys = {
        .client_id = "siwa-notifyd.probe", .app = "", .team = ""};
    struct delivery *delivery =
        delivery_of(policy, APP_PLAIN, jti, "{\"type\":\"test\",\"sub\":\"nobody\"}");

    delivery->judgement.probe = true;
    delivery->app = &nobodys;
    return delivery;
}

static inline struct delivery *as_quarantined(struct delivery *delivery,
                                              enum quarantine_reason reason)
{
    delivery->judgement.verdict = VERDICT_QUARANTINED;
    delivery->judgement.reason = reason;
    return delivery;
}

#endif
