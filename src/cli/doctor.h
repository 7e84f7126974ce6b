/*
 * doctor: what its files share.
 */
#ifndef SIWA_CLI_DOCTOR_H
#define SIWA_CLI_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/call.h"
#include "support/config.h"
#include "verifier/verdict.h"

#define DOCTOR_CALL_MS         10000 /* for one answer, of the daemon or of a server */
#define DOCTOR_REPLY_MAX_BYTES (256 * 1024)
#define DOCTOR_TEXT_BYTES      512

/* Zero is failure. */
enum doctor_state { DOCTOR_FAIL = 0, DOCTOR_WARN, DOCTOR_OK, DOCTOR_SKIP, DOCTOR_STATES };

struct doctor_finding {
    const char *check; /* a literal: "local.clock" */
    enum doctor_state state;
    char cause[DOCTOR_TEXT_BYTES];
    char cure[DOCTOR_TEXT_BYTES]; /* empty where there is nothing to cure */
};

struct doctor {
    const char *config_file;
    const char *url;     /* NULL: nothing is looked at from outside */
    const char *ca_file; /* for the url; "" is the system's */
    bool test_setup;
    const struct config *config; /* NULL where it could not be loaded */
    bool daemon_answers;         /* on its control socket */
    void (*on_finding)(const struct doctor_finding *finding, void *context);
    void *context;
    unsigned counts[DOCTOR_STATES];
};

/* Tells one finding: its cause (format, one sentence) and its cure (a text, NULL for none), each
 * cut at its size and with control characters replaced. */
void doctor_tell(struct doctor *doctor, const char *check, enum doctor_state state,
                 const char *cure, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* A daemon that was started a moment ago has no keys yet: waits for its first attempt to fetch
 * them, at most DOCTOR_CALL_MS. */
void doctor_await_keys(const struct doctor *doctor);

/* The chapters, in their order. Each tells at least one finding for each of its checks. */
void doctor_local(struct doctor *doctor);
void doctor_keys(struct doctor *doctor);
void doctor_daemon(struct doctor *doctor);
void doctor_history(struct doctor *doctor);
void doctor_outside(struct doctor *doctor);
void doctor_probe(struct doctor *doctor); /* with a url whose server was reached */

/* POSTs a body to the url, or GETs it where body is NULL; as call_send. ret_ms: how long it took.
 */
int doctor_post(const struct doctor *doctor, const char *body, size_t body_bytes,
                struct call_reply *ret_reply, int64_t *ret_ms, char ret_why[CALL_WHY_BYTES]);

/* What mends a call that failed with this error. Static string. */
const char *doctor_cure_of_call(int error);

/* Whether the answer is the daemon's own for this verdict. */
bool doctor_answers(const struct call_reply *reply, enum verdict verdict);

/* Tells whether `what` reached the daemon and earned this verdict, and where not, who answered. */
void doctor_tell_answer(struct doctor *doctor, const char *check, const struct call_reply *reply,
                        enum verdict expected, const char *what);

/* How a server's TLS looks to a strict client. */
struct doctor_address {
    const char *host; /* as in the URL, without brackets; for the certificate and SNI */
    const char *port;
};

/* Looks at the TLS of a server: outside.tls, .chain, .certificate, .tls12, .old_tls, or the same
 * under another prefix of checks. */
void doctor_tls(struct doctor *doctor, const struct doctor_address *address, const char *ca_file,
                bool key_server);

#endif
