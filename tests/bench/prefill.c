/*
 * prefill: puts many rows into a new outbox, through the same room as the daemon.
 *
 * prefill CONFIG ROWS [BODY_BYTES [DAYS]]: rows of the first configured app, whose event_time ends
 * a day (or so many) ago, as in an outbox that has been in use; the bodies are gone (or so long).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/signer.h"
#include "dispatcher/outbox.h"
#include "dispatcher/policy.h"
#include "support/clock.h"
#include "support/config.h"

#define ROWS_A_COMMIT 5000
#define DAY_MS        INT64_C(86400000)
#define STEP_MS       1000 /* between two events */

__attribute__((noreturn)) static void die(const char *what, const char *why)
{
    fprintf(stderr, "prefill: %s: %s\n", what, why);
    exit(1);
}

static char body[16384];
static size_t body_bytes;

/* One row; its strings live only here. */
static bool add_row(struct outbox *outbox, struct policy *policy, int64_t event_time_ms)
{
    const struct config_app *app = policy_at(policy, 0);
    char sub[SIGNER_SUB_BYTES + 1], jti[SIGNER_JTI_BYTES + 1];
    if (signer_random_sub(sub) < 0 || signer_random_jti(jti) < 0)
        return false;
    struct judgement judgement = {
        .verdict = VERDICT_ACCEPTED,
        .signature_verified = true,
        .kid = "PREFILLED0",
        .notification = {.iss = SIGNER_ISSUER,
                         .aud = app->client_id,
                         .jti = jti,
                         .issued_at_s = event_time_ms / 1000 + 10,
                         .expires_at_s = event_time_ms / 1000 + 10 + NOTIFICATION_LIFETIME_S,
                         .has_events = true,
                         .event_count = 1,
                         .events = {{.kind = EVENT_TYPE_CONSENT_REVOKED,
                                     .type = "consent-revoked",
                                     .raw_type = "consent-revoked",
                                     .sub = sub,
                                     .event_time_ms = event_time_ms}}},
    };
    struct delivery *delivery =
        delivery_new(&judgement, policy, app, body, body_bytes, event_time_ms + 11000);
    bool ok = delivery && outbox_add(outbox, delivery) == OUTBOX_ERROR_NONE && delivery->rows == 1;
    delivery_free(delivery);
    return ok;
}

int main(int argc, char **argv)
{
    int64_t days = argc > 4 ? atoll(argv[4]) : 1;
    body_bytes = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    if (argc < 3 || argc > 5 || atoll(argv[2]) < 1 || days < 1 || body_bytes > sizeof body) {
        fprintf(stderr, "usage: prefill CONFIG ROWS [BODY_BYTES [DAYS]]\n");
        return 2;
    }
    memset(body, 'x', body_bytes);
    char why[OUTBOX_WHY_BYTES];
    struct config *config = NULL;
    struct policy *policy = NULL;
    struct outbox *outbox = NULL;
    if (config_load(argv[1], stderr, &config) < 0)
        die(argv[1], "is not usable");
    if (policy_new(config, &policy) < 0)
        die(argv[1], "out of memory");
    if (outbox_open(config->database, clock_wall_ms(), &outbox, why) < 0)
        die(config->database, why);

    int64_t rows = atoll(argv[2]), first_ms = clock_wall_ms() - days * DAY_MS - rows * STEP_MS;
    for (int64_t row = 0; row < rows; row++) {
        bool first_of_batch = row % ROWS_A_COMMIT == 0;
        bool last_of_batch = row % ROWS_A_COMMIT == ROWS_A_COMMIT - 1 || row == rows - 1;
        if ((first_of_batch && outbox_begin(outbox) != OUTBOX_ERROR_NONE) ||
            !add_row(outbox, policy, first_ms + row * STEP_MS) ||
            (last_of_batch && outbox_commit(outbox) != OUTBOX_ERROR_NONE))
            die(config->database, outbox_error_text(outbox));
    }
    if (outbox_close(outbox, why) < 0)
        die(config->database, why);
    policy_unref(policy);
    config_free(config);
    return 0;
}
