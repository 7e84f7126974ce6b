/* The key cache: how long a key is trusted, what survives on disk, and what a file must be like to
 * be believed. Time is a parameter, so that weeks pass at once. */
#include "keys/key_cache.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "key_sets.h"

#define NOW  INT64_C(1700000000)
#define HOUR 3600
#define DAY  (24 * HOUR)

static char folder[] = "/tmp/siwa-key-cache-XXXXXX";
static char path[64];

static void set_up(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/keys.json", folder);
}

static void tear_down(void)
{
    char command[96];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static struct key_cache *open_cache(void)
{
    struct key_cache *cache;
    char why[JWKS_WHY_BYTES] = "";
    int r = key_cache_open(path, &cache, why);
    ck_assert_msg(r == 0, "%d %s", r, why);
    return cache;
}

static void assert_refused(const char *reason)
{
    struct key_cache *cache = NULL;
    char why[JWKS_WHY_BYTES] = "";
    ck_assert_int_eq(key_cache_open(path, &cache, why), -EINVAL);
    ck_assert_ptr_null(cache);
    ck_assert_msg(strstr(why, reason) != NULL, "\"%s\" does not say \"%s\"", why, reason);
}

/* Releases the set. */
static size_t replace(struct key_cache *cache, struct jwks *set, int64_t now_s)
{
    size_t new_keys = 99;
    ck_assert_int_eq(key_cache_replace(cache, set, now_s, &new_keys), 0);
    jwks_free(set);
    return new_keys;
}

static enum key_trust trust(struct key_cache *cache, const char *kid, int64_t now_s)
{
    enum key_trust found = KEY_TRUST_QUARANTINE;
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    (void)key_snapshot_find(snapshot, kid, strlen(kid), now_s, &found);
    key_snapshot_unref(snapshot);
    return found;
}

static bool usable(struct key_cache *cache, int64_t now_s)
{
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    bool is = key_snapshot_usable(snapshot, now_s);
    key_snapshot_unref(snapshot);
    return is;
}

static size_t count(struct key_cache *cache)
{
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    size_t n = key_snapshot_count(snapshot);
    key_snapshot_unref(snapshot);
    return n;
}

static char *read_file(const char *name)
{
    FILE *in = fopen(name, "r");
    ck_assert_ptr_nonnull(in);
    char *text = calloc(1, 1 << 20);
    ck_assert_ptr_nonnull(text);
    size_t bytes = fread(text, 1, (1 << 20) - 1, in);
    text[bytes] = '\0';
    ck_assert_int_eq(fclose(in), 0);
    return text;
}

static void write_file(const char *name, const char *text)
{
    (void)unlink(name);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    ck_assert_int_eq(close(fd), 0);
}

/* A stored file with one current key, one that left, and one distrusted kid. */
static void store(void)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("OLD"), NOW);
    replace(cache, key_sets_make("CURRENT"), NOW + HOUR);
    ck_assert_int_eq(key_cache_distrust(cache, "LEAKED"), 0);
    key_cache_free(cache);
}

START_TEST(empty_is_unusable)
{
    struct key_cache *cache = open_cache();
    ck_assert(!usable(cache, NOW));
    ck_assert(!usable(cache, 0));
    ck_assert_int_eq(trust(cache, "A", NOW), KEY_TRUST_NONE);
    ck_assert_int_eq(access(path, F_OK), -1);
    key_cache_free(cache);
    key_cache_free(NULL);
    key_snapshot_unref(NULL);
}
END_TEST

START_TEST(current_keys_are_trusted_and_others_are_not)
{
    struct key_cache *cache = open_cache();
    ck_assert_uint_eq(replace(cache, key_sets_make("A", "B"), NOW), 2);
    ck_assert(usable(cache, NOW));
    ck_assert_int_eq(trust(cache, "A", NOW), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "B", NOW), KEY_TRUST_FULL);
    /* A prefix, a longer name and another case are other kids. */
    ck_assert_int_eq(trust(cache, "", NOW), KEY_TRUST_NONE);
    ck_assert_int_eq(trust(cache, "AB", NOW), KEY_TRUST_NONE);
    ck_assert_int_eq(trust(cache, "a", NOW), KEY_TRUST_NONE);
    key_cache_free(cache);
}
END_TEST

START_TEST(find_gives_the_key_with_its_modulus)
{
    struct key_cache *cache = open_cache();
    enum key_trust found;
    char n[KEY_SETS_N_BYTES];
    replace(cache, key_sets_make("A", "B"), NOW);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    key_sets_modulus("B", 1, n);
    ck_assert_str_eq(jwk_n(key_snapshot_find(snapshot, "B", 1, NOW, &found)), n);
    ck_assert_ptr_null(key_snapshot_find(snapshot, "C", 1, NOW, &found));
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}
END_TEST

/* All keys at once change, as Apple may do it: what is signed and still on its way is accepted for
 * 48 h, and later the old key verifies for quarantine only. */
START_TEST(a_key_that_left_is_trusted_for_48_hours)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A", "B"), NOW);
    ck_assert_uint_eq(replace(cache, key_sets_make("C", "D"), NOW + HOUR), 2);
    int64_t left = NOW + HOUR;
    ck_assert_int_eq(trust(cache, "C", left), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "A", left), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "A", left + KEY_CACHE_GRACE_S - 1), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "A", left + KEY_CACHE_GRACE_S), KEY_TRUST_QUARANTINE);
    key_cache_free(cache);
}
END_TEST

/* Refreshes go on without the key: it left when it was first missing, not with each refresh anew.
 */
START_TEST(later_refreshes_do_not_lengthen_the_grace)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    for (int hours = 1; hours <= 50; hours++)
        replace(cache, key_sets_make("B"), NOW + hours * HOUR);
    ck_assert_int_eq(trust(cache, "A", NOW + 49 * HOUR - 1), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "A", NOW + 49 * HOUR), KEY_TRUST_QUARANTINE);
    key_cache_free(cache);
}
END_TEST

/* While the key server was away for three days nobody could know that the key was gone. */
START_TEST(grace_begins_when_its_absence_was_seen)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    replace(cache, key_sets_make("B"), NOW + 3 * DAY);
    ck_assert_int_eq(trust(cache, "A", NOW + 5 * DAY - 1), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "A", NOW + 5 * DAY), KEY_TRUST_QUARANTINE);
    key_cache_free(cache);
}
END_TEST

/* A daemon that was off for a year does not trust last year's key anew. */
START_TEST(grace_is_bounded_by_staleness)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    replace(cache, key_sets_make("B"), NOW + 365 * DAY);
    ck_assert_int_eq(trust(cache, "A", NOW + 365 * DAY), KEY_TRUST_QUARANTINE);
    replace(cache, key_sets_make("C"), NOW + 380 * DAY);
    ck_assert_int_eq(trust(cache, "B", NOW + 380 * DAY), KEY_TRUST_FULL);
    key_cache_free(cache);
}
END_TEST

START_TEST(a_key_that_returns_is_not_new)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    replace(cache, key_sets_make("B"), NOW + HOUR);
    ck_assert_uint_eq(replace(cache, key_sets_make("A", "B"), NOW + 100 * DAY), 0);
    ck_assert_int_eq(trust(cache, "A", NOW + 110 * DAY), KEY_TRUST_FULL);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    const struct key_record *record = key_snapshot_at(snapshot, 0);
    ck_assert_str_eq(jwk_kid(record->key), "A");
    ck_assert_int_eq(record->first_seen_s, NOW);
    ck_assert_int_eq(record->last_seen_s, NOW + 100 * DAY);
    ck_assert_int_eq(record->left_s, 0);
    ck_assert(record->current);
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}
END_TEST

/* Apple reuses a kid: its new modulus counts at once, and the old one is gone, grace or not. */
START_TEST(a_kid_with_another_modulus_replaces_the_key)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    ck_assert_uint_eq(replace(cache, key_sets_make_version("A", 2), NOW + HOUR), 1);
    ck_assert_uint_eq(count(cache), 1);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    char n[KEY_SETS_N_BYTES];
    key_sets_modulus("A", 2, n);
    ck_assert_str_eq(jwk_n(key_snapshot_at(snapshot, 0)->key), n);
    ck_assert_int_eq(key_snapshot_at(snapshot, 0)->first_seen_s, NOW + HOUR);
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}
END_TEST

START_TEST(fourteen_days_without_a_refresh_are_no_keys)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    ck_assert(usable(cache, NOW + 14 * DAY - 1));
    ck_assert(!usable(cache, NOW + 14 * DAY));
    replace(cache, key_sets_make("A"), NOW + 14 * DAY);
    ck_assert(usable(cache, NOW + 14 * DAY));
    key_cache_free(cache);
}
END_TEST

START_TEST(a_clock_that_went_back_makes_nothing_stale)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    replace(cache, key_sets_make("B"), NOW + HOUR);
    ck_assert(usable(cache, NOW - 400 * DAY));
    ck_assert_int_eq(trust(cache, "A", NOW - 400 * DAY), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "B", NOW - 400 * DAY), KEY_TRUST_FULL);
    key_cache_free(cache);
}
END_TEST

/* The clock was ten years ahead for a while. A key that left then must not be trusted for ten
 * years: the next refresh draws all times back. */
START_TEST(times_from_a_clock_ahead_are_drawn_back)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW + 3650 * DAY);
    replace(cache, key_sets_make("B"), NOW + 3650 * DAY + HOUR);
    replace(cache, key_sets_make("B"), NOW);
    ck_assert_int_eq(trust(cache, "A", NOW + 2 * DAY - 1), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "A", NOW + 2 * DAY), KEY_TRUST_QUARANTINE);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    ck_assert_int_eq(key_snapshot_refreshed_s(snapshot), NOW);
    for (size_t i = 0; i < key_snapshot_count(snapshot); i++) {
        ck_assert_int_le(key_snapshot_at(snapshot, i)->first_seen_s, NOW);
        ck_assert_int_le(key_snapshot_at(snapshot, i)->last_seen_s, NOW);
    }
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}
END_TEST

/* A machine without a battery starts in 1970 and refreshes before its clock is set: the key that
 * left by then keeps its 48 h of real time. */
START_TEST(an_unset_clock_is_no_time)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    replace(cache, key_sets_make("B"), 60);
    ck_assert_int_eq(trust(cache, "A", NOW + DAY), KEY_TRUST_FULL);
    ck_assert(usable(cache, NOW + DAY));
    ck_assert_int_eq(trust(cache, "A", NOW + 2 * DAY), KEY_TRUST_QUARANTINE);
    key_cache_free(cache);
}
END_TEST

/* Whoever can publish keys can publish many: the history ends at its bound, and loses those that
 * left longest ago. */
START_TEST(history_is_bounded)
{
    struct key_cache *cache = open_cache();
    char kid[16];
    for (int i = 0; i < KEY_CACHE_HISTORY_MAX + 20; i++) {
        snprintf(kid, sizeof(kid), "K%d", i);
        struct jwks *set = key_sets_make_version(kid, 1);
        struct key_snapshot *held = key_cache_snapshot(cache);
        replace(cache, set, NOW + i);
        key_snapshot_unref(held);
    }
    ck_assert_uint_eq(count(cache), KEY_CACHE_HISTORY_MAX);
    ck_assert_int_eq(trust(cache, "K0", NOW), KEY_TRUST_NONE);
    ck_assert_int_eq(trust(cache, "K19", NOW), KEY_TRUST_NONE);
    ck_assert_int_eq(trust(cache, "K20", NOW), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, kid, NOW), KEY_TRUST_FULL);
    key_cache_free(cache);

    cache = open_cache(); /* and a full one is read back */
    ck_assert_uint_eq(count(cache), KEY_CACHE_HISTORY_MAX);
    key_cache_free(cache);
}
END_TEST

START_TEST(distrust_works_at_once_and_for_good)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A", "B"), NOW);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);
    ck_assert_int_eq(trust(cache, "A", NOW), KEY_TRUST_NONE);
    ck_assert_int_eq(trust(cache, "B", NOW), KEY_TRUST_FULL);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);

    /* Published again, with whatever modulus, and after it had left. */
    replace(cache, key_sets_make_version("A", 2), NOW + HOUR);
    ck_assert_int_eq(trust(cache, "A", NOW + HOUR), KEY_TRUST_NONE);
    replace(cache, key_sets_make("B"), NOW + 2 * HOUR);
    replace(cache, key_sets_make("A", "B"), NOW + 3 * HOUR);
    ck_assert_int_eq(trust(cache, "A", NOW + 3 * HOUR), KEY_TRUST_NONE);
    key_cache_free(cache);

    cache = open_cache();
    ck_assert_int_eq(trust(cache, "A", NOW + 3 * HOUR), KEY_TRUST_NONE);
    ck_assert_int_eq(trust(cache, "B", NOW + 3 * HOUR), KEY_TRUST_FULL);
    key_cache_free(cache);
}
END_TEST

START_TEST(distrust_before_the_kid_is_known)
{
    struct key_cache *cache = open_cache();
    ck_assert_int_eq(key_cache_distrust(cache, "LATER"), 0);
    replace(cache, key_sets_make("LATER", "B"), NOW);
    ck_assert_int_eq(trust(cache, "LATER", NOW), KEY_TRUST_NONE);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    ck_assert_uint_eq(key_snapshot_distrusted_count(snapshot), 1);
    ck_assert_str_eq(key_snapshot_distrusted_at(snapshot, 0), "LATER");
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}
END_TEST

START_TEST(a_set_of_distrusted_keys_is_not_usable)
{
    struct key_cache *cache = open_cache();
    replace(cache, key_sets_make("A"), NOW);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);
    ck_assert(!usable(cache, NOW));
    key_cache_free(cache);
}
END_TEST

START_TEST(what_cannot_be_a_kid_is_not_distrusted)
{
    struct key_cache *cache = open_cache();
    char long_kid[JWK_KID_MAX_BYTES + 2];
    memset(long_kid, 'k', sizeof(long_kid));
    long_kid[JWK_KID_MAX_BYTES + 1] = '\0';
    ck_assert_int_eq(key_cache_distrust(cache, ""), -EINVAL);
    ck_assert_int_eq(key_cache_distrust(cache, "a\nb"), -EINVAL);
    ck_assert_int_eq(key_cache_distrust(cache, "\xc3\xa9"), -EINVAL);
    ck_assert_int_eq(key_cache_distrust(cache, long_kid), -EINVAL);
    long_kid[JWK_KID_MAX_BYTES] = '\0';
    ck_assert_int_eq(key_cache_distrust(cache, long_kid), 0);
    key_cache_free(cache);
}
END_TEST

START_TEST(distrusted_kids_are_bounded)
{
    struct key_cache *cache = open_cache();
    char kid[16];
    for (int i = 0; i < KEY_CACHE_DISTRUSTED_MAX; i++) {
        snprintf(kid, sizeof(kid), "K%d", i);
        ck_assert_int_eq(key_cache_distrust(cache, kid), 0);
    }
    ck_assert_int_eq(key_cache_distrust(cache, "ONE MORE"), -ENOSPC);
    ck_assert_int_eq(key_cache_distrust(cache, "K0"), 0);
    key_cache_free(cache);
}
END_TEST

START_TEST(everything_survives_a_restart)
{
    store();
    struct key_cache *cache = open_cache();
    ck_assert(usable(cache, NOW + HOUR));
    ck_assert_int_eq(trust(cache, "CURRENT", NOW + 10 * DAY), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "OLD", NOW + HOUR), KEY_TRUST_FULL);
    ck_assert_int_eq(trust(cache, "OLD", NOW + HOUR + 2 * DAY), KEY_TRUST_QUARANTINE);
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    ck_assert_int_eq(key_snapshot_refreshed_s(snapshot), NOW + HOUR);
    ck_assert_uint_eq(key_snapshot_count(snapshot), 2);
    const struct key_record *old = key_snapshot_at(snapshot, 1);
    ck_assert_str_eq(jwk_kid(old->key), "OLD");
    ck_assert_int_eq(old->first_seen_s, NOW);
    ck_assert_int_eq(old->last_seen_s, NOW);
    ck_assert_int_eq(old->left_s, NOW + HOUR);
    ck_assert_str_eq(key_snapshot_distrusted_at(snapshot, 0), "LEAKED");
    key_snapshot_unref(snapshot);
    key_cache_free(cache);
}
END_TEST

START_TEST(the_file_is_ours_alone)
{
    struct stat status;
    mode_t before = umask(0);
    store();
    umask(before);
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0600);
}
END_TEST

START_TEST(a_left_over_of_a_crash_is_no_obstacle)
{
    char temporary[80];
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    write_file(temporary, "half a fi");
    store();
    ck_assert_int_eq(access(temporary, F_OK), -1);
    key_cache_free(open_cache());
}
END_TEST

/* Someone plants a link under the temporary name: the file it points at must not be written. */
START_TEST(a_planted_link_is_not_written_through)
{
    char temporary[80], victim[80];
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    snprintf(victim, sizeof(victim), "%s/victim", folder);
    write_file(victim, "precious");
    ck_assert_int_eq(symlink(victim, temporary), 0);
    store();
    char *text = read_file(victim);
    ck_assert_str_eq(text, "precious");
    free(text);
}
END_TEST

START_TEST(a_save_that_fails_is_said_and_the_keys_serve)
{
    struct key_cache *cache = open_cache();
    tear_down(); /* the folder is gone */
    struct jwks *set = key_sets_make("A");
    ck_assert_int_eq(key_cache_replace(cache, set, NOW, NULL), -ENOENT);
    jwks_free(set);
    ck_assert_int_eq(trust(cache, "A", NOW), KEY_TRUST_FULL);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), -ENOENT);
    ck_assert_int_eq(trust(cache, "A", NOW), KEY_TRUST_NONE);
    /* Asked again when the folder is there again, it is saved although nothing changes. */
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);
    key_cache_free(cache);
    cache = open_cache();
    ck_assert_int_eq(trust(cache, "A", NOW), KEY_TRUST_NONE);
    key_cache_free(cache);
}
END_TEST

/* Whoever can write the file could have every forgery accepted. */
START_TEST(a_file_that_others_can_write_is_refused)
{
    store();
    ck_assert_int_eq(chmod(path, 0620), 0);
    assert_refused("others than its owner may write it");
    ck_assert_int_eq(chmod(path, 0602), 0);
    assert_refused("others than its owner may write it");
    ck_assert_int_eq(chmod(path, 0644), 0); /* the keys are public: reading is no harm */
    key_cache_free(open_cache());
}
END_TEST

START_TEST(a_file_of_another_owner_is_refused)
{
    if (geteuid() != 0) {
        puts("SKIP a_file_of_another_owner_is_refused: only root can give files away");
        return;
    }
    store();
    ck_assert_int_eq(chown(path, 12345, 0), 0);
    assert_refused("it belongs to uid 12345");
    /* root, who runs `verify` with the daemon's files: the folder belongs to the same user. */
    ck_assert_int_eq(chown(folder, 12345, 0), 0);
    key_cache_free(open_cache());
    ck_assert_int_eq(chown(folder, 54321, 0), 0);
    assert_refused("it belongs to uid 12345");
    /* The daemon's own user is held to its own files, whoever owns the folder. */
    ck_assert_int_eq(chown(folder, 12345, 0), 0);
    ck_assert_int_eq(chown(path, 0, 0), 0);
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert_int_eq(seteuid(12345), 0);
    assert_refused("it belongs to uid 0");
    ck_assert_int_eq(seteuid(0), 0);
}
END_TEST

START_TEST(what_is_no_regular_file_is_refused)
{
    char other[80];
    snprintf(other, sizeof(other), "%s/elsewhere.json", folder);
    store();
    ck_assert_int_eq(rename(path, other), 0);
    ck_assert_int_eq(symlink(other, path), 0);
    assert_refused("symbolic link");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0); /* must not hang either */
    assert_refused("not a regular file");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    assert_refused("not a regular file");
}
END_TEST

START_TEST(an_unreadable_folder_is_an_error_with_a_reason)
{
    struct key_cache *cache;
    char why[JWKS_WHY_BYTES] = "", through_file[96];
    write_file(path, "x");
    snprintf(through_file, sizeof(through_file), "%s/keys.json", path);
    ck_assert_int_eq(key_cache_open(through_file, &cache, why), -ENOTDIR);
    ck_assert_ptr_nonnull(strstr(why, "folder"));
}
END_TEST

/* Every cut of a good file is refused as a whole: half a history is not believed. */
START_TEST(a_file_cut_short_is_refused)
{
    store();
    char *text = read_file(path);
    for (size_t bytes = 0; bytes < strlen(text) - 1; bytes += 7) {
        char *part = strndup(text, bytes);
        write_file(path, part);
        assert_refused("");
        free(part);
    }
    free(text);
}
END_TEST

/* One change to a good file, and what is said about it. */
static const struct {
    const char *name, *from, *to, *why;
} damages[] = {
    {"newer version", "\"version\": 1", "\"version\": 2", "not written by this version"},
    {"version as text", "\"version\": 1", "\"version\": \"1\"", "not written by this version"},
    {"no version", "\"version\": 1,", "", "not written by this version"},
    {"unknown member", "\"version\": 1,", "\"version\": 1, \"x\": 1,", "unknown"},
    {"member twice", "\"version\": 1,", "\"version\": 1, \"version\": 1,", "not one JSON object"},
    {"no refresh time", "\"refreshed_s\"", "\"refreshed\"", "missing"},
    {"negative refresh time", "\"refreshed_s\": 1", "\"refreshed_s\": -1", "wrong members"},
    {"refresh time past 9999", "\"refreshed_s\": 1", "\"refreshed_s\": 999", "wrong"},
    {"fractional time", "\"refreshed_s\": 1", "\"refreshed_s\": 1.5e0, \"y\": 1", "wrong"},
    {"keys as object", "\"keys\": [", "\"keys\": {}, \"z\": [", "unknown"},
    {"two of one kid", "\"kid\": \"OLD\"", "\"kid\": \"CURRENT\"", "twice"},
    {"kid empty", "\"kid\": \"OLD\"", "\"kid\": \"\"", ""},
    {"kid as number", "\"kid\": \"OLD\"", "\"kid\": 1", "wrong members"},
    {"modulus of another length", "\"n\": \"", "\"n\": \"A", ""},
    {"modulus emptied", "\"n\": \"", "\"n\": \"\", \"m\": \"", "unknown"},
    {"extra member of a key", "\"kid\": \"OLD\"", "\"e\": \"AQAB\", \"kid\": \"OLD\"", "unknown"},
    {"first seen missing", "\"first_seen_s\"", "\"first\"", "missing"},
    {"last seen negative", "\"last_seen_s\": 1", "\"last_seen_s\": -1", "outside the years"},
    {"left past 9999", "\"left_s\": 1", "\"left_s\": 999", "outside the years"},
    {"left null", "\"left_s\": 1", "\"left_s\": null, \"w\": 1", "wrong members"},
    {"distrusted as text", "\"distrusted\": [", "\"distrusted\": \"\", \"v\": [", "unknown"},
    {"distrusted number", "\"LEAKED\"", "7", "\"distrusted\""},
    {"distrusted twice", "\"LEAKED\"", "\"LEAKED\", \"LEAKED\"", "\"distrusted\""},
    {"distrusted control character", "\"LEAKED\"", "\"LEA\\u0001KED\"", "\"distrusted\""},
    {"text after the end", "\n}", "\n} x", "not one JSON object"},
};

START_TEST(a_damaged_file_is_refused)
{
    store();
    char *text = read_file(path), *place = strstr(text, damages[_i].from);
    ck_assert_msg(place != NULL, "%s: nothing to change", damages[_i].name);
    if (damages[_i].from[0] == '\n') /* the last of them */
        for (char *next; (next = strstr(place + 1, damages[_i].from)) != NULL;)
            place = next;
    char *damaged = calloc(1, strlen(text) + strlen(damages[_i].to) + 1);
    ck_assert_ptr_nonnull(damaged);
    memcpy(damaged, text, (size_t)(place - text));
    strcat(damaged, damages[_i].to);
    strcat(damaged, place + strlen(damages[_i].from));
    write_file(path, damaged);
    assert_refused(damages[_i].why);
    free(damaged);
    free(text);
}
END_TEST

START_TEST(a_weak_key_in_the_file_is_refused)
{
    /* 1024 bits verify signatures well enough: the policy has to say no here as well. */
    char n[BASE64URL_ENCODED(128) + 1], text[1024];
    unsigned char modulus[128];
    memset(modulus, 0xd5, sizeof(modulus));
    base64url_encode(modulus, sizeof(modulus), n);
    snprintf(
        text, sizeof(text),
        "{\"version\":1,\"refreshed_s\":1,\"distrusted\":[],\"keys\":[{\"kid\":\"A\",\"n\":\"%s\","
        "\"first_seen_s\":1,\"last_seen_s\":1}]}",
        n);
    write_file(path, text);
    assert_refused("");
}
END_TEST

START_TEST(a_file_too_large_is_refused)
{
    store();
    ck_assert_int_eq(truncate(path, 3 << 20), 0);
    assert_refused("larger than 1 MiB");
}
END_TEST

/* What was refused is evidence: it is moved aside before the first save, each time to a new name.
 */
START_TEST(a_refused_file_is_kept)
{
    static const char *const ends[] = {".refused", ".refused.1", ".refused.2"};
    for (size_t i = 0; i < 3; i++) {
        struct key_cache *cache;
        char damage[32], aside[96];
        snprintf(damage, sizeof(damage), "damage %zu", i);
        write_file(path, damage);
        assert_refused("not one JSON object");
        ck_assert_int_eq(key_cache_new_empty(path, &cache), 0);
        char *untouched = read_file(path);
        ck_assert_str_eq(untouched, damage);
        free(untouched);
        ck_assert_int_eq(key_cache_distrust(cache, "K"), 0);
        replace(cache, key_sets_make("A"), NOW);
        key_cache_free(cache);
        key_cache_free(open_cache());

        snprintf(aside, sizeof(aside), "%s%s", path, ends[i]);
        char *kept = read_file(aside);
        ck_assert_str_eq(kept, damage);
        free(kept);
    }
}
END_TEST

START_TEST(a_refused_file_is_kept_by_a_repeated_distrust_too)
{
    struct key_cache *cache;
    char aside[96];
    write_file(path, "damage");
    ck_assert_int_eq(key_cache_new_empty(path, &cache), 0);
    /* The first save fails, so the file still stands there when the second comes. */
    ck_assert_int_eq(chmod(folder, 0500), 0);
    if (geteuid() == 0)
        ck_assert_int_eq(seteuid(12345), 0);
    ck_assert_int_lt(key_cache_distrust(cache, "K"), 0);
    if (geteuid() == 12345)
        ck_assert_int_eq(seteuid(0), 0);
    ck_assert_int_eq(chmod(folder, 0700), 0);
    ck_assert_int_eq(key_cache_distrust(cache, "K"), 0);
    snprintf(aside, sizeof(aside), "%s.refused", path);
    char *kept = read_file(aside);
    ck_assert_str_eq(kept, "damage");
    free(kept);
    key_cache_free(cache);
}
END_TEST

START_TEST(generation_grows_with_each_picture)
{
    struct key_cache *cache = open_cache();
    uint64_t before = key_cache_generation(cache);
    replace(cache, key_sets_make("A"), NOW);
    uint64_t after = key_cache_generation(cache);
    ck_assert_uint_gt(after, before);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);
    ck_assert_uint_gt(key_cache_generation(cache), after);
    key_cache_free(cache);
}
END_TEST

START_TEST(a_held_picture_does_not_change)
{
    struct key_cache *cache = open_cache();
    enum key_trust found;
    replace(cache, key_sets_make("A"), NOW);
    struct key_snapshot *held = key_cache_snapshot(cache);
    const struct jwk *key = key_snapshot_find(held, "A", 1, NOW, &found);
    ck_assert_int_eq(key_cache_distrust(cache, "A"), 0);
    replace(cache, key_sets_make("B"), NOW + HOUR);
    key_cache_free(cache);
    ck_assert_ptr_eq(key_snapshot_find(held, "A", 1, NOW, &found), key);
    ck_assert_int_eq(found, KEY_TRUST_FULL);
    ck_assert_str_eq(jwk_kid(key), "A");
    key_snapshot_unref(held);
}
END_TEST

static atomic_bool over;

/* A reader as the loop thread is one: takes a picture when the generation moved, looks keys up. */
static void *read_keys(void *context)
{
    struct key_cache *cache = context;
    struct key_snapshot *snapshot = key_cache_snapshot(cache);
    uint64_t seen = 0;
    while (!atomic_load(&over)) {
        enum key_trust found;
        uint64_t generation = key_cache_generation(cache);
        if (generation != seen) {
            key_snapshot_unref(snapshot);
            snapshot = key_cache_snapshot(cache);
            seen = generation;
        }
        ck_assert(key_snapshot_usable(snapshot, NOW));
        ck_assert_ptr_nonnull(key_snapshot_find(snapshot, "STABLE", 6, NOW, &found));
        ck_assert_int_eq(found, KEY_TRUST_FULL);
    }
    key_snapshot_unref(snapshot);
    return NULL;
}

/* Under TSan this shows that readers and writers need nothing from each other. */
START_TEST(readers_and_writers_at_once)
{
    struct key_cache *cache = open_cache();
    pthread_t readers[3];
    replace(cache, key_sets_make("STABLE"), NOW);
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&readers[i], NULL, read_keys, cache), 0);
    for (int i = 0; i < 40; i++) {
        char kid[16];
        snprintf(kid, sizeof(kid), "K%d", i);
        replace(cache, key_sets_make("STABLE", kid), NOW + i);
        ck_assert_int_eq(key_cache_distrust(cache, kid), 0);
    }
    atomic_store(&over, true);
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_join(readers[i], NULL), 0);
    key_cache_free(cache);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("key_cache");
    TCase *trust_case = tcase_create("trust"), *file_case = tcase_create("file");
    tcase_add_checked_fixture(trust_case, set_up, tear_down);
    tcase_set_timeout(trust_case, 60);
    tcase_add_test(trust_case, empty_is_unusable);
    tcase_add_test(trust_case, current_keys_are_trusted_and_others_are_not);
    tcase_add_test(trust_case, find_gives_the_key_with_its_modulus);
    tcase_add_test(trust_case, a_key_that_left_is_trusted_for_48_hours);
    tcase_add_test(trust_case, later_refreshes_do_not_lengthen_the_grace);
    tcase_add_test(trust_case, grace_begins_when_its_absence_was_seen);
    tcase_add_test(trust_case, grace_is_bounded_by_staleness);
    tcase_add_test(trust_case, a_key_that_returns_is_not_new);
    tcase_add_test(trust_case, a_kid_with_another_modulus_replaces_the_key);
    tcase_add_test(trust_case, fourteen_days_without_a_refresh_are_no_keys);
    tcase_add_test(trust_case, a_clock_that_went_back_makes_nothing_stale);
    tcase_add_test(trust_case, times_from_a_clock_ahead_are_drawn_back);
    tcase_add_test(trust_case, an_unset_clock_is_no_time);
    tcase_add_test(trust_case, history_is_bounded);
    tcase_add_test(trust_case, distrust_works_at_once_and_for_good);
    tcase_add_test(trust_case, distrust_before_the_kid_is_known);
    tcase_add_test(trust_case, a_set_of_distrusted_keys_is_not_usable);
    tcase_add_test(trust_case, what_cannot_be_a_kid_is_not_distrusted);
    tcase_add_test(trust_case, distrusted_kids_are_bounded);
    tcase_add_test(trust_case, generation_grows_with_each_picture);
    tcase_add_test(trust_case, a_held_picture_does_not_change);
    tcase_add_test(trust_case, readers_and_writers_at_once);
    suite_add_tcase(suite, trust_case);

    tcase_add_checked_fixture(file_case, set_up, tear_down);
    tcase_set_timeout(file_case, 60);
    tcase_add_test(file_case, everything_survives_a_restart);
    tcase_add_test(file_case, the_file_is_ours_alone);
    tcase_add_test(file_case, a_left_over_of_a_crash_is_no_obstacle);
    tcase_add_test(file_case, a_planted_link_is_not_written_through);
    tcase_add_test(file_case, a_save_that_fails_is_said_and_the_keys_serve);
    tcase_add_test(file_case, a_file_that_others_can_write_is_refused);
    tcase_add_test(file_case, a_file_of_another_owner_is_refused);
    tcase_add_test(file_case, what_is_no_regular_file_is_refused);
    tcase_add_test(file_case, an_unreadable_folder_is_an_error_with_a_reason);
    tcase_add_test(file_case, a_file_cut_short_is_refused);
    tcase_add_loop_test(file_case, a_damaged_file_is_refused, 0,
                        (int)(sizeof(damages) / sizeof(damages[0])));
    tcase_add_test(file_case, a_weak_key_in_the_file_is_refused);
    tcase_add_test(file_case, a_file_too_large_is_refused);
    tcase_add_test(file_case, a_refused_file_is_kept);
    tcase_add_test(file_case, a_refused_file_is_kept_by_a_repeated_distrust_too);
    suite_add_tcase(suite, file_case);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
