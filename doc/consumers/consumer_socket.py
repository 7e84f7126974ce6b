"""Reads siwa-notifyd's outbox over its control socket: consumer_socket.py SOCKET CONSUMER ACCOUNTS [once]"""
import http.client
import json
import socket
import sqlite3
import sys

# Each takes the person and the time of the event; none touches who signed in after it.
ACTIONS = {
    "account-delete": "DELETE FROM person WHERE sub = ? AND signed_in_ms < ?",
    "consent-revoked": "UPDATE person SET linked = 0 WHERE sub = ? AND signed_in_ms < ?",
    "email-disabled": "UPDATE person SET mail = 0 WHERE sub = ? AND signed_in_ms < ?",
    "email-enabled": "UPDATE person SET mail = 1 WHERE sub = ? AND signed_in_ms < ?",
}


def ask(path, method, target, body=None):
    connection = http.client.HTTPConnection("daemon", timeout=90)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request(method, target, body and json.dumps(body))
    answer = json.load(connection.getresponse())
    connection.close()
    # A problem as in RFC 7807: 410 where events were pruned unread. To have acknowledged more before is none.
    if "status" in answer and answer["type"] != "/problems/ack-backwards":
        sys.exit(f"{answer['title']}: {answer['detail']}")
    return answer


def consume(path, consumer, accounts, wait_s):
    """Does what a batch of events asks, then acknowledges it; returns how many there were."""
    last, = accounts.execute("SELECT last FROM cursor").fetchone()
    events = ask(path, "GET", f"/v1/events?after={last}&limit=500&wait={wait_s}")["events"]
    with accounts:  # one transaction: the work and the cursor
        for event in events:
            time_ms = event["event_time_ms"] or event["issued_at_ms"]
            if event["type"] in ACTIONS:
                accounts.execute(ACTIONS[event["type"]], (event["sub"], time_ms))
        if events:
            last = events[-1]["id"]
            accounts.execute("UPDATE cursor SET last = ?", (last,))
    # Also when nothing came: the last time may have ended between the two.
    ask(path, "POST", f"/v1/consumers/{consumer}/ack", {"through": last})
    return len(events)


def main():
    path, consumer, once = sys.argv[1], sys.argv[2], "once" in sys.argv[4:]
    accounts = sqlite3.connect(sys.argv[3])
    while consume(path, consumer, accounts, 0 if once else 60) or not once:
        pass


main()
