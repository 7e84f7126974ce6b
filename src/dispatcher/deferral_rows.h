/*
 * deferral_rows: what a round needs of the table. In a transaction; writer thread.
 */
#ifndef SIWA_DISPATCHER_DEFERRAL_ROWS_H
#define SIWA_DISPATCHER_DEFERRAL_ROWS_H

#include "outbox_internal.h"
#include "verifier/jwks.h"

/* One that is kept. */
struct deferral_row {
    int64_t id; /* 0: none */
    char kid[JWK_KID_MAX_BYTES + 1];
    int64_t received_at_ms;
    int64_t refresh; /* the number of the last refresh before it was kept */
};

/* Counts those successful refreshes of the keys since start that were not counted yet. */
enum outbox_error deferral_count_refreshes(struct outbox *outbox, uint64_t refreshes,
                                           int64_t now_ms);

/* The highest number of a refresh such that what was kept after no later one may be dropped: at
 * least DEFERRAL_REFRESHES came since, the first of them DEFERRAL_LACKING_MS ago. Negative where
 * there is none. */
enum outbox_error deferral_given_up(struct outbox *outbox, int64_t now_ms, int64_t *ret_refresh);

/* The first row with an id above after; its id is 0 where there is none. */
enum outbox_error deferral_next(struct outbox *outbox, int64_t after, struct deferral_row *ret_row);

/* Hands the body of a row to on_body, borrowed for the call. */
enum outbox_error deferral_body(struct outbox *outbox, int64_t id,
                                void (*on_body)(void *context, const char *body, size_t bytes),
                                void *context);

#endif
