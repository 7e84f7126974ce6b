/*
 * seek: moves a consumer to any position, back or forward.
 */
#include "cli/commands.h"
#include "move.h"

int cli_seek(int argc, char **argv)
{
    static const struct move seek = {
        .name = "seek",
        .about =
            "Moves a consumer: the events after ID are the next that it gets. Back to see them\n"
            "again, or forward to pass over some, which are not recorded as acknowledged.\n"
            "For root and the user of the daemon. Stop whatever acknowledges for the\n"
            "consumer first, or its next acknowledgement moves it on.\n"
            "\n"
            "Exit status: 0 when it is stored, 1 when it is not, 2 for a wrong command line.",
        .option = "to",
        .help = "the last event to be passed over",
        .done = "goes on after"};

    return move_run(&seek, argc, argv);
}
