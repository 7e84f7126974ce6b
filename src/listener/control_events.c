/*
 * The outbox, over the control socket: for who may not open the file, or wants to be told.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_private.h"
#include "listener/event_json.h"
#include "support/clock.h"
#include "support/log.h"

/* What a row costs beyond its texts: names of members, quotes, numbers. */
#define ROW_BYTES  300
#define NAME_BYTES 40 /* of a parameter, as it is repeated in an error */

static const struct problem problem_parameter = {"bad-parameter", 400,
                                                 "A parameter of the query is wrong"};
static const struct problem problem_cursor = {"beyond-last", 409, "There is no such row yet"};
static const struct problem problem_crowd = {"too-many-wait", 503,
                                             "No more requests may wait for rows"};

_Static_assert(CONTROL_POLLS_MAX < CONTROL_CONNECTIONS, "there is room for who does not wait");

static const char *const no_store[] = {"Cache-Control", "no-store", NULL};

/* What a request asks for. */
struct query {
    int64_t after; /* -1: not given */
    int64_t limit, wait_s, raw;
    char consumer[CONSUMER_NAME_BYTES]; /* "": not given */
};

/* A request that waits for rows. */
struct poll {
    struct control_waiting waiting; /* first */
    struct control *control;
    struct query query;
    int64_t seen_id;     /* up to here nothing was for it */
    int64_t deadline_ms; /* monotonic */
};

/* ---- what is asked ---- */

/* A decimal number without sign and spaces; -1 for anything else and for what is out of range. */
static int64_t number_of(const char *text, int64_t max)
{
    int64_t number = 0;

    if (*text == '\0')
        return -1;
    for (; *text; text++) {
        int digit = *text - '0';

        if (digit < 0 || digit > 9 || digit > max || number > (max - digit) / 10)
            return -1;
        number = 10 * number + digit;
    }
    return number;
}

/* The numbers that may be asked for, with where each of them is kept. */
#define NUMBERS(X) \
    X("after", after, 0, INT64_MAX, "takes the id of a row") \
    X("limit", limit, 1, CONTROL_EVENTS_LIMIT_MAX, "takes a number from 1 to 1000") \
    X("wait", wait_s, 0, CONTROL_EVENTS_WAIT_S, "takes seconds from 0 to 60") \
    X("raw", raw, 0, 1, "takes 0 or 1")

_Static_assert(CONTROL_EVENTS_LIMIT_MAX == 1000 && CONTROL_EVENTS_WAIT_S == 60, "as is said above");

/* NULL where the parameter is good, or what is wrong with it. */
static const char *take_parameter(struct query *query, const char *name, const char *value)
{
#define TAKE(text, field, min, max, complaint) \
    if (strcmp(name, text) == 0) { \
        query->field = number_of(value, max); \
        return query->field >= (min) ? NULL : complaint; \
    }
    NUMBERS(TAKE)
#undef TAKE
    if (strcmp(name, "consumer") != 0)
        return "is unknown; there are after, consumer, limit, raw and wait";
    if (strlen(value) == 0 || strlen(value) >= sizeof query->consumer)
        return "takes the name of a consumer";
    memcpy(query->consumer, value, strlen(value) + 1);
    return NULL;
}

/* Foreign text, for the detail of a problem. */
static void complain(struct control *control, struct http_request *request, const char *name,
                     const char *complaint)
{
    char shown[NAME_BYTES];

    (void)log_escape(name, strlen(name), shown, sizeof shown);
    control_answer_problem(control, request, &problem_parameter, "%s: %s", shown, complaint);
}

/* Reads the query; where it is wrong, answers and returns false. */
static bool read_query(struct control *control, struct http_request *request,
                       struct query *ret_query)
{
    struct query query = {.after = -1, .limit = CONTROL_EVENTS_LIMIT};
    const char *name, *value, *other, *unused;

    for (size_t i = 0; http_request_query_at(request, i, &name, &value); i++) {
        const char *complaint = take_parameter(&query, name, value);

        for (size_t j = 0; !complaint && j < i; j++)
            if (http_request_query_at(request, j, &other, &unused) && strcmp(other, name) == 0)
                complaint = "is given twice";
        if (complaint) {
            complain(control, request, name, complaint);
            return false;
        }
    }
    if (query.after >= 0 && query.consumer[0] != '\0') {
        complain(control, request, "consumer", "has a cursor of its own; leave out after");
        return false;
    }
    *ret_query = query;
    return true;
}

/* ---- what is found ---- */

/* The rows of one answer. */
struct found {
    struct outbox_reader *reader;
    json_t *events;
    int64_t last_id; /* of them */
    size_t bytes;
    bool raw;
    int error;
};

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) : 0;
}

static int add_raw(struct found *found, json_t *event, int64_t id)
{
    char *body = NULL;
    size_t bytes = 0;
    int64_t raw_id = 0;
    json_t *text;
    int error = outbox_reader_raw(found->reader, id, &raw_id, &body, &bytes);

    if (error < 0)
        return error;
    text = body ? json_stringn(body, bytes) : json_null();
    free(body);
    found->bytes += bytes;
    if (json_object_set_new(event, "raw_id", json_integer(raw_id)) < 0 ||
        json_object_set_new(event, "raw", text) < 0)
        return -ENOMEM;
    return 0;
}

static bool on_row(void *context, const struct outbox_row *row)
{
    struct found *found = context;
    json_t *event = event_json(row);

    found->error = event ? 0 : -ENOMEM;
    if (event && found->raw)
        found->error = add_raw(found, event, row->id);
    if (found->error == 0 && json_array_append(found->events, event) < 0)
        found->error = -ENOMEM;
    json_decref(event);
    found->last_id = row->id;
    found->bytes += ROW_BYTES + text_bytes(row->sub) + text_bytes(row->email) +
                    text_bytes(row->jti) + text_bytes(row->type) + text_bytes(row->raw_type);
    return found->error == 0 && found->bytes < CONTROL_EVENTS_BYTES;
}

/* Finds the rows after a cursor. The state is read after them: whatever it says was pruned may be
 * missing among them, and nothing else can be. */
static int find(struct control *control, const struct query *query, struct found *ret_found,
                struct outbox_state *ret_state)
{
    struct outbox_reader *reader = control->settings.reader;
    struct found found = {.reader = reader, .events = json_array(), .raw = query->raw == 1};
    int count = found.events ? outbox_reader_rows(reader, query->after, (unsigned)query->limit,
                                                  on_row, &found)
                             : -ENOMEM;
    int error = count < 0 ? count : found.error;

    if (error == 0)
        error = outbox_reader_state(reader, ret_state);
    if (error < 0) {
        json_decref(found.events);
        return error;
    }
    *ret_found = found;
    return 0;
}

/* ---- answers ---- */

static json_t *state_json(const struct outbox_state *state)
{
    return json_pack("{s:I,s:I,s:I}", "last_id", (json_int_t)state->last_id, "pruned_through",
                     (json_int_t)state->pruned_through, "generation",
                     (json_int_t)state->generation);
}

/* A reply with the events, whose reference is taken. */
static int reply_new(const struct query *query, json_t *events, const struct outbox_state *state,
                     struct http_reply **ret_reply)
{
    json_t *value = json_pack("{s:I,s:o}", "after", (json_int_t)query->after, "events", events);
    json_t *members = state_json(state);
    char *text = NULL;
    int error = -ENOMEM;

    if (value && members && json_object_update(value, members) == 0)
        text = json_dumps(value, JSON_COMPACT);
    if (text)
        error = http_reply_new(200, CONTROL_TYPE_JSON, text, strlen(text), no_store, ret_reply);
    free(text);
    json_decref(members);
    json_decref(value);
    return error;
}

static void answer_error(struct control *control, struct http_request *request, int error)
{
    if (error == -ENOMEM)
        control_answer_no_memory(control, request);
    else
        control_answer_problem(control, request, &problem_database, "%s; ask again later",
                               strerror(-error));
}

/* Keeps the reply for the other polls of this pass that ask the same. */
static void share(struct control *control, const struct query *query, struct http_reply *reply)
{
    struct control_poll_pass *pass = control->pass;

    if (!pass) {
        http_reply_free(reply);
        return;
    }
    http_reply_free(pass->reply);
    pass->reply = reply;
    pass->after = query->after;
    pass->limit = (unsigned)query->limit;
    pass->raw = query->raw == 1;
}

static void answer_rows(struct control *control, struct http_request *request,
                        const struct query *query, json_t *events, const struct outbox_state *state)
{
    struct http_reply *reply = NULL;
    bool any = json_array_size(events) > 0;

    if (reply_new(query, events, state, &reply) < 0) {
        control_answer_no_memory(control, request);
        return;
    }
    http_request_answer(request, reply);
    if (any)
        share(control, query, reply);
    else
        http_reply_free(reply);
}

/* Answers where there is something to say: rows, or an error. Returns false where there is nothing
 * after the cursor, unless must is set. */
static bool answer_found(struct control *control, struct http_request *request,
                         const struct query *query, bool must)
{
    struct outbox_state state;
    struct found found;
    int error = find(control, query, &found, &state);

    if (error < 0) {
        answer_error(control, request, error);
        return true;
    }
    bool pruned = query->after < state.pruned_through;
    bool beyond = query->after > state.last_id;
    if (json_array_size(found.events) == 0 && !pruned && !beyond && !must) {
        json_decref(found.events);
        return false;
    }
    if (found.last_id > state.last_id) /* committed in between */
        state.last_id = found.last_id;
    if (pruned || beyond) {
        json_decref(found.events);
        control_answer_problem_with(
            control, request, pruned ? &problem_pruned : &problem_cursor, state_json(&state),
            pruned ? "rows up to %" PRId64 " are gone; go on from there"
                   : "the last row is %" PRId64 "; is this still the same database?",
            pruned ? state.pruned_through : state.last_id);
        return true;
    }
    answer_rows(control, request, query, found.events, &state);
    return true;
}

/* ---- waiting ---- */

void control_events_begin_pass(struct control *control, struct control_poll_pass *pass)
{
    memset(pass, 0, sizeof *pass);
    control->pass = pass;
}

void control_events_end_pass(struct control *control)
{
    http_reply_free(control->pass->reply);
    control->pass = NULL;
}

void control_committed(struct control *control)
{
    if (atomic_load(&control->polls) > 0 && control->settings.loop)
        http_loop_wake(control->settings.loop);
}

/* Whether there is any row that the poll has not looked at. */
static bool has_news(struct control *control, const struct poll *poll)
{
    struct control_poll_pass *pass = control->pass;
    struct outbox_state state;

    if (!pass->state_read) {
        if (outbox_reader_state(control->settings.reader, &state) < 0)
            return true; /* which the search finds too, and explains */
        pass->state_read = true;
        pass->last_id = state.last_id;
    }
    return pass->last_id > poll->seen_id;
}

static bool answered_by_share(struct control *control, const struct poll *poll)
{
    const struct control_poll_pass *pass = control->pass;
    const struct query *query = &poll->query;

    if (!pass->reply || pass->after != query->after || pass->limit != (unsigned)query->limit ||
        pass->raw != (query->raw == 1))
        return false;
    http_request_answer(poll->waiting.request, pass->reply);
    return true;
}

static bool look_at_poll(struct control *control, struct control_waiting *waiting, int64_t now_ms,
                         bool draining)
{
    struct poll *poll = (struct poll *)waiting;
    bool must = draining || now_ms >= poll->deadline_ms;

    if (answered_by_share(control, poll))
        return true;
    if (!must && !has_news(control, poll))
        return false;
    if (answer_found(control, waiting->request, &poll->query, must))
        return true;
    poll->seen_id = control->pass->last_id; /* not for the view */
    return false;
}

void control_events_seek(struct control *control, const char *consumer, int64_t position)
{
    for (struct control_waiting *waiting = control->waiting; waiting; waiting = waiting->next) {
        struct poll *poll = (struct poll *)waiting;

        if (waiting->look == look_at_poll && strcmp(poll->query.consumer, consumer) == 0)
            poll->query.after = poll->seen_id = position;
    }
}

static void forget_poll(struct control_waiting *waiting)
{
    struct poll *poll = (struct poll *)waiting;

    atomic_fetch_sub(&poll->control->polls, 1);
    free(poll);
}

/* Nobody who waits is ended for another: the two would only take turns, as fast as they can. */
static void refuse_to_wait(struct control *control, struct http_request *request,
                           const struct query *query)
{
    if (!answer_found(control, request, query, false))
        control_answer_problem(control, request, &problem_crowd,
                               "there is no row after %" PRId64 " so far, and %d wait for one; ask "
                               "again later, or without wait",
                               query->after, CONTROL_POLLS_MAX);
}

static void wait_for_rows(struct control *control, struct http_request *request,
                          const struct query *query)
{
    struct poll *poll;

    if (atomic_load(&control->polls) >= CONTROL_POLLS_MAX) {
        refuse_to_wait(control, request, query);
        return;
    }
    poll = calloc(1, sizeof *poll);
    if (!poll) {
        control_answer_no_memory(control, request);
        return;
    }
    poll->control = control;
    poll->query = *query;
    poll->seen_id = query->after;
    poll->deadline_ms = clock_monotonic_ms() + 1000 * query->wait_s;
    poll->waiting =
        (struct control_waiting){.request = request, .look = look_at_poll, .forget = forget_poll};
    /* From here on a commit wakes the loop; one that came before is found now. */
    atomic_fetch_add(&control->polls, 1);
    if (answer_found(control, request, query, false))
        forget_poll(&poll->waiting);
    else
        control_wait(control, &poll->waiting);
}

/* Puts the cursor into the query where it is not given; answers and returns false where there is
 * none. */
static bool find_cursor(struct control *control, struct http_request *request, struct query *query)
{
    struct outbox_state state;
    int error;

    if (query->consumer[0] != '\0') {
        error = consumers_position(control->settings.consumers, control->settings.reader,
                                   query->consumer, &query->after);
    } else {
        error = outbox_reader_state(control->settings.reader, &state);
        if (error == 0)
            query->after = state.pruned_through; /* from the oldest there is */
    }
    if (error == -ENOENT)
        control_answer_no_consumer(control, request, query->consumer);
    else if (error < 0)
        answer_error(control, request, error);
    return error == 0;
}

void control_get_events(struct control *control, struct http_request *request)
{
    struct query query;

    if (!read_query(control, request, &query))
        return;
    if (query.after < 0 && !find_cursor(control, request, &query))
        return;
    if (query.wait_s > 0 && !health_draining(control->settings.health))
        wait_for_rows(control, request, &query);
    else
        (void)answer_found(control, request, &query, true);
}
