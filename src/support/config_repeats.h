/*
 * config_repeats: settings that stand twice in one group of a text in the syntax of libconfig,
 * which stops at the first of them and does not name it. Private to config; pure, any thread.
 */
#ifndef SIWA_SUPPORT_CONFIG_REPEATS_H
#define SIWA_SUPPORT_CONFIG_REPEATS_H

#include <stdbool.h>
#include <stddef.h>

#define CONFIG_REPEATS_NAMES_MAX 256 /* in all groups that are open at one place */
#define CONFIG_REPEATS_DEPTH_MAX 16

/* A setting that repeats an earlier one. The texts are parts of the text that was searched. */
struct config_repeat {
    const char *section;  /* the setting at the top that it is part of; not ended */
    size_t section_bytes; /* 0: it stands at the top itself */
    const char *name;     /* not ended */
    size_t name_bytes;
    unsigned line, first_line; /* from 1; its own, and that of the one that it repeats */
};

/* Tells of each repeat in the order of the text, and overwrites it with its value by blanks; line
 * breaks and all else stay. The rest of the text then reads as if it had not been there. Of a text
 * that libconfig would refuse for another reason it tells what it can see. false where there are
 * more names or groups in groups than it looks at: what comes after was left as it is. */
bool config_repeats_blank(char *text,
                          void (*found)(void *context, const struct config_repeat *repeat),
                          void *context);

#endif
