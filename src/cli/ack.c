/*
 * ack: a consumer is done with every row up to one.
 */
#include "cli/commands.h"
#include "move.h"

int cli_ack(int argc, char **argv)
{
    static const struct move ack = {
        .name = "ack",
        .about =
            "Tells the running daemon that a consumer is done with every event up to ID, so that\n"
            "they may be pruned. For the consumer's user, root and the user of the daemon.\n"
            "Going back, or beyond the last event, is refused.\n"
            "\n"
            "Exit status: 0 when it is stored, 1 when it is not, 2 for a wrong command line.",
        .option = "through",
        .help = "the last event that it is done with",
        .done = "acknowledged through"};

    return move_run(&ack, argc, argv);
}
