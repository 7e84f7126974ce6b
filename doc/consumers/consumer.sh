#!/bin/sh
# Reads siwa-notifyd's outbox with the sqlite3 command: consumer.sh OUTBOX ACCOUNTS [once]
# One statement of each kind does a whole batch: events of one person are in no order that matters but their time.
set -eu
outbox=$1 accounts=$2 once=${3:-}

consume() {
    sqlite3 -bail -cmd '.timeout 5000' "$accounts" <<SQL
ATTACH 'file:$outbox?mode=ro' AS apple;
BEGIN IMMEDIATE;
CREATE TEMP TABLE batch AS
    SELECT id, type, sub, coalesce(event_time_ms, issued_at_ms) AS time_ms
    FROM apple.outbox WHERE id > (SELECT last FROM cursor) ORDER BY id LIMIT 500;
-- A row that is missing makes this fail, and with it the whole.
CREATE TEMP TABLE checked (pruned INTEGER CHECK (pruned = 0));
INSERT INTO checked SELECT pruned_through > last FROM apple.outbox_state, cursor;
DELETE FROM person WHERE EXISTS (SELECT 1 FROM batch
    WHERE batch.sub = person.sub AND type = 'account-delete' AND time_ms > signed_in_ms);
UPDATE person SET linked = 0 WHERE EXISTS (SELECT 1 FROM batch
    WHERE batch.sub = person.sub AND type = 'consent-revoked' AND time_ms > signed_in_ms);
UPDATE person SET mail = type = 'email-enabled' FROM
    (SELECT sub AS who, type, max(time_ms) AS time_ms FROM batch WHERE type LIKE 'email-%' GROUP BY sub)
    WHERE who = person.sub AND time_ms > signed_in_ms;
UPDATE cursor SET last = (SELECT max(id) FROM batch) WHERE EXISTS (SELECT 1 FROM batch);
COMMIT;
SELECT count(*) FROM batch;
SQL
}

while count=$(consume); do
    if [ "$count" -eq 0 ]; then
        [ "$once" != once ] || exit 0
        sleep 1
    fi
done
echo "consumer.sh: events were pruned unread, or a database cannot be used" >&2
exit 1
