/* backup: a copy is whole or not there, nothing that stands is overwritten, and who starts on one
 * goes on where no consumer of the original can have been. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "../../src/dispatcher/outbox_internal.h"
#include "deliveries.h"
#include "dispatcher/backup.h"
#include "failing_disk.h"
#include "sql.h"

#define TIME_S      120
#define NOW_S       (NOW_MS / 1000)
#define KEY_TEXT    "0123456789abcdef0123456789abcdef"
#define HISTORY     "{\"keys\":[]}"
#define MANY_ROWS   20000 /* in more than three steps of pages, and some steps of the check */
#define WRITES_MAX  8
#define HISTORY_MAX (4 * 1024 * 1024)

static struct outbox *outbox;
static struct policy *policy;
static char why[OUTBOX_WHY_BYTES];
static char copy[PATH_MAX + 32], history[PATH_MAX + 32];
static struct backup_settings settings;
static struct backup_result result;

/* ---- a disk whose fsync fails at a chosen call; SQLite and the outbox use fdatasync ---- */

static int fsync_fails_at, fsync_seen; /* 0: never */

int fsync(int fd)
{
    if (++fsync_seen == fsync_fails_at) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

/* ---- files ---- */

static const char *place(const char *name)
{
    static char paths[4][PATH_MAX + 64];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    return path;
}

static void put_file(const char *name, const void *bytes, size_t count, mode_t mode)
{
    int fd = open(place(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, count), (ssize_t)count);
    ck_assert_int_eq(fchmod(fd, mode), 0);
    close(fd);
}

static void put_text(const char *name, const char *text)
{
    put_file(name, text, strlen(text), 0600);
}

/* The whole file, the caller's to free; NULL where there is none. */
static char *contents(const char *name, size_t *ret_bytes)
{
    int fd = open(place(name), O_RDONLY);
    struct stat file;
    char *bytes;

    *ret_bytes = 0;
    if (fd < 0)
        return NULL;
    ck_assert_int_eq(fstat(fd, &file), 0);
    bytes = malloc((size_t)file.st_size + 1);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(read(fd, bytes, (size_t)file.st_size), file.st_size);
    close(fd);
    *ret_bytes = (size_t)file.st_size;
    return bytes;
}

static bool has_text(const char *name, const char *text)
{
    size_t bytes;
    char *found = contents(name, &bytes);
    bool same = found && bytes == strlen(text) && memcmp(found, text, bytes) == 0;

    free(found);
    return same;
}

static bool are_alike(const char *name, const char *other)
{
    size_t bytes, other_bytes;
    char *first = contents(name, &bytes), *second = contents(other, &other_bytes);
    bool same = first && second && bytes == other_bytes && memcmp(first, second, bytes) == 0;

    free(first);
    free(second);
    return same;
}

static mode_t mode_of(const char *name)
{
    struct stat file;

    ck_assert_int_eq(stat(place(name), &file), 0);
    return file.st_mode & 07777;
}

static int is_of_copy(const struct dirent *entry)
{
    return strncmp(entry->d_name, "copy", 4) == 0;
}

/* What stands in the folder and begins with "copy", sorted. */
static const char *copies(void)
{
    static char names[1024];
    struct dirent **entries;
    int count = scandir(test_folder, &entries, is_of_copy, alphasort);

    names[0] = '\0';
    for (int i = 0; i < count; i++) {
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? " " : "",
                 entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return names;
}

/* ---- outbox and copy ---- */

static void set_up(void)
{
    folder_make();
    failing_disk_install();
    fsync_fails_at = 0;
    umask(0);
    snprintf(copy, sizeof copy, "%s/copy.db", test_folder);
    snprintf(history, sizeof history, "%s/keys.json", test_folder);
    policy = policy_make(CONFIG_LATE_QUARANTINE);
    ck_assert_msg(outbox_open(test_database, NOW_MS, &outbox, why) == 0, "%s", why);
    settings = (struct backup_settings){.database = test_database, .file = copy, .now_ms = NOW_MS};
    memset(&result, 0, sizeof result);
}

static void tear_down(void)
{
    ck_assert_msg(outbox_close(outbox, why) == 0, "%s", why);
    policy_unref(policy);
    folder_remove();
}

static enum verdict store_in(struct outbox *where, unsigned number)
{
    return delivery_add(where, delivery_number(policy, number));
}

static void store(unsigned number)
{
    ck_assert_int_eq(store_in(outbox, number), VERDICT_ACCEPTED);
}

/* Rows 1 to MANY_ROWS. */
static void store_many(void)
{
    sql_run(outbox->db,
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
            "INSERT INTO events (id, type, client_id, app, team, sub, issued_at_ms, "
            "received_at_ms, raw_type, raw_id) SELECT i, 'x', 'c', 'a', 't', "
            "hex(zeroblob(600)), 1, 1, 'x', 0 FROM n",
            MANY_ROWS);
    sql_run(outbox->db, "UPDATE state SET last_id = %d", MANY_ROWS);
    outbox->committed.last_id = MANY_ROWS;
}

static void made(void)
{
    int error = backup_make(&settings, &result, why);

    ck_assert_msg(error == 0, "%d: %s", error, why);
}

/* A backup that must fail with these words, and leave only what there was. */
static void refused(int error, const char *words)
{
    const struct backup_result before = result;
    char names[1024];
    int got;

    snprintf(names, sizeof names, "%s", copies());
    why[0] = '\0';
    got = backup_make(&settings, &result, why);
    ck_assert_msg(got == error, "%d, not %d: %s", got, error, why);
    ck_assert_msg(strstr(why, words) != NULL, "'%s' is not in: %s", words, why);
    ck_assert_str_eq(copies(), names);
    ck_assert_mem_eq(&result, &before, sizeof result);
}

/* The one number that the copy gives, as it lies there. */
static int64_t number_in(const char *path, const char *query)
{
    sqlite3 *db = NULL;
    int64_t number;

    ck_assert_int_eq(outbox_open_immutable(path, &db), SQLITE_OK);
    number = sql_number(db, query);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    return number;
}

static int64_t number_in_copy(const char *query)
{
    return number_in(copy, query);
}

START_TEST(a_copy_is_the_database_its_key_and_the_history)
{
    struct stat file;

    put_text("keys.json", HISTORY);
    settings.keys_history = history;
    for (unsigned number = 1; number <= 3; number++)
        store(number);
    made();
    ck_assert_str_eq(copies(), "copy.db copy.key copy.keys.json");
    ck_assert_int_eq(result.last_id, 3);
    ck_assert_int_eq(result.generation, NOW_S);
    ck_assert_int_eq(stat(copy, &file), 0);
    ck_assert_int_eq(result.bytes, file.st_size);
    ck_assert_str_eq(result.key_file, place("copy.key"));
    ck_assert_str_eq(result.history_file, place("copy.keys.json"));
    ck_assert(are_alike("copy.key", "outbox.key"));
    ck_assert(has_text("copy.keys.json", HISTORY));
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM outbox"), 3);
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM raw"), 3);
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM seen"), 3);
}
END_TEST

/* For good, not only after the first seconds of 1970: 0 says that it is none. */
START_TEST(the_copy_is_marked_and_the_original_is_not)
{
    size_t bytes, after_bytes, wal_bytes, after_wal_bytes;
    char *before, *after, *wal, *after_wal;

    store(1);
    before = contents("outbox.db", &bytes);
    wal = contents("outbox.db-wal", &wal_bytes);
    made();
    ck_assert_int_eq(number_in_copy("SELECT copied_at_s FROM state"), NOW_S);
    after = contents("outbox.db", &after_bytes);
    after_wal = contents("outbox.db-wal", &after_wal_bytes);
    ck_assert_uint_eq(after_bytes, bytes);
    ck_assert_mem_eq(after, before, bytes);
    ck_assert_uint_gt(wal_bytes, 0);
    ck_assert_uint_eq(after_wal_bytes, wal_bytes);
    ck_assert_mem_eq(after_wal, wal, wal_bytes);
    free(before);
    free(after);
    free(wal);
    free(after_wal);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT copied_at_s FROM state"), 0);
    settings.force = true;
    settings.now_ms = 999;
    made();
    ck_assert_int_eq(number_in_copy("SELECT copied_at_s FROM state"), 1);
    settings.now_ms = 2000;
    made();
    ck_assert_int_eq(number_in_copy("SELECT copied_at_s FROM state"), 2);
}
END_TEST

START_TEST(without_a_history_there_is_none_beside_it)
{
    settings.keys_history = history; /* absent, which is no error */
    made();
    ck_assert_str_eq(copies(), "copy.db copy.key");
    ck_assert_str_eq(result.history_file, "");
    settings.keys_history = NULL;
    settings.force = true;
    made();
    ck_assert_str_eq(copies(), "copy.db copy.key");
    ck_assert_str_eq(result.history_file, "");
    /* one that belonged to what is replaced would go along with a database it is not of */
    put_text("copy.keys.json", "old");
    made();
    ck_assert_str_eq(copies(), "copy.db copy.key");
}
END_TEST

START_TEST(another_name_keeps_its_ending)
{
    settings.file = place("copy-of-monday");
    put_text("keys.json", HISTORY);
    settings.keys_history = history;
    made();
    ck_assert_str_eq(copies(), "copy-of-monday copy-of-monday.key copy-of-monday.keys.json");
}
END_TEST

START_TEST(nobody_may_more_than_with_the_original)
{
    static const struct {
        mode_t original, copy;
    } modes[] = {{0640, 0640}, {0600, 0600}, {0666, 0640}, {0400, 0400}};

    put_file("keys.json", HISTORY, strlen(HISTORY), 0644);
    settings.keys_history = history;
    settings.force = true;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        ck_assert_int_eq(chmod(test_database, modes[i].original), 0);
        made();
        ck_assert_int_eq(mode_of("copy.db"), modes[i].copy);
        ck_assert_int_eq(mode_of("copy.key"), 0600);
        ck_assert_int_eq(mode_of("copy.keys.json"), 0600);
    }
}
END_TEST

START_TEST(root_gives_it_the_owner_of_the_original)
{
    struct stat file;

    if (geteuid() != 0) {
        puts("SKIP the owner: only root may give a file away");
        return;
    }
    ck_assert_int_eq(chown(test_database, 1, 2), 0);
    made();
    ck_assert_int_eq(stat(copy, &file), 0);
    ck_assert_int_eq(file.st_uid, 1);
    ck_assert_int_eq(file.st_gid, 2);
    ck_assert_int_eq(stat(place("copy.key"), &file), 0);
    ck_assert_int_eq(file.st_uid, 0);
}
END_TEST

/* ---- under writes ---- */

struct watch {
    int calls, stop_at; /* 0: never */
    int copy_calls, check_calls;
    int percent;  /* the last of COPY */
    bool ended;   /* 100 of CHECK was told */
    bool writes;  /* something else each time */
    int appeared; /* how often the copy had its name already */
};

static bool look(void *context, enum backup_stage stage, int percent)
{
    struct watch *watch = context;

    watch->calls++;
    ck_assert(!watch->ended);
    if (stage == BACKUP_STAGE_COPY) {
        ck_assert_int_eq(watch->check_calls, 0);
        ck_assert_int_ge(percent, watch->percent);
        ck_assert_int_le(percent, 100);
        watch->percent = percent;
        watch->copy_calls++;
    } else {
        ck_assert_int_eq(stage, BACKUP_STAGE_CHECK);
        ck_assert(percent == -1 || percent == 100);
        watch->ended = percent == 100;
        watch->check_calls++;
    }
    watch->appeared += access(copy, F_OK) == 0 || access(place("copy.key"), F_OK) == 0;
    /* a copy that began anew for each write would not end */
    if (watch->writes && stage == BACKUP_STAGE_COPY && watch->calls <= WRITES_MAX) {
        sql_run(outbox->db, "DELETE FROM events WHERE id = %d; DELETE FROM events WHERE id = %d",
                watch->calls, MANY_ROWS - watch->calls);
        store((unsigned)watch->calls);
    }
    return watch->calls != watch->stop_at;
}

START_TEST(it_shows_the_moment_when_it_began)
{
    struct watch watch = {.writes = true};

    store_many();
    settings.on_progress = look;
    settings.context = &watch;
    made();
    ck_assert_int_ge(watch.copy_calls, 3); /* so that there were writes between its steps */
    ck_assert_int_gt(watch.percent, 0);
    ck_assert_int_gt(watch.check_calls, 1);
    ck_assert(watch.ended);
    ck_assert_int_eq(watch.appeared, 0);
    ck_assert_int_eq(result.last_id, MANY_ROWS);
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM outbox"), MANY_ROWS);
    ck_assert_int_eq(number_in_copy("SELECT max(id) FROM outbox"), MANY_ROWS);
    ck_assert_int_eq(number_in_copy("SELECT last_id FROM state"), MANY_ROWS);
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM seen"), 0);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT count(*) FROM outbox"),
                     MANY_ROWS - watch.copy_calls);
}
END_TEST

/* What it read is not held any longer than it reads. */
START_TEST(the_original_can_be_emptied_while_it_is_checked)
{
    struct watch watch = {.stop_at = 0};

    store(1);
    settings.on_progress = look;
    settings.context = &watch;
    made();
    (void)outbox_empty_wal(outbox);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    ck_assert_int_eq((int64_t)outbox->wal_emptied, 1);
}
END_TEST

START_TEST(a_stop_leaves_nothing_whenever_it_comes)
{
    struct watch watch;
    int stops = 0, error;

    put_text("keys.json", HISTORY);
    settings.keys_history = history;
    settings.on_progress = look;
    settings.context = &watch;
    store_many();
    do {
        ck_assert_str_eq(copies(), "");
        watch = (struct watch){.stop_at = ++stops};
        error = backup_make(&settings, &result, why);
        if (error != 0) {
            ck_assert_int_eq(error, -ECANCELED);
            ck_assert_str_eq(why, "stopped; no copy was left");
            ck_assert_int_eq(watch.calls, stops);
        }
    } while (error != 0);
    ck_assert_int_ge(stops, 3 + 2 + 1); /* copy, check, and once it was made */
    ck_assert_str_eq(copies(), "copy.db copy.key copy.keys.json");
}
END_TEST

/* ---- places ---- */

START_TEST(what_stands_there_is_kept_unless_told)
{
    static const char *const names[] = {"copy.db", "copy.key", "copy.keys.json"};

    put_text("keys.json", HISTORY);
    settings.keys_history = history;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        put_text(names[i], "mine");
        refused(-EEXIST, "--force");
        ck_assert_ptr_nonnull(strstr(why, place(names[i])));
        ck_assert_str_eq(copies(), names[i]);
        ck_assert(has_text(names[i], "mine"));
        ck_assert_int_eq(unlink(place(names[i])), 0);
    }
    ck_assert_int_eq(symlink("nowhere", copy), 0); /* it is there as well */
    refused(-EEXIST, "--force");
    for (size_t i = 1; i < sizeof names / sizeof *names; i++)
        put_text(names[i], "mine");
    settings.force = true;
    made();
    ck_assert_str_eq(copies(), "copy.db copy.key copy.keys.json");
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM state"), 1);
    ck_assert(are_alike("copy.key", "outbox.key"));
    ck_assert(has_text("copy.keys.json", HISTORY));
    ck_assert_int_eq(access(place("nowhere"), F_OK), -1);
}
END_TEST

/* A copy that was there stays until the new one is whole. */
START_TEST(a_failure_keeps_the_copy_that_was_there)
{
    store(1);
    made();
    settings.force = true;
    put_text("outbox.key", KEY_TEXT);
    refused(-EINVAL, "not the identity key");
    ck_assert_int_eq(number_in_copy("SELECT count(*) FROM outbox"), 1);
    ck_assert(!has_text("copy.key", KEY_TEXT));
}
END_TEST

START_TEST(the_original_is_never_written_to)
{
    static const char *const names[] = {"outbox.db", "outbox", "outbox.key", "link.db", "hard.db"};
    size_t bytes, after_bytes;
    char *before, *after;

    store(1);
    ck_assert_int_eq(symlink("outbox.db", place("link.db")), 0);
    ck_assert_int_eq(link(place("outbox.key"), place("hard.db")), 0);
    before = contents("outbox.db", &bytes);
    for (int force = 0; force < 2; force++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            settings.file = place(names[i]);
            settings.force = force;
            refused(-EINVAL, "belongs to the outbox itself");
        }
    settings.file = copy;
    put_text("copy.keys.json", HISTORY); /* that of the daemon itself */
    settings.keys_history = place("copy.keys.json");
    refused(-EINVAL, "copy.keys.json: belongs to the outbox itself");
    ck_assert(has_text("copy.keys.json", HISTORY));
    after = contents("outbox.db", &after_bytes);
    ck_assert_uint_eq(after_bytes, bytes);
    ck_assert_mem_eq(after, before, bytes);
    free(before);
    free(after);
}
END_TEST

START_TEST(no_log_of_another_database_is_replayed_into_it)
{
    put_text("copy.db-wal", "of another");
    settings.force = true;
    refused(-EINVAL, "copy.db-wal: a database that is in use");
    put_text("copy.db-wal", "");
    made();
}
END_TEST

START_TEST(a_place_that_cannot_be_is_named)
{
    char longest[PATH_MAX + 64];

    settings.file = place("nowhere/copy.db");
    refused(-ENOENT, "nowhere/copy.db.new: No such file");
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    settings.file = longest;
    refused(-ENAMETOOLONG, "too long");
    longest[PATH_MAX - 1] = '\0'; /* and what is put behind it */
    refused(-ENAMETOOLONG, "too long");
    settings.file = copy;
    settings.database = longest;
    longest[PATH_MAX - 1] = 'x';
    refused(-ENAMETOOLONG, "too long");
    settings.database = place("absent.db");
    refused(-ENOENT, "absent.db");
}
END_TEST

/* ---- temporary files ---- */

START_TEST(two_backups_do_not_write_one_copy)
{
    int other = open(place("copy.db.new"), O_RDWR | O_CREAT, 0600);

    ck_assert_int_ge(other, 0);
    ck_assert_int_eq(flock(other, LOCK_EX | LOCK_NB), 0);
    ck_assert_int_eq(write(other, "theirs", 6), 6);
    refused(-EBUSY, "copy.db.new: another backup is writing it");
    ck_assert_str_eq(copies(), "copy.db.new");
    ck_assert(has_text("copy.db.new", "theirs"));
    close(other);
}
END_TEST

/* What an earlier one left that was killed is nobody's. */
START_TEST(what_a_killed_one_left_is_taken_over)
{
    static const char *const names[] = {"copy.db.new", "copy.key.new", "copy.keys.json.new"};
    char *much = calloc(1, 1 << 20);

    ck_assert_ptr_nonnull(much);
    put_text("keys.json", HISTORY);
    settings.keys_history = history;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        put_file(names[i], much, 1 << 20, 0600);
    free(much);
    made();
    ck_assert_str_eq(copies(), "copy.db copy.key copy.keys.json");
    ck_assert_int_lt(result.bytes, 1 << 20);
    ck_assert_int_eq(mode_of("copy.key"), 0600);
    ck_assert(are_alike("copy.key", "outbox.key"));
    ck_assert(has_text("copy.keys.json", HISTORY));
}
END_TEST

START_TEST(what_is_no_file_is_not_written_to)
{
    ck_assert_int_eq(mkdir(place("copy.db.new"), 0700), 0);
    refused(-EISDIR, "copy.db.new");
    ck_assert_int_eq(rmdir(place("copy.db.new")), 0);
    put_text("precious", "precious");
    ck_assert_int_eq(symlink("precious", place("copy.key.new")), 0);
    refused(-ELOOP, "copy.key.new");
    ck_assert(has_text("precious", "precious"));
    ck_assert_int_eq(unlink(place("copy.key.new")), 0);
    ck_assert_int_eq(mkfifo(place("copy.db.new"), 0600), 0);
    why[0] = '\0';
    ck_assert_int_eq(backup_make(&settings, &result, why), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why, "copy.db.new: not a regular file"));
}
END_TEST

/* ---- what goes along ---- */

START_TEST(without_its_own_key_there_is_no_copy)
{
    store(1);
    put_text("outbox.key", KEY_TEXT);
    refused(-EINVAL, "not the identity key");
    put_text("outbox.key", KEY_TEXT "0");
    refused(-EFBIG, "outbox.key: File too large");
    put_text("outbox.key", "short");
    refused(-EIO, "copy.key.new");
    ck_assert_int_eq(unlink(place("outbox.key")), 0);
    refused(-ENOENT, "outbox.key: No such file");
    ck_assert_int_eq(symlink("key", place("outbox.key")), 0);
    refused(-ELOOP, "outbox.key");
    ck_assert_str_eq(copies(), "");
}
END_TEST

START_TEST(the_history_goes_along_up_to_a_bound)
{
    char *much = malloc(HISTORY_MAX + 1);

    ck_assert_ptr_nonnull(much);
    memset(much, 'x', HISTORY_MAX + 1);
    put_file("keys.json", much, HISTORY_MAX + 1, 0600);
    settings.keys_history = history;
    refused(-EFBIG, "keys.json: File too large");
    put_file("keys.json", much, HISTORY_MAX, 0600);
    free(much);
    made();
    ck_assert(are_alike("copy.keys.json", "keys.json"));
    ck_assert_int_eq(unlink(history), 0);
    ck_assert_int_eq(symlink("copy.keys.json", history), 0);
    settings.file = place("copy-2.db");
    refused(-ELOOP, "keys.json");
}
END_TEST

/* ---- what is not sound ---- */

START_TEST(a_foreign_database_gives_no_copy)
{
    sqlite3 *db = NULL;

    put_text("other.db", "this is no database");
    settings.database = place("other.db");
    refused(-EIO, "other.db: cannot be read: file is not a database");
    ck_assert_int_eq(unlink(place("other.db")), 0);
    ck_assert_int_eq(sqlite3_open(place("other.db"), &db), SQLITE_OK);
    sql_run(db, "CREATE TABLE theirs (x)");
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    refused(-EINVAL, "other.db");
}
END_TEST

/* Where nobody but the check looks: among the rows. */
START_TEST(a_damaged_database_gives_no_copy)
{
    const size_t page = 4096;
    char *noise = malloc(page);
    int64_t pages;
    int fd;

    ck_assert_ptr_nonnull(noise);
    memset(noise, 0xa5, page);
    store_many();
    (void)outbox_empty_wal(outbox);
    ck_assert_int_eq(outbox_checkpoint_if_due(outbox), OUTBOX_ERROR_NONE);
    pages = sql_number(outbox->db, "SELECT page_count FROM pragma_page_count");
    fd = open(test_database, O_WRONLY);
    ck_assert_int_ge(fd, 0);
    for (int64_t at = pages / 2; at < pages / 2 + 16; at++)
        ck_assert_int_eq(pwrite(fd, noise, page, at * (int64_t)page), (ssize_t)page);
    free(noise);
    refused(-EIO, "damaged");
    ck_assert_str_eq(copies(), "");
    close(fd);
}
END_TEST

START_TEST(a_full_disk_leaves_nothing)
{
    store(1);
    atomic_store(&write_error, ENOSPC);
    refused(-EIO, "copy.db.new: cannot be written: ");
    ck_assert_ptr_nonnull(strstr(why, "full"));
    atomic_store(&write_error, 0);
    ck_assert_str_eq(copies(), "");
}
END_TEST

/* Before it appears each file is synced, and afterwards the folder. */
START_TEST(a_disk_that_cannot_sync_is_named)
{
    static const char *const names[] = {"copy.db.new: ", "copy.key.new: ", "copy.keys.json.new: "};
    int before;

    put_text("keys.json", HISTORY);
    settings.keys_history = history;
    settings.force = true;
    made();
    fsync_seen = 0;
    made();
    ck_assert_int_ge(fsync_seen, 4);
    before = fsync_seen - 4; /* SQLite's own */
    for (int i = 0; i < 3; i++) {
        fsync_seen = 0;
        fsync_fails_at = before + i + 1;
        refused(-EIO, names[i]);
    }
    fsync_seen = 0;
    fsync_fails_at = before + 4;
    refused(-EIO, "copy.db: Input/output error");
    fsync_fails_at = 0;
}
END_TEST

/* ---- the first start on a copy ---- */

/* Opens the copy as a daemon would; the caller closes it. */
static struct outbox *start_on_copy(int64_t now_ms)
{
    struct outbox *woken = NULL;

    ck_assert_msg(outbox_open(copy, now_ms, &woken, why) == 0, "%s", why);
    return woken;
}

static void close_copy(struct outbox *woken)
{
    ck_assert_msg(outbox_close(woken, why) == 0, "%s", why);
}

START_TEST(the_first_start_goes_on_above_what_anybody_has_seen)
{
    struct outbox *woken;
    int64_t last_id = 3 + BACKUP_ID_STEP + 10 * BACKUP_ID_STEP_S;

    for (unsigned number = 1; number <= 3; number++)
        store(number);
    made();
    woken = start_on_copy(NOW_MS + 10000);
    ck_assert_int_eq(outbox_last_id(woken), last_id);
    ck_assert_int_eq(sql_number(woken->db, "SELECT generation FROM outbox_state"), NOW_S + 10);
    ck_assert_int_eq(sql_number(woken->db, "SELECT pruned_through FROM outbox_state"), 0);
    ck_assert_int_eq(sql_number(woken->db, "SELECT copied_at_s FROM state"), 0);
    ck_assert_int_eq(store_in(woken, 2), VERDICT_DUPLICATE);
    ck_assert_int_eq(store_in(woken, 4), VERDICT_ACCEPTED);
    ck_assert_int_eq(sql_number(woken->db, "SELECT max(id) FROM outbox"), last_id + 1);
    ck_assert_int_eq(sql_number(woken->db, "SELECT count(*) FROM outbox WHERE id <= 3"), 3);
    close_copy(woken);
    /* and only the first */
    woken = start_on_copy(NOW_MS + 20000);
    ck_assert_int_eq(outbox_last_id(woken), last_id + 1);
    ck_assert_int_eq(sql_number(woken->db, "SELECT generation FROM outbox_state"), NOW_S + 10);
    close_copy(woken);
}
END_TEST

START_TEST(a_strange_clock_still_raises_both)
{
    static const struct {
        int64_t now_s, age_s, generation;
    } starts[] = {
        {NOW_S, 0, NOW_S + 1},
        {NOW_S - 100, 0, NOW_S + 1}, /* it went back */
        {NOW_S + 1, 1, NOW_S + 1},
        {NOW_S + INT32_MAX, INT32_MAX, NOW_S + INT32_MAX}, /* it runs far ahead */
        {NOW_S + INT32_MAX + INT64_C(9), INT32_MAX, NOW_S + INT32_MAX + INT64_C(9)},
    };

    store(1);
    settings.force = true;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        struct outbox *woken;

        made();
        woken = start_on_copy(starts[i].now_s * 1000);
        ck_assert_int_eq(outbox_last_id(woken),
                         1 + BACKUP_ID_STEP + starts[i].age_s * BACKUP_ID_STEP_S);
        ck_assert_int_lt(outbox_last_id(woken), INT64_C(1) << 53);
        ck_assert_int_eq(sql_number(woken->db, "SELECT generation FROM outbox_state"),
                         starts[i].generation);
        close_copy(woken);
    }
}
END_TEST

START_TEST(the_original_goes_on_as_it_was)
{
    store(1);
    made();
    close_copy(outbox);
    ck_assert_msg(outbox_open(test_database, NOW_MS + 10000, &outbox, why) == 0, "%s", why);
    ck_assert_int_eq(outbox_last_id(outbox), 1);
    ck_assert_int_eq(sql_number(outbox->db, "SELECT generation FROM outbox_state"), NOW_S);
}
END_TEST

START_TEST(a_copy_of_a_copy_is_one_too)
{
    struct outbox *woken;
    int64_t last_id = 1 + BACKUP_ID_STEP + 20 * BACKUP_ID_STEP_S;

    store(1);
    made();
    settings.now_ms = NOW_MS + 10000;
    settings.database = copy;
    settings.file = place("copy-2.db");
    made();
    ck_assert_int_eq(result.last_id, 1); /* nobody has started on the first */
    snprintf(copy, sizeof copy, "%s", place("copy-2.db"));
    woken = start_on_copy(NOW_MS + 20000);
    ck_assert_int_eq(outbox_last_id(woken), last_id); /* above an earlier start on the first */
    close_copy(woken);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("backup");
    TCase *tests = tcase_create("backup");
    SRunner *runner = srunner_create(suite);

    tcase_set_timeout(tests, TIME_S);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_copy_is_the_database_its_key_and_the_history);
    tcase_add_test(tests, the_copy_is_marked_and_the_original_is_not);
    tcase_add_test(tests, without_a_history_there_is_none_beside_it);
    tcase_add_test(tests, another_name_keeps_its_ending);
    tcase_add_test(tests, nobody_may_more_than_with_the_original);
    tcase_add_test(tests, root_gives_it_the_owner_of_the_original);
    tcase_add_test(tests, it_shows_the_moment_when_it_began);
    tcase_add_test(tests, the_original_can_be_emptied_while_it_is_checked);
    tcase_add_test(tests, a_stop_leaves_nothing_whenever_it_comes);
    tcase_add_test(tests, what_stands_there_is_kept_unless_told);
    tcase_add_test(tests, a_failure_keeps_the_copy_that_was_there);
    tcase_add_test(tests, the_original_is_never_written_to);
    tcase_add_test(tests, no_log_of_another_database_is_replayed_into_it);
    tcase_add_test(tests, a_place_that_cannot_be_is_named);
    tcase_add_test(tests, two_backups_do_not_write_one_copy);
    tcase_add_test(tests, what_a_killed_one_left_is_taken_over);
    tcase_add_test(tests, what_is_no_file_is_not_written_to);
    tcase_add_test(tests, without_its_own_key_there_is_no_copy);
    tcase_add_test(tests, the_history_goes_along_up_to_a_bound);
    tcase_add_test(tests, a_foreign_database_gives_no_copy);
    tcase_add_test(tests, a_damaged_database_gives_no_copy);
    tcase_add_test(tests, a_full_disk_leaves_nothing);
    tcase_add_test(tests, a_disk_that_cannot_sync_is_named);
    tcase_add_test(tests, the_first_start_goes_on_above_what_anybody_has_seen);
    tcase_add_test(tests, a_strange_clock_still_raises_both);
    tcase_add_test(tests, the_original_goes_on_as_it_was);
    tcase_add_test(tests, a_copy_of_a_copy_is_one_too);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
