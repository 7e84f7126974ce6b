#include "verifier/jwks.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verifier/base64url.h"
#include "verifier/json_text.h"

#define MODULUS_TEXT_MAX BASE64URL_ENCODED(JWK_MODULUS_MAX_BYTES)

struct jwk {
    atomic_uint references;
    EVP_PKEY *pkey;
    size_t modulus_bytes;
    char kid[JWK_KID_MAX_BYTES + 1];
    char n[MODULUS_TEXT_MAX + 1];
};

struct jwks {
    size_t count;
    size_t passed_over;
    struct jwk *keys[JWKS_KEYS_MAX];
};

static inline void release_bignum(BIGNUM **number)
{
    BN_free(*number);
}

static inline void release_builder(OSSL_PARAM_BLD **builder)
{
    OSSL_PARAM_BLD_free(*builder);
}

static inline void release_params(OSSL_PARAM **params)
{
    OSSL_PARAM_free(*params);
}

static inline void release_pkey_ctx(EVP_PKEY_CTX **context)
{
    EVP_PKEY_CTX_free(*context);
}

static inline void release_set(struct jwks **set)
{
    jwks_free(*set);
}

/* Whether residue is a power of 65537 modulo prime. */
static bool is_power_of_65537(unsigned residue, unsigned prime)
{
    unsigned generator = 65537 % prime;
    unsigned power = 1;

    do {
        if (power == residue)
            return true;
        power = power * generator % prime;
    } while (power != 1);
    return false;
}

/* Primes of the Infineon library make moduli that are a power of 65537 modulo each small prime
 * (Nemec, Sys, Svenda, Klinec, Matyas: "The Return of Coppersmith's Attack", 2017); such keys can
 * be factored. An honest modulus passes all of these with a probability below 2^-27 (the primes for
 * which 65537 generates everything say nothing). Returns 1, 0, or -1 where memory is out. */
static int has_roca_fingerprint(const BIGNUM *modulus)
{
    static const unsigned char primes[] = {
        3,  5,  7,  11, 13, 17,  19,  23,  29,  31,  37,  41,  43,  47,  53,  59,  61,  67,  71,
        73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167};

    for (size_t i = 0; i < sizeof(primes); i++) {
        BN_ULONG residue = BN_mod_word(modulus, primes[i]);

        if (residue == (BN_ULONG)-1)
            return -1;
        if (!is_power_of_65537((unsigned)residue, primes[i]))
            return 0;
    }
    return 1;
}

/* Turns the text of a modulus into a number under the policy. */
static int read_modulus(const char *n, size_t n_bytes, BIGNUM **ret_modulus, size_t *ret_bytes,
                        const char **ret_why)
{
    unsigned char data[JWK_MODULUS_MAX_BYTES];
    __attribute__((cleanup(release_bignum))) BIGNUM *modulus = NULL;
    size_t bytes;
    int bits, roca;

    switch (base64url_decode(n, n_bytes, data, sizeof(data), &bytes)) {
    case 0:
        break;
    case -ENOBUFS:
        *ret_why = "its modulus has more than 4096 bits";
        return -EINVAL;
    default:
        *ret_why = "its modulus is not canonical base64url";
        return -EINVAL;
    }
    modulus = BN_bin2bn(data, (int)bytes, NULL);
    if (!modulus)
        return -ENOMEM;
    bits = BN_num_bits(modulus);
    if (bytes == 0 || data[0] == 0) {
        /* RFC 7518 section 6.3.1.1: the minimum number of octets. One key, one spelling. */
        *ret_why = "its modulus is empty or begins with a zero byte";
        return -EINVAL;
    }
    if (bits < JWK_MODULUS_MIN_BITS) {
        *ret_why = "its modulus has fewer than 2048 bits";
        return -EINVAL;
    }
    if (!BN_is_odd(modulus)) {
        *ret_why = "its modulus is even";
        return -EINVAL;
    }
    roca = has_roca_fingerprint(modulus);
    if (roca < 0)
        return -ENOMEM;
    if (roca) {
        *ret_why = "its modulus has the ROCA fingerprint (CVE-2017-15361)";
        return -EINVAL;
    }
    *ret_modulus = modulus;
    modulus = NULL;
    *ret_bytes = bytes;
    return 0;
}

static EVP_PKEY *build_pkey(const BIGNUM *modulus)
{
    __attribute__((cleanup(release_bignum))) BIGNUM *exponent = BN_new();
    __attribute__((cleanup(release_builder))) OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    __attribute__((cleanup(release_params))) OSSL_PARAM *params = NULL;
    __attribute__((cleanup(release_pkey_ctx))) EVP_PKEY_CTX *context =
        EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    EVP_PKEY *pkey = NULL;

    if (!exponent || !builder || !context || BN_set_word(exponent, RSA_F4) != 1 ||
        OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, modulus) != 1 ||
        OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, exponent) != 1)
        return NULL;
    params = OSSL_PARAM_BLD_to_param(builder);
    if (!params || EVP_PKEY_fromdata_init(context) != 1 ||
        EVP_PKEY_fromdata(context, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1)
        return NULL;
    return pkey;
}

/* One key under the policy for kid and modulus. -EINVAL with a clause that says what is wrong. */
static int make_key(const char *kid, size_t kid_bytes, const char *n, size_t n_bytes,
                    struct jwk **ret_key, const char **ret_why)
{
    __attribute__((cleanup(release_bignum))) BIGNUM *modulus = NULL;
    struct jwk *key;
    size_t modulus_bytes;
    int error;

    if (!json_text_printable(kid, kid_bytes, 1, JWK_KID_MAX_BYTES)) {
        *ret_why = "its kid is not 1 to 64 printable ASCII characters";
        return -EINVAL;
    }
    error = read_modulus(n, n_bytes, &modulus, &modulus_bytes, ret_why);
    if (error)
        return error;

    key = calloc(1, sizeof(*key));
    if (!key)
        return -ENOMEM;
    /* The modulus is known to be good, so the only thing that can be missing here is memory. */
    key->pkey = build_pkey(modulus);
    if (!key->pkey) {
        free(key);
        return -ENOMEM;
    }
    atomic_init(&key->references, 1);
    key->modulus_bytes = modulus_bytes;
    memcpy(key->kid, kid, kid_bytes);
    memcpy(key->n, n, n_bytes);
    *ret_key = key;
    return 0;
}

/* Makes a key without leaving OpenSSL's reasons behind in the thread's error queue. */
static int make_key_quietly(const char *kid, size_t kid_bytes, const char *n, size_t n_bytes,
                            struct jwk **ret_key, const char **ret_why)
{
    int error;

    ERR_set_mark();
    error = make_key(kid, kid_bytes, n, n_bytes, ret_key, ret_why);
    ERR_pop_to_mark();
    return error;
}

static bool member_is(const json_t *object, const char *name, const char *value)
{
    const json_t *member = json_object_get(object, name);

    return json_is_string(member) && strcmp(json_string_value(member), value) == 0;
}

static bool member_absent_or(const json_t *object, const char *name, const char *value)
{
    return !json_object_get(object, name) || member_is(object, name, value);
}

static bool may_verify(const json_t *object)
{
    const json_t *operations = json_object_get(object, "key_ops");
    const json_t *operation;
    size_t i;

    if (!operations)
        return true;
    json_array_foreach(operations, i, operation)
    {
        if (json_is_string(operation) && strcmp(json_string_value(operation), "verify") == 0)
            return true;
    }
    return false;
}

/* Members that only a private key has, RFC 7518 section 6.3.2. */
static bool has_private_half(const json_t *object)
{
    static const char *const members[] = {"d", "p", "q", "dp", "dq", "qi", "oth"};

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (json_object_get(object, members[i]))
            return true;
    return false;
}

/* The key of one member of the set; -EINVAL passes it over. */
static int read_key(const json_t *object, struct jwk **ret_key, const char **ret_why)
{
    const json_t *kid = json_object_get(object, "kid");
    const json_t *n = json_object_get(object, "n");

    if (!member_is(object, "kty", "RSA"))
        *ret_why = "it is not an RSA key";
    else if (!member_absent_or(object, "use", "sig"))
        *ret_why = "its use is not sig";
    else if (!member_absent_or(object, "alg", "RS256"))
        *ret_why = "its alg is not RS256";
    else if (!may_verify(object))
        *ret_why = "its key_ops lack verify";
    else if (has_private_half(object))
        *ret_why = "its private half stands in the set for everyone to read";
    else if (!member_is(object, "e", "AQAB"))
        *ret_why = "its exponent is not 65537";
    else if (!json_is_string(kid))
        *ret_why = "it has no kid";
    else if (!json_is_string(n))
        *ret_why = "it has no modulus";
    else
        return make_key_quietly(json_string_value(kid), json_string_length(kid),
                                json_string_value(n), json_string_length(n), ret_key, ret_why);
    return -EINVAL;
}

static int refuse(char ret_why[JWKS_WHY_BYTES], const char *sentence)
{
    snprintf(ret_why, JWKS_WHY_BYTES, "%s", sentence);
    return -EINVAL;
}

/* Names a kid in a reason; what could break a log line out of its quotes is not shown. */
static void write_repeated_kid(char ret_why[JWKS_WHY_BYTES], const json_t *kid)
{
    const char *text = json_string_value(kid);
    char shown[JWK_KID_MAX_BYTES + 1] = "?";

    if (json_text_printable(text, json_string_length(kid), 1, JWK_KID_MAX_BYTES)) {
        strcpy(shown, text);
        for (char *at = shown; *at; at++)
            if (*at == '"' || *at == '\\')
                *at = '?';
    }
    snprintf(ret_why, JWKS_WHY_BYTES, "the kid \"%s\" stands twice in the set", shown);
}

/* Looks at every member with a kid, also those of the kinds of key that are passed over: a kid is
 * the only name a token gives, so it must name one thing. */
static bool kid_repeats(const json_t *keys, char ret_why[JWKS_WHY_BYTES])
{
    size_t count = json_array_size(keys);

    for (size_t i = 1; i < count; i++) {
        const json_t *kid = json_object_get(json_array_get(keys, i), "kid");

        if (!json_is_string(kid))
            continue;
        for (size_t j = 0; j < i; j++) {
            if (member_is(json_array_get(keys, j), "kid", json_string_value(kid))) {
                write_repeated_kid(ret_why, kid);
                return true;
            }
        }
    }
    return false;
}

/* What a set must be before any key of it is looked at. */
static int check_set(const json_t *root, const json_t **ret_keys, char ret_why[JWKS_WHY_BYTES])
{
    const json_t *keys = json_object_get(root, "keys");
    const json_t *member;
    size_t i;

    if (!json_is_array(keys))
        return refuse(ret_why, "the text is no key set: it has no array named keys");
    if (json_array_size(keys) > JWKS_KEYS_MAX)
        return refuse(ret_why, "the set has more than 64 keys");
    json_array_foreach(keys, i, member)
    {
        if (!json_is_object(member))
            return refuse(ret_why, "the text is no key set: a key in it is not an object");
    }
    if (kid_repeats(keys, ret_why))
        return -EINVAL;
    *ret_keys = keys;
    return 0;
}

static int read_keys(const json_t *keys, struct jwks *set, char ret_why[JWKS_WHY_BYTES])
{
    const char *first_why = NULL;
    const json_t *member;
    size_t i;

    json_array_foreach(keys, i, member)
    {
        const char *why = NULL;
        int error = read_key(member, &set->keys[set->count], &why);

        if (error == -ENOMEM)
            return error;
        if (!error) {
            set->count++;
            continue;
        }
        set->passed_over++;
        if (!first_why)
            first_why = why;
    }
    if (set->count > 0)
        return 0;
    if (first_why)
        snprintf(ret_why, JWKS_WHY_BYTES, "the set has no usable key; the first: %s", first_why);
    else
        refuse(ret_why, "the set has no key");
    return -EINVAL;
}

int jwks_parse(const char *text, size_t text_bytes, struct jwks **ret_set,
               char ret_why[JWKS_WHY_BYTES])
{
    __attribute__((cleanup(json_text_release))) json_t *root = NULL;
    __attribute__((cleanup(release_set))) struct jwks *set = NULL;
    const json_t *keys;
    int error;

    if (text_bytes > JWKS_TEXT_MAX_BYTES)
        return refuse(ret_why, "the text has more than 256 KiB");
    error = json_text_parse(text, text_bytes, &root);
    if (error == -EINVAL)
        return refuse(ret_why, "the text is not JSON, or a member stands twice in it");
    if (error)
        return error;
    error = check_set(root, &keys, ret_why);
    if (error)
        return error;

    set = calloc(1, sizeof(*set));
    if (!set)
        return -ENOMEM;
    error = read_keys(keys, set, ret_why);
    if (error)
        return error;
    *ret_set = set;
    set = NULL;
    return 0;
}

void jwks_free(struct jwks *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->count; i++)
        jwk_unref(set->keys[i]);
    free(set);
}

size_t jwks_count(const struct jwks *set)
{
    return set->count;
}

size_t jwks_passed_over(const struct jwks *set)
{
    return set->passed_over;
}

struct jwk *jwks_at(const struct jwks *set, size_t index)
{
    return set->keys[index];
}

struct jwk *jwks_find(const struct jwks *set, const char *kid, size_t kid_bytes)
{
    for (size_t i = 0; i < set->count; i++) {
        const char *candidate = set->keys[i]->kid;

        if (strlen(candidate) == kid_bytes && memcmp(candidate, kid, kid_bytes) == 0)
            return set->keys[i];
    }
    return NULL;
}

int jwk_new(const char *kid, const char *n, struct jwk **ret_key, char ret_why[JWKS_WHY_BYTES])
{
    const char *why = NULL;
    int error = make_key_quietly(kid, strlen(kid), n, strlen(n), ret_key, &why);

    if (error == -EINVAL)
        snprintf(ret_why, JWKS_WHY_BYTES, "the key cannot be used: %s", why);
    return error;
}

struct jwk *jwk_ref(struct jwk *key)
{
    atomic_fetch_add_explicit(&key->references, 1, memory_order_relaxed);
    return key;
}

void jwk_unref(struct jwk *key)
{
    if (!key || atomic_fetch_sub_explicit(&key->references, 1, memory_order_acq_rel) != 1)
        return;
    EVP_PKEY_free(key->pkey);
    free(key);
}

const char *jwk_kid(const struct jwk *key)
{
    return key->kid;
}

const char *jwk_n(const struct jwk *key)
{
    return key->n;
}

size_t jwk_modulus_bytes(const struct jwk *key)
{
    return key->modulus_bytes;
}

EVP_PKEY *jwk_pkey(const struct jwk *key)
{
    return key->pkey;
}

bool jwk_same_modulus(const struct jwk *a, const struct jwk *b)
{
    /* Only the canonical spelling was taken, so equal texts are equal numbers. */
    return strcmp(a->n, b->n) == 0;
}
