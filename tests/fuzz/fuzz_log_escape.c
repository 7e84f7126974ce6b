/* Any bytes as the value of a log field. The first byte chooses the room there is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "support/log.h"

#define REQUIRE(condition) \
    do { \
        if (!(condition)) \
            abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int hex(char digit)
{
    return digit >= 'a' ? digit - 'a' + 10 : digit - '0';
}

/* Reads a value back: without quotes and escapes it must be the input, or a beginning of it with
 * `...` behind. */
static void require_same(const char *value, size_t value_bytes, const char *text, size_t text_bytes)
{
    bool quoted = value[0] == '"';
    const char *at = value + (quoted ? 1 : 0);
    const char *end = value + value_bytes - (quoted ? 1 : 0);
    static char read[LOG_LINE_MAX_BYTES + 64];
    size_t read_bytes = 0;

    if (quoted)
        REQUIRE(value_bytes >= 2 && *end == '"');
    while (at < end) {
        char byte = *at++;

        if (byte == '\\') {
            REQUIRE(end - at >= 3 && *at == 'x');
            byte = (char)(hex(at[1]) << 4 | hex(at[2]));
            at += 3;
        }
        read[read_bytes++] = byte;
    }
    if (read_bytes == text_bytes && memcmp(read, text, text_bytes) == 0)
        return;
    REQUIRE(read_bytes >= 3 && memcmp(read + read_bytes - 3, "...", 3) == 0);
    REQUIRE(read_bytes - 3 <= text_bytes && memcmp(read, text, read_bytes - 3) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *out;
    size_t capacity, written;

    if (bytes == 0)
        return 0;
    /* Exactly this much, so that the sanitizer sees one byte too many. */
    capacity = data[0] < 250 ? data[0] : LOG_LINE_MAX_BYTES + 64;
    out = malloc(capacity > 0 ? capacity : 1);
    if (out == NULL)
        return 0;
    written = log_escape((const char *)data + 1, bytes - 1, out, capacity);
    REQUIRE(capacity == 0 ? written == 0 : written < capacity);
    if (capacity > 0)
        REQUIRE(out[written] == '\0' && strlen(out) == written);
    for (size_t i = 0; i < written; i++) {
        REQUIRE(out[i] >= ' ' && out[i] < 0x7f);
        /* Nothing inside ends the value. */
        if (i > 0 && i + 1 < written)
            REQUIRE(out[i] != '"' && (out[0] == '"' || (out[i] != ' ' && out[i] != '=')));
    }
    if (capacity >= LOG_VALUE_ROOM) {
        REQUIRE(written > 0);
        require_same(out, written, (const char *)data + 1, bytes - 1);
    }
    free(out);
    return 0;
}
