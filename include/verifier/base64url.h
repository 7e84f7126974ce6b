/*
 * base64url: RFC 4648 section 5 without padding, one spelling for each value.
 */
#ifndef SIWA_VERIFIER_BASE64URL_H
#define SIWA_VERIFIER_BASE64URL_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes that text_bytes characters can decode to at the most. */
#define BASE64URL_DECODED_MAX(text_bytes) ((text_bytes) / 4 * 3 + 2)

/* Characters that data_bytes bytes encode to, without a terminating NUL. */
#define BASE64URL_ENCODED(data_bytes) (((data_bytes)*4 + 2) / 3)

/* Decodes text (text_bytes characters, no terminating NUL needed) into ret_data, which holds
 * capacity bytes, and stores the count in ret_data_bytes. Only the canonical spelling is taken
 * (RFC 4648 section 3.5): no padding, no white space, unused bits zero, never a length of 4n+1.
 * An empty text is an empty value. Errors: -EINVAL for a text that is not canonical, -ENOBUFS where
 * capacity does not suffice; ret_data_bytes is untouched then, ret_data may hold part of the value.
 * Any thread. */
int base64url_decode(const char *text, size_t text_bytes, unsigned char *ret_data, size_t capacity,
                     size_t *ret_data_bytes);

/* Whether base64url_decode would take this text, given room enough. Any thread. */
bool base64url_is_canonical(const char *text, size_t text_bytes);

/* Whether every character is of the alphabet, whatever the length. Any thread. */
bool base64url_in_alphabet(const char *text, size_t text_bytes);

/* Encodes data into ret_text, which must hold BASE64URL_ENCODED(data_bytes) + 1 characters, and
 * ends it with NUL. Never fails. Any thread. */
void base64url_encode(const unsigned char *data, size_t data_bytes, char *ret_text);

#endif
