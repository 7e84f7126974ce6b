#include "json_text.h"

#include <errno.h>
#include <string.h>

int json_text_parse(const char *text, size_t text_bytes, json_t **ret_value)
{
    json_error_t error = {0};
    json_t *value;
    int saved_errno = errno;

    /* jansson swallows a NUL that follows a number or a literal: `{"a":1<NUL>}` would pass. */
    if (text_bytes == 0 || memchr(text, '\0', text_bytes))
        return -EINVAL;
    /* Where its lexer finds no memory jansson reports a syntax error. Believed, that would refuse
     * for good what Apple signed; but the allocator has left ENOMEM behind, and an allocation that
     * fails ends the parse, so nothing overwrites it. */
    errno = 0;
    value = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!value) {
        bool memory_out = errno == ENOMEM || json_error_code(&error) == json_error_out_of_memory;

        errno = saved_errno;
        return memory_out ? -ENOMEM : -EINVAL;
    }
    errno = saved_errno;
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
