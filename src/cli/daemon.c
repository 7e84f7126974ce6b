#include "cli/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "listener/control.h"
#include "verifier/json_text.h"

static int explain(const json_t *problem, unsigned status, char ret_why[DAEMON_WHY_BYTES])
{
    const char *title = json_string_value(json_object_get(problem, "title"));
    const char *detail = json_string_value(json_object_get(problem, "detail"));

    if (title && detail)
        (void)snprintf(ret_why, DAEMON_WHY_BYTES, "%s: %s", title, detail);
    else
        (void)snprintf(ret_why, DAEMON_WHY_BYTES, "the daemon answered %u", status);
    return -EREMOTEIO;
}

static int read_reply(const struct call_reply *reply, json_t **ret_answer, unsigned *ret_status,
                      char ret_why[DAEMON_WHY_BYTES])
{
    json_t *answer = NULL;

    (void)json_text_parse(reply->body, reply->body_bytes, &answer);
    if (reply->status == 200 && answer) {
        *ret_answer = answer;
        return 0;
    }
    *ret_status = reply->status;
    int error = explain(answer, reply->status, ret_why);
    json_decref(answer);
    return error;
}

static int send_request(const struct daemon_request *request, const char *body,
                        struct call_reply *ret_reply, char ret_why[DAEMON_WHY_BYTES])
{
    char url[1024], why[CALL_WHY_BYTES] = "";
    const struct call_request call = {.url = url,
                                      .unix_socket = request->config->control.path,
                                      .method = body ? "POST" : "GET",
                                      .body = body,
                                      .body_bytes = body ? strlen(body) : 0,
                                      .content_type = CONTROL_TYPE_JSON,
                                      .timeout_ms = request->timeout_ms,
                                      .reply_max_bytes = DAEMON_REPLY_MAX_BYTES,
                                      .stop = request->stop};

    (void)snprintf(url, sizeof url, "http://daemon%s", request->path);
    int error = call_send(&call, ret_reply, why);
    if (error < 0)
        (void)snprintf(ret_why, DAEMON_WHY_BYTES, "%s", why);
    return error == -ECONNREFUSED ? -ENOENT : error;
}

int daemon_ask(const struct daemon_request *request, json_t **ret_answer, unsigned *ret_status,
               char ret_why[DAEMON_WHY_BYTES])
{
    struct call_reply reply = {0};
    char *body = NULL;
    int error;

    *ret_status = 0;
    if (request->config->control.kind != CONFIG_ADDRESS_UNIX) {
        (void)snprintf(ret_why, DAEMON_WHY_BYTES, "the configuration has no control socket");
        return -EDESTADDRREQ;
    }
    if (request->body && !(body = json_dumps(request->body, JSON_COMPACT))) {
        (void)snprintf(ret_why, DAEMON_WHY_BYTES, "memory is out");
        return -ENOMEM;
    }
    error = send_request(request, body, &reply, ret_why);
    if (error == 0)
        error = read_reply(&reply, ret_answer, ret_status, ret_why);
    call_reply_release(&reply);
    if (body)
        explicit_bzero(body, strlen(body)); /* it may name a person */
    free(body);
    return error;
}
