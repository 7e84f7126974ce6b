/*
 * commands: the table of subcommands, in the order in which people meet them.
 *
 * X(name, text, summary): cli_NAME is the function, text what is typed, summary the line in
 * `siwa-notifyd --help`. Only what exists stands here. siwa-notifyd(8) has a section for each, and
 * a test holds it to that.
 */
#ifndef SIWA_CLI_COMMANDS_H
#define SIWA_CLI_COMMANDS_H

#define CLI_COMMAND_TABLE(X) \
    X(serve, "serve", "receive notifications and store them") \
    X(check_config, "check-config", "check a configuration and say all that is wrong with it") \
    X(verify, "verify", "judge a notification on standard input as the daemon would") \
    X(events, "events", "show the events in the outbox, follow it, give them to a command") \
    X(consumers, "consumers", "list how far each consumer is") \
    X(ack, "ack", "tell that a consumer is done with events") \
    X(seek, "seek", "move a consumer back or forward") \
    X(quarantine, "quarantine", "show what was stored apart, release or drop it") \
    X(keys, "keys", "list the keys, have them fetched anew, or distrust one") \
    X(fetch_keys, "fetch-keys", "fetch the key set for a daemon without network") \
    X(erase, "erase", "take the text of a person out of the outbox") \
    X(audit, "audit", "tell what became of each account-delete and consent-revoked") \
    X(backup, "backup", "copy the outbox while notifications arrive") \
    X(doctor, "doctor", "find out why nothing arrives") \
    X(simulate, "simulate", "sign notifications as Apple would, and send them") \
    X(version, "version", "print the version, and those of the libraries in use")

#define CLI_COMMAND_FUNCTION(name, text, summary) int cli_##name(int argc, char **argv);
CLI_COMMAND_TABLE(CLI_COMMAND_FUNCTION)
#undef CLI_COMMAND_FUNCTION

#endif
