#include "listener/event_json.h"

static int add_text(json_t *object, const char *name, const char *text)
{
    return json_object_set_new(object, name, text ? json_string(text) : json_null());
}

/* A negative number stands for NULL, as in struct outbox_row. */
static int add_number(json_t *object, const char *name, int64_t number)
{
    return json_object_set_new(object, name, number < 0 ? json_null() : json_integer(number));
}

static int add_flag(json_t *object, const char *name, int flag)
{
    return json_object_set_new(object, name, flag < 0 ? json_null() : json_boolean(flag));
}

json_t *event_json(const struct outbox_row *row)
{
    json_t *object = json_object();

    if ((row->id > 0 && add_number(object, "id", row->id) < 0) ||
        add_text(object, "type", row->type) < 0 ||
        add_text(object, "client_id", row->client_id) < 0 ||
        add_text(object, "app", row->app) < 0 || add_text(object, "team", row->team) < 0 ||
        add_text(object, "sub", row->sub) < 0 || add_text(object, "email", row->email) < 0 ||
        add_flag(object, "is_private_email", row->is_private_email) < 0 ||
        add_number(object, "event_time_ms", row->event_time_ms) < 0 ||
        add_number(object, "issued_at_ms", row->issued_at_ms) < 0 ||
        (row->received_at_ms > 0 &&
         add_number(object, "received_at_ms", row->received_at_ms) < 0) ||
        add_text(object, "jti", row->jti) < 0 || add_text(object, "raw_type", row->raw_type) < 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}
