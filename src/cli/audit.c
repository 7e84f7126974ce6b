/*
 * audit: what became of each account-delete and consent-revoked.
 */
#include <errno.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/moment.h"
#include "dispatcher/audit.h"
#include "support/config.h"

static const char audit_name[] = "audit";

static const char audit_about[] =
    "Tells of each account-delete and consent-revoked when Apple signed it, when it was\n"
    "committed, when each consumer acknowledged it, and when it was erased and removed.\n"
    "No personal data: a person is a keyed hash, the same for all events of one person\n"
    "and team. Whether the daemon runs or not; who may read the database may run it.\n"
    "With --json one object a line.\n"
    "\n"
    "Exit status: 0, 1 when something failed, 2 for a wrong command line.";

struct printing {
    bool json;
    struct cli_page page;
    int error;
};

/* A time, or null for never. */
static json_t *time_json(int64_t time_ms)
{
    return time_ms > 0 ? json_integer(time_ms) : json_null();
}

static json_t *acks_json(const struct audit_row *row)
{
    json_t *acks = json_object();

    for (size_t i = 0; acks && i < row->ack_count; i++)
        if (json_object_set_new(acks, row->acks[i].consumer,
                                json_integer(row->acks[i].acknowledged_ms)) != 0) {
            json_decref(acks);
            return NULL;
        }
    return acks;
}

static json_t *row_json(const struct audit_row *row)
{
    return json_pack("{s:I,s:s,s:s,s:s,s:s,s:o,s:I,s:I,s:o,s:o,s:o}", "id", (json_int_t)row->id,
                     "type", row->type, "client_id", row->client_id, "app", row->app, "team",
                     row->team, "person", row->person[0] ? json_string(row->person) : json_null(),
                     "signed_ms", (json_int_t)row->signed_ms, "committed_ms",
                     (json_int_t)row->committed_ms, "acknowledged_ms", acks_json(row), "erased_ms",
                     time_json(row->erased_ms), "removed_ms", time_json(row->removed_ms));
}

static void print_time(FILE *stream, const char *what, int64_t time_ms)
{
    char text[MOMENT_TEXT_BYTES];

    if (time_ms <= 0)
        return;
    moment_text(time_ms, text);
    (void)fprintf(stream, "    %-22s %s\n", what, text);
}

/* A block for each event, as times with what they are of. */
static void print_row(FILE *stream, const struct audit_row *row)
{
    char what[64];

    (void)fprintf(stream, "%lld  %s  %s  person %s\n", (long long)row->id, row->type,
                  row->client_id, row->person[0] ? row->person : "-");
    print_time(stream, "signed by Apple", row->signed_ms);
    print_time(stream, "committed", row->committed_ms);
    for (size_t i = 0; i < row->ack_count; i++) {
        (void)snprintf(what, sizeof what, "done by %s", row->acks[i].consumer);
        print_time(stream, what, row->acks[i].acknowledged_ms);
    }
    print_time(stream, "erased", row->erased_ms);
    print_time(stream, "removed", row->removed_ms);
}

static bool on_row(void *context, const struct audit_row *row)
{
    struct printing *printing = context;

    if (!printing->page.stream)
        printing->error = cli_page_begin(&printing->page);
    if (printing->error < 0)
        return false;
    if (printing->json)
        printing->error = cli_write_json(printing->page.stream, row_json(row));
    else
        print_row(printing->page.stream, row);
    return printing->error == 0;
}

static int on_piece(void *context)
{
    struct printing *printing = context;

    return printing->page.stream ? cli_page_end(&printing->page) : 0;
}

static int run(const struct config *config, int64_t since_ms, bool json)
{
    struct printing printing = {.json = json};
    struct outbox_reader *reader = NULL;
    char why[OUTBOX_WHY_BYTES] = "";
    int error = outbox_reader_open(config->database, &reader, why);

    if (error == 0)
        error = audit_rows(reader, since_ms, on_row, on_piece, &printing);
    if (error == 0)
        error = printing.error;
    outbox_reader_close(reader);
    if (error == -EPIPE) { /* whoever read has had enough: no failure, and nothing to flush */
        __fpurge(stdout);
        clearerr(stdout);
        return CLI_OK;
    }
    if (error < 0)
        cli_error(audit_name, "%s", why[0] ? why : strerror(-error));
    return error < 0 ? CLI_REFUSED : CLI_OK;
}

int cli_audit(int argc, char **argv)
{
    const char *config_file = CONFIG_DEFAULT_FILE, *since = NULL;
    bool json = false;
    const struct cli_option options[] = {
        cli_config_option(&config_file),
        cli_text("since", "TIME", "only what was committed then or later: " MOMENT_FORMS, &since),
        cli_json_option(&json),
        {.name = NULL}};
    const struct cli_usage usage = {
        .name = audit_name, .operands = "", .about = audit_about, .options = options};
    struct config *config = NULL;
    int64_t since_s = 0;
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    if (since && moment_parse(since, &since_s) < 0) {
        cli_error(audit_name, "--since %s: no time; write " MOMENT_FORMS, since);
        return CLI_USAGE;
    }
    code = cli_load_config(audit_name, config_file, &config);
    if (code != CLI_OK)
        return code;
    code = run(config, since_s * 1000, json);
    config_free(config);
    return code;
}
