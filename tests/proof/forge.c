/*
 * forge: tries COUNT tokens that nobody whom the verifier trusts has signed, and tokens that such a
 * key signed, but that are no notification. None may be accepted, nor count as signed.
 *
 *     forge COUNT SEED VECTORS
 *
 * First everything that can be enumerated, then random numbers from SEED. The last line of the
 * output is a JSON object of counts. Exit status 1: one was let in, and is shown; 2: nothing was
 * shown, since the program itself failed.
 */
#include <dirent.h>
#include <jansson.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include "minting.h"
#include "verifier/judge.h"

#define GENUINE_MAX 64
#define NOW_S       INT64_C(1750000000)
#define KID         "PROOFKEY01"
#define APP         "com.example.app"
#define ISSUER      "https://appleid.apple.com"

/* A token that is what it says. */
struct genuine {
    struct minted token;
    char payload[4096];
    size_t header_bytes; /* encoded: where the first dot stands */
    size_t input_bytes;  /* where the second dot stands */
    char kid[JWK_KID_MAX_BYTES + 1];
    unsigned char signature[256];
    int64_t issued_at_s;
    bool notification; /* or an ID token */
};

static struct genuine genuine[GENUINE_MAX];
static size_t genuine_count;
static EVP_PKEY *trusted, *attacker;
static struct jwk *trusted_jwk;
static struct jwks *apple_set;
static struct jws_context *context;
static uint64_t random_state;
static uint64_t tried, wanted, by_verdict[VERDICT_COUNT], signed_but_refused, id_tokens;
static const char *operator_name;
static bool of_a_person; /* whether it works on what Apple signed */

/* ---- the verifier as the daemon asks it ---- */

static const struct jwk *find(void *keys, const char *kid, size_t kid_bytes,
                              enum key_trust *ret_trust)
{
    (void)keys;
    *ret_trust = KEY_TRUST_FULL;
    if (kid_bytes == strlen(KID) && memcmp(kid, KID, kid_bytes) == 0)
        return trusted_jwk;
    const struct jwk *found = apple_set ? jwks_find(apple_set, kid, kid_bytes) : NULL;
    *ret_trust = found ? KEY_TRUST_FULL : KEY_TRUST_NONE;
    return found;
}

static bool audience_known(void *apps, const char *client_id)
{
    (void)apps;
    return client_id[0] != '\0';
}

/* In a body for every other one: the way of a real notification. */
static struct judgement judge(const char *token, size_t bytes, int64_t now_s)
{
    static const char *const issuers[] = {ISSUER};
    const struct judge_rules rules = {.keys = {find, NULL, true},
                                      .audience_known = audience_known,
                                      .issuers = issuers,
                                      .issuer_count = 1,
                                      .now_s = now_s,
                                      .leeway_s = 300};
    static char body[MINTING_TOKEN_BYTES + 32];
    struct judgement judgement;

    if (tried % 2 == 0) {
        judge_token(context, &rules, token, bytes, &judgement);
        return judgement;
    }
    memcpy(body, "{\"payload\":\"", 12);
    memcpy(body + 12, token, bytes);
    memcpy(body + 12 + bytes, "\"}", 2);
    judge_body(context, &rules, body, bytes + 14, &judgement);
    return judgement;
}

/* What is made of a real person's token is not shown. */
__attribute__((noreturn)) static void let_in(const struct minted *token, const char *verdict)
{
    printf("let in as %s after %llu tries, operator \"%s\": %.*s\n", verdict,
           (unsigned long long)tried, operator_name, of_a_person ? 0 : (int)token->bytes,
           token->text);
    exit(1);
}

static const struct genuine *choose(size_t index)
{
    of_a_person = strcmp(genuine[index].kid, KID) != 0;
    return &genuine[index];
}

static bool is_genuine(const struct minted *token)
{
    for (size_t i = 0; i < genuine_count; i++)
        if (genuine[i].token.bytes == token->bytes &&
            memcmp(genuine[i].token.text, token->text, token->bytes) == 0)
            return true;
    return false;
}

/* A forgery must neither be accepted nor put in quarantine, nor even count as signed. */
static void try_forgery(const struct minted *token, int64_t now_s)
{
    if (tried >= wanted || is_genuine(token))
        return;
    struct judgement judgement = judge(token->text, token->bytes, now_s);

    tried++;
    by_verdict[judgement.verdict]++;
    if (judgement.signature_verified || verdict_status(judgement.verdict) == 200)
        let_in(token, verdict_label(judgement.verdict));
    judgement_release(&judgement);
}

/* ---- what is genuine ---- */

static void add_genuine(const char *text, size_t bytes, bool notification)
{
    struct genuine *added = &genuine[genuine_count];
    struct jws jws;
    size_t payload_bytes;

    MUST(genuine_count < GENUINE_MAX && bytes <= sizeof(added->token.text));
    memcpy(added->token.text, text, bytes);
    added->token.bytes = bytes;
    MUST(jws_parse(added->token.text, bytes, &jws) == VERDICT_ACCEPTED);
    MUST(jws.signature_bytes == sizeof(added->signature));
    memcpy(added->signature, jws.signature, sizeof(added->signature));
    memcpy(added->kid, jws.kid, sizeof(added->kid));
    added->input_bytes = jws.signing_input_bytes;
    added->header_bytes = (size_t)(jws.payload - added->token.text) - 1;
    MUST(base64url_decode(jws.payload, jws.payload_bytes, (unsigned char *)added->payload,
                          sizeof(added->payload) - 1, &payload_bytes) == 0);
    added->payload[payload_bytes] = '\0';
    json_t *claims = json_loads(added->payload, 0, NULL);
    added->issued_at_s = json_integer_value(json_object_get(claims, "iat")) + 60;
    added->notification = notification;
    json_decref(claims);
    operator_name = "none: an ID token as it is";
    of_a_person = strcmp(added->kid, KID) != 0;
    genuine_count++;
    for (tried = 0; tried < 2; tried++) { /* both ways in: what follows means something only then */
        struct judgement judgement = judge(text, bytes, added->issued_at_s);
        if (!notification && verdict_status(judgement.verdict) == 200)
            let_in(&added->token, verdict_label(judgement.verdict));
        MUST(judgement.verdict == (notification ? VERDICT_ACCEPTED : VERDICT_NOT_A_NOTIFICATION));
        judgement_release(&judgement);
    }
    tried = 0;
}

static void mint_our_own(void)
{
    static const char *const events[] = {
        "\"{\\\"type\\\":\\\"account-delete\\\",\\\"sub\\\":\\\"000.a.0\\\",\\\"event_time\\\":"
        "1750000000000}\"",
        "{\"type\":\"consent-revoked\",\"sub\":\"000.a.0\",\"event_time\":1750000000000}",
        "[{\"type\":\"email-enabled\",\"sub\":\"000.a.0\",\"event_time\":1750000000000,\"email\":"
        "\"x@privaterelay.appleid.com\",\"is_private_email\":\"true\"}]"};
    struct minted token;
    char payload[1024];

    for (size_t i = 0; i < 3; i++) {
        snprintf(payload, sizeof(payload),
                 "{\"iss\":\"" ISSUER "\",\"aud\":\"" APP "\",\"exp\":%lld,\"iat\":%lld,\"jti\":"
                 "\"j%zu\",\"events\":%s}",
                 (long long)NOW_S + 86400, (long long)NOW_S, i, events[i]);
        minting_token(&token, trusted, "{\"kid\":\"" KID "\",\"alg\":\"RS256\"}", payload);
        add_genuine(token.text, token.bytes, true);
    }
    snprintf(payload, sizeof(payload),
             "{\"iss\":\"" ISSUER "\",\"aud\":\"" APP "\",\"exp\":%lld,\"iat\":%lld,\"sub\":\"s\"}",
             (long long)NOW_S + 86400, (long long)NOW_S);
    minting_token(&token, trusted, "{\"kid\":\"" KID "\",\"alg\":\"RS256\"}", payload);
    add_genuine(token.text, token.bytes, false);
}

static char *read_file(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "rbe");
    char *text = calloc(1, 1 << 20);

    MUST(file && text);
    *ret_bytes = fread(text, 1, (1 << 20) - 1, file);
    fclose(file);
    return text;
}

static unsigned read_tokens(const char *folder, bool notification)
{
    DIR *directory = opendir(folder);
    unsigned read = 0;

    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[4096];
        size_t bytes;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        char *text = read_file(path, &bytes);
        while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
            bytes--;
        add_genuine(text, bytes, notification);
        free(text);
        read++;
    }
    if (directory)
        closedir(directory);
    return read;
}

/* What Apple really signed, where it is here. */
static unsigned read_apple(const char *vectors)
{
    char path[4096], why[JWKS_WHY_BYTES];
    size_t bytes;

    snprintf(path, sizeof(path), "%s/apple/jwks/apple-2019-2025-all.json", vectors);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    fclose(file);
    char *text = read_file(path, &bytes);
    MUST(jwks_parse(text, bytes, &apple_set, why) == 0);
    free(text);
    snprintf(path, sizeof(path), "%s/apple/s2s", vectors);
    unsigned read = read_tokens(path, true);
    snprintf(path, sizeof(path), "%s/apple/idtokens", vectors);
    return read + read_tokens(path, false);
}

/* ---- what can be enumerated ---- */

static void every_bit_of_the_signing_input(const struct genuine *of)
{
    struct minted token = of->token;

    operator_name = "a bit of the signing input";
    for (size_t bit = 0; bit < of->input_bytes * 8; bit++) {
        token.text[bit / 8] = (char)(token.text[bit / 8] ^ 1 << bit % 8);
        try_forgery(&token, of->issued_at_s);
        token.text[bit / 8] = of->token.text[bit / 8];
    }
}

static void with_signature(const struct genuine *of, const unsigned char *signature, size_t bytes)
{
    struct minted token = {.bytes = 0};

    minting_append(&token, of->token.text, of->input_bytes + 1);
    minting_append_encoded(&token, signature, bytes);
    try_forgery(&token, of->issued_at_s);
}

static void every_bit_of_the_signature(const struct genuine *of)
{
    unsigned char signature[256];

    operator_name = "a bit of the signature";
    for (size_t bit = 0; bit < sizeof(signature) * 8; bit++) {
        memcpy(signature, of->signature, sizeof(signature));
        signature[bit / 8] ^= (unsigned char)(1 << bit % 8);
        with_signature(of, signature, sizeof(signature));
    }
}

/* Numbers that are the signature, or verify, for who calculates modulo n without looking. */
static void signatures_that_are_other_numbers(const struct genuine *of, const struct jwk *key)
{
    unsigned char modulus[512], padded[512] = {0};
    size_t bytes;
    BIGNUM *n = BN_new(), *s = BN_bin2bn(of->signature, sizeof(of->signature), NULL);

    operator_name = "another number as the signature";
    MUST(n && s);
    MUST(base64url_decode(jwk_n(key), strlen(jwk_n(key)), modulus, sizeof(modulus), &bytes) == 0);
    MUST(bytes == 256 && BN_bin2bn(modulus, (int)bytes, n));
    with_signature(of, padded, 256);
    with_signature(of, modulus, 256); /* n itself */
    padded[255] = 1;
    with_signature(of, padded, 256);
    for (int times = 0; times < 8; times++) { /* s + n, s + 2n, … in as many bytes as they take */
        MUST(BN_add(s, s, n) == 1);
        int size = BN_num_bytes(s);
        if (size < 256)
            size = 256;
        MUST(BN_bn2binpad(s, padded, size) == size);
        with_signature(of, padded, (size_t)size);
    }
    BN_sub(s, n, BN_value_one());
    MUST(BN_bn2binpad(s, padded, 256) == 256); /* n - 1 */
    with_signature(of, padded, 256);
    memset(padded, 0, sizeof(padded)); /* the right one, with zeros in front or behind */
    for (size_t zeros = 1; zeros <= 256; zeros++) {
        memcpy(padded + zeros, of->signature, 256);
        with_signature(of, padded, 256 + zeros);
        memset(padded, 0, sizeof(padded));
        memcpy(padded, of->signature, 256);
        with_signature(of, padded, 256 + zeros);
        with_signature(of, padded, 256 - zeros);
        memset(padded, 0, sizeof(padded));
    }
    BN_free(n);
    BN_free(s);
}

static void with_bytes(const struct genuine *of, size_t from, size_t cut, const char *put,
                       size_t put_bytes)
{
    struct minted token = {.bytes = 0};

    minting_append(&token, of->token.text, from);
    minting_append(&token, put, put_bytes);
    minting_append(&token, of->token.text + from + cut, of->token.bytes - from - cut);
    try_forgery(&token, of->issued_at_s);
}

/* The last characters of each part: other spellings of the same bytes, and more or less of them. */
static void ends_of_the_parts(const struct genuine *of)
{
    const size_t ends[] = {of->header_bytes, of->input_bytes, of->token.bytes};

    operator_name = "the end of a part";
    for (size_t i = 0; i < 3; i++) {
        for (int byte = 0; byte < 256; byte++) {
            const char put[] = {(char)byte, '=', '='};
            with_bytes(of, ends[i] - 1, 1, put, 1);
            with_bytes(of, ends[i], 0, put, 1);
            with_bytes(of, ends[i], 0, put, 2);
            with_bytes(of, ends[i], 0, put + 1, (size_t)byte % 3);
        }
        for (size_t cut = 1; cut < 16; cut++)
            with_bytes(of, ends[i] - cut, cut, NULL, 0);
    }
    for (size_t bytes = 0; bytes < of->token.bytes; bytes++)
        with_bytes(of, bytes, of->token.bytes - bytes, NULL, 0);
}

/* The last two characters: some are other spellings of the same bytes. */
static void spellings_of_the_ends(const struct genuine *of)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const size_t ends[] = {of->header_bytes, of->input_bytes, of->token.bytes};

    operator_name = "the last two characters of a part";
    for (size_t i = 0; i < 3; i++)
        for (size_t pair = 0; pair < 64 * 64; pair++) {
            const char put[] = {alphabet[pair / 64], alphabet[pair % 64]};
            with_bytes(of, ends[i] - 2, 2, put, 2);
        }
}

/* @ stands for the kid, # for the attacker's modulus. */
static const char *const headers[] = {
    "{\"kid\":\"@\",\"alg\":\"none\"}",
    "{\"kid\":\"@\",\"alg\":\"None\"}",
    "{\"kid\":\"@\",\"alg\":\"NONE\"}",
    "{\"kid\":\"@\",\"alg\":\"nOnE\"}",
    "{\"kid\":\"@\",\"alg\":\"\"}",
    "{\"kid\":\"@\"}",
    "{\"kid\":\"@\",\"alg\":null}",
    "{\"kid\":\"@\",\"alg\":[\"RS256\"]}",
    "{\"kid\":\"@\",\"alg\":{\"RS256\":1}}",
    "{\"kid\":\"@\",\"alg\":256}",
    "{\"kid\":\"@\",\"alg\":\"rs256\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256 \"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\\u0000\"}",
    "{\"kid\":\"@\",\"alg\":\"RS384\"}",
    "{\"kid\":\"@\",\"alg\":\"RS512\"}",
    "{\"kid\":\"@\",\"alg\":\"PS256\"}",
    "{\"kid\":\"@\",\"alg\":\"ES256\"}",
    "{\"kid\":\"@\",\"alg\":\"EdDSA\"}",
    "{\"kid\":\"@\",\"alg\":\"HS256\"}",
    "{\"kid\":\"@\",\"alg\":\"HS384\"}",
    "{\"kid\":\"@\",\"alg\":\"HS512\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\"}",
    "{\"alg\":\"RS256\",\"kid\":\"@\"}",
    "{ \"kid\" : \"@\" , \"alg\" : \"RS256\" }",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"typ\":\"JWT\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"alg\":\"none\"}",
    "{\"kid\":\"@\",\"alg\":\"none\",\"alg\":\"RS256\"}",
    "{\"kid\":\"x\",\"kid\":\"@\",\"alg\":\"RS256\"}",
    "{\"alg\":\"RS256\"}",
    "{\"kid\":\"\",\"alg\":\"RS256\"}",
    "{\"kid\":null,\"alg\":\"RS256\"}",
    "{\"kid\":[\"@\"],\"alg\":\"RS256\"}",
    "{\"kid\":\"../../../dev/null\",\"alg\":\"HS256\"}",
    "{\"kid\":\"@' OR '1'='1\",\"alg\":\"RS256\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"crit\":[\"exp\"],\"exp\":1}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"b64\":false,\"crit\":[\"b64\"]}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"zip\":\"DEF\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"jku\":\"https://attacker.invalid/keys\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"x5u\":\"https://attacker.invalid/cert\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"x5c\":[\"MIIB\"]}",
    "{\"kid\":\"@\",\"alg\":\"RS256\",\"jwk\":{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"#\"}}",
    "{\"kid\":\"attacker\",\"alg\":\"RS256\",\"jwk\":{\"kty\":\"RSA\",\"kid\":\"attacker\",\"e\":"
    "\"AQAB\",\"n\":\"#\"}}",
    "[{\"kid\":\"@\",\"alg\":\"RS256\"}]",
    "\xef\xbb\xbf{\"kid\":\"@\",\"alg\":\"RS256\"}",
    "{\"kid\":\"@\",\"alg\":\"RS256\"}{}",
    "{\"kid\":\"@\",\"alg\":\"RS256\"}\n//",
    "{'kid':'@','alg':'RS256'}",
    "{\"kid\":\"@\",\"alg\":\"RS256\"",
    "",
};
#define HEADER_COUNT (sizeof(headers) / sizeof(*headers))

static void format_header(const char *kid, size_t index, char header[2048])
{
    static char n[MINTING_N_BYTES];
    unsigned char modulus[256];
    size_t bytes = 0;

    if (!n[0])
        minting_modulus(attacker, modulus, n);
    for (const char *at = headers[index]; *at; at++) {
        const char plain[] = {*at, '\0'}, *put = *at == '@' ? kid : *at == '#' ? n : plain;
        MUST(bytes + strlen(put) < 2048);
        memcpy(header + bytes, put, strlen(put));
        bytes += strlen(put);
    }
    header[bytes] = '\0';
}

/* The public key is no secret: as an HMAC key, in each form in which it is found, it must be worth
 * nothing. */
static void with_hmac_of_the_public_key(const struct genuine *of, const struct minted *begun)
{
    const struct jwk *key =
        strcmp(of->kid, KID) == 0 ? trusted_jwk : jwks_find(apple_set, of->kid, strlen(of->kid));
    unsigned char *forms[3] = {NULL}, modulus[512], mac[EVP_MAX_MD_SIZE];
    int form_bytes[3];
    size_t modulus_bytes;
    BIO *pem = BIO_new(BIO_s_mem());

    MUST(pem && PEM_write_bio_PUBKEY(pem, jwk_pkey(key)) == 1);
    char *text;
    form_bytes[0] = (int)BIO_get_mem_data(pem, &text);
    forms[0] = (unsigned char *)text;
    form_bytes[1] = i2d_PUBKEY(jwk_pkey(key), &forms[1]);
    MUST(base64url_decode(jwk_n(key), strlen(jwk_n(key)), modulus, sizeof(modulus),
                          &modulus_bytes) == 0);
    forms[2] = modulus;
    form_bytes[2] = (int)modulus_bytes;
    for (size_t i = 0; i < 3; i++) {
        const EVP_MD *digests[] = {EVP_sha256(), EVP_sha384(), EVP_sha512()};
        for (size_t j = 0; j < 3; j++) {
            struct minted token = *begun;
            unsigned bytes;
            MUST(HMAC(digests[j], forms[i], form_bytes[i], (const unsigned char *)begun->text,
                      begun->bytes, mac, &bytes));
            minting_append(&token, ".", 1);
            minting_append_encoded(&token, mac, bytes);
            try_forgery(&token, of->issued_at_s);
        }
    }
    OPENSSL_free(forms[1]);
    BIO_free(pem);
}

/* Each header over a payload, with every signature that an attacker has. */
static void with_header(const struct genuine *of, size_t index, const char *payload, bool hmac)
{
    char header[2048];
    struct minted begun, token;

    format_header(of->kid, index, header);
    minting_begin(&begun, header, payload, strlen(payload));
    token = begun;
    minting_end(&token, attacker);
    try_forgery(&token, of->issued_at_s);
    token = begun;
    minting_append(&token, ".", 1);
    try_forgery(&token, of->issued_at_s);
    minting_append_encoded(&token, of->signature, sizeof(of->signature));
    try_forgery(&token, of->issued_at_s);
    if (hmac)
        with_hmac_of_the_public_key(of, &begun);
}

static void every_header(const struct genuine *of)
{
    operator_name = "a header";
    for (size_t i = 0; i < HEADER_COUNT; i++)
        with_header(of, i, of->payload, true);
}

/* Payloads that two parsers read in two ways, under the signature of the genuine one. */
static void polyglots(const struct genuine *of)
{
    static const char *const around[][2] = {{"", " "},
                                            {" ", ""},
                                            {"\xef\xbb\xbf", ""},
                                            {"", "{}"},
                                            {"{}", ""},
                                            {"[", "]"},
                                            {"{\"aud\":\"" APP "\",\"x\":", "}"},
                                            {"/**/", ""},
                                            {"", "//"},
                                            {"", "\n#"},
                                            {"", "\t"},
                                            {")]}'\n", ""},
                                            {"\"", "\""},
                                            {"", ",{}"},
                                            {"null", ""},
                                            {"{\"events\":{}}", ""}};
    static const char *const members[] = {
        "\"aud\":\"" APP "\",",
        "\"iss\":\"" ISSUER "\",",
        "\"exp\":9999999999,",
        "\"iat\":1,",
        "\"events\":{\"type\":\"account-delete\",\"sub\":\"s\",\"event_time\":1},",
        "\"__proto__\":{},",
        "\"\":0,",
        "\"a\\u0075d\":\"x\",",
        "\"jti\":\"j\",\"jti\":\"k\","};
    char payload[4096];

    operator_name = "a payload that reads in two ways";
    for (size_t i = 0; i < sizeof(around) / sizeof(*around); i++) {
        snprintf(payload, sizeof(payload), "%s%s%s", around[i][0], of->payload, around[i][1]);
        with_header(of, 21, payload, false);
    }
    for (size_t i = 0; i < sizeof(members) / sizeof(*members); i++) {
        snprintf(payload, sizeof(payload), "{%s%s", members[i], of->payload + 1);
        with_header(of, 21, payload, false);
        snprintf(payload, sizeof(payload), "%.*s,%.*s}", (int)strlen(of->payload) - 1, of->payload,
                 (int)strlen(members[i]) - 1, members[i]);
        with_header(of, 21, payload, false);
    }
}

/* The parts of one token with those of another. */
static void crossed(const struct genuine *of)
{
    operator_name = "parts of two tokens";
    for (size_t i = 0; i < genuine_count; i++) {
        const struct genuine *other = &genuine[i];
        struct minted token = {.bytes = 0};

        with_signature(of, other->signature, sizeof(other->signature));
        minting_append(&token, other->token.text, other->header_bytes);
        minting_append(&token, of->token.text + of->header_bytes,
                       of->token.bytes - of->header_bytes);
        try_forgery(&token, of->issued_at_s);
        token.bytes = 0;
        minting_append(&token, of->token.text, of->input_bytes);
        minting_append(&token, other->token.text + other->header_bytes,
                       other->token.bytes - other->header_bytes);
        try_forgery(&token, of->issued_at_s);
    }
}

/* ---- signed by a key that is trusted, and still no notification ---- */

static const char *const values[] = {"null",
                                     "true",
                                     "false",
                                     "0",
                                     "-1",
                                     "1",
                                     "1750000000",
                                     "1750000000.0",
                                     "1.75e9",
                                     "1e400",
                                     "-0",
                                     "99999999999999999999",
                                     "253402300800",
                                     "\"\"",
                                     "\"x\"",
                                     "\"1750000000\"",
                                     "\"" APP "\"",
                                     "\"" ISSUER "\"",
                                     "\"" ISSUER "/\"",
                                     "[]",
                                     "[\"" APP "\"]",
                                     "[\"" ISSUER "\"]",
                                     "{}",
                                     "{\"type\":\"account-delete\"}",
                                     "[[]]",
                                     "[{}]",
                                     "\"{}\"",
                                     "\"[]\"",
                                     "\"null\"",
                                     "\"\\u0000\"",
                                     "\"" APP "\\u0000\"",
                                     "\" " APP "\"",
                                     "\"" APP " \""};
#define VALUE_COUNT (sizeof(values) / sizeof(*values))

/* Whether a value is one that the claim may have. */
static bool is_right(const char *claim, const char *value)
{
    if (strcmp(claim, "iss") == 0)
        return strcmp(value, "\"" ISSUER "\"") == 0;
    if (strcmp(claim, "aud") == 0) /* whether it is configured is policy: every audience is, here */
        return value[0] == '"' && strcmp(value, "\"\"") != 0 && !strstr(value, "u0000");
    if (strcmp(claim, "iat") == 0)
        return strcmp(value, "1750000000") == 0 || strcmp(value, "0") == 0 ||
               strcmp(value, "1") == 0 || strcmp(value, "-0") == 0;
    if (strcmp(claim, "exp") == 0) /* within the leeway: not expired yet */
        return strcmp(value, "1750000000") == 0;
    if (strcmp(claim, "jti") == 0) /* an empty one is as good as none */
        return value[0] == '"' && !strstr(value, "u0000");
    if (strcmp(claim, "events") == 0)
        return strcmp(value, "{\"type\":\"account-delete\"}") == 0;
    return false;
}

/* Signed by a trusted key, so that it may be quarantined or refused, but not accepted. */
static void try_claims(const char *payload, const char *header)
{
    struct minted token;

    if (tried >= wanted)
        return;
    minting_token(&token, trusted, header, payload);
    struct judgement judgement = judge(token.text, token.bytes, NOW_S + 60);
    tried++;
    signed_but_refused++;
    by_verdict[judgement.verdict]++;
    if (judgement.verdict == VERDICT_ACCEPTED)
        let_in(&token, "accepted");
    judgement_release(&judgement);
}

static void every_claim_with_every_type(void)
{
    static const char *const names[] = {"iss", "aud", "exp", "iat", "jti", "events"};
    static const char *const right[] = {
        "\"" ISSUER "\"",
        "\"" APP "\"",
        "1750086400",
        "1750000000",
        "\"j\"",
        "{\"type\":\"account-delete\",\"sub\":\"s\",\"event_time\":1750000000000}"};
    char payload[2048];

    operator_name = "a claim of another JSON type";
    for (size_t claim = 0; claim < 6; claim++) {
        for (size_t value = 0; value <= VALUE_COUNT; value++) {
            size_t bytes = 0;

            if (value < VALUE_COUNT && is_right(names[claim], values[value]))
                continue;
            if (value == VALUE_COUNT &&
                (claim == 2 || claim == 4)) /* exp and jti may be left out */
                continue;
            for (size_t i = 0; i < 6; i++)
                if (i != claim || value < VALUE_COUNT)
                    bytes += (size_t)snprintf(payload + bytes, sizeof(payload) - bytes,
                                              "%c\"%s\":%s", bytes == 0 ? '{' : ',', names[i],
                                              i == claim ? values[value] : right[i]);
            snprintf(payload + bytes, sizeof(payload) - bytes, "}");
            try_claims(payload, "{\"kid\":\"" KID "\",\"alg\":\"RS256\"}");
        }
    }
}

/* A header that is not exactly right under a signature that is. */
static void every_header_signed(void)
{
    const struct genuine *of = NULL;
    char header[2048];

    operator_name = "a wrong header, signed";
    for (size_t i = 0; i < genuine_count && !of; i++)
        of = strcmp(genuine[i].kid, KID) == 0 && genuine[i].notification ? &genuine[i] : NULL;
    for (size_t i = 0; i < HEADER_COUNT; i++) {
        struct minted token;

        format_header(KID, i, header);
        minting_token(&token, trusted, header, of->payload);
        struct judgement judgement = judge(token.text, token.bytes, NOW_S + 60);
        /* What the header says besides is not looked at; these are right ones. */
        bool right = (i >= 21 && i <= 24) || (i >= 36 && i <= 40);
        tried++;
        signed_but_refused += !right;
        by_verdict[judgement.verdict]++;
        if ((judgement.verdict == VERDICT_ACCEPTED) != right)
            let_in(&token, verdict_label(judgement.verdict));
        judgement_release(&judgement);
    }
}

/* ---- what is left to chance ---- */

static void mutate(struct minted *token)
{
    size_t at = minting_below(&random_state, token->bytes), other, length;

    switch (minting_below(&random_state, 7)) {
    case 0:
        token->text[at] = (char)(token->text[at] ^ 1 << minting_below(&random_state, 8));
        break;
    case 1:
        token->text[at] = (char)minting_random(&random_state);
        break;
    case 2: /* another character of the alphabet: the shape stays right */
        token->text[at] =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[minting_below(
                &random_state, 64)];
        break;
    case 3:
        memmove(token->text + at, token->text + at + 1, token->bytes - at - 1);
        token->bytes -= token->bytes > 1;
        break;
    case 4:
        if (token->bytes == sizeof(token->text))
            break;
        memmove(token->text + at + 1, token->text + at, token->bytes - at);
        token->bytes++;
        break;
    case 5: /* four characters are three bytes: moved as they are */
        other = minting_below(&random_state, token->bytes) / 4 * 4;
        at = at / 4 * 4;
        if (at + 4 <= token->bytes && other + 4 <= token->bytes)
            memcpy(token->text + at, token->text + other, 4);
        break;
    default:
        length = minting_below(&random_state, 64);
        if (at + length < token->bytes)
            memset(token->text + at, token->text[at], length);
        break;
    }
}

/* A byte of the payload changed, and everything encoded again under the old signature. */
static void payload_at_random(const struct genuine *of)
{
    char payload[4096];
    size_t bytes = strlen(of->payload);
    struct minted token = {.bytes = 0};

    memcpy(payload, of->payload, bytes + 1);
    for (size_t times = 1 + minting_below(&random_state, 3); times > 0; times--) {
        size_t at = minting_below(&random_state, bytes);
        payload[at] = payload[at] >= '0' && payload[at] <= '9'
                          ? (char)('0' + minting_below(&random_state, 10))
                          : (char)(0x20 + minting_below(&random_state, 0x5f));
    }
    minting_append(&token, of->token.text, of->header_bytes + 1);
    minting_append_encoded(&token, payload, bytes);
    minting_append(&token, of->token.text + of->input_bytes, of->token.bytes - of->input_bytes);
    try_forgery(&token, of->issued_at_s);
}

static void signature_at_random(const struct genuine *of)
{
    unsigned char signature[256];

    memcpy(signature, of->signature, sizeof(signature));
    for (size_t times = 1 + minting_below(&random_state, 8); times > 0; times--)
        signature[minting_below(&random_state, sizeof(signature))] ^=
            (unsigned char)(1 + minting_below(&random_state, 255));
    with_signature(of, signature, sizeof(signature));
}

static void at_random(void)
{
    const struct genuine *of = choose(minting_below(&random_state, genuine_count));
    struct minted token;

    operator_name = "chance";
    switch (minting_below(&random_state, 8)) {
    case 0:
        with_header(of, minting_below(&random_state, HEADER_COUNT), of->payload, false);
        break;
    case 1:
    case 2:
        payload_at_random(of);
        break;
    case 3:
    case 4:
        signature_at_random(of);
        break;
    default:
        token = of->token;
        for (size_t times = 1 + minting_below(&random_state, 4); times > 0; times--)
            mutate(&token);
        try_forgery(&token, of->issued_at_s);
    }
}

static void enumerate(const struct genuine *of)
{
    const struct jwk *key =
        strcmp(of->kid, KID) == 0 ? trusted_jwk : jwks_find(apple_set, of->kid, strlen(of->kid));

    every_bit_of_the_signing_input(of);
    every_bit_of_the_signature(of);
    signatures_that_are_other_numbers(of, key);
    ends_of_the_parts(of);
    every_header(of);
    polyglots(of);
    crossed(of);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: forge COUNT SEED VECTORS\n");
        return 2;
    }
    json_object_seed(1);
    wanted = strtoull(argv[1], NULL, 10);
    random_state = strtoull(argv[2], NULL, 10);
    MUST((trusted = EVP_RSA_gen(2048)) && (attacker = EVP_RSA_gen(2048)));
    MUST(jws_context_new(&context) == 0);
    trusted_jwk = minting_jwk(trusted, KID);
    mint_our_own();
    unsigned apple = read_apple(argv[3]);

    every_claim_with_every_type();
    every_header_signed();
    for (size_t i = 0; i < genuine_count; i++) {
        enumerate(choose(i));
        id_tokens += !genuine[i].notification;
    }
    for (size_t i = 0; i < genuine_count; i++)
        spellings_of_the_ends(choose(i));
    uint64_t enumerated = tried;
    while (tried < wanted)
        at_random();

    printf(
        "{\"tried\": %llu, \"enumerated of them\": %llu, \"accepted\": 0, \"genuine tokens behind "
        "them\": %zu, \"really signed by Apple of those\": %u, \"ID tokens of those\": %llu, "
        "\"signed by a trusted key, and refused or put aside\": %llu",
        (unsigned long long)tried, (unsigned long long)enumerated, genuine_count, apple,
        (unsigned long long)id_tokens, (unsigned long long)signed_but_refused);
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++)
        if (by_verdict[verdict] > 0 && verdict != VERDICT_ACCEPTED)
            printf(", \"%s\": %llu", verdict_label((enum verdict)verdict),
                   (unsigned long long)by_verdict[verdict]);
    printf("}\n");
    jws_context_free(context);
    jwk_unref(trusted_jwk);
    jwks_free(apple_set);
    EVP_PKEY_free(trusted);
    EVP_PKEY_free(attacker);
    return 0;
}
