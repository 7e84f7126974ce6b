#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "dispatcher/erasure.h"
#include "verifier/base64url.h"
#include "verifier/notification.h"

#define NESTED_MAX 4 /* JSON in a text in JSON …; Apple has one level */

struct texts {
    bool (*on_text)(void *context, const char *text);
    void *context;
    int nested;
};

static bool each_text(json_t *value, struct texts *texts);

/* `events` is a text that is JSON. */
static bool each_nested(const char *text, struct texts *texts)
{
    bool stopped = false;
    json_t *value;

    if ((text[0] != '{' && text[0] != '[') || texts->nested == NESTED_MAX)
        return false;
    value = json_loads(text, 0, NULL);
    texts->nested++;
    if (value)
        stopped = each_text(value, texts);
    texts->nested--;
    json_decref(value);
    return stopped;
}

static bool each_text(json_t *value, struct texts *texts)
{
    const char *name;
    json_t *member;
    size_t index;

    json_object_foreach(value, name, member)
    {
        if (each_text(member, texts))
            return true;
    }
    json_array_foreach(value, index, member)
    {
        if (each_text(member, texts))
            return true;
    }
    if (!json_is_string(value))
        return false;
    return texts->on_text(texts->context, json_string_value(value)) ||
           each_nested(json_string_value(value), texts);
}

/* The claims are the second of three parts. */
static json_t *claims_of(const struct notification_token *token)
{
    const char *begin = memchr(token->text, '.', token->bytes);
    const char *end =
        begin ? memchr(begin + 1, '.', token->bytes - (size_t)(begin + 1 - token->text)) : NULL;
    size_t bytes = end ? (size_t)(end - begin) - 1 : 0;
    unsigned char *text = malloc(BASE64URL_DECODED_MAX(bytes) + 1);
    json_t *claims = NULL;

    if (text && bytes > 0 &&
        base64url_decode(begin + 1, bytes, text, BASE64URL_DECODED_MAX(bytes), &bytes) == 0)
        claims = json_loadb((const char *)text, bytes, 0, NULL);
    free(text);
    return claims;
}

bool erasure_body_texts(const char *body, size_t body_bytes,
                        bool (*on_text)(void *context, const char *text), void *context)
{
    struct notification_token token = {.text = NULL};
    struct texts texts = {.on_text = on_text, .context = context};
    bool stopped = false;
    json_t *claims;

    if (notification_find_token(body, body_bytes, &token) != VERDICT_ACCEPTED)
        return false;
    claims = claims_of(&token);
    notification_token_release(&token);
    if (claims)
        stopped = each_text(claims, &texts);
    json_decref(claims);
    return stopped;
}
