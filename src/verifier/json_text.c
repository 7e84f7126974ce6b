#include "json_text.h"

#include <errno.h>
#include <string.h>

/* What is left of a text, handed to jansson piece by piece. */
struct feed {
    const char *at;
    const char *end;
    bool memory_out;
};

#define IN_NUMBER     1
#define BESIDE_NUMBER 2

/* A number begins or ends only between two characters of these two kinds; others are 0. */
static const unsigned char number_edges[256] = {
    ['-'] = IN_NUMBER,     ['0'] = IN_NUMBER,      ['1'] = IN_NUMBER,      ['2'] = IN_NUMBER,
    ['3'] = IN_NUMBER,     ['4'] = IN_NUMBER,      ['5'] = IN_NUMBER,      ['6'] = IN_NUMBER,
    ['7'] = IN_NUMBER,     ['8'] = IN_NUMBER,      ['9'] = IN_NUMBER,      [':'] = BESIDE_NUMBER,
    [','] = BESIDE_NUMBER, ['['] = BESIDE_NUMBER,  [']'] = BESIDE_NUMBER,  ['}'] = BESIDE_NUMBER,
    [' '] = BESIDE_NUMBER, ['\t'] = BESIDE_NUMBER, ['\r'] = BESIDE_NUMBER, ['\n'] = BESIDE_NUMBER,
};

/* The length of the longest beginning in which no number begins or ends, 1 to max. */
static size_t up_to_edge_of_number(const char *text, size_t max)
{
    unsigned before = number_edges[(unsigned char)text[0]];
    size_t bytes = 1;

    for (; bytes < max; bytes++) {
        unsigned here = number_edges[(unsigned char)text[bytes]];

        if ((before ^ here) == (IN_NUMBER ^ BESIDE_NUMBER))
            break;
        before = here;
    }
    return bytes;
}

/* When its allocator fails, jansson drops single characters from a string, or reports a syntax
 * error; the one changes what Apple signed, the other refuses it for good. The allocator leaves
 * ENOMEM in errno, but jansson clears errno when it converts a number. So a piece ends wherever a
 * number may begin or end, and errno is looked at in between. */
static size_t next_piece(void *buffer, size_t capacity, void *context)
{
    struct feed *feed = context;
    size_t left = (size_t)(feed->end - feed->at);
    size_t bytes;

    if (errno == ENOMEM)
        feed->memory_out = true;
    if (left == 0)
        return 0;
    bytes = up_to_edge_of_number(feed->at, left < capacity ? left : capacity);
    memcpy(buffer, feed->at, bytes);
    feed->at += bytes;
    return bytes;
}

int json_text_parse(const char *text, size_t text_bytes, json_t **ret_value)
{
    struct feed feed = {.at = text};
    int saved_errno = errno;
    json_t *value;

    /* jansson swallows a NUL that follows a number or a literal: `{"a":1<NUL>}` would pass. */
    if (text_bytes == 0 || memchr(text, '\0', text_bytes))
        return -EINVAL;
    feed.end = text + text_bytes;

    errno = 0;
    value = json_load_callback(next_piece, &feed, JSON_REJECT_DUPLICATES, NULL);
    feed.memory_out |= errno == ENOMEM;
    errno = saved_errno;
    if (feed.memory_out) {
        json_decref(value);
        return -ENOMEM;
    }
    if (!value)
        return -EINVAL;
    *ret_value = value;
    return 0;
}

bool json_text_printable(const char *text, size_t text_bytes, size_t min, size_t max)
{
    if (text_bytes < min || text_bytes > max)
        return false;
    for (size_t i = 0; i < text_bytes; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    return true;
}
