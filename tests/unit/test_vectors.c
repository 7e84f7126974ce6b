/*
 * Vectors that nobody of this project wrote, each with the result that its README names.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "signer.h"
#include "vectors.h"
#include "verifier/base64url.h"
#include "verifier/judge.h"
#include "verifier/jwks.h"
#include "verifier/jws.h"
#include "verifier/notification.h"

static const char *const apple_issuer[] = {"https://appleid.apple.com"};

struct set_in_use {
    struct jwks *set;
    enum key_trust trust;
};

static const struct jwk *find_in_set(void *context, const char *kid, size_t kid_bytes,
                                     enum key_trust *ret_trust)
{
    const struct set_in_use *in_use = context;

    *ret_trust = in_use->trust;
    return jwks_find(in_use->set, kid, kid_bytes);
}

/* The audiences of the vectors are public; which ones they are does not matter here. */
static bool every_audience(void *context, const char *client_id)
{
    (void)context;
    return client_id[0] != '\0';
}

static struct jwks *load_set(const char *name)
{
    size_t bytes;
    char *text = vectors_read(name, &bytes);
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES] = "";

    ck_assert_msg(jwks_parse(text, bytes, &set, why) == 0, "%s: %s", name, why);
    free(text);
    return set;
}

static struct judge_rules rules_with(struct set_in_use *in_use, int64_t now_s)
{
    return (struct judge_rules){.keys = {find_in_set, in_use, true},
                                .audience_known = every_audience,
                                .issuers = apple_issuer,
                                .issuer_count = 1,
                                .now_s = now_s,
                                .leeway_s = 300};
}

/* Calls visit for each file below a folder of the vectors whose name begins with prefix. */
static unsigned for_each_file(const char *folder, const char *prefix,
                              void (*visit)(const char *name, char *text, size_t bytes))
{
    char path[4096];
    struct dirent *entry;
    unsigned seen = 0;
    DIR *directory;

    snprintf(path, sizeof(path), "%s/%s", vectors_folder(), folder);
    directory = opendir(path);
    ck_assert_msg(directory != NULL, "%s cannot be opened", path);
    while ((entry = readdir(directory))) {
        size_t bytes;
        char *text;

        if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        text = vectors_read(path, &bytes);
        visit(entry->d_name, text, bytes);
        free(text);
        seen++;
    }
    closedir(directory);
    return seen;
}

/* Cuts white space that a file may have behind its token. */
static size_t token_length(const char *text, size_t bytes)
{
    while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
        bytes--;
    return bytes;
}

static int64_t issued_at(const char *token, size_t bytes)
{
    unsigned char payload[4096];
    struct jws jws;
    size_t payload_bytes;
    json_t *claims;
    int64_t iat;

    ck_assert_int_eq(jws_parse(token, bytes, &jws), VERDICT_ACCEPTED);
    ck_assert_int_eq(
        base64url_decode(jws.payload, jws.payload_bytes, payload, sizeof(payload), &payload_bytes),
        0);
    claims = json_loadb((const char *)payload, payload_bytes, 0, NULL);
    iat = json_integer_value(json_object_get(claims, "iat"));
    json_decref(claims);
    ck_assert_int_gt(iat, 0);
    return iat;
}

static void judge_apple(const char *token, size_t bytes, int64_t now_s, struct judgement *judgement)
{
    struct set_in_use in_use = {load_set("apple/jwks/apple-2019-2025-all.json"), KEY_TRUST_FULL};
    struct judge_rules rules = rules_with(&in_use, now_s);
    char *body = signer_text("{\"payload\":\"%.*s\"}", (int)bytes, token);
    struct jws_context *context;

    ck_assert_int_eq(jws_context_new(&context), 0);
    judge_body(context, &rules, body, strlen(body), judgement);
    jws_context_free(context);
    jwks_free(in_use.set);
    free(body);
}

static void accept_notification(const char *name, char *text, size_t bytes)
{
    size_t length = token_length(text, bytes);
    int64_t iat = issued_at(text, length);
    const bool relay = strstr(name, "email-disabled") != NULL;
    struct judgement judgement;
    const struct event *event;

    judge_apple(text, length, iat + 60, &judgement);
    ck_assert_msg(judgement.verdict == VERDICT_ACCEPTED, "%s: %s", name,
                  verdict_label(judgement.verdict));
    ck_assert(judgement.signature_verified);
    ck_assert_msg(strstr(name, judgement.kid) != NULL, "%s", name);
    ck_assert_uint_eq(judgement.notification.event_count, 1);
    ck_assert_int_eq(judgement.notification.expires_at_s, iat + NOTIFICATION_LIFETIME_S);
    event = &judgement.notification.events[0];
    ck_assert_msg(strstr(name, event->type) != NULL, "%s: %s", name, event->type);
    ck_assert_str_eq(event->type, event->raw_type);
    ck_assert_int_eq(event->kind, relay ? EVENT_TYPE_EMAIL_DISABLED : EVENT_TYPE_CONSENT_REVOKED);
    /* Never the sub itself in an assertion: it would be printed. */
    ck_assert(event->sub && strlen(event->sub) == 44);
    ck_assert(strlen(judgement.notification.jti) == 22);
    ck_assert((event->is_private_email == PRIVATE_EMAIL_YES) == relay);
    /* Signed 6 to 30 seconds after the act. */
    ck_assert_int_lt(event->event_time_ms, iat * 1000);
    ck_assert_int_gt(event->event_time_ms, (iat - 60) * 1000);
    judgement_release(&judgement);

    /* The same token a day later, at the last second and at the first one too late. */
    judge_apple(text, length, iat + NOTIFICATION_LIFETIME_S + 299, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_ACCEPTED);
    judgement_release(&judgement);
    judge_apple(text, length, iat + NOTIFICATION_LIFETIME_S + 300, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_QUARANTINED);
    ck_assert_int_eq(judgement.reason, QUARANTINE_REASON_EXPIRED);
    judgement_release(&judgement);
}

START_TEST(apple_notifications_are_accepted)
{
    ck_assert_uint_eq(for_each_file("apple/s2s", "", accept_notification), 4);
}
END_TEST

/* No bit of a real notification may be another one. */
static void refuse_flipped_bits(const char *name, char *text, size_t bytes)
{
    size_t length = token_length(text, bytes);
    int64_t now_s = issued_at(text, length) + 60;
    struct set_in_use in_use = {load_set("apple/jwks/apple-2019-2025-all.json"), KEY_TRUST_FULL};
    struct judge_rules rules = rules_with(&in_use, now_s);
    struct jws_context *context;
    struct judgement judgement;

    ck_assert_int_eq(jws_context_new(&context), 0);
    for (size_t bit = 0; bit < length * 8; bit++) {
        text[bit / 8] = (char)(text[bit / 8] ^ (1 << bit % 8));
        judge_token(context, &rules, text, length, &judgement);
        ck_assert_msg(!judgement.signature_verified && judgement.verdict != VERDICT_ACCEPTED &&
                          judgement.verdict != VERDICT_QUARANTINED &&
                          judgement.verdict != VERDICT_INTERNAL,
                      "%s: bit %zu: %s", name, bit, verdict_label(judgement.verdict));
        judgement_release(&judgement);
        text[bit / 8] = (char)(text[bit / 8] ^ (1 << bit % 8));
    }
    judge_token(context, &rules, text, length, &judgement);
    ck_assert_int_eq(judgement.verdict, VERDICT_ACCEPTED);
    judgement_release(&judgement);
    jws_context_free(context);
    jwks_free(in_use.set);
}

START_TEST(apple_notifications_with_a_flipped_bit)
{
    ck_assert_uint_eq(for_each_file("apple/s2s", "", refuse_flipped_bits), 4);
}
END_TEST

/* An ID token has the same issuer, keys and audience, and everybody who can sign in with Apple has
 * one: POSTed here it must not become a notification. */
static void refuse_id_token(const char *name, char *text, size_t bytes)
{
    size_t length = token_length(text, bytes);
    struct judgement judgement;

    judge_apple(text, length, issued_at(text, length) + 60, &judgement);
    ck_assert_msg(judgement.verdict == VERDICT_NOT_A_NOTIFICATION, "%s: %s", name,
                  verdict_label(judgement.verdict));
    ck_assert(judgement.signature_verified);
    judgement_release(&judgement);
}

START_TEST(apple_id_tokens_are_refused)
{
    ck_assert_uint_eq(for_each_file("apple/idtokens", "", refuse_id_token), 4);
}
END_TEST

START_TEST(apple_key_sets_load_whole)
{
    struct jwks *all = load_set("apple/jwks/apple-2019-2025-all.json");
    struct jwks *captured = load_set("apple/jwks/apple-2025-07-13.json");

    ck_assert_uint_eq(jwks_count(all), 18);
    ck_assert_uint_eq(jwks_passed_over(all), 0);
    ck_assert_uint_eq(jwks_count(captured), 3);
    ck_assert_uint_eq(jwks_passed_over(captured), 0);
    for (size_t i = 0; i < jwks_count(captured); i++) {
        const char *kid = jwk_kid(jwks_at(captured, i));

        ck_assert(jwk_same_modulus(jwks_at(captured, i), jwks_find(all, kid, strlen(kid))));
    }
    jwks_free(all);
    jwks_free(captured);
}
END_TEST

static json_t *load_json(const char *name)
{
    size_t bytes;
    char *text = vectors_read(name, &bytes);
    json_t *root = json_loadb(text, bytes, 0, NULL);

    ck_assert_msg(root != NULL, "%s", name);
    free(text);
    return root;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    ck_assert_msg(text != NULL, "%s", name);
    return text;
}

/* Runs one token through the shape, the key set and the signature. */
static enum verdict verify_alone(const char *set_text, const char *token)
{
    struct jws_context *context;
    struct jwks *set = NULL;
    struct jws jws;
    const struct jwk *key;
    char why[JWKS_WHY_BYTES];
    enum verdict verdict = VERDICT_NO_KEYS;

    if (jwks_parse(set_text, strlen(set_text), &set, why) != 0)
        return VERDICT_NO_KEYS;
    verdict = jws_parse(token, strlen(token), &jws);
    if (verdict == VERDICT_ACCEPTED) {
        key = jwks_find(set, jws.kid, jws.kid_bytes);
        ck_assert_int_eq(jws_context_new(&context), 0);
        verdict = key ? jws_verify(context, &jws, key) : VERDICT_KID_UNKNOWN;
        jws_context_free(context);
    }
    jwks_free(set);
    return verdict;
}

/* The whole judgement must refuse what the signature layer lets by: no notification is among them.
 */
static enum verdict judge_alone(const char *set_text, const char *token)
{
    struct set_in_use in_use = {NULL, KEY_TRUST_FULL};
    struct jws_context *context;
    struct judgement judgement;
    struct judge_rules rules;
    char why[JWKS_WHY_BYTES];
    enum verdict verdict;

    if (jwks_parse(set_text, strlen(set_text), &in_use.set, why) != 0)
        return VERDICT_NO_KEYS;
    rules = rules_with(&in_use, 1700000000);
    ck_assert_int_eq(jws_context_new(&context), 0);
    judge_token(context, &rules, token, strlen(token), &judgement);
    verdict = judgement.verdict;
    judgement_release(&judgement);
    jws_context_free(context);
    jwks_free(in_use.set);
    return verdict;
}

START_TEST(wycheproof_signature_layer)
{
    json_t *root = load_json("wycheproof/rs256_only_expectations.json");
    const json_t *test;
    unsigned accepted = 0, refused = 0, roca = 0;
    size_t i;

    json_array_foreach(json_object_get(root, "tests"), i, test)
    {
        char *set_text = json_dumps(json_object_get(test, "jwks"), JSON_COMPACT);
        const json_t *jws = json_object_get(test, "jws");
        /* One of them is a JSON serialization. */
        char *token = json_is_string(jws) ? signer_text("%s", json_string_value(jws))
                                          : json_dumps(jws, JSON_COMPACT);
        const char *comment = text_of(test, "comment");
        bool expected = strcmp(text_of(test, "rs256_only_signature_layer"), "accept") == 0;
        enum verdict verdict = verify_alone(set_text, token);

        if (strstr(comment, "Roca")) {
            expected = false;
            roca++;
        }
        ck_assert_msg((verdict == VERDICT_ACCEPTED) == expected, "%s %s: %s", comment,
                      text_of(test, "why"), verdict_label(verdict));
        ck_assert_int_ne(verdict, VERDICT_INTERNAL);
        ck_assert_int_ne(judge_alone(set_text, token), VERDICT_ACCEPTED);
        if (verdict == VERDICT_ACCEPTED)
            ck_assert_int_eq(judge_alone(set_text, token), VERDICT_CLAIMS_MALFORMED);
        accepted += verdict == VERDICT_ACCEPTED;
        refused += verdict != VERDICT_ACCEPTED;
        free(set_text);
        free(token);
    }
    json_decref(root);
    ck_assert_uint_eq(roca, 2);
    ck_assert_uint_eq(accepted, 10);
    ck_assert_uint_eq(refused, 466);
}
END_TEST

/* What each group of the key set vectors must come to. Keys that no RS256 verifier can use are
 * passed over and so leave no set; the rest is refused for what stands beside it. */
START_TEST(wycheproof_key_sets)
{
    static const struct {
        const char *group, *sentence;
    } expected[] = {
        {"jws_mixedSymmetryKeyset", NULL},
        {"jws_keyset", NULL},
        {"jws_duplicate_kid", "stands twice"},
        {"rs256", "use is not sig"},
        {"jws_rsa_roca_key", "ROCA"},
        {"keysize_too_small", "fewer than 2048 bits"},
        {"exponentOne", "exponent is not 65537"},
    };
    json_t *root = load_json("wycheproof/json_web_key_test.json");
    const json_t *group, *test;
    unsigned groups = 0;
    size_t i, j;

    json_array_foreach(json_object_get(root, "testGroups"), i, group)
    {
        const json_t *keys = json_object_get(group, "public");
        const char *name = text_of(group, "comment");
        char *text = json_dumps(keys ? keys : json_object_get(group, "private"), JSON_COMPACT);
        struct jwks *set = NULL;
        char why[JWKS_WHY_BYTES] = "";
        int error = jwks_parse(text, strlen(text), &set, why);

        groups++;
        for (size_t k = 0; k < sizeof(expected) / sizeof(expected[0]); k++) {
            if (strcmp(name, expected[k].group) != 0 || !expected[k].sentence)
                continue;
            /* Of the two groups of one name the valid one loads. */
            if (error == 0 && strcmp(name, "rs256") == 0)
                continue;
            ck_assert_msg(error != 0, "%s", name);
            ck_assert_msg(strstr(why, expected[k].sentence) != NULL, "%s: %s", name, why);
        }
        json_array_foreach(json_object_get(group, "tests"), j, test)
        {
            const char *token = text_of(test, "jws");
            bool invalid = strcmp(text_of(test, "result"), "invalid") == 0;

            if (invalid)
                ck_assert_msg(verify_alone(text, token) != VERDICT_ACCEPTED, "%s", name);
            ck_assert_int_ne(judge_alone(text, token), VERDICT_ACCEPTED);
        }
        jwks_free(set);
        free(text);
    }
    json_decref(root);
    ck_assert_uint_ge(groups, 20);
}
END_TEST

static unsigned char *from_hex(const char *hex, size_t *ret_bytes)
{
    size_t bytes = strlen(hex) / 2;
    unsigned char *data = malloc(bytes + 1);

    ck_assert(data != NULL);
    for (size_t i = 0; i < bytes; i++) {
        unsigned value;

        ck_assert_int_eq(sscanf(hex + 2 * i, "%2x", &value), 1);
        data[i] = (unsigned char)value;
    }
    *ret_bytes = bytes;
    return data;
}

/* The message is signed as it stands here, whatever it holds: the layer below the JWS. */
static enum verdict verify_raw(struct jws_context *context, const struct jwk *key,
                               const json_t *test)
{
    struct jws jws = {0};
    size_t message_bytes, signature_bytes;
    unsigned char *message = from_hex(text_of(test, "msg"), &message_bytes);
    unsigned char *signature = from_hex(text_of(test, "sig"), &signature_bytes);
    enum verdict verdict = VERDICT_BAD_SIGNATURE;

    /* A longer one does not get through the shape. */
    if (signature_bytes <= sizeof(jws.signature)) {
        jws.signing_input = (const char *)message;
        jws.signing_input_bytes = message_bytes;
        memcpy(jws.signature, signature, signature_bytes);
        jws.signature_bytes = signature_bytes;
        verdict = jws_verify(context, &jws, key);
    }
    free(message);
    free(signature);
    return verdict;
}

static struct jwk *key_of_group(const json_t *group)
{
    const json_t *public = json_object_get(group, "publicKey");
    const char *modulus = text_of(public, "modulus");
    struct jwk *key = NULL;
    char why[JWKS_WHY_BYTES];
    size_t bytes;
    unsigned char *data = from_hex(modulus, &bytes);
    size_t zeros = 0;
    char *n;

    while (zeros < bytes && data[zeros] == 0)
        zeros++;
    n = signer_base64url(data + zeros, bytes - zeros);
    ck_assert_msg(jwk_new("wycheproof", n, &key, why) == 0, "%s", why);
    free(n);
    free(data);
    return key;
}

START_TEST(wycheproof_pkcs1)
{
    json_t *root = load_json("wycheproof/rsa_signature_2048_sha256_test.json");
    const json_t *group, *test;
    struct jws_context *context;
    unsigned valid = 0, invalid = 0, weak_exponent = 0;
    size_t i, j;

    ck_assert_int_eq(jws_context_new(&context), 0);
    json_array_foreach(json_object_get(root, "testGroups"), i, group)
    {
        const char *exponent = text_of(json_object_get(group, "publicKey"), "publicExponent");
        struct jwk *key;

        /* The groups with e = 3 fall to the key policy; this room cannot even say such a key. */
        if (strcmp(exponent, "010001") != 0 && strcmp(exponent, "10001") != 0) {
            weak_exponent++;
            continue;
        }
        key = key_of_group(group);
        json_array_foreach(json_object_get(group, "tests"), j, test)
        {
            const char *result = text_of(test, "result");
            enum verdict verdict = verify_raw(context, key, test);

            if (strcmp(result, "valid") == 0) {
                ck_assert_int_eq(verdict, VERDICT_ACCEPTED);
                valid++;
            } else if (strcmp(result, "invalid") == 0) {
                ck_assert_int_eq(verdict, VERDICT_BAD_SIGNATURE);
                invalid++;
            }
        }
        jwk_unref(key);
    }
    jws_context_free(context);
    json_decref(root);
    ck_assert_uint_eq(valid, 7);
    ck_assert_uint_eq(invalid, 249);
    ck_assert_uint_eq(weak_exponent, 2);
}
END_TEST

/* A file of the RFC folder, or of another one that it names (some are links kept as text). */
static char *read_jwk(const char *name)
{
    size_t bytes;
    char *text = vectors_read(name, &bytes);
    char path[256];

    if (text[0] == '{')
        return text;
    snprintf(path, sizeof(path), "rfc/%.*s", (int)token_length(text, bytes), text);
    free(text);
    return vectors_read(path, &bytes);
}

/* The public half of an RSA example key, as a set with this kid. */
static char *public_set(const char *jwk_name, const char *kid)
{
    char *text = read_jwk(jwk_name);
    json_t *jwk = json_loads(text, 0, NULL);
    char *set;

    ck_assert_msg(jwk != NULL, "%s", jwk_name);
    set = signer_text("{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"%s\",\"e\":\"%s\",\"n\":\"%s\"}]}",
                      kid, text_of(jwk, "e"), text_of(jwk, "n"));
    json_decref(jwk);
    free(text);
    return set;
}

/* RFC 7515 A.2 has no kid, so its shape is refused; its signature is the one that must verify. */
START_TEST(rfc_7515_a2_signature_verifies)
{
    size_t bytes;
    char *token = vectors_read("rfc/rfc7515_A.2.jwsc", &bytes);
    char *set_text = public_set("rfc/rfc7515_A.2.jwk", "a2");
    const char *second_dot = strrchr(token, '.');
    struct jws_context *context;
    struct jwks *set;
    struct jws jws = {0};
    char why[JWKS_WHY_BYTES];

    bytes = token_length(token, bytes);
    ck_assert_int_eq(jws_parse(token, bytes, &jws), VERDICT_JWS_MALFORMED);

    jws.signing_input = token;
    jws.signing_input_bytes = (size_t)(second_dot - token);
    ck_assert_int_eq(base64url_decode(second_dot + 1, bytes - jws.signing_input_bytes - 1,
                                      jws.signature, sizeof(jws.signature), &jws.signature_bytes),
                     0);
    ck_assert_int_eq(jwks_parse(set_text, strlen(set_text), &set, why), 0);
    ck_assert_int_eq(jws_context_new(&context), 0);
    ck_assert_int_eq(jws_verify(context, &jws, jwks_at(set, 0)), VERDICT_ACCEPTED);
    jws.signature[0] ^= 1;
    ck_assert_int_eq(jws_verify(context, &jws, jwks_at(set, 0)), VERDICT_BAD_SIGNATURE);

    jws_context_free(context);
    jwks_free(set);
    free(set_text);
    free(token);
}
END_TEST

static unsigned rfc_tokens_accepted;

static void try_rfc_token(const char *name, char *text, size_t bytes)
{
    const char *kid = "bilbo.baggins@hobbiton.example";
    char *set_text;

    if (strstr(name, ".jws") == NULL)
        return;
    text[token_length(text, bytes)] = '\0';
    set_text = public_set("rfc/rfc7520_4.1.jwk", kid);
    if (verify_alone(set_text, text) == VERDICT_ACCEPTED) {
        ck_assert_str_eq(name, "rfc7520_4.1.jwsc");
        rfc_tokens_accepted++;
    }
    ck_assert_int_ne(judge_alone(set_text, text), VERDICT_ACCEPTED);
    free(set_text);
}

/* Every serialization, flattened, general, detached, unsigned, of every algorithm. */
START_TEST(rfc_examples_only_rs256_compact)
{
    rfc_tokens_accepted = 0;
    ck_assert_uint_gt(for_each_file("rfc", "rfc", try_rfc_token), 40);
    ck_assert_uint_eq(rfc_tokens_accepted, 1);
}
END_TEST

/* Key sets and lone keys of the RFCs as key sets. */
static void try_rfc_set(const char *name, char *text, size_t bytes)
{
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES] = "";

    if (strstr(name, ".jwk") == NULL)
        return;
    if (jwks_parse(text, bytes, &set, why) == 0) {
        /* RFC 7517 A.1 has one EC key, for encryption, and one RSA key that may be used. */
        ck_assert_str_eq(name, "rfc7517_A.1.jwkset");
        ck_assert_uint_eq(jwks_count(set), 1);
        ck_assert_uint_eq(jwks_passed_over(set), 1);
        ck_assert_str_eq(jwk_kid(jwks_at(set, 0)), "2011-04-29");
        jwks_free(set);
    } else {
        ck_assert_uint_gt(strlen(why), 0);
    }
}

START_TEST(rfc_keys)
{
    ck_assert_uint_gt(for_each_file("rfc", "rfc", try_rfc_set), 40);
}
END_TEST

static struct signer signer;
static char *signer_set_text;

/* Judges a token that signer signed for the claims, or the header, of a vector. */
static enum verdict judge_signed(char *token)
{
    enum verdict verdict = judge_alone(signer_set_text, token);

    free(token);
    return verdict;
}

/* One text of the JSON suite in every place where this room reads JSON: never accepted where the
 * suite says it is no JSON, and nowhere a crash or a fault of ours. */
static void try_json_everywhere(const char *name, char *text, size_t bytes)
{
    const bool never = name[0] == 'n';
    struct notification notification;
    struct notification_token token;
    struct jwks *set = NULL;
    char why[JWKS_WHY_BYTES];
    char *jwt, *claims, *key_set;
    json_t *quoted;
    enum verdict verdict;

    verdict = notification_find_token(text, bytes, &token);
    ck_assert_msg(verdict == VERDICT_BAD_BODY || verdict == VERDICT_TOO_LARGE, "%s: %s", name,
                  verdict_label(verdict));

    ck_assert_msg(jwks_parse(text, bytes, &set, why) == -EINVAL, "%s", name);
    /* And as one member of a set that would be good without it. */
    key_set = malloc(bytes + strlen(signer_set_text) + 64);
    ck_assert(key_set != NULL);
    size_t prefix = (size_t)sprintf(key_set, "{\"x\":");
    memcpy(key_set + prefix, text, bytes);
    size_t rest = (size_t)sprintf(key_set + prefix + bytes, ",%s", signer_set_text + 1);
    if (jwks_parse(key_set, prefix + bytes + rest, &set, why) == 0) {
        ck_assert_msg(!never, "%s as a member of a key set", name);
        jwks_free(set);
    }
    free(key_set);

    if (bytes < 40000) {
        jwt = signer_token_with(&signer, "{\"kid\":\"k\",\"alg\":\"RS256\"}", text, bytes);
        verdict = judge_signed(jwt);
        ck_assert_msg(verdict == VERDICT_CLAIMS_MALFORMED, "%s as claims: %s", name,
                      verdict_label(verdict));
    }
    if (bytes < 700 && memchr(text, '\0', bytes) == NULL) {
        /* As the header alone, and as a member of one that would be good without it. */
        jwt = signer_token_with(&signer, text, "{}", 2);
        ck_assert_msg(judge_signed(jwt) != VERDICT_CLAIMS_MALFORMED, "%s as header", name);
        claims = signer_text("{\"kid\":\"k\",\"alg\":\"RS256\",\"x\":%s}", text);
        jwt = signer_token_with(&signer, claims, "{}", 2);
        verdict = judge_signed(jwt);
        if (never)
            ck_assert_msg(verdict == VERDICT_JWS_MALFORMED, "%s in a header: %s", name,
                          verdict_label(verdict));
        free(claims);
    }

    quoted = json_stringn(text, bytes);
    if (!quoted)
        return; /* not UTF-8: no JSON string can hold it */
    char *events = json_dumps(quoted, JSON_ENCODE_ANY);

    json_decref(quoted);
    claims = signer_claims("https://appleid.apple.com", "com.example.app", 1700000000, "j", events);
    verdict = notification_parse(claims, strlen(claims), &notification);
    if (verdict == VERDICT_ACCEPTED) {
        ck_assert_msg(notification.event_count == 0, "%s as events", name);
        ck_assert(notification.has_events);
        notification_release(&notification);
    } else {
        /* A NUL inside the string. */
        ck_assert_msg(memchr(text, '\0', bytes) != NULL, "%s as events: %s", name,
                      verdict_label(verdict));
    }
    free(claims);
    free(events);
}

START_TEST(json_suite_in_every_place)
{
    unsigned tried = for_each_file("JSONTestSuite/test_parsing", "n_", try_json_everywhere) +
                     for_each_file("JSONTestSuite/test_parsing", "y_", try_json_everywhere) +
                     for_each_file("JSONTestSuite/test_parsing", "i_", try_json_everywhere);

    ck_assert_uint_gt(tried, 300);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vectors");
    TCase *tests = tcase_create("vectors");
    SRunner *runner = srunner_create(suite);
    int failed;

    if (!vectors_present("test_vectors"))
        return EXIT_SUCCESS;
    json_object_seed(1);
    signer = signer_make("k");
    signer_set_text = signer_jwks(&signer, 1);

    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, apple_notifications_are_accepted);
    tcase_add_test(tests, apple_notifications_with_a_flipped_bit);
    tcase_add_test(tests, apple_id_tokens_are_refused);
    tcase_add_test(tests, apple_key_sets_load_whole);
    tcase_add_test(tests, wycheproof_signature_layer);
    tcase_add_test(tests, wycheproof_key_sets);
    tcase_add_test(tests, wycheproof_pkcs1);
    tcase_add_test(tests, rfc_7515_a2_signature_verifies);
    tcase_add_test(tests, rfc_examples_only_rs256_compact);
    tcase_add_test(tests, rfc_keys);
    tcase_add_test(tests, json_suite_in_every_place);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    signer_free(&signer);
    free(signer_set_text);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
