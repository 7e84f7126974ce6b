#include "verifier/judge.h"

#include <string.h>

#include "verifier/base64url.h"

static const char *const reason_labels[] = {
#define QUARANTINE_REASON_LABEL(name, text) [QUARANTINE_REASON_##name] = text,
    QUARANTINE_REASON_TABLE(QUARANTINE_REASON_LABEL)
#undef QUARANTINE_REASON_LABEL
};

const char *quarantine_reason_label(enum quarantine_reason reason)
{
    unsigned index = (unsigned)reason;

    return reason_labels[index < sizeof(reason_labels) / sizeof(reason_labels[0])
                             ? index
                             : QUARANTINE_REASON_NONE];
}

bool judge_issuer_known(const struct judge_rules *rules, const char *iss)
{
    for (size_t i = 0; i < rules->issuer_count; i++)
        if (strcmp(rules->issuers[i], iss) == 0)
            return true;
    return false;
}

static enum verdict quarantine(enum quarantine_reason reason, struct judgement *judgement)
{
    judgement->reason = reason;
    return VERDICT_QUARANTINED;
}

/* The leeway goes to the side that the parser has bounded by the year 9999: no overflow. */
static bool is_from_future(const struct judge_rules *rules, const struct notification *notification)
{
    return notification->issued_at_s - rules->leeway_s > rules->now_s;
}

static bool is_over(const struct judge_rules *rules, const struct notification *notification)
{
    return rules->now_s >= notification->expires_at_s + rules->leeway_s;
}

/* What the claims of a notification come to once its signature has verified. */
static enum verdict judge_claims(const struct judge_rules *rules, enum key_trust trust,
                                 struct judgement *judgement)
{
    const struct notification *notification = &judgement->notification;

    if (!notification->has_events)
        return VERDICT_NOT_A_NOTIFICATION;
    if (!rules->audience_known(rules->audience_context, notification->aud))
        return VERDICT_WRONG_AUDIENCE;
    if (trust != KEY_TRUST_FULL)
        return quarantine(QUARANTINE_REASON_OLD_KEY, judgement);
    if (!judge_issuer_known(rules, notification->iss))
        return quarantine(QUARANTINE_REASON_UNKNOWN_ISSUER, judgement);
    if (notification->event_count == 0)
        return quarantine(QUARANTINE_REASON_EVENTS_UNCLEAR, judgement);
    if (is_from_future(rules, notification))
        return VERDICT_FROM_FUTURE;
    if (is_over(rules, notification))
        return quarantine(QUARANTINE_REASON_EXPIRED, judgement);
    return VERDICT_ACCEPTED;
}

static enum verdict judge_payload(const struct jws *jws, struct judgement *judgement)
{
    unsigned char payload[BASE64URL_DECODED_MAX(JWS_TOKEN_MAX_BYTES)];
    size_t payload_bytes;

    if (base64url_decode(jws->payload, jws->payload_bytes, payload, sizeof(payload),
                         &payload_bytes) != 0)
        return VERDICT_INTERNAL;
    return notification_parse((const char *)payload, payload_bytes, &judgement->notification);
}

static bool has_probe_kid(const struct judge_rules *rules, const struct jws *jws)
{
    return rules->probe.key && strcmp(jwk_kid(rules->probe.key), jws->kid) == 0;
}

/* What the operator's key signed is the one thing it was made for, or is signed by nobody. */
static enum verdict judge_probe(struct jws_context *context, const struct judge_rules *rules,
                                const struct jws *jws, struct judgement *judgement)
{
    const struct notification *notification = &judgement->notification;
    enum verdict verdict = jws_verify(context, jws, rules->probe.key);

    if (verdict == VERDICT_ACCEPTED)
        verdict = judge_payload(jws, judgement);
    if (verdict != VERDICT_ACCEPTED)
        return verdict;
    if (strcmp(notification->iss, rules->probe.issuer) != 0 ||
        strcmp(notification->aud, rules->probe.client_id) != 0) {
        notification_release(&judgement->notification);
        return VERDICT_BAD_SIGNATURE;
    }
    judgement->signature_verified = true;
    judgement->probe = true;
    if (!notification->jti || notification->event_count != 1)
        return VERDICT_CLAIMS_MALFORMED;
    if (is_from_future(rules, notification))
        return VERDICT_FROM_FUTURE;
    return is_over(rules, notification) ? VERDICT_EXPIRED : VERDICT_ACCEPTED;
}

static enum verdict judge(struct jws_context *context, const struct judge_rules *rules,
                          const char *token, size_t token_bytes, struct judgement *judgement)
{
    struct jws jws;
    const struct jwk *key;
    enum key_trust trust = KEY_TRUST_NONE;
    enum verdict verdict;

    verdict = jws_parse(token, token_bytes, &jws);
    if (verdict != VERDICT_ACCEPTED)
        return verdict;
    memcpy(judgement->kid, jws.kid, sizeof(judgement->kid));

    if (rules->now_s < JUDGE_CLOCK_FLOOR_S)
        return VERDICT_CLOCK_UNSET;
    if (has_probe_kid(rules, &jws))
        return judge_probe(context, rules, &jws, judgement);
    if (!rules->keys.usable)
        return VERDICT_NO_KEYS;
    key = rules->keys.find(rules->keys.context, jws.kid, jws.kid_bytes, &trust);
    if (!key || trust == KEY_TRUST_NONE)
        return VERDICT_KID_UNKNOWN;

    verdict = jws_verify(context, &jws, key);
    if (verdict != VERDICT_ACCEPTED)
        return verdict;
    judgement->signature_verified = true;

    verdict = judge_payload(&jws, judgement);
    if (verdict != VERDICT_ACCEPTED)
        return verdict;
    return judge_claims(rules, trust, judgement);
}

void judge_token(struct jws_context *context, const struct judge_rules *rules, const char *token,
                 size_t token_bytes, struct judgement *ret_judgement)
{
    *ret_judgement = (struct judgement){0};
    ret_judgement->verdict = judge(context, rules, token, token_bytes, ret_judgement);
}

void judge_body(struct jws_context *context, const struct judge_rules *rules, const char *body,
                size_t body_bytes, struct judgement *ret_judgement)
{
    struct notification_token token;
    enum verdict verdict = notification_find_token(body, body_bytes, &token);

    *ret_judgement = (struct judgement){0};
    if (verdict != VERDICT_ACCEPTED) {
        ret_judgement->verdict = verdict;
        return;
    }
    ret_judgement->verdict = judge(context, rules, token.text, token.bytes, ret_judgement);
    notification_token_release(&token);
}

void judgement_release(struct judgement *judgement)
{
    if (!judgement)
        return;
    notification_release(&judgement->notification);
}
