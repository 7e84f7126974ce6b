/*
 * base64url: what decodes is the one spelling of its value, and both ways of asking agree.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/base64url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    size_t capacity = BASE64URL_DECODED_MAX(size);
    unsigned char *decoded = malloc(capacity);
    char *encoded = malloc(BASE64URL_ENCODED(size) + 1);
    size_t bytes = 0, again = 0;

    HOLDS(decoded && encoded);
    if (base64url_decode(text, size, decoded, capacity, &bytes) == 0) {
        HOLDS(base64url_is_canonical(text, size));
        HOLDS(BASE64URL_ENCODED(bytes) == size);
        base64url_encode(decoded, bytes, encoded);
        HOLDS(memcmp(encoded, text, size) == 0 && encoded[size] == '\0');
        /* One byte of room less is refused and overruns nothing. */
        if (bytes > 0)
            HOLDS(base64url_decode(text, size, decoded, bytes - 1, &again) != 0 && again == 0);
    } else {
        HOLDS(!base64url_is_canonical(text, size));
    }

    /* And the other way: any bytes go round. */
    base64url_encode(data, size, encoded);
    free(decoded);
    decoded = malloc(size ? size : 1);
    HOLDS(decoded);
    HOLDS(base64url_decode(encoded, strlen(encoded), decoded, size, &again) == 0);
    HOLDS(again == size && (size == 0 || memcmp(decoded, data, size) == 0));
    free(decoded);
    free(encoded);
    return 0;
}
