"""Readers beside a load: readers.py DATABASE CONTROL. Eight threads poll the file ten times a second, as the manual says:
PRAGMA data_version first, and rows only where it changed; 64 connections wait on the control socket and ask again from where
they are. Says `ready` when all wait, and at SIGTERM what each kind has seen."""

import json
import re
import selectors
import signal
import socket
import sqlite3
import sys
import threading
import time

READERS, POLLS, EVERY_S = 8, 64, 0.1

stop = threading.Event()
seen = {"file": 0, "polls": 0, "answers": 0}


def read_file(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    last, seen_version = 0, None
    while not stop.wait(EVERY_S):
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version == seen_version:
            continue
        seen_version = version
        while rows := connection.execute("SELECT id FROM outbox WHERE id > ? ORDER BY id LIMIT 500", (last,)).fetchall():
            last = rows[-1][0]
            seen["file"] += len(rows)


def ask(stream, last):
    stream.sendall(f"GET /v1/events?after={last}&limit=500&wait=60 HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def wait_on(path):
    selector = selectors.DefaultSelector()
    for _ in range(POLLS):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(path)
        ask(stream, 0)
        selector.register(stream, selectors.EVENT_READ, bytearray())
    print("ready", flush=True)
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            key.data.extend(key.fileobj.recv(1 << 20))
            head, _, body = bytes(key.data).partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if not length or len(body) < int(length[1]):
                continue
            key.data.clear()
            events = json.loads(body)["events"]
            seen["polls"] += len(events)
            seen["answers"] += 1
            ask(key.fileobj, events[-1]["id"] if events else 0)


signal.signal(signal.SIGTERM, lambda *_: stop.set())
threads = [threading.Thread(target=read_file, args=(sys.argv[1],)) for _ in range(READERS)]
for thread in threads:
    thread.start()
began = time.process_time()
wait_on(sys.argv[2])
for thread in threads:
    thread.join()
print(f"{seen['file']} rows from the file, {seen['polls']} in {seen['answers']} answers, {time.process_time() - began:.1f} s CPU")
