/*
 * html: text that is not ours, numbers and times, written into a page.
 */
#ifndef SIWA_LISTENER_HTML_H
#define SIWA_LISTENER_HTML_H

#include <stdint.h>
#include <stdio.h>

/* Writes text so that it stays text in an element and in a quoted attribute: the five characters
 * that HTML gives a meaning are escaped, control characters become U+FFFD, and after
 * HTML_TEXT_BYTES an ellipsis ends it. NULL writes nothing. */
#define HTML_TEXT_BYTES 512
void html_text(FILE *out, const char *text);

/* "1.5 MiB". */
void html_bytes(FILE *out, uint64_t bytes);

/* A duration in its two largest units, "3 d 4 h"; "0 s" for what is not positive. */
void html_duration(FILE *out, int64_t seconds);

/* A time element, "2026-11-24 07:00:00 UTC"; "never" for 0 and less. */
void html_time(FILE *out, int64_t seconds);

#endif
