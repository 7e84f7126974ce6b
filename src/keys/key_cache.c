#include "keys/key_cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "key_file.h"
#include "key_snapshot.h"

struct key_cache {
    char *path;
    bool move_aside; /* what stands at path was refused, and is not to be overwritten */

    /* Two locks, so that taking a picture never waits for the disk. */
    pthread_mutex_t change_lock;  /* held by who makes a new picture, until it is saved */
    pthread_mutex_t publish_lock; /* held for the exchange of the pointer */
    struct key_snapshot *snapshot;
    atomic_uint_fast64_t generation;
};

/* Takes over the reference to the snapshot. */
static int cache_new(const char *path, struct key_snapshot *snapshot, bool move_aside,
                     struct key_cache **ret_cache)
{
    struct key_cache *cache = calloc(1, sizeof(*cache));
    char *copy = strdup(path);
    if (cache == NULL || copy == NULL) {
        free(cache);
        free(copy);
        key_snapshot_unref(snapshot);
        return -ENOMEM;
    }
    cache->path = copy;
    cache->move_aside = move_aside;
    cache->snapshot = snapshot;
    atomic_init(&cache->generation, 1);
    /* glibc's default mutexes need no resources: neither call can fail. */
    (void)pthread_mutex_init(&cache->change_lock, NULL);
    (void)pthread_mutex_init(&cache->publish_lock, NULL);
    *ret_cache = cache;
    return 0;
}

static int cache_new_empty(const char *path, bool move_aside, struct key_cache **ret_cache)
{
    struct key_snapshot *snapshot;
    int r = key_snapshot_new(&snapshot);
    return r < 0 ? r : cache_new(path, snapshot, move_aside, ret_cache);
}

int key_cache_open(const char *path, struct key_cache **ret_cache, char ret_why[JWKS_WHY_BYTES])
{
    struct key_snapshot *snapshot;
    int r = key_file_read(path, &snapshot, ret_why);
    if (r == -ENOENT)
        return cache_new_empty(path, false, ret_cache);
    return r < 0 ? r : cache_new(path, snapshot, false, ret_cache);
}

int key_cache_new_empty(const char *path, struct key_cache **ret_cache)
{
    return cache_new_empty(path, true, ret_cache);
}

void key_cache_free(struct key_cache *cache)
{
    if (cache == NULL)
        return;
    key_snapshot_unref(cache->snapshot);
    (void)pthread_mutex_destroy(&cache->publish_lock);
    (void)pthread_mutex_destroy(&cache->change_lock);
    free(cache->path);
    free(cache);
}

/* Takes over the reference to the snapshot. */
static void publish(struct key_cache *cache, struct key_snapshot *snapshot)
{
    (void)pthread_mutex_lock(&cache->publish_lock);
    struct key_snapshot *before = cache->snapshot;
    cache->snapshot = snapshot;
    (void)pthread_mutex_unlock(&cache->publish_lock);
    atomic_fetch_add_explicit(&cache->generation, 1, memory_order_release);
    key_snapshot_unref(before);
}

/* Saves the current picture. Who calls this holds change_lock: the picture cannot go away. */
static int save(struct key_cache *cache)
{
    if (cache->move_aside) {
        int r = key_file_move_aside(cache->path);
        if (r < 0)
            return r;
        cache->move_aside = false;
    }
    return key_file_write(cache->path, cache->snapshot);
}

int key_cache_replace(struct key_cache *cache, const struct jwks *set, int64_t now_s,
                      size_t *ret_new_keys)
{
    struct key_snapshot *after;
    size_t new_keys;
    (void)pthread_mutex_lock(&cache->change_lock);
    int r = key_snapshot_after_refresh(cache->snapshot, set, now_s, &after, &new_keys);
    if (r == 0) {
        if (ret_new_keys != NULL)
            *ret_new_keys = new_keys;
        publish(cache, after); /* keys that cannot be saved serve all the same */
        r = save(cache);
    }
    (void)pthread_mutex_unlock(&cache->change_lock);
    return r;
}

int key_cache_distrust(struct key_cache *cache, const char *kid)
{
    struct key_snapshot *after;
    (void)pthread_mutex_lock(&cache->change_lock);
    int r = key_snapshot_after_distrust(cache->snapshot, kid, &after);
    if (r == 0)
        publish(cache, after);
    /* Distrusted already: perhaps that could not be saved then, and now it can. */
    if (r == 0 || r == -EEXIST)
        r = save(cache);
    (void)pthread_mutex_unlock(&cache->change_lock);
    return r;
}

struct key_snapshot *key_cache_snapshot(struct key_cache *cache)
{
    (void)pthread_mutex_lock(&cache->publish_lock);
    struct key_snapshot *snapshot = key_snapshot_ref(cache->snapshot);
    (void)pthread_mutex_unlock(&cache->publish_lock);
    return snapshot;
}

bool key_cache_usable(struct key_cache *cache, int64_t now_s)
{
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    bool usable = key_snapshot_usable(snapshot, now_s);

    key_snapshot_unref(snapshot);
    return usable;
}

uint64_t key_cache_generation(const struct key_cache *cache)
{
    return atomic_load_explicit(&cache->generation, memory_order_acquire);
}
