/*
 * json_text: the one way in which this room reads JSON from strangers.
 */
#ifndef SIWA_VERIFIER_JSON_TEXT_H
#define SIWA_VERIFIER_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Parses one JSON object or array that fills the whole text: valid UTF-8, no member twice, no NUL,
 * nothing behind the end, depth and numbers within jansson's bounds (2048, int64). 0 and a value to
 * be released with json_decref, -EINVAL for any other text, or -ENOMEM, which is never mistaken for
 * a bad text. Never call jansson's dump, copy or equal on the value: they recurse without bound.
 * Any thread. */
int json_text_parse(const char *text, size_t text_bytes, json_t **ret_value);

/* Whether text consists of min to max printable ASCII characters (0x20 to 0x7e). */
bool json_text_printable(const char *text, size_t text_bytes, size_t min, size_t max);

static inline void json_text_release(json_t **value)
{
    json_decref(*value);
}

#endif
