#include "dispatcher/policy.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct policy {
    atomic_uint references;
    enum config_late late;
    bool keeps_raw;
    unsigned leeway_s, deferred_events;
    size_t deferred_bytes;
    size_t count;
    struct config_app *apps;          /* in the order of the configuration */
    const struct config_app **sorted; /* by client_id */
    size_t issuer_count;
    char **issuers;
};

static int compare_apps(const void *a, const void *b)
{
    const struct config_app *const *left = a;
    const struct config_app *const *right = b;

    return strcmp((*left)->client_id, (*right)->client_id);
}

static int compare_key(const void *key, const void *element)
{
    const struct config_app *const *app = element;

    return strcmp(key, (*app)->client_id);
}

static void app_clear(struct config_app *app)
{
    free((void *)(uintptr_t)app->client_id);
    free((void *)(uintptr_t)app->app);
    free((void *)(uintptr_t)app->team);
}

static void policy_free(struct policy *policy)
{
    if (policy->apps)
        for (size_t i = 0; i < policy->count; i++)
            app_clear(&policy->apps[i]);
    if (policy->issuers)
        for (size_t i = 0; i < policy->issuer_count; i++)
            free(policy->issuers[i]);
    free(policy->issuers);
    free(policy->apps);
    free(policy->sorted);
    free(policy);
}

static int app_copy(const struct config_app *from, struct config_app *to)
{
    to->client_id = strdup(from->client_id);
    to->app = strdup(from->app ? from->app : "");
    to->team = strdup(from->team ? from->team : "");
    to->ignore_mask = from->ignore_mask;
    return to->client_id && to->app && to->team ? 0 : -ENOMEM;
}

static int copy_apps(const struct config *config, struct policy *policy)
{
    policy->count = config->app_count;
    /* one more than needed, since calloc(0) may give NULL */
    policy->apps = calloc(policy->count + 1, sizeof *policy->apps);
    policy->sorted = calloc(policy->count + 1, sizeof *policy->sorted);
    if (!policy->apps || !policy->sorted)
        return -ENOMEM;
    for (size_t i = 0; i < policy->count; i++) {
        if (app_copy(&config->apps[i], &policy->apps[i]) < 0)
            return -ENOMEM;
        policy->sorted[i] = &policy->apps[i];
    }
    qsort(policy->sorted, policy->count, sizeof(const struct config_app *), compare_apps);
    return 0;
}

static int copy_issuers(const struct config *config, struct policy *policy)
{
    policy->issuer_count = config->issuer_count;
    policy->issuers = calloc(policy->issuer_count + 1, sizeof *policy->issuers);
    if (!policy->issuers)
        return -ENOMEM;
    for (size_t i = 0; i < policy->issuer_count; i++) {
        policy->issuers[i] = strdup(config->issuers[i]);
        if (!policy->issuers[i])
            return -ENOMEM;
    }
    return 0;
}

int policy_new(const struct config *config, struct policy **ret_policy)
{
    struct policy *policy = calloc(1, sizeof *policy);

    if (!policy)
        return -ENOMEM;
    atomic_init(&policy->references, 1);
    policy->late = config->late;
    policy->keeps_raw = config->retain.raw_s > 0;
    policy->leeway_s = config->limits.leeway_s;
    policy->deferred_events = config->limits.deferred_events;
    policy->deferred_bytes = config->limits.deferred_bytes;
    if (copy_apps(config, policy) < 0 || copy_issuers(config, policy) < 0) {
        policy_free(policy);
        return -ENOMEM;
    }
    *ret_policy = policy;
    return 0;
}

struct policy *policy_ref(struct policy *policy)
{
    atomic_fetch_add_explicit(&policy->references, 1, memory_order_relaxed);
    return policy;
}

void policy_unref(struct policy *policy)
{
    if (!policy)
        return;
    if (atomic_fetch_sub_explicit(&policy->references, 1, memory_order_acq_rel) == 1)
        policy_free(policy);
}

const struct config_app *policy_find(const struct policy *policy, const char *client_id)
{
    const struct config_app *const *found = bsearch(client_id, policy->sorted, policy->count,
                                                    sizeof(const struct config_app *), compare_key);

    return found ? *found : NULL;
}

bool policy_ignores(const struct config_app *app, enum event_type kind)
{
    if (kind <= EVENT_TYPE_OTHER || kind >= EVENT_TYPE_COUNT)
        return false;
    return app->ignore_mask & (1U << kind);
}

static bool audience_known(void *context, const char *client_id)
{
    return policy_find(context, client_id) != NULL;
}

void policy_rules(const struct policy *policy, struct judge_rules *ret_rules)
{
    *ret_rules = (struct judge_rules){
        .audience_known = audience_known,
        .audience_context = (void *)(uintptr_t)policy,
        .issuers = (const char *const *)policy->issuers,
        .issuer_count = policy->issuer_count,
        .leeway_s = policy->leeway_s,
    };
}

unsigned policy_deferred_events(const struct policy *policy)
{
    return policy->deferred_events;
}

size_t policy_deferred_bytes(const struct policy *policy)
{
    return policy->deferred_bytes;
}

enum config_late policy_late(const struct policy *policy)
{
    return policy->late;
}

bool policy_keeps_raw(const struct policy *policy)
{
    return policy->keeps_raw;
}

size_t policy_count(const struct policy *policy)
{
    return policy->count;
}

const struct config_app *policy_at(const struct policy *policy, size_t index)
{
    return &policy->apps[index];
}
