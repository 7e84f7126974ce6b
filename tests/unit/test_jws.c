#include <check.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "memory_faults.h"
#include "signer.h"
#include "verifier/jwks.h"
#include "verifier/jws.h"

#define HEADER  "{\"kid\":\"k\",\"alg\":\"RS256\"}"
#define PAYLOAD "{\"iss\":\"https://appleid.apple.com\",\"events\":\"{}\"}"

static struct signer signer, impostor, big;
static struct jwk *key, *impostor_key, *big_key;
static char *good_token;
static struct jws_context *context;

static struct jwk *public_half(const struct signer *of, const char *kid)
{
    struct jwk *made = NULL;
    char *n = signer_n(of);
    char why[JWKS_WHY_BYTES];

    SIGNER_NEEDS(jwk_new(kid, n, &made, why) == 0);
    free(n);
    return made;
}

/* What comes of a token where key is the only one: its shape, and then its signature. */
static enum verdict judge(const char *token, size_t bytes)
{
    struct jws jws;
    enum verdict verdict = jws_parse(token, bytes, &jws);

    if (verdict == VERDICT_ACCEPTED)
        verdict = jws_verify(context, &jws, key);
    ck_assert_uint_eq(ERR_peek_error(), 0);
    return verdict;
}

static enum verdict judge_text(const char *token)
{
    return judge(token, strlen(token));
}

static enum verdict judge_and_free(char *token)
{
    enum verdict verdict = judge_text(token);

    free(token);
    return verdict;
}

START_TEST(a_token_and_its_parts)
{
    struct jws jws;
    size_t bytes = strlen(good_token);
    const char *first_dot = strchr(good_token, '.'), *second_dot = strrchr(good_token, '.');

    ck_assert_int_eq(jws_parse(good_token, bytes, &jws), VERDICT_ACCEPTED);
    ck_assert_ptr_eq(jws.signing_input, good_token);
    ck_assert_uint_eq(jws.signing_input_bytes, (size_t)(second_dot - good_token));
    ck_assert_ptr_eq(jws.payload, first_dot + 1);
    ck_assert_uint_eq(jws.payload_bytes, (size_t)(second_dot - first_dot - 1));
    ck_assert_str_eq(jws.kid, "k");
    ck_assert_uint_eq(jws.kid_bytes, 1);
    ck_assert_uint_eq(jws.signature_bytes, 256);
    ck_assert_int_eq(jws_verify(context, &jws, key), VERDICT_ACCEPTED);
    /* A context is reusable, whatever came before. */
    jws.signature[255] ^= 1;
    ck_assert_int_eq(jws_verify(context, &jws, key), VERDICT_BAD_SIGNATURE);
    jws.signature[255] ^= 1;
    ck_assert_int_eq(jws_verify(context, &jws, key), VERDICT_ACCEPTED);
}
END_TEST

/* The member's value decides, not its place, its spelling in JSON, or what stands beside it. */
START_TEST(what_a_header_may_say)
{
    static const struct {
        const char *header;
        enum verdict verdict;
    } cases[] = {
        {HEADER, VERDICT_ACCEPTED},
        {"{\"alg\":\"RS256\",\"kid\":\"k\"}", VERDICT_ACCEPTED},
        {" { \"kid\" : \"k\" ,\n\"alg\":\t\"RS256\" } \r\n", VERDICT_ACCEPTED},
        {"{\"kid\":\"\\u006b\",\"\\u0061lg\":\"RS\\u003256\"}", VERDICT_ACCEPTED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"typ\":\"JWT\"}", VERDICT_ACCEPTED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"cty\":7,\"zip\":\"DEF\"}", VERDICT_ACCEPTED},
        {"{\"kid\":\"\\\"\\\\\",\"alg\":\"RS256\"}", VERDICT_ACCEPTED},
        {"{\"kid\":\" ~\",\"alg\":\"RS256\"}", VERDICT_ACCEPTED},

        /* Every algorithm but one: no signature at all, a secret that is the public key, what
         * Apple's page names, other hashes, other paddings, other spellings, other types. */
        {"{\"kid\":\"k\",\"alg\":\"none\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"None\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"NONE\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"HS256\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"ES256\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"E256\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS384\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS512\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"PS256\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"EdDSA\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"rs256\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS256 \"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS2566\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS25\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":256}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":null}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":[\"RS256\"]}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":{\"RS256\":1}}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"alg\":true}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"ALG\":\"RS256\"}", VERDICT_ALG_REFUSED},
        {"{}", VERDICT_ALG_REFUSED},

        /* What must be understood and is not, RFC 7515 section 4.1.11 and RFC 7797. */
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"crit\":[\"exp\"],\"exp\":1}", VERDICT_CRIT_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"crit\":[]}", VERDICT_CRIT_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"crit\":null}", VERDICT_CRIT_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"b64\":false,\"crit\":[\"b64\"]}",
         VERDICT_CRIT_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"b64\":true}", VERDICT_CRIT_REFUSED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"b64\":null}", VERDICT_CRIT_REFUSED},

        {"{\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        /* As long as Apple's, and its end. */
        {"{\"dik\":\"k\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"[\"kid\":\"k\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS257\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":\"k\",\"gla\":\"RS256\"}", VERDICT_ALG_REFUSED},
        {"{\"kid\":null,\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":7,\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":[\"k\"],\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"a\\u0000b\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"a\\nb\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"a\nb\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"\x7f\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"\xc3\xa9\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"\xff\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"typ\":7}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"typ\":null}", VERDICT_JWS_MALFORMED},

        /* Two readers that take different ones of two members verify under different keys. */
        {"{\"kid\":\"k\",\"kid\":\"x\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"x\",\"kid\":\"k\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"none\",\"alg\":\"RS256\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"\\u0061lg\":\"none\"}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",\"x\":{\"y\":1,\"y\":2}}", VERDICT_JWS_MALFORMED},

        {"", VERDICT_JWS_MALFORMED},
        {"{", VERDICT_JWS_MALFORMED},
        {"[]", VERDICT_JWS_MALFORMED},
        {"[{\"kid\":\"k\",\"alg\":\"RS256\"}]", VERDICT_JWS_MALFORMED},
        {"\"RS256\"", VERDICT_JWS_MALFORMED},
        {"null", VERDICT_JWS_MALFORMED},
        {HEADER HEADER, VERDICT_JWS_MALFORMED},
        {HEADER "x", VERDICT_JWS_MALFORMED},
        {"\xef\xbb\xbf" HEADER, VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\",}", VERDICT_JWS_MALFORMED},
        {"{'kid':'k','alg':'RS256'}", VERDICT_JWS_MALFORMED},
        {"{\"kid\":\"k\",\"alg\":\"RS256\"/*,\"x\":1*/}", VERDICT_JWS_MALFORMED},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum verdict verdict =
            judge_and_free(signer_token_with(&signer, cases[i].header, PAYLOAD, strlen(PAYLOAD)));

        ck_assert_msg(verdict == cases[i].verdict, "%s: %s", cases[i].header,
                      verdict_label(verdict));
    }
}
END_TEST

/* A header that names its own key, by value or by address, must not be believed: anybody can sign
 * with a key of their own. */
START_TEST(keys_in_the_header_are_never_looked_at)
{
    static const char *const members[] = {
        "\"jwk\":{\"kty\":\"RSA\",\"e\":\"AQAB\",\"kid\":\"k\",\"n\":\"%s\"}",
        "\"jku\":\"https://attacker.example/%.1s\"",
        "\"x5u\":\"https://attacker.example/%.1s\"",
        "\"x5c\":[\"%s\"]",
        "\"x5t\":\"%.1s\",\"x5t#S256\":7",
    };
    char *n = signer_n(&impostor);

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        char member[1024], *header;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(member, sizeof(member), members[i], n);
#pragma GCC diagnostic pop
        header = signer_text("{\"kid\":\"k\",\"alg\":\"RS256\",%s}", member);
        ck_assert_int_eq(judge_and_free(signer_token_with(&impostor, header, PAYLOAD, 2)),
                         VERDICT_BAD_SIGNATURE);
        ck_assert_int_eq(judge_and_free(signer_token_with(&signer, header, PAYLOAD, 2)),
                         VERDICT_ACCEPTED);
        free(header);
    }
    free(n);
}
END_TEST

START_TEST(length_of_the_kid)
{
    char kid[JWK_KID_MAX_BYTES + 2];

    /* Both ways of reading a header: Apple's to the letter, and by jansson. */
    for (size_t bytes = 1; bytes <= JWK_KID_MAX_BYTES + 1; bytes++) {
        enum verdict expected =
            bytes <= JWK_KID_MAX_BYTES ? VERDICT_ACCEPTED : VERDICT_JWS_MALFORMED;
        char *headers[2];

        memset(kid, 'x', bytes);
        kid[bytes] = '\0';
        headers[0] = signer_text("{\"kid\":\"%s\",\"alg\":\"RS256\"}", kid);
        headers[1] = signer_text("{\"alg\":\"RS256\",\"kid\":\"%s\"}", kid);
        for (size_t i = 0; i < 2; i++) {
            char *token = signer_token_with(&signer, headers[i], PAYLOAD, strlen(PAYLOAD));
            struct jws jws;

            ck_assert_int_eq(jws_parse(token, strlen(token), &jws), expected);
            if (expected == VERDICT_ACCEPTED) {
                ck_assert_str_eq(jws.kid, kid);
                ck_assert_uint_eq(jws.kid_bytes, bytes);
            }
            free(token);
            free(headers[i]);
        }
    }
}
END_TEST

/* What is decoded before a key is known is bounded. */
START_TEST(length_of_the_header_and_the_token)
{
    char spaces[JWS_HEADER_MAX_BYTES + 1];
    char *payload = malloc(JWS_TOKEN_MAX_BYTES);
    char *header, *token;

    memset(spaces, ' ', sizeof(spaces));
    header = signer_text("%s%.*s", HEADER, (int)(JWS_HEADER_MAX_BYTES - strlen(HEADER)), spaces);
    ck_assert_int_eq(judge_and_free(signer_token_with(&signer, header, PAYLOAD, 2)),
                     VERDICT_ACCEPTED);
    free(header);
    header =
        signer_text("%s%.*s", HEADER, (int)(JWS_HEADER_MAX_BYTES + 1 - strlen(HEADER)), spaces);
    ck_assert_int_eq(judge_and_free(signer_token_with(&signer, header, PAYLOAD, 2)),
                     VERDICT_JWS_MALFORMED);
    free(header);

    /* 32 characters of header and dot, 343 of dot and signature: 48870 bytes fill the rest. */
    ck_assert(payload != NULL);
    memset(payload, ' ', JWS_TOKEN_MAX_BYTES);
    for (size_t bytes = 48800; bytes < 48900; bytes++) {
        token = signer_token_with(&signer, HEADER, payload, bytes);
        ck_assert_int_eq(judge_text(token), strlen(token) <= JWS_TOKEN_MAX_BYTES
                                                ? VERDICT_ACCEPTED
                                                : VERDICT_JWS_MALFORMED);
        free(token);
    }
    free(payload);
}
END_TEST

/* Not one bit of what was signed, or of the signature, may be another one. */
START_TEST(every_flipped_bit_is_refused)
{
    size_t bytes = strlen(good_token);

    ck_assert_int_eq(judge(good_token, bytes), VERDICT_ACCEPTED);
    for (size_t at = 0; at < bytes; at++) {
        for (int bit = 0; bit < 8; bit++) {
            good_token[at] = (char)(good_token[at] ^ (1 << bit));
            ck_assert_msg(judge(good_token, bytes) != VERDICT_ACCEPTED, "bit %d of byte %zu", bit,
                          at);
            good_token[at] = (char)(good_token[at] ^ (1 << bit));
        }
    }
    ck_assert_int_eq(judge(good_token, bytes), VERDICT_ACCEPTED);
}
END_TEST

/* Unused bits of a last character, padding, other alphabets and white space would give one token
 * many spellings, and whoever remembers tokens by their text would be fooled. */
START_TEST(every_other_character_and_insertion_is_refused)
{
    size_t bytes = strlen(good_token);
    char *changed = malloc(bytes + 2);

    ck_assert(changed != NULL);
    for (size_t at = 0; at < bytes; at++) {
        bool last = at + 1 == bytes || good_token[at + 1] == '.';

        /* All 255 others at the end of a part, where spellings may differ; elsewhere a few. */
        for (unsigned other = 0; other < 256; other += last ? 1 : 37) {
            if ((char)other == good_token[at])
                continue;
            memcpy(changed, good_token, bytes);
            changed[at] = (char)other;
            ck_assert_int_ne(judge(changed, bytes), VERDICT_ACCEPTED);
        }
        memcpy(changed, good_token, at);
        memcpy(changed + at, good_token + at + 1, bytes - at - 1);
        ck_assert_int_ne(judge(changed, bytes - 1), VERDICT_ACCEPTED);
    }
    for (size_t at = 0; at <= bytes; at++) {
        static const char inserted[] = {'\0', ' ', '\n', '.', '=', 'A', '+', '/', '-', '%'};

        for (size_t i = 0; i < sizeof(inserted); i++) {
            memcpy(changed, good_token, at);
            changed[at] = inserted[i];
            memcpy(changed + at + 1, good_token + at, bytes - at);
            ck_assert_int_ne(judge(changed, bytes + 1), VERDICT_ACCEPTED);
        }
    }
    free(changed);
}
END_TEST

/* Also where the one who signs spelled it so: the bytes signed are the text, not what it decodes
 * to. */
START_TEST(other_spellings_are_refused_though_signed)
{
    static const struct {
        const char *payload; /* each decodes to the same {} */
        enum verdict verdict;
    } cases[] = {
        {"e30", VERDICT_ACCEPTED},       {"e31", VERDICT_JWS_MALFORMED},
        {"e32", VERDICT_JWS_MALFORMED},  {"e33", VERDICT_JWS_MALFORMED},
        {"e30=", VERDICT_JWS_MALFORMED}, {"e3 0", VERDICT_JWS_MALFORMED},
    };
    char *header = signer_base64url(HEADER, strlen(HEADER));

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *signing_input = signer_text("%s.%s", header, cases[i].payload);

        ck_assert_int_eq(judge_and_free(signer_sign_input(&signer, signing_input)),
                         cases[i].verdict);
        free(signing_input);
    }
    free(header);
}
END_TEST

START_TEST(three_parts)
{
    char *header = strndup(good_token, strcspn(good_token, "."));
    const char *signature = strrchr(good_token, '.') + 1;
    char *token;

    ck_assert_int_eq(judge("", 0), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge(NULL, 0), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_text("."), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_text(".."), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_text("..."), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_text(header), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(signer_text("%s.e30", header)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(signer_text("%s.e30.", header)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(signer_text(".e30.%s", signature)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(signer_text("%s.e30.%s.", header, signature)),
                     VERDICT_JWS_MALFORMED);
    /* Five parts are an encrypted token. */
    ck_assert_int_eq(judge_and_free(signer_text("%s.e30.%s.e30.e30", header, signature)),
                     VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(signer_text(".%s", good_token)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(signer_text("%s.", good_token)), VERDICT_JWS_MALFORMED);
    /* A payload that is not there was never signed with the rest. */
    ck_assert_int_eq(judge_and_free(signer_text("%s..%s", header, signature)),
                     VERDICT_BAD_SIGNATURE);
    token = signer_token_with(&signer, HEADER, "", 0);
    ck_assert_int_eq(judge_and_free(token), VERDICT_ACCEPTED);
    free(header);
}
END_TEST

/* A payload of one token under the header and the signature of another. */
START_TEST(swapped_parts_are_refused)
{
    char *other = signer_token_with(&signer, HEADER, "{\"sub\":\"somebody else\"}", 23);
    int head = (int)strcspn(good_token, ".") + 1;
    const char *payload = other + head;
    int payload_bytes = (int)strcspn(payload, ".");

    ck_assert_int_eq(judge_text(other), VERDICT_ACCEPTED);
    ck_assert_int_eq(judge_and_free(signer_text("%.*s%.*s%s", head, good_token, payload_bytes,
                                                payload, strrchr(good_token, '.'))),
                     VERDICT_BAD_SIGNATURE);
    free(other);
}
END_TEST

/* The oldest trick: HMAC with the public key, which everybody knows, as the secret. */
START_TEST(hmac_with_the_public_key_is_refused)
{
    static const char *const headers[] = {"{\"kid\":\"k\",\"alg\":\"HS256\"}", HEADER};
    char *secret = signer_n(&signer);

    for (size_t i = 0; i < 2; i++) {
        char *first = signer_base64url(headers[i], strlen(headers[i]));
        char *input = signer_text("%s.e30", first);
        unsigned char mac[32];
        unsigned mac_bytes = sizeof(mac);
        char *third;

        ck_assert_ptr_nonnull(HMAC(EVP_sha256(), secret, (int)strlen(secret),
                                   (const unsigned char *)input, strlen(input), mac, &mac_bytes));
        third = signer_base64url(mac, mac_bytes);
        ck_assert_int_eq(judge_and_free(signer_text("%s.%s", input, third)),
                         i == 0 ? VERDICT_ALG_REFUSED : VERDICT_JWS_MALFORMED);
        free(third);
        free(input);
        free(first);
    }
    free(secret);
}
END_TEST

static char *with_signature(const unsigned char *signature, size_t bytes)
{
    char *third = signer_base64url(signature, bytes);
    char *token =
        signer_text("%.*s.%s", (int)(strrchr(good_token, '.') - good_token), good_token, third);

    free(third);
    return token;
}

/* RFC 8017 section 8.2.2: a signature is as long as the modulus, and a number below it. */
START_TEST(lengths_and_values_of_the_signature)
{
    unsigned char signature[600] = {0};
    struct jws jws;
    BIGNUM *n = NULL, *s = BN_new();

    ck_assert_int_eq(jws_parse(good_token, strlen(good_token), &jws), VERDICT_ACCEPTED);

    /* The right number with zero bytes before it, and without its last byte. */
    memcpy(signature + 1, jws.signature, 256);
    ck_assert_int_eq(judge_and_free(with_signature(signature, 257)), VERDICT_BAD_SIGNATURE);
    ck_assert_int_eq(judge_and_free(with_signature(signature + 1, 255)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(with_signature(signature, 0)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(with_signature(signature, 512)), VERDICT_BAD_SIGNATURE);
    ck_assert_int_eq(judge_and_free(with_signature(signature, 513)), VERDICT_JWS_MALFORMED);
    ck_assert_int_eq(judge_and_free(with_signature(signature + 1, 256)), VERDICT_ACCEPTED);

    /* 0, 1, n - 1, n, s + n (if it fits), all ones: numbers that a careless verifier lets by. */
    memset(signature, 0, sizeof(signature));
    ck_assert_int_eq(judge_and_free(with_signature(signature, 256)), VERDICT_BAD_SIGNATURE);
    signature[255] = 1;
    ck_assert_int_eq(judge_and_free(with_signature(signature, 256)), VERDICT_BAD_SIGNATURE);
    ck_assert_int_eq(EVP_PKEY_get_bn_param(signer.key, OSSL_PKEY_PARAM_RSA_N, &n), 1);
    ck_assert_int_eq(BN_bn2binpad(n, signature, 256), 256);
    ck_assert_int_eq(judge_and_free(with_signature(signature, 256)), VERDICT_BAD_SIGNATURE);
    signature[255] ^= 1;
    ck_assert_int_eq(judge_and_free(with_signature(signature, 256)), VERDICT_BAD_SIGNATURE);
    memset(signature, 0xff, sizeof(signature));
    ck_assert_int_eq(judge_and_free(with_signature(signature, 256)), VERDICT_BAD_SIGNATURE);
    ck_assert_ptr_nonnull(BN_bin2bn(jws.signature, 256, s));
    ck_assert_int_eq(BN_add(s, s, n), 1);
    ck_assert_int_eq(BN_bn2binpad(s, signature, 257), 257);
    ck_assert_int_eq(judge_and_free(with_signature(signature, 257)), VERDICT_BAD_SIGNATURE);
    BN_free(n);
    BN_free(s);
}
END_TEST

/* PSS, and SHA-384, with the right key: a right signature of the wrong kind. */
START_TEST(other_paddings_and_hashes_are_refused)
{
    for (int pss = 0; pss <= 1; pss++) {
        size_t input_bytes = (size_t)(strrchr(good_token, '.') - good_token);
        unsigned char signature[256];
        size_t bytes = sizeof(signature);
        EVP_MD_CTX *digest = EVP_MD_CTX_new();
        EVP_PKEY_CTX *state = NULL;

        ck_assert_int_eq(EVP_DigestSignInit_ex(digest, &state, pss ? "SHA256" : "SHA384", NULL,
                                               NULL, signer.key, NULL),
                         1);
        if (pss)
            ck_assert_int_eq(EVP_PKEY_CTX_set_rsa_padding(state, RSA_PKCS1_PSS_PADDING), 1);
        ck_assert_int_eq(EVP_DigestSign(digest, signature, &bytes,
                                        (const unsigned char *)good_token, input_bytes),
                         1);
        EVP_MD_CTX_free(digest);
        ck_assert_int_eq(judge_and_free(with_signature(signature, bytes)), VERDICT_BAD_SIGNATURE);
    }
}
END_TEST

START_TEST(another_key_did_not_sign)
{
    char *token = signer_token_with(&impostor, HEADER, PAYLOAD, strlen(PAYLOAD));
    struct jws jws;

    ck_assert_int_eq(judge_text(token), VERDICT_BAD_SIGNATURE);
    ck_assert_int_eq(jws_parse(token, strlen(token), &jws), VERDICT_ACCEPTED);
    ck_assert_int_eq(jws_verify(context, &jws, impostor_key), VERDICT_ACCEPTED);
    free(token);
}
END_TEST

START_TEST(bigger_keys_verify)
{
    char *token = signer_token_with(&big, HEADER, PAYLOAD, strlen(PAYLOAD));
    struct jws jws;

    ck_assert_int_eq(jws_parse(token, strlen(token), &jws), VERDICT_ACCEPTED);
    ck_assert_uint_eq(jws.signature_bytes, 384);
    ck_assert_int_eq(jws_verify(context, &jws, big_key), VERDICT_ACCEPTED);
    ck_assert_int_eq(jws_verify(context, &jws, key), VERDICT_BAD_SIGNATURE);
    jws.signature[7] ^= 4;
    ck_assert_int_eq(jws_verify(context, &jws, big_key), VERDICT_BAD_SIGNATURE);
    free(token);
}
END_TEST

/* A context keeps the state of some keys. More keys than it keeps, and keys that are gone while it
 * lives on, must never make it verify with another one's state. */
START_TEST(many_keys_through_one_context)
{
    const struct signer *signers[] = {&signer, &impostor};
    struct jws jws[2];
    char *tokens[2];

    for (size_t i = 0; i < 2; i++) {
        tokens[i] = signer_token_with(signers[i], HEADER, PAYLOAD, strlen(PAYLOAD));
        ck_assert_int_eq(jws_parse(tokens[i], strlen(tokens[i]), &jws[i]), VERDICT_ACCEPTED);
    }
    for (unsigned round = 0; round < 200; round++) {
        struct jwk *held[12];

        /* New objects each round, at addresses that the last round has freed. */
        for (unsigned i = 0; i < 12; i++)
            held[i] = public_half(signers[(i + round) % 2], "k");
        for (unsigned i = 0; i < 12; i++) {
            unsigned who = (i + round) % 2;

            ck_assert_int_eq(jws_verify(context, &jws[who], held[i]), VERDICT_ACCEPTED);
            ck_assert_int_eq(jws_verify(context, &jws[1 - who], held[i]), VERDICT_BAD_SIGNATURE);
        }
        for (unsigned i = 0; i < 12; i++)
            jwk_unref(held[i]);
    }
    free(tokens[0]);
    free(tokens[1]);
}
END_TEST

/* Out of memory while verifying must not be a bad signature: that answers 400, and Apple would not
 * come again. */
START_TEST(out_of_memory_never_blames_the_token)
{
    static const char *const headers[] = {HEADER, "{\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":"
                                                  "\"a kid of more than sixteen characters\"}"};
    unsigned long failures = 0;

    for (size_t i = 0; i < 4; i++) {
        char *token = signer_token_with(&signer, headers[i / 2], PAYLOAD, strlen(PAYLOAD));
        size_t bytes = strlen(token);

        for (unsigned long fail = 1;; fail++) {
            struct jws_context *fresh = NULL;
            struct jws jws;
            enum verdict verdict = VERDICT_INTERNAL;
            bool failed;

            memory_faults_arm(fail, i % 2);
            if (jws_context_new(&fresh) == 0) {
                verdict = jws_parse(token, bytes, &jws);
                if (verdict == VERDICT_ACCEPTED)
                    verdict = jws_verify(fresh, &jws, key);
            }
            failed = memory_faults_disarm();
            ck_assert_msg(verdict == VERDICT_ACCEPTED || (failed && verdict == VERDICT_INTERNAL),
                          "allocation %lu: %s", fail, verdict_label(verdict));
            if (fresh && verdict == VERDICT_INTERNAL) {
                /* And it works again as soon as there is memory. */
                ck_assert_int_eq(jws_parse(token, bytes, &jws), VERDICT_ACCEPTED);
                ck_assert_int_eq(jws_verify(fresh, &jws, key), VERDICT_ACCEPTED);
            }
            jws_context_free(fresh);
            if (!failed)
                break;
            failures++;
        }
        free(token);
    }
    ck_assert_uint_gt(failures, 20);
}
END_TEST

/* Nor does it ever let a bad signature in. */
START_TEST(out_of_memory_lets_nothing_in)
{
    struct jws jws;
    unsigned long failures = 0;

    ck_assert_int_eq(jws_parse(good_token, strlen(good_token), &jws), VERDICT_ACCEPTED);
    jws.signature[100] ^= 1;
    for (int from_then_on = 0; from_then_on <= 1; from_then_on++)
        for (unsigned long fail = 1;; fail++) {
            struct jws_context *fresh = NULL;
            enum verdict verdict;

            ck_assert_int_eq(jws_context_new(&fresh), 0);
            memory_faults_arm(fail, from_then_on);
            verdict = jws_verify(fresh, &jws, key);
            if (!memory_faults_disarm()) {
                ck_assert_int_eq(verdict, VERDICT_BAD_SIGNATURE);
                jws_context_free(fresh);
                break;
            }
            failures++;
            ck_assert_msg(verdict == VERDICT_INTERNAL || verdict == VERDICT_BAD_SIGNATURE,
                          "allocation %lu: %s", fail, verdict_label(verdict));
            jws_context_free(fresh);
        }
    ck_assert_uint_gt(failures, 4);
}
END_TEST

/* Apple's header is read without a tree: that takes no memory but the caller's. */
START_TEST(apples_header_takes_no_memory)
{
    char kid[JWK_KID_MAX_BYTES + 1] = "", header[128];

    for (size_t bytes = 1; bytes <= JWK_KID_MAX_BYTES; bytes++) {
        enum verdict verdict;
        struct jws jws;
        char *token;
        bool failed;

        kid[bytes - 1] = (char)('a' + bytes % 26);
        (void)snprintf(header, sizeof(header), "{\"kid\":\"%s\",\"alg\":\"RS256\"}", kid);
        token = signer_token_with(&signer, header, PAYLOAD, strlen(PAYLOAD));
        memory_faults_arm(1, true);
        verdict = jws_parse(token, strlen(token), &jws);
        failed = memory_faults_disarm();
        ck_assert_int_eq(verdict, VERDICT_ACCEPTED);
        ck_assert(!failed);
        ck_assert_str_eq(jws.kid, kid);
        free(token);
    }
}
END_TEST

START_TEST(contexts_may_be_null)
{
    jws_context_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("jws");
    TCase *tests = tcase_create("jws");
    SRunner *runner = srunner_create(suite);
    int failed;

    signer = signer_make("k");
    impostor = signer_make("k");
    big = signer_make_with("k", 3072, 65537);
    key = public_half(&signer, "k");
    impostor_key = public_half(&impostor, "k");
    big_key = public_half(&big, "k");
    good_token = signer_token(&signer, PAYLOAD);
    SIGNER_NEEDS(jws_context_new(&context) == 0);

    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_token_and_its_parts);
    tcase_add_test(tests, what_a_header_may_say);
    tcase_add_test(tests, keys_in_the_header_are_never_looked_at);
    tcase_add_test(tests, length_of_the_kid);
    tcase_add_test(tests, length_of_the_header_and_the_token);
    tcase_add_test(tests, every_flipped_bit_is_refused);
    tcase_add_test(tests, every_other_character_and_insertion_is_refused);
    tcase_add_test(tests, other_spellings_are_refused_though_signed);
    tcase_add_test(tests, three_parts);
    tcase_add_test(tests, swapped_parts_are_refused);
    tcase_add_test(tests, hmac_with_the_public_key_is_refused);
    tcase_add_test(tests, lengths_and_values_of_the_signature);
    tcase_add_test(tests, other_paddings_and_hashes_are_refused);
    tcase_add_test(tests, another_key_did_not_sign);
    tcase_add_test(tests, bigger_keys_verify);
    tcase_add_test(tests, many_keys_through_one_context);
    tcase_add_test(tests, contexts_may_be_null);
    tcase_add_test(tests, apples_header_takes_no_memory);
    if (MEMORY_FAULTS_WORK) {
        tcase_add_test(tests, out_of_memory_never_blames_the_token);
        tcase_add_test(tests, out_of_memory_lets_nothing_in);
    } else {
        printf("SKIP out_of_memory_*: the sanitizer has its own allocator\n");
    }
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    jws_context_free(context);
    free(good_token);
    jwk_unref(key);
    jwk_unref(impostor_key);
    jwk_unref(big_key);
    signer_free(&signer);
    signer_free(&impostor);
    signer_free(&big);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
