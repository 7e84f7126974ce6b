#include "verifier/json_text.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES    64 /* what jansson reads on after memory was out */
#define RESERVE_FACTOR 16
#define RESERVE_BYTES  32768

/* What jansson gets of an allocator that cannot fail. All that a text makes it ask for once memory
 * is out: its buffer, twice as large (at most four times the text, in steps), the string and its
 * key (twice), a table that grows (at most eight times), and what a piece can hold (64 objects of
 * less than 300 bytes). */
struct reserve {
    unsigned char *memory;
    size_t bytes, used;
    bool memory_out;
};

/* Of the parse that the thread is in. jansson's allocator takes no argument by which it could find
 * its parse. */
static _Thread_local struct reserve *reserve;

static void *take(size_t bytes)
{
    size_t aligned = (bytes + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
    unsigned char *memory = reserve->memory + reserve->used;

    if (aligned < bytes || aligned > reserve->bytes - reserve->used)
        abort(); /* better than jansson writing behind its buffer */
    reserve->used += aligned;
    return memory;
}

static void *allocate(size_t bytes)
{
    void *memory = reserve && reserve->memory_out ? NULL : malloc(bytes);

    if (memory || !reserve)
        return memory;
    reserve->memory_out = true;
    return take(bytes);
}

static void release(void *memory)
{
    uintptr_t at = (uintptr_t)memory;

    if (reserve && at >= (uintptr_t)reserve->memory &&
        at < (uintptr_t)reserve->memory + reserve->bytes)
        return;
    free(memory);
}

/* Before anybody uses jansson: what it allocated must not be released in another way. */
__attribute__((constructor)) static void guard_jansson(void)
{
    json_set_alloc_funcs(allocate, release);
}

/* What is left of a text, handed to jansson piece by piece. */
struct feed {
    const char *at;
    const char *end;
};

static size_t next_piece(void *buffer, size_t capacity, void *context)
{
    struct feed *feed = context;
    size_t bytes = (size_t)(feed->end - feed->at);

    if (reserve->memory_out)
        return 0;
    if (bytes > capacity)
        bytes = capacity;
    if (bytes > PIECE_BYTES)
        bytes = PIECE_BYTES;
    memcpy(buffer, feed->at, bytes);
    feed->at += bytes;
    return bytes;
}

static int parse(const char *text, size_t text_bytes, size_t flags, json_t **ret_value)
{
    struct feed feed = {.at = text, .end = text + text_bytes};
    struct reserve own = {.bytes = RESERVE_FACTOR * text_bytes + RESERVE_BYTES};
    json_t *value;

    own.memory = malloc(own.bytes);
    if (!own.memory)
        return -ENOMEM;
    reserve = &own;
    value = json_load_callback(next_piece, &feed, flags, NULL);
    if (own.memory_out) {
        json_decref(value);
        value = NULL;
    }
    reserve = NULL;
    free(own.memory);
    if (!value)
        return own.memory_out ? -ENOMEM : -EINVAL;
    *ret_value = value;
    return 0;
}

/* jansson swallows a NUL that follows a number or a literal: `{"a":1<NUL>}` would pass. The bound
 * keeps the reserve's size within size_t. */
static bool can_parse(const char *text, size_t text_bytes)
{
    return text_bytes > 0 && text_bytes < SIZE_MAX / RESERVE_FACTOR - RESERVE_BYTES &&
           !memchr(text, '\0', text_bytes);
}

int json_text_parse(const char *text, size_t text_bytes, json_t **ret_value)
{
    return can_parse(text, text_bytes) ? parse(text, text_bytes, JSON_REJECT_DUPLICATES, ret_value)
                                       : -EINVAL;
}

int json_text_parse_lenient(const char *text, size_t text_bytes, json_t **ret_value)
{
    return can_parse(text, text_bytes) ? parse(text, text_bytes, 0, ret_value) : -EINVAL;
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
