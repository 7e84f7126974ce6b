/*
 * What the files of control share: one file for each concern, and control.c, which knows their
 * routes. Nobody else includes this. All on the thread of the loop, unless said otherwise.
 */
#ifndef SIWA_LISTENER_CONTROL_PRIVATE_H
#define SIWA_LISTENER_CONTROL_PRIVATE_H

#include <jansson.h>
#include <stdatomic.h>

#include "listener/control.h"

/* ---- answers ---- */

/* An error as RFC 7807 has it: name is the last part of the problem's type; status and title never
 * change for a name. */
struct problem {
    const char *name;
    unsigned status;
    const char *title;
};

extern const struct problem problem_request; /* 400: the request cannot be understood */
extern const struct problem problem_draining;

/* Answers 200 with a JSON value, whose reference is taken; NULL stands for memory that is out. */
void control_answer_ok(struct control *control, struct http_request *request, json_t *value);

/* Answers with a problem; the rest is its detail, for people. */
void control_answer_problem(struct control *control, struct http_request *request,
                            const struct problem *problem, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same with further members, whose reference is taken (NULL: memory is out). */
void control_answer_problem_with(struct control *control, struct http_request *request,
                                 const struct problem *problem, json_t *members, const char *format,
                                 ...) __attribute__((format(printf, 5, 6)));

/* Answers that memory is out; needs none. */
void control_answer_no_memory(struct control *control, struct http_request *request);

/* The body as JSON without repeated members; a new reference, or NULL where it is none. */
json_t *control_body(const struct http_request *request);

/* ---- requests that wait ---- */

/* The first member of what is kept for a request that is answered later. */
struct control_waiting {
    struct control_waiting *next;
    struct http_request *request;

    /* Whether the answer is due: then it was given. Called when the loop was woken, and four times
     * a second; draining: the daemon is shutting down, and whoever waits is to be answered. */
    bool (*look)(struct control *control, struct control_waiting *waiting, int64_t now_ms,
                 bool draining);
    /* The request was answered or its client left: releases what is kept. */
    void (*forget)(struct control_waiting *waiting);
};

/* Adds to those that wait, with request, look and forget set. */
void control_wait(struct control *control, struct control_waiting *waiting);

/* ---- the control itself ---- */

struct control {
    struct control_settings settings;
    char *version;
    int64_t started_ms; /* wall clock */
    int64_t started_mono_ms;
    struct control_waiting *waiting;  /* at most one for each connection */
    struct http_reply *out_of_memory; /* made when there still was some */
};

/* The key set as it is now, as control_keys_json gives it. */
json_t *control_keys_now_json(struct control *control);

/* What the routes lead to. */
void control_get_keys(struct control *control, struct http_request *request);
void control_post_refresh(struct control *control, struct http_request *request);
void control_post_distrust(struct control *control, struct http_request *request);
void control_get_state(struct control *control, struct http_request *request);

#endif
