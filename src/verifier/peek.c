#include "verifier/peek.h"

#include <string.h>

#include "verifier/base64url.h"

static bool is_for_us(const struct judge_rules *rules, const struct notification *notification)
{
    return notification->has_events && judge_issuer_known(rules, notification->iss) &&
           rules->audience_known(rules->audience_context, notification->aud);
}

static bool peek_claims(const struct judge_rules *rules, const struct jws *jws,
                        struct peek *ret_peek)
{
    unsigned char payload[BASE64URL_DECODED_MAX(JWS_TOKEN_MAX_BYTES)];
    struct notification notification;
    size_t payload_bytes;
    bool for_us;

    if (base64url_decode(jws->payload, jws->payload_bytes, payload, sizeof(payload),
                         &payload_bytes) != 0 ||
        notification_parse((const char *)payload, payload_bytes, &notification) != VERDICT_ACCEPTED)
        return false;
    for_us = is_for_us(rules, &notification);
    if (for_us) {
        memcpy(ret_peek->unverified_kid, jws->kid, sizeof(jws->kid));
        /* the parser has bounded it */
        memcpy(ret_peek->unverified_aud, notification.aud, strlen(notification.aud) + 1);
    }
    notification_release(&notification);
    return for_us;
}

bool peek_body(const struct judge_rules *rules, const char *body, size_t body_bytes,
               struct peek *ret_peek)
{
    struct notification_token token;
    struct jws jws;
    bool for_us;

    if (notification_find_token(body, body_bytes, &token) != VERDICT_ACCEPTED)
        return false;
    for_us = jws_parse(token.text, token.bytes, &jws) == VERDICT_ACCEPTED &&
             peek_claims(rules, &jws, ret_peek);
    notification_token_release(&token);
    return for_us;
}
