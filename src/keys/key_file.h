/*
 * key_file: keys.json, the memory of the key cache on disk.
 *
 *   {"version": 1, "refreshed_s": T, "distrusted": ["KID", …],
 *    "keys": [{"kid": …, "n": …, "first_seen_s": T, "last_seen_s": T, "left_s": T}, …]}
 *
 * left_s is absent while a key is current. Times are seconds since 1970. Nothing else may stand in
 * it. Private to the room.
 */
#ifndef SIWA_KEYS_KEY_FILE_H
#define SIWA_KEYS_KEY_FILE_H

#include "key_snapshot.h"

#define KEY_FILE_VERSION     1
#define KEY_FILE_MAX_BYTES   (1024 * 1024) /* a full history of 4096-bit keys takes 260 KiB */
#define KEY_FILE_TIME_MAX_S  INT64_C(253402300799) /* the end of the year 9999 */
#define KEY_FILE_REFUSED_MAX 99                    /* names for files that were moved aside */

/* The state that a text describes; every key goes through the key policy. 0, -EINVAL with one
 * sentence in ret_why, or -ENOMEM. Pure. */
int key_file_parse(const char *text, size_t text_bytes, struct key_snapshot **ret_snapshot,
                   char ret_why[JWKS_WHY_BYTES]);

/* The text that describes a state, NUL-terminated; the caller frees it. 0 or -ENOMEM. Pure. */
int key_file_format(const struct key_snapshot *snapshot, char **ret_text);

/* Reads the state at path; see key_cache_open. -ENOENT where there is no file. */
int key_file_read(const char *path, struct key_snapshot **ret_snapshot,
                  char ret_why[JWKS_WHY_BYTES]);

/* Writes a state to path so that after a crash at any moment the old one or the new one stands
 * there whole. 0 or -errno. */
int key_file_write(const char *path, const struct key_snapshot *snapshot);

/* Renames what stands at path to a free name path.refused…; 0 also where nothing stands there.
 * -EEXIST when all names are taken, or another -errno. */
int key_file_move_aside(const char *path);

#endif
