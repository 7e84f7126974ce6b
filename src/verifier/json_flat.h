/*
 * json_flat: JSON as Apple writes it, read without a tree.
 *
 * jansson costs more than all of the rest of a judgement but the signature. Claims and events are
 * objects of a few members, none of them an object or an array, without white space and with no
 * escapes but those of quotes and slashes. That much is read here; whatever else there is in JSON
 * is left to jansson, as are its errors.
 */
#ifndef SIWA_VERIFIER_JSON_FLAT_H
#define SIWA_VERIFIER_JSON_FLAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_FLAT_MEMBERS_MAX 16 /* Apple's claims have 6, its events 5 */

enum json_flat_kind {
    JSON_FLAT_NONE = 0,
    JSON_FLAT_STRING,
    JSON_FLAT_INTEGER,
    JSON_FLAT_TRUE,
    JSON_FLAT_FALSE
};

struct json_flat_member {
    const char *name, *text; /* text, of a STRING, ends with NUL; the name does not */
    size_t name_bytes, text_bytes;
    enum json_flat_kind kind;
    int64_t integer;
};

struct json_flat {
    size_t count;
    struct json_flat_member members[JSON_FLAT_MEMBERS_MAX];
};

/* Reads text in place: strings in ret_flat point into it, and it is written over. True only where
 * json_text_parse would take the same text for an object with the same members of the same values,
 * in the same order; false says nothing about the text, which may have been written over, and
 * leaves ret_flat undefined. Pure; any thread. */
bool json_flat_read(char *text, size_t text_bytes, struct json_flat *ret_flat);

/* The member of that name, or NULL. Any thread. */
const struct json_flat_member *json_flat_find(const struct json_flat *flat, const char *name);

#endif
