#include <check.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "memory_faults.h"
#include "signer.h"
#include "verifier/notification.h"

/* ---- body ---- */

static void finds(const char *body, size_t bytes, const char *token)
{
    struct notification_token found;
    enum verdict verdict = notification_find_token(body, bytes, &found);

    ck_assert_msg(verdict == VERDICT_ACCEPTED, "%s: %s", body, verdict_label(verdict));
    ck_assert_uint_eq(found.bytes, strlen(token));
    ck_assert_mem_eq(found.text, token, found.bytes);
    notification_token_release(&found);
    ck_assert_ptr_null(found.owned);
    ck_assert_ptr_null(found.text);
}

static void refuses(const char *body, size_t bytes, enum verdict expected)
{
    struct notification_token found = {.bytes = 4711};
    enum verdict verdict = notification_find_token(body, bytes, &found);

    ck_assert_msg(verdict == expected, "%s: %s", body, verdict_label(verdict));
    ck_assert_uint_eq(found.bytes, 4711);
}

START_TEST(bodies_with_a_token)
{
    static const char *const bodies[][2] = {
        /* To the letter, as Apple sends it, and white space behind it. */
        {"{\"payload\":\"aA0-_.b.c\"}", "aA0-_.b.c"},
        {"{\"payload\":\"a.b.c\"}\n", "a.b.c"},
        {"{\"payload\":\"a.b.c\"} \t\r\n", "a.b.c"},
        {"{\"payload\":\"\"}", ""},
        /* The same meaning in other words. */
        {"{ \"payload\":\"a.b.c\"}", "a.b.c"},
        {" {\"payload\":\"a.b.c\"}", "a.b.c"},
        {"{\"payload\": \"a.b.c\"}", "a.b.c"},
        {"{\"payload\" : \"a.b.c\" }", "a.b.c"},
        {"{\"payload\":\"a.b.c\",\"more\":1}", "a.b.c"},
        {"{\"more\":[{}],\"payload\":\"a.b.c\"}", "a.b.c"},
        {"{\"\\u0070ayload\":\"a\\u002eb.c\"}", "a.b.c"},
        {"{\"payload\":\"a+b/c=\"}", "a+b/c="},
        {"{\"payload\":\"a\\\"}\"}", "a\"}"},
        {"{\"payload\":\"\xc3\xa9\"}", "\xc3\xa9"},
        {"{\"payload\":\"a\",\"x\":{\"payload\":7}}", "a"},
    };

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        finds(bodies[i][0], strlen(bodies[i][0]), bodies[i][1]);
}
END_TEST

/* What Apple sends is not copied, whatever white space follows: reading it with jansson would cost
 * more than all the rest. */
START_TEST(apples_body_is_read_where_it_lies)
{
    static const char *const spaces[] = {"", " ", "\t", "\r", "\n", " \t\r\n\n\r\t "};
    static const char *const tokens[] = {"", "a", "aA0-_.b.c", "..", ".a", "a."};
    static const char *const copied[][2] = {
        {"{\"payload\":\"a+b\"}", "a+b"},
        {"{\"payload\":\"+.b.c\"}", "+.b.c"},
        {"{\"payload\":\"a.\\u0041.c\"}", "a.A.c"},
        {"{\"payload\":\"\\u0041.b.c\"}", "A.b.c"},
        {"{\"payload\":\"a.b.\\u0041\"}", "a.b.A"},
        {"{\"payload\":\"a\"}\v", NULL},
        {"{\"payload\":\"a\"}x", NULL},
        {"{\"payloaD\":\"a\"}", NULL},
    };
    struct notification_token found;
    char body[64];

    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
        for (size_t k = 0; k < sizeof(spaces) / sizeof(spaces[0]); k++) {
            int bytes =
                snprintf(body, sizeof(body), "{\"payload\":\"%s\"}%s", tokens[i], spaces[k]);

            ck_assert_int_eq(notification_find_token(body, (size_t)bytes, &found),
                             VERDICT_ACCEPTED);
            ck_assert_ptr_eq(found.text, body + strlen("{\"payload\":\""));
            ck_assert_uint_eq(found.bytes, strlen(tokens[i]));
            ck_assert_ptr_null(found.owned);
        }
    for (size_t i = 0; i < sizeof(copied) / sizeof(copied[0]); i++)
        if (copied[i][1])
            finds(copied[i][0], strlen(copied[i][0]), copied[i][1]);
        else
            refuses(copied[i][0], strlen(copied[i][0]), VERDICT_BAD_BODY);
}
END_TEST

START_TEST(bodies_without_one)
{
    static const char *const bodies[] = {
        "",
        " ",
        "{",
        "{}",
        "[]",
        "null",
        "\"a.b.c\"",
        "a.b.c",
        "payload=a.b.c",
        "{\"payload\":\"",
        "{\"payload\":\"}",
        "{\"payload\":\"a.b.c\"",
        "{\"payload\":\"a.b.c}",
        "{\"payload\":\"a.b.c\"}}",
        "{\"payload\":\"a.b.c\"}x",
        "{\"payload\":\"a.b.c\"}{\"payload\":\"a.b.c\"}",
        "{\"payload\":\"a.b.c\"},",
        "{\"payload\":\"a.b.c\",}",
        "{\"payload\":\"a\nb\"}",
        "{\"payload\":\"a\x01\"}",
        "{\"payload\":\"\xff\"}",
        "{\"payload\":\"\\ud800\"}",
        "{\"payload\":\"a\\u0000b\"}",
        "{\"payload\":null}",
        "{\"payload\":7}",
        "{\"payload\":true}",
        "{\"payload\":{\"payload\":\"a\"}}",
        "{\"payload\":[\"a\"]}",
        "{\"Payload\":\"a.b.c\"}",
        "{\"signedPayload\":\"a.b.c\"}",
        "[{\"payload\":\"a.b.c\"}]",
        "\xef\xbb\xbf{\"payload\":\"a.b.c\"}",
        /* A proxy that reads the first and a verifier that reads the last see two requests. */
        "{\"payload\":\"a.b.c\",\"payload\":\"d.e.f\"}",
        "{\"payload\":\"a.b.c\",\"\\u0070ayload\":\"a.b.c\"}",
        "{\"payload\":\"a.b.c\",\"x\":1,\"x\":2}",
    };

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        refuses(bodies[i], strlen(bodies[i]), VERDICT_BAD_BODY);
    refuses(NULL, 0, VERDICT_BAD_BODY);
}
END_TEST

/* NUL ends a string for some readers and not for others. */
START_TEST(nul_in_a_body_is_refused)
{
    char body[] = "{\"payload\":\"a.b.c\",\"x\":1 } ";
    size_t bytes = sizeof(body) - 1;

    finds(body, bytes, "a.b.c");
    for (size_t i = 0; i < bytes; i++) {
        char kept = body[i];

        body[i] = '\0';
        refuses(body, bytes, VERDICT_BAD_BODY);
        body[i] = kept;
    }
    refuses("{\"payload\":\"a.b.c\"}\0", 20, VERDICT_BAD_BODY);
}
END_TEST

/* The body need not end with NUL, and nothing behind its end is read (ASan would see it). */
START_TEST(only_the_given_bytes_are_read)
{
    static const char text[] = "{\"payload\":\"a.b.c\"}";

    for (size_t bytes = 0; bytes <= sizeof(text) - 1; bytes++) {
        char *body = malloc(bytes ? bytes : 1);

        memcpy(body, text, bytes);
        if (bytes < sizeof(text) - 1)
            refuses(body, bytes, VERDICT_BAD_BODY);
        else
            finds(body, bytes, "a.b.c");
        free(body);
    }
}
END_TEST

START_TEST(size_of_a_body)
{
    char *body = malloc(NOTIFICATION_BODY_MAX_BYTES + 2);

    memset(body, ' ', NOTIFICATION_BODY_MAX_BYTES + 1);
    memcpy(body, "{\"payload\":\"a\"}", 15);
    finds(body, NOTIFICATION_BODY_MAX_BYTES, "a");
    refuses(body, NOTIFICATION_BODY_MAX_BYTES + 1, VERDICT_TOO_LARGE);
    free(body);
}
END_TEST

/* Thousands of brackets must not overflow the stack. */
START_TEST(depth_of_a_body)
{
    char *body = malloc(NOTIFICATION_BODY_MAX_BYTES);

    memset(body, '[', NOTIFICATION_BODY_MAX_BYTES);
    refuses(body, NOTIFICATION_BODY_MAX_BYTES, VERDICT_BAD_BODY);
    for (int depth = 1000; depth <= 30000; depth += 29000) {
        size_t bytes = (size_t)sprintf(body, "{\"payload\":\"a\",\"x\":");

        memset(body + bytes, '[', (size_t)depth);
        memset(body + bytes + depth, ']', (size_t)depth);
        bytes += 2 * (size_t)depth;
        body[bytes++] = '}';
        if (depth == 1000)
            finds(body, bytes, "a");
        else
            refuses(body, bytes, VERDICT_BAD_BODY);
    }
    free(body);
}
END_TEST

START_TEST(a_token_may_be_released_twice)
{
    struct notification_token none = {0};

    notification_token_release(NULL);
    notification_token_release(&none);
    notification_token_release(&none);
}
END_TEST

/* ---- claims ---- */

#define ISS "\"iss\":\"https://appleid.apple.com\""
#define AUD "\"aud\":\"com.example.app\""
#define IAT "\"iat\":1700000000"
#define EXP "\"exp\":1700086400"
#define JTI "\"jti\":\"0123456789abcdefghijkl\""
#define EVENT \
    "{\"type\":\"consent-revoked\",\"sub\":\"001\",\"event_time\":1699999990000," \
    "\"email\":\"a@example.com\",\"is_private_email\":\"true\"}"
#define EVENTS "\"events\":" EVENT

static enum verdict parse(const char *claims, struct notification *notification)
{
    return notification_parse(claims, strlen(claims), notification);
}

static void parses(const char *claims, struct notification *notification)
{
    enum verdict verdict = parse(claims, notification);

    ck_assert_msg(verdict == VERDICT_ACCEPTED, "%s: %s", claims, verdict_label(verdict));
}

static void malformed(const char *claims)
{
    struct notification notification = {.event_count = 4711};
    enum verdict verdict = parse(claims, &notification);

    ck_assert_msg(verdict == VERDICT_CLAIMS_MALFORMED, "%s: %s", claims, verdict_label(verdict));
    ck_assert_uint_eq(notification.event_count, 4711);
}

START_TEST(claims_as_apple_makes_them)
{
    struct notification notification;
    const struct event *event = &notification.events[0];

    parses("{" ISS "," AUD "," EXP "," IAT "," JTI
           ",\"events\":\"{\\\"type\\\":\\\"email-disabled\\\",\\\"sub\\\":\\\"001.a\\\","
           "\\\"event_time\\\":1699999990123,\\\"email\\\":\\\"a@privaterelay.appleid.com\\\","
           "\\\"is_private_email\\\":\\\"true\\\"}\"}",
           &notification);
    ck_assert_str_eq(notification.iss, "https://appleid.apple.com");
    ck_assert_str_eq(notification.aud, "com.example.app");
    ck_assert_str_eq(notification.jti, "0123456789abcdefghijkl");
    ck_assert_int_eq(notification.issued_at_s, 1700000000);
    ck_assert_int_eq(notification.expires_at_s, 1700086400);
    ck_assert(notification.has_events);
    ck_assert_uint_eq(notification.event_count, 1);
    ck_assert_int_eq(event->kind, EVENT_TYPE_EMAIL_DISABLED);
    ck_assert_str_eq(event->type, "email-disabled");
    ck_assert_str_eq(event->raw_type, "email-disabled");
    ck_assert_str_eq(event->sub, "001.a");
    ck_assert_str_eq(event->email, "a@privaterelay.appleid.com");
    ck_assert_int_eq(event->is_private_email, PRIVATE_EMAIL_YES);
    ck_assert_int_eq(event->event_time_ms, 1699999990123);
    notification_release(&notification);
    ck_assert_ptr_null(notification.iss);
    ck_assert_uint_eq(notification.event_count, 0);
    notification_release(&notification);
    notification_release(NULL);
}
END_TEST

START_TEST(claims_that_may_be_missing)
{
    struct notification notification;

    /* Without exp the life time of every real token; without jti none. */
    parses("{" ISS "," AUD "," IAT "," EVENTS "}", &notification);
    ck_assert_int_eq(notification.expires_at_s, 1700000000 + NOTIFICATION_LIFETIME_S);
    ck_assert_ptr_null(notification.jti);
    ck_assert_uint_eq(notification.event_count, 1);
    notification_release(&notification);

    parses("{" ISS "," AUD "," IAT ",\"jti\":\"\"," EVENTS "}", &notification);
    ck_assert_ptr_null(notification.jti);
    notification_release(&notification);

    /* An ID token: no claim named events. */
    parses("{" ISS "," AUD "," IAT "," EXP ",\"sub\":\"001\",\"email\":\"a@example.com\"}",
           &notification);
    ck_assert(!notification.has_events);
    ck_assert_uint_eq(notification.event_count, 0);
    notification_release(&notification);

    malformed("{" AUD "," IAT "," EVENTS "}");
    malformed("{" ISS "," IAT "," EVENTS "}");
    malformed("{" ISS "," AUD "," EVENTS "}");
    malformed("{" ISS "," AUD ",\"IAT\":1700000000," EVENTS "}");
    malformed("{}");
}
END_TEST

/* Every claim with every JSON type: only the one that is meant is taken. */
START_TEST(every_claim_with_every_type)
{
    static const struct {
        const char *name, *type;
    } claims[] = {{"iss", "string"},
                  {"aud", "string"},
                  {"jti", "string"},
                  {"iat", "integer"},
                  {"exp", "integer"}};
    static const struct {
        const char *type, *value;
    } values[] = {{"string", "\"1700000000\""},
                  {"integer", "1700000000"},
                  {"real", "1700000000.0"},
                  {"real", "1.7e9"},
                  {"real", "1E400"},
                  {"true", "true"},
                  {"false", "false"},
                  {"null", "null"},
                  {"array", "[\"com.example.app\"]"},
                  {"array", "[]"},
                  {"array", "[1700000000]"},
                  {"object", "{}"},
                  {"object", "{\"iat\":1700000000}"}};

    for (size_t c = 0; c < sizeof(claims) / sizeof(claims[0]); c++) {
        for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
            char *text = signer_text("{\"%s\":%s", claims[c].name, values[v].value);
            static const char *const others[][2] = {
                {"iss", ISS}, {"aud", AUD}, {"jti", JTI}, {"iat", IAT}, {"exp", EXP}};
            struct notification notification;

            for (size_t o = 0; o < sizeof(others) / sizeof(others[0]); o++) {
                char *longer;

                if (strcmp(others[o][0], claims[c].name) == 0)
                    continue;
                longer = signer_text("%s,%s", text, others[o][1]);
                free(text);
                text = longer;
            }
            char *whole = signer_text("%s," EVENTS "}", text);

            if (strcmp(values[v].type, claims[c].type) == 0) {
                parses(whole, &notification);
                notification_release(&notification);
            } else {
                malformed(whole);
            }
            free(whole);
            free(text);
        }
    }
}
END_TEST

START_TEST(bounds_of_the_claims)
{
    static const struct {
        const char *claim;
        bool good;
    } cases[] = {{"\"iat\":0", true},
                 {"\"iat\":-0", true},
                 {"\"iat\":-1", false},
                 {"\"iat\":253402300799", true},
                 {"\"iat\":253402300800", false},
                 {"\"iat\":1700000000000", false}, /* milliseconds are not what iat is in */
                 {"\"iat\":9223372036854775807", false},
                 {"\"iat\":9223372036854775808", false},
                 {"\"iat\":-9223372036854775808", false},
                 {"\"iat\":99999999999999999999999999", false},
                 {IAT ",\"exp\":0", true},
                 {IAT ",\"exp\":-1", false},
                 {IAT ",\"exp\":253402300799", true},
                 {IAT ",\"exp\":253402300800", false},
                 {IAT ",\"exp\":9223372036854775807", false}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *claims = signer_text("{" ISS "," AUD ",%s," EVENTS "}", cases[i].claim);
        struct notification notification;

        if (cases[i].good) {
            parses(claims, &notification);
            notification_release(&notification);
        } else {
            malformed(claims);
        }
        free(claims);
    }
}
END_TEST

START_TEST(lengths_of_the_claims)
{
    static const char *const formats[] = {"\"iss\":\"%s\"," AUD "," IAT "," JTI,
                                          ISS ",\"aud\":\"%s\"," IAT "," JTI,
                                          ISS "," AUD "," IAT ",\"jti\":\"%s\""};
    char text[NOTIFICATION_CLAIM_MAX_BYTES + 2];

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        for (size_t bytes = 0; bytes <= NOTIFICATION_CLAIM_MAX_BYTES + 1; bytes++) {
            struct notification notification;
            char inner[1024], *claims;
            /* An empty jti is as good as none. */
            bool good = bytes <= NOTIFICATION_CLAIM_MAX_BYTES && (bytes > 0 || i == 2);

            memset(text, 'x', bytes);
            text[bytes] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(inner, sizeof(inner), formats[i], text);
#pragma GCC diagnostic pop
            claims = signer_text("{%s," EVENTS "}", inner);
            if (good) {
                parses(claims, &notification);
                notification_release(&notification);
            } else {
                malformed(claims);
            }
            free(claims);
        }
    }
}
END_TEST

START_TEST(texts_that_are_no_claims)
{
    static const char *const claims[] = {
        "",
        "7",
        "null",
        "\"x\"",
        "[]",
        "[{" ISS "," AUD "," IAT "," EVENTS "}]",
        "{" ISS "," AUD "," IAT "," EVENTS,
        "{" ISS "," AUD "," IAT "," EVENTS "}}",
        "{" ISS "," AUD "," IAT "," EVENTS "} {}",
        "{" ISS "," AUD "," IAT "," EVENTS ",}",
        "\xef\xbb\xbf{" ISS "," AUD "," IAT "," EVENTS "}",
        /* One member twice: which audience was meant depends on who reads. */
        "{" ISS "," AUD "," IAT "," EVENTS ",\"aud\":\"com.other.app\"}",
        "{" ISS "," AUD "," IAT "," EVENTS "," EVENTS "}",
        "{" ISS "," AUD "," IAT "," EVENTS ",\"x\":1,\"x\":1}",
        "{" ISS "," AUD "," IAT ",\"events\":{\"type\":\"a\",\"type\":\"b\"}}",
        /* A NUL would cut a name short for whoever copies it as a C string. */
        "{" ISS ",\"aud\":\"com.example.app\\u0000.evil\"," IAT "," EVENTS "}",
        "{" ISS "," AUD "," IAT "," EVENTS ",\"a\\u0000b\":1}",
        "{" ISS ",\"aud\":\"\xff\"," IAT "," EVENTS "}",
        "{" ISS ",\"aud\":\"\\udfff\"," IAT "," EVENTS "}",
    };

    for (size_t i = 0; i < sizeof(claims) / sizeof(claims[0]); i++)
        malformed(claims[i]);
}
END_TEST

/* ---- events ---- */

/* Parses claims whose claim `events` is this JSON, with or without a jti. */
static size_t count_events(const char *events, bool with_jti, struct notification *notification)
{
    char *claims =
        signer_text("{" ISS "," AUD "," IAT "%s,\"events\":%s}", with_jti ? "," JTI : "", events);

    parses(claims, notification);
    ck_assert(notification->has_events);
    free(claims);
    return notification->event_count;
}

/* The same JSON inside a JSON string, as Apple sends it. */
static char *as_string(const char *json)
{
    json_t *text = json_string(json);
    char *quoted = json_dumps(text, JSON_ENCODE_ANY);

    ck_assert(quoted != NULL);
    json_decref(text);
    return quoted;
}

static void understood(const char *events, size_t count)
{
    struct notification notification;
    char *string = as_string(events);

    ck_assert_msg(count_events(events, true, &notification) == count, "%s", events);
    notification_release(&notification);
    ck_assert_msg(count_events(string, true, &notification) == count, "%s", string);
    notification_release(&notification);
    free(string);
}

static void unclear(const char *events)
{
    understood(events, 0);
}

START_TEST(three_shapes_of_events)
{
    understood(EVENT, 1);
    understood("[" EVENT "]", 1);
    understood("[" EVENT "," EVENT "," EVENT "]", 3);
    understood(" [ " EVENT "\n, " EVENT " ] ", 2);
}
END_TEST

START_TEST(events_that_cannot_be_understood)
{
    static const char *const events[] = {"null",
                                         "true",
                                         "7",
                                         "1.5",
                                         "{}",
                                         "[]",
                                         "[[]]",
                                         "[" EVENT ",null]",
                                         "[[" EVENT "]]",
                                         "[" EVENT ",{}]",
                                         "\"\"",
                                         "\"x\"",
                                         "\"consent-revoked\"",
                                         "[\"{}\"]",
                                         "{\"sub\":\"001\",\"event_time\":1}",
                                         "{\"type\":\"\"}",
                                         "{\"type\":null}",
                                         "{\"type\":7}",
                                         "{\"type\":[\"consent-revoked\"]}",
                                         "{\"Type\":\"consent-revoked\"}",
                                         "{\"type\":\"x\",\"sub\":\"\"}",
                                         "{\"type\":\"x\",\"sub\":null}",
                                         "{\"type\":\"x\",\"sub\":1}",
                                         "{\"type\":\"x\",\"email\":\"\"}",
                                         "{\"type\":\"x\",\"email\":null}",
                                         "{\"type\":\"x\",\"email\":{}}",
                                         "{\"type\":\"x\",\"event_time\":\"1700000000000\"}",
                                         "{\"type\":\"x\",\"event_time\":1700000000000.0}",
                                         "{\"type\":\"x\",\"event_time\":-1}",
                                         "{\"type\":\"x\",\"event_time\":null}",
                                         "{\"type\":\"x\",\"event_time\":253402300799001}",
                                         "{\"type\":\"x\",\"event_time\":9223372036854775807}",
                                         "{\"type\":\"x\",\"is_private_email\":null}",
                                         "{\"type\":\"x\",\"is_private_email\":1}",
                                         "{\"type\":\"x\",\"is_private_email\":\"\"}",
                                         "{\"type\":\"x\",\"is_private_email\":\"TRUE\"}",
                                         "{\"type\":\"x\",\"is_private_email\":\"yes\"}",
                                         "{\"type\":\"x\",\"is_private_email\":[true]}"};

    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
        unclear(events[i]);
}
END_TEST

/* What only a string can hold: no JSON at all, a member twice, a NUL. */
START_TEST(strings_that_cannot_be_understood)
{
    static const char *const strings[] = {"",
                                          " ",
                                          "{",
                                          "{}}",
                                          "x",
                                          "{\"type\":\"a\",\"type\":\"b\"}",
                                          "{\"type\":\"x\"} {}",
                                          "{\"type\":\"a\\u0000b\"}",
                                          "{\"type\":\"\\ud800\"}",
                                          "\""
                                          "{\\\"type\\\":\\\"x\\\"}"
                                          "\"",
                                          "{\"type\":99999999999999999999999999}"};

    for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
        struct notification notification;
        char *string = as_string(strings[i]);

        ck_assert_msg(count_events(string, true, &notification) == 0, "%s", strings[i]);
        notification_release(&notification);
        free(string);
    }
    /* The control: the same way in does take what is right. */
    understood("{\"type\":\"x\"}", 1);
}
END_TEST

START_TEST(sixteen_events_and_no_more)
{
    char *events = signer_text("[");

    for (size_t count = 1; count <= NOTIFICATION_EVENTS_MAX + 2; count++) {
        char *longer = signer_text("%s%s{\"type\":\"t%zu\"}", events, count > 1 ? "," : "", count);
        char *array = signer_text("%s]", longer);
        struct notification notification;

        free(events);
        events = longer;
        ck_assert_uint_eq(count_events(array, true, &notification),
                          count <= NOTIFICATION_EVENTS_MAX ? count : 0);
        /* Each in its place. */
        for (size_t i = 0; i < notification.event_count; i++) {
            char type[24];

            snprintf(type, sizeof(type), "t%zu", i + 1);
            ck_assert_str_eq(notification.events[i].type, type);
        }
        notification_release(&notification);
        free(array);
    }
    free(events);
}
END_TEST

/* Reads one event; aborts the test where it is not understood. */
static struct event one_event(const char *json, struct notification *notification)
{
    ck_assert_msg(count_events(json, true, notification) == 1, "%s", json);
    return notification->events[0];
}

START_TEST(types_of_events)
{
    static const struct {
        const char *raw, *stored;
        enum event_type kind;
    } types[] = {{"email-enabled", "email-enabled", EVENT_TYPE_EMAIL_ENABLED},
                 {"email-disabled", "email-disabled", EVENT_TYPE_EMAIL_DISABLED},
                 {"consent-revoked", "consent-revoked", EVENT_TYPE_CONSENT_REVOKED},
                 {"account-delete", "account-delete", EVENT_TYPE_ACCOUNT_DELETE},
                 {"account-deleted", "account-delete", EVENT_TYPE_ACCOUNT_DELETE},
                 {"account-deletes", "account-deletes", EVENT_TYPE_OTHER},
                 {"Account-delete", "Account-delete", EVENT_TYPE_OTHER},
                 {"other", "other", EVENT_TYPE_OTHER},
                 {"consent-revoked ", "consent-revoked ", EVENT_TYPE_OTHER},
                 {"\xf0\x9f\x8d\x8e", "\xf0\x9f\x8d\x8e", EVENT_TYPE_OTHER}};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        char *json = signer_text("{\"type\":\"%s\"}", types[i].raw);
        struct notification notification;
        struct event event = one_event(json, &notification);

        ck_assert_int_eq(event.kind, types[i].kind);
        ck_assert_str_eq(event.type, types[i].stored);
        ck_assert_str_eq(event.raw_type, types[i].raw);
        ck_assert_int_eq(event_type_of(types[i].raw), types[i].kind);
        if (types[i].kind != EVENT_TYPE_OTHER)
            ck_assert_str_eq(event_type_text(types[i].kind), types[i].stored);
        notification_release(&notification);
        free(json);
    }
    ck_assert_str_eq(event_type_text(EVENT_TYPE_OTHER), "other");
    ck_assert_str_eq(event_type_text(EVENT_TYPE_COUNT), "other");
    ck_assert_str_eq(event_type_text((enum event_type)0xffffffff), "other");
}
END_TEST

START_TEST(times_of_events)
{
    static const struct {
        const char *written;
        int64_t ms;
    } times[] = {{"0", 0},
                 {"1", 1000},
                 {"1508184845", 1508184845000},              /* Apple's page: seconds */
                 {"1608767944622", 1608767944622},           /* Apple's tokens: milliseconds */
                 {"100000000000", INT64_C(100000000000000)}, /* the last second */
                 {"100000000001", INT64_C(100000000001)},    /* the first millisecond */
                 {"253402300799000", INT64_C(253402300799000)}};

    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        char *json = signer_text("{\"type\":\"x\",\"event_time\":%s}", times[i].written);
        struct notification notification;

        ck_assert_int_eq(one_event(json, &notification).event_time_ms, times[i].ms);
        notification_release(&notification);
        free(json);
    }
}
END_TEST

START_TEST(private_email_has_three_states)
{
    static const struct {
        const char *member;
        enum private_email state;
    } states[] = {{"", PRIVATE_EMAIL_UNSAID},
                  {",\"email\":\"a@privaterelay.appleid.com\"", PRIVATE_EMAIL_UNSAID},
                  {",\"is_private_email\":true", PRIVATE_EMAIL_YES},
                  {",\"is_private_email\":\"true\"", PRIVATE_EMAIL_YES},
                  {",\"is_private_email\":false", PRIVATE_EMAIL_NO},
                  {",\"is_private_email\":\"false\"", PRIVATE_EMAIL_NO}};

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        char *json = signer_text("{\"type\":\"x\"%s}", states[i].member);
        struct notification notification;

        ck_assert_int_eq(one_event(json, &notification).is_private_email, states[i].state);
        notification_release(&notification);
        free(json);
    }
}
END_TEST

START_TEST(lengths_in_events)
{
    static const struct {
        const char *name;
        size_t max;
    } members[] = {{"type", NOTIFICATION_CLAIM_MAX_BYTES},
                   {"sub", NOTIFICATION_CLAIM_MAX_BYTES},
                   {"email", NOTIFICATION_EMAIL_MAX_BYTES}};
    char text[NOTIFICATION_EMAIL_MAX_BYTES + 2];

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        for (size_t bytes = 0; bytes <= members[i].max + 1; bytes++) {
            struct notification notification;
            char *json;

            memset(text, 'x', bytes);
            text[bytes] = '\0';
            json =
                signer_text("{%s\"%s\":\"%s\"}", i ? "\"type\":\"x\"," : "", members[i].name, text);
            ck_assert_uint_eq(count_events(json, true, &notification),
                              bytes >= 1 && bytes <= members[i].max);
            notification_release(&notification);
            free(json);
        }
    }
}
END_TEST

/* Without sub and time an event is known by the notification's jti; without that by nothing, and a
 * repeat could not be told from another event. */
START_TEST(an_event_needs_an_identity)
{
    static const struct {
        const char *event;
        bool without_jti;
    } events[] = {{"{\"type\":\"x\",\"sub\":\"001\",\"event_time\":1}", true},
                  {"{\"type\":\"x\",\"sub\":\"001\",\"event_time\":0}", false},
                  {"{\"type\":\"x\",\"sub\":\"001\"}", false},
                  {"{\"type\":\"x\",\"event_time\":1}", false},
                  {"{\"type\":\"x\"}", false},
                  {"[" EVENT ",{\"type\":\"x\"}]", false}};

    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        struct notification notification;

        ck_assert_uint_ge(count_events(events[i].event, true, &notification), 1);
        notification_release(&notification);
        ck_assert_msg((count_events(events[i].event, false, &notification) > 0) ==
                          events[i].without_jti,
                      "%s", events[i].event);
        notification_release(&notification);
    }
}
END_TEST

START_TEST(unknown_members_are_ignored)
{
    understood("{\"type\":\"x\",\"transfer_sub\":7,\"reason\":{\"a\":[]},\"\":null}", 1);
}
END_TEST

/* Every string of a good parse must be what was sent, or the parse must say INTERNAL: jansson drops
 * characters where it cannot grow its buffer, and the sub that is stored would be another's. */
static void same_as_sent(const struct notification *notification)
{
    const struct event *event = &notification->events[0];

    ck_assert_str_eq(notification->iss, "https://appleid.apple.com");
    ck_assert_str_eq(notification->aud, "com.example.app");
    ck_assert_str_eq(notification->jti, "0123456789abcdefghijkl");
    ck_assert_int_eq(notification->issued_at_s, 1700000000);
    ck_assert_int_eq(notification->expires_at_s, 1700086400);
    ck_assert_uint_eq(notification->event_count, 1);
    ck_assert_str_eq(event->sub, "001");
    ck_assert_str_eq(event->type, "consent-revoked");
    ck_assert_str_eq(event->email, "a@example.com");
    ck_assert_int_eq(event->event_time_ms, 1699999990000);
    ck_assert_int_eq(event->is_private_email, PRIVATE_EMAIL_YES);
}

START_TEST(out_of_memory_never_blames_the_claims)
{
    static const char *const orders[] = {
        /* As Apple's, and with strings that grow last, and just before a number. */
        "{" ISS "," AUD "," EXP "," IAT "," JTI ",\"events\":%s}",
        "{" EXP "," IAT ",\"events\":%s," JTI "," AUD "," ISS "}",
        "{" JTI "," AUD "," EXP ",\"events\":%s," ISS "," IAT "}",
    };
    char *string = as_string(EVENT);
    unsigned long failures = 0;

    for (size_t i = 0; i < 12; i++) {
        char *claims;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        claims = signer_text(orders[i / 4], i % 2 ? string : EVENT);
#pragma GCC diagnostic pop
        for (unsigned long fail = 1;; fail++) {
            struct notification notification;
            enum verdict verdict;
            bool failed;

            memory_faults_arm(fail, i / 2 % 2);
            verdict = notification_parse(claims, strlen(claims), &notification);
            failed = memory_faults_disarm();
            ck_assert_msg(verdict == VERDICT_ACCEPTED || (failed && verdict == VERDICT_INTERNAL),
                          "allocation %lu: %s", fail, verdict_label(verdict));
            if (verdict == VERDICT_ACCEPTED) {
                same_as_sent(&notification);
                notification_release(&notification);
            }
            if (!failed)
                break;
            failures++;
        }
        free(claims);
    }
    ck_assert_uint_gt(failures, 200);
    free(string);
}
END_TEST

/* A number or word of more than 14 characters before any longer string would make jansson 2.14
 * abort here, by an assertion of its own; that ends the process before any answer, and Apple sends
 * such a text nowhere. */
START_TEST(out_of_memory_never_blames_the_body)
{
    static const char *const bodies[] = {"{\"payload\":\"a.b.c\"}",
                                         "{\"x\":-1234567890.1, "
                                         "\"payload\":\"eyJhbGciOiJSUzI1NiJ9.e30.AAAAAAAA\"}"};

    for (size_t i = 0; i < 4; i++) {
        const char *body = bodies[i / 2];

        for (unsigned long fail = 1;; fail++) {
            struct notification_token token;
            enum verdict verdict;
            bool failed;

            memory_faults_arm(fail, i % 2);
            verdict = notification_find_token(body, strlen(body), &token);
            failed = memory_faults_disarm();
            ck_assert_msg(verdict == VERDICT_ACCEPTED || (failed && verdict == VERDICT_INTERNAL),
                          "allocation %lu: %s", fail, verdict_label(verdict));
            if (verdict == VERDICT_ACCEPTED) {
                ck_assert_uint_eq(token.bytes, i < 2 ? 5 : 33);
                notification_token_release(&token);
            }
            if (!failed)
                break;
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("notification");
    TCase *tests = tcase_create("notification");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, bodies_with_a_token);
    tcase_add_test(tests, apples_body_is_read_where_it_lies);
    tcase_add_test(tests, bodies_without_one);
    tcase_add_test(tests, nul_in_a_body_is_refused);
    tcase_add_test(tests, only_the_given_bytes_are_read);
    tcase_add_test(tests, size_of_a_body);
    tcase_add_test(tests, depth_of_a_body);
    tcase_add_test(tests, a_token_may_be_released_twice);
    tcase_add_test(tests, claims_as_apple_makes_them);
    tcase_add_test(tests, claims_that_may_be_missing);
    tcase_add_test(tests, every_claim_with_every_type);
    tcase_add_test(tests, bounds_of_the_claims);
    tcase_add_test(tests, lengths_of_the_claims);
    tcase_add_test(tests, texts_that_are_no_claims);
    tcase_add_test(tests, three_shapes_of_events);
    tcase_add_test(tests, events_that_cannot_be_understood);
    tcase_add_test(tests, strings_that_cannot_be_understood);
    tcase_add_test(tests, sixteen_events_and_no_more);
    tcase_add_test(tests, types_of_events);
    tcase_add_test(tests, times_of_events);
    tcase_add_test(tests, private_email_has_three_states);
    tcase_add_test(tests, lengths_in_events);
    tcase_add_test(tests, an_event_needs_an_identity);
    tcase_add_test(tests, unknown_members_are_ignored);
    if (MEMORY_FAULTS_WORK) {
        tcase_add_test(tests, out_of_memory_never_blames_the_claims);
        tcase_add_test(tests, out_of_memory_never_blames_the_body);
    } else {
        printf("SKIP out_of_memory_never_blames_*: the sanitizer has its own allocator\n");
    }
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
