/*
 * keys_file: any bytes as keys.json. Every key that is taken holds to the key policy, every kid
 * stands once, and what was taken is written and read again as the same.
 */
#include "../../src/keys/key_file.h"

#include <stdint.h>
#include <string.h>

#include "fuzz.h"
#include "verifier/base64url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

/* Most of the time would go into fresh pages otherwise. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

static void check_time(int64_t time_s)
{
    HOLDS(time_s >= 0 && time_s <= KEY_FILE_TIME_MAX_S);
}

static void check_kid(const char *kid)
{
    HOLDS(strlen(kid) >= 1 && strlen(kid) <= JWK_KID_MAX_BYTES);
    for (const char *at = kid; *at; at++)
        HOLDS(*at >= 0x20 && *at <= 0x7e);
}

/* What jwks promises of a key in a set, and what a snapshot promises of it on top. */
static void check_record(const struct key_snapshot *snapshot, size_t index)
{
    const struct key_record *record = key_snapshot_at(snapshot, index);
    const char *kid = jwk_kid(record->key), *n = jwk_n(record->key);
    int bits = EVP_PKEY_get_bits(jwk_pkey(record->key));
    enum key_trust trust = KEY_TRUST_NONE;
    unsigned char modulus[JWK_MODULUS_MAX_BYTES];
    size_t bytes;

    check_kid(kid);
    check_time(record->first_seen_s);
    check_time(record->last_seen_s);
    check_time(record->left_s);
    HOLDS(!record->current || record->left_s == 0);
    HOLDS(bits >= JWK_MODULUS_MIN_BITS && bits <= JWK_MODULUS_MAX_BITS);
    HOLDS(base64url_decode(n, strlen(n), modulus, sizeof(modulus), &bytes) == 0);
    HOLDS(bytes == jwk_modulus_bytes(record->key) && modulus[0] != 0 && modulus[bytes - 1] % 2);
    HOLDS(key_snapshot_find(snapshot, kid, strlen(kid), 0, &trust) == record->key);
    HOLDS(record->distrusted == key_snapshot_distrusts(snapshot, kid));
    HOLDS((trust == KEY_TRUST_NONE) == record->distrusted);
    HOLDS(!record->current || record->distrusted || trust == KEY_TRUST_FULL);
    for (size_t i = 0; i < index; i++) {
        HOLDS(strcmp(jwk_kid(key_snapshot_at(snapshot, i)->key), kid) != 0);
        HOLDS(!record->current || key_snapshot_at(snapshot, i)->current); /* those come first */
    }
}

static void check_snapshot(const struct key_snapshot *snapshot)
{
    check_time(key_snapshot_refreshed_s(snapshot));
    for (size_t i = 0; i < key_snapshot_count(snapshot); i++)
        check_record(snapshot, i);
    for (size_t i = 0; i < key_snapshot_distrusted_count(snapshot); i++) {
        check_kid(key_snapshot_distrusted_at(snapshot, i));
        for (size_t j = 0; j < i; j++)
            HOLDS(strcmp(key_snapshot_distrusted_at(snapshot, i),
                         key_snapshot_distrusted_at(snapshot, j)) != 0);
    }
}

static void check_same(const struct key_snapshot *one, const struct key_snapshot *other)
{
    HOLDS(key_snapshot_count(one) == key_snapshot_count(other));
    for (size_t i = 0; i < key_snapshot_count(one); i++)
        HOLDS(jwk_same_modulus(key_snapshot_at(one, i)->key, key_snapshot_at(other, i)->key));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct key_snapshot *snapshot = NULL, *again = NULL;
    char *first, *second;
    char why[JWKS_WHY_BYTES];

    memset(why, 'x', sizeof(why));
    if (key_file_parse((const char *)data, size, &snapshot, why) != 0) {
        HOLDS(snapshot == NULL);
        HOLDS(memchr(why, '\0', sizeof(why)) != NULL);
        for (const char *at = why; *at; at++) /* it stands in log lines */
            HOLDS(*at >= 0x20 && *at <= 0x7e);
        return 0;
    }
    check_snapshot(snapshot);
    HOLDS(key_file_format(snapshot, &first) == 0);
    HOLDS(strlen(first) <= KEY_FILE_MAX_BYTES);
    HOLDS(key_file_parse(first, strlen(first), &again, why) == 0);
    HOLDS(key_file_format(again, &second) == 0);
    HOLDS(strcmp(first, second) == 0);
    check_same(snapshot, again);
    free(first);
    free(second);
    key_snapshot_unref(snapshot);
    key_snapshot_unref(again);
    return 0;
}
