#include "dispatcher/quarantine.h"

#include "dispatcher/apart.h"

static struct quarantine_change *change_of(struct writer_task *task)
{
    return (struct quarantine_change *)task; /* its first member */
}

/* Past what put it here: reason and lateness. Identity and the app's policy hold. */
static enum outbox_error add(struct outbox *outbox, struct quarantine_change *change)
{
    struct delivery *delivery = change->delivery;
    enum outbox_error error;

    delivery->judgement.verdict = VERDICT_ACCEPTED;
    delivery->judgement.reason = QUARANTINE_REASON_NONE;
    delivery->was_apart = true;
    error = outbox_add(outbox, delivery);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    if (delivery->verdict != VERDICT_ACCEPTED && delivery->verdict != VERDICT_DUPLICATE &&
        delivery->verdict != VERDICT_IGNORED) {
        change->result = QUARANTINE_UNCLEAR;
        return OUTBOX_ERROR_DELIVERY; /* takes the removal back */
    }
    change->result = QUARANTINE_RELEASED;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error run(struct outbox *outbox, struct writer_task *task)
{
    struct quarantine_change *change = change_of(task);
    bool removed = false;
    enum outbox_error error = apart_remove(outbox, APART_QUARANTINE, change->id, &removed);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    change->result = removed ? QUARANTINE_DROPPED : QUARANTINE_MISSING;
    return removed && change->delivery ? add(outbox, change) : OUTBOX_ERROR_NONE;
}

static void done(struct writer_task *task, enum outbox_error error)
{
    struct quarantine_change *change = change_of(task);

    if (error != OUTBOX_ERROR_NONE && change->result != QUARANTINE_UNCLEAR)
        change->result = QUARANTINE_FAILED;
    change->done(change);
}

int quarantine_post(struct writer *writer, struct quarantine_change *change)
{
    change->task = (struct writer_task){.run = run, .done = done};
    change->result = QUARANTINE_FAILED;
    return writer_post(writer, &change->task);
}
