/*
 * bench_outbox: what a stored notification costs the writer, without HTTP and without RSA.
 *
 *     bench_outbox [ROWS_BEFORE]     (default 5000000)
 *
 * Prints wall time and CPU time for each notification (begin, add, commit with its fsync, and the
 * checkpoints that fall due) for batches of 1, 64 and 256, into an empty table and behind
 * ROWS_BEFORE identities; and the ratios. Numbers of one run on one machine: read the ratios.
 */
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dispatcher/outbox.h"

#define NOW_MS     INT64_C(1700000000000)
#define BODY_BYTES 850 /* of Apple's */
#define BATCH_MAX  256
#define RUN_MS     2000
#define ROUNDS     3

struct cost {
    double cpu_us, wall_us;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_outbox: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static double seconds(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct policy *make_policy(void)
{
    static const struct config_app app = {
        .client_id = "com.example.app", .app = "Example", .team = "ABCDE12345"};
    const struct config config = {.apps = &app, .app_count = 1, .retain = {.raw_s = 1}};
    struct policy *policy = NULL;

    if (policy_new(&config, &policy) < 0)
        die("policy", "out of memory");
    return policy;
}

static struct delivery *make_delivery(struct policy *policy, uint64_t number)
{
    static char raw[BODY_BYTES];
    struct judgement judgement = {.verdict = VERDICT_ACCEPTED, .signature_verified = true};
    struct delivery *delivery;
    char claims[1024];

    memset(raw, 'a', sizeof raw);
    snprintf(
        claims, sizeof claims,
        "{\"iss\":\"https://appleid.apple.com\",\"aud\":\"com.example.app\",\"exp\":1700086400,"
        "\"iat\":1700000000,\"jti\":\"%022llu\",\"events\":\"{\\\"type\\\":\\\"email-disabled"
        "\\\",\\\"sub\\\":\\\"%06llu.0123456789abcdef0123456789abcdef.0000\\\",\\\"event_time"
        "\\\":%lld,\\\"email\\\":\\\"%010llu@privaterelay.appleid.com\\\","
        "\\\"is_private_email\\\":\\\"true\\\"}\"}",
        (unsigned long long)number, (unsigned long long)(number * 7919 % 1000000),
        (long long)NOW_MS + (long long)(number / 4), (unsigned long long)number);
    if (notification_parse(claims, strlen(claims), &judgement.notification) != VERDICT_ACCEPTED)
        die("claims", "refused");
    delivery = delivery_new(&judgement, policy, policy_at(policy, 0), raw, sizeof raw, NOW_MS);
    if (!delivery)
        die("delivery", "out of memory");
    return delivery;
}

static void commit_batch(struct outbox *outbox, struct delivery **batch, size_t count)
{
    enum outbox_error error = outbox_begin(outbox);

    for (size_t i = 0; error == OUTBOX_ERROR_NONE && i < count; i++)
        error = outbox_add(outbox, batch[i]);
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_commit(outbox);
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_checkpoint_if_due(outbox);
    if (error != OUTBOX_ERROR_NONE)
        die("commit", outbox_error_text(outbox));
}

static struct cost measure(struct outbox *outbox, struct policy *policy, size_t batch_rows,
                           uint64_t *number)
{
    struct delivery *batch[BATCH_MAX];
    struct cost cost = {0};
    uint64_t rows = 0;

    while (cost.wall_us < RUN_MS * 1000.0) {
        double cpu, wall;

        for (size_t i = 0; i < batch_rows; i++)
            batch[i] = make_delivery(policy, (*number)++);
        cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
        wall = seconds(CLOCK_MONOTONIC);
        commit_batch(outbox, batch, batch_rows);
        cost.cpu_us += (seconds(CLOCK_THREAD_CPUTIME_ID) - cpu) * 1e6;
        cost.wall_us += (seconds(CLOCK_MONOTONIC) - wall) * 1e6;
        for (size_t i = 0; i < batch_rows; i++) {
            if (batch[i]->verdict != VERDICT_ACCEPTED)
                die("verdict", verdict_label(batch[i]->verdict));
            delivery_free(batch[i]);
        }
        rows += batch_rows;
    }
    cost.cpu_us /= (double)rows;
    cost.wall_us /= (double)rows;
    return cost;
}

/* Identities of an earlier time, in their order. */
static void fill(const char *path, long long rows)
{
    char sql[512];
    sqlite3 *db = NULL;
    int code = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);

    snprintf(sql, sizeof sql,
             "PRAGMA synchronous=OFF; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n "
             "LIMIT %lld) INSERT INTO seen SELECT 1600000000000 + i, randomblob(32), 1600000000000 "
             "+ i FROM n; PRAGMA wal_checkpoint(TRUNCATE)",
             rows);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, sql, NULL, NULL, NULL);
    if (code != SQLITE_OK)
        die("fill", sqlite3_errmsg(db));
    sqlite3_close(db);
    sync(); /* or the first rounds pay for what the filling left to be written */
}

static int compare(const void *a, const void *b)
{
    const struct cost *left = a, *right = b;

    return left->cpu_us < right->cpu_us ? -1 : left->cpu_us > right->cpu_us;
}

/* The median of some rounds. */
static struct cost median(struct outbox *outbox, struct policy *policy, size_t batch_rows,
                          uint64_t *number)
{
    struct cost rounds[ROUNDS];

    for (size_t i = 0; i < ROUNDS; i++)
        rounds[i] = measure(outbox, policy, batch_rows, number);
    qsort(rounds, ROUNDS, sizeof rounds[0], compare);
    return rounds[ROUNDS / 2];
}

static struct outbox *open_outbox(const char *path)
{
    char why[OUTBOX_WHY_BYTES];
    struct outbox *outbox = NULL;

    if (outbox_open(path, NOW_MS, &outbox, why) < 0)
        die("open", why);
    return outbox;
}

static int remove_entry(const char *path, const struct stat *file, int kind, struct FTW *ftw)
{
    (void)file;
    (void)kind;
    (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {1, 64, 256};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    long long before = argc > 1 ? atoll(argv[1]) : 5000000;
    char folder[PATH_MAX], empty_path[PATH_MAX + 16], full_path[PATH_MAX + 16];
    char why[OUTBOX_WHY_BYTES];
    const char *base = getenv("TMPDIR");
    struct policy *policy = make_policy();
    struct outbox *empty, *full;
    uint64_t number = 0;

    snprintf(folder, sizeof folder, "%s/siwa-bench-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder))
        die(folder, strerror(errno));
    snprintf(empty_path, sizeof empty_path, "%s/empty.db", folder);
    snprintf(full_path, sizeof full_path, "%s/full.db", folder);
    empty = open_outbox(empty_path);
    if (outbox_close(open_outbox(full_path), why) < 0)
        die("close", why);
    fill(full_path, before);
    full = open_outbox(full_path);
    printf("%-8s %-16s %12s %12s %12s\n", "batch", "identities", "cpu us/row", "wall us/row",
           "rows/s");
    for (size_t i = 0; i < SIZES; i++) {
        struct cost at_first = median(empty, policy, sizes[i], &number);
        struct cost behind = median(full, policy, sizes[i], &number);

        printf("%-8zu %-16s %12.1f %12.1f %12.0f\n", sizes[i], "none", at_first.cpu_us,
               at_first.wall_us, 1e6 / at_first.wall_us);
        printf("%-8zu %-16lld %12.1f %12.1f %12.0f   ratio cpu %.2f wall %.2f\n", sizes[i], before,
               behind.cpu_us, behind.wall_us, 1e6 / behind.wall_us, behind.cpu_us / at_first.cpu_us,
               behind.wall_us / at_first.wall_us);
    }
    if (outbox_close(empty, why) < 0 || outbox_close(full, why) < 0)
        die("close", why);
    policy_unref(policy);
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    return EXIT_SUCCESS;
}
