/*
 * words: how alike two words are, for "did you mean".
 */
#ifndef SIWA_SUPPORT_WORDS_H
#define SIWA_SUPPORT_WORDS_H

#include <stddef.h>

#define WORDS_MAX_BYTES  32 /* longer words are not like any */
#define WORDS_ALIKE_MOST 2  /* so many changes and no more make a likely slip */

/* How many letters must be changed, added or taken away to make one word of the other
 * (Levenshtein), or SIZE_MAX where one is longer than WORDS_MAX_BYTES. Pure; any thread. */
size_t words_distance(const char *a, const char *b);

#endif
