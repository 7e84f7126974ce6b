/*
 * key_cache: the keys that are trusted now, those that were, and the file that remembers both.
 */
#ifndef SIWA_KEYS_KEY_CACHE_H
#define SIWA_KEYS_KEY_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "verifier/judge.h"
#include "verifier/jwks.h"

#define KEY_CACHE_GRACE_S        (48 * 3600) /* a key that left the set stays trusted for this long */
#define KEY_CACHE_STALE_S        (14 * 24 * 3600) /* without a successful refresh: no_keys */
#define KEY_CACHE_HISTORY_MAX    256 /* keys remembered; those that left longest ago go first */
#define KEY_CACHE_DISTRUSTED_MAX 256 /* kids distrusted by hand; never forgotten */

struct key_cache;

/* An immutable picture of the cache, reference counted: lookups take no lock. */
struct key_snapshot;

/* What is remembered of one key. */
struct key_record {
    struct jwk *key; /* borrowed from the snapshot */
    int64_t first_seen_s;
    int64_t last_seen_s; /* of the last successful refresh that contained it */
    int64_t left_s;      /* when it left the set, see key_cache_replace; 0 while current */
    bool current;        /* in the set of the last successful refresh */
    bool distrusted;     /* by hand: never trusted again, whatever is published */
};

/* Opens the cache whose file is path (keys.json beside the database). A missing file is an empty
 * cache. Every persisted key goes through the key policy again. A file that is damaged, of a newer
 * version, a symbolic link, can be written by others than its owner, or is not owned by the
 * effective user (root may also read what belongs to the owner of its folder) is refused as a whole
 * with -EINVAL and a sentence in ret_why: the caller starts with key_cache_new_empty and says so;
 * the file is moved aside, never deleted, by the first save. -errno where it cannot be read, also
 * with a sentence. Writes nothing. Main thread. */
int key_cache_open(const char *path, struct key_cache **ret_cache, char ret_why[JWKS_WHY_BYTES]);

/* A cache that knows nothing and will be saved at path. Whatever stands there by then is first
 * renamed to path.refused (path.refused.1, … up to .99). 0 or -ENOMEM. */
int key_cache_new_empty(const char *path, struct key_cache **ret_cache);

/* Releases a cache that no other thread uses any more; snapshots live on. NULL is allowed. */
void key_cache_free(struct key_cache *cache);

/* Takes a successfully fetched set: it becomes the current one, keys that are no longer in it stay
 * in the history, and both are saved (temporary name, fsync, rename, fsync of the folder, mode
 * 0600). A set may share no key with the one before: Apple announces no rotation. A kid that comes
 * with another modulus than remembered is taken as Apple publishes it; the old key is forgotten.
 *
 * A key left at the first successful refresh that lacked it (while refreshes fail, nobody can know
 * that it is gone), but no later than KEY_CACHE_STALE_S after it was last seen, when it was no
 * longer trusted anyway. Times that lie ahead of now_s, from a clock that has since gone back, are
 * drawn back to now_s; a now_s below JUDGE_CLOCK_FLOOR_S is no time, the last refresh's is taken.
 *
 * New keys count in ret_new_keys (may be NULL; untouched on -ENOMEM). -ENOMEM: nothing changed.
 * Another -errno: the save failed after the set took effect in memory. Blocks on the disk. Any
 * thread. */
int key_cache_replace(struct key_cache *cache, const struct jwks *set, int64_t now_s,
                      size_t *ret_new_keys);

/* Distrusts a kid at once and for good (also one that is not known yet), and saves. 0 also where it
 * was distrusted already. -EINVAL for what cannot be a kid, -ENOSPC over KEY_CACHE_DISTRUSTED_MAX,
 * -ENOMEM: nothing changed. Another -errno: the save failed, but the kid is distrusted in memory.
 * Blocks on the disk. Any thread. */
int key_cache_distrust(struct key_cache *cache, const char *kid);

/* The picture of now; release with key_snapshot_unref, which takes NULL. Never waits for the disk.
 * Any thread. */
struct key_snapshot *key_cache_snapshot(struct key_cache *cache);
void key_snapshot_unref(struct key_snapshot *snapshot);

/* Whether there is a set that may be judged by at now_s (wall clock): key_snapshot_usable of the
 * picture of now. Any thread. */
bool key_cache_usable(struct key_cache *cache, int64_t now_s);

/* A number that grows whenever a new picture replaces the old: cheap to poll. Any thread. */
uint64_t key_cache_generation(const struct key_cache *cache);

/* Whether keys are usable at now_s: at least one current key that is not distrusted, and the last
 * successful refresh less than KEY_CACHE_STALE_S ago. A clock that went back does not make keys
 * stale. */
bool key_snapshot_usable(const struct key_snapshot *snapshot, int64_t now_s);

/* The wall time of the last successful refresh in seconds, 0 where there was none. */
int64_t key_snapshot_refreshed_s(const struct key_snapshot *snapshot);

/* Records of the snapshot: current ones first, then by departure, the latest first. Borrowed from
 * it. */
size_t key_snapshot_count(const struct key_snapshot *snapshot);
const struct key_record *key_snapshot_at(const struct key_snapshot *snapshot, size_t index);

/* Distrusted kids, known or not. Borrowed. */
size_t key_snapshot_distrusted_count(const struct key_snapshot *snapshot);
const char *key_snapshot_distrusted_at(const struct key_snapshot *snapshot, size_t index);

/* The key with this kid and how far it is trusted at now_s: fully while current and for
 * KEY_CACHE_GRACE_S after it left, for quarantine after that, and not at all (the key is given all
 * the same) when distrusted. NULL and KEY_TRUST_NONE for an unknown kid. Whether the set as a whole
 * is fresh enough is key_snapshot_usable's to say. Borrowed from the snapshot. */
const struct jwk *key_snapshot_find(const struct key_snapshot *snapshot, const char *kid,
                                    size_t kid_bytes, int64_t now_s, enum key_trust *ret_trust);

#endif
