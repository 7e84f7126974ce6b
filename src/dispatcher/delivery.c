#include "dispatcher/delivery.h"

#include <stdlib.h>
#include <string.h>

struct delivery *delivery_new(struct judgement *judgement, struct policy *policy,
                              const struct config_app *app, const char *raw, size_t raw_bytes,
                              int64_t received_at_ms)
{
    struct delivery *delivery = calloc(1, sizeof *delivery);
    char *copy = malloc(raw_bytes + 1);

    if (!delivery || !copy) {
        free(delivery);
        free(copy);
        return NULL;
    }
    memcpy(copy, raw, raw_bytes);
    copy[raw_bytes] = '\0';
    delivery->judgement = *judgement;
    memset(judgement, 0, sizeof *judgement);
    delivery->policy = policy_ref(policy);
    delivery->app = app;
    delivery->raw = copy;
    delivery->raw_bytes = raw_bytes;
    delivery->received_at_ms = received_at_ms;
    return delivery;
}

void delivery_free(struct delivery *delivery)
{
    if (!delivery)
        return;
    judgement_release(&delivery->judgement);
    policy_unref(delivery->policy);
    free(delivery->raw);
    free(delivery);
}
