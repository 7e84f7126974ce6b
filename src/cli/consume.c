#include "consume.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/daemon.h"
#include "dispatcher/consumers.h"

#define PAGE_EVENTS       50
#define POLL_WAIT_S       25
#define BACKOFF_MS        1000
#define COMMAND_MOST_MS   300000 /* between two runs for one event */
#define DAEMON_MOST_MS    15000  /* between two tries to reach it */
#define SLEEP_PIECE_MS    200
#define EVENT_ID_VARIABLE "SIWA_EVENT_ID"

static const char events_name[] = "events";

/* How long to wait before the next of several failures. */
struct backoff {
    unsigned wait_ms, most_ms;
};

static bool stopped(const struct consume *consume)
{
    return *consume->stop != 0;
}

/* Waits, longer each time; in pieces, since a signal that comes just before is not noticed. */
static void back_off(const struct consume *consume, struct backoff *backoff)
{
    unsigned wait_ms = backoff->wait_ms;

    for (unsigned waited_ms = 0; waited_ms < wait_ms && !stopped(consume);
         waited_ms += SLEEP_PIECE_MS)
        (void)poll(NULL, 0, SLEEP_PIECE_MS);
    backoff->wait_ms = wait_ms < backoff->most_ms / 2 ? 2 * wait_ms : backoff->most_ms;
}

static int64_t number(const json_t *event, const char *name)
{
    return json_integer_value(json_object_get(event, name));
}

/* ---- asking the daemon ---- */

/* Whether asking again later may help: the daemon is away, or says so itself. */
static bool may_pass(int error, unsigned status)
{
    return error == -ENOENT || error == -ETIMEDOUT || error == -EPROTO || error == -EIO ||
           (error == -EREMOTEIO && status >= 500);
}

/* Asks until there is an answer; where patient is not set, once. 0; -ECANCELED when it is time to
 * stop; else -EREMOTEIO, with the status, after an explanation. */
static int ask(const struct consume *consume, const struct daemon_request *request, bool patient,
               json_t **ret_answer, unsigned *ret_status)
{
    struct backoff backoff = {.wait_ms = BACKOFF_MS, .most_ms = DAEMON_MOST_MS};
    char why[DAEMON_WHY_BYTES];

    for (bool told = false;; told = true) {
        int error = daemon_ask(request, ret_answer, ret_status, why);

        if (error == 0)
            return 0;
        if (stopped(consume))
            return -ECANCELED;
        if (!patient || !may_pass(error, *ret_status)) {
            cli_error(events_name, "%s%s", error == -ENOENT ? "the daemon is not running: " : "",
                      why);
            return -EREMOTEIO;
        }
        if (!told)
            cli_error(events_name, "%s; trying again until it answers", why);
        back_off(consume, &backoff);
    }
}

/* The events after a cursor; after < 0: after the position of the consumer. */
static int fetch(const struct consume *consume, int64_t after, json_t **ret_page)
{
    char path[256], cursor[64];
    unsigned wait_s = consume->follow ? POLL_WAIT_S : 0, status;
    const struct daemon_request request = {.config = consume->config,
                                           .path = path,
                                           .timeout_ms = 1000 * wait_s + DAEMON_CALL_MS,
                                           .stop = consume->stop};

    if (after < 0)
        (void)snprintf(cursor, sizeof cursor, "consumer=%.32s", consume->consumer);
    else
        (void)snprintf(cursor, sizeof cursor, "after=%lld", (long long)after);
    (void)snprintf(path, sizeof path, "/v1/events?%s&limit=%d&wait=%u&raw=%d", cursor, PAGE_EVENTS,
                   wait_s, consume->raw);
    return ask(consume, &request, consume->follow, ret_page, &status);
}

/* Without heed of a stop: what the command has done is to be remembered. ret_moved is set where the
 * position is not from, as after a seek: then nothing is acknowledged. */
static int acknowledge(const struct consume *consume, int64_t from, int64_t id, bool *ret_moved)
{
    char path[64];
    json_t *answer = NULL;
    json_t *body = json_pack("{s:I,s:I}", "from", (json_int_t)from, "through", (json_int_t)id);
    const struct daemon_request request = {
        .config = consume->config, .path = path, .body = body, .timeout_ms = DAEMON_CALL_MS};
    unsigned status = 0;

    (void)snprintf(path, sizeof path, "/v1/consumers/%.32s/ack", consume->consumer);
    int error = body ? ask(consume, &request, true, &answer, &status) : -ENOMEM;
    json_decref(body);
    json_decref(answer);
    if (error == -ECANCELED)
        cli_error(events_name, "event %lld: done, and not acknowledged; it comes again",
                  (long long)id);
    if (error != -EREMOTEIO || status != 409)
        return error;
    cli_error(events_name, "somebody else moves %s as well; going on from its position",
              consume->consumer);
    *ret_moved = true;
    return 0;
}

/* ---- the command ---- */

static void exec_command(const char *command, int input)
{
    (void)setpgid(0, 0); /* so that ^C lets it finish */
    (void)signal(SIGPIPE, SIG_DFL);
    if (dup2(input, STDIN_FILENO) == STDIN_FILENO)
        (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* A command that does not read it all is no error of ours. */
static void write_all(int fd, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t written = write(fd, bytes, count);

        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return;
        bytes += written;
        count -= (size_t)written;
    }
}

/* Runs the command once. 0 with what waitpid gave, or -errno. */
static int run_once(const char *command, const char *input, size_t input_bytes, int *ret_status)
{
    int ends[2];
    pid_t child, ended;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    child = fork();
    if (child == 0)
        exec_command(command, ends[0]);
    int error = child < 0 ? -errno : 0;
    (void)close(ends[0]);
    if (error == 0)
        write_all(ends[1], input, input_bytes);
    (void)close(ends[1]);
    if (error < 0)
        return error;
    do {
        ended = waitpid(child, ret_status, 0);
    } while (ended < 0 && errno == EINTR);
    return ended < 0 ? -errno : 0;
}

static void explain_failure(int64_t id, int error, int status, unsigned again_ms)
{
    char what[64];

    if (error < 0)
        (void)snprintf(what, sizeof what, "cannot be run: %s", strerror(-error));
    else if (WIFSIGNALED(status))
        (void)snprintf(what, sizeof what, "was ended by signal %d", WTERMSIG(status));
    else
        (void)snprintf(what, sizeof what, "ended with %d", WEXITSTATUS(status));
    cli_error(events_name, "event %lld: the command %s; again in %u s", (long long)id, what,
              again_ms / 1000);
}

/* Runs the command until it exits 0; -ECANCELED when it is time to stop before. */
static int run_command(const struct consume *consume, int64_t id, const char *input,
                       size_t input_bytes)
{
    struct backoff backoff = {.wait_ms = BACKOFF_MS, .most_ms = COMMAND_MOST_MS};
    char number_text[24];

    (void)snprintf(number_text, sizeof number_text, "%lld", (long long)id);
    if (setenv(EVENT_ID_VARIABLE, number_text, 1) < 0)
        return -errno;
    for (;;) {
        int status = 0;
        int error = run_once(consume->command, input, input_bytes, &status);

        if (error == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
            return 0;
        explain_failure(id, error, status, backoff.wait_ms);
        back_off(consume, &backoff);
        if (stopped(consume))
            return -ECANCELED;
    }
}

static int run_for_event(const struct consume *consume, const json_t *event)
{
    const json_t *raw = json_object_get(event, "raw");
    size_t bytes;
    char *text;
    int error;

    if (consume->raw)
        return run_command(consume, number(event, "id"), json_string_value(raw),
                           json_string_length(raw));
    text = json_dumps(event, JSON_COMPACT);
    if (!text)
        return -ENOMEM;
    bytes = strlen(text);
    text[bytes] = '\n'; /* in place of its NUL: a whole line, for `read` and for what appends it */
    error = run_command(consume, number(event, "id"), text, bytes + 1);
    free(text);
    return error;
}

/* ---- one event after the other ---- */

/* Where one is in the stream. */
struct place {
    int64_t after;    /* the last event that was shown; with a command the daemon knows */
    int64_t position; /* of the consumer, as far as is known */
    int64_t raw_id;   /* of the last body that was given */
    bool moved;       /* somebody else moved the consumer */
};

/* Nothing of the person is left. An event that came without a sub has its jti still. */
static bool is_erased(const json_t *event)
{
    return json_is_null(json_object_get(event, "sub")) &&
           json_is_null(json_object_get(event, "jti"));
}

/* Whether there is a body to give. Without one, an event of a person who was erased is passed over,
 * since nothing of it is left; any other is not, and ret_error is set. */
static bool has_body(const struct consume *consume, const json_t *event, int *ret_error)
{
    long long id = (long long)number(event, "id");

    if (json_is_string(json_object_get(event, "raw")))
        return true;
    if (is_erased(event)) {
        cli_error(events_name, "event %lld: erased; passed over", id);
        return false;
    }
    cli_error(
        events_name,
        "event %lld: its body was removed, by `retain` or with what it said of somebody who was "
        "erased; to pass over it: siwa-notifyd seek --consumer %s --to %lld",
        id, consume->consumer, id);
    *ret_error = -EREMOTEIO;
    return false;
}

/* Whether an event came in the last body that was given, with an event before it: after a seek back
 * that is asked for once more. */
static bool was_given(const struct consume *consume, const struct place *place, const json_t *event)
{
    return consume->raw && number(event, "raw_id") == place->raw_id &&
           number(event, "id") > place->after;
}

/* Gives one event, unless the last body that was given is its own. */
static int give(struct consume *consume, struct place *place, const json_t *event)
{
    int error = 0;

    if (was_given(consume, place, event))
        return 0;
    if (consume->raw) {
        if (!has_body(consume, event, &error))
            return error;
        place->raw_id = number(event, "raw_id");
    }
    error =
        consume->command ? run_for_event(consume, event) : consume->show(consume->context, event);
    if (error == 0 && consume->left > 0)
        consume->left--;
    if (error < 0)
        place->raw_id = 0;
    return error;
}

/* Whether the next event on the page came in the same body, and is acknowledged with it. */
static bool goes_on(const struct consume *consume, const json_t *page, size_t index)
{
    const json_t *next = json_array_get(page, index + 1);

    return consume->raw && next &&
           number(next, "raw_id") == number(json_array_get(page, index), "raw_id");
}

static bool is_over(const struct consume *consume)
{
    return consume->left == 0 || stopped(consume);
}

static int give_page(struct consume *consume, struct place *place, const json_t *page)
{
    for (size_t i = 0; i < json_array_size(page); i++) {
        const json_t *event = json_array_get(page, i);
        int error;

        /* not within a body: what the command has done is acknowledged with its last event */
        if (is_over(consume) && !was_given(consume, place, event))
            return 0;
        error = give(consume, place, event);
        if (error < 0)
            return error;
        place->after = number(event, "id");
        if (!consume->command || goes_on(consume, page, i))
            continue;
        error = acknowledge(consume, place->position, place->after, &place->moved);
        if (error < 0 || place->moved)
            return error;
        place->position = place->after;
    }
    return 0;
}

/* One page. ret_more tells whether there may be another. */
static int turn(struct consume *consume, struct place *place, bool *ret_more)
{
    json_t *answer = NULL;
    int error = fetch(consume, consume->command ? -1 : place->after, &answer);

    if (error < 0)
        return error;
    const json_t *page = json_object_get(answer, "events");
    place->moved = false;
    place->position = number(answer, "after");
    error = give_page(consume, place, page);
    *ret_more = consume->follow || json_array_size(page) > 0;
    json_decref(answer);
    return error;
}

bool consume_name_good(const char *command, const char *name)
{
    size_t bytes = strlen(name);

    if (bytes > 0 && bytes < CONSUMER_NAME_BYTES &&
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == bytes)
        return true;
    cli_error(
        command,
        "--consumer: no consumer has the name '%s': it is 1 to 32 small letters, digits and -",
        name);
    return false;
}

int consume_run(struct consume *consume)
{
    struct place place = {.after = -1};
    bool more = true;
    int error = 0;

    while (error == 0 && more && !is_over(consume))
        error = turn(consume, &place, &more);
    return error == -ECANCELED ? 0 : error;
}
