/*
 * json_text: the one way in which JSON is read.
 *
 * jansson 2.14 does not look whether there was memory for the next character of a string or number
 * (lex_save in its load.c), and drops it. Where that is the quote at the end it reads and writes on
 * behind its buffer; so while a text is parsed here jansson's allocator does not fail. Nobody else
 * calls json_load and its kin (a lint rule).
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
 * Takes 16 times the text and 32 KiB of memory besides, while it runs, of which little is touched.
 * Any thread. */
int json_text_parse(const char *text, size_t text_bytes, json_t **ret_value);

/* The same, but a member may stand there twice, and the last counts: to look for something in a
 * text, not to trust it. */
int json_text_parse_lenient(const char *text, size_t text_bytes, json_t **ret_value);

/* Whether text consists of min to max printable ASCII characters (0x20 to 0x7e). */
bool json_text_printable(const char *text, size_t text_bytes, size_t min, size_t max);

/* json_decref, for the cleanup attribute. */
static inline void json_text_release(json_t **value)
{
    json_decref(*value);
}

#endif
