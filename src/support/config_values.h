/*
 * config_values: what one value may look like. Private to config; pure, any thread.
 */
#ifndef SIWA_SUPPORT_CONFIG_VALUES_H
#define SIWA_SUPPORT_CONFIG_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "config_table.h"
#include "support/config.h"

/* Whether text may be the value of a setting of this kind (one that is written as text), or NULL
 * where it may; otherwise what is wrong and what would be right: a static sentence that holds
 * nothing of the text. */
const char *config_value_complaint(enum config_kind kind, const char *text);

/* A duration such as "90d", "12h", "30m", "45s" in seconds. false where it is none, or is longer
 * than YEARS_S. */
bool config_value_duration(const char *text, int64_t *ret_s);

/* "off", "acked" or a duration of at least a second, as config.h has it. false where it is none. */
bool config_value_erase_after(const char *text, int64_t *ret_s);

/* "url", "unix:/path" or "file:/path": the source, and its path (a part of text, NULL for url).
 * false for anything else. */
bool config_value_keys(const char *text, enum config_keys_source *ret_source,
                       const char **ret_path);

/* The bit of an event type in ignore_mask, 0 for a type that is not known. */
unsigned config_value_ignore_bit(const char *type);

#endif
