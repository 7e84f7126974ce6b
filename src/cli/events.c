/*
 * events: shows the outbox, and goes on showing what is committed.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "listener/event_json.h"
#include "cli/moment.h"
#include "dispatcher/outbox.h"
#include "support/config.h"
#include "support/log.h"

#define EVENTS_BATCH_ROWS 500
#define EVENTS_POLL_MS    200 /* with --follow; a look costs 4 microseconds */
#define EVENTS_CELL_BYTES (4 * LOG_VALUE_MAX_BYTES + 8)

/* What is shown, and how far. */
struct listing {
    struct outbox_reader *reader;
    int64_t after; /* the last id that was shown */
    int64_t left;  /* of --limit; negative for no limit */
    bool json, follow;
    int error; /* -errno of writing */
};

static const char events_name[] = "events";

static const char events_about[] =
    "Shows the events in the outbox in the order of their commits. It only reads; who\n"
    "may read the database may run it. The output holds personal data.\n"
    "\n"
    "--follow goes on with every event as it is committed, until it is interrupted or\n"
    "nobody reads its output any more.\n"
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

static int print_line(const struct outbox_row *row)
{
    char type[EVENTS_CELL_BYTES], app[EVENTS_CELL_BYTES], sub[EVENTS_CELL_BYTES];
    char email[EVENTS_CELL_BYTES], time[MOMENT_TEXT_BYTES];

    moment_text(row->event_time_ms, time);
    return printf("%8lld  %-20s  %-15s  %-24s  %-44s  %s\n", (long long)row->id, time,
                  cell(row->type, type), cell(row->app ? row->app : row->client_id, app),
                  cell(row->sub, sub), cell(row->email, email)) < 0
               ? -errno
               : 0;
}

static bool on_row(void *context, const struct outbox_row *row)
{
    struct listing *listing = context;

    errno = 0;
    listing->error = listing->json ? cli_print_json(event_json(row)) : print_line(row);
    if (listing->error < 0)
        return false;
    listing->after = row->id;
    if (listing->left > 0)
        listing->left--;
    return !events_stop;
}

/* Shows all rows that there are now. 0 or -errno. */
static int show_rows(struct listing *listing)
{
    for (;;) {
        unsigned wanted = EVENTS_BATCH_ROWS;
        if (listing->left >= 0 && listing->left < EVENTS_BATCH_ROWS)
            wanted = (unsigned)listing->left;
        if (wanted == 0 || events_stop)
            break;
        int shown = outbox_reader_rows(listing->reader, listing->after, wanted, on_row, listing);
        if (listing->error < 0)
            return listing->error;
        if (shown < 0)
            return shown;
        if ((unsigned)shown < wanted)
            break;
    }
    return fflush(stdout) == 0 ? 0 : -errno;
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
    return (int)seen;
}

static int show(struct listing *listing)
{
    if (!listing->json)
        (void)printf("%8s  %-20s  %-15s  %-24s  %-44s  %s\n", "ID", "EVENT TIME", "TYPE", "APP",
                     "SUB", "EMAIL");
    int error = listing->follow ? follow(listing) : show_rows(listing);
    if (error == -EPIPE || (error < 0 && events_stop)) {
        /* Whoever read has had enough, or we were told to end: no failure, and nothing to flush. */
        __fpurge(stdout);
        clearerr(stdout);
        return CLI_OK;
    }
    if (error < 0 && listing->error == 0)
        cli_error(events_name, "the outbox cannot be read: %s", strerror(-error));
    return error < 0 ? CLI_REFUSED : CLI_OK;
}

static int events(const char *config_file, struct listing *listing)
{
    char why[OUTBOX_WHY_BYTES];
    struct config *config = NULL;

    int code = cli_load_config(events_name, config_file, &config);
    if (code != CLI_OK)
        return code;
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

int cli_events(int argc, char **argv)
{
    struct listing listing = {.left = -1};
    const char *config_file = CONFIG_DEFAULT_FILE;
    const struct cli_option options[] = {
        cli_number("after", "ID", "only events after this one (default 0)", &listing.after, 0,
                   INT64_MAX),
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
    return events(config_file, &listing);
}
