#include "dispatcher/deferral.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "deferral_rows.h"
#include "dispatcher/apart.h"
#include "support/clock.h"

/* One round at a time. From deferral_begin to end_round all of this but busy and unfinished is the
 * writer thread's. */
struct deferral {
    struct deferral_settings settings;
    struct jws_context *jws;
    atomic_bool busy;       /* a round is under way */
    atomic_bool unfinished; /* the last one looked at some of the rows only */

    struct writer_task task;
    struct deferral_round round;
    bool begun;            /* the first piece was committed */
    int64_t given_up;      /* refreshes: what was kept before them is lacked for too long */
    int64_t cursor;        /* ids up to this one were looked at */
    int64_t alone_through; /* up to this id a piece takes one row only, since one could not be
                              stored and took the others back with it */

    /* of the piece under way */
    int64_t reached; /* the cursor once it is committed */
    bool over;       /* there are no more rows */
    struct deferral_settled settled[DEFERRAL_PIECE_ROWS];
    size_t settled_count;
};

static const char *const result_labels[DEFERRAL_RESULT_COUNT] = {
#define DEFERRAL_RESULT_LABEL(name, label) [DEFERRAL_RESULT_##name] = label,
    DEFERRAL_RESULT_TABLE(DEFERRAL_RESULT_LABEL)
#undef DEFERRAL_RESULT_LABEL
};

const char *deferral_result_label(enum deferral_result result)
{
    unsigned index = (unsigned)result;

    return result_labels[index < DEFERRAL_RESULT_COUNT ? index : DEFERRAL_RESULT_INTERNAL];
}

/* -- one row ----------------------------------------------------------------------------------- */

/* What a body is judged by, and what came of it. */
struct look {
    struct deferral *deferral;
    const struct deferral_row *row;
    struct judgement judgement;
    struct delivery *delivery; /* of what Apple signed */
};

/* When it was received; a clock that was ahead then dated that later than now. */
static int64_t receipt_ms(const struct look *look)
{
    int64_t received_at_ms = look->row->received_at_ms, now_ms = look->deferral->round.now_ms;

    return received_at_ms < now_ms ? received_at_ms : now_ms;
}

/* At the time of its receipt. A clock that was behind then must not stand against it now. */
static void judge_row(struct look *look, const char *body, size_t bytes)
{
    struct deferral *deferral = look->deferral;
    struct judge_rules rules;

    policy_rules(deferral->round.policy, &rules);
    rules.keys = deferral->round.keys;
    rules.now_s = receipt_ms(look) / 1000;
    judge_body(deferral->jws, &rules, body, bytes, &look->judgement);
    if (look->judgement.verdict != VERDICT_FROM_FUTURE)
        return;
    judgement_release(&look->judgement);
    rules.now_s = deferral->round.now_ms / 1000;
    judge_body(deferral->jws, &rules, body, bytes, &look->judgement);
}

static void on_body(void *context, const char *body, size_t bytes)
{
    struct look *look = context;
    struct policy *policy = look->deferral->round.policy;
    const struct config_app *app;

    judge_row(look, body, bytes);
    if (look->judgement.verdict != VERDICT_ACCEPTED &&
        look->judgement.verdict != VERDICT_QUARANTINED)
        return;
    app = policy_find(policy, look->judgement.notification.aud);
    if (app)
        look->delivery = delivery_new(&look->judgement, policy, app, body, bytes, receipt_ms(look));
}

/* What became of one that the outbox took; false where it has to stay. */
static bool result_of_delivery(enum verdict verdict, enum deferral_result *ret_result)
{
    switch (verdict) {
    case VERDICT_ACCEPTED:
        *ret_result = DEFERRAL_RESULT_DELIVERED;
        return true;
    case VERDICT_DUPLICATE:
        *ret_result = DEFERRAL_RESULT_DUPLICATE;
        return true;
    case VERDICT_IGNORED:
        *ret_result = DEFERRAL_RESULT_IGNORED;
        return true;
    case VERDICT_QUARANTINED:
        *ret_result = DEFERRAL_RESULT_QUARANTINED;
        return true;
    case VERDICT_EXPIRED:
        *ret_result = DEFERRAL_RESULT_EXPIRED;
        return true;
    default: /* BUSY: the quarantine is full */
        return false;
    }
}

/* What becomes of one that was refused; false where that may change. */
static bool result_of_refusal(enum verdict verdict, enum deferral_result *ret_result)
{
    if (verdict == VERDICT_WRONG_AUDIENCE)
        *ret_result = DEFERRAL_RESULT_DROPPED_WRONG_AUDIENCE;
    else if (verdict == VERDICT_BAD_SIGNATURE)
        *ret_result = DEFERRAL_RESULT_DROPPED_BAD_SIGNATURE;
    else if (verdict_status(verdict) >= 400 && verdict_status(verdict) < 500)
        *ret_result = DEFERRAL_RESULT_DROPPED_REFUSED;
    else
        return false;
    return true;
}

/* The row leaves, and is told of once that is committed. Takes the delivery over. */
static enum outbox_error settle(struct deferral *deferral, struct outbox *outbox,
                                const struct deferral_row *row, enum deferral_result result,
                                struct delivery *delivery)
{
    bool removed;

    deferral->settled[deferral->settled_count++] = (struct deferral_settled){
        .result = result, .delivery = delivery, .received_at_ms = row->received_at_ms};
    return apart_remove(outbox, APART_DEFERRED, row->id, &removed);
}

static enum outbox_error deliver(struct deferral *deferral, struct outbox *outbox,
                                 const struct deferral_row *row, struct delivery *delivery)
{
    enum deferral_result result;
    enum outbox_error error;

    delivery->was_apart = true;
    error = outbox_add(outbox, delivery);
    if (error == OUTBOX_ERROR_NONE && result_of_delivery(delivery->verdict, &result))
        return settle(deferral, outbox, row, result, delivery);
    delivery_free(delivery);
    return error;
}

static enum outbox_error judge(struct deferral *deferral, struct outbox *outbox,
                               const struct deferral_row *row)
{
    struct look look = {.deferral = deferral, .row = row};
    enum deferral_result result;
    enum verdict verdict;
    enum outbox_error error = deferral_body(outbox, row->id, on_body, &look);

    if (look.delivery && error == OUTBOX_ERROR_NONE)
        return deliver(deferral, outbox, row, look.delivery);
    verdict = look.judgement.verdict;
    judgement_release(&look.judgement);
    delivery_free(look.delivery);
    if (error == OUTBOX_ERROR_NONE && result_of_refusal(verdict, &result))
        return settle(deferral, outbox, row, result, NULL);
    return error;
}

static enum outbox_error look_at(struct deferral *deferral, struct outbox *outbox,
                                 const struct deferral_row *row)
{
    enum key_trust trust = KEY_TRUST_NONE;
    const struct judge_keys *keys = &deferral->round.keys;
    const struct jwk *key = keys->find(keys->context, row->kid, strlen(row->kid), &trust);

    if (key && trust == KEY_TRUST_NONE)
        return settle(deferral, outbox, row, DEFERRAL_RESULT_DROPPED_DISTRUSTED_KID, NULL);
    if (key)
        return judge(deferral, outbox, row);
    if (row->refresh <= deferral->given_up)
        return settle(deferral, outbox, row, DEFERRAL_RESULT_DROPPED_UNKNOWN_KID, NULL);
    return OUTBOX_ERROR_NONE;
}

/* -- a piece ----------------------------------------------------------------------------------- */

static enum outbox_error begin_round(struct deferral *deferral, struct outbox *outbox)
{
    enum outbox_error error;

    if (deferral->begun)
        return OUTBOX_ERROR_NONE;
    error = deferral_count_refreshes(outbox, deferral->round.refreshes, deferral->round.now_ms);
    if (error == OUTBOX_ERROR_NONE)
        error = deferral_given_up(outbox, deferral->round.now_ms, &deferral->given_up);
    return error;
}

static bool has_room(const struct deferral *deferral, int64_t until_us)
{
    if (deferral->reached < deferral->alone_through)
        return deferral->reached == deferral->cursor;
    return deferral->settled_count < DEFERRAL_PIECE_ROWS && clock_monotonic_us() < until_us;
}

static enum outbox_error run(struct outbox *outbox, struct writer_task *task)
{
    struct deferral *deferral = (struct deferral *)((char *)task - offsetof(struct deferral, task));
    int64_t until_us = clock_monotonic_us() + DEFERRAL_PIECE_MS * 1000;
    enum outbox_error error = begin_round(deferral, outbox);

    deferral->reached = deferral->cursor;
    deferral->over = false;
    do {
        struct deferral_row row = {0};

        if (error == OUTBOX_ERROR_NONE)
            error = deferral_next(outbox, deferral->reached, &row);
        if (error != OUTBOX_ERROR_NONE)
            return error;
        deferral->over = row.id == 0;
        if (deferral->over)
            return OUTBOX_ERROR_NONE;
        error = look_at(deferral, outbox, &row);
        deferral->reached = row.id;
    } while (error == OUTBOX_ERROR_NONE && has_room(deferral, until_us));
    return error;
}

static void tell(struct deferral *deferral, bool committed)
{
    for (size_t i = 0; i < deferral->settled_count; i++) {
        struct deferral_settled *settled = &deferral->settled[i];

        if (committed && deferral->settings.on_settled)
            deferral->settings.on_settled(deferral->settings.context, settled);
        delivery_free(settled->delivery);
    }
    deferral->settled_count = 0;
}

static void end_round(struct deferral *deferral, bool finished)
{
    policy_unref(deferral->round.policy);
    deferral->round.release(deferral->round.keys.context);
    atomic_store(&deferral->unfinished, !finished);
    atomic_store(&deferral->busy, false);
}

/* One that cannot be stored took its whole piece back: the piece again, one row at a time, and past
 * that one when it comes. */
static void go_around(struct deferral *deferral)
{
    if (deferral->alone_through > deferral->cursor)
        deferral->cursor = deferral->reached;
    else
        deferral->alone_through = deferral->reached;
}

static void done(struct writer_task *task, enum outbox_error error)
{
    struct deferral *deferral = (struct deferral *)((char *)task - offsetof(struct deferral, task));
    bool committed = error == OUTBOX_ERROR_NONE;

    tell(deferral, committed);
    if (committed) {
        deferral->begun = true;
        deferral->cursor = deferral->reached;
        if (deferral->over) {
            end_round(deferral, true);
            return;
        }
    } else if (error == OUTBOX_ERROR_DELIVERY) {
        go_around(deferral);
    } else {
        end_round(deferral, false);
        return;
    }
    if (writer_post(deferral->settings.writer, task) != 0)
        end_round(deferral, false);
}

/* -- life -------------------------------------------------------------------------------------- */

int deferral_new(const struct deferral_settings *settings, struct deferral **ret_deferral)
{
    struct deferral *deferral = calloc(1, sizeof *deferral);
    int error;

    if (!deferral)
        return -ENOMEM;
    deferral->settings = *settings;
    deferral->task = (struct writer_task){.run = run, .done = done};
    error = jws_context_new(&deferral->jws);
    if (error) {
        deferral_free(deferral);
        return error;
    }
    *ret_deferral = deferral;
    return 0;
}

void deferral_free(struct deferral *deferral)
{
    if (!deferral)
        return;
    jws_context_free(deferral->jws);
    free(deferral);
}

int deferral_begin(struct deferral *deferral, const struct deferral_round *round)
{
    int error;

    if (atomic_load(&deferral->busy))
        return -EAGAIN;
    atomic_store(&deferral->busy, true);
    atomic_store(&deferral->unfinished, false);
    deferral->round = *round;
    policy_ref(round->policy);
    deferral->begun = false;
    deferral->given_up = -1;
    deferral->cursor = 0;
    deferral->alone_through = 0;
    error = writer_post(deferral->settings.writer, &deferral->task);
    if (error) {
        policy_unref(round->policy);
        atomic_store(&deferral->busy, false);
    }
    return error;
}

bool deferral_unfinished(struct deferral *deferral)
{
    return atomic_load(&deferral->unfinished);
}
