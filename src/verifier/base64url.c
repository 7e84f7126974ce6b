#include "verifier/base64url.h"

#include <errno.h>
#include <stdint.h>

static const char alphabet[64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* A bit that no sextet has: whatever stands outside the alphabet. */
#define NOT_A_SEXTET 0x80
#define XX           NOT_A_SEXTET

static const uint8_t sextets[256] = {
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0x00 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0x10 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 62, XX, XX, /* 0x20: '-' */
    52, 53, 54, 55, 56, 57, 58, 59, 60, 61, XX, XX, XX, XX, XX, XX, /* 0x30: '0' to '9' */
    XX, 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, /* 0x40: 'A' on */
    15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, XX, XX, XX, XX, 63, /* 0x50: 'Z', '_' */
    XX, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, /* 0x60: 'a' on */
    41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, XX, XX, XX, XX, XX, /* 0x70: 'z' */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0x80 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0x90 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0xa0 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0xb0 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0xc0 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0xd0 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0xe0 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, /* 0xf0 */
};

static unsigned sextet(char character)
{
    return sextets[(unsigned char)character];
}

/* The bits of the last character that belong to no byte; they must be zero, or one value would have
 * up to sixteen spellings. */
static unsigned unused_bits(size_t text_bytes)
{
    switch (text_bytes % 4) {
    case 2:
        return 0x0f;
    case 3:
        return 0x03;
    default:
        return 0;
    }
}

bool base64url_in_alphabet(const char *text, size_t text_bytes)
{
    unsigned seen = 0;

    for (size_t i = 0; i < text_bytes; i++)
        seen |= sextet(text[i]);
    return !(seen & NOT_A_SEXTET);
}

bool base64url_is_canonical(const char *text, size_t text_bytes)
{
    if (text_bytes == 0)
        return true;
    return text_bytes % 4 != 1 && base64url_in_alphabet(text, text_bytes) &&
           !(sextet(text[text_bytes - 1]) & unused_bits(text_bytes));
}

int base64url_decode(const char *text, size_t text_bytes, unsigned char *ret_data, size_t capacity,
                     size_t *ret_data_bytes)
{
    const char *at = text;
    unsigned char *to = ret_data;
    size_t whole = text_bytes / 4;
    size_t rest = text_bytes % 4;
    size_t data_bytes = whole * 3 + (rest ? rest - 1 : 0);
    unsigned seen = 0;

    if (rest == 1)
        return -EINVAL;
    if (data_bytes > capacity)
        return -ENOBUFS;

    for (size_t i = 0; i < whole; i++, at += 4, to += 3) {
        unsigned a = sextet(at[0]), b = sextet(at[1]), c = sextet(at[2]), d = sextet(at[3]);

        seen |= a | b | c | d;
        to[0] = (unsigned char)(a << 2 | b >> 4);
        to[1] = (unsigned char)(b << 4 | c >> 2);
        to[2] = (unsigned char)(c << 6 | d);
    }
    if (rest) {
        unsigned a = sextet(at[0]), b = sextet(at[1]);
        unsigned c = rest == 3 ? sextet(at[2]) : 0;

        seen |= a | b | c;
        if ((rest == 3 ? c : b) & unused_bits(rest))
            return -EINVAL;
        to[0] = (unsigned char)(a << 2 | b >> 4);
        if (rest == 3)
            to[1] = (unsigned char)(b << 4 | c >> 2);
    }
    if (seen & NOT_A_SEXTET)
        return -EINVAL;

    *ret_data_bytes = data_bytes;
    return 0;
}

void base64url_encode(const unsigned char *data, size_t data_bytes, char *ret_text)
{
    char *to = ret_text;
    size_t i = 0;

    for (; data_bytes - i >= 3; i += 3) {
        *to++ = alphabet[data[i] >> 2];
        *to++ = alphabet[(data[i] & 0x03) << 4 | data[i + 1] >> 4];
        *to++ = alphabet[(data[i + 1] & 0x0f) << 2 | data[i + 2] >> 6];
        *to++ = alphabet[data[i + 2] & 0x3f];
    }
    if (data_bytes - i == 1) {
        *to++ = alphabet[data[i] >> 2];
        *to++ = alphabet[(data[i] & 0x03) << 4];
    } else if (data_bytes - i == 2) {
        *to++ = alphabet[data[i] >> 2];
        *to++ = alphabet[(data[i] & 0x03) << 4 | data[i + 1] >> 4];
        *to++ = alphabet[(data[i + 1] & 0x0f) << 2];
    }
    *to = '\0';
}
