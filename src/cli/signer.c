#include "cli/signer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verifier/base64url.h"
#include "verifier/jwks.h"
#include "verifier/notification.h"

#define SIGNER_KEY_FILE_MAX_BYTES 16384 /* a PEM key of 4096 bits has 3,300 */

struct signer {
    EVP_PKEY *key;
    char kid[SIGNER_KID_BYTES + 1];
    char n[BASE64URL_ENCODED(JWK_MODULUS_MAX_BYTES) + 1];
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static void free_text(char **text)
{
    free(*text);
}

static void free_json(json_t **json)
{
    json_decref(*json);
}

static void free_bio(BIO **bio)
{
    (void)BIO_free(*bio);
}

static void free_digest(EVP_MD_CTX **context)
{
    EVP_MD_CTX_free(*context);
}

static void free_bignum(BIGNUM **number)
{
    BN_free(*number);
}

__attribute__((format(printf, 2, 3))) static void explain(char ret_why[SIGNER_WHY_BYTES],
                                                          const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(ret_why, SIGNER_WHY_BYTES, format, arguments);
    va_end(arguments);
}

/* RFC 7638: SHA-256 over the required members in alphabetical order. */
static int name_key(struct signer *signer)
{
    __attribute__((cleanup(free_bignum))) BIGNUM *modulus = NULL;
    unsigned char bytes[JWK_MODULUS_MAX_BYTES];

    if (EVP_PKEY_get_bn_param(signer->key, OSSL_PKEY_PARAM_RSA_N, &modulus) != 1)
        return -EIO;
    int size = BN_num_bytes(modulus);
    if (size <= 0 || (size_t)size > sizeof bytes || BN_bn2bin(modulus, bytes) != size)
        return -EINVAL;
    base64url_encode(bytes, (size_t)size, signer->n);

    char members[sizeof signer->n + 64];
    int length = snprintf(members, sizeof members, "{\"e\":\"AQAB\",\"kty\":\"RSA\",\"n\":\"%s\"}",
                          signer->n);
    if (length < 0 || (size_t)length >= sizeof members)
        return -EINVAL;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    if (!SHA256((const unsigned char *)members, (size_t)length, digest))
        return -EIO;
    char thumbprint[BASE64URL_ENCODED(sizeof digest) + 1];
    base64url_encode(digest, sizeof digest, thumbprint);
    memcpy(signer->kid, thumbprint, SIGNER_KID_BYTES);
    signer->kid[SIGNER_KID_BYTES] = '\0';
    return 0;
}

/* Takes over the key, also on error. */
static int wrap_key(EVP_PKEY *key, struct signer **ret_signer)
{
    struct signer *signer = calloc(1, sizeof *signer);
    if (!signer) {
        EVP_PKEY_free(key);
        return -ENOMEM;
    }
    signer->key = key;
    int error = name_key(signer);
    if (error < 0) {
        signer_free(signer);
        return error;
    }
    *ret_signer = signer;
    return 0;
}

int signer_generate(struct signer **ret_signer)
{
    EVP_PKEY *key = EVP_RSA_gen(SIGNER_KEY_BITS);
    return key ? wrap_key(key, ret_signer) : -EIO;
}

/* Never a prompt on the terminal: an encrypted key is refused. */
static int no_password(char *buffer, int size, int writing, void *context)
{
    (void)buffer, (void)size, (void)writing, (void)context;
    return -1;
}

static int read_file(const char *path, char *buffer, size_t capacity, size_t *ret_bytes)
{
    __attribute__((cleanup(close_fd))) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    size_t bytes = 0;
    while (bytes < capacity) {
        ssize_t got = read(fd, buffer + bytes, capacity - bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        bytes += (size_t)got;
    }
    *ret_bytes = bytes;
    return 0;
}

int signer_load(const char *folder, struct signer **ret_signer, char ret_why[SIGNER_WHY_BYTES])
{
    __attribute__((cleanup(free_text))) char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, SIGNER_KEY_FILE) < 0) {
        path = NULL;
        explain(ret_why, "out of memory");
        return -ENOMEM;
    }

    char text[SIGNER_KEY_FILE_MAX_BYTES];
    size_t bytes = 0;
    int error = read_file(path, text, sizeof text, &bytes);
    if (error < 0) {
        explain(ret_why, "%s: cannot be read: %s; --new-key FOLDER makes a key", path,
                strerror(-error));
        return error;
    }
    __attribute__((cleanup(free_bio))) BIO *bio = BIO_new_mem_buf(text, (int)bytes);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    explicit_bzero(text, sizeof text);
    if (!key) {
        explain(ret_why, "%s: is no unencrypted PEM private key; --new-key FOLDER makes one", path);
        return -EINVAL;
    }
    if (!EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_get_bits(key) < SIGNER_KEY_BITS ||
        EVP_PKEY_get_bits(key) > JWK_MODULUS_MAX_BITS) {
        EVP_PKEY_free(key);
        explain(ret_why, "%s: is no RSA key of %d to %d bits; --new-key FOLDER makes one", path,
                SIGNER_KEY_BITS, JWK_MODULUS_MAX_BITS);
        return -EINVAL;
    }
    error = wrap_key(key, ret_signer);
    if (error < 0)
        explain(ret_why, "%s: the key cannot be used: %s", path, strerror(-error));
    return error;
}

void signer_free(struct signer *signer)
{
    if (!signer)
        return;
    EVP_PKEY_free(signer->key);
    free(signer);
}

const char *signer_kid(const struct signer *signer)
{
    return signer->kid;
}

int signer_key_set(const struct signer *signer, char **ret_text)
{
    char *text = NULL;
    if (asprintf(&text,
                 "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"%s\",\"use\":\"sig\",\"alg\":\"RS256\","
                 "\"n\":\"%s\",\"e\":\"AQAB\"}]}\n",
                 signer->kid, signer->n) < 0)
        return -ENOMEM;
    *ret_text = text;
    return 0;
}

/* Writes a file that must be new; what cannot be written whole is taken away again. */
static int write_new_file(const char *folder, const char *name, mode_t mode, const char *text,
                          size_t text_bytes, char ret_why[SIGNER_WHY_BYTES])
{
    __attribute__((cleanup(free_text))) char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        path = NULL;
        explain(ret_why, "out of memory");
        return -ENOMEM;
    }
    __attribute__((cleanup(close_fd))) int fd =
        open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) {
        int error = -errno;
        if (error == -EEXIST)
            explain(ret_why,
                    "%s: exists and is not overwritten; name another folder, or use the "
                    "key in it with --key",
                    path);
        else
            explain(ret_why, "%s: cannot be made: %s", path, strerror(-error));
        return error;
    }
    int error = fchmod(fd, mode) < 0 ? -errno : 0;
    while (error == 0 && text_bytes > 0) {
        ssize_t written = write(fd, text, text_bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            error = -errno;
            break;
        }
        text += written;
        text_bytes -= (size_t)written;
    }
    if (error < 0) {
        (void)unlink(path);
        explain(ret_why, "%s: cannot be written: %s", path, strerror(-error));
    }
    return error;
}

static int save_private_key(const struct signer *signer, const char *folder,
                            char ret_why[SIGNER_WHY_BYTES])
{
    __attribute__((cleanup(free_bio))) BIO *bio = BIO_new(BIO_s_secmem());
    if (!bio || PEM_write_bio_PrivateKey(bio, signer->key, NULL, NULL, 0, NULL, NULL) != 1) {
        explain(ret_why, "the private key cannot be encoded");
        return -EIO;
    }
    char *text = NULL;
    long bytes = BIO_get_mem_data(bio, &text);
    if (bytes <= 0) {
        explain(ret_why, "the private key cannot be encoded");
        return -EIO;
    }
    return write_new_file(folder, SIGNER_KEY_FILE, 0600, text, (size_t)bytes, ret_why);
}

int signer_save(const struct signer *signer, const char *folder, char ret_why[SIGNER_WHY_BYTES])
{
    if (mkdir(folder, 0755) < 0 && errno != EEXIST) {
        int error = -errno;
        explain(ret_why, "%s: the folder cannot be made: %s", folder, strerror(-error));
        return error;
    }
    __attribute__((cleanup(free_text))) char *set = NULL;
    if (signer_key_set(signer, &set) < 0) {
        explain(ret_why, "out of memory");
        return -ENOMEM;
    }
    /* The private key first: a key set without its key would be trusted, and of no use. */
    int error = save_private_key(signer, folder, ret_why);
    if (error < 0)
        return error;
    return write_new_file(folder, SIGNER_KEY_SET_FILE, 0644, set, strlen(set), ret_why);
}

static int event_json(const struct signer_notification *notification, json_t **ret_event)
{
    json_t *event =
        json_pack("{s:s, s:s, s:I}", "type", notification->type, "sub", notification->sub,
                  "event_time", (json_int_t)notification->event_time_ms);
    if (!event)
        return -EINVAL;
    /* A string, as in the real ones; Apple's ID tokens have had booleans since 2024. */
    if (notification->email &&
        (json_object_set_new(event, "email", json_string(notification->email)) < 0 ||
         json_object_set_new(event, "is_private_email", json_string("true")) < 0)) {
        json_decref(event);
        return -EINVAL;
    }
    *ret_event = event;
    return 0;
}

/* Takes over the event. */
static json_t *shape_events(json_t *event, enum signer_events_as events_as)
{
    if (events_as == SIGNER_EVENTS_OBJECT)
        return event;
    if (events_as == SIGNER_EVENTS_ARRAY)
        return json_pack("[o]", event);
    __attribute__((cleanup(free_text))) char *text = json_dumps(event, JSON_COMPACT);
    json_decref(event);
    return text ? json_string(text) : NULL;
}

static int claims_text(const struct signer_notification *notification, char **ret_text)
{
    if (notification->issued_at_s > NOTIFICATION_TIME_MAX_S ||
        notification->issued_at_s < -NOTIFICATION_TIME_MAX_S)
        return -EINVAL;
    json_t *event = NULL;
    int error = event_json(notification, &event);
    if (error < 0)
        return error;
    json_t *events = shape_events(event, notification->events_as);
    if (!events)
        return -ENOMEM;
    __attribute__((cleanup(free_json))) json_t *claims = json_pack(
        "{s:s, s:s, s:I, s:I, s:s, s:o}", "iss", notification->issuer, "aud",
        notification->client_id, "exp",
        (json_int_t)(notification->issued_at_s + NOTIFICATION_LIFETIME_S), "iat",
        (json_int_t)notification->issued_at_s, "jti", notification->jti, "events", events);
    if (!claims)
        return -EINVAL;
    char *text = json_dumps(claims, JSON_COMPACT);
    if (!text)
        return -ENOMEM;
    *ret_text = text;
    return 0;
}

/* Appends `.` and the signature over everything from start to end. */
static int sign_token(const struct signer *signer, const char *start, char *end)
{
    __attribute__((cleanup(free_digest))) EVP_MD_CTX *context = EVP_MD_CTX_new();
    unsigned char signature[JWK_MODULUS_MAX_BYTES];
    size_t bytes = sizeof signature;

    if (!context)
        return -ENOMEM;
    if (EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, signer->key) != 1 ||
        EVP_DigestSign(context, signature, &bytes, (const unsigned char *)start,
                       (size_t)(end - start)) != 1)
        return -EIO;
    *end = '.';
    base64url_encode(signature, bytes, end + 1);
    return 0;
}

int signer_body(const struct signer *signer, const struct signer_notification *notification,
                char **ret_body)
{
    static const char before[] = "{\"payload\":\"", after[] = "\"}";
    __attribute__((cleanup(free_text))) char *claims = NULL;
    const char *kid = notification->kid ? notification->kid : signer->kid;
    char header[JWK_KID_MAX_BYTES + 32];

    int error = claims_text(notification, &claims);
    if (error < 0)
        return error;
    /* Apple's header to the byte: no typ, kid first. */
    int header_bytes = snprintf(header, sizeof header, "{\"kid\":\"%s\",\"alg\":\"RS256\"}", kid);
    if (header_bytes < 0 || (size_t)header_bytes >= sizeof header)
        return -EINVAL;

    size_t claims_bytes = strlen(claims);
    size_t capacity = sizeof before + BASE64URL_ENCODED((size_t)header_bytes) + 1 +
                      BASE64URL_ENCODED(claims_bytes) + 1 +
                      BASE64URL_ENCODED(JWK_MODULUS_MAX_BYTES) + sizeof after;
    char *body = malloc(capacity);
    if (!body)
        return -ENOMEM;
    char *token = stpcpy(body, before);
    base64url_encode((const unsigned char *)header, (size_t)header_bytes, token);
    char *end = token + strlen(token);
    *end++ = '.';
    base64url_encode((const unsigned char *)claims, claims_bytes, end);
    error = sign_token(signer, token, end + strlen(end));
    if (error < 0) {
        free(body);
        return error;
    }
    (void)stpcpy(end + strlen(end), after);
    *ret_body = body;
    return 0;
}

int signer_random_jti(char ret_jti[SIGNER_JTI_BYTES + 1])
{
    unsigned char bytes[16];
    _Static_assert(BASE64URL_ENCODED(sizeof bytes) == SIGNER_JTI_BYTES, "16 bytes are a jti");
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return -EIO;
    base64url_encode(bytes, sizeof bytes, ret_jti);
    return 0;
}

int signer_random_sub(char ret_sub[SIGNER_SUB_BYTES + 1])
{
    uint64_t parts[2];
    if (RAND_bytes((unsigned char *)parts, sizeof parts) != 1)
        return -EIO;
    (void)snprintf(ret_sub, SIGNER_SUB_BYTES + 1, "000000.%016" PRIx64 "%016" PRIx64 ".0000",
                   parts[0], parts[1]);
    return 0;
}

int signer_random_email(char ret_email[SIGNER_EMAIL_BYTES + 1])
{
    uint64_t name;
    if (RAND_bytes((unsigned char *)&name, sizeof name) != 1)
        return -EIO;
    (void)snprintf(ret_email, SIGNER_EMAIL_BYTES + 1, "%010" PRIx64 "@privaterelay.appleid.com",
                   name & UINT64_C(0xffffffffff));
    return 0;
}
