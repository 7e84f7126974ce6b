#include "json_flat.h"

#include <string.h>

#define DIGITS_MAX 18 /* any number of so many fits */

/* What stands for itself in a string: printable ASCII but for the quote and the backslash. Written
 * out, as ranges are no C17. */
#define Y 1
static const unsigned char plain[256] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* 0x00 */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* 0x10 */
    Y, Y, 0, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, /* 0x20: no quote */
    Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, /* 0x30 */
    Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, /* 0x40 */
    Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, 0, Y, Y, Y, /* 0x50: no backslash */
    Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, /* 0x60 */
    Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, 0, /* 0x70: no DEL */
};
#undef Y

/* What is left to read; *at may be looked at as long as at < end. */
struct reader {
    char *at, *end;
};

static bool takes(struct reader *reader, char character)
{
    if (reader->at == reader->end || *reader->at != character)
        return false;
    reader->at++;
    return true;
}

static bool takes_word(struct reader *reader, const char *word, size_t bytes)
{
    if ((size_t)(reader->end - reader->at) < bytes || memcmp(reader->at, word, bytes) != 0)
        return false;
    reader->at += bytes;
    return true;
}

/* The rest of a string whose first quote was taken. Its closing quote becomes the NUL. */
static bool read_string(struct reader *reader, const char **ret_text, size_t *ret_bytes)
{
    char *begin = reader->at, *to = begin;

    for (;;) {
        char *from = reader->at;

        while (reader->at < reader->end && plain[(unsigned char)*reader->at])
            reader->at++;
        if (to != from)
            memmove(to, from, (size_t)(reader->at - from));
        to += reader->at - from;
        if (!takes(reader, '\\'))
            break;
        if (reader->at == reader->end ||
            (*reader->at != '"' && *reader->at != '\\' && *reader->at != '/'))
            return false;
        *to++ = *reader->at++;
    }
    if (!takes(reader, '"'))
        return false;
    *to = '\0';
    *ret_text = begin;
    *ret_bytes = (size_t)(to - begin);
    return true;
}

/* No sign, no fraction, no exponent: what follows must be the end of the member. */
static bool read_integer(struct reader *reader, int64_t *ret_integer)
{
    const char *begin = reader->at;
    int64_t integer = 0;

    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
        if (reader->at - begin == DIGITS_MAX)
            return false;
        integer = integer * 10 + (*reader->at++ - '0');
    }
    if (reader->at == begin || (*begin == '0' && reader->at - begin > 1))
        return false;
    *ret_integer = integer;
    return true;
}

static bool read_value(struct reader *reader, struct json_flat_member *member)
{
    if (takes(reader, '"')) {
        member->kind = JSON_FLAT_STRING;
        return read_string(reader, &member->text, &member->text_bytes);
    }
    if (takes_word(reader, "true", 4)) {
        member->kind = JSON_FLAT_TRUE;
        return true;
    }
    if (takes_word(reader, "false", 5)) {
        member->kind = JSON_FLAT_FALSE;
        return true;
    }
    member->kind = JSON_FLAT_INTEGER;
    return read_integer(reader, &member->integer);
}

static bool is_named(const struct json_flat_member *member, const char *name, size_t bytes)
{
    return member->name_bytes == bytes && memcmp(member->name, name, bytes) == 0;
}

static bool stands_twice(const struct json_flat *flat, const struct json_flat_member *member)
{
    for (size_t i = 0; i < flat->count; i++)
        if (is_named(&flat->members[i], member->name, member->name_bytes))
            return true;
    return false;
}

static bool read_member(struct reader *reader, struct json_flat *flat)
{
    struct json_flat_member *member = &flat->members[flat->count];

    if (flat->count == JSON_FLAT_MEMBERS_MAX)
        return false;
    *member = (struct json_flat_member){.kind = JSON_FLAT_NONE};
    if (!takes(reader, '"') || !read_string(reader, &member->name, &member->name_bytes) ||
        stands_twice(flat, member) || !takes(reader, ':') || !read_value(reader, member))
        return false;
    flat->count++;
    return true;
}

bool json_flat_read(char *text, size_t text_bytes, struct json_flat *ret_flat)
{
    struct reader reader = {.at = text, .end = text + text_bytes};

    ret_flat->count = 0;
    if (!takes(&reader, '{'))
        return false;
    do {
        if (!read_member(&reader, ret_flat))
            return false;
    } while (takes(&reader, ','));
    return takes(&reader, '}') && reader.at == reader.end;
}

const struct json_flat_member *json_flat_find(const struct json_flat *flat, const char *name)
{
    size_t bytes = strlen(name);

    for (size_t i = 0; i < flat->count; i++)
        if (is_named(&flat->members[i], name, bytes))
            return &flat->members[i];
    return NULL;
}
