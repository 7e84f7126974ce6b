#include "wal_check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES       32
#define FRAME_HEADER_BYTES 24
#define SALT_BYTES         8

/* Where fields stand: in the header, and in that of a frame. */
#define HEADER_SALT  16
#define HEADER_SUM   24
#define FRAME_COMMIT 4 /* not zero in the last frame of a commit */
#define FRAME_SALT   8
#define FRAME_SUM    16

/* The running checksum, over words in the order that the last bit of the magic tells. */
struct sum {
    uint32_t a, b;
    bool big_endian;
};

static uint32_t word(const unsigned char *bytes, bool big_endian)
{
    uint32_t first = bytes[0], second = bytes[1], third = bytes[2], fourth = bytes[3];

    return big_endian ? first << 24 | second << 16 | third << 8 | fourth
                      : fourth << 24 | third << 16 | second << 8 | first;
}

static void add(struct sum *sum, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i += 8) {
        sum->a += word(bytes + i, sum->big_endian) + sum->b;
        sum->b += word(bytes + i + 4, sum->big_endian) + sum->a;
    }
}

static bool is_sum(const struct sum *sum, const unsigned char *stored)
{
    return word(stored, true) == sum->a && word(stored + 4, true) == sum->b;
}

/* Goes through the frames of a round; the sum is that of the header where that is sound. */
static int count(int fd, const unsigned char *header, struct sum *sum, unsigned char *frame,
                 size_t frame_bytes, unsigned *ret_unreachable)
{
    unsigned char salt[SALT_BYTES];
    bool sound = is_sum(sum, header + HEADER_SUM);
    unsigned unreachable = 0;
    off_t at = HEADER_BYTES;
    ssize_t got;

    memcpy(salt, header + HEADER_SALT, sizeof salt);
    for (; (got = pread(fd, frame, frame_bytes, at)) == (ssize_t)frame_bytes;
         at += (off_t)frame_bytes) {
        if (!sound && at == HEADER_BYTES) /* the header cannot be asked which round it is */
            memcpy(salt, frame + FRAME_SALT, sizeof salt);
        if (memcmp(frame + FRAME_SALT, salt, sizeof salt) != 0) {
            sound = false;
            continue;
        }
        if (sound) {
            add(sum, frame, FRAME_SALT);
            add(sum, frame + FRAME_HEADER_BYTES, frame_bytes - FRAME_HEADER_BYTES);
            sound = is_sum(sum, frame + FRAME_SUM);
        }
        if (!sound && word(frame + FRAME_COMMIT, true) != 0)
            unreachable++;
    }
    if (got < 0)
        return -errno;
    *ret_unreachable = unreachable;
    return 0;
}

int wal_check(int fd, size_t page_bytes, unsigned *ret_unreachable)
{
    unsigned char header[HEADER_BYTES];
    size_t frame_bytes = FRAME_HEADER_BYTES + page_bytes;
    struct sum sum = {0};
    unsigned char *frame;
    ssize_t got = pread(fd, header, sizeof header, 0);
    int error;

    if (got < 0)
        return -errno;
    if (got < (ssize_t)sizeof header) {
        *ret_unreachable = 0;
        return 0;
    }
    frame = malloc(frame_bytes);
    if (!frame)
        return -ENOMEM;
    sum.big_endian = header[3] & 1;
    add(&sum, header, HEADER_SUM);
    error = count(fd, header, &sum, frame, frame_bytes, ret_unreachable);
    free(frame);
    return error;
}
