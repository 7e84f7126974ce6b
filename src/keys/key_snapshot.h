/*
 * key_snapshot: the state behind the key cache, as values that never change once published.
 *
 * Pure: each function makes a new state from an old one; no file, no clock, no lock.
 */
#ifndef SIWA_KEYS_KEY_SNAPSHOT_H
#define SIWA_KEYS_KEY_SNAPSHOT_H

#include <stdatomic.h>

#include "keys/key_cache.h"

struct key_snapshot {
    atomic_uint references;
    int64_t refreshed_s;
    size_t count;
    struct key_record records[KEY_CACHE_HISTORY_MAX]; /* each holds one reference to its key */
    size_t kid_bytes[KEY_CACHE_HISTORY_MAX];
    size_t distrusted_count;
    char distrusted[KEY_CACHE_DISTRUSTED_MAX][JWK_KID_MAX_BYTES + 1];
};

/* An empty state with one reference. 0 or -ENOMEM. */
int key_snapshot_new(struct key_snapshot **ret_snapshot);

/* One more reference. */
struct key_snapshot *key_snapshot_ref(struct key_snapshot *snapshot);

/* Adds a record to a state that is not published yet, taking a reference to its key; whether it is
 * distrusted is looked up. 0, -EEXIST for a kid that is there, or -ENOSPC. */
int key_snapshot_add(struct key_snapshot *snapshot, const struct key_record *record);

/* Adds a distrusted kid to a state that is not published yet, and marks the record that has it. 0,
 * -EINVAL for what cannot be a kid, -EEXIST, or -ENOSPC. */
int key_snapshot_add_distrusted(struct key_snapshot *snapshot, const char *kid);

/* Whether a kid is distrusted, known or not. */
bool key_snapshot_distrusts(const struct key_snapshot *snapshot, const char *kid);

/* The state after a refresh at now_s that gave this set; see key_cache_replace. 0 or -ENOMEM. */
int key_snapshot_after_refresh(const struct key_snapshot *before, const struct jwks *set,
                               int64_t now_s, struct key_snapshot **ret_after,
                               size_t *ret_new_keys);

/* The state after a kid was distrusted. Errors as key_snapshot_add_distrusted, or -ENOMEM. */
int key_snapshot_after_distrust(const struct key_snapshot *before, const char *kid,
                                struct key_snapshot **ret_after);

#endif
