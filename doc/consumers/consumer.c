/* Reads siwa-notifyd's outbox with libsqlite3: consumer OUTBOX ACCOUNTS [once] */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Each takes the person and the time of the event; none touches who signed in after it. */
static const char *const actions[][2] = {
    {"account-delete", "DELETE FROM person WHERE sub = ?1 AND signed_in_ms < ?2"},
    {"consent-revoked", "UPDATE person SET linked = 0 WHERE sub = ?1 AND signed_in_ms < ?2"},
    {"email-disabled", "UPDATE person SET mail = 0 WHERE sub = ?1 AND signed_in_ms < ?2"},
    {"email-enabled", "UPDATE person SET mail = 1 WHERE sub = ?1 AND signed_in_ms < ?2"},
};

/* Prepares a statement, or ends the program: the transaction that is open is then rolled back. */
static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        exit(1);
    }
    return statement;
}

/* Runs a statement that takes at most a text and a number; the first column of its only row. */
static sqlite3_int64 run(sqlite3 *db, const char *sql, const char *text, sqlite3_int64 number)
{
    sqlite3_stmt *statement = prepare(db, sql);

    sqlite3_bind_text(statement, 1, text, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(statement, 2, number);
    sqlite3_int64 value =
        sqlite3_step(statement) == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    if (sqlite3_finalize(statement) != SQLITE_OK) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        exit(1);
    }
    return value;
}

/* Does what a batch of events asks; returns how many there were. */
static int consume(sqlite3 *outbox, sqlite3 *accounts)
{
    int count = 0, code;

    run(accounts, "BEGIN IMMEDIATE", NULL, 0); /* one transaction: the work and the cursor */
    sqlite3_int64 last = run(accounts, "SELECT last FROM cursor", NULL, 0), id = last;
    sqlite3_stmt *events =
        prepare(outbox, "SELECT id, type, sub, coalesce(event_time_ms, issued_at_ms) "
                        "FROM outbox WHERE id > ?1 ORDER BY id LIMIT 500");
    sqlite3_bind_int64(events, 1, last);
    for (; (code = sqlite3_step(events)) == SQLITE_ROW; count++) {
        id = sqlite3_column_int64(events, 0);
        for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++)
            if (strcmp((const char *)sqlite3_column_text(events, 1), actions[i][0]) == 0)
                run(accounts, actions[i][1], (const char *)sqlite3_column_text(events, 2),
                    sqlite3_column_int64(events, 3));
    }
    sqlite3_finalize(events);
    if (code != SQLITE_DONE ||
        last < run(outbox, "SELECT pruned_through FROM outbox_state", NULL, 0)) {
        fprintf(stderr, "events after %lld were pruned unread, or cannot be read\n",
                (long long)last);
        exit(1);
    }
    run(accounts, "UPDATE cursor SET last = ?2 WHERE ?1 IS NULL", NULL, id);
    run(accounts, "COMMIT", NULL, 0);
    return count;
}

int main(int argc, char **argv)
{
    sqlite3 *outbox = NULL, *accounts = NULL;
    int once = argc > 3 && strcmp(argv[3], "once") == 0;

    if (argc < 3 || sqlite3_open_v2(argv[1], &outbox, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
        sqlite3_open_v2(argv[2], &accounts, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        return fprintf(stderr, "consumer OUTBOX ACCOUNTS [once]\n"), 1;
    sqlite3_busy_timeout(accounts, 5000);
    while (consume(outbox, accounts) > 0 || !once)
        sleep(once ? 0 : 1);
    return 0;
}
