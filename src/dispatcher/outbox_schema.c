#include <errno.h>
#include <string.h>

#include "outbox_internal.h"

/* Each text stands in sqlite_schema byte for byte as it is here, and is compared so. */
static const struct {
    const char *type, *name, *sql;
} schema[] = {
    /* One row: ids are given from here, in the order of commit, and never again. pruned_through is
     * the highest id that retention removed. copied_at_s is 0 except in a copy that no daemon
     * has opened yet. */
    {"table", "state",
     "CREATE TABLE state ("
     "only INTEGER PRIMARY KEY CHECK (only = 1), "
     "generation INTEGER NOT NULL, "
     "pruned_through INTEGER NOT NULL, "
     "last_id INTEGER NOT NULL, "
     "key_check BLOB NOT NULL, "
     "copied_at_s INTEGER NOT NULL) STRICT"},
    /* raw_id is the key of the notification's body in raw. person stands for team and sub, also
     * when erasure has taken the sub: identity_of_person. */
    {"table", "events",
     "CREATE TABLE events ("
     "id INTEGER PRIMARY KEY, "
     "type TEXT NOT NULL, "
     "client_id TEXT NOT NULL, "
     "app TEXT NOT NULL, "
     "team TEXT NOT NULL, "
     "sub TEXT, "
     "email TEXT, "
     "is_private_email INTEGER, "
     "event_time_ms INTEGER, "
     "issued_at_ms INTEGER NOT NULL, "
     "received_at_ms INTEGER NOT NULL, "
     "jti TEXT, "
     "raw_type TEXT NOT NULL, "
     "raw_id INTEGER NOT NULL, "
     "test INTEGER NOT NULL DEFAULT 0, "
     "person BLOB, "
     "erased_at_ms INTEGER) STRICT"},
    {"index", "events_deletes",
     "CREATE INDEX events_deletes ON events (id) WHERE type = 'account-delete' AND test = 0 AND "
     "erased_at_ms IS NULL"},
    {"index", "events_test", "CREATE INDEX events_test ON events (id) WHERE test = 1"},
    /* mixed is 1 where a body names more than one person, not all of whom need to have a row. */
    {"table", "raw",
     "CREATE TABLE raw (id INTEGER PRIMARY KEY, received_at_ms INTEGER NOT NULL, "
     "mixed INTEGER NOT NULL, body BLOB NOT NULL) STRICT"},
    {"index", "raw_mixed", "CREATE INDEX raw_mixed ON raw (id) WHERE mixed = 1"},
    /* Ordered by time first, so that it grows at its end. */
    {"table", "seen",
     "CREATE TABLE seen (event_time_ms INTEGER NOT NULL, identity BLOB NOT NULL, "
     "received_at_ms INTEGER NOT NULL, PRIMARY KEY (event_time_ms, identity)) "
     "STRICT, WITHOUT ROWID"},
    {"table", "apps",
     "CREATE TABLE apps (client_id TEXT PRIMARY KEY, last_accepted_ms INTEGER NOT NULL) "
     "STRICT, WITHOUT ROWID"},
    /* position: the id of the last row that the consumer is done with. */
    {"table", "consumers",
     "CREATE TABLE consumers (name TEXT PRIMARY KEY, position INTEGER NOT NULL, "
     "added_ms INTEGER NOT NULL, acknowledged_ms INTEGER) STRICT, WITHOUT ROWID"},
    /* For each account-delete and consent-revoked, when each consumer acknowledged it first. */
    {"table", "acks",
     "CREATE TABLE acks (event_id INTEGER NOT NULL, consumer TEXT NOT NULL, "
     "acknowledged_ms INTEGER NOT NULL, PRIMARY KEY (event_id, consumer)) STRICT, WITHOUT ROWID"},
    /* AUTOINCREMENT: an id that was dropped by hand must not name another row later. */
    {"table", "quarantine",
     "CREATE TABLE quarantine (id INTEGER PRIMARY KEY AUTOINCREMENT, reason TEXT NOT NULL, "
     "client_id TEXT NOT NULL, received_at_ms INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE, "
     "body BLOB NOT NULL) STRICT"},
    /* What arrived on each day, UTC, counted from 1970: see dispatcher/history.h. */
    {"table", "days",
     "CREATE TABLE days (day INTEGER NOT NULL, what TEXT NOT NULL, name TEXT NOT NULL, "
     "client_id TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (day, what, name, client_id)) "
     "STRICT, WITHOUT ROWID"},
    /* What the audit tells of a row that retention removed. */
    {"table", "facts",
     "CREATE TABLE facts (id INTEGER PRIMARY KEY, type TEXT NOT NULL, client_id TEXT NOT NULL, "
     "app TEXT NOT NULL, team TEXT NOT NULL, issued_at_ms INTEGER NOT NULL, "
     "received_at_ms INTEGER NOT NULL, person BLOB, erased_at_ms INTEGER, "
     "removed_at_ms INTEGER NOT NULL) STRICT"},
    /* Whose account-delete was erased: what comes for them later follows it. */
    {"table", "erased",
     "CREATE TABLE erased (person BLOB PRIMARY KEY, since_ms INTEGER NOT NULL) "
     "STRICT, WITHOUT ROWID"},
    /* refresh is the number of the last successful refresh of the keys before it was kept: all that
     * came since have lacked its kid. */
    {"table", "deferred",
     "CREATE TABLE deferred (id INTEGER PRIMARY KEY AUTOINCREMENT, kid TEXT NOT NULL, "
     "client_id TEXT NOT NULL, received_at_ms INTEGER NOT NULL, refresh INTEGER NOT NULL, "
     "digest BLOB NOT NULL UNIQUE, body BLOB NOT NULL) STRICT"},
    {"table", "refreshes",
     "CREATE TABLE refreshes (number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL) STRICT"},
    /* Whom an operator asked to erase, until it is done. An empty person is the mark of
     * erasure_mark. */
    {"table", "erasing",
     "CREATE TABLE erasing (person BLOB PRIMARY KEY, team TEXT NOT NULL, since_ms INTEGER NOT "
     "NULL) "
     "STRICT, WITHOUT ROWID"},
    {"view", "outbox",
     "CREATE VIEW outbox AS SELECT id, type, client_id, app, team, sub, email, is_private_email, "
     "event_time_ms, issued_at_ms, received_at_ms, jti, raw_type FROM events WHERE test = 0"},
    {"view", "outbox_state",
     "CREATE VIEW outbox_state AS SELECT generation, pruned_through, last_id FROM state"},
};

#define SCHEMA_COUNT (sizeof schema / sizeof *schema)

#define STRINGIZE_(value) #value
#define STRINGIZE(value)  STRINGIZE_(value)

static int insert_state(sqlite3 *db, int64_t generation,
                        const unsigned char key_check[IDENTITY_BYTES])
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "INSERT INTO state VALUES (1, ?1, 0, 0, ?2, 0)", -1,
                                  &statement, NULL);

    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(statement, 1, generation);
    if (code == SQLITE_OK)
        code = sqlite3_bind_blob(statement, 2, key_check, IDENTITY_BYTES, SQLITE_STATIC);
    if (code == SQLITE_OK)
        sqlite3_step(statement);
    return code == SQLITE_OK ? sqlite3_finalize(statement) : (sqlite3_finalize(statement), code);
}

int outbox_schema_create(sqlite3 *db, int64_t generation,
                         const unsigned char key_check[IDENTITY_BYTES])
{
    int code = sqlite3_exec(
        db, "BEGIN IMMEDIATE;"
            "PRAGMA application_id = " STRINGIZE(OUTBOX_APPLICATION_ID) ";"
                                       "PRAGMA user_version = " STRINGIZE(OUTBOX_SCHEMA_VERSION),
                                                                          NULL, NULL, NULL);

    for (size_t i = 0; code == SQLITE_OK && i < SCHEMA_COUNT; i++)
        code = sqlite3_exec(db, schema[i].sql, NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = insert_state(db, generation, key_check);
    return code == SQLITE_OK ? sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) : code;
}

int outbox_query_number(sqlite3 *db, const char *sql, int64_t *ret_number)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    int64_t number = 0;

    if (code != SQLITE_OK)
        return code;
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    else if (code == SQLITE_DONE)
        code = SQLITE_ERROR; /* a table that must have a row has none */
    sqlite3_finalize(statement);
    if (code != SQLITE_ROW)
        return code;
    *ret_number = number;
    return SQLITE_OK;
}

int outbox_marks_check(int64_t application_id, int64_t user_version, const char *path,
                       char ret_why[OUTBOX_WHY_BYTES])
{
    if (application_id != OUTBOX_APPLICATION_ID)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: a database of another program (application_id %lld); set "
                              "`database` to a path of siwa-notifyd's own",
                              path, (long long)application_id);
    if (user_version > OUTBOX_SCHEMA_VERSION)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: made by a newer siwa-notifyd (schema %lld, this one knows %d); "
                              "install that version again",
                              path, (long long)user_version, OUTBOX_SCHEMA_VERSION);
    if (user_version != OUTBOX_SCHEMA_VERSION)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: schema version %lld is none of siwa-notifyd's; restore the "
                              "database from a backup",
                              path, (long long)user_version);
    return 0;
}

static size_t schema_index(const char *type, const char *name, const char *sql)
{
    for (size_t i = 0; i < SCHEMA_COUNT; i++)
        if (strcmp(schema[i].type, type) == 0 && strcmp(schema[i].name, name) == 0 &&
            strcmp(schema[i].sql, sql) == 0)
            return i;
    return SCHEMA_COUNT;
}

static const char *column(sqlite3_stmt *statement, int index)
{
    const unsigned char *text = sqlite3_column_text(statement, index);

    return text ? (const char *)text : "";
}

/* Each object that is ours is there exactly as we make it, and no other is. What SQLite keeps for
 * itself (statistics, sequence, automatic indexes) is not looked at. */
static int compare_schema(sqlite3 *db, bool *ret_same)
{
    sqlite3_stmt *statement = NULL;
    size_t found = 0;
    bool same = true;
    int code = sqlite3_prepare_v2(
        db,
        "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        -1, &statement, NULL);

    if (code != SQLITE_OK)
        return code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        size_t index =
            schema_index(column(statement, 0), column(statement, 1), column(statement, 2));

        if (index == SCHEMA_COUNT)
            same = false;
        else
            found++; /* SQLite keeps names unique */
    }
    sqlite3_finalize(statement);
    if (code != SQLITE_DONE)
        return code;
    *ret_same = same && found == SCHEMA_COUNT;
    return SQLITE_OK;
}

int outbox_schema_check(sqlite3 *db, const char *path, char ret_why[OUTBOX_WHY_BYTES])
{
    int64_t application_id = 0, user_version = 0;
    bool same = false;
    int error;
    int code = outbox_query_number(db, "PRAGMA application_id", &application_id);

    if (code == SQLITE_OK)
        code = outbox_query_number(db, "PRAGMA user_version", &user_version);
    if (code != SQLITE_OK)
        return outbox_explain_sqlite(ret_why, db, code, path, "cannot be read");
    error = outbox_marks_check(application_id, user_version, path, ret_why);
    if (error < 0)
        return error;
    code = compare_schema(db, &same);
    if (code != SQLITE_OK)
        return outbox_explain_sqlite(ret_why, db, code, path, "its schema cannot be read");
    if (!same)
        return outbox_explain(ret_why, -EINVAL,
                              "%s: its tables are not those of siwa-notifyd's schema %d; undo what "
                              "was changed by hand, or restore the database from a backup",
                              path, OUTBOX_SCHEMA_VERSION);
    return 0;
}

int outbox_quick_check(sqlite3 *db, const char *path, char ret_why[OUTBOX_WHY_BYTES])
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &statement, NULL);
    int error = 0;

    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW && strcmp(column(statement, 0), "ok") != 0)
        error = outbox_explain(ret_why, -EIO,
                               "%s: quick_check finds it damaged: %.200s; restore it from a backup",
                               path, column(statement, 0));
    else if (code == SQLITE_INTERRUPT)
        error = outbox_explain(ret_why, -ECANCELED, "%s: quick_check was stopped", path);
    else if (code != SQLITE_ROW)
        error = outbox_explain_sqlite(ret_why, db, code, path, "quick_check failed");
    /* what passes is no damage */
    if (error == -EIO && code != SQLITE_ROW && outbox_error_class(code, 0) != OUTBOX_ERROR_FATAL)
        error = -EAGAIN;
    sqlite3_finalize(statement);
    return error;
}

int outbox_connection_settings(sqlite3 *db)
{
    int code = sqlite3_extended_result_codes(db, 1);

    if (code == SQLITE_OK)
        code = sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(db, OUTBOX_BUSY_MS);
    return code;
}
