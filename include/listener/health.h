/*
 * health: what is known about the state of the daemon, and what follows from it.
 *
 * Facts are gathered in one place and judged in another: the judgement is pure, so that each of its
 * reasons can be tested without producing the fault. Nothing here is personal.
 */
#ifndef SIWA_LISTENER_HEALTH_H
#define SIWA_LISTENER_HEALTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dispatcher/writer.h"
#include "keys/key_cache.h"
#include "keys/refresher.h"
#include "listener/http.h"

#define HEALTH_LOOP_STUCK_MS 5000  /* Apple's loop turns at least four times a second */
#define HEALTH_IDLE_STUCK_MS 15000 /* of a writer between commits, and of the refresher */
#define HEALTH_SYNC_STUCK_MS \
    60000 /* where an fsync may be under way: 30 s is a slow disk, no hang */
#define HEALTH_COMMIT_SLOW_MS 3000 /* from here on requests are answered 503 */
#define HEALTH_FAILED_MS \
    30000 /* a failed commit counts; then whoever looks may try the next one \
           */
#define HEALTH_DISK_FAIL_BYTES   (UINT64_C(64) << 20)
#define HEALTH_DISK_WARN_BYTES   (UINT64_C(1) << 30)
#define HEALTH_DISK_WARN_PERCENT 5
#define HEALTH_KEYS_WARN_S       (24 * 3600)   /* or three refreshes, whichever is longer */
#define HEALTH_CLOCK_MEMORY_MS   (3600 * 1000) /* a jump of the clock is told for an hour */
#define HEALTH_WHY_BYTES         384

struct json_t;

struct health;

/* Whom to ask. All borrowed; must outlive the health. */
struct health_sources {
    const char *database; /* its path */
    struct writer *writer;
    struct refresher *refresher;
    unsigned key_refresh_s;
    struct key_cache *key_cache;
    const struct http_loop *notify_loop; /* Apple's path */
    const struct http_loop *reader_loop; /* monitor and control */
    unsigned leeway_s;
};

/* Signs of life; times are monotonic milliseconds. */
struct health_pulse {
    int64_t now_ms;
    int64_t notify_alive_ms, reader_alive_ms, refresher_alive_ms;
    struct writer_state writer;
};

enum health_file {
    HEALTH_FILE_UNKNOWN = 0, /* could not be looked at; file_errno says why */
    HEALTH_FILE_MISSING,
    HEALTH_FILE_REPLACED, /* another file stands at the path than the one that is open */
    HEALTH_FILE_PRESENT
};

/* Everything that the judgement looks at. */
struct health_facts {
    struct health_pulse pulse;

    bool keys_usable;
    size_t keys_current;      /* in the published set and not distrusted */
    int64_t keys_refreshed_s; /* wall clock, 0 for never */
    unsigned key_refresh_s;   /* how often they should be */
    struct refresher_state refresher;

    enum health_file file;
    int file_errno;
    uint64_t database_bytes, wal_bytes;
    bool disk_known;
    bool disk_read_only;
    uint64_t disk_free_bytes, disk_size_bytes;

    int64_t wall_ms;
    int64_t jump_ms;    /* the last jump of the wall clock, negative for backwards; 0 for none */
    int64_t jump_at_ms; /* monotonic; with jump_ms */
    int64_t leeway_s;

    bool draining;
};

/* Zero is failure. */
enum health_state { HEALTH_STATE_FAIL = 0, HEALTH_STATE_WARN, HEALTH_STATE_OK };

/* The checks of /readyz in its order, by their names there. */
#define HEALTH_CHECK_TABLE(X) \
    X(THREADS, "threads") \
    X(KEYS, "keys") \
    X(DATABASE, "database") \
    X(COMMIT, "commit") \
    X(QUEUE, "queue") \
    X(DISK, "disk") \
    X(CLOCK, "clock") \
    X(QUARANTINE, "quarantine") \
    X(DEFERRED, "deferred") \
    X(DRAINING, "draining")

enum health_check_id {
#define HEALTH_CHECK_CONSTANT(name, label) HEALTH_CHECK_##name,
    HEALTH_CHECK_TABLE(HEALTH_CHECK_CONSTANT)
#undef HEALTH_CHECK_CONSTANT
        HEALTH_CHECK_COUNT
};

struct health_check {
    enum health_state state;
    char why[HEALTH_WHY_BYTES]; /* cause and cure in one sentence; empty where the state is OK */
};

/* What was found; the facts stand beside it for whoever shows numbers. */
struct health_report {
    bool ready; /* no check fails: a notification that arrives now can be stored */
    struct health_check checks[HEALTH_CHECK_COUNT];
    struct health_facts facts;
};

/* Remembers the sources and which file the database is; the clock is watched from now on. 0 or
 * -errno. Main thread, after everything it asks was made. */
int health_new(const struct health_sources *sources, struct health **ret_health);
void health_free(struct health *health); /* takes NULL */

/* Whether every thread makes progress: each loop turned lately, the writer is idle or within one
 * commit of at most HEALTH_SYNC_STUCK_MS, the refresher lives. A fatal storage error is no
 * progress. This is what /healthz answers and what the watchdog is fed for. When false, ret_why
 * names the thread. Cheap, never touches the disk. Any thread. */
bool health_alive(struct health *health, char ret_why[HEALTH_WHY_BYTES]);

/* Gathers the facts and judges them. Asks the file system (stat, statvfs), reads no file. Any
 * thread. */
void health_report(struct health *health, struct health_report *ret_report);

/* Compares the wall clock with the monotonic one; a difference beyond the leeway since the last
 * call is a jump. Call it at least once a second. Any thread. */
void health_tick(struct health *health);

/* Brings the gauges that the rooms asked here keep, and that depend on the time, up to date: for
 * who is about to render the metrics. Any thread. */
void health_update_metrics(struct health *health);

/* Another leeway than the one of the sources, from now on. Any thread. */
void health_set_leeway(struct health *health, unsigned leeway_s);

/* The size of the write-ahead log now, 0 where it cannot be had. Asks the file system. Any thread.
 */
uint64_t health_wal_bytes(struct health *health);

/* From now on the daemon is shutting down and not ready. Any thread; async-signal-safe. */
void health_drain(struct health *health);

/* Whether health_drain was called. Any thread. */
bool health_draining(const struct health *health);

/* The two judgements on given facts. Pure. */
bool health_judge_pulse(const struct health_pulse *pulse, char ret_why[HEALTH_WHY_BYTES]);
void health_judge(const struct health_facts *facts, struct health_report *ret_report);

/* What a step from one pair of readings to the next says about the wall clock: the jump in
 * milliseconds, 0 where it is within the leeway. Pure. */
int64_t health_clock_jump_ms(int64_t wall_before_ms, int64_t mono_before_ms, int64_t wall_ms,
                             int64_t mono_ms, int64_t leeway_s);

/* "fail", "warn", "ok"; and the name of a check. Static strings. */
const char *health_state_label(enum health_state state);
const char *health_check_label(enum health_check_id id);

/* The report as /readyz and /v1/state show it: {"ready": …, "checks": {NAME: {"state": …, "why": …,
 * numbers}}}. A new reference, NULL when memory is out. */
struct json_t *health_json(const struct health_report *report);

#endif
