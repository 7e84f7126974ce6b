/*
 * retention: what is old enough to go, and its removal in pieces small enough to stand between two
 * commits.
 *
 * Age counts from the arrival. Rows go strictly in the order of their ids, so that pruned_through
 * tells the truth, and only when every configured consumer has acknowledged them, or when they are
 * past retain.hard. What the audit tells of a row stays when the row goes (table `facts`).
 */
#ifndef SIWA_DISPATCHER_RETENTION_H
#define SIWA_DISPATCHER_RETENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "dispatcher/consumers.h"
#include "dispatcher/identity.h"
#include "dispatcher/outbox.h"
#include "support/config.h"

#define RETENTION_TEST_S     (7 * 86400)  /* rows of the daemon's own tests */
#define RETENTION_DEFERRED_S (30 * 86400) /* what waits for keys that do not come at all */

/* What is kept for a while, in the order in which it is swept, and its label in metrics and log. */
#define RETENTION_TABLE(X) \
    X(ROWS, "rows") \
    X(RAW, "raw") \
    X(TEST, "test") \
    X(QUARANTINE, "quarantine") \
    X(DEFERRED, "deferred") \
    X(IDENTITIES, "identities") \
    X(FACTS, "facts")

enum retention_what {
#define RETENTION_CONSTANT(name, label) RETENTION_##name,
    RETENTION_TABLE(RETENTION_CONSTANT)
#undef RETENTION_CONSTANT
        RETENTION_COUNT
};

/* A static string; "" beyond the table. Any thread. */
const char *retention_label(enum retention_what what);

/* What arrived before these moments (wall clock, ms) has been kept long enough. */
struct retention_due {
    int64_t before_ms[RETENTION_COUNT];
    int64_t hard_ms; /* rows and bodies that somebody has not acknowledged */
    int64_t now_ms;
};

/* Pure. */
void retention_due_at(const struct config_retain *retain, int64_t now_ms,
                      struct retention_due *ret_due);

/* One kind of it, swept piece by piece. */
struct retention_sweep {
    enum retention_what what; /* given, as these four */
    struct retention_due due;
    struct consumers *consumers;
    bool erases; /* who deleted the account is erased first: the row stays until that is done */

    bool over;              /* nothing is left that is due */
    int64_t removed;        /* so far */
    int64_t unacknowledged; /* of them, rows that some consumer had not acknowledged */
    int64_t pruned_through; /* with ROWS and removed: the highest id that went */

    int64_t event_time_ms; /* private: how far the identities were looked at */
    unsigned char identity[IDENTITY_BYTES];
};

/* Removes for some milliseconds (below WRITER_TASK_MS), always something where something is due,
 * and counts in the sweep. The counts are of what is committed only if the transaction is. Inside a
 * transaction, writer thread. */
enum outbox_error retention_sweep_piece(struct outbox *outbox, struct retention_sweep *sweep);

#endif
