#include "verifier/jws.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/base64url.h"
#include "verifier/json_text.h"

#define SHA256_BYTES 32

/* Keys whose prepared state a context keeps; Apple signs with 1 to 5 at a time. */
#define PREPARED_KEYS 8

struct jws_context {
    EVP_MD *sha256;
    EVP_MD_CTX *digest;
    EVP_PKEY_CTX *prepared[PREPARED_KEYS]; /* each holds a reference to its key */
    size_t next_slot;
};

int jws_context_new(struct jws_context **ret_context)
{
    struct jws_context *context = calloc(1, sizeof(*context));

    if (!context)
        return -ENOMEM;
    ERR_set_mark();
    context->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    context->digest = EVP_MD_CTX_new();
    ERR_pop_to_mark();
    if (!context->sha256 || !context->digest) {
        jws_context_free(context);
        return -ENOMEM;
    }
    *ret_context = context;
    return 0;
}

void jws_context_free(struct jws_context *context)
{
    if (!context)
        return;
    for (size_t i = 0; i < PREPARED_KEYS; i++)
        EVP_PKEY_CTX_free(context->prepared[i]);
    EVP_MD_CTX_free(context->digest);
    EVP_MD_free(context->sha256);
    free(context);
}

/* Apple's header to the letter, `{"kid":"…","alg":"RS256"}`: reading it with jansson takes 30 times
 * as long. A kid with anything that JSON would escape is left to jansson. */
static bool match_apple_header(const char *header, size_t header_bytes, struct jws *jws)
{
    static const char before[] = "{\"kid\":\"";
    static const char behind[] = "\",\"alg\":\"RS256\"}";
    const size_t before_bytes = sizeof(before) - 1, behind_bytes = sizeof(behind) - 1;
    const char *kid = header + before_bytes;
    size_t kid_bytes;

    if (header_bytes < before_bytes + behind_bytes)
        return false;
    kid_bytes = header_bytes - before_bytes - behind_bytes;
    if (memcmp(header, before, before_bytes) != 0 ||
        memcmp(kid + kid_bytes, behind, behind_bytes) != 0 ||
        !json_text_printable(kid, kid_bytes, 1, JWK_KID_MAX_BYTES) || memchr(kid, '"', kid_bytes) ||
        memchr(kid, '\\', kid_bytes))
        return false;
    memcpy(jws->kid, kid, kid_bytes);
    jws->kid_bytes = kid_bytes;
    return true;
}

static enum verdict judge_header(const json_t *header, struct jws *jws)
{
    const json_t *alg = json_object_get(header, "alg");
    const json_t *kid = json_object_get(header, "kid");
    const json_t *typ = json_object_get(header, "typ");

    if (!json_is_object(header))
        return VERDICT_JWS_MALFORMED;
    if (!json_is_string(alg) || strcmp(json_string_value(alg), "RS256") != 0)
        return VERDICT_ALG_REFUSED;
    if (json_object_get(header, "crit") || json_object_get(header, "b64"))
        return VERDICT_CRIT_REFUSED;
    if (typ && !json_is_string(typ))
        return VERDICT_JWS_MALFORMED;
    if (!json_is_string(kid) ||
        !json_text_printable(json_string_value(kid), json_string_length(kid), 1, JWK_KID_MAX_BYTES))
        return VERDICT_JWS_MALFORMED;
    jws->kid_bytes = json_string_length(kid);
    memcpy(jws->kid, json_string_value(kid), jws->kid_bytes);
    return VERDICT_ACCEPTED;
}

static enum verdict parse_header(const char *text, size_t text_bytes, struct jws *jws)
{
    __attribute__((cleanup(json_text_release))) json_t *header = NULL;
    char data[JWS_HEADER_MAX_BYTES];
    size_t data_bytes;
    int error;

    if (base64url_decode(text, text_bytes, (unsigned char *)data, sizeof(data), &data_bytes) != 0)
        return VERDICT_JWS_MALFORMED;
    if (match_apple_header(data, data_bytes, jws))
        return VERDICT_ACCEPTED;
    error = json_text_parse(data, data_bytes, &header);
    if (error)
        return error == -ENOMEM ? VERDICT_INTERNAL : VERDICT_JWS_MALFORMED;
    return judge_header(header, jws);
}

enum verdict jws_parse(const char *token, size_t token_bytes, struct jws *ret_jws)
{
    struct jws jws = {0};
    const char *first_dot, *second_dot, *signature;
    const char *end;
    enum verdict verdict;

    if (token_bytes == 0 || token_bytes > JWS_TOKEN_MAX_BYTES)
        return VERDICT_JWS_MALFORMED;
    end = token + token_bytes;
    first_dot = memchr(token, '.', token_bytes);
    if (!first_dot)
        return VERDICT_JWS_MALFORMED;
    jws.payload = first_dot + 1;
    second_dot = memchr(jws.payload, '.', (size_t)(end - jws.payload));
    if (!second_dot)
        return VERDICT_JWS_MALFORMED;
    jws.payload_bytes = (size_t)(second_dot - jws.payload);
    jws.signing_input = token;
    jws.signing_input_bytes = (size_t)(second_dot - token);
    signature = second_dot + 1;

    /* A third dot is outside the alphabet and fails with the signature. */
    if (!base64url_is_canonical(jws.payload, jws.payload_bytes) ||
        !base64url_is_canonical(signature, (size_t)(end - signature)))
        return VERDICT_JWS_MALFORMED;
    verdict = parse_header(token, (size_t)(first_dot - token), &jws);
    if (verdict != VERDICT_ACCEPTED)
        return verdict;
    if (base64url_decode(signature, (size_t)(end - signature), jws.signature, sizeof(jws.signature),
                         &jws.signature_bytes) != 0 ||
        jws.signature_bytes < JWK_MODULUS_MIN_BITS / 8)
        return VERDICT_JWS_MALFORMED;
    *ret_jws = jws;
    return VERDICT_ACCEPTED;
}

/* A verification state for key: PKCS#1 v1.5 with SHA-256, ready for any number of signatures. */
static EVP_PKEY_CTX *prepare(EVP_PKEY *pkey)
{
    EVP_PKEY_CTX *prepared = EVP_PKEY_CTX_new_from_pkey(NULL, pkey, NULL);

    if (prepared && EVP_PKEY_verify_init(prepared) == 1 &&
        EVP_PKEY_CTX_set_rsa_padding(prepared, RSA_PKCS1_PADDING) == 1 &&
        EVP_PKEY_CTX_set_signature_md(prepared, EVP_sha256()) == 1)
        return prepared;
    EVP_PKEY_CTX_free(prepared);
    return NULL;
}

/* The slot of the context that is prepared for this key, or NULL when memory is out. The state
 * holds a reference to its key, so that an address cannot come to mean another key. */
static EVP_PKEY_CTX **find_prepared(struct jws_context *context, EVP_PKEY *pkey)
{
    EVP_PKEY_CTX **slot;

    for (size_t i = 0; i < PREPARED_KEYS; i++)
        if (context->prepared[i] && EVP_PKEY_CTX_get0_pkey(context->prepared[i]) == pkey)
            return &context->prepared[i];
    slot = &context->prepared[context->next_slot];
    context->next_slot = (context->next_slot + 1) % PREPARED_KEYS;
    EVP_PKEY_CTX_free(*slot);
    *slot = prepare(pkey);
    return *slot ? slot : NULL;
}

/* Whether one reason says that the signature is wrong, or only hands such a one on. */
static bool reason_blames_signature(unsigned long error)
{
    if (ERR_GET_LIB(error) == ERR_LIB_PROV)
        return ERR_GET_REASON(error) == ERR_R_RSA_LIB;
    return ERR_GET_LIB(error) == ERR_LIB_RSA && ERR_GET_REASON(error) != ERR_R_MALLOC_FAILURE;
}

/* Whether all that OpenSSL gave as reasons says that the signature is wrong. Anything else, memory
 * above all, is our fault and must not refuse a notification for good. */
static bool reasons_blame_signature(void)
{
    unsigned long error = ERR_get_error();
    bool blame = error != 0;

    for (; error != 0; error = ERR_get_error())
        blame = blame && reason_blames_signature(error);
    return blame;
}

static enum verdict verify(struct jws_context *context, const struct jws *jws, EVP_PKEY *pkey)
{
    unsigned char digest[SHA256_BYTES];
    EVP_PKEY_CTX **slot = find_prepared(context, pkey);

    if (!slot || EVP_DigestInit_ex2(context->digest, context->sha256, NULL) != 1 ||
        EVP_DigestUpdate(context->digest, jws->signing_input, jws->signing_input_bytes) != 1 ||
        EVP_DigestFinal_ex(context->digest, digest, NULL) != 1)
        return VERDICT_INTERNAL;
    if (EVP_PKEY_verify(*slot, jws->signature, jws->signature_bytes, digest, sizeof(digest)) == 1)
        return VERDICT_ACCEPTED;
    if (reasons_blame_signature())
        return VERDICT_BAD_SIGNATURE;
    /* After a failure of its own a state is not used again. */
    EVP_PKEY_CTX_free(*slot);
    *slot = NULL;
    return VERDICT_INTERNAL;
}

enum verdict jws_verify(struct jws_context *context, const struct jws *jws, const struct jwk *key)
{
    enum verdict verdict;

    if (jws->signature_bytes != jwk_modulus_bytes(key))
        return VERDICT_BAD_SIGNATURE;
    ERR_clear_error();
    verdict = verify(context, jws, jwk_pkey(key));
    ERR_clear_error();
    return verdict;
}
