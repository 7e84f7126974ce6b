/*
 * simulate: signs notifications as Apple would, with a key of one's own, and sends them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/call.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/moment.h"
#include "cli/signer.h"
#include "support/clock.h"
#include "support/config.h"
#include "verifier/notification.h"

#define SIMULATE_TIMEOUT_MS      15000 /* the daemon answers within 5 s at the worst */
#define SIMULATE_REPLY_MAX_BYTES 4096
#define SIMULATE_COUNT_MAX       1000000
#define SIMULATE_LAG_MS          10000 /* Apple signs 6 to 30 s after the act */
#define SIMULATE_URL_BYTES       512
#define SIMULATE_ANSWER_BYTES    64 /* shown of a reply */

static const enum event_type simulate_types[] = {
    EVENT_TYPE_EMAIL_ENABLED, EVENT_TYPE_EMAIL_DISABLED, EVENT_TYPE_CONSENT_REVOKED,
    EVENT_TYPE_ACCOUNT_DELETE};
#define SIMULATE_TYPES (sizeof simulate_types / sizeof *simulate_types)

/* The command line. */
struct simulate_options {
    const char *config_file, *new_key, *key, *type, *spelling, *events_as, *client_id, *issuer, *at,
        *url, *path, *ca_file;
    int64_t count;
    bool sub_stdin, print, json;
};

/* What it comes to. */
struct simulation {
    const struct simulate_options *options;
    struct config *config; /* NULL where nothing had to be asked of it */
    struct signer *signer;
    const char *client_id;
    const enum event_type *types;
    size_t type_count;
    enum signer_events_as events_as;
    bool at_given;
    int64_t at_s;
    char *sub;                    /* NULL: a random one each time */
    char url[SIMULATE_URL_BYTES]; /* empty: the body is printed */
    const char *unix_socket;
};

static const char simulate_name[] = "simulate";

static const char simulate_about[] =
    "Signs notifications as Apple would, with a key of yours, and POSTs them. A daemon\n"
    "accepts them when it trusts the key set that --new-key makes, which belongs in\n"
    "test set-ups alone:\n"
    "\n"
    "    siwa-notifyd simulate --new-key DIR            makes DIR/key.pem and DIR/jwks.json\n"
    "    keys = \"file:/path/of/DIR/jwks.json\"           in the configuration of the daemon\n"
    "    siwa-notifyd simulate --key DIR --type all     sends one of each type to it\n"
    "\n"
    "Types: email-enabled, email-disabled, consent-revoked, account-delete. Without\n"
    "--url and --print the notification goes to `listen` and `path` of the\n"
    "configuration; without --client-id it is for the first of its apps. A sub is\n"
    "random, or read from standard input, never from the command line.\n"
    "\n"
    "Exit status: 0 when every answer was 200, 1 when not or when something failed,\n"
    "2 for a wrong command line.";

static int usage_error(const char *problem)
{
    cli_error(simulate_name, "%s", problem);
    return CLI_USAGE;
}

static int read_types(const struct simulate_options *options, struct simulation *simulation)
{
    simulation->types = simulate_types;
    simulation->type_count = SIMULATE_TYPES;
    if (strcmp(options->type, "all") == 0)
        return CLI_OK;
    simulation->type_count = 1;
    for (; simulation->types < simulate_types + SIMULATE_TYPES; simulation->types++) {
        if (strcmp(options->type, event_type_text(*simulation->types)) == 0)
            return CLI_OK;
    }
    cli_error(simulate_name,
              "--type: '%s' is none of email-enabled, email-disabled, consent-revoked, "
              "account-delete, all; --spelling writes it otherwise",
              options->type);
    return CLI_USAGE;
}

static int read_events_as(const char *text, enum signer_events_as *ret_events_as)
{
    static const char *const names[] = {[SIGNER_EVENTS_STRING] = "string",
                                        [SIGNER_EVENTS_OBJECT] = "object",
                                        [SIGNER_EVENTS_ARRAY] = "array"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_events_as = (enum signer_events_as)i;
            return CLI_OK;
        }
    }
    cli_error(simulate_name, "--events-as: '%s' is none of string, object, array", text);
    return CLI_USAGE;
}

/* What the command line alone can be judged by. */
static int read_options(const struct simulate_options *options, struct simulation *simulation)
{
    int code;

    if (!options->key == !options->new_key)
        return usage_error("give either --key FOLDER, or --new-key FOLDER to make one");
    if (options->print && options->url)
        return usage_error("--print and --url exclude each other");
    if (options->path[0] != '/')
        return usage_error("--path: begins with a slash");
    if (options->spelling &&
        (!*options->spelling || strlen(options->spelling) > NOTIFICATION_CLAIM_MAX_BYTES))
        return usage_error("--spelling takes 1 to 255 characters");
    if (options->at && moment_parse(options->at, &simulation->at_s) < 0)
        return usage_error("--at: is no time; write " MOMENT_FORMS);
    simulation->at_given = options->at != NULL;
    code = read_types(options, simulation);
    if (code != CLI_OK)
        return code;
    return read_events_as(options->events_as, &simulation->events_as);
}

/* Whether there is more to do than to make a key. */
static bool wants_to_sign(const struct simulate_options *options)
{
    return options->key || options->print || options->url;
}

static int open_key(const struct simulate_options *options, struct signer **ret_signer)
{
    char why[SIGNER_WHY_BYTES] = "OpenSSL made no key";
    int error;

    if (options->key) {
        error = signer_load(options->key, ret_signer, why);
    } else {
        error = signer_generate(ret_signer);
        if (error == 0)
            error = signer_save(*ret_signer, options->new_key, why);
    }
    if (error < 0) {
        cli_error(simulate_name, "%s", why);
        return CLI_REFUSED;
    }
    if (!wants_to_sign(options))
        (void)printf("%s/%s: the private key\n%s/%s: its key set, kid %s\n", options->new_key,
                     SIGNER_KEY_FILE, options->new_key, SIGNER_KEY_SET_FILE,
                     signer_kid(*ret_signer));
    return CLI_OK;
}

/* The address that the daemon of this configuration listens on. */
static int aim_at_listener(struct simulation *simulation)
{
    const struct config_address *listen = &simulation->config->listen;
    const char *path = simulation->config->path;
    bool ipv6 = strchr(listen->host, ':') != NULL;
    int length = -1;

    if (listen->kind == CONFIG_ADDRESS_UNIX) {
        simulation->unix_socket = listen->path;
        length = snprintf(simulation->url, sizeof simulation->url, "http://localhost%s", path);
    } else if (listen->kind == CONFIG_ADDRESS_TCP) {
        length =
            snprintf(simulation->url, sizeof simulation->url, "http://%s%s%s:%u%s", ipv6 ? "[" : "",
                     listen->host, ipv6 ? "]" : "", (unsigned)listen->port, path);
    }
    if (length < 0 || (size_t)length >= sizeof simulation->url) {
        cli_error(simulate_name, "%s: has no address to send to; name one with --url",
                  simulation->options->config_file);
        return CLI_REFUSED;
    }
    return CLI_OK;
}

static int aim(struct simulation *simulation)
{
    const struct simulate_options *options = simulation->options;
    int length;

    if (options->print)
        return CLI_OK;
    if (!options->url)
        return aim_at_listener(simulation);
    if (strncmp(options->url, "unix:/", 6) == 0) {
        simulation->unix_socket = options->url + 5;
        length =
            snprintf(simulation->url, sizeof simulation->url, "http://localhost%s", options->path);
    } else if (strncmp(options->url, "http://", 7) == 0 ||
               strncmp(options->url, "https://", 8) == 0) {
        length = snprintf(simulation->url, sizeof simulation->url, "%s", options->url);
    } else {
        return usage_error("--url: is neither https://…, http://… nor unix:/path");
    }
    if (length < 0 || (size_t)length >= sizeof simulation->url)
        return usage_error("--url: is too long");
    return CLI_OK;
}

static int ask_config(struct simulation *simulation)
{
    const struct simulate_options *options = simulation->options;

    simulation->client_id = options->client_id;
    if (options->client_id && (options->url || options->print))
        return CLI_OK;
    int code = cli_load_config(simulate_name, options->config_file, &simulation->config);
    if (code != CLI_OK) {
        cli_error(simulate_name,
                  "with --client-id, and --url or --print, no configuration is read");
        return code;
    }
    if (!simulation->client_id)
        simulation->client_id = simulation->config->apps[0].client_id;
    return CLI_OK;
}

/* One line of standard input. */
static int read_sub(struct simulation *simulation)
{
    size_t bytes = 0;

    if (!simulation->options->sub_stdin)
        return CLI_OK;
    if (cli_read_stdin(NOTIFICATION_CLAIM_MAX_BYTES + 1, &simulation->sub, &bytes) == 0) {
        if (bytes > 0 && simulation->sub[bytes - 1] == '\n')
            simulation->sub[--bytes] = '\0';
        if (bytes > 0 && bytes <= NOTIFICATION_CLAIM_MAX_BYTES &&
            !strpbrk(simulation->sub, "\r\n") && strlen(simulation->sub) == bytes)
            return CLI_OK;
    }
    cli_error(simulate_name, "--sub-stdin: standard input must hold one line of 1 to %d characters",
              NOTIFICATION_CLAIM_MAX_BYTES);
    return CLI_REFUSED;
}

/* Number `index` of all that are to be signed; event_time rises by a millisecond from one to the
 * next, so that two of the same type and sub are two events. */
static int sign(const struct simulation *simulation, int64_t index, char **ret_body)
{
    enum event_type type = simulation->types[(size_t)index % simulation->type_count];
    int64_t total = simulation->options->count * (int64_t)simulation->type_count;
    int64_t now_s = simulation->at_given ? simulation->at_s : clock_wall_ms() / 1000;
    bool of_email = type == EVENT_TYPE_EMAIL_ENABLED || type == EVENT_TYPE_EMAIL_DISABLED;
    char jti[SIGNER_JTI_BYTES + 1], sub[SIGNER_SUB_BYTES + 1], email[SIGNER_EMAIL_BYTES + 1];

    if (signer_random_jti(jti) < 0 || signer_random_sub(sub) < 0 || signer_random_email(email) < 0)
        return -EIO;
    struct signer_notification notification = {
        .issuer = simulation->options->issuer,
        .client_id = simulation->client_id,
        .jti = jti,
        .issued_at_s = now_s,
        .events_as = simulation->events_as,
        .type =
            simulation->options->spelling ? simulation->options->spelling : event_type_text(type),
        .sub = simulation->sub ? simulation->sub : sub,
        .email = of_email ? email : NULL,
        .event_time_ms = now_s * 1000 - SIMULATE_LAG_MS - (total - 1 - index),
    };
    return signer_body(simulation->signer, &notification, ret_body);
}

/* The first word of a reply, with anything but printable ASCII taken out. */
static void first_word(const struct call_reply *reply, char ret_word[SIMULATE_ANSWER_BYTES])
{
    size_t used = 0;

    for (size_t i = 0; i < reply->body_bytes && used < SIMULATE_ANSWER_BYTES - 1; i++) {
        if (reply->body[i] <= ' ' || reply->body[i] > '~')
            break;
        ret_word[used++] = reply->body[i];
    }
    ret_word[used] = '\0';
}

static int show_answer(const struct simulation *simulation, int64_t index,
                       const struct call_reply *reply)
{
    const char *type = event_type_text(simulation->types[(size_t)index % simulation->type_count]);
    char word[SIMULATE_ANSWER_BYTES];

    first_word(reply, word);
    if (simulation->options->json)
        return cli_print_json(json_pack("{s:s, s:i, s:s}", "type", type, "status",
                                        (int)reply->status, "answer", word));
    return printf("%s: %u%s%s\n", type, reply->status, *word ? " " : "", word) < 0 ? -EIO : 0;
}

/* Sends one body. CLI_OK for an answer 200, CLI_REFUSED for another; -errno where there was none
 * or it could not be shown. */
static int post(const struct simulation *simulation, int64_t index, const char *body)
{
    char why[CALL_WHY_BYTES] = "out of memory";
    struct call_reply reply = {0};
    struct call_request request = {.url = simulation->url,
                                   .unix_socket = simulation->unix_socket,
                                   .method = "POST",
                                   .body = body,
                                   .body_bytes = strlen(body),
                                   .content_type = "application/json",
                                   .timeout_ms = SIMULATE_TIMEOUT_MS,
                                   .reply_max_bytes = SIMULATE_REPLY_MAX_BYTES,
                                   .ca_file = simulation->options->ca_file};

    int error = call_send(&request, &reply, why);
    if (error < 0) {
        cli_error(simulate_name, "%s", why);
        return error;
    }
    unsigned status = reply.status;
    error = show_answer(simulation, index, &reply);
    call_reply_release(&reply);
    if (error < 0)
        return error;
    return status == 200 ? CLI_OK : CLI_REFUSED;
}

static int sign_and_send_all(const struct simulation *simulation)
{
    int64_t total = simulation->options->count * (int64_t)simulation->type_count;
    int code = CLI_OK;

    for (int64_t index = 0; index < total; index++) {
        char *body = NULL;
        int error = sign(simulation, index, &body);
        if (error < 0) {
            cli_error(simulate_name, "the notification cannot be signed: %s", strerror(-error));
            return CLI_REFUSED;
        }
        int sent = simulation->options->print ? (puts(body) < 0 ? -EIO : CLI_OK)
                                              : post(simulation, index, body);
        free(body);
        if (sent < 0)
            return CLI_REFUSED;
        if (sent != CLI_OK)
            code = sent;
    }
    return code;
}

static int simulate(struct simulation *simulation)
{
    int code = open_key(simulation->options, &simulation->signer);

    if (code != CLI_OK || !wants_to_sign(simulation->options))
        return code;
    code = ask_config(simulation);
    if (code == CLI_OK)
        code = aim(simulation);
    if (code == CLI_OK)
        code = read_sub(simulation);
    return code == CLI_OK ? sign_and_send_all(simulation) : code;
}

int cli_simulate(int argc, char **argv)
{
    struct simulate_options set = {.config_file = CONFIG_DEFAULT_FILE,
                                   .type = "consent-revoked",
                                   .events_as = "string",
                                   .issuer = SIGNER_ISSUER,
                                   .path = "/apple/notifications",
                                   .count = 1};
    const struct cli_option options[] = {
        cli_text("new-key", "FOLDER", "make a key in a folder", &set.new_key),
        cli_text("key", "FOLDER", "sign with the key in a folder", &set.key),
        cli_text("type", "TYPE", "one of the four, or all (default consent-revoked)", &set.type),
        cli_text("spelling", "TEXT", "write the type so, such as account-deleted", &set.spelling),
        cli_text("events-as", "SHAPE", "string, as Apple (default), object or array",
                 &set.events_as),
        cli_text("client-id", "ID", "the app it is for (aud)", &set.client_id),
        cli_text("issuer", "URL", "who claims to have signed (iss)", &set.issuer),
        cli_text("at", "TIME", "signed then: " MOMENT_FORMS, &set.at),
        cli_number("count", "N", "of each type (default 1)", &set.count, 1, SIMULATE_COUNT_MAX),
        cli_flag("sub-stdin", "read the sub from standard input", &set.sub_stdin),
        cli_text("url", "URL", "where to: https://…, http://… or unix:/path", &set.url),
        cli_text("path", "PATH", "with unix:/path (default /apple/notifications)", &set.path),
        cli_text("ca-file", "FILE", "trust these certificates, not the system's", &set.ca_file),
        cli_flag("print", "print the bodies, one a line, and send nothing", &set.print),
        cli_config_option(&set.config_file),
        cli_json_option(&set.json),
        {.name = NULL}};
    const struct cli_usage usage = {
        .name = simulate_name, .operands = "", .about = simulate_about, .options = options};
    struct simulation simulation = {.options = &set};
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    code = read_options(&set, &simulation);
    if (code == CLI_OK)
        code = simulate(&simulation);
    free(simulation.sub);
    signer_free(simulation.signer);
    config_free(simulation.config);
    return code;
}
