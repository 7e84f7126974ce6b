/*
 * claims: whatever stands in a signed payload, what is taken from it is within its bounds; and the
 * events in a string mean what they mean as they are.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/notification.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    json_object_seed(1);
    return 0;
}

static void check_text(const char *text, size_t max)
{
    HOLDS(text && strlen(text) >= 1 && strlen(text) <= max);
}

static void check_event(const struct notification *notification, const struct event *event)
{
    check_text(event->raw_type, NOTIFICATION_CLAIM_MAX_BYTES);
    HOLDS(event->kind < EVENT_TYPE_COUNT && event->kind == event_type_of(event->raw_type));
    HOLDS(strcmp(event->type, event->kind == EVENT_TYPE_OTHER ? event->raw_type
                                                              : event_type_text(event->kind)) == 0);
    if (event->sub)
        check_text(event->sub, NOTIFICATION_CLAIM_MAX_BYTES);
    if (event->email)
        check_text(event->email, NOTIFICATION_EMAIL_MAX_BYTES);
    HOLDS(event->is_private_email <= PRIVATE_EMAIL_YES);
    HOLDS(event->event_time_ms >= 0);
    HOLDS(event->event_time_ms <= NOTIFICATION_TIME_MAX_S * 1000);
    HOLDS(notification->jti || (event->sub && event->event_time_ms > 0));
}

static void check(const struct notification *notification)
{
    check_text(notification->iss, NOTIFICATION_CLAIM_MAX_BYTES);
    check_text(notification->aud, NOTIFICATION_CLAIM_MAX_BYTES);
    if (notification->jti)
        check_text(notification->jti, NOTIFICATION_CLAIM_MAX_BYTES);
    HOLDS(notification->issued_at_s >= 0 && notification->issued_at_s <= NOTIFICATION_TIME_MAX_S);
    HOLDS(notification->expires_at_s >= 0);
    HOLDS(notification->expires_at_s <= NOTIFICATION_TIME_MAX_S + NOTIFICATION_LIFETIME_S);
    HOLDS(notification->event_count <= NOTIFICATION_EVENTS_MAX);
    HOLDS(notification->has_events || notification->event_count == 0);
    for (size_t i = 0; i < notification->event_count; i++)
        check_event(notification, &notification->events[i]);
}

/* The input as claims. */
static void try_claims(const char *payload, size_t size)
{
    struct notification notification;
    enum verdict verdict = notification_parse(payload, size, &notification);

    if (verdict == VERDICT_ACCEPTED) {
        check(&notification);
        notification_release(&notification);
    } else {
        HOLDS(verdict == VERDICT_CLAIMS_MALFORMED);
    }
}

static bool same_text(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

/* Parses claims around `events`; false where they are malformed. */
static bool parse_around(const char *events, size_t size, struct notification *notification)
{
    static const char before[] = "{\"iss\":\"i\",\"aud\":\"a\",\"iat\":1700000000,\"events\":";
    char *claims = malloc(sizeof(before) + size + 1);
    enum verdict verdict;

    HOLDS(claims);
    memcpy(claims, before, sizeof(before) - 1);
    memcpy(claims + sizeof(before) - 1, events, size);
    claims[sizeof(before) - 1 + size] = '}';
    verdict = notification_parse(claims, sizeof(before) + size, notification);
    free(claims);
    HOLDS(verdict == VERDICT_ACCEPTED || verdict == VERDICT_CLAIMS_MALFORMED);
    return verdict == VERDICT_ACCEPTED;
}

/* The input as events, as it is and in a string. */
static void try_events(const char *events, size_t size)
{
    struct notification plain, in_string;
    json_t *text, *value;
    char *quoted;

    /* Only a whole JSON value can stand in the claims without changing them. */
    value =
        memchr(events, '\0', size) ? NULL : json_loadb(events, size, JSON_REJECT_DUPLICATES, NULL);
    json_decref(value);
    if (!value)
        return;
    text = json_stringn(events, size);
    HOLDS(text);
    quoted = json_dumps(text, JSON_ENCODE_ANY);
    HOLDS(quoted);
    json_decref(text);

    HOLDS(parse_around(quoted, strlen(quoted), &in_string));
    check(&in_string);
    /* One level deeper than the claims allow. */
    if (parse_around(events, size, &plain)) {
        check(&plain);
        HOLDS(plain.event_count == in_string.event_count);
        for (size_t i = 0; i < plain.event_count; i++) {
            const struct event *a = &plain.events[i], *b = &in_string.events[i];

            HOLDS(a->kind == b->kind && same_text(a->raw_type, b->raw_type));
            HOLDS(same_text(a->sub, b->sub) && same_text(a->email, b->email));
            HOLDS(a->event_time_ms == b->event_time_ms);
            HOLDS(a->is_private_email == b->is_private_email);
        }
        notification_release(&plain);
    }
    notification_release(&in_string);
    free(quoted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_claims((const char *)data, size);
    try_events((const char *)data, size);
    return 0;
}
