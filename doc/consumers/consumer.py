"""Reads siwa-notifyd's outbox with the standard library: consumer.py OUTBOX ACCOUNTS [once]"""
import sqlite3
import sys
import time

# Each takes the person and the time of the event; none touches who signed in after it.
ACTIONS = {
    "account-delete": "DELETE FROM person WHERE sub = ? AND signed_in_ms < ?",
    "consent-revoked": "UPDATE person SET linked = 0 WHERE sub = ? AND signed_in_ms < ?",
    "email-disabled": "UPDATE person SET mail = 0 WHERE sub = ? AND signed_in_ms < ?",
    "email-enabled": "UPDATE person SET mail = 1 WHERE sub = ? AND signed_in_ms < ?",
}


def consume(outbox, accounts):
    """Does what a batch of events asks; returns how many there were."""
    last, = accounts.execute("SELECT last FROM cursor").fetchone()
    events = outbox.execute("""SELECT id, type, sub, coalesce(event_time_ms, issued_at_ms)
                               FROM outbox WHERE id > ? ORDER BY id LIMIT 500""", (last,)).fetchall()
    pruned_through, = outbox.execute("SELECT pruned_through FROM outbox_state").fetchone()
    if last < pruned_through:
        sys.exit(f"events up to {pruned_through} were pruned, and only those up to {last} were read")
    with accounts:  # one transaction: the work and the cursor
        for _, kind, sub, time_ms in events:
            if kind in ACTIONS:
                accounts.execute(ACTIONS[kind], (sub, time_ms))
        if events:
            accounts.execute("UPDATE cursor SET last = ?", (events[-1][0],))
    return len(events)


def main():
    outbox = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    accounts = sqlite3.connect(sys.argv[2])
    once = "once" in sys.argv[3:]
    while consume(outbox, accounts) or not once:
        time.sleep(0 if once else 1)


main()
