/*
 * The quarantine, over the control socket: what it holds, and what becomes of it by hand. Nothing
 * of a body stands in an answer or a log line.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control_private.h"
#include "dispatcher/apart.h"
#include "dispatcher/quarantine.h"
#include "support/clock.h"
#include "support/log.h"

static const struct problem problem_row = {"not-in-quarantine", 404,
                                           "There is no such notification in quarantine"};
static const struct problem problem_unclear = {"events-unclear", 409,
                                               "Its events cannot be understood"};
static const struct problem problem_unverified = {"not-verified", 409,
                                                  "Its signature cannot be verified"};
static const struct problem problem_not_ours = {"not-ours", 409,
                                                "It is not for one of the apps here"};
static const struct problem problem_refused = {"refused", 409, "It can be no event"};
static const struct problem problem_no_keys = {"no-keys", 503,
                                               "There are no keys to verify it with"};
static const struct problem problem_not_changed = {"not-stored", 503,
                                                   "The change could not be stored"};

/* ---- showing ---- */

static bool add_row(void *context, const struct apart_row *row)
{
    json_t **array = context;
    json_t *object =
        json_pack("{s:I,s:s,s:s,s:I,s:I}", "id", (json_int_t)row->id, "reason", row->reason,
                  "client_id", row->client_id, "received_at_ms", (json_int_t)row->received_at_ms,
                  "bytes", (json_int_t)row->body_bytes);

    if (object && json_array_append_new(*array, object) == 0)
        return true;
    json_decref(*array);
    *array = NULL;
    return false;
}

void control_get_quarantine(struct control *control, struct http_request *request)
{
    json_t *array = json_array();
    int rows = array ? apart_rows(control->settings.reader, APART_QUARANTINE, 0,
                                  OUTBOX_QUARANTINE_ROWS, false, add_row, &array)
                     : 0;

    if (rows < 0) {
        json_decref(array);
        control_answer_problem(control, request, &problem_database, "%s; ask again later",
                               strerror(-rows));
        return;
    }
    control_answer_ok(
        control, request,
        array ? json_pack("{s:o,s:i}", "quarantine", array, "most_rows", OUTBOX_QUARANTINE_ROWS)
              : NULL);
}

/* ---- changing ---- */

/* A change that the writer has, and who waits for it: released by the last of the two. */
struct change {
    struct control_waiting waiting;  /* first */
    struct quarantine_change change; /* its own delivery */
    struct control *control;
    atomic_bool done;
    atomic_uint holders;
};

static void change_unref(struct change *change)
{
    if (atomic_fetch_sub(&change->holders, 1) != 1)
        return;
    delivery_free(change->change.delivery);
    free(change);
}

static const char *result_text(const struct quarantine_change *change)
{
    switch (change->result) {
    case QUARANTINE_RELEASED:
        return verdict_label(change->delivery->verdict);
    case QUARANTINE_DROPPED:
        return "dropped";
    case QUARANTINE_MISSING:
        return "missing";
    case QUARANTINE_UNCLEAR:
        return "unclear";
    case QUARANTINE_FAILED:
        break;
    }
    return "failed";
}

/* On the writer's thread. */
static void on_done(struct quarantine_change *quarantine_change)
{
    struct change *change =
        (struct change *)((char *)quarantine_change - offsetof(struct change, change));
    const struct control_settings *settings = &change->control->settings;

    log_event(LOG_LEVEL_NOTICE,
              quarantine_change->delivery ? "quarantined notification released by hand"
                                          : "quarantined notification dropped by hand",
              log_number("quarantine_id", quarantine_change->id),
              log_text("result", result_text(quarantine_change)));
    if (quarantine_change->result == QUARANTINE_RELEASED)
        ingress_count_stored(settings->ingress, quarantine_change->delivery);
    atomic_store(&change->done, true);
    if (settings->loop)
        http_loop_wake(settings->loop);
    change_unref(change);
}

static void answer_unclear(struct control *control, struct http_request *request, int64_t id)
{
    control_answer_problem(
        control, request, &problem_unclear,
        "version %s knows no such shape; it stays in quarantine: release %" PRId64
        " again after an upgrade, or drop it",
        control->version, id);
}

static void answer_change(struct control *control, struct http_request *request,
                          const struct quarantine_change *change)
{
    switch (change->result) {
    case QUARANTINE_RELEASED:
        control_answer_ok(control, request,
                          json_pack("{s:I,s:s,s:I,s:I}", "id", (json_int_t)change->id, "outcome",
                                    verdict_label(change->delivery->verdict), "first_row",
                                    (json_int_t)change->delivery->first_id, "rows",
                                    (json_int_t)change->delivery->rows));
        return;
    case QUARANTINE_DROPPED:
        control_answer_ok(
            control, request,
            json_pack("{s:I,s:s}", "id", (json_int_t)change->id, "outcome", "dropped"));
        return;
    case QUARANTINE_MISSING:
        control_answer_problem(control, request, &problem_row,
                               "%lld is not there; GET /v1/quarantine lists what is",
                               (long long)change->id);
        return;
    case QUARANTINE_UNCLEAR:
        answer_unclear(control, request, change->id);
        return;
    case QUARANTINE_FAILED:
        break;
    }
    control_answer_problem(control, request, &problem_not_changed,
                           "nothing was changed; see /readyz, and ask again");
}

static bool look_at_change(struct control *control, struct control_waiting *waiting, int64_t now_ms,
                           bool draining)
{
    const struct change *change = (struct change *)waiting;

    (void)now_ms;
    (void)draining; /* the writer ends what it has before the loop does */
    if (!atomic_load(&change->done))
        return false;
    answer_change(control, waiting->request, &change->change);
    return true;
}

static void forget_change(struct control_waiting *waiting)
{
    change_unref((struct change *)waiting);
}

/* Takes the delivery over; NULL drops the row. */
static void post_change(struct control *control, struct http_request *request, int64_t id,
                        struct delivery *delivery)
{
    struct change *change = calloc(1, sizeof *change);
    int error;

    if (!change) {
        delivery_free(delivery);
        control_answer_no_memory(control, request);
        return;
    }
    change->control = control;
    change->change.id = id;
    change->change.delivery = delivery;
    change->change.done = on_done;
    change->waiting = (struct control_waiting){
        .request = request, .look = look_at_change, .forget = forget_change};
    atomic_init(&change->holders, 2);
    error = quarantine_post(control->settings.writer, &change->change);
    if (error == 0) {
        control_wait(control, &change->waiting);
        return;
    }
    delivery_free(delivery);
    free(change);
    if (error == -ESHUTDOWN)
        control_answer_problem(control, request, &problem_draining, "ask again once it is back");
    else
        control_answer_problem(control, request, &problem_not_changed, "%s; ask again later",
                               strerror(-error));
}

/* The number between /v1/quarantine/ and the next slash; -1 where it is none. */
static int64_t id_of(const struct http_request *request)
{
    const char *text = http_request_path(request) + strlen("/v1/quarantine/");
    size_t digits = strspn(text, "0123456789");

    return digits > 0 && digits < 19 && text[digits] == '/' ? strtoll(text, NULL, 10) : -1;
}

void control_post_drop(struct control *control, struct http_request *request)
{
    post_change(control, request, id_of(request), NULL);
}

/* ---- releasing ---- */

/* The row that is to be released, judged again by what is known today: whoever can write into the
 * database cannot make an event of what Apple did not sign. */
struct look {
    struct policy *policy;
    struct key_snapshot *snapshot;
    struct jws_context *jws;
    int64_t now_s;
    struct judgement judgement;
    struct delivery *delivery; /* where it may be released */
};

static const struct jwk *find_key(void *context, const char *kid, size_t kid_bytes,
                                  enum key_trust *ret_trust)
{
    const struct look *look = context;

    return key_snapshot_find(look->snapshot, kid, kid_bytes, look->now_s, ret_trust);
}

/* Of its times those are told to the judge that let it pass: they are what was doubted. */
static void judge_row(struct look *look, const struct apart_row *row)
{
    struct judge_rules rules;

    policy_rules(look->policy, &rules);
    rules.keys = (struct judge_keys){.find = find_key,
                                     .context = look,
                                     .usable = key_snapshot_usable(look->snapshot, look->now_s)};
    rules.now_s = row->received_at_ms / 1000;
    judge_body(look->jws, &rules, row->body, row->body_bytes, &look->judgement);
    if (look->judgement.verdict != VERDICT_FROM_FUTURE)
        return;
    judgement_release(&look->judgement);
    rules.now_s = look->now_s;
    judge_body(look->jws, &rules, row->body, row->body_bytes, &look->judgement);
}

static bool on_row(void *context, const struct apart_row *row)
{
    struct look *look = context;
    const struct judgement *judgement = &look->judgement;
    const struct config_app *app;

    judge_row(look, row);
    if ((judgement->verdict != VERDICT_ACCEPTED && judgement->verdict != VERDICT_QUARANTINED) ||
        judgement->notification.event_count == 0)
        return false;
    app = policy_find(look->policy, judgement->notification.aud);
    if (app)
        look->delivery = delivery_new(&look->judgement, look->policy, app, row->body,
                                      row->body_bytes, row->received_at_ms);
    return false;
}

static void answer_refusal(struct control *control, struct http_request *request, int64_t id,
                           enum verdict verdict)
{
    switch (verdict) {
    case VERDICT_ACCEPTED:
    case VERDICT_QUARANTINED:
        answer_unclear(control, request, id);
        return;
    case VERDICT_BAD_SIGNATURE:
        control_answer_problem(control, request, &problem_unverified,
                               "it did verify when it came: the database was changed; drop it");
        return;
    case VERDICT_KID_UNKNOWN:
        control_answer_problem(control, request, &problem_unverified,
                               "its key is distrusted, or was forgotten; drop it");
        return;
    case VERDICT_NO_KEYS:
        control_answer_problem(control, request, &problem_no_keys,
                               "ask again once `siwa-notifyd keys --refresh` works");
        return;
    case VERDICT_WRONG_AUDIENCE:
        control_answer_problem(control, request, &problem_not_ours,
                               "`quarantine list` names its client_id: add that to `apps`, reload, "
                               "and ask again");
        return;
    default:
        break;
    }
    control_answer_problem(control, request, &problem_refused, "it is judged %s",
                           verdict_label(verdict));
}

static void release(struct control *control, struct http_request *request, int64_t id,
                    struct look *look)
{
    int rows = apart_row(control->settings.reader, APART_QUARANTINE, id, on_row, look);

    if (rows < 0)
        control_answer_problem(control, request, &problem_database, "%s; ask again later",
                               strerror(-rows));
    else if (rows == 0)
        control_answer_problem(control, request, &problem_row,
                               "%lld is not there; GET /v1/quarantine lists what is",
                               (long long)id);
    else if (look->delivery)
        post_change(control, request, id, look->delivery);
    else if (look->judgement.verdict == VERDICT_INTERNAL)
        control_answer_no_memory(control, request);
    else
        answer_refusal(control, request, id, look->judgement.verdict);
}

void control_post_release(struct control *control, struct http_request *request)
{
    struct look look = {.now_s = clock_wall_ms() / 1000};

    if (!control->settings.ingress || jws_context_new(&look.jws) < 0) {
        control_answer_no_memory(control, request);
        return;
    }
    look.policy = ingress_policy(control->settings.ingress);
    look.snapshot = key_cache_snapshot(control->settings.key_cache);
    release(control, request, id_of(request), &look);
    judgement_release(&look.judgement);
    key_snapshot_unref(look.snapshot);
    policy_unref(look.policy);
    jws_context_free(look.jws);
}
