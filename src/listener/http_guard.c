/*
 * The framing guard: a request is served only if its bytes have one reading. libmicrohttpd 0.9.75
 * accepts two lengths, a length beside Transfer-Encoding, folds, bare LF and NUL; a proxy in front
 * may read such bytes otherwise, and in the difference a second request hides.
 */
#include "http_private.h"

#include <string.h>
#include <strings.h>

#define LENGTH_MAX_DIGITS 19 /* fits 64 bits, whatever the digits */
#define VERSION_BYTES     8  /* HTTP/1.1 */

struct framing {
    unsigned hosts, lengths;
    const struct http_header *length;
    bool encoded, expects_other;
};

/* tchar of RFC 9110, 5.6.2; isalnum would follow the locale. */
static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(const char *text, size_t bytes)
{
    if (bytes == 0)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (!is_token_char(text[i]))
            return false;
    return true;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_name(const struct http_header *header, const char *name)
{
    return header->name_bytes == strlen(name) && strcasecmp(header->name, name) == 0;
}

static bool is_method(const char *method)
{
    size_t bytes = strlen(method);

    if (bytes == 0 || bytes > HTTP_METHOD_MAX_BYTES)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (!(method[i] >= 'A' && method[i] <= 'Z') && !(i > 0 && method[i] == '-'))
            return false;
    return true;
}

bool http_guard_target(const char *target)
{
    size_t bytes = strnlen(target, HTTP_TARGET_MAX_BYTES + 1);

    if (target[0] != '/' || bytes > HTTP_TARGET_MAX_BYTES)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        if (target[i] < '!' || target[i] > '~' || target[i] == '#' || target[i] == '\\')
            return false;
        if (target[i] != '%')
            continue;
        if (!is_hex(target[i + 1]) || !is_hex(target[i + 2]) ||
            (target[i + 1] == '0' && target[i + 2] == '0'))
            return false;
    }
    return true;
}

/* Field values: RFC 9110, 5.5. Bytes above 0x7f are allowed there and mean nothing to us. */
static bool is_value(const char *value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)value[i];

        if ((c < ' ' && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool is_host(const struct http_header *host)
{
    if (host->value_bytes == 0 || host->value_bytes > HTTP_HOST_MAX_BYTES)
        return false;
    for (size_t i = 0; i < host->value_bytes; i++) {
        char c = host->value[i];

        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            !(c != '\0' && strchr("-._:[]", c)))
            return false;
    }
    return true;
}

/* A Connection header lists names that a proxy is to drop. Who lists one of these wants two hops to
 * see two framings. */
static bool is_connection(const struct http_header *header)
{
    static const char *const never[] = {"content-length", "transfer-encoding", "host"};
    const char *at = header->value, *end = header->value + header->value_bytes;

    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma ? comma : end;

        while (at < stop && (*at == ' ' || *at == '\t'))
            at++;
        while (stop > at && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        if (stop > at && !is_token(at, (size_t)(stop - at)))
            return false;
        for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
            if ((size_t)(stop - at) == strlen(never[i]) &&
                strncasecmp(at, never[i], strlen(never[i])) == 0)
                return false;
        at = comma ? comma + 1 : end;
    }
    return true;
}

/* Reads headers into what frames the request. false: one of them is malformed. */
static bool read_headers(const struct http_head *head, struct framing *framing)
{
    for (size_t i = 0; i < head->header_count; i++) {
        const struct http_header *header = &head->headers[i];

        if (!is_token(header->name, header->name_bytes) ||
            !is_value(header->value, header->value_bytes))
            return false;
        if (is_name(header, "Host")) {
            framing->hosts++;
            if (!is_host(header))
                return false;
        } else if (is_name(header, "Content-Length")) {
            framing->lengths++;
            framing->length = header;
        } else if (is_name(header, "Transfer-Encoding")) {
            framing->encoded = true;
        } else if (is_name(header, "Connection")) {
            if (!is_connection(header))
                return false;
        } else if (is_name(header, "Expect")) {
            framing->expects_other |= strcasecmp(header->value, "100-continue") != 0;
        }
    }
    return framing->hosts == 1 && framing->lengths <= 1 && !framing->encoded;
}

/* Digits and nothing else: no sign, no space, no list. */
static bool read_length(const struct http_header *header, uint64_t *ret_bytes)
{
    uint64_t bytes = 0;

    if (header->value_bytes == 0 || header->value_bytes > LENGTH_MAX_DIGITS)
        return false;
    for (size_t i = 0; i < header->value_bytes; i++) {
        if (header->value[i] < '0' || header->value[i] > '9')
            return false;
        bytes = bytes * 10 + (uint64_t)(header->value[i] - '0');
    }
    *ret_bytes = bytes;
    return true;
}

enum http_guard http_guard_judge(const struct http_head *head, size_t body_bytes_max,
                                 enum http_method *ret_method, size_t *ret_body_bytes)
{
    struct framing framing = {0};
    enum http_method method = HTTP_METHOD_OTHER;
    uint64_t bytes = 0;

    if (!is_method(head->method) || !http_guard_target(head->target))
        return HTTP_GUARD_FRAMING;
    if (strcmp(head->version, "HTTP/1.1") != 0 && strcmp(head->version, "HTTP/1.0") != 0)
        return HTTP_GUARD_FRAMING;
    if (head->header_count > HTTP_HEADERS_MAX || !http_guard_tiles(head) ||
        !read_headers(head, &framing))
        return HTTP_GUARD_FRAMING;
    if (framing.length && !read_length(framing.length, &bytes))
        return HTTP_GUARD_FRAMING;
    if (strcmp(head->method, "GET") == 0)
        method = HTTP_METHOD_GET;
    else if (strcmp(head->method, "HEAD") == 0)
        method = HTTP_METHOD_HEAD;
    else if (strcmp(head->method, "POST") == 0)
        method = HTTP_METHOD_POST;
    if ((method & (HTTP_METHOD_GET | HTTP_METHOD_HEAD)) && framing.length &&
        strcmp(framing.length->value, "0") != 0)
        return HTTP_GUARD_FRAMING;
    if (method == HTTP_METHOD_POST && !framing.length)
        return HTTP_GUARD_NO_LENGTH;
    if (bytes > body_bytes_max)
        return HTTP_GUARD_TOO_LARGE;
    if (framing.expects_other)
        return HTTP_GUARD_EXPECTATION;
    *ret_method = method;
    *ret_body_bytes = (size_t)bytes;
    return HTTP_GUARD_PASS;
}

/* CR and LF, as the library leaves them. */
static bool is_line_end(const char *at)
{
    return at[0] == '\0' && at[1] == '\0';
}

/* The library parses in place: it puts NULs over separators and hands out pointers into the block.
 * So the parts must lie one behind the other with exactly the separators of RFC 9112 between. Read
 * as numbers, because a folded line is copied elsewhere. What it leaves no trace of is a NUL, or
 * the colon of an empty name, beside a LF in the place of a CR; no proxy that was tried lets such a
 * head pass. */
bool http_guard_tiles(const struct http_head *head)
{
    uintptr_t method = (uintptr_t)head->method, target = (uintptr_t)head->target_at;
    uintptr_t version = (uintptr_t)head->version;
    uintptr_t next = version + VERSION_BYTES + 2, end = method + head->block_bytes;

    if (target != method + strlen(head->method) + 1 ||
        version != target + strlen(head->target) + 1 || next > end ||
        !is_line_end(head->version + VERSION_BYTES))
        return false;
    for (size_t i = 0; i < head->header_count; i++) {
        const struct http_header *header = &head->headers[i];
        uintptr_t name = (uintptr_t)header->name, value = (uintptr_t)header->value;

        if (name != next || value < name + header->name_bytes + 1 ||
            value + header->value_bytes + 2 > end)
            return false;
        for (const char *gap = header->name + header->name_bytes + 1; gap < header->value; gap++)
            if (*gap != ' ' && *gap != '\t')
                return false;
        if (!is_line_end(header->value + header->value_bytes))
            return false;
        next = value + header->value_bytes + 2;
    }
    return next + 2 == end && is_line_end(head->method + head->block_bytes - 2);
}
