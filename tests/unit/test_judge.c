#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "memory_faults.h"
#include "signer.h"
#include "verifier/judge.h"

#define NOW_S    INT64_C(1700000000)
#define LEEWAY_S 300
#define APPLE    "https://appleid.apple.com"
#define APP      "com.example.app"
#define EVENT    "{\"type\":\"consent-revoked\",\"sub\":\"001\",\"event_time\":1699999990000}"
/* The same as Apple sends it: JSON in a string. */
#define EVENTS \
    "\"{\\\"type\\\":\\\"consent-revoked\\\",\\\"sub\\\":\\\"001\\\"," \
    "\\\"event_time\\\":1699999990000}\""

#define PROBE_ISS "urn:example:probe"
#define PROBE_AUD "example.probe"

static struct signer signer, impostor, prober;
static struct jwk *key, *probe_key;
static struct jws_context *context;

/* What the set of keys answers, and how often it was asked. */
struct fake_set {
    const struct jwk *key;
    enum key_trust trust;
    unsigned asked;
};

static const struct jwk *find(void *of, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust)
{
    struct fake_set *set = of;

    set->asked++;
    if (kid_bytes != 1 || kid[0] != 'k')
        return NULL;
    *ret_trust = set->trust;
    return set->key;
}

static bool is_our_app(void *of, const char *client_id)
{
    unsigned *asked = of;

    (*asked)++;
    return strcmp(client_id, APP) == 0;
}

static const char *const issuers[] = {"https://first.example", APPLE};
static struct fake_set set;
static unsigned audience_asked;
static struct judge_rules rules;

static void usual_rules(void)
{
    set = (struct fake_set){key, KEY_TRUST_FULL, 0};
    audience_asked = 0;
    rules = (struct judge_rules){.keys = {find, &set, true},
                                 .audience_known = is_our_app,
                                 .audience_context = &audience_asked,
                                 .issuers = issuers,
                                 .issuer_count = 2,
                                 .now_s = NOW_S,
                                 .leeway_s = LEEWAY_S};
}

/* Judges the token as it is and in a body: both ways come to the same. The caller releases. */
static struct judgement judge_text(const char *token)
{
    struct judgement bare, in_body;
    char *body = signer_body(token);

    judge_token(context, &rules, token, strlen(token), &bare);
    judge_body(context, &rules, body, strlen(body), &in_body);
    free(body);
    ck_assert_int_eq(bare.verdict, in_body.verdict);
    ck_assert_int_eq(bare.reason, in_body.reason);
    ck_assert_int_eq(bare.signature_verified, in_body.signature_verified);
    ck_assert_str_eq(bare.kid, in_body.kid);
    ck_assert_uint_eq(bare.notification.event_count, in_body.notification.event_count);
    judgement_release(&bare);
    return in_body;
}

static void judged(const char *payload, enum verdict verdict, enum quarantine_reason reason)
{
    char *token = signer_token(&signer, payload);
    struct judgement judgement = judge_text(token);

    ck_assert_msg(judgement.verdict == verdict, "%s: %s", payload,
                  verdict_label(judgement.verdict));
    ck_assert_msg(judgement.reason == reason, "%s: %s", payload,
                  quarantine_reason_label(judgement.reason));
    judgement_release(&judgement);
    free(token);
}

static void judged_claims(const char *iss, const char *aud, int64_t iat_s, const char *events,
                          enum verdict verdict, enum quarantine_reason reason)
{
    char *payload = signer_claims(iss, aud, iat_s, "j", events);

    judged(payload, verdict, reason);
    free(payload);
}

#define NO_REASON QUARANTINE_REASON_NONE

START_TEST(a_notification_is_accepted)
{
    char *payload = signer_claims(APPLE, APP, NOW_S - 60, "j", EVENTS);
    char *token = signer_token(&signer, payload);
    struct judgement judgement = judge_text(token);

    ck_assert_int_eq(judgement.verdict, VERDICT_ACCEPTED);
    ck_assert_int_eq(judgement.reason, NO_REASON);
    ck_assert(judgement.signature_verified);
    ck_assert_str_eq(judgement.kid, "k");
    ck_assert_str_eq(judgement.notification.aud, APP);
    ck_assert_uint_eq(judgement.notification.event_count, 1);
    ck_assert_str_eq(judgement.notification.events[0].sub, "001");
    judgement_release(&judgement);
    ck_assert_ptr_null(judgement.notification.claims_text);
    judgement_release(&judgement);
    judgement_release(NULL);
    free(payload);
    free(token);
}
END_TEST

START_TEST(what_is_no_body)
{
    static const struct {
        const char *body;
        enum verdict verdict;
    } bodies[] = {{"", VERDICT_BAD_BODY},
                  {"{}", VERDICT_BAD_BODY},
                  {"{\"payload\":7}", VERDICT_BAD_BODY},
                  {"{\"payload\":\"\"}", VERDICT_JWS_MALFORMED},
                  {"{\"payload\":\"a.b.c\"}", VERDICT_JWS_MALFORMED},
                  {"{\"payload\":\"{}\"}", VERDICT_JWS_MALFORMED},
                  /* App Store Server Notifications, another product. */
                  {"{\"signedPayload\":\"a.b.c\"}", VERDICT_BAD_BODY}};
    char *large = malloc(NOTIFICATION_BODY_MAX_BYTES + 1);
    struct judgement judgement;

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        judge_body(context, &rules, bodies[i].body, strlen(bodies[i].body), &judgement);
        ck_assert_msg(judgement.verdict == bodies[i].verdict, "%s", bodies[i].body);
        ck_assert_str_eq(judgement.kid, "");
        ck_assert(!judgement.signature_verified);
        judgement_release(&judgement);
    }
    memset(large, ' ', NOTIFICATION_BODY_MAX_BYTES + 1);
    judge_body(context, &rules, large, NOTIFICATION_BODY_MAX_BYTES + 1, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_TOO_LARGE);
    judgement_release(&judgement);
    free(large);
    ck_assert_uint_eq(set.asked, 0);
}
END_TEST

/* A proxy that rewrites the JSON does not change what is meant. */
START_TEST(a_body_in_other_words)
{
    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENTS);
    char *token = signer_token(&signer, payload);
    static const char *const formats[] = {"{ \"payload\" : \"%s\" }", "{\"payload\":\"%s\"}\r\n",
                                          "{\"x\":0,\"payload\":\"%s\"}"};

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct judgement judgement;
        char *body;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        body = signer_text(formats[i], token);
#pragma GCC diagnostic pop
        judge_body(context, &rules, body, strlen(body), &judgement);
        ck_assert_int_eq(judgement.verdict, VERDICT_ACCEPTED);
        judgement_release(&judgement);
        free(body);
    }
    free(payload);
    free(token);
}
END_TEST

/* Judges a good token under the rules of the moment. */
static struct judgement judge_good(void)
{
    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENTS);
    char *token = signer_token(&signer, payload);
    struct judgement judgement = judge_text(token);

    free(payload);
    free(token);
    return judgement;
}

static void good_is_now(enum verdict verdict, bool signature_verified)
{
    struct judgement judgement = judge_good();

    ck_assert_int_eq(judgement.verdict, verdict);
    ck_assert_int_eq(judgement.signature_verified, signature_verified);
    ck_assert_str_eq(judgement.kid, "k");
    judgement_release(&judgement);
}

START_TEST(keys_that_are_not_there)
{
    good_is_now(VERDICT_ACCEPTED, true);
    rules.keys.usable = false;
    set.asked = 0;
    good_is_now(VERDICT_NO_KEYS, false);
    ck_assert_uint_eq(set.asked, 0);

    rules.keys.usable = true;
    set.key = NULL;
    good_is_now(VERDICT_KID_UNKNOWN, false);

    /* Distrusted by hand: known, and still no key to verify with. */
    set.key = key;
    set.trust = KEY_TRUST_NONE;
    good_is_now(VERDICT_KID_UNKNOWN, false);

    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENTS);
    char *token = signer_token_with(&signer, "{\"kid\":\"other\",\"alg\":\"RS256\"}", payload,
                                    strlen(payload));
    usual_rules();
    struct judgement judgement = judge_text(token);
    ck_assert_int_eq(judgement.verdict, VERDICT_KID_UNKNOWN);
    ck_assert_str_eq(judgement.kid, "other");
    judgement_release(&judgement);
    free(payload);
    free(token);
}
END_TEST

/* A clock that was never set must not refuse anything for good, nor let anything in. */
START_TEST(a_clock_that_is_not_set)
{
    struct judgement judgement;

    for (int64_t now = JUDGE_CLOCK_FLOOR_S - 2; now <= JUDGE_CLOCK_FLOOR_S + 1; now++) {
        rules.now_s = now;
        good_is_now(now < JUDGE_CLOCK_FLOOR_S ? VERDICT_CLOCK_UNSET : VERDICT_FROM_FUTURE,
                    now >= JUDGE_CLOCK_FLOOR_S);
    }
    rules.now_s = INT64_MIN;
    good_is_now(VERDICT_CLOCK_UNSET, false);
    /* Whether keys are too old depends on the clock as well. */
    rules.keys.usable = false;
    good_is_now(VERDICT_CLOCK_UNSET, false);
    /* What needs no clock is said all the same. */
    judge_token(context, &rules, "a.b.c", 5, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_JWS_MALFORMED);
    judgement_release(&judgement);
}
END_TEST

/* Nothing that a stranger writes into the claims is looked at before the signature verified. */
START_TEST(the_signature_comes_first)
{
    static const char *const payloads[] = {"", "{", "{}", "{\"iss\":7}",
                                           "{\"iss\":\"x\",\"aud\":\"y\",\"iat\":0}"};

    for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
        char *token = signer_token_with(&impostor, "{\"kid\":\"k\",\"alg\":\"RS256\"}", payloads[i],
                                        strlen(payloads[i]));
        struct judgement judgement = judge_text(token);

        ck_assert_int_eq(judgement.verdict, VERDICT_BAD_SIGNATURE);
        ck_assert(!judgement.signature_verified);
        ck_assert_ptr_null(judgement.notification.claims_text);
        ck_assert_ptr_null(judgement.notification.aud);
        judgement_release(&judgement);
        free(token);
        /* The same claims, signed, are looked at. */
        token = signer_token(&signer, payloads[i]);
        judgement = judge_text(token);
        ck_assert_int_eq(judgement.verdict,
                         i < 4 ? VERDICT_CLAIMS_MALFORMED : VERDICT_NOT_A_NOTIFICATION);
        ck_assert(judgement.signature_verified);
        judgement_release(&judgement);
        free(token);
    }
    ck_assert_uint_eq(audience_asked, 0);
}
END_TEST

START_TEST(audience)
{
    static const char *const others[] = {"com.example", "com.example.app2", "COM.EXAMPLE.APP",
                                         "com.example.app ", "*"};

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        judged_claims(APPLE, others[i], NOW_S, EVENTS, VERDICT_WRONG_AUDIENCE, NO_REASON);

    /* Who it was for may be counted by name: the claims are there. */
    char *payload = signer_claims(APPLE, "com.other.app", NOW_S, "j", EVENTS);
    char *token = signer_token(&signer, payload);
    struct judgement judgement = judge_text(token);
    ck_assert(judgement.signature_verified);
    ck_assert_str_eq(judgement.notification.aud, "com.other.app");
    judgement_release(&judgement);
    free(payload);
    free(token);
}
END_TEST

START_TEST(issuer)
{
    static const char *const others[] = {"https://appleid.apple.com/", "http://appleid.apple.com",
                                         "appleid.apple.com", "https://appleid.apple.com.evil",
                                         "https://APPLEID.apple.com"};

    judged_claims("https://first.example", APP, NOW_S, EVENTS, VERDICT_ACCEPTED, NO_REASON);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        judged_claims(others[i], APP, NOW_S, EVENTS, VERDICT_QUARANTINED,
                      QUARANTINE_REASON_UNKNOWN_ISSUER);
    rules.issuer_count = 0;
    judged_claims(APPLE, APP, NOW_S, EVENTS, VERDICT_QUARANTINED, QUARANTINE_REASON_UNKNOWN_ISSUER);
}
END_TEST

START_TEST(kind)
{
    char *payload = signer_text("{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":%lld,"
                                "\"exp\":%lld,\"sub\":\"001\",\"nonce\":\"x\"}",
                                (long long)NOW_S, (long long)NOW_S + 600);

    judged(payload, VERDICT_NOT_A_NOTIFICATION, NO_REASON);
    /* Of whoever the ID token is, it is no notification. */
    rules.issuer_count = 0;
    judged(payload, VERDICT_NOT_A_NOTIFICATION, NO_REASON);
    ck_assert_uint_eq(audience_asked, 0);
    free(payload);
    usual_rules();

    judged_claims(APPLE, APP, NOW_S, EVENT, VERDICT_ACCEPTED, NO_REASON);
    judged_claims(APPLE, APP, NOW_S, "[" EVENT "]", VERDICT_ACCEPTED, NO_REASON);
    judged_claims(APPLE, APP, NOW_S, "null", VERDICT_QUARANTINED, QUARANTINE_REASON_EVENTS_UNCLEAR);
    judged_claims(APPLE, APP, NOW_S, "[]", VERDICT_QUARANTINED, QUARANTINE_REASON_EVENTS_UNCLEAR);
    judged_claims(APPLE, APP, NOW_S, "\"\"", VERDICT_QUARANTINED, QUARANTINE_REASON_EVENTS_UNCLEAR);
}
END_TEST

/* To the second, both ways, with every leeway. */
START_TEST(times)
{
    static const int64_t leeways[] = {0, 1, 300, 86400};

    for (size_t i = 0; i < sizeof(leeways) / sizeof(leeways[0]); i++) {
        int64_t leeway = leeways[i];

        rules.leeway_s = leeway;
        judged_claims(APPLE, APP, NOW_S + leeway, EVENTS, VERDICT_ACCEPTED, NO_REASON);
        judged_claims(APPLE, APP, NOW_S + leeway + 1, EVENTS, VERDICT_FROM_FUTURE, NO_REASON);
        judged_claims(APPLE, APP, NOW_S - 86400 - leeway + 1, EVENTS, VERDICT_ACCEPTED, NO_REASON);
        judged_claims(APPLE, APP, NOW_S - 86400 - leeway, EVENTS, VERDICT_QUARANTINED,
                      QUARANTINE_REASON_EXPIRED);
    }
    judged_claims(APPLE, APP, 0, EVENTS, VERDICT_QUARANTINED, QUARANTINE_REASON_EXPIRED);
}
END_TEST

/* The largest times that pass the parser, at clocks that are as wrong as they can be. */
START_TEST(times_at_the_ends_of_the_range)
{
    static const char *const payloads[] = {
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":253402300799,\"jti\":\"j\","
        "\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":253402300799,\"exp\":253402300799,"
        "\"jti\":\"j\",\"events\":" EVENT "}",
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":0,\"exp\":0,\"jti\":\"j\","
        "\"events\":" EVENT "}",
        /* Expires before it was issued: expired, and no more. */
        "{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":1700000000,\"exp\":1600000000,"
        "\"jti\":\"j\",\"events\":" EVENT "}"};

    rules.leeway_s = 86400;
    for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
        rules.now_s = NOW_S;
        judged(payloads[i], i < 2 ? VERDICT_FROM_FUTURE : VERDICT_QUARANTINED,
               i < 2 ? NO_REASON : QUARANTINE_REASON_EXPIRED);
        rules.now_s = INT64_MAX;
        judged(payloads[i], VERDICT_QUARANTINED, QUARANTINE_REASON_EXPIRED);
    }
}
END_TEST

/* Of several reasons the one that casts more doubt is given: so no setting for late ones lets in
 * what an old key, perhaps a stolen one, has signed. */
START_TEST(which_reason_wins)
{
    const int64_t late = NOW_S - 10 * 86400, early = NOW_S + 86400;
    const enum verdict stored = VERDICT_QUARANTINED;

    judged_claims("x", APP, NOW_S, "[]", stored, QUARANTINE_REASON_UNKNOWN_ISSUER);
    judged_claims("x", APP, late, EVENTS, stored, QUARANTINE_REASON_UNKNOWN_ISSUER);
    judged_claims("x", APP, early, EVENTS, stored, QUARANTINE_REASON_UNKNOWN_ISSUER);
    judged_claims(APPLE, APP, late, "[]", stored, QUARANTINE_REASON_EVENTS_UNCLEAR);
    judged_claims(APPLE, APP, early, "[]", stored, QUARANTINE_REASON_EVENTS_UNCLEAR);
    judged_claims(APPLE, "x", late, "[]", VERDICT_WRONG_AUDIENCE, NO_REASON);

    set.trust = KEY_TRUST_QUARANTINE;
    judged_claims(APPLE, APP, NOW_S, EVENTS, stored, QUARANTINE_REASON_OLD_KEY);
    judged_claims(APPLE, APP, late, EVENTS, stored, QUARANTINE_REASON_OLD_KEY);
    judged_claims(APPLE, APP, early, EVENTS, stored, QUARANTINE_REASON_OLD_KEY);
    judged_claims("x", APP, NOW_S, "[]", stored, QUARANTINE_REASON_OLD_KEY);
    judged_claims(APPLE, "x", NOW_S, EVENTS, VERDICT_WRONG_AUDIENCE, NO_REASON);
    judged("{}", VERDICT_CLAIMS_MALFORMED, NO_REASON);
}
END_TEST

/* ---- the operator's own key ---- */

static void arm(void)
{
    rules.probe = (struct judge_probe){probe_key, PROBE_ISS, PROBE_AUD};
}

static struct judgement judge_claims_by(const struct signer *by, const char *iss, const char *aud,
                                        int64_t iat_s, const char *events)
{
    char *payload = signer_claims(iss, aud, iat_s, "j", events);
    char *token = signer_token(by, payload);
    struct judgement judgement = judge_text(token);

    free(payload);
    free(token);
    return judgement;
}

static void probed(const char *iss, const char *aud, int64_t iat_s, const char *events,
                   enum verdict verdict, bool probe)
{
    struct judgement judgement = judge_claims_by(&prober, iss, aud, iat_s, events);

    ck_assert_msg(judgement.verdict == verdict, "%s %s: %s", iss, aud,
                  verdict_label(judgement.verdict));
    ck_assert_int_eq(judgement.probe, probe);
    ck_assert_int_eq(judgement.signature_verified, probe);
    judgement_release(&judgement);
}

START_TEST(a_probe_is_accepted_for_its_issuer_and_audience_alone)
{
    arm();
    probed(PROBE_ISS, PROBE_AUD, NOW_S, EVENTS, VERDICT_ACCEPTED, true);
    ck_assert_uint_eq(set.asked, 0);
    ck_assert_uint_eq(audience_asked, 0);
    rules.keys.usable = false; /* what it tries is the way here */
    probed(PROBE_ISS, PROBE_AUD, NOW_S, EVENTS, VERDICT_ACCEPTED, true);
}
END_TEST

/* Attack: who may arm a key signs what only Apple may: a deletion for an app. */
START_TEST(the_key_of_a_probe_signs_nothing_of_apples)
{
    static const struct {
        const char *iss, *aud;
    } cases[] = {{APPLE, APP},       {APPLE, PROBE_AUD},         {PROBE_ISS, APP},
                 {"x", PROBE_AUD},   {PROBE_ISS "2", PROBE_AUD}, {PROBE_ISS, PROBE_AUD "2"},
                 {PROBE_ISS, APPLE}, {PROBE_AUD, PROBE_ISS}};

    arm();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct judgement judgement =
            judge_claims_by(&prober, cases[i].iss, cases[i].aud, NOW_S, EVENTS);
        ck_assert_int_eq(judgement.verdict, VERDICT_BAD_SIGNATURE);
        ck_assert(!judgement.probe && !judgement.signature_verified);
        ck_assert_ptr_null(judgement.notification.aud);
        judgement_release(&judgement);
    }
}
END_TEST

/* Attack: Apple's key set is somebody else's, who aims at the row that doctor looks for. */
START_TEST(apples_keys_sign_no_probe)
{
    for (int armed = 0; armed < 2; armed++) {
        if (armed)
            arm();
        struct judgement judgement = judge_claims_by(&signer, PROBE_ISS, PROBE_AUD, NOW_S, EVENTS);
        ck_assert_int_eq(judgement.verdict, VERDICT_WRONG_AUDIENCE);
        ck_assert(!judgement.probe);
        judgement_release(&judgement);
        judgement = judge_claims_by(&signer, PROBE_ISS, APP, NOW_S, EVENTS);
        ck_assert_int_eq(judgement.verdict, VERDICT_QUARANTINED);
        ck_assert_int_eq(judgement.reason, QUARANTINE_REASON_UNKNOWN_ISSUER);
        ck_assert(!judgement.probe);
        judgement_release(&judgement);
        judgement = judge_claims_by(&signer, APPLE, APP, NOW_S, EVENTS); /* nothing in its way */
        ck_assert_int_eq(judgement.verdict, VERDICT_ACCEPTED);
        ck_assert(!judgement.probe);
        judgement_release(&judgement);
    }
}
END_TEST

START_TEST(a_probe_that_is_not_armed_is_of_an_unknown_key)
{
    struct judgement judgement = judge_claims_by(&prober, PROBE_ISS, PROBE_AUD, NOW_S, EVENTS);

    ck_assert_int_eq(judgement.verdict, VERDICT_KID_UNKNOWN);
    ck_assert_str_eq(judgement.kid, "probe-kid");
    judgement_release(&judgement);
    rules.keys.usable = false;
    judgement = judge_claims_by(&prober, PROBE_ISS, PROBE_AUD, NOW_S, EVENTS);
    ck_assert_int_eq(judgement.verdict, VERDICT_NO_KEYS);
    judgement_release(&judgement);
}
END_TEST

/* Attack: somebody saw the kid, and has a key of his own. */
START_TEST(the_kid_of_a_probe_is_not_its_key)
{
    struct signer other = impostor;

    arm();
    memcpy(other.kid, prober.kid, sizeof other.kid);
    struct judgement judgement = judge_claims_by(&other, PROBE_ISS, PROBE_AUD, NOW_S, EVENTS);
    ck_assert_int_eq(judgement.verdict, VERDICT_BAD_SIGNATURE);
    ck_assert(!judgement.probe && !judgement.signature_verified);
    judgement_release(&judgement);
}
END_TEST

START_TEST(a_probe_has_its_time_and_one_event_and_a_name)
{
    char *nameless, *token;

    arm();
    probed(PROBE_ISS, PROBE_AUD, NOW_S + LEEWAY_S, EVENTS, VERDICT_ACCEPTED, true);
    probed(PROBE_ISS, PROBE_AUD, NOW_S + LEEWAY_S + 1, EVENTS, VERDICT_FROM_FUTURE, true);
    probed(PROBE_ISS, PROBE_AUD, NOW_S - 86400 - LEEWAY_S, EVENTS, VERDICT_EXPIRED, true);
    probed(PROBE_ISS, PROBE_AUD, NOW_S, "[" EVENT "," EVENT "]", VERDICT_CLAIMS_MALFORMED, true);
    probed(PROBE_ISS, PROBE_AUD, NOW_S, "[]", VERDICT_CLAIMS_MALFORMED, true);
    nameless = signer_claims(PROBE_ISS, PROBE_AUD, NOW_S, "", EVENTS);
    token = signer_token(&prober, nameless);
    struct judgement judgement = judge_text(token);
    ck_assert_int_eq(judgement.verdict, VERDICT_CLAIMS_MALFORMED);
    judgement_release(&judgement);
    free(nameless);
    free(token);
    rules.now_s = JUDGE_CLOCK_FLOOR_S - 1;
    probed(PROBE_ISS, PROBE_AUD, rules.now_s, EVENTS, VERDICT_CLOCK_UNSET, false);
}
END_TEST

START_TEST(reasons_have_labels)
{
    ck_assert_str_eq(quarantine_reason_label(QUARANTINE_REASON_NONE), "none");
    ck_assert_str_eq(quarantine_reason_label(QUARANTINE_REASON_EXPIRED), "expired");
    ck_assert_str_eq(quarantine_reason_label(QUARANTINE_REASON_OLD_KEY), "old_key");
    ck_assert_str_eq(quarantine_reason_label(QUARANTINE_REASON_UNKNOWN_ISSUER), "unknown_issuer");
    ck_assert_str_eq(quarantine_reason_label(QUARANTINE_REASON_EVENTS_UNCLEAR), "events_unclear");
    for (unsigned beyond = 5; beyond < 100; beyond++)
        ck_assert_str_eq(quarantine_reason_label((enum quarantine_reason)beyond), "none");
}
END_TEST

/* The largest body there is, to the last byte. */
START_TEST(the_largest_notification)
{
    char *padding = malloc(NOTIFICATION_BODY_MAX_BYTES);
    size_t bytes = 48500;

    memset(padding, 'x', NOTIFICATION_BODY_MAX_BYTES);
    for (; bytes < 48700; bytes++) {
        char *payload = signer_text("{\"iss\":\"" APPLE "\",\"aud\":\"" APP "\",\"iat\":%lld,"
                                    "\"jti\":\"j\",\"events\":" EVENT ",\"x\":\"%.*s\"}",
                                    (long long)NOW_S, (int)bytes, padding);
        char *token = signer_token(&signer, payload);
        char *body = signer_body(token);
        struct judgement judgement;

        judge_body(context, &rules, body, strlen(body), &judgement);
        ck_assert_int_eq(judgement.verdict, strlen(body) <= NOTIFICATION_BODY_MAX_BYTES
                                                ? VERDICT_ACCEPTED
                                                : VERDICT_TOO_LARGE);
        judgement_release(&judgement);
        free(payload);
        free(token);
        free(body);
        if (judgement.verdict == VERDICT_TOO_LARGE)
            break;
    }
    ck_assert_uint_lt(bytes, 48700);
    free(padding);
}
END_TEST

/* At every allocation of the whole judgement: accepted unchanged, or 503. Never a 4xx, which Apple
 * takes for an answer, and never another person's sub. */
START_TEST(out_of_memory_is_internal)
{
    char *payload = signer_claims(APPLE, APP, NOW_S, "j", EVENTS);
    char *token = signer_token(&signer, payload);
    char *bodies[] = {signer_body(token), signer_text("{ \"payload\": \"%s\" }", token)};
    unsigned long failures = 0;

    for (size_t i = 0; i < 4; i++) {
        const char *body = bodies[i / 2];

        for (unsigned long fail = 1;; fail++) {
            struct judgement judgement;
            struct jws_context *fresh;
            bool failed;

            ck_assert_int_eq(jws_context_new(&fresh), 0);
            memory_faults_arm(fail, i % 2);
            judge_body(fresh, &rules, body, strlen(body), &judgement);
            failed = memory_faults_disarm();
            if (judgement.verdict == VERDICT_ACCEPTED) {
                ck_assert_str_eq(judgement.notification.events[0].sub, "001");
                ck_assert_str_eq(judgement.notification.aud, APP);
            } else {
                ck_assert_msg(failed && judgement.verdict == VERDICT_INTERNAL, "allocation %lu: %s",
                              fail, verdict_label(judgement.verdict));
            }
            judgement_release(&judgement);
            jws_context_free(fresh);
            if (!failed)
                break;
            failures++;
        }
    }
    ck_assert_uint_gt(failures, 100);
    free(bodies[0]);
    free(bodies[1]);
    free(payload);
    free(token);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("judge");
    TCase *tests = tcase_create("judge");
    SRunner *runner = srunner_create(suite);
    char *n, why[JWKS_WHY_BYTES];
    int failed;

    signer = signer_make("k");
    impostor = signer_make("k");
    prober = signer_make("probe-kid");
    n = signer_n(&signer);
    SIGNER_NEEDS(jwk_new("k", n, &key, why) == 0);
    free(n);
    n = signer_n(&prober);
    SIGNER_NEEDS(jwk_new("probe-kid", n, &probe_key, why) == 0);
    SIGNER_NEEDS(jws_context_new(&context) == 0);

    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, usual_rules, NULL);
    tcase_add_test(tests, a_notification_is_accepted);
    tcase_add_test(tests, what_is_no_body);
    tcase_add_test(tests, a_body_in_other_words);
    tcase_add_test(tests, keys_that_are_not_there);
    tcase_add_test(tests, a_clock_that_is_not_set);
    tcase_add_test(tests, the_signature_comes_first);
    tcase_add_test(tests, audience);
    tcase_add_test(tests, issuer);
    tcase_add_test(tests, kind);
    tcase_add_test(tests, times);
    tcase_add_test(tests, times_at_the_ends_of_the_range);
    tcase_add_test(tests, which_reason_wins);
    tcase_add_test(tests, a_probe_is_accepted_for_its_issuer_and_audience_alone);
    tcase_add_test(tests, the_key_of_a_probe_signs_nothing_of_apples);
    tcase_add_test(tests, apples_keys_sign_no_probe);
    tcase_add_test(tests, a_probe_that_is_not_armed_is_of_an_unknown_key);
    tcase_add_test(tests, the_kid_of_a_probe_is_not_its_key);
    tcase_add_test(tests, a_probe_has_its_time_and_one_event_and_a_name);
    tcase_add_test(tests, reasons_have_labels);
    tcase_add_test(tests, the_largest_notification);
    if (MEMORY_FAULTS_WORK)
        tcase_add_test(tests, out_of_memory_is_internal);
    else
        printf("SKIP out_of_memory_is_internal: the sanitizer has its own allocator\n");
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    jws_context_free(context);
    jwk_unref(key);
    jwk_unref(probe_key);
    free(n);
    signer_free(&signer);
    signer_free(&prober);
    signer_free(&impostor);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
