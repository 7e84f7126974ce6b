#include "verifier/notification.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json_text.h"
#include "verifier/base64url.h"

/* event_time above this is in milliseconds, below it in seconds: as seconds it is the year 5138, as
 * milliseconds March 1973. */
#define EVENT_TIME_SECONDS_MAX INT64_C(100000000000)

static const char *const event_type_texts[EVENT_TYPE_COUNT] = {
#define EVENT_TYPE_TEXT(name, text) [EVENT_TYPE_##name] = text,
    EVENT_TYPE_TABLE(EVENT_TYPE_TEXT)
#undef EVENT_TYPE_TEXT
};

enum event_type event_type_of(const char *raw_type)
{
    if (strcmp(raw_type, "account-deleted") == 0)
        return EVENT_TYPE_ACCOUNT_DELETE;
    for (size_t i = EVENT_TYPE_OTHER + 1; i < EVENT_TYPE_COUNT; i++)
        if (strcmp(raw_type, event_type_texts[i]) == 0)
            return (enum event_type)i;
    return EVENT_TYPE_OTHER;
}

const char *event_type_text(enum event_type kind)
{
    unsigned index = (unsigned)kind;

    return event_type_texts[index < EVENT_TYPE_COUNT ? index : EVENT_TYPE_OTHER];
}

/* Nothing but base64url and dots. */
static bool looks_like_token(const char *text, size_t bytes)
{
    const char *end = text + bytes, *dot;

    while ((dot = memchr(text, '.', (size_t)(end - text)))) {
        if (!base64url_in_alphabet(text, (size_t)(dot - text)))
            return false;
        text = dot + 1;
    }
    return base64url_in_alphabet(text, (size_t)(end - text));
}

static bool is_json_space(char character)
{
    return character == ' ' || character == '\t' || character == '\r' || character == '\n';
}

/* Apple's body to the letter, `{"payload":"…"}`, with nothing in the string but base64url and dots:
 * reading it with jansson costs a quarter of the whole judgement. White space may follow. */
static bool match_apple_body(const char *body, size_t body_bytes, const char **ret_token,
                             size_t *ret_token_bytes)
{
    static const char before[] = "{\"payload\":\"";
    const size_t before_bytes = sizeof(before) - 1;
    const char *token;
    size_t token_bytes;

    while (body_bytes > 0 && is_json_space(body[body_bytes - 1]))
        body_bytes--;
    if (body_bytes < before_bytes + 2 || memcmp(body, before, before_bytes) != 0 ||
        memcmp(body + body_bytes - 2, "\"}", 2) != 0)
        return false;
    token = body + before_bytes;
    token_bytes = body_bytes - before_bytes - 2;
    if (!looks_like_token(token, token_bytes))
        return false;
    *ret_token = token;
    *ret_token_bytes = token_bytes;
    return true;
}

enum verdict notification_find_token(const char *body, size_t body_bytes,
                                     struct notification_token *ret_token)
{
    __attribute__((cleanup(json_text_release))) json_t *root = NULL;
    const json_t *payload;
    char *owned;
    const char *text;
    size_t bytes;
    int error;

    if (body_bytes > NOTIFICATION_BODY_MAX_BYTES)
        return VERDICT_TOO_LARGE;
    if (match_apple_body(body, body_bytes, &text, &bytes)) {
        *ret_token = (struct notification_token){.text = text, .bytes = bytes};
        return VERDICT_ACCEPTED;
    }

    error = json_text_parse(body, body_bytes, &root);
    if (error)
        return error == -ENOMEM ? VERDICT_INTERNAL : VERDICT_BAD_BODY;
    payload = json_object_get(root, "payload");
    if (!json_is_string(payload))
        return VERDICT_BAD_BODY;
    bytes = json_string_length(payload);
    owned = malloc(bytes + 1);
    if (!owned)
        return VERDICT_INTERNAL;
    memcpy(owned, json_string_value(payload), bytes + 1);
    *ret_token = (struct notification_token){.text = owned, .bytes = bytes, .owned = owned};
    return VERDICT_ACCEPTED;
}

void notification_token_release(struct notification_token *token)
{
    if (!token)
        return;
    free(token->owned);
    *token = (struct notification_token){0};
}

/* A member that is a string of 1 to max bytes. */
static bool read_text(const json_t *object, const char *name, size_t max, const char **ret_text)
{
    const json_t *member = json_object_get(object, name);
    size_t bytes = json_string_length(member);

    if (!json_is_string(member) || bytes == 0 || bytes > max)
        return false;
    *ret_text = json_string_value(member);
    return true;
}

/* The same where the member may be missing: ret_text is untouched then. */
static bool read_optional_text(const json_t *object, const char *name, size_t max,
                               const char **ret_text)
{
    return !json_object_get(object, name) || read_text(object, name, max, ret_text);
}

static bool read_time(const json_t *object, const char *name, int64_t max, int64_t *ret_time)
{
    const json_t *member = json_object_get(object, name);
    int64_t time = json_integer_value(member);

    if (!json_is_integer(member) || time < 0 || time > max)
        return false;
    *ret_time = time;
    return true;
}

/* Claims that decide; `events` is not among them. */
static bool read_claims(const json_t *claims, struct notification *notification)
{
    const json_t *jti = json_object_get(claims, "jti");

    if (!read_text(claims, "iss", NOTIFICATION_CLAIM_MAX_BYTES, &notification->iss) ||
        !read_text(claims, "aud", NOTIFICATION_CLAIM_MAX_BYTES, &notification->aud) ||
        !read_time(claims, "iat", NOTIFICATION_TIME_MAX_S, &notification->issued_at_s))
        return false;
    /* An empty jti names nothing: as good as none. */
    if (jti && !(json_is_string(jti) && json_string_length(jti) == 0) &&
        !read_text(claims, "jti", NOTIFICATION_CLAIM_MAX_BYTES, &notification->jti))
        return false;
    notification->expires_at_s = notification->issued_at_s + NOTIFICATION_LIFETIME_S;
    return !json_object_get(claims, "exp") ||
           read_time(claims, "exp", NOTIFICATION_TIME_MAX_S, &notification->expires_at_s);
}

static bool read_private_email(const json_t *object, enum private_email *ret_state)
{
    const json_t *member = json_object_get(object, "is_private_email");
    const char *text = json_string_value(member);

    if (!member)
        *ret_state = PRIVATE_EMAIL_UNSAID;
    else if (json_is_true(member) || (text && strcmp(text, "true") == 0))
        *ret_state = PRIVATE_EMAIL_YES;
    else if (json_is_false(member) || (text && strcmp(text, "false") == 0))
        *ret_state = PRIVATE_EMAIL_NO;
    else
        return false;
    return true;
}

static bool read_event_time(const json_t *object, int64_t *ret_time_ms)
{
    int64_t time;

    if (!json_object_get(object, "event_time"))
        return true;
    if (!read_time(object, "event_time", NOTIFICATION_TIME_MAX_S * 1000, &time))
        return false;
    *ret_time_ms = time > EVENT_TIME_SECONDS_MAX ? time : time * 1000;
    return true;
}

static bool read_event(const json_t *object, bool has_jti, struct event *ret_event)
{
    struct event event = {0};

    if (!json_is_object(object) ||
        !read_text(object, "type", NOTIFICATION_CLAIM_MAX_BYTES, &event.raw_type) ||
        !read_optional_text(object, "sub", NOTIFICATION_CLAIM_MAX_BYTES, &event.sub) ||
        !read_optional_text(object, "email", NOTIFICATION_EMAIL_MAX_BYTES, &event.email) ||
        !read_event_time(object, &event.event_time_ms) ||
        !read_private_email(object, &event.is_private_email))
        return false;
    /* Without these nothing would tell a repeat from another event. */
    if (!has_jti && (!event.sub || event.event_time_ms == 0))
        return false;
    event.kind = event_type_of(event.raw_type);
    event.type = event.kind == EVENT_TYPE_OTHER ? event.raw_type : event_type_text(event.kind);
    *ret_event = event;
    return true;
}

/* One object, or an array of 1 to 16; all of them, or none. */
static void read_events(const json_t *events, struct notification *notification)
{
    bool in_array = json_is_array(events);
    size_t count = in_array ? json_array_size(events) : 1;

    if (count == 0 || count > NOTIFICATION_EVENTS_MAX)
        return;
    for (size_t i = 0; i < count; i++)
        if (!read_event(in_array ? json_array_get(events, i) : events, notification->jti != NULL,
                        &notification->events[i]))
            return;
    notification->event_count = count;
}

/* The claim `events`: Apple sends a string with JSON in it, its page draws an object. */
static int read_events_claim(const json_t *claim, struct notification *notification)
{
    json_t *events;
    int error;

    notification->has_events = claim != NULL;
    if (!json_is_string(claim)) {
        read_events(claim, notification);
        return 0;
    }
    error = json_text_parse(json_string_value(claim), json_string_length(claim), &events);
    if (error)
        return error == -EINVAL ? 0 : error;
    notification->events_storage = events;
    read_events(events, notification);
    return 0;
}

enum verdict notification_parse(const char *payload, size_t payload_bytes,
                                struct notification *ret_notification)
{
    struct notification notification = {0};
    json_t *claims;
    int error;

    error = json_text_parse(payload, payload_bytes, &claims);
    if (error)
        return error == -ENOMEM ? VERDICT_INTERNAL : VERDICT_CLAIMS_MALFORMED;
    notification.claims_storage = claims;
    if (!json_is_object(claims) || !read_claims(claims, &notification)) {
        notification_release(&notification);
        return VERDICT_CLAIMS_MALFORMED;
    }
    if (read_events_claim(json_object_get(claims, "events"), &notification) != 0) {
        notification_release(&notification);
        return VERDICT_INTERNAL;
    }
    *ret_notification = notification;
    return VERDICT_ACCEPTED;
}

void notification_release(struct notification *notification)
{
    if (!notification)
        return;
    json_decref(notification->claims_storage);
    json_decref(notification->events_storage);
    *notification = (struct notification){0};
}
