#include "verifier/notification.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json_flat.h"
#include "verifier/base64url.h"
#include "verifier/json_text.h"

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

/* An object, whichever of the two has read it. */
struct object {
    const struct json_flat *flat; /* or NULL */
    const json_t *tree;
};

enum kind { KIND_ABSENT = 0, KIND_STRING, KIND_INTEGER, KIND_TRUE, KIND_FALSE, KIND_OTHER };

struct member {
    enum kind kind;
    const char *text; /* of a STRING */
    size_t text_bytes;
    int64_t integer;
    const json_t *tree; /* NULL where it was read flat */
};

static struct member member_of_flat(const struct json_flat_member *flat)
{
    static const enum kind kinds[] = {
        [JSON_FLAT_NONE] = KIND_ABSENT,     [JSON_FLAT_STRING] = KIND_STRING,
        [JSON_FLAT_INTEGER] = KIND_INTEGER, [JSON_FLAT_TRUE] = KIND_TRUE,
        [JSON_FLAT_FALSE] = KIND_FALSE,
    };

    if (!flat)
        return (struct member){.kind = KIND_ABSENT};
    return (struct member){.kind = kinds[flat->kind],
                           .text = flat->text,
                           .text_bytes = flat->text_bytes,
                           .integer = flat->integer};
}

static struct member member_of_tree(const json_t *tree)
{
    struct member member = {.kind = KIND_OTHER, .tree = tree};

    if (!tree)
        member.kind = KIND_ABSENT;
    else if (json_is_true(tree))
        member.kind = KIND_TRUE;
    else if (json_is_false(tree))
        member.kind = KIND_FALSE;
    else if (json_is_integer(tree))
        member.kind = KIND_INTEGER;
    else if (json_is_string(tree))
        member.kind = KIND_STRING;
    member.integer = json_integer_value(tree);
    member.text = json_string_value(tree);
    member.text_bytes = json_string_length(tree);
    return member;
}

static struct member find(const struct object *object, const char *name)
{
    return object->flat ? member_of_flat(json_flat_find(object->flat, name))
                        : member_of_tree(json_object_get(object->tree, name));
}

/* A member that is a string of 1 to max bytes. */
static bool read_text(const struct object *object, const char *name, size_t max,
                      const char **ret_text)
{
    struct member member = find(object, name);

    if (member.kind != KIND_STRING || member.text_bytes == 0 || member.text_bytes > max)
        return false;
    *ret_text = member.text;
    return true;
}

/* The same where the member may be missing: ret_text is untouched then. */
static bool read_optional_text(const struct object *object, const char *name, size_t max,
                               const char **ret_text)
{
    return find(object, name).kind == KIND_ABSENT || read_text(object, name, max, ret_text);
}

/* A member that is an integer of 0 to max. */
static bool read_time(const struct object *object, const char *name, int64_t max, int64_t *ret_time)
{
    struct member member = find(object, name);

    if (member.kind != KIND_INTEGER || member.integer < 0 || member.integer > max)
        return false;
    *ret_time = member.integer;
    return true;
}

/* Claims that decide; `events` is not among them. */
static bool read_claims(const struct object *claims, struct notification *notification)
{
    struct member jti = find(claims, "jti");
    /* An empty jti names nothing: as good as none. */
    bool nameless = jti.kind == KIND_ABSENT || (jti.kind == KIND_STRING && jti.text_bytes == 0);

    if (!read_text(claims, "iss", NOTIFICATION_CLAIM_MAX_BYTES, &notification->iss) ||
        !read_text(claims, "aud", NOTIFICATION_CLAIM_MAX_BYTES, &notification->aud) ||
        !read_time(claims, "iat", NOTIFICATION_TIME_MAX_S, &notification->issued_at_s))
        return false;
    if (!nameless && !read_text(claims, "jti", NOTIFICATION_CLAIM_MAX_BYTES, &notification->jti))
        return false;
    notification->expires_at_s = notification->issued_at_s + NOTIFICATION_LIFETIME_S;
    return find(claims, "exp").kind == KIND_ABSENT ||
           read_time(claims, "exp", NOTIFICATION_TIME_MAX_S, &notification->expires_at_s);
}

static bool is_word(const struct member *member, const char *word)
{
    return member->kind == KIND_STRING && strcmp(member->text, word) == 0;
}

static bool read_private_email(const struct object *object, enum private_email *ret_state)
{
    struct member member = find(object, "is_private_email");

    if (member.kind == KIND_ABSENT)
        *ret_state = PRIVATE_EMAIL_UNSAID;
    else if (member.kind == KIND_TRUE || is_word(&member, "true"))
        *ret_state = PRIVATE_EMAIL_YES;
    else if (member.kind == KIND_FALSE || is_word(&member, "false"))
        *ret_state = PRIVATE_EMAIL_NO;
    else
        return false;
    return true;
}

static bool read_event_time(const struct object *object, int64_t *ret_time_ms)
{
    int64_t time;

    if (find(object, "event_time").kind == KIND_ABSENT)
        return true;
    if (!read_time(object, "event_time", NOTIFICATION_TIME_MAX_S * 1000, &time))
        return false;
    *ret_time_ms = time > EVENT_TIME_SECONDS_MAX ? time : time * 1000;
    return true;
}

static bool read_event(const struct object *object, bool has_jti, struct event *ret_event)
{
    struct event event = {0};

    if (!read_text(object, "type", NOTIFICATION_CLAIM_MAX_BYTES, &event.raw_type) ||
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
    for (size_t i = 0; i < count; i++) {
        struct object object = {.tree = in_array ? json_array_get(events, i) : events};

        if (!json_is_object(object.tree) ||
            !read_event(&object, notification->jti != NULL, &notification->events[i]))
            return;
    }
    notification->event_count = count;
}

/* A text is read flat in a copy of its own, which is 0, the object and the memory that it points
 * into; or by jansson, where that is -ENOENT; or -ENOMEM. */
static int read_flat(const char *text, size_t text_bytes, struct json_flat *ret_flat,
                     char **ret_owned)
{
    char *owned = malloc(text_bytes + 1);

    if (!owned)
        return -ENOMEM;
    memcpy(owned, text, text_bytes);
    if (!json_flat_read(owned, text_bytes, ret_flat)) {
        free(owned);
        return -ENOENT;
    }
    *ret_owned = owned;
    return 0;
}

/* Events in a string: Apple writes one flat object. */
static int read_events_text(const struct member *claim, struct notification *notification)
{
    struct json_flat flat;
    struct object object = {.flat = &flat};
    json_t *events;
    int error = read_flat(claim->text, claim->text_bytes, &flat, &notification->events_text);

    if (error == 0 && read_event(&object, notification->jti != NULL, &notification->events[0]))
        notification->event_count = 1;
    if (error != -ENOENT)
        return error;
    error = json_text_parse(claim->text, claim->text_bytes, &events);
    if (error)
        return error == -EINVAL ? 0 : error;
    notification->events_tree = events;
    read_events(events, notification);
    return 0;
}

/* All claims; an error only where memory is out. */
static enum verdict read_all(const struct object *claims, struct notification *notification)
{
    struct member events = find(claims, "events");

    if (!read_claims(claims, notification))
        return VERDICT_CLAIMS_MALFORMED;
    /* Apple sends a string with JSON in it, its page draws an object. */
    notification->has_events = events.kind != KIND_ABSENT;
    if (events.kind == KIND_STRING)
        return read_events_text(&events, notification) == 0 ? VERDICT_ACCEPTED : VERDICT_INTERNAL;
    read_events(events.tree, notification);
    return VERDICT_ACCEPTED;
}

/* With jansson. */
static enum verdict parse_tree(const char *payload, size_t payload_bytes,
                               struct notification *notification)
{
    json_t *claims;
    struct object object;
    int error = json_text_parse(payload, payload_bytes, &claims);

    if (error)
        return error == -ENOMEM ? VERDICT_INTERNAL : VERDICT_CLAIMS_MALFORMED;
    notification->claims_tree = claims;
    object = (struct object){.tree = claims};
    return json_is_object(claims) ? read_all(&object, notification) : VERDICT_CLAIMS_MALFORMED;
}

enum verdict notification_parse(const char *payload, size_t payload_bytes,
                                struct notification *ret_notification)
{
    struct notification notification = {0};
    struct json_flat flat;
    struct object object = {.flat = &flat};
    enum verdict verdict = VERDICT_INTERNAL;
    int error = read_flat(payload, payload_bytes, &flat, &notification.claims_text);

    if (error == 0)
        verdict = read_all(&object, &notification);
    else if (error == -ENOENT)
        verdict = parse_tree(payload, payload_bytes, &notification);
    if (verdict != VERDICT_ACCEPTED) {
        notification_release(&notification);
        return verdict;
    }
    *ret_notification = notification;
    return VERDICT_ACCEPTED;
}

void notification_release(struct notification *notification)
{
    if (!notification)
        return;
    json_decref(notification->claims_tree);
    json_decref(notification->events_tree);
    free(notification->claims_text);
    free(notification->events_text);
    *notification = (struct notification){0};
}
