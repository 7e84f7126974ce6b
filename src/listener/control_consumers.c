/*
 * Consumers, over the control socket: how far they are, and the two ways to move them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_private.h"
#include "support/clock.h"
#include "support/log.h"

static const struct problem problem_not_yours = {
    "not-your-consumer", 403,
    "Only the user of the consumer, root and the user of the daemon may do this"};
static const struct problem problem_backwards = {"ack-backwards", 409,
                                                 "The consumer has acknowledged more already"};
static const struct problem problem_beyond = {"beyond-last", 409, "There is no such row yet"};
static const struct problem problem_moved = {
    "position-moved", 409, "The consumer is not where the acknowledgement begins"};
static const struct problem problem_not_moved = {"not-stored", 503,
                                                 "The change could not be stored"};

/* ---- showing ---- */

/* What a listing adds to. */
struct listing {
    json_t *array; /* NULL once memory is out */
};

static void add_consumer(void *context, const struct consumer_state *state)
{
    struct listing *listing = context;
    json_t *acknowledged =
        state->acknowledged_ms > 0 ? json_integer(state->acknowledged_ms) : json_null();
    json_t *consumer =
        json_pack("{s:s,s:b,s:I,s:I,s:I,s:I,s:o}", "name", state->name, "configured",
                  state->configured, "position", (json_int_t)state->position, "lag_rows",
                  (json_int_t)state->lag_rows, "lag_s", (json_int_t)(state->lag_ms / 1000),
                  "added_ms", (json_int_t)state->added_ms, "acknowledged_ms", acknowledged);

    if (!listing->array || !consumer || json_array_append(listing->array, consumer) < 0) {
        json_decref(listing->array);
        listing->array = NULL;
    }
    json_decref(consumer);
}

int control_consumers_json(struct consumers *consumers, struct outbox_reader *reader,
                           int64_t now_ms, json_t **ret_json)
{
    struct listing listing = {.array = json_array()};
    struct outbox_state state;
    json_t *json;
    int error = consumers_list(consumers, reader, now_ms, add_consumer, &listing);

    if (error == 0)
        error = outbox_reader_state(reader, &state);
    if (error < 0) {
        json_decref(listing.array);
        return error;
    }
    json = json_pack("{s:o,s:I,s:I}", "consumers", listing.array, "last_id",
                     (json_int_t)state.last_id, "pruned_through", (json_int_t)state.pruned_through);
    if (!json)
        return -ENOMEM;
    *ret_json = json;
    return 0;
}

void control_get_consumers(struct control *control, struct http_request *request)
{
    json_t *json = NULL;
    int error = control_consumers_json(control->settings.consumers, control->settings.reader,
                                       clock_wall_ms(), &json);

    if (error < 0 && error != -ENOMEM)
        control_answer_problem(control, request, &problem_database, "%s; ask again later",
                               strerror(-error));
    else
        control_answer_ok(control, request, json);
}

/* ---- who may ---- */

/* The name between /v1/consumers/ and the next slash; false where no name is so long. */
static bool name_of(const struct http_request *request, char ret_name[CONSUMER_NAME_BYTES])
{
    const char *name = http_request_path(request) + strlen("/v1/consumers/");
    size_t bytes = strcspn(name, "/");

    if (bytes >= CONSUMER_NAME_BYTES)
        return false;
    memcpy(ret_name, name, bytes);
    ret_name[bytes] = '\0';
    return true;
}

void control_answer_no_consumer(struct control *control, struct http_request *request,
                                const char *name)
{
    char shown[4 * CONSUMER_NAME_BYTES];

    (void)log_escape(name, strlen(name), shown, sizeof shown);
    control_answer_problem(
        control, request, &problem_consumer,
        "the running daemon has no \"%s\"; GET /v1/consumers lists those it has; "
        "the setting `consumers` and a reload make one",
        shown);
}

static bool find(struct control *control, struct http_request *request,
                 struct consumer *ret_consumer)
{
    char name[CONSUMER_NAME_BYTES] = "";

    if (name_of(request, name) && consumers_find(control->settings.consumers, name, ret_consumer))
        return true;
    control_answer_no_consumer(control, request, name);
    return false;
}

bool control_by_consumer(struct control *control, struct http_request *request)
{
    struct consumer consumer;
    uid_t uid;
    pid_t pid;

    if (!find(control, request, &consumer))
        return false;
    if (control_is_operator(request))
        return true;
    if (consumer.user_known && http_request_peer(request, &uid, &pid) && uid == consumer.uid)
        return true;
    if (consumer.user[0] == '\0')
        control_answer_problem(control, request, &problem_not_yours,
                               "the configuration names no `user` for %s", consumer.name);
    else
        control_answer_problem(control, request, &problem_not_yours, "ask again as %s%s",
                               consumer.user,
                               consumer.user_known ? "" : ", which did not exist at the last load");
    return false;
}

/* ---- moving ---- */

/* A change that the writer has, and who waits for it. It is released by whichever of the two is
 * done with it last. */
struct control_change {
    struct control_waiting waiting; /* first */
    struct consumers_change change;
    struct control *control;
    struct control_change *next_done; /* with the lock */
    bool collected;                   /* the writer is done with it */
    bool abandoned;                   /* nobody waits any more */
};

static struct control_change *change_of(struct control_waiting *waiting)
{
    return (struct control_change *)waiting;
}

/* On the writer's thread. */
static void on_done(struct consumers_change *change)
{
    struct control_change *done = change->context;
    struct control *control = done->control;
    struct http_loop *loop = control->settings.loop;

    pthread_mutex_lock(&control->lock);
    done->next_done = control->done;
    control->done = done;
    pthread_mutex_unlock(&control->lock);
    if (loop)
        http_loop_wake(loop);
}

void control_collect_changes(struct control *control)
{
    pthread_mutex_lock(&control->lock);
    struct control_change *done = control->done;
    control->done = NULL;
    pthread_mutex_unlock(&control->lock);
    while (done) {
        struct control_change *next = done->next_done;

        done->collected = true;
        if (done->change.seek && done->change.verdict == CONSUMERS_DONE)
            control_events_seek(control, done->change.name, done->change.position);
        if (done->abandoned)
            free(done);
        done = next;
    }
}

static json_t *numbers_json(const struct consumers_change *change)
{
    return json_pack("{s:I,s:I,s:I}", "position", (json_int_t)change->position, "last_id",
                     (json_int_t)change->last_id, "pruned_through",
                     (json_int_t)change->pruned_through);
}

static void answer_change(struct control *control, struct http_request *request,
                          const struct consumers_change *change)
{
    switch (change->verdict) {
    case CONSUMERS_DONE:
        control_answer_ok(control, request,
                          json_pack("{s:s,s:I,s:I}", "consumer", change->name, "position",
                                    (json_int_t)change->position, "last_id",
                                    (json_int_t)change->last_id));
        return;
    case CONSUMERS_UNKNOWN:
        control_answer_problem(control, request, &problem_consumer, "%s has left the configuration",
                               change->name);
        return;
    case CONSUMERS_BACKWARDS:
        control_answer_problem_with(control, request, &problem_backwards, numbers_json(change),
                                    "%s is at %lld already; only a seek goes back", change->name,
                                    (long long)change->position);
        return;
    case CONSUMERS_MOVED:
        control_answer_problem_with(control, request, &problem_moved, numbers_json(change),
                                    "%s is at %lld; go on from there", change->name,
                                    (long long)change->position);
        return;
    case CONSUMERS_BEYOND:
        control_answer_problem_with(control, request, &problem_beyond, numbers_json(change),
                                    "the last row is %lld", (long long)change->last_id);
        return;
    case CONSUMERS_PRUNED:
        control_answer_problem_with(control, request, &problem_pruned, numbers_json(change),
                                    "rows up to %lld are gone; go on from there",
                                    (long long)change->pruned_through);
        return;
    case CONSUMERS_FAILED:
        break;
    }
    control_answer_problem(control, request, &problem_not_moved,
                           "the position may have moved on part of the way; ask again");
}

static bool look_at_change(struct control *control, struct control_waiting *waiting, int64_t now_ms,
                           bool draining)
{
    (void)now_ms;
    (void)draining; /* the writer ends what it has before the loop does */
    if (!change_of(waiting)->collected)
        return false;
    answer_change(control, waiting->request, &change_of(waiting)->change);
    return true;
}

static void forget_change(struct control_waiting *waiting)
{
    struct control_change *change = change_of(waiting);

    if (change->collected)
        free(change);
    else
        change->abandoned = true;
}

/* What is asked of a consumer. */
struct asked {
    bool seek;
    json_int_t to, from; /* from < 0: not said */
};

static void post_change(struct control *control, struct http_request *request, const char *name,
                        const struct asked *asked)
{
    struct control_change *change = calloc(1, sizeof *change);
    int error;

    if (!change) {
        control_answer_no_memory(control, request);
        return;
    }
    change->control = control;
    (void)snprintf(change->change.name, sizeof change->change.name, "%s", name);
    change->change.seek = asked->seek;
    change->change.to = asked->to;
    change->change.from = asked->from;
    change->change.done = on_done;
    change->change.context = change;
    change->waiting = (struct control_waiting){
        .request = request, .look = look_at_change, .forget = forget_change};
    error = consumers_post(control->settings.consumers, control->settings.writer, &change->change);
    if (error == 0) {
        control_wait(control, &change->waiting);
        return;
    }
    free(change);
    if (error == -ESHUTDOWN)
        control_answer_problem(control, request, &problem_draining, "ask again once it is back");
    else
        control_answer_problem(control, request, &problem_not_moved, "%s; ask again later",
                               strerror(-error));
}

static void change_position(struct control *control, struct http_request *request, bool seek)
{
    json_t *document = NULL;
    struct asked asked = {.seek = seek, .to = -1, .from = -1};
    struct consumer consumer;
    int error;

    if (!find(control, request, &consumer))
        return;
    if (seek)
        error = control_unpack_body(control, request, &document, "{s:I !}", "to", &asked.to);
    else
        error = control_unpack_body(control, request, &document, "{s:I, s?I !}", "through",
                                    &asked.to, "from", &asked.from);
    bool from_good = asked.from >= 0 || !json_object_get(document, "from");
    json_decref(document);
    if (error == -ENOMEM)
        return;
    if (error < 0 || asked.to < 0 || !from_good) {
        control_answer_problem(control, request, &problem_request,
                               "the body must be {\"%s\": ID}, an id of a row, and %s",
                               seek ? "to" : "through",
                               seek ? "nothing else" : "may have \"from\": ID besides");
        return;
    }
    if (seek)
        log_event(LOG_LEVEL_NOTICE, "consumer is moved by hand",
                  log_text("consumer", consumer.name), log_number("to", asked.to));
    post_change(control, request, consumer.name, &asked);
}

void control_post_ack(struct control *control, struct http_request *request)
{
    change_position(control, request, false);
}

void control_post_seek(struct control *control, struct http_request *request)
{
    change_position(control, request, true);
}
