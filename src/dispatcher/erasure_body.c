#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dispatcher/erasure.h"
#include "verifier/base64url.h"
#include "verifier/json_text.h"
#include "verifier/notification.h"

#define NESTED_MAX 4 /* JSON in a text in JSON …; Apple has one level */

struct texts {
    bool (*on_text)(void *context, const char *text);
    void *context;
    int nested;
    int error;
};

static bool each_text(json_t *value, struct texts *texts);

/* `events` is a text that is JSON. */
static bool each_nested(const char *text, struct texts *texts)
{
    bool stopped = false;
    json_t *value = NULL;

    if ((text[0] != '{' && text[0] != '[') || texts->nested == NESTED_MAX)
        return false;
    if (json_text_parse_lenient(text, strlen(text), &value) == -ENOMEM) {
        texts->error = -ENOMEM;
        return true;
    }
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
static int claims_of(const struct notification_token *token, json_t **ret_claims)
{
    const char *begin = memchr(token->text, '.', token->bytes);
    const char *end =
        begin ? memchr(begin + 1, '.', token->bytes - (size_t)(begin + 1 - token->text)) : NULL;
    size_t bytes = end ? (size_t)(end - begin) - 1 : 0;
    unsigned char *text = malloc(BASE64URL_DECODED_MAX(bytes) + 1);
    int error = text ? -EINVAL : -ENOMEM;

    if (text && bytes > 0 &&
        base64url_decode(begin + 1, bytes, text, BASE64URL_DECODED_MAX(bytes), &bytes) == 0)
        error = json_text_parse_lenient((const char *)text, bytes, ret_claims);
    free(text);
    return error;
}

int erasure_body_texts(const char *body, size_t body_bytes,
                       bool (*on_text)(void *context, const char *text), void *context)
{
    struct notification_token token = {.text = NULL};
    struct texts texts = {.on_text = on_text, .context = context};
    bool stopped = false;
    json_t *claims = NULL;
    enum verdict verdict = notification_find_token(body, body_bytes, &token);

    if (verdict != VERDICT_ACCEPTED)
        return verdict == VERDICT_INTERNAL ? -ENOMEM : 0;
    texts.error = claims_of(&token, &claims);
    notification_token_release(&token);
    if (texts.error == 0)
        stopped = each_text(claims, &texts);
    json_decref(claims);
    if (texts.error == -ENOMEM)
        return texts.error;
    return stopped ? 1 : 0;
}
