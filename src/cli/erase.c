#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/daemon.h"
#include "listener/control.h"
#include "support/config.h"
#include "verifier/notification.h"

#define CALL_MARGIN_MS 10000 /* beyond what the daemon was asked to wait */

static const char erase_name[] = "erase";

struct erase {
    const char *config_file, *team, *client_id;
    int64_t wait_s;
    bool json;
};

static void release_config(struct config **config)
{
    config_free(*config);
}

static void release_json(json_t **value)
{
    json_decref(*value);
}

/* Whether something stands around the text that a spreadsheet or an editor leaves there. */
static bool is_framed(const char *text, size_t bytes)
{
    return strchr(" \t", text[0]) || strchr(" \t", text[bytes - 1]) ||
           strncmp(text, "\xef\xbb\xbf", 3) == 0;
}

/* One line, without its end. */
static int read_sub(char **ret_sub)
{
    size_t bytes = 0;
    char *text = NULL;
    int error = cli_read_stdin(NOTIFICATION_CLAIM_MAX_BYTES + 2, &text, &bytes);

    if (error < 0) {
        cli_error(erase_name, "the sub on standard input: %s",
                  error == -EFBIG ? "longer than any that Apple gives" : strerror(-error));
        return error;
    }
    if (bytes > 0 && text[bytes - 1] == '\n')
        text[--bytes] = '\0';
    if (bytes > 0 && text[bytes - 1] == '\r')
        text[--bytes] = '\0';
    if (bytes == 0 || strlen(text) != bytes || strpbrk(text, "\r\n")) {
        cli_error(erase_name, "standard input must be the sub, on one line and nothing else");
        free(text);
        return -EINVAL;
    }
    /* else there is nobody of that name, and all seems to be done */
    if (is_framed(text, bytes)) {
        cli_error(erase_name, "the sub on standard input begins or ends with a blank or a byte "
                              "order mark, which is none of it: leave it out");
        free(text);
        return -EINVAL;
    }
    *ret_sub = text;
    return 0;
}

static json_t *body_of(const struct erase *erase)
{
    char *sub = NULL;
    json_t *body;

    if (read_sub(&sub) < 0)
        return NULL;
    body = json_pack("{s:s,s:s,s:I}", erase->team ? "team" : "client_id",
                     erase->team ? erase->team : erase->client_id, "sub", sub, "wait_s",
                     (json_int_t)erase->wait_s);
    explicit_bzero(sub, strlen(sub));
    free(sub);
    if (!body)
        cli_error(erase_name, "the sub is not UTF-8, or memory is out");
    return body;
}

static long long count_of(const json_t *answer, const char *name)
{
    return json_integer_value(json_object_get(answer, name));
}

static int show(const struct erase *erase, json_t *answer)
{
    const char *state = json_string_value(json_object_get(answer, "state"));
    bool done = state && strcmp(state, "done") == 0;
    int error;

    if (!erase->json) {
        (void)printf("rows %lld, bodies %lld, deferred %lld, quarantined %lld: %s\n",
                     count_of(answer, "rows"), count_of(answer, "raw"),
                     count_of(answer, "deferred"), count_of(answer, "quarantined"),
                     done ? "done, the text stands nowhere any more"
                          : "pending; the daemon goes on, and its log says when it is done");
        return done ? CLI_OK : CLI_REFUSED;
    }
    error = cli_print_json(json_incref(answer));
    if (error < 0)
        cli_error(erase_name, "%s", strerror(-error));
    return done && error == 0 ? CLI_OK : CLI_REFUSED;
}

static int ask(const struct erase *erase, const struct config *config, const json_t *body)
{
    __attribute__((cleanup(release_json))) json_t *answer = NULL;
    const struct daemon_request request = {
        .config = config,
        .path = "/v1/erase",
        .body = body,
        .timeout_ms = (unsigned)erase->wait_s * 1000 + CALL_MARGIN_MS,
    };
    char why[DAEMON_WHY_BYTES];
    unsigned status;
    int error = daemon_ask(&request, &answer, &status, why);

    if (error == 0)
        return show(erase, answer);
    cli_error(erase_name,
              error == -EREMOTEIO ? "%s" : "%s; the daemon has to run, since it alone writes", why);
    return CLI_REFUSED;
}

static int run(const struct erase *erase)
{
    __attribute__((cleanup(release_config))) struct config *config = NULL;
    int result = cli_load_config(erase_name, erase->config_file, &config);
    __attribute__((cleanup(release_json))) json_t *body = NULL;

    if (result != CLI_OK)
        return result;
    if (config->control.kind != CONFIG_ADDRESS_UNIX) {
        cli_error(erase_name, "the configuration has no control socket; set `control`");
        return CLI_REFUSED;
    }
    body = body_of(erase);
    return body ? ask(erase, config, body) : CLI_REFUSED;
}

int cli_erase(int argc, char **argv)
{
    struct erase erase = {.config_file = CONFIG_DEFAULT_FILE, .wait_s = CONTROL_ERASE_WAIT_S};
    const struct cli_option options[] = {
        cli_config_option(&erase.config_file),
        cli_text("team", "TEAM", "the Apple team whose sub it is", &erase.team),
        cli_text("client-id", "ID", "an app of that team, instead", &erase.client_id),
        cli_number("wait", "SECONDS", "for the text to leave the write-ahead log (30)",
                   &erase.wait_s, 0, CONTROL_ERASE_WAIT_MAX_S),
        cli_json_option(&erase.json),
        {.name = NULL},
    };
    const struct cli_usage usage = {
        .name = erase_name,
        .operands = "",
        .about =
            "Reads the sub of a person from standard input, and takes the text that is kept of\n"
            "that person, in all apps of the team, out of the outbox: sub, e-mail address, jti\n"
            "and bodies, also in quarantine and among the deferred. What came and when stays,\n"
            "and a repeat is still known. Exit code 1 with \"pending\" says that a reader still\n"
            "keeps the text in the write-ahead log; the daemon goes on by itself.",
        .options = options,
    };
    int operands, exit_code;

    if (!cli_parse(&usage, argc, argv, &operands, &exit_code))
        return exit_code;
    if (!erase.team == !erase.client_id) {
        cli_error(erase_name, "takes --team or --client-id, one of them");
        return CLI_USAGE;
    }
    return run(&erase);
}
