/*
 * events: shows the outbox, and goes on showing what is committed.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/moment.h"
#include "consume.h"
#include "dispatcher/outbox.h"
#include "listener/event_json.h"
#include "support/config.h"
#include "support/log.h"

#define EVENTS_BATCH_ROWS 500 /* read in one transaction, then printed */
#define EVENTS_BATCH_RAW  32  /* with --raw: at most 2 MiB */
#define EVENTS_POLL_MS    200 /* with --follow; a look costs 4 microseconds */
#define EVENTS_CELL_BYTES (4 * LOG_VALUE_MAX_BYTES + 8)

/* What is shown, and how far. */
struct listing {
    struct outbox_reader *reader;
    const char *consumer, *command; /* NULL where not given */
    int64_t after;                  /* the cursor: as given, then the last id that was shown */
    int64_t batch_after;            /* the cursor at the begin of the batch under way */
    int64_t left;                   /* of --limit; negative for no limit */
    int64_t raw_id;                 /* of the last body that was shown */
    bool json, follow, raw;
    bool incomplete; /* a body was removed */
    struct cli_page page;
    int error; /* -errno */
    bool explained;
};

static const char events_name[] = "events";

static const char events_about[] =
    "Shows the events in the outbox in the order of their commits. The output holds\n"
    "personal data. It only reads; who may read the database may run it.\n"
    "\n"
    "--follow goes on with every event as it is committed, until it is interrupted or\n"
    "nobody reads its output any more. --json writes each event as one line at once.\n"
    "\n"
    "--consumer NAME shows what the consumer has not acknowledged yet. It asks the\n"
    "running daemon: who may open the control socket may run it.\n"
    "\n"
    "--exec COMMAND runs `sh -c COMMAND` for one event after the other, with the event\n"
    "as a line of JSON on its standard input and its id in SIWA_EVENT_ID. What exits 0\n"
    "is acknowledged for the consumer; else it is run again for the same event, after\n"
    "1 s, 2 s and so on up to 5 minutes. Each event is given at least once, in order,\n"
    "also across restarts. When told to stop, the command under way is waited for.\n"
    "\n"
    "--raw gives the body of each notification as Apple sent it, byte for byte and once,\n"
    "however many events it holds. With --exec 'curl …' a second receiver is fed:\n"
    "\n"
    "  --follow --consumer staging --raw --exec 'curl -sS --fail-with-body \\\n"
    "      -H \"Content-Type: application/json\" --data-binary @- URL'\n"
    "\n"
    "Exit status: 0, 1 when something failed, 2 for a wrong command line.";

static volatile sig_atomic_t events_stop;

static void on_stop(int number)
{
    (void)number;
    events_stop = 1;
}

/* A value for a terminal: foreign text must not steer it. */
static const char *cell(const char *text, char ret_cell[EVENTS_CELL_BYTES])
{
    if (!text)
        return "-";
    (void)log_escape(text, strlen(text), ret_cell, EVENTS_CELL_BYTES);
    return ret_cell;
}

static int print_line(FILE *stream, const struct outbox_row *row)
{
    char type[EVENTS_CELL_BYTES], app[EVENTS_CELL_BYTES], sub[EVENTS_CELL_BYTES];
    char email[EVENTS_CELL_BYTES], time[MOMENT_TEXT_BYTES];

    moment_text(row->event_time_ms, time);
    return fprintf(stream, "%8lld  %-20s  %-15s  %-24s  %-44s  %s\n", (long long)row->id, time,
                   cell(row->type, type), cell(row->app ? row->app : row->client_id, app),
                   cell(row->sub, sub), cell(row->email, email)) < 0
               ? -errno
               : 0;
}

/* A body and a line break after it, which it has none of in itself: Apple sends none. */
static int print_body(FILE *stream, const char *body, size_t bytes)
{
    return fwrite(body, 1, bytes, stream) == bytes && putc('\n', stream) != EOF ? 0 : -errno;
}

/* The body that an event came in, unless the event before came in the same. */
static int print_raw(struct listing *listing, int64_t id)
{
    char *body = NULL;
    size_t bytes = 0;
    int64_t raw_id = 0;
    int error = outbox_reader_raw(listing->reader, id, &raw_id, &body, &bytes);

    if (error < 0 || raw_id == listing->raw_id)
        goto end;
    listing->raw_id = raw_id;
    if (body) {
        error = print_body(listing->page.stream, body, bytes);
    } else {
        cli_error(events_name, "event %lld: its body was removed", (long long)id);
        listing->incomplete = true;
    }
end:
    free(body);
    return error;
}

static int print_row(struct listing *listing, const struct outbox_row *row)
{
    if (listing->raw)
        return print_raw(listing, row->id);
    return listing->json ? cli_write_json(listing->page.stream, event_json(row))
                         : print_line(listing->page.stream, row);
}

/* Rows that are gone must not be passed over in silence. Within on_row, the state is of the same
 * moment as the rows. Without a cursor the oldest row there is comes first. 0 or -errno, explained.
 */
static int require_unpruned(const struct listing *listing)
{
    struct outbox_state state;
    int error;

    if (listing->after < 0)
        return 0;
    error = outbox_reader_state(listing->reader, &state);
    if (error < 0)
        cli_error(events_name, "the outbox cannot be read: %s", strerror(-error));
    if (error < 0 || state.pruned_through <= listing->after)
        return error;
    cli_error(events_name,
              "rows above %lld were removed: rows up to %lld are gone; go on from there",
              (long long)listing->after, (long long)state.pruned_through);
    return -ESTALE;
}

static bool on_row(void *context, const struct outbox_row *row)
{
    struct listing *listing = context;

    if (listing->after == listing->batch_after)
        listing->error = require_unpruned(listing);
    listing->explained = listing->error < 0;
    if (listing->error < 0)
        return false;
    errno = 0;
    listing->error = print_row(listing, row);
    if (listing->error < 0)
        return false;
    listing->after = row->id;
    if (listing->left > 0)
        listing->left--;
    return !events_stop;
}

/* Shows so many rows at the most. Their number, or -errno. */
static int show_batch(struct listing *listing, unsigned wanted)
{
    int error = cli_page_begin(&listing->page);

    if (error < 0)
        return error;
    listing->batch_after = listing->after;
    int shown = outbox_reader_rows(listing->reader, listing->after, wanted, on_row, listing);
    if (shown == 0) {
        listing->error = require_unpruned(listing);
        listing->explained = listing->error < 0;
    }
    error = cli_page_end(&listing->page); /* also of what came before an error */
    if (error < 0 && listing->error == 0) {
        listing->error = error;
        listing->explained = error != -ENOMEM; /* by who flushes it in the end */
    }
    return listing->error < 0 ? listing->error : shown;
}

/* Shows all rows that there are now. 0 or -errno. */
static int show_rows(struct listing *listing)
{
    const unsigned most = listing->raw ? EVENTS_BATCH_RAW : EVENTS_BATCH_ROWS;

    for (;;) {
        unsigned wanted = most;
        if (listing->left >= 0 && listing->left < most)
            wanted = (unsigned)listing->left;
        if (wanted == 0 || events_stop)
            return 0;
        int shown = show_batch(listing, wanted);
        if (shown < 0)
            return shown;
        if ((unsigned)shown < wanted)
            return 0;
    }
}

/* Waits until it is worth looking again; false when it is time to end. A reader of our output that
 * went away is noticed here too, although there is nothing to write. */
static bool wait_a_moment(void)
{
    struct pollfd output = {.fd = STDOUT_FILENO, .events = 0};

    /* A signal just before is noticed after EVENTS_POLL_MS. */
    if (poll(&output, 1, EVENTS_POLL_MS) < 0 && errno != EINTR)
        return false;
    return !events_stop && !(output.revents & (POLLERR | POLLNVAL));
}

/* Without SA_RESTART: also a write that nobody reads must end. */
static void catch_stop(void)
{
    struct sigaction action = {.sa_handler = on_stop};

    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static int follow(struct listing *listing)
{
    /* Read before the rows: a commit between the two is looked for once more than needed, never
     * missed. */
    int64_t seen = outbox_reader_data_version(listing->reader);

    catch_stop();
    while (seen >= 0) {
        int error = show_rows(listing);
        if (error < 0 || listing->left == 0)
            return error;
        int64_t version = seen;
        while (version == seen) {
            if (!wait_a_moment())
                return 0;
            version = outbox_reader_data_version(listing->reader);
        }
        seen = version;
    }
    if (seen == -ESTALE) {
        cli_error(events_name, "the database was moved or replaced, as a restore does; nothing "
                               "more will come from this one: begin again");
        listing->explained = true;
    }
    return (int)seen;
}

static void print_head(const struct listing *listing)
{
    if (!listing->json && !listing->raw)
        (void)printf("%8s  %-20s  %-15s  %-24s  %-44s  %s\n", "ID", "EVENT TIME", "TYPE", "APP",
                     "SUB", "EMAIL");
}

/* The exit code after an error, which is told of here unless explained is set. */
static int end_of(const struct listing *listing, int error, bool explained)
{
    if (error == -EPIPE || (error < 0 && events_stop)) {
        /* Whoever read has had enough, or we were told to end: no failure, and nothing to flush. */
        __fpurge(stdout);
        clearerr(stdout);
        return CLI_OK;
    }
    if (error < 0 && !explained)
        cli_error(events_name, "the outbox cannot be read: %s", strerror(-error));
    return error < 0 || listing->incomplete ? CLI_REFUSED : CLI_OK;
}

static int show(struct listing *listing)
{
    print_head(listing);
    int error = listing->follow ? follow(listing) : show_rows(listing);
    return end_of(listing, error, listing->explained);
}

/* ---- a consumer's ---- */

static const char *text_of(const json_t *event, const char *name)
{
    return json_string_value(json_object_get(event, name));
}

/* What print_line shows of an event; borrowed. */
static struct outbox_row row_of(const json_t *event)
{
    const json_t *time = json_object_get(event, "event_time_ms");

    return (struct outbox_row){.id = json_integer_value(json_object_get(event, "id")),
                               .type = text_of(event, "type"),
                               .client_id = text_of(event, "client_id"),
                               .app = text_of(event, "app"),
                               .sub = text_of(event, "sub"),
                               .email = text_of(event, "email"),
                               .event_time_ms =
                                   json_is_integer(time) ? json_integer_value(time) : -1};
}

static int show_event(void *context, const json_t *event)
{
    struct listing *listing = context;
    const json_t *raw = json_object_get(event, "raw");
    struct outbox_row row = row_of(event);
    int error;

    listing->error = cli_page_begin(&listing->page);
    if (listing->error < 0)
        return listing->error;
    errno = 0;
    if (listing->raw)
        listing->error =
            print_body(listing->page.stream, json_string_value(raw), json_string_length(raw));
    else
        listing->error = listing->json ? cli_write_json(listing->page.stream, json_deep_copy(event))
                                       : print_line(listing->page.stream, &row);
    error = cli_page_end(&listing->page);
    if (listing->error == 0)
        listing->error = error;
    return listing->error;
}

static int show_consumer(struct listing *listing, const struct config *config)
{
    struct consume consume = {.config = config,
                              .consumer = listing->consumer,
                              .command = listing->command,
                              .raw = listing->raw,
                              .follow = listing->follow,
                              .left = listing->left,
                              .stop = &events_stop,
                              .show = show_event,
                              .context = listing};

    catch_stop();
    if (!listing->command)
        print_head(listing);
    return end_of(listing, consume_run(&consume), true);
}

static int events(const char *config_file, struct listing *listing)
{
    char why[OUTBOX_WHY_BYTES];
    struct config *config = NULL;

    int code = cli_load_config(events_name, config_file, &config);
    if (code != CLI_OK)
        return code;
    if (listing->consumer) {
        code = show_consumer(listing, config);
        config_free(config);
        return code;
    }
    int error = outbox_reader_open(config->database, &listing->reader, why);
    config_free(config);
    if (error < 0) {
        cli_error(events_name, "%s", why);
        return CLI_REFUSED;
    }
    code = show(listing);
    outbox_reader_close(listing->reader);
    return code;
}

/* Whether the options can stand together; explains where they cannot. */
static bool options_fit(const struct listing *listing)
{
    const char *wrong = NULL;

    if (listing->raw && listing->json)
        wrong = "--raw and --json exclude each other";
    else if (listing->command && !listing->consumer)
        wrong = "--exec acknowledges: it needs --consumer NAME";
    else if (listing->command && listing->command[strspn(listing->command, " \t\n")] == '\0')
        wrong = "--exec takes a command: an empty one would acknowledge everything";
    else if (listing->command && listing->json)
        wrong = "--exec gives JSON anyway: leave out --json";
    else if (listing->consumer && listing->after >= 0)
        wrong = "a consumer has a position of its own: leave out --after";
    if (wrong)
        cli_error(events_name, "%s", wrong);
    return !wrong && (!listing->consumer || consume_name_good(events_name, listing->consumer));
}

int cli_events(int argc, char **argv)
{
    struct listing listing = {.after = -1, .left = -1};
    const char *config_file = CONFIG_DEFAULT_FILE;
    const struct cli_option options[] = {
        cli_number("after", "ID", "only events after this one (default: all)", &listing.after, 0,
                   INT64_MAX),
        cli_text("consumer", "NAME", "what this consumer has not acknowledged", &listing.consumer),
        cli_text("exec", "COMMAND", "run it for each event, and acknowledge what exits 0",
                 &listing.command),
        cli_flag("raw", "the bodies as Apple sent them", &listing.raw),
        cli_number("limit", "N", "at most this many (default all)", &listing.left, 1, INT64_MAX),
        cli_flag("follow", "go on with what is committed from now on", &listing.follow),
        cli_config_option(&config_file),
        cli_json_option(&listing.json),
        {.name = NULL}};
    const struct cli_usage usage = {
        .name = events_name, .operands = "", .about = events_about, .options = options};
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    if (!options_fit(&listing))
        return CLI_USAGE;
    return events(config_file, &listing);
}
