/*
 * Prepared answers: one for a connection that goes on, its twin for one that closes.
 */
#include "http_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A body that both twins, and whatever the library still sends, point into. */
struct body {
    atomic_uint references;
    char bytes[];
};

static void body_release(void *pointer)
{
    struct body *body = pointer;

    if (atomic_fetch_sub(&body->references, 1) == 1)
        free(body);
}

static struct MHD_Response *response_new(struct body *body, size_t body_bytes,
                                         const char *content_type, const char *const *extra_headers,
                                         bool closing)
{
    struct MHD_Response *response;
    bool good = true;

    response = MHD_create_response_from_buffer_with_free_callback_cls(body_bytes, body->bytes,
                                                                      body_release, body);
    if (!response)
        return NULL;
    atomic_fetch_add(&body->references, 1);
    if (body_bytes > 0 && content_type)
        good &= MHD_add_response_header(response, "Content-Type", content_type) == MHD_YES;
    for (size_t i = 0; extra_headers && extra_headers[i]; i += 2)
        good &=
            MHD_add_response_header(response, extra_headers[i], extra_headers[i + 1]) == MHD_YES;
    if (closing)
        good &= MHD_add_response_header(response, "Connection", "close") == MHD_YES;
    if (!good) {
        MHD_destroy_response(response);
        return NULL;
    }
    return response;
}

int http_reply_new(unsigned status, const char *content_type, const char *body, size_t body_bytes,
                   const char *const *extra_headers, struct http_reply **ret_reply)
{
    struct http_reply *reply = calloc(1, sizeof(*reply));
    struct body *copy = malloc(sizeof(*copy) + body_bytes + 1);

    if (!reply || !copy) {
        free(reply);
        free(copy);
        return -ENOMEM;
    }
    atomic_init(&copy->references, 1);
    if (body_bytes > 0)
        memcpy(copy->bytes, body, body_bytes);
    reply->status = status;
    atomic_init(&reply->references, 1);
    reply->keep = response_new(copy, body_bytes, content_type, extra_headers, false);
    reply->close = response_new(copy, body_bytes, content_type, extra_headers, true);
    body_release(copy);
    if (!reply->keep || !reply->close) {
        http_reply_free(reply);
        return -ENOMEM;
    }
    *ret_reply = reply;
    return 0;
}

struct http_reply *http_reply_hold(const struct http_reply *reply)
{
    /* Immutable for those who answer with it; the count is ours. */
    struct http_reply *held = (struct http_reply *)(uintptr_t)reply;

    atomic_fetch_add(&held->references, 1);
    return held;
}

void http_reply_release(struct http_reply *reply)
{
    if (!reply || atomic_fetch_sub(&reply->references, 1) != 1)
        return;
    if (reply->keep)
        MHD_destroy_response(reply->keep);
    if (reply->close)
        MHD_destroy_response(reply->close);
    free(reply);
}

void http_reply_free(struct http_reply *reply)
{
    http_reply_release(reply);
}
