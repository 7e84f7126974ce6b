#include "key_snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int key_snapshot_new(struct key_snapshot **ret_snapshot)
{
    struct key_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (snapshot == NULL)
        return -ENOMEM;
    atomic_init(&snapshot->references, 1);
    *ret_snapshot = snapshot;
    return 0;
}

struct key_snapshot *key_snapshot_ref(struct key_snapshot *snapshot)
{
    atomic_fetch_add_explicit(&snapshot->references, 1, memory_order_relaxed);
    return snapshot;
}

void key_snapshot_unref(struct key_snapshot *snapshot)
{
    if (snapshot == NULL ||
        atomic_fetch_sub_explicit(&snapshot->references, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < snapshot->count; i++)
        jwk_unref(snapshot->records[i].key);
    free(snapshot);
}

/* The place of a kid among the records, or count. The length is compared first: a flood of unknown
 * kids walks the whole history. */
static size_t place_of(const struct key_snapshot *snapshot, const char *kid, size_t kid_bytes)
{
    size_t i = 0;
    while (i < snapshot->count && (snapshot->kid_bytes[i] != kid_bytes ||
                                   memcmp(jwk_kid(snapshot->records[i].key), kid, kid_bytes) != 0))
        i++;
    return i;
}

static const struct key_record *record_of(const struct key_snapshot *snapshot, const char *kid)
{
    size_t i = place_of(snapshot, kid, strlen(kid));
    return i < snapshot->count ? &snapshot->records[i] : NULL;
}

bool key_snapshot_distrusts(const struct key_snapshot *snapshot, const char *kid)
{
    for (size_t i = 0; i < snapshot->distrusted_count; i++)
        if (strcmp(snapshot->distrusted[i], kid) == 0)
            return true;
    return false;
}

int key_snapshot_add(struct key_snapshot *snapshot, const struct key_record *record)
{
    const char *kid = jwk_kid(record->key);
    if (record_of(snapshot, kid) != NULL)
        return -EEXIST;
    if (snapshot->count == KEY_CACHE_HISTORY_MAX)
        return -ENOSPC;

    struct key_record *added = &snapshot->records[snapshot->count];
    *added = *record;
    added->key = jwk_ref(record->key);
    added->distrusted = key_snapshot_distrusts(snapshot, kid);
    snapshot->kid_bytes[snapshot->count] = strlen(kid);
    snapshot->count++;
    return 0;
}

static bool can_be_kid(const char *kid)
{
    size_t bytes = strnlen(kid, JWK_KID_MAX_BYTES + 1);
    if (bytes == 0 || bytes > JWK_KID_MAX_BYTES)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (kid[i] < 0x20 || kid[i] > 0x7e)
            return false;
    return true;
}

int key_snapshot_add_distrusted(struct key_snapshot *snapshot, const char *kid)
{
    if (!can_be_kid(kid))
        return -EINVAL;
    if (key_snapshot_distrusts(snapshot, kid))
        return -EEXIST;
    if (snapshot->distrusted_count == KEY_CACHE_DISTRUSTED_MAX)
        return -ENOSPC;

    memcpy(snapshot->distrusted[snapshot->distrusted_count++], kid, strlen(kid) + 1);
    size_t i = place_of(snapshot, kid, strlen(kid));
    if (i < snapshot->count)
        snapshot->records[i].distrusted = true;
    return 0;
}

/* A state that shares nothing but the distrusted kids with the one before. */
static int new_with_distrusted(const struct key_snapshot *before, struct key_snapshot **ret_after)
{
    struct key_snapshot *after;
    int r = key_snapshot_new(&after);
    if (r < 0)
        return r;
    after->distrusted_count = before->distrusted_count;
    memcpy(after->distrusted, before->distrusted,
           before->distrusted_count * sizeof(before->distrusted[0]));
    *ret_after = after;
    return 0;
}

/* What a key of a fresh set is remembered as. */
static struct key_record present(const struct key_record *known, struct jwk *key, int64_t now_s)
{
    struct key_record record = {
        .key = key, .first_seen_s = now_s, .last_seen_s = now_s, .current = true};
    /* The object that is in use already is kept: it is warm, and contexts may hold on to it. */
    if (known != NULL && jwk_same_modulus(known->key, key)) {
        record.key = known->key;
        record.first_seen_s = earlier(known->first_seen_s, now_s);
    }
    return record;
}

/* What a key that a fresh set lacks is remembered as. */
static struct key_record departed(const struct key_record *known, int64_t now_s)
{
    struct key_record record = *known;
    record.current = false;
    record.first_seen_s = earlier(known->first_seen_s, now_s);
    record.last_seen_s = earlier(known->last_seen_s, now_s);
    record.left_s = known->current ? record.last_seen_s + KEY_CACHE_STALE_S : known->left_s;
    record.left_s = earlier(record.left_s, now_s);
    return record;
}

int key_snapshot_after_refresh(const struct key_snapshot *before, const struct jwks *set,
                               int64_t now_s, struct key_snapshot **ret_after, size_t *ret_new_keys)
{
    struct key_snapshot *after;
    int r = new_with_distrusted(before, &after);
    if (r < 0)
        return r;
    if (now_s < JUDGE_CLOCK_FLOOR_S && before->refreshed_s > now_s)
        now_s = before->refreshed_s;
    after->refreshed_s = now_s;

    size_t new_keys = 0;
    for (size_t i = 0; i < jwks_count(set); i++) {
        struct jwk *key = jwks_at(set, i);
        const struct key_record *known = record_of(before, jwk_kid(key));
        struct key_record record = present(known, key, now_s);
        new_keys += record.key == key;
        /* Cannot fail: a set has distinct kids, and fewer keys than the history has room for. */
        (void)key_snapshot_add(after, &record);
    }
    for (size_t i = 0; i < before->count; i++) {
        struct key_record record = departed(&before->records[i], now_s);
        /* -EEXIST: the fresh set has this kid. -ENOSPC: what left longest ago stands last. */
        (void)key_snapshot_add(after, &record);
    }
    *ret_after = after;
    *ret_new_keys = new_keys;
    return 0;
}
_Static_assert(JWKS_KEYS_MAX <= KEY_CACHE_HISTORY_MAX, "a whole set has room in the history");

int key_snapshot_after_distrust(const struct key_snapshot *before, const char *kid,
                                struct key_snapshot **ret_after)
{
    struct key_snapshot *after;
    int r = new_with_distrusted(before, &after);
    if (r < 0)
        return r;
    r = key_snapshot_add_distrusted(after, kid);
    if (r < 0) {
        key_snapshot_unref(after);
        return r;
    }
    after->refreshed_s = before->refreshed_s;
    for (size_t i = 0; i < before->count; i++)
        (void)key_snapshot_add(after, &before->records[i]); /* as many fit as there were */
    *ret_after = after;
    return 0;
}

bool key_snapshot_usable(const struct key_snapshot *snapshot, int64_t now_s)
{
    if (now_s - snapshot->refreshed_s >= KEY_CACHE_STALE_S)
        return false;
    for (size_t i = 0; i < snapshot->count && snapshot->records[i].current; i++)
        if (!snapshot->records[i].distrusted)
            return true;
    return false;
}

int64_t key_snapshot_refreshed_s(const struct key_snapshot *snapshot)
{
    return snapshot->refreshed_s;
}

size_t key_snapshot_count(const struct key_snapshot *snapshot)
{
    return snapshot->count;
}

const struct key_record *key_snapshot_at(const struct key_snapshot *snapshot, size_t index)
{
    return &snapshot->records[index];
}

size_t key_snapshot_distrusted_count(const struct key_snapshot *snapshot)
{
    return snapshot->distrusted_count;
}

const char *key_snapshot_distrusted_at(const struct key_snapshot *snapshot, size_t index)
{
    return snapshot->distrusted[index];
}

static enum key_trust trust_in(const struct key_record *record, int64_t now_s)
{
    if (record->distrusted)
        return KEY_TRUST_NONE;
    if (record->current || now_s - record->left_s < KEY_CACHE_GRACE_S)
        return KEY_TRUST_FULL;
    return KEY_TRUST_QUARANTINE;
}

const struct jwk *key_snapshot_find(const struct key_snapshot *snapshot, const char *kid,
                                    size_t kid_bytes, int64_t now_s, enum key_trust *ret_trust)
{
    size_t i = place_of(snapshot, kid, kid_bytes);
    if (i == snapshot->count) {
        *ret_trust = KEY_TRUST_NONE;
        return NULL;
    }
    *ret_trust = trust_in(&snapshot->records[i], now_s);
    return snapshot->records[i].key;
}
