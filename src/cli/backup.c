/*
 * backup: a copy of the outbox, its key and the key history, while notifications arrive.
 */
#include "dispatcher/backup.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "support/clock.h"
#include "support/config.h"

static volatile sig_atomic_t backup_stop;

static const char backup_name[] = "backup";
static const char backup_about[] =
    "Makes a consistent copy of the outbox while notifications arrive: the database\n"
    "at FILE, its identity key beside it (copy.key for copy.db), and the history of\n"
    "Apple's keys (copy.keys.json). Nothing appears there before the whole copy was\n"
    "checked and synced. For root and the user of the daemon.\n"
    "\n"
    "To restore: stop the service, put the three in the places of outbox.db,\n"
    "outbox.key and keys.json, remove outbox.db-wal and outbox.db-shm, and start. The\n"
    "ids then go on more than 2^32 above those of the copy, so that no consumer's\n"
    "position passes over a new event. A file that was copied by other means lacks\n"
    "the mark that does this.";

static void on_stop(int signal_number)
{
    (void)signal_number;
    backup_stop = 1;
}

struct telling {
    bool on; /* standard error is a terminal */
    enum backup_stage stage;
    int percent;
};

static bool on_progress(void *context, enum backup_stage stage, int percent)
{
    struct telling *telling = context;

    if (telling->on && (stage != telling->stage || percent != telling->percent)) {
        if (stage == BACKUP_STAGE_COPY)
            (void)fprintf(stderr, "\rcopying %3d %%", percent);
        else
            (void)fputs("\rchecking the copy", stderr);
        telling->stage = stage;
        telling->percent = percent;
    }
    return !backup_stop;
}

static void catch_stop(void)
{
    struct sigaction action = {.sa_handler = on_stop};

    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
}

static int report(const char *file, const struct backup_result *result, bool json)
{
    if (json)
        return cli_print_json(
                   json_pack("{s:s,s:s,s:s*,s:I,s:I,s:I}", "file", file, "key", result->key_file,
                             "keys", result->history_file[0] ? result->history_file : NULL, "bytes",
                             (json_int_t)result->bytes, "last_id", (json_int_t)result->last_id,
                             "generation", (json_int_t)result->generation)) == 0
                   ? CLI_OK
                   : CLI_REFUSED;
    (void)printf("%s: %" PRId64 " bytes, all events up to id %" PRId64 "\n%s: the identity key\n",
                 file, result->bytes, result->last_id, result->key_file);
    if (result->history_file[0])
        (void)printf("%s: Apple's keys\n", result->history_file);
    return CLI_OK;
}

static int backup(const struct config *config, const char *file, bool force, bool json)
{
    struct telling telling = {.on = isatty(STDERR_FILENO) == 1, .percent = -2};
    char *history = cli_keys_file(config->database);
    struct backup_settings settings = {.database = config->database,
                                       .keys_history = history,
                                       .file = file,
                                       .force = force,
                                       .now_ms = clock_wall_ms(),
                                       .on_progress = on_progress,
                                       .context = &telling};
    struct backup_result result;
    char why[OUTBOX_WHY_BYTES] = "";
    int error;

    if (!history) {
        cli_error(backup_name, "out of memory");
        return CLI_REFUSED;
    }
    catch_stop();
    error = backup_make(&settings, &result, why);
    free(history);
    if (telling.on && telling.percent != -2)
        (void)fputs("\r\033[K", stderr);
    if (error) {
        cli_error(backup_name, "%s", why);
        return CLI_REFUSED;
    }
    return report(file, &result, json);
}

int cli_backup(int argc, char **argv)
{
    const char *config_file = CONFIG_DEFAULT_FILE;
    bool force = false, json = false;
    const struct cli_option options[] = {cli_flag("force", "replace an older copy at FILE", &force),
                                         cli_config_option(&config_file),
                                         cli_json_option(&json),
                                         {.name = NULL}};
    const struct cli_usage usage = {.name = backup_name,
                                    .operands = "FILE",
                                    .operands_min = 1,
                                    .operands_max = 1,
                                    .about = backup_about,
                                    .options = options};
    struct config *config = NULL;
    int operands, code;

    if (!cli_parse(&usage, argc, argv, &operands, &code))
        return code;
    code = cli_load_config(backup_name, config_file, &config);
    if (code != CLI_OK)
        return code;
    umask(0077);
    code = backup(config, argv[operands], force, json);
    config_free(config);
    return code;
}
