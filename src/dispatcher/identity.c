#include "dispatcher/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The first byte of what is hashed keeps the forms apart: no two of them can give one input. */
#define FORM_PERSON  'P' /* client_id, type, sub, event_time_ms */
#define FORM_TOKEN   'T' /* client_id, jti, index */
#define FORM_CONTENT 'C' /* identity_of_bytes */
#define FORM_SUB     'S' /* team, client_id or nothing, sub */

#define LENGTH_BYTES 4
#define NUMBER_BYTES 8
#define INPUT_MAX_BYTES \
    (3 * (LENGTH_BYTES + NOTIFICATION_CLAIM_MAX_BYTES) + (LENGTH_BYTES + NUMBER_BYTES))

struct identity_key {
    EVP_MAC_CTX *mac; /* holds the key; initialised anew for each identity */
};

struct input {
    unsigned char bytes[INPUT_MAX_BYTES];
    size_t used;
    bool overflow;
};

static void close_file(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define autoclose __attribute__((cleanup(close_file)))

static int explain(char ret_why[JWKS_WHY_BYTES], int error, const char *path, const char *what)
{
    snprintf(ret_why, JWKS_WHY_BYTES, "%s: %s", path, what);
    return error;
}

static int sync_directory(const char *path)
{
    char copy[PATH_MAX];
    autoclose int fd = -1;

    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy)
        return -ENAMETOOLONG;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return 0;
}

static int read_key(const char *path, unsigned char ret_bytes[IDENTITY_KEY_BYTES],
                    char ret_why[JWKS_WHY_BYTES])
{
    autoclose int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat file;

    if (fd < 0) {
        int error = errno;

        return explain(ret_why, -error, path,
                       error == ENOENT  ? "no such identity key"
                       : error == ELOOP ? "the identity key is a symbolic link"
                                        : strerror(error));
    }
    if (fstat(fd, &file) < 0)
        return explain(ret_why, -errno, path, strerror(errno));
    if (!S_ISREG(file.st_mode))
        return explain(ret_why, -EINVAL, path, "the identity key is not a regular file");
    if (file.st_uid != geteuid())
        return explain(ret_why, -EINVAL, path,
                       "the identity key belongs to another user: chown it");
    if (file.st_mode & 077)
        return explain(ret_why, -EINVAL, path,
                       "the identity key is open to others: chmod it to 0600");
    if (file.st_size != IDENTITY_KEY_BYTES)
        return explain(ret_why, -EINVAL, path,
                       "the identity key has a wrong size: restore it from a backup");
    for (size_t got = 0; got < IDENTITY_KEY_BYTES;) {
        ssize_t n = read(fd, ret_bytes + got, IDENTITY_KEY_BYTES - got);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return explain(ret_why, n < 0 ? -errno : -EIO, path, "the identity key cannot be read");
        got += (size_t)n;
    }
    return 0;
}

static int write_all(int fd, const unsigned char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t n = write(fd, bytes, count);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        count -= (size_t)n;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* Under a temporary name first: who is killed halfway must not leave half a key behind. */
static int make_key(const char *path, char ret_why[JWKS_WHY_BYTES])
{
    unsigned char bytes[IDENTITY_KEY_BYTES];
    char temporary[PATH_MAX];
    autoclose int fd = -1;
    int error;

    if ((size_t)snprintf(temporary, sizeof temporary, "%s.new", path) >= sizeof temporary)
        return explain(ret_why, -ENAMETOOLONG, path, strerror(ENAMETOOLONG));
    if (RAND_priv_bytes(bytes, sizeof bytes) != 1)
        return explain(ret_why, -EIO, path, "no random bytes for the identity key");
    unlink(temporary);
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    error = fd < 0 ? -errno : write_all(fd, bytes, sizeof bytes);
    explicit_bzero(bytes, sizeof bytes);
    /* link, not rename: never over a key that is there */
    if (error == 0 && link(temporary, path) < 0)
        error = -errno;
    if (fd >= 0)
        unlink(temporary);
    if (error == 0)
        error = sync_directory(path);
    return error == 0 ? 0 : explain(ret_why, error, path, strerror(-error));
}

static int key_from(const unsigned char bytes[IDENTITY_KEY_BYTES], struct identity_key **ret_key)
{
    char digest[] = "SHA256";
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    struct identity_key *key = calloc(1, sizeof *key);
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);

    if (key && hmac)
        key->mac = EVP_MAC_CTX_new(hmac);
    EVP_MAC_free(hmac);
    if (!key || !key->mac || EVP_MAC_init(key->mac, bytes, IDENTITY_KEY_BYTES, parameters) != 1) {
        identity_key_free(key);
        return -ENOMEM;
    }
    *ret_key = key;
    return 0;
}

int identity_key_open(const char *path, bool create, struct identity_key **ret_key,
                      char ret_why[JWKS_WHY_BYTES])
{
    unsigned char bytes[IDENTITY_KEY_BYTES];
    int error = read_key(path, bytes, ret_why);

    if (error == -ENOENT && create) {
        error = make_key(path, ret_why);
        if (error == 0)
            error = read_key(path, bytes, ret_why);
    }
    if (error < 0)
        return error;
    error = key_from(bytes, ret_key);
    explicit_bzero(bytes, sizeof bytes);
    return error == 0 ? 0 : explain(ret_why, error, path, "the identity key cannot be loaded");
}

void identity_key_free(struct identity_key *key)
{
    if (!key)
        return;
    EVP_MAC_CTX_free(key->mac); /* OpenSSL wipes the key in it */
    free(key);
}

static void put_bytes(struct input *input, const void *bytes, size_t count)
{
    if (count > sizeof input->bytes - input->used) {
        input->overflow = true;
        return;
    }
    memcpy(input->bytes + input->used, bytes, count);
    input->used += count;
}

static void put_field(struct input *input, const void *bytes, size_t count)
{
    const unsigned char length[LENGTH_BYTES] = {(unsigned char)(count >> 24),
                                                (unsigned char)(count >> 16),
                                                (unsigned char)(count >> 8), (unsigned char)count};

    put_bytes(input, length, sizeof length);
    put_bytes(input, bytes, count);
}

static void put_number(struct input *input, uint64_t number)
{
    unsigned char bytes[NUMBER_BYTES];

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(number >> (8 * (sizeof bytes - 1 - i)));
    put_field(input, bytes, sizeof bytes);
}

static int mac_of(struct identity_key *key, const void *bytes, size_t count, unsigned char form,
                  unsigned char ret_identity[IDENTITY_BYTES])
{
    unsigned char result[IDENTITY_BYTES];
    size_t result_bytes = 0;

    if (EVP_MAC_init(key->mac, NULL, 0, NULL) != 1 || EVP_MAC_update(key->mac, &form, 1) != 1 ||
        EVP_MAC_update(key->mac, bytes, count) != 1 ||
        EVP_MAC_final(key->mac, result, &result_bytes, sizeof result) != 1 ||
        result_bytes != sizeof result)
        return -EIO;
    memcpy(ret_identity, result, sizeof result);
    return 0;
}

int identity_of(struct identity_key *key, const struct notification *notification, size_t index,
                unsigned char ret_identity[IDENTITY_BYTES])
{
    const struct event *event = &notification->events[index];
    struct input input = {.used = 0};
    unsigned char form = FORM_PERSON;

    put_field(&input, notification->aud, strlen(notification->aud));
    if (event->sub && event->event_time_ms != 0) {
        put_field(&input, event->type, strlen(event->type));
        put_field(&input, event->sub, strlen(event->sub));
        put_number(&input, (uint64_t)event->event_time_ms);
    } else if (notification->jti) {
        form = FORM_TOKEN;
        put_field(&input, notification->jti, strlen(notification->jti));
        put_number(&input, index);
    } else {
        return -EINVAL;
    }
    if (input.overflow) /* longer claims than the verifier lets through */
        return -EINVAL;
    return mac_of(key, input.bytes, input.used, form, ret_identity);
}

int identity_of_person(struct identity_key *key, const char *team, const char *client_id,
                       const char *sub, unsigned char ret_person[PERSON_BYTES])
{
    unsigned char whole[IDENTITY_BYTES];
    struct input input = {.used = 0};
    int error;

    put_field(&input, team, strlen(team));
    put_field(&input, client_id, team[0] ? 0 : strlen(client_id));
    put_field(&input, sub, strlen(sub));
    if (input.overflow)
        return -EINVAL;
    error = mac_of(key, input.bytes, input.used, FORM_SUB, whole);
    if (error == 0)
        memcpy(ret_person, whole, PERSON_BYTES);
    return error;
}

int identity_of_bytes(struct identity_key *key, const void *bytes, size_t count,
                      unsigned char ret_identity[IDENTITY_BYTES])
{
    return mac_of(key, bytes, count, FORM_CONTENT, ret_identity);
}
