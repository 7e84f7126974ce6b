/*
 * signer: a key of one's own that signs notifications as Apple does.
 *
 * For `simulate` and for load: what it makes differs from Apple's only in who holds the key.
 * Whoever trusts its key set trusts whoever holds the key, so it belongs to test set-ups alone.
 */
#ifndef SIWA_CLI_SIGNER_H
#define SIWA_CLI_SIGNER_H

#include <stddef.h>
#include <stdint.h>

#define SIGNER_KEY_BITS     2048 /* as Apple's */
#define SIGNER_KID_BYTES    10   /* as most of Apple's */
#define SIGNER_JTI_BYTES    22
#define SIGNER_SUB_BYTES    44
#define SIGNER_EMAIL_BYTES  35 /* 10 characters of a name and "@privaterelay.appleid.com" */
#define SIGNER_WHY_BYTES    512
#define SIGNER_ISSUER       "https://appleid.apple.com"
#define SIGNER_KEY_FILE     "key.pem"
#define SIGNER_KEY_SET_FILE "jwks.json"

/* A private key with its kid. Immutable: any number of threads may sign with it at once. */
struct signer;

/* Makes a key. Its kid is the beginning of its RFC 7638 thumbprint, so that the private key alone
 * tells it. 0, -ENOMEM, or -EIO when OpenSSL fails. */
int signer_generate(struct signer **ret_signer);

/* Reads SIGNER_KEY_FILE in a folder: an unencrypted PEM private key, RSA of at least
 * SIGNER_KEY_BITS. 0, -EINVAL for what is no such key, or -errno of reading, with one sentence in
 * ret_why. */
int signer_load(const char *folder, struct signer **ret_signer, char ret_why[SIGNER_WHY_BYTES]);

/* Writes the private key (SIGNER_KEY_FILE, 0600) and the key set (SIGNER_KEY_SET_FILE, 0644) into a
 * folder, which is made (0755) where it is missing. -EEXIST where either file is there already:
 * nothing is ever overwritten. 0 or -errno, then with one sentence in ret_why. */
int signer_save(const struct signer *signer, const char *folder, char ret_why[SIGNER_WHY_BYTES]);

/* Releases and wipes; NULL is allowed. */
void signer_free(struct signer *signer);

/* Borrowed, SIGNER_KID_BYTES characters. */
const char *signer_kid(const struct signer *signer);

/* The JWK Set with this one public key, in the members and order that Apple publishes. The caller
 * frees it. 0 or -ENOMEM. */
int signer_key_set(const struct signer *signer, char **ret_text);

/* How the claim `events` holds its event: Apple sends a string; its page draws an object, and
 * WWDC20 showed an array. */
enum signer_events_as { SIGNER_EVENTS_STRING = 0, SIGNER_EVENTS_OBJECT, SIGNER_EVENTS_ARRAY };

/* What is to be signed; all strings borrowed, UTF-8. exp is iat + 86400, as in every real token. */
struct signer_notification {
    const char *kid; /* NULL: the signer's own */
    const char *issuer;
    const char *client_id;
    const char *jti;
    int64_t issued_at_s;
    enum signer_events_as events_as;
    const char *type; /* as it is to be spelled */
    const char *sub;
    const char *email; /* NULL: without email and is_private_email, as for all but e-mail events */
    int64_t event_time_ms;
};

/* The body of Apple's POST, {"payload":"<compact JWS>"}, NUL-terminated; the caller frees it. 0,
 * -EINVAL for a text that is not UTF-8, -ENOMEM, or -EIO when OpenSSL fails. Any thread. */
int signer_body(const struct signer *signer, const struct signer_notification *notification,
                char **ret_body);

/* Fresh random values in the shapes of Apple's, NUL-terminated. 0 or -EIO. Any thread. */
int signer_random_jti(char ret_jti[SIGNER_JTI_BYTES + 1]);
int signer_random_sub(char ret_sub[SIGNER_SUB_BYTES + 1]);
int signer_random_email(char ret_email[SIGNER_EMAIL_BYTES + 1]);

#endif
