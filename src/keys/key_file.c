#include "key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verifier/json_text.h"

static void text_release(char **text)
{
    free(*text);
}

static void fd_release(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static void snapshot_release(struct key_snapshot **snapshot)
{
    key_snapshot_unref(*snapshot);
}

static int refuse(char ret_why[JWKS_WHY_BYTES], const char *why)
{
    (void)snprintf(ret_why, JWKS_WHY_BYTES, "%s", why);
    return -EINVAL;
}

static bool is_time(json_int_t time_s)
{
    return time_s >= 0 && time_s <= KEY_FILE_TIME_MAX_S;
}

static int parse_distrusted(const json_t *kids, struct key_snapshot *snapshot,
                            char ret_why[JWKS_WHY_BYTES])
{
    if (!json_is_array(kids))
        return refuse(ret_why, "\"distrusted\" is not an array");
    for (size_t i = 0; i < json_array_size(kids); i++) {
        const char *kid = json_string_value(json_array_get(kids, i));
        if (kid == NULL || key_snapshot_add_distrusted(snapshot, kid) < 0)
            return refuse(ret_why,
                          "\"distrusted\" holds what is no kid, one kid twice, or too many");
    }
    return 0;
}

static int parse_key(json_t *json, struct key_record *ret_record, char ret_why[JWKS_WHY_BYTES])
{
    const char *kid, *n;
    json_int_t first_seen_s, last_seen_s, left_s = 0;
    if (json_unpack(json, "{s:s, s:s, s:I, s:I, s?I !}", "kid", &kid, "n", &n, "first_seen_s",
                    &first_seen_s, "last_seen_s", &last_seen_s, "left_s", &left_s) < 0)
        return refuse(ret_why, "a key has missing, unknown or wrong members");
    bool current = json_object_get(json, "left_s") == NULL;
    if (!is_time(first_seen_s) || !is_time(last_seen_s) || !is_time(left_s))
        return refuse(ret_why, "a key has a time outside the years 1970 to 9999");

    struct jwk *key;
    int r = jwk_new(kid, n, &key, ret_why);
    if (r < 0)
        return r;
    *ret_record = (struct key_record){.key = key,
                                      .first_seen_s = first_seen_s,
                                      .last_seen_s = last_seen_s,
                                      .left_s = left_s,
                                      .current = current};
    return 0;
}

/* Adds the current keys, or those that left. */
static int parse_keys(const json_t *keys, bool current, struct key_snapshot *snapshot,
                      char ret_why[JWKS_WHY_BYTES])
{
    for (size_t i = 0; i < json_array_size(keys); i++) {
        json_t *json = json_array_get(keys, i);
        if ((json_object_get(json, "left_s") == NULL) != current)
            continue;
        struct key_record record;
        int r = parse_key(json, &record, ret_why);
        if (r < 0)
            return r;
        r = key_snapshot_add(snapshot, &record);
        jwk_unref(record.key);
        if (r == -EEXIST)
            return refuse(ret_why, "a kid stands in it twice");
        if (r < 0)
            return refuse(ret_why, "it holds more keys than are ever remembered");
    }
    return 0;
}

int key_file_parse(const char *text, size_t text_bytes, struct key_snapshot **ret_snapshot,
                   char ret_why[JWKS_WHY_BYTES])
{
    json_t *root __attribute__((cleanup(json_text_release))) = NULL;
    int error = json_text_parse(text, text_bytes, &root);
    if (error < 0)
        return error == -ENOMEM ? error : refuse(ret_why, "it is not one JSON object");

    json_int_t version = 0, refreshed_s;
    json_t *distrusted, *keys;
    if (json_unpack(root, "{s:I}", "version", &version) < 0 || version != KEY_FILE_VERSION)
        return refuse(ret_why, "it was not written by this version of siwa-notifyd");
    if (json_unpack(root, "{s:I, s:I, s:o, s:o !}", "version", &version, "refreshed_s",
                    &refreshed_s, "distrusted", &distrusted, "keys", &keys) < 0 ||
        !json_is_array(keys) || !is_time(refreshed_s))
        return refuse(ret_why, "it has missing, unknown or wrong members");

    struct key_snapshot *snapshot __attribute__((cleanup(snapshot_release))) = NULL;
    int r = key_snapshot_new(&snapshot);
    if (r < 0)
        return r;
    snapshot->refreshed_s = refreshed_s;
    r = parse_distrusted(distrusted, snapshot, ret_why);
    if (r == 0)
        r = parse_keys(keys, true, snapshot, ret_why);
    if (r == 0)
        r = parse_keys(keys, false, snapshot, ret_why);
    if (r < 0)
        return r;
    *ret_snapshot = snapshot;
    snapshot = NULL;
    return 0;
}

static json_t *format_key(const struct key_record *record)
{
    json_t *json = json_pack("{s:s, s:s, s:I, s:I}", "kid", jwk_kid(record->key), "n",
                             jwk_n(record->key), "first_seen_s", (json_int_t)record->first_seen_s,
                             "last_seen_s", (json_int_t)record->last_seen_s);
    if (json != NULL && !record->current &&
        json_object_set_new(json, "left_s", json_integer(record->left_s)) < 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

int key_file_format(const struct key_snapshot *snapshot, char **ret_text)
{
    json_t *root __attribute__((cleanup(json_text_release))) =
        json_pack("{s:i, s:I, s:[], s:[]}", "version", KEY_FILE_VERSION, "refreshed_s",
                  (json_int_t)snapshot->refreshed_s, "distrusted", "keys");
    if (root == NULL)
        return -ENOMEM;
    json_t *distrusted = json_object_get(root, "distrusted"), *keys = json_object_get(root, "keys");
    for (size_t i = 0; i < snapshot->distrusted_count; i++)
        if (json_array_append_new(distrusted, json_string(snapshot->distrusted[i])) < 0)
            return -ENOMEM;
    for (size_t i = 0; i < snapshot->count; i++)
        if (json_array_append_new(keys, format_key(&snapshot->records[i])) < 0)
            return -ENOMEM;

    char *text = json_dumps(root, JSON_INDENT(1));
    if (text == NULL)
        return -ENOMEM;
    *ret_text = text;
    return 0;
}

/* Splits path into an open folder and the name in it. */
static int open_folder(const char *path, int *ret_fd, const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char folder[PATH_MAX] = ".";
    if (slash != NULL) {
        size_t bytes = slash == path ? 1 : (size_t)(slash - path);
        if (bytes >= sizeof(folder))
            return -ENAMETOOLONG;
        memcpy(folder, path, bytes);
        folder[bytes] = '\0';
    }
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    *ret_name = slash == NULL ? path : slash + 1;
    return 0;
}

/* Whether what is written in the file can only come from us. Whoever could write it could have
 * forgeries accepted. */
static int check_owner(int folder, const struct stat *file, char ret_why[JWKS_WHY_BYTES])
{
    struct stat parent;
    if (!S_ISREG(file->st_mode))
        return refuse(ret_why, "it is not a regular file");
    if ((file->st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return refuse(ret_why, "others than its owner may write it (chmod 0600 if you trust it)");
    if (file->st_uid == geteuid())
        return 0;
    /* root runs `verify` on the files of the daemon's user. */
    if (geteuid() == 0 && fstat(folder, &parent) == 0 && parent.st_uid == file->st_uid)
        return 0;
    (void)snprintf(ret_why, JWKS_WHY_BYTES,
                   "it belongs to uid %u, not to uid %u (chown it if you trust it)",
                   (unsigned)file->st_uid, (unsigned)geteuid());
    return -EINVAL;
}

static int read_whole(int fd, char *ret_text, size_t capacity, size_t *ret_bytes)
{
    size_t bytes = 0;
    while (bytes < capacity) {
        ssize_t n = read(fd, ret_text + bytes, capacity - bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        bytes += (size_t)n;
    }
    *ret_bytes = bytes;
    return 0;
}

static int explain(int r, const char *what, char ret_why[JWKS_WHY_BYTES])
{
    (void)snprintf(ret_why, JWKS_WHY_BYTES, "%s: %s", what, strerror(-r));
    return r;
}

int key_file_read(const char *path, struct key_snapshot **ret_snapshot,
                  char ret_why[JWKS_WHY_BYTES])
{
    int folder __attribute__((cleanup(fd_release))) = -1;
    const char *name;
    int r = open_folder(path, &folder, &name);
    if (r < 0)
        return explain(r, "its folder cannot be opened", ret_why);

    /* O_NONBLOCK: a FIFO in its place must not hang the start. */
    int fd __attribute__((cleanup(fd_release))) =
        openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ELOOP)
        return refuse(ret_why, "it is a symbolic link");
    if (fd < 0)
        return explain(-errno, "it cannot be opened", ret_why);

    struct stat file;
    if (fstat(fd, &file) < 0)
        return explain(-errno, "it cannot be examined", ret_why);
    r = check_owner(folder, &file, ret_why);
    if (r < 0)
        return r;

    char *text __attribute__((cleanup(text_release))) = malloc(KEY_FILE_MAX_BYTES + 1);
    size_t bytes = 0;
    if (text == NULL)
        return explain(-ENOMEM, "it cannot be read", ret_why);
    r = read_whole(fd, text, KEY_FILE_MAX_BYTES + 1, &bytes);
    if (r < 0)
        return explain(r, "it cannot be read", ret_why);
    if (bytes > KEY_FILE_MAX_BYTES)
        return refuse(ret_why, "it is larger than 1 MiB");
    r = key_file_parse(text, bytes, ret_snapshot, ret_why);
    return r == -ENOMEM ? explain(r, "it cannot be read", ret_why) : r;
}

static int write_whole(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, text, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        text += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* Writes and syncs a new file of this name; what stood there is a left-over of a crash. */
static int write_new(int folder, const char *name, const char *text)
{
    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT)
        return -errno;
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = write_whole(fd, text, strlen(text));
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

int key_file_write(const char *path, const struct key_snapshot *snapshot)
{
    char *text __attribute__((cleanup(text_release))) = NULL;
    int folder __attribute__((cleanup(fd_release))) = -1;
    const char *name;
    char temporary[NAME_MAX + 1];

    int r = key_file_format(snapshot, &text);
    if (r < 0)
        return r;
    r = open_folder(path, &folder, &name);
    if (r < 0)
        return r;
    if (snprintf(temporary, sizeof(temporary), "%s.tmp", name) >= (int)sizeof(temporary))
        return -ENAMETOOLONG;

    r = write_new(folder, temporary, text);
    if (r == 0 && renameat(folder, temporary, folder, name) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(folder, temporary, 0);
        return r;
    }
    return fsync(folder) < 0 ? -errno : 0;
}

int key_file_move_aside(const char *path)
{
    int folder __attribute__((cleanup(fd_release))) = -1;
    const char *name;
    int r = open_folder(path, &folder, &name);
    if (r < 0)
        return r;

    for (unsigned i = 0; i <= KEY_FILE_REFUSED_MAX; i++) {
        char aside[NAME_MAX + 1], number[8] = "";
        if (i > 0)
            (void)snprintf(number, sizeof(number), ".%u", i);
        if (snprintf(aside, sizeof(aside), "%s.refused%s", name, number) >= (int)sizeof(aside))
            return -ENAMETOOLONG;
        if (renameat2(folder, name, folder, aside, RENAME_NOREPLACE) == 0 || errno == ENOENT)
            return 0;
        if (errno != EEXIST)
            return -errno;
    }
    return -EEXIST;
}
