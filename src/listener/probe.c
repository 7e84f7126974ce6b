#include "listener/probe.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct probe {
    atomic_bool armed; /* a look without the lock; it may be late by one notification */
    pthread_mutex_t lock;
    struct jwk *key;
    int64_t until_ms; /* monotonic */
};

int probe_new(struct probe **ret_probe)
{
    struct probe *probe = calloc(1, sizeof *probe);

    if (!probe)
        return -ENOMEM;
    (void)pthread_mutex_init(&probe->lock, NULL); /* never fails with default attributes */
    *ret_probe = probe;
    return 0;
}

void probe_free(struct probe *probe)
{
    if (!probe)
        return;
    jwk_unref(probe->key);
    (void)pthread_mutex_destroy(&probe->lock);
    free(probe);
}

/* Called with the lock held. */
static void set_key(struct probe *probe, struct jwk *key, int64_t until_ms)
{
    jwk_unref(probe->key);
    probe->key = key;
    probe->until_ms = until_ms;
    atomic_store(&probe->armed, key != NULL);
}

bool probe_is_kid(const char *kid)
{
    size_t bytes = strlen(CONFIG_PROBE_KID);

    return strncmp(kid, CONFIG_PROBE_KID, bytes) == 0 && kid[bytes] != '\0';
}

int probe_arm(struct probe *probe, struct jwk *key, int64_t now_ms)
{
    if (!probe_is_kid(jwk_kid(key)))
        return -EINVAL;
    pthread_mutex_lock(&probe->lock);
    set_key(probe, jwk_ref(key), now_ms + PROBE_ARMED_MS);
    pthread_mutex_unlock(&probe->lock);
    return 0;
}

struct jwk *probe_key(struct probe *probe, int64_t now_ms)
{
    struct jwk *key = NULL;

    if (!probe || !atomic_load(&probe->armed))
        return NULL;
    pthread_mutex_lock(&probe->lock);
    if (now_ms >= probe->until_ms)
        set_key(probe, NULL, 0);
    if (probe->key)
        key = jwk_ref(probe->key);
    pthread_mutex_unlock(&probe->lock);
    return key;
}

void probe_used(struct probe *probe, const struct jwk *key)
{
    pthread_mutex_lock(&probe->lock);
    if (probe->key == key)
        set_key(probe, NULL, 0);
    pthread_mutex_unlock(&probe->lock);
}
