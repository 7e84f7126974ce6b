#include "support/clock_watch.h"

static bool is_jump(int64_t step_ms, int64_t leeway_ms)
{
    int64_t least_ms = leeway_ms > CLOCK_WATCH_LEAST_MS ? leeway_ms : CLOCK_WATCH_LEAST_MS;

    return step_ms > least_ms || step_ms < -least_ms;
}

bool clock_watch_look(struct clock_watch *watch, int64_t wall_ms, int64_t monotonic_ms,
                      int64_t leeway_ms)
{
    int64_t offset_ms = wall_ms - monotonic_ms;
    int64_t last_ms = watch->offset_ms;
    bool jumped = watch->looked && is_jump(offset_ms - last_ms, leeway_ms);

    watch->looked = true;
    watch->offset_ms = offset_ms;
    if (watch->in_doubt && monotonic_ms >= watch->doubtful_ms)
        watch->in_doubt = false;
    if (!jumped)
        return false;
    if (watch->in_doubt && !is_jump(offset_ms - watch->before_ms, leeway_ms)) {
        watch->in_doubt = false;
        return true;
    }
    if (!watch->in_doubt)
        watch->before_ms = last_ms;
    watch->in_doubt = true;
    watch->doubtful_ms = monotonic_ms + CLOCK_WATCH_DOUBT_MS;
    return true;
}

int64_t clock_watch_other_ms(const struct clock_watch *watch, int64_t wall_ms, int64_t monotonic_ms)
{
    return watch->in_doubt ? watch->before_ms + monotonic_ms : wall_ms;
}
