/*
 * event_json: a row of the outbox as the JSON object that commands print and the control socket
 * answers.
 */
#ifndef SIWA_LISTENER_EVENT_JSON_H
#define SIWA_LISTENER_EVENT_JSON_H

#include <jansson.h>

#include "dispatcher/outbox.h"

/* The members are the columns of the view `outbox`, in their order; NULL is null, and
 * is_private_email true, false or null. id and received_at_ms are left out where the row has none
 * (0), since it was never stored. A new reference, or NULL when memory is out or a text is not
 * UTF-8. */
json_t *event_json(const struct outbox_row *row);

#endif
