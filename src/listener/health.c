#include "listener/health.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "support/clock.h"

struct health {
    struct health_sources sources;
    char *directory; /* of the database */
    char *wal;       /* the path of its write-ahead log */
    dev_t device;
    ino_t inode;
    atomic_bool draining;
    atomic_uint leeway_s;

    pthread_mutex_t clock_lock;
    int64_t wall_before_ms, mono_before_ms;
    int64_t jump_ms, jump_at_ms;
};

const char *health_state_label(enum health_state state)
{
    switch (state) {
    case HEALTH_STATE_OK:
        return "ok";
    case HEALTH_STATE_WARN:
        return "warn";
    case HEALTH_STATE_FAIL:
        break;
    }
    return "fail";
}

const char *health_check_label(enum health_check_id id)
{
    static const char *const labels[] = {
#define HEALTH_CHECK_LABEL(name, label) [HEALTH_CHECK_##name] = (label),
        HEALTH_CHECK_TABLE(HEALTH_CHECK_LABEL)
#undef HEALTH_CHECK_LABEL
    };
    return (unsigned)id < HEALTH_CHECK_COUNT ? labels[id] : "unknown";
}

/* ---- judging ---- */

__attribute__((format(printf, 3, 4))) static void conclude(struct health_check *check,
                                                           enum health_state state,
                                                           const char *format, ...)
{
    va_list arguments;

    check->state = state;
    va_start(arguments, format);
    (void)vsnprintf(check->why, sizeof check->why, format, arguments); /* cut at its end is fine */
    va_end(arguments);
}

static void conclude_ok(struct health_check *check)
{
    check->state = HEALTH_STATE_OK;
    check->why[0] = '\0';
}

static bool stuck(int64_t now_ms, int64_t alive_ms, int64_t limit_ms)
{
    return now_ms - alive_ms > limit_ms; /* a sign of life from the future is a sign of life */
}

static void say_stuck(char ret_why[HEALTH_WHY_BYTES], const char *who, int64_t since_ms)
{
    (void)snprintf(ret_why, HEALTH_WHY_BYTES, "the %s made no progress for %" PRId64 " s", who,
                   since_ms / 1000);
}

static bool judge_writer(const struct health_pulse *pulse, char ret_why[HEALTH_WHY_BYTES])
{
    const struct writer_state *writer = &pulse->writer;

    if (writer->fatal) {
        (void)snprintf(ret_why, HEALTH_WHY_BYTES, "the storage failed for good: %s", writer->why);
        return false;
    }
    if (writer->committing) {
        if (!stuck(pulse->now_ms, writer->committing_since_ms, HEALTH_SYNC_STUCK_MS))
            return true;
        say_stuck(ret_why, "commit under way", pulse->now_ms - writer->committing_since_ms);
        return false;
    }
    if (!stuck(pulse->now_ms, writer->alive_ms, HEALTH_IDLE_STUCK_MS))
        return true;
    say_stuck(ret_why, "writer thread", pulse->now_ms - writer->alive_ms);
    return false;
}

bool health_judge_pulse(const struct health_pulse *pulse, char ret_why[HEALTH_WHY_BYTES])
{
    /* The reader loop saves keys.json with an fsync now and then; the refresher does so too, and
     * counts it as life itself. Apple's loop never waits for a disk. */
    const struct {
        const char *who;
        int64_t alive_ms, limit_ms;
    } threads[] = {
        {"loop on Apple's path", pulse->notify_alive_ms, HEALTH_LOOP_STUCK_MS},
        {"loop of monitor and control", pulse->reader_alive_ms, HEALTH_SYNC_STUCK_MS},
        {"key refresh thread", pulse->refresher_alive_ms, HEALTH_IDLE_STUCK_MS},
    };

    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        if (!stuck(pulse->now_ms, threads[i].alive_ms, threads[i].limit_ms))
            continue;
        say_stuck(ret_why, threads[i].who, pulse->now_ms - threads[i].alive_ms);
        return false;
    }
    return judge_writer(pulse, ret_why);
}

static void judge_threads(const struct health_facts *facts, struct health_check *check)
{
    char why[HEALTH_WHY_BYTES];

    if (health_judge_pulse(&facts->pulse, why))
        conclude_ok(check);
    else
        conclude(check, HEALTH_STATE_FAIL, "%.*s", (int)sizeof why - 1, why);
}

static int64_t keys_age_s(const struct health_facts *facts)
{
    int64_t age_s = facts->wall_ms / 1000 - facts->keys_refreshed_s;
    return age_s > 0 ? age_s : 0;
}

static int64_t keys_warn_s(const struct health_facts *facts)
{
    int64_t three_s = 3 * (int64_t)facts->key_refresh_s;
    return three_s > HEALTH_KEYS_WARN_S ? three_s : HEALTH_KEYS_WARN_S;
}

static const char *last_attempt(const struct health_facts *facts)
{
    if (facts->refresher.last_attempt_ms == 0)
        return "no attempt is over yet";
    if (facts->refresher.last_result == FETCH_RESULT_OK)
        return "the last attempt succeeded";
    return facts->refresher.last_why;
}

static void judge_keys(const struct health_facts *facts, struct health_check *check)
{
    int64_t hours = keys_age_s(facts) / 3600;

    if (facts->keys_refreshed_s == 0)
        conclude(check, HEALTH_STATE_FAIL,
                 "no key set was ever fetched, so nothing can be verified; last attempt: %s",
                 last_attempt(facts));
    else if (facts->keys_current == 0)
        conclude(check, HEALTH_STATE_FAIL,
                 "every published key is distrusted, so nothing can be verified; wait for new keys "
                 "(last attempt: %s)",
                 last_attempt(facts));
    else if (!facts->keys_usable)
        conclude(check, HEALTH_STATE_FAIL,
                 "the keys are %" PRId64 " hours old, too old to be trusted; last attempt: %s",
                 hours, last_attempt(facts));
    else if (keys_age_s(facts) > keys_warn_s(facts))
        conclude(check, HEALTH_STATE_WARN,
                 "the keys were not refreshed for %" PRId64 " hours and serve until day %d; last "
                 "attempt: %s",
                 hours, KEY_CACHE_STALE_S / (24 * 3600), last_attempt(facts));
    else
        conclude_ok(check);
}

static void judge_database(const struct health_facts *facts, struct health_check *check)
{
    const struct writer_state *writer = &facts->pulse.writer;

    if (writer->fatal)
        conclude(check, HEALTH_STATE_FAIL, "the storage failed for good: %s", writer->why);
    else if (facts->file == HEALTH_FILE_MISSING)
        conclude(check, HEALTH_STATE_FAIL,
                 "the database file was deleted or moved under the running daemon; put it back and "
                 "restart, or what is stored now is lost");
    else if (facts->file == HEALTH_FILE_REPLACED)
        conclude(check, HEALTH_STATE_FAIL,
                 "another file took the place of the open database; put the old one back and "
                 "restart, or what is stored now is lost");
    else if (facts->file == HEALTH_FILE_UNKNOWN)
        conclude(check, HEALTH_STATE_FAIL, "the database file cannot be looked at: %s",
                 strerror(facts->file_errno));
    else if (facts->disk_known && facts->disk_read_only)
        conclude(check, HEALTH_STATE_FAIL,
                 "the file system of the database is mounted read-only; remount it read-write");
    else if (writer->failing)
        /* Only a notification shows whether it is over. A proxy that sends none to a daemon that
         * is not ready shall not wait for ever. */
        conclude(check,
                 stuck(facts->pulse.now_ms, writer->failed_ms, HEALTH_FAILED_MS)
                     ? HEALTH_STATE_WARN
                     : HEALTH_STATE_FAIL,
                 "the last commit, %" PRId64 " s ago, failed: %s",
                 (facts->pulse.now_ms - writer->failed_ms) / 1000, writer->why);
    else if (facts->wal_bytes > OUTBOX_WAL_LIMIT_BYTES)
        conclude(check, HEALTH_STATE_WARN,
                 "the write-ahead log has grown to %" PRIu64
                 " MiB: a reader stays in one transaction for long; end it",
                 facts->wal_bytes >> 20);
    else
        conclude_ok(check);
}

static int64_t commit_ms(const struct health_pulse *pulse)
{
    return pulse->writer.committing ? pulse->now_ms - pulse->writer.committing_since_ms : 0;
}

static void judge_commit(const struct health_facts *facts, struct health_check *check)
{
    int64_t running_ms = commit_ms(&facts->pulse);

    if (running_ms > HEALTH_COMMIT_SLOW_MS)
        conclude(check, HEALTH_STATE_FAIL,
                 "a commit has been under way for %" PRId64
                 " s: the disk is slow, and requests are answered 503 meanwhile",
                 running_ms / 1000);
    else
        conclude_ok(check);
}

static void judge_queue(const struct health_facts *facts, struct health_check *check)
{
    unsigned depth = facts->pulse.writer.queued_events;
    unsigned bound = facts->pulse.writer.queue_events;

    if (depth >= bound)
        conclude(check, HEALTH_STATE_FAIL,
                 "the queue is full (%u events): more arrives than the disk takes", depth);
    else if (depth > bound / 2)
        conclude(check, HEALTH_STATE_WARN, "the queue is more than half full (%u of %u events)",
                 depth, bound);
    else
        conclude_ok(check);
}

static void judge_disk(const struct health_facts *facts, struct health_check *check)
{
    uint64_t free_mib = facts->disk_free_bytes >> 20;

    if (!facts->disk_known)
        conclude(check, HEALTH_STATE_FAIL, "the free space beside the database cannot be read");
    else if (facts->disk_free_bytes < HEALTH_DISK_FAIL_BYTES)
        conclude(check, HEALTH_STATE_FAIL,
                 "only %" PRIu64 " MiB are free beside the database; make room", free_mib);
    else if (facts->disk_free_bytes < HEALTH_DISK_WARN_BYTES ||
             facts->disk_free_bytes / HEALTH_DISK_WARN_PERCENT < facts->disk_size_bytes / 100)
        conclude(check, HEALTH_STATE_WARN,
                 "%" PRIu64 " MiB are free beside the database, soon too little", free_mib);
    else
        conclude_ok(check);
}

static bool jumped_lately(const struct health_facts *facts)
{
    return facts->jump_ms != 0 && facts->pulse.now_ms - facts->jump_at_ms <= HEALTH_CLOCK_MEMORY_MS;
}

static void judge_clock(const struct health_facts *facts, struct health_check *check)
{
    int64_t wall_s = facts->wall_ms / 1000;
    int64_t jump_s = facts->jump_ms / 1000;

    if (wall_s < JUDGE_CLOCK_FLOOR_S)
        conclude(check, HEALTH_STATE_FAIL,
                 "the clock is not set (it is before 2019); set it, every notification is put off "
                 "until then");
    else if (wall_s + facts->leeway_s < facts->keys_refreshed_s)
        conclude(check, HEALTH_STATE_WARN,
                 "the clock is %" PRId64 " s behind the last key refresh: it went back; set it",
                 facts->keys_refreshed_s - wall_s);
    else if (jumped_lately(facts))
        conclude(check, HEALTH_STATE_WARN,
                 "the clock jumped %s by %" PRId64 " s %" PRId64 " min ago",
                 jump_s < 0 ? "back" : "forward", jump_s < 0 ? -jump_s : jump_s,
                 (facts->pulse.now_ms - facts->jump_at_ms) / 60000);
    else
        conclude_ok(check);
}

static void judge_quarantine(const struct health_facts *facts, struct health_check *check)
{
    const struct outbox_apart *apart = &facts->pulse.writer.apart;
    bool full = apart->quarantine_rows >= OUTBOX_QUARANTINE_ROWS ||
                apart->quarantine_bytes > OUTBOX_QUARANTINE_BYTES - NOTIFICATION_BODY_MAX_BYTES;

    if (full)
        conclude(check, HEALTH_STATE_WARN,
                 "the quarantine is full (%" PRId64 " notifications), and what belongs there is "
                 "answered 503: `siwa-notifyd quarantine list`, then release or drop",
                 apart->quarantine_rows);
    else if (apart->quarantine_rows > 0)
        conclude(check, HEALTH_STATE_WARN,
                 "%" PRId64 " notifications that Apple signed are in quarantine, and no consumer "
                 "sees them: `siwa-notifyd quarantine list`, then release or drop",
                 apart->quarantine_rows);
    else
        conclude_ok(check);
}

static void judge_deferred(const struct health_facts *facts, struct health_check *check)
{
    int64_t rows = facts->pulse.writer.apart.deferred_rows;

    if (rows > 0)
        conclude(check, HEALTH_STATE_WARN,
                 "%" PRId64 " notifications, forged ones maybe among them, are kept until the keys "
                 "arrive that would have signed them",
                 rows);
    else
        conclude_ok(check);
}

static void judge_draining(const struct health_facts *facts, struct health_check *check)
{
    if (facts->draining)
        conclude(check, HEALTH_STATE_FAIL, "the daemon is shutting down");
    else
        conclude_ok(check);
}

void health_judge(const struct health_facts *facts, struct health_report *ret_report)
{
    struct health_check *checks;

    *ret_report = (struct health_report){.facts = *facts};
    checks = ret_report->checks;
    judge_threads(facts, &checks[HEALTH_CHECK_THREADS]);
    judge_keys(facts, &checks[HEALTH_CHECK_KEYS]);
    judge_database(facts, &checks[HEALTH_CHECK_DATABASE]);
    judge_commit(facts, &checks[HEALTH_CHECK_COMMIT]);
    judge_queue(facts, &checks[HEALTH_CHECK_QUEUE]);
    judge_disk(facts, &checks[HEALTH_CHECK_DISK]);
    judge_clock(facts, &checks[HEALTH_CHECK_CLOCK]);
    judge_quarantine(facts, &checks[HEALTH_CHECK_QUARANTINE]);
    judge_deferred(facts, &checks[HEALTH_CHECK_DEFERRED]);
    judge_draining(facts, &checks[HEALTH_CHECK_DRAINING]);

    ret_report->ready = true;
    for (size_t i = 0; i < HEALTH_CHECK_COUNT; i++)
        ret_report->ready = ret_report->ready && checks[i].state != HEALTH_STATE_FAIL;
}

int64_t health_clock_jump_ms(int64_t wall_before_ms, int64_t mono_before_ms, int64_t wall_ms,
                             int64_t mono_ms, int64_t leeway_s)
{
    int64_t jump_ms = (wall_ms - wall_before_ms) - (mono_ms - mono_before_ms);
    int64_t size_ms = jump_ms < 0 ? -jump_ms : jump_ms;
    return size_ms > leeway_s * 1000 ? jump_ms : 0;
}

/* ---- gathering ---- */

static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int health_new(const struct health_sources *sources, struct health **ret_health)
{
    struct stat file;
    struct health *health = calloc(1, sizeof *health);

    if (!health)
        return -ENOMEM;
    (void)pthread_mutex_init(&health->clock_lock, NULL); /* never fails with default attributes */
    health->sources = *sources;
    atomic_init(&health->leeway_s, sources->leeway_s);
    health->directory = directory_of(sources->database);
    if (asprintf(&health->wal, "%s-wal", sources->database) < 0)
        health->wal = NULL;
    if (!health->directory || !health->wal) {
        health_free(health);
        return -ENOMEM;
    }
    if (stat(sources->database, &file) < 0) {
        int error = -errno;
        health_free(health);
        return error;
    }
    health->device = file.st_dev;
    health->inode = file.st_ino;
    health->wall_before_ms = clock_wall_ms();
    health->mono_before_ms = clock_monotonic_ms();
    *ret_health = health;
    return 0;
}

void health_free(struct health *health)
{
    if (!health)
        return;
    (void)pthread_mutex_destroy(&health->clock_lock);
    free(health->directory);
    free(health->wal);
    free(health);
}

static void gather_pulse(struct health *health, struct health_pulse *ret_pulse)
{
    const struct health_sources *sources = &health->sources;

    ret_pulse->notify_alive_ms = http_loop_alive_ms(sources->notify_loop);
    ret_pulse->reader_alive_ms = http_loop_alive_ms(sources->reader_loop);
    ret_pulse->refresher_alive_ms = refresher_alive_ms(sources->refresher);
    writer_state(sources->writer, &ret_pulse->writer);
    ret_pulse->now_ms = clock_monotonic_ms();
}

static void gather_keys(struct health *health, struct health_facts *facts)
{
    struct key_snapshot *snapshot = key_cache_snapshot(health->sources.key_cache);

    refresher_state(health->sources.refresher, &facts->refresher);
    facts->key_refresh_s = health->sources.key_refresh_s;
    facts->keys_usable = key_snapshot_usable(snapshot, facts->wall_ms / 1000);
    facts->keys_refreshed_s = key_snapshot_refreshed_s(snapshot);
    for (size_t i = 0; i < key_snapshot_count(snapshot); i++) {
        const struct key_record *record = key_snapshot_at(snapshot, i);
        if (record->current && !record->distrusted)
            facts->keys_current++;
    }
    key_snapshot_unref(snapshot);
}

static uint64_t file_bytes(const struct stat *file)
{
    return file->st_size > 0 ? (uint64_t)file->st_size : 0;
}

static void gather_file(struct health *health, struct health_facts *facts)
{
    struct stat file;

    if (stat(health->wal, &file) == 0)
        facts->wal_bytes = file_bytes(&file);
    if (stat(health->sources.database, &file) < 0) {
        facts->file_errno = errno;
        facts->file = errno == ENOENT ? HEALTH_FILE_MISSING : HEALTH_FILE_UNKNOWN;
        return;
    }
    facts->database_bytes = file_bytes(&file);
    facts->file = file.st_dev == health->device && file.st_ino == health->inode
                      ? HEALTH_FILE_PRESENT
                      : HEALTH_FILE_REPLACED;
}

static void gather_disk(struct health *health, struct health_facts *facts)
{
    struct statvfs disk;
    uint64_t bytes;

    if (statvfs(health->directory, &disk) < 0)
        return;
    facts->disk_read_only = (disk.f_flag & ST_RDONLY) != 0;
    if (__builtin_mul_overflow((uint64_t)disk.f_bavail, (uint64_t)disk.f_frsize, &bytes))
        return;
    facts->disk_free_bytes = bytes;
    if (__builtin_mul_overflow((uint64_t)disk.f_blocks, (uint64_t)disk.f_frsize, &bytes))
        return;
    facts->disk_size_bytes = bytes;
    facts->disk_known = true;
}

static void gather_clock(struct health *health, struct health_facts *facts)
{
    facts->wall_ms = clock_wall_ms();
    facts->leeway_s = atomic_load(&health->leeway_s);
    (void)pthread_mutex_lock(&health->clock_lock);
    facts->jump_ms = health->jump_ms;
    facts->jump_at_ms = health->jump_at_ms;
    (void)pthread_mutex_unlock(&health->clock_lock);
}

bool health_alive(struct health *health, char ret_why[HEALTH_WHY_BYTES])
{
    struct health_pulse pulse = {0};

    gather_pulse(health, &pulse);
    return health_judge_pulse(&pulse, ret_why);
}

void health_report(struct health *health, struct health_report *ret_report)
{
    struct health_facts facts = {0};

    health_tick(health);
    gather_clock(health, &facts);
    gather_keys(health, &facts);
    gather_file(health, &facts);
    gather_disk(health, &facts);
    facts.draining = atomic_load(&health->draining);
    gather_pulse(health, &facts.pulse);
    health_judge(&facts, ret_report);
}

void health_tick(struct health *health)
{
    (void)pthread_mutex_lock(&health->clock_lock);
    int64_t wall_ms = clock_wall_ms();
    int64_t mono_ms = clock_monotonic_ms();
    int64_t jump_ms = health_clock_jump_ms(health->wall_before_ms, health->mono_before_ms, wall_ms,
                                           mono_ms, atomic_load(&health->leeway_s));
    if (jump_ms != 0) {
        health->jump_ms = jump_ms;
        health->jump_at_ms = mono_ms;
    }
    health->wall_before_ms = wall_ms;
    health->mono_before_ms = mono_ms;
    (void)pthread_mutex_unlock(&health->clock_lock);
}

void health_update_metrics(struct health *health)
{
    refresher_update_metrics(health->sources.refresher, clock_wall_ms() / 1000);
}

void health_set_leeway(struct health *health, unsigned leeway_s)
{
    atomic_store(&health->leeway_s, leeway_s);
}

uint64_t health_wal_bytes(struct health *health)
{
    struct stat file;

    return stat(health->wal, &file) == 0 ? file_bytes(&file) : 0;
}

void health_drain(struct health *health)
{
    atomic_store(&health->draining, true);
}

bool health_draining(const struct health *health)
{
    return atomic_load(&health->draining);
}

/* ---- telling ---- */

/* The numbers of a check; a check without any is null. */
static json_t *numbers(const struct health_facts *facts, enum health_check_id id)
{
    const struct writer_state *writer = &facts->pulse.writer;

    switch (id) {
    case HEALTH_CHECK_KEYS:
        if (facts->keys_refreshed_s == 0)
            return json_pack("{s:I}", "count", (json_int_t)facts->keys_current);
        return json_pack("{s:I,s:I}", "count", (json_int_t)facts->keys_current, "age_s",
                         (json_int_t)keys_age_s(facts));
    case HEALTH_CHECK_DATABASE:
        return json_pack("{s:I,s:I}", "bytes", (json_int_t)facts->database_bytes, "wal_bytes",
                         (json_int_t)facts->wal_bytes);
    case HEALTH_CHECK_COMMIT:
        return json_pack("{s:I,s:I,s:I}", "running_ms", (json_int_t)commit_ms(&facts->pulse),
                         "commits", (json_int_t)writer->commits, "rows", (json_int_t)writer->rows);
    case HEALTH_CHECK_QUEUE:
        return json_pack("{s:I,s:I}", "depth", (json_int_t)writer->queued_events, "bound",
                         (json_int_t)writer->queue_events);
    case HEALTH_CHECK_DISK:
        return json_pack("{s:I,s:I}", "free_bytes", (json_int_t)facts->disk_free_bytes,
                         "size_bytes", (json_int_t)facts->disk_size_bytes);
    case HEALTH_CHECK_CLOCK:
        return json_pack("{s:I,s:I}", "now_s", (json_int_t)(facts->wall_ms / 1000), "jump_s",
                         (json_int_t)(jumped_lately(facts) ? facts->jump_ms / 1000 : 0));
    case HEALTH_CHECK_QUARANTINE:
        return json_pack("{s:I,s:I}", "count", (json_int_t)writer->apart.quarantine_rows, "bytes",
                         (json_int_t)writer->apart.quarantine_bytes);
    case HEALTH_CHECK_DEFERRED:
        return json_pack("{s:I,s:I}", "count", (json_int_t)writer->apart.deferred_rows, "bytes",
                         (json_int_t)writer->apart.deferred_bytes);
    case HEALTH_CHECK_THREADS:
    case HEALTH_CHECK_DRAINING:
    case HEALTH_CHECK_COUNT:
        break;
    }
    return json_object();
}

/* A reason may quote the text of another library, whose bytes are not ours to trust. */
static json_t *text_json(const char *text)
{
    char plain[HEALTH_WHY_BYTES];
    json_t *string = json_string(text);
    size_t i;

    if (string)
        return string;
    for (i = 0; i < sizeof plain - 1 && text[i] != '\0'; i++)
        plain[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    plain[i] = '\0';
    return json_string(plain);
}

static json_t *check_json(const struct health_report *report, enum health_check_id id)
{
    const struct health_check *check = &report->checks[id];
    json_t *object = json_object();
    json_t *extra = numbers(&report->facts, id);

    if (!object || !extra ||
        json_object_set_new(object, "state", json_string(health_state_label(check->state))) < 0 ||
        (check->why[0] != '\0' && json_object_set_new(object, "why", text_json(check->why)) < 0) ||
        json_object_update(object, extra) < 0) {
        json_decref(object);
        object = NULL;
    }
    json_decref(extra);
    return object;
}

json_t *health_json(const struct health_report *report)
{
    json_t *checks = json_object();

    if (!checks)
        return NULL;
    for (unsigned i = 0; i < HEALTH_CHECK_COUNT; i++) {
        enum health_check_id id = (enum health_check_id)i;
        if (json_object_set_new(checks, health_check_label(id), check_json(report, id)) < 0) {
            json_decref(checks);
            return NULL;
        }
    }
    return json_pack("{s:b,s:o}", "ready", report->ready, "checks", checks); /* takes checks */
}
