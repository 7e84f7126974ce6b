/*
 * identity: what makes two deliveries the same event.
 *
 * HMAC-SHA-256 under the outbox's own key, so that who can read the outbox cannot test a guessed
 * sub against it.
 */
#ifndef SIWA_DISPATCHER_IDENTITY_H
#define SIWA_DISPATCHER_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

#include "verifier/jwks.h"
#include "verifier/notification.h"

#define IDENTITY_BYTES     32
#define IDENTITY_KEY_BYTES 32
#define PERSON_BYTES       16 /* the first half of an HMAC-SHA-256 */

struct identity_key;

/* Reads the key file (exactly IDENTITY_KEY_BYTES, 0600, a regular file of the calling user), or
 * makes it when create is set and there is none: random, fsynced with its folder before it is used.
 * A key that is missing beside a database that has identities would make every repeat new: the
 * caller sets create only together with a new database. 0, -ENOENT, -EINVAL (wrong size, mode or
 * owner), -errno; one sentence in ret_why. */
int identity_key_open(const char *path, bool create, struct identity_key **ret_key,
                      char ret_why[JWKS_WHY_BYTES]);
void identity_key_free(struct identity_key *key); /* wipes; takes NULL */

/* The identity of event number index of a notification: over the length-prefixed client_id,
 * normalised type, sub, event_time_ms; where sub or event_time is missing, over client_id, jti,
 * index. The two forms can never give the same input. 0, -EINVAL where the event has neither (no
 * sub or time, and no jti), -EIO when OpenSSL fails. One thread a key. */
int identity_of(struct identity_key *key, const struct notification *notification, size_t index,
                unsigned char ret_identity[IDENTITY_BYTES]);

/* Who a sub is, as a value that stands for the person where the sub itself must not: over team and
 * sub, since Apple gives a person one sub in all apps of a team; over client_id and sub where team
 * is empty. In a form that no event has. Texts of at most NOTIFICATION_CLAIM_MAX_BYTES. 0, -EINVAL
 * for a longer one, -EIO when OpenSSL fails. One thread a key. */
int identity_of_person(struct identity_key *key, const char *team, const char *client_id,
                       const char *sub, unsigned char ret_person[PERSON_BYTES]);

/* The same kind of value for any bytes, in a form that no event can have: to know a quarantined
 * token again, and to know that a key belongs to a database. 0 or -EIO. One thread a key. */
int identity_of_bytes(struct identity_key *key, const void *bytes, size_t count,
                      unsigned char ret_identity[IDENTITY_BYTES]);

#endif
