/*
 * What the files of control share: one file for each concern, and control.c, which knows their
 * routes. Nobody else includes this. All on the thread of the loop, unless said otherwise.
 */
#ifndef SIWA_LISTENER_CONTROL_PRIVATE_H
#define SIWA_LISTENER_CONTROL_PRIVATE_H

#include <jansson.h>
#include <pthread.h>
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
extern const struct problem problem_consumer; /* 404: no consumer of this name */
extern const struct problem problem_pruned;   /* 410: rows above a cursor were removed */
extern const struct problem problem_database; /* 503: it cannot be read */

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

/* Answers that no consumer has this name, which may hold anything. */
void control_answer_no_consumer(struct control *control, struct http_request *request,
                                const char *name);

/* Answers that memory is out; needs none. */
void control_answer_no_memory(struct control *control, struct http_request *request);

/* Takes the body apart by a format of json_unpack. 0 with a reference in *ret_document, which holds
 * the strings that were found. -EINVAL where it is no JSON, repeats a member, or is of another
 * form. -ENOMEM where memory is out: then that was answered. */
int control_unpack_body(struct control *control, struct http_request *request,
                        json_t **ret_document, const char *format, ...);

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

/* What the polls of one pass share. */
struct control_poll_pass {
    bool state_read;
    int64_t last_id;
    struct http_reply *reply; /* to the last poll that rows were found for, and what it asked */
    int64_t after;
    unsigned limit;
    bool raw;
};

/* ---- the control itself ---- */

#define CONTROL_REFUSALS 4

struct control {
    struct control_settings settings;
    char *version;
    int64_t started_ms; /* wall clock */
    int64_t started_mono_ms;
    struct control_waiting *waiting;               /* at most one for each connection */
    struct http_reply *out_of_memory;              /* made when there still was some */
    struct http_reply *refusals[CONTROL_REFUSALS]; /* of the guard in front of it */

    /* of control_events.c */
    atomic_uint polls;              /* that wait for rows */
    struct control_poll_pass *pass; /* while all that wait are looked at */

    /* of control_consumers.c: changes that the writer is done with */
    pthread_mutex_t lock;
    struct control_change *done;
};

/* The key set as it is now, as control_keys_json gives it. */
json_t *control_keys_now_json(struct control *control);

/* What the routes lead to. */
void control_get_keys(struct control *control, struct http_request *request);
void control_post_refresh(struct control *control, struct http_request *request);
void control_post_distrust(struct control *control, struct http_request *request);
void control_get_quarantine(struct control *control, struct http_request *request);
void control_post_release(struct control *control, struct http_request *request);
void control_post_drop(struct control *control, struct http_request *request);
void control_post_erase(struct control *control, struct http_request *request);
void control_post_probe(struct control *control, struct http_request *request);
void control_get_probe(struct control *control, struct http_request *request);
void control_get_state(struct control *control, struct http_request *request);
void control_get_events(struct control *control, struct http_request *request);
void control_get_consumers(struct control *control, struct http_request *request);
void control_post_ack(struct control *control, struct http_request *request);
void control_post_seek(struct control *control, struct http_request *request);

/* Whether the peer may acknowledge for the consumer that the path names; answers where it may not.
 */
bool control_by_consumer(struct control *control, struct http_request *request);

/* Whether the peer is root or the daemon's user; where not, or where nothing is known of it, false.
 */
bool control_is_operator(const struct http_request *request);

/* Answers those whose change the writer is done with. */
void control_collect_changes(struct control *control);

/* Has the polls that wait for rows of a consumer go on from a position that was set by hand. */
void control_events_seek(struct control *control, const char *consumer, int64_t position);

/* Around a look at all that wait: what several polls have in common is read and written once. */
void control_events_begin_pass(struct control *control, struct control_poll_pass *pass);
void control_events_end_pass(struct control *control);

#endif
