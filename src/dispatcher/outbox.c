#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dispatcher/deferral.h"
#include "dispatcher/policy.h"
#include "outbox_internal.h"

int outbox_step(sqlite3_stmt *statement)
{
    int stepped = sqlite3_step(statement);
    int reset = sqlite3_reset(statement);

    if (stepped == SQLITE_DONE || stepped == SQLITE_ROW)
        return reset;
    return reset != SQLITE_OK ? reset : stepped;
}

static enum outbox_error note(struct outbox *outbox, enum outbox_error error, const char *kind)
{
    outbox->error_kind = kind;
    if (error == OUTBOX_ERROR_FATAL || error == OUTBOX_ERROR_INTERNAL)
        outbox->failed = true;
    return error;
}

/* The reason of the WAL's last call that failed. */
static int wal_errno(struct outbox *outbox)
{
    sqlite3_file *wal = NULL;
    int os_error = 0;

    if (sqlite3_file_control(outbox->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal) == SQLITE_OK &&
        wal && wal->pMethods)
        wal->pMethods->xFileControl(wal, SQLITE_FCNTL_LAST_ERRNO, &os_error);
    return os_error;
}

static enum outbox_error judge(struct outbox *outbox, int code, int os_error)
{
    if (code == SQLITE_OK)
        return OUTBOX_ERROR_NONE;
    snprintf(outbox->error_text, sizeof outbox->error_text, "%s (%s%s%s)", sqlite3_errstr(code),
             outbox_error_name(code), os_error ? ", " : "", os_error ? strerror(os_error) : "");
    return note(outbox, outbox_error_class(code, os_error), outbox_error_label(code, os_error));
}

enum outbox_error outbox_check(struct outbox *outbox, int code)
{
    return judge(outbox, code, code == SQLITE_OK ? 0 : sqlite3_system_errno(outbox->db));
}

/* SQLite keeps the errno of some earlier failure where a COMMIT fails, and a broken disk must not
 * pass for a full one. A COMMIT writes to the WAL and nowhere else, which remembers its own. */
static enum outbox_error check_commit(struct outbox *outbox, int code)
{
    return judge(outbox, code, (code & 0xff) == SQLITE_IOERR ? wal_errno(outbox) : 0);
}

enum outbox_error outbox_prepare(struct outbox *outbox, const char *sql,
                                 sqlite3_stmt **ret_statement)
{
    sqlite3_stmt *statement = NULL;
    enum outbox_error error =
        outbox_check(outbox, sqlite3_prepare_v2(outbox->db, sql, -1, &statement, NULL));

    if (error == OUTBOX_ERROR_NONE)
        *ret_statement = statement;
    return error;
}

void outbox_finalize(sqlite3_stmt **statement)
{
    sqlite3_finalize(*statement);
}

static enum outbox_error fail(struct outbox *outbox, enum outbox_error error, const char *kind,
                              const char *text)
{
    snprintf(outbox->error_text, sizeof outbox->error_text, "%s", text);
    return note(outbox, error, kind);
}

enum outbox_error outbox_condemn(struct outbox *outbox, const char *why)
{
    return fail(outbox, OUTBOX_ERROR_FATAL, "corrupt", why);
}

int outbox_key_check(struct identity_key *key, unsigned char ret_check[IDENTITY_BYTES])
{
    static const char text[] = "the identity key of this database";

    return identity_of_bytes(key, text, sizeof text, ret_check);
}

struct outbox_apart outbox_apart(const struct outbox *outbox)
{
    return outbox->committed.apart;
}

enum outbox_error outbox_begin(struct outbox *outbox)
{
    if (outbox->failed)
        return OUTBOX_ERROR_FATAL;
    outbox->pending = outbox->committed;
    outbox->apps.count = 0;
    return outbox_check(outbox, outbox_step(outbox->statements[OUTBOX_BEGIN]));
}

static enum outbox_error write_apps(struct outbox *outbox)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_APP_UPSERT];
    int code = SQLITE_OK;

    for (size_t i = 0; code == SQLITE_OK && i < outbox->apps.count; i++) {
        code = sqlite3_bind_text(statement, 1, outbox->apps.list[i].client_id, -1, SQLITE_STATIC);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int64(statement, 2, outbox->apps.list[i].last_accepted_ms);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int(statement, 3, outbox->apps.list[i].was_apart);
        if (code == SQLITE_OK)
            code = outbox_step(statement);
    }
    outbox->apps.count = 0;
    return outbox_check(outbox, code);
}

/* Once a transaction and app, not once a row. What arrives is the last whatever the clock says, so
 * that one which was ahead once pins nothing; what was kept apart is so only where it is later. */
static enum outbox_error note_accepted(struct outbox *outbox, const struct delivery *delivery)
{
    const char *client_id = delivery->app->client_id;
    size_t i = 0;

    while (i < outbox->apps.count && strcmp(outbox->apps.list[i].client_id, client_id) != 0)
        i++;
    if (i == OUTBOX_PENDING_APPS) {
        enum outbox_error error = write_apps(outbox);

        if (error != OUTBOX_ERROR_NONE)
            return error;
        i = 0;
    }
    if (i == outbox->apps.count) {
        outbox->apps.list[i].client_id = client_id;
        outbox->apps.list[i].last_accepted_ms = delivery->received_at_ms;
        outbox->apps.list[i].was_apart = true;
        outbox->apps.count++;
    }
    if (!delivery->was_apart || outbox->apps.list[i].last_accepted_ms < delivery->received_at_ms)
        outbox->apps.list[i].last_accepted_ms = delivery->received_at_ms;
    if (!delivery->was_apart)
        outbox->apps.list[i].was_apart = false;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error insert_seen(struct outbox *outbox, const struct delivery *delivery,
                                     const struct event *event,
                                     const unsigned char identity[IDENTITY_BYTES], bool *ret_new)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_SEEN_INSERT];
    enum outbox_error error;

    sqlite3_bind_int64(statement, 1, event->event_time_ms);
    sqlite3_bind_blob(statement, 2, identity, IDENTITY_BYTES, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, delivery->received_at_ms);
    error = outbox_check(outbox, outbox_step(statement));
    if (error == OUTBOX_ERROR_NONE)
        *ret_new = sqlite3_changes(outbox->db) > 0;
    return error;
}

enum outbox_error outbox_finds(struct outbox *outbox, sqlite3_stmt *statement, bool *ret_found)
{
    int code = sqlite3_step(statement);
    bool found = code == SQLITE_ROW;
    int reset = sqlite3_reset(statement);

    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return outbox_check(outbox, reset != SQLITE_OK ? reset : code);
    *ret_found = found;
    return outbox_check(outbox, reset);
}

static enum outbox_error find_seen(struct outbox *outbox, const struct event *event,
                                   const unsigned char identity[IDENTITY_BYTES], bool *ret_found)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_SEEN_FIND];

    sqlite3_bind_int64(statement, 1, event->event_time_ms);
    sqlite3_bind_blob(statement, 2, identity, IDENTITY_BYTES, SQLITE_STATIC);
    return outbox_finds(outbox, statement, ret_found);
}

static void bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC); /* NULL gives NULL */
}

/* Text that is too long for an identity has been refused before it comes here. */
static enum outbox_error bind_person(struct outbox *outbox, int index, const struct config_app *app,
                                     const char *sub, unsigned char ret_person[PERSON_BYTES])
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_EVENT_INSERT];

    if (!sub)
        return outbox_check(outbox, sqlite3_bind_null(statement, index));
    if (identity_of_person(outbox->key, app->team, app->client_id, sub, ret_person) < 0)
        return fail(outbox, OUTBOX_ERROR_DELIVERY, "row", "HMAC failed");
    return outbox_check(
        outbox, sqlite3_bind_blob(statement, index, ret_person, PERSON_BYTES, SQLITE_STATIC));
}

static enum outbox_error insert_event(struct outbox *outbox, struct delivery *delivery,
                                      const struct event *event)
{
    const struct notification *notification = &delivery->judgement.notification;
    sqlite3_stmt *statement = outbox->statements[OUTBOX_EVENT_INSERT];
    unsigned char person[PERSON_BYTES];
    int64_t id = outbox->pending.last_id + 1;
    enum outbox_error error;

    if (delivery->rows == 0)
        delivery->first_id = id;
    sqlite3_bind_int64(statement, 1, id);
    bind_text(statement, 2, event->type);
    bind_text(statement, 3, delivery->app->client_id);
    bind_text(statement, 4, delivery->app->app);
    bind_text(statement, 5, delivery->app->team);
    bind_text(statement, 6, event->sub);
    bind_text(statement, 7, event->email);
    if (event->is_private_email == PRIVATE_EMAIL_UNSAID)
        sqlite3_bind_null(statement, 8);
    else
        sqlite3_bind_int(statement, 8, event->is_private_email == PRIVATE_EMAIL_YES);
    if (event->event_time_ms == 0)
        sqlite3_bind_null(statement, 9);
    else
        sqlite3_bind_int64(statement, 9, event->event_time_ms);
    sqlite3_bind_int64(statement, 10, notification->issued_at_s * 1000);
    sqlite3_bind_int64(statement, 11, delivery->received_at_ms);
    bind_text(statement, 12, notification->jti);
    bind_text(statement, 13, event->raw_type);
    sqlite3_bind_int64(statement, 14, delivery->first_id);
    error = bind_person(outbox, 15, delivery->app, event->sub, person);
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_check(outbox, outbox_step(statement));
    if (error == OUTBOX_ERROR_NONE) {
        outbox->pending.last_id = id;
        delivery->rows++;
        delivery->stored |= UINT32_C(1) << (event - notification->events);
    }
    return error;
}

/* Whether a notification is about more than one person: then its body tells of somebody who may
 * have no row here. */
static bool is_mixed(const struct notification *notification)
{
    const char *sub = NULL;

    for (size_t i = 0; i < notification->event_count; i++) {
        if (!notification->events[i].sub)
            continue;
        if (sub && strcmp(sub, notification->events[i].sub) != 0)
            return true;
        sub = notification->events[i].sub;
    }
    return false;
}

static enum outbox_error insert_raw(struct outbox *outbox, const struct delivery *delivery)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_RAW_INSERT];
    int code;

    sqlite3_bind_int64(statement, 1, delivery->first_id);
    sqlite3_bind_int64(statement, 2, delivery->received_at_ms);
    sqlite3_bind_int(statement, 3, is_mixed(&delivery->judgement.notification));
    code = sqlite3_bind_blob64(statement, 4, delivery->raw, delivery->raw_bytes, SQLITE_STATIC);
    return outbox_check(outbox, code == SQLITE_OK ? outbox_step(statement) : code);
}

/* Over the token, not over the body: an old token in ever new wrapping stays one row. */
static int digest_of(const struct outbox *outbox, const struct delivery *delivery,
                     unsigned char ret_digest[IDENTITY_BYTES])
{
    struct notification_token token = {.text = NULL};
    int error;

    if (notification_find_token(delivery->raw, delivery->raw_bytes, &token) != VERDICT_ACCEPTED)
        return identity_of_bytes(outbox->key, delivery->raw, delivery->raw_bytes, ret_digest);
    error = identity_of_bytes(outbox->key, token.text, token.bytes, ret_digest);
    notification_token_release(&token);
    return error;
}

enum outbox_error outbox_digest(struct outbox *outbox, const struct delivery *delivery,
                                unsigned char ret_digest[IDENTITY_BYTES])
{
    if (digest_of(outbox, delivery, ret_digest) < 0)
        return fail(outbox, OUTBOX_ERROR_DELIVERY, "row", "HMAC failed");
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error insert_quarantine(struct outbox *outbox, struct delivery *delivery,
                                           enum quarantine_reason reason,
                                           const unsigned char digest[IDENTITY_BYTES])
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_QUARANTINE_INSERT];
    struct outbox_apart *apart = &outbox->pending.apart;
    int64_t bytes = apart->quarantine_bytes + (int64_t)delivery->raw_bytes;
    enum outbox_error error;
    int code;

    if (apart->quarantine_rows >= OUTBOX_QUARANTINE_ROWS || bytes > OUTBOX_QUARANTINE_BYTES) {
        delivery->verdict = VERDICT_BUSY;
        return OUTBOX_ERROR_NONE;
    }
    bind_text(statement, 1, quarantine_reason_label(reason));
    bind_text(statement, 2, delivery->app->client_id);
    sqlite3_bind_int64(statement, 3, delivery->received_at_ms);
    sqlite3_bind_blob(statement, 4, digest, IDENTITY_BYTES, SQLITE_STATIC);
    code = sqlite3_bind_blob64(statement, 5, delivery->raw, delivery->raw_bytes, SQLITE_STATIC);
    error = outbox_check(outbox, code == SQLITE_OK ? outbox_step(statement) : code);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    apart->quarantine_rows++;
    apart->quarantine_bytes = bytes;
    delivery->verdict = VERDICT_QUARANTINED;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error quarantine(struct outbox *outbox, struct delivery *delivery,
                                    enum quarantine_reason reason)
{
    sqlite3_stmt *find = outbox->statements[OUTBOX_QUARANTINE_FIND];
    unsigned char digest[IDENTITY_BYTES];
    bool found = false;
    enum outbox_error error = outbox_digest(outbox, delivery, digest);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_blob(find, 1, digest, IDENTITY_BYTES, SQLITE_STATIC);
    error = outbox_finds(outbox, find, &found);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    if (!found)
        return insert_quarantine(outbox, delivery, reason, digest);
    delivery->verdict = VERDICT_QUARANTINED;
    return OUTBOX_ERROR_NONE;
}

struct identities {
    unsigned char of[NOTIFICATION_EVENTS_MAX][IDENTITY_BYTES];
};

/* 0, -EINVAL where there is none to be had, -EIO. */
static int identify(const struct outbox *outbox, const struct notification *notification,
                    struct identities *ret_identities)
{
    int error = 0;

    for (size_t i = 0; error == 0 && i < notification->event_count; i++)
        error = identity_of(outbox->key, notification, i, ret_identities->of[i]);
    return error;
}

/* Whether an expired notification is the repeat of one that came in time: some of it is stored, and
 * the rest is what its app ignores. */
static enum outbox_error is_repeat(struct outbox *outbox, const struct delivery *delivery,
                                   const struct identities *identities, bool *ret_repeat)
{
    const struct notification *notification = &delivery->judgement.notification;
    bool any = false, all = true;

    for (size_t i = 0; i < notification->event_count; i++) {
        const struct event *event = &notification->events[i];
        bool found = false;
        enum outbox_error error = find_seen(outbox, event, identities->of[i], &found);

        if (error != OUTBOX_ERROR_NONE)
            return error;
        any = any || found;
        all = all && (found || policy_ignores(delivery->app, event->kind));
    }
    *ret_repeat = any && all;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error add_late(struct outbox *outbox, struct delivery *delivery,
                                  const struct identities *identities, enum config_late late)
{
    bool repeat = false;
    enum outbox_error error = is_repeat(outbox, delivery, identities, &repeat);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    if (!repeat && late != CONFIG_LATE_REJECT)
        return quarantine(outbox, delivery, QUARANTINE_REASON_EXPIRED);
    delivery->verdict = repeat ? VERDICT_DUPLICATE : VERDICT_EXPIRED;
    return OUTBOX_ERROR_NONE;
}

/* One event; counts it as a duplicate where it was there, and as a row where it is stored. */
static enum outbox_error add_event(struct outbox *outbox, struct delivery *delivery,
                                   const struct event *event,
                                   const unsigned char identity[IDENTITY_BYTES],
                                   bool *ret_duplicate)
{
    enum outbox_error error;
    bool found = false, new = false;

    if (policy_ignores(delivery->app, event->kind)) {
        error = find_seen(outbox, event, identity, &found);
        if (error == OUTBOX_ERROR_NONE && found)
            *ret_duplicate = true;
        return error;
    }
    error = insert_seen(outbox, delivery, event, identity, &new);
    if (error != OUTBOX_ERROR_NONE)
        return error;
    if (new)
        return insert_event(outbox, delivery, event);
    *ret_duplicate = true;
    return OUTBOX_ERROR_NONE;
}

static enum outbox_error add_events(struct outbox *outbox, struct delivery *delivery,
                                    const struct identities *identities)
{
    const struct notification *notification = &delivery->judgement.notification;
    bool duplicate = false;
    enum outbox_error error = OUTBOX_ERROR_NONE;

    for (size_t i = 0; i < notification->event_count; i++) {
        error =
            add_event(outbox, delivery, &notification->events[i], identities->of[i], &duplicate);
        if (error != OUTBOX_ERROR_NONE)
            return error;
    }
    if (delivery->rows == 0) {
        delivery->verdict = duplicate ? VERDICT_DUPLICATE : VERDICT_IGNORED;
        return OUTBOX_ERROR_NONE;
    }
    delivery->verdict = VERDICT_ACCEPTED;
    if (policy_keeps_raw(delivery->policy))
        error = insert_raw(outbox, delivery);
    return error == OUTBOX_ERROR_NONE ? note_accepted(outbox, delivery) : error;
}

/* A row that nobody's order, position or history knows of: its id is below those of events, where
 * the oldest still comes first. Of the event itself, which is made up, nothing personal is kept. */
static enum outbox_error add_test(struct outbox *outbox, struct delivery *delivery)
{
    const struct notification *notification = &delivery->judgement.notification;
    OUTBOX_STATEMENT(statement);
    enum outbox_error error = outbox_prepare(
        outbox,
        "INSERT INTO events (id, type, client_id, app, team, issued_at_ms, received_at_ms, jti, "
        "raw_type, raw_id, test) SELECT coalesce(max(id), ?1) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
        "0, 1 FROM events WHERE id < 0",
        &statement);

    if (error != OUTBOX_ERROR_NONE)
        return error;
    sqlite3_bind_int64(statement, 1, OUTBOX_TEST_ID_BASE);
    bind_text(statement, 2, notification->events[0].type);
    bind_text(statement, 3, delivery->app->client_id);
    bind_text(statement, 4, delivery->app->app);
    bind_text(statement, 5, delivery->app->team);
    sqlite3_bind_int64(statement, 6, notification->issued_at_s * 1000);
    sqlite3_bind_int64(statement, 7, delivery->received_at_ms);
    bind_text(statement, 8, notification->jti);
    bind_text(statement, 9, notification->events[0].raw_type);
    error = outbox_check(outbox, outbox_step(statement));
    if (error == OUTBOX_ERROR_NONE)
        delivery->verdict = VERDICT_ACCEPTED;
    return error;
}

enum outbox_error outbox_add(struct outbox *outbox, struct delivery *delivery)
{
    const struct judgement *judgement = &delivery->judgement;
    enum config_late late = policy_late(delivery->policy);
    bool quarantined = judgement->verdict == VERDICT_QUARANTINED;
    bool deferred =
        judgement->verdict == VERDICT_KID_UNKNOWN || judgement->verdict == VERDICT_NO_KEYS;
    bool expired = quarantined && judgement->reason == QUARANTINE_REASON_EXPIRED;
    struct identities identities;
    int error;

    delivery->rows = 0;
    delivery->stored = 0;
    delivery->first_id = 0;
    delivery->kept = false;
    delivery->displaced = 0;
    delivery->verdict = VERDICT_INTERNAL;
    if (deferred)
        return deferral_keep(outbox, delivery);
    if (judgement->probe && judgement->verdict == VERDICT_ACCEPTED)
        return add_test(outbox, delivery);
    if (judgement->verdict != VERDICT_ACCEPTED && !quarantined)
        return fail(outbox, OUTBOX_ERROR_DELIVERY, "row", "a refused notification was submitted");
    if (quarantined && !expired)
        return quarantine(outbox, delivery, judgement->reason);
    error = identify(outbox, &judgement->notification, &identities);
    if (error != 0 && error != -EINVAL)
        return fail(outbox, OUTBOX_ERROR_DELIVERY, "row", "HMAC failed");
    /* what cannot be told from its repeat would be stored again and again */
    if (error != 0 || judgement->notification.event_count == 0)
        return quarantine(outbox, delivery, QUARANTINE_REASON_EVENTS_UNCLEAR);
    if (expired && late != CONFIG_LATE_DELIVER)
        return add_late(outbox, delivery, &identities, late);
    return add_events(outbox, delivery, &identities);
}

static enum outbox_error write_state(struct outbox *outbox)
{
    sqlite3_stmt *statement = outbox->statements[OUTBOX_STATE_UPDATE];

    if (outbox->pending.last_id == outbox->committed.last_id)
        return OUTBOX_ERROR_NONE;
    sqlite3_bind_int64(statement, 1, outbox->pending.last_id);
    return outbox_check(outbox, outbox_step(statement));
}

/* A file that was moved or deleted is still written to, and what is written is lost. What is in a
 * -wal that went away is not yet: its end moves it into the database. */
static enum outbox_error check_place(struct outbox *outbox)
{
    int moved = 0;
    int code = sqlite3_file_control(outbox->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);

    if (code == SQLITE_OK && moved)
        return fail(outbox, OUTBOX_ERROR_FATAL, "moved",
                    "the database file was moved or deleted while the daemon ran");
    if (code == SQLITE_OK && outbox_wal_has_moved(outbox)) {
        outbox->wal_gone = !outbox->failed;
        return fail(outbox, OUTBOX_ERROR_FATAL, "moved",
                    "the database's -wal was moved or deleted while the daemon ran");
    }
    return outbox_check(outbox, code);
}

enum outbox_error outbox_commit(struct outbox *outbox)
{
    enum outbox_error error = write_apps(outbox);

    if (error == OUTBOX_ERROR_NONE)
        error = write_state(outbox);
    if (error == OUTBOX_ERROR_NONE)
        error = check_place(outbox);
    if (error == OUTBOX_ERROR_NONE)
        error = check_commit(outbox, outbox_step(outbox->statements[OUTBOX_COMMIT]));
    if (error == OUTBOX_ERROR_NONE)
        outbox->committed = outbox->pending;
    return error;
}

int64_t outbox_last_id(const struct outbox *outbox)
{
    return outbox->committed.last_id;
}

void outbox_rollback(struct outbox *outbox)
{
    outbox->apps.count = 0;
    /* SQLite may have rolled back by itself; and where this fails the next begin fails too */
    if (!sqlite3_get_autocommit(outbox->db))
        outbox_step(outbox->statements[OUTBOX_ROLLBACK]);
}

enum outbox_error outbox_part_begin(struct outbox *outbox)
{
    outbox->part_counts = outbox->pending;
    outbox->part_apps = outbox->apps;
    return outbox_check(outbox, outbox_step(outbox->statements[OUTBOX_PART_BEGIN]));
}

enum outbox_error outbox_part_end(struct outbox *outbox, bool keep)
{
    enum outbox_error error = OUTBOX_ERROR_NONE;

    if (!keep) {
        outbox->pending = outbox->part_counts;
        outbox->apps = outbox->part_apps;
        error = outbox_check(outbox, outbox_step(outbox->statements[OUTBOX_PART_UNDO]));
    }
    if (error == OUTBOX_ERROR_NONE)
        error = outbox_check(outbox, outbox_step(outbox->statements[OUTBOX_PART_END]));
    return error;
}

void outbox_checkpoint_soon(struct outbox *outbox)
{
    outbox->wal_soon = true;
}

uint64_t outbox_empty_wal(struct outbox *outbox)
{
    outbox->wal_unwanted = true;
    return outbox->wal_emptied;
}

static enum outbox_error empty_wal(struct outbox *outbox)
{
    int code;

    outbox->wal_unwanted = false;
    sqlite3_busy_timeout(outbox->db, 0); /* commits wait behind this */
    code = sqlite3_wal_checkpoint_v2(outbox->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(outbox->db, OUTBOX_BUSY_MS);
    if (code == SQLITE_BUSY)
        return OUTBOX_ERROR_NONE;
    if (code == SQLITE_OK) {
        outbox->wal_pages = outbox->wal_moved = outbox->wal_vain = 0;
        outbox->wal_emptied++;
        /* only what went to the file was scrubbed: a page kept in memory would bring back into the
         * WAL, with the next change to it, what was erased from between its cells */
        sqlite3_db_release_memory(outbox->db);
    }
    return outbox_check(outbox, code);
}

/* A reader that stays lets no attempt get anywhere, and each is dearer the longer the WAL. */
static bool rests_from_checkpoints(const struct outbox *outbox)
{
    return outbox->wal_vain > 0 && outbox->wal_pages - outbox->wal_vain < OUTBOX_WAL_CHECKPOINT;
}

enum outbox_error outbox_checkpoint_if_due(struct outbox *outbox)
{
    int due = outbox->wal_soon ? OUTBOX_WAL_SOON : OUTBOX_WAL_CHECKPOINT;
    int in_wal = 0, moved = 0;
    int code;

    if (outbox->failed)
        return OUTBOX_ERROR_FATAL;
    outbox->wal_soon = false;
    if (outbox->wal_unwanted)
        return empty_wal(outbox);
    /* where it is shorter than it was it began anew */
    if (outbox->wal_pages < outbox->wal_moved || outbox->wal_pages < outbox->wal_vain)
        outbox->wal_moved = outbox->wal_vain = 0;
    if (outbox->wal_pages - outbox->wal_moved < due || rests_from_checkpoints(outbox))
        return OUTBOX_ERROR_NONE;
    code = sqlite3_wal_checkpoint_v2(outbox->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_wal, &moved);
    if (code == SQLITE_OK) {
        outbox->wal_vain = moved > outbox->wal_moved ? 0 : outbox->wal_pages;
        outbox->wal_moved = moved;
    }
    return outbox_check(outbox, code);
}

const char *outbox_error_text(const struct outbox *outbox)
{
    return outbox->error_text;
}

const char *outbox_error_kind(const struct outbox *outbox)
{
    return outbox->error_kind ? outbox->error_kind : "other";
}
