/*
 * move: what `ack` and `seek` have in common.
 */
#ifndef SIWA_CLI_MOVE_H
#define SIWA_CLI_MOVE_H

struct move {
    const char *name;   /* of the subcommand, and of the action in the path */
    const char *about;  /* its help */
    const char *option; /* that takes the id, and the member of the body */
    const char *help;   /* of that option */
    const char *done;   /* what is said: "NAME: DONE ID" */
};

/* Runs the subcommand. */
int move_run(const struct move *move, int argc, char **argv);

#endif
