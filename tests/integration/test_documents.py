"""What is written about the program, held to the program: the manual pages, README.md, and whatever stands below doc/."""

import contextlib
import importlib.machinery
import importlib.util
import pathlib
import re
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import unittest

import harness

MANUAL = harness.ROOT / "doc/man"
COMMANDS = re.compile(r'X\(\w+, "([a-z-]+)", "')
SETTINGS = re.compile(r'X\("(\w*)", "(\w+)", \w+,')
VERDICTS = re.compile(r'X\(\w+, "(\w+)", (\d+)\)')


def source(path):
    return (harness.ROOT / path).read_text()


def commands():
    return COMMANDS.findall(source("include/cli/commands.h"))


def settings():
    return {name for _, name in SETTINGS.findall(source("src/support/config_table.h"))}


def page(name):
    return (MANUAL / name).read_text()


def section(text, title):
    """A section of a manual page, by the title that .Sh or .Ss gives it."""
    match = re.search(rf"^\.S([hs]) {re.escape(title)}$(.*?)(?=^\.Sh |^\.S\1 |\Z)", text, re.M | re.S)
    if not match:
        raise AssertionError(f"there is no section {title}")
    return match.group(2)


def help_of(*command):
    done = subprocess.run([harness.PROGRAM, *command, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def documents():
    return sorted([harness.ROOT / "README.md", harness.ROOT / "CONTRIBUTING.md", *harness.ROOT.glob("doc/**/*.md")])


class Manual(unittest.TestCase):
    """siwa-notifyd(8), siwa-notifyd.conf(5), siwa-notifyd-outbox(7): all that there is, and nothing else."""

    def test_commands_and_their_options(self):
        text = section(page("siwa-notifyd.8"), "COMMANDS")
        entries = re.split(r"^\.It Ic ", text, flags=re.M)[1:]
        told = {entry.split()[0]: entry for entry in entries}
        self.assertEqual(set(told), set(commands()))
        self.assertEqual(len(entries), len(told), "a command stands there twice")
        for command, entry in told.items():
            options = set(re.findall(r"^  --([a-z-]+)", help_of(command), re.M)) - {"help", "config"}
            # `--json as always here` is for scripts that give it everywhere
            options -= set(re.findall(r"^  --([a-z-]+) +as always here", help_of(command), re.M))
            with self.subTest(command=command):
                self.assertEqual(set(re.findall(r"(?:\bFl Fl |--)([a-z-]+)", entry)) - {"help", "config"}, options)

    def test_what_prints_data_takes_json(self):
        """Also where it is JSON anyway: a script may give it everywhere."""
        for command in set(commands()) - {"serve", "check-config"}:
            with self.subTest(command=command):
                self.assertRegex(help_of(command), "(?m)^  --json ")

    def test_outcomes(self):
        verdicts = dict(VERDICTS.findall(source("include/verifier/verdict.h")))
        self.assertIn("accepted", verdicts)
        told = re.findall(r"^\.It Li (\w+) Pq (\d+)$", section(page("siwa-notifyd.8"), "OUTCOMES"), re.M)
        self.assertEqual(len(told), len(verdicts))
        self.assertEqual(dict(told), verdicts)

    def test_metrics(self):
        told = {}
        for names, kind, labels in re.findall(r"^\.It Li ([\w ,]+) Pq (\w+)(?: : Li ([\w ,]+))?$",
                                              section(page("siwa-notifyd.8"), "METRICS"), re.M):
            for name in names.split(" , "):
                told[name] = (kind, frozenset(labels.split(" , ")) if labels else frozenset())
        apple = harness.Apple()
        with harness.Daemon(apple) as daemon:
            text = daemon.get("/metrics").body
        kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
        labels = {}
        for name, names in harness.Metrics(text).samples:
            family = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
            labels[family] = frozenset(label for label, _ in names if label != "le") | labels.get(family, frozenset())
        self.assertEqual({name: kind for name, (kind, _) in told.items()}, kinds)
        # a family without a series yet does not show its labels
        self.assertEqual({name: have for name, (_, have) in told.items() if name in labels}, labels)

    def test_pages_refer_to_pages_that_exist(self):
        for path in MANUAL.glob("*.[1-8]"):
            for name, number in re.findall(r"\bXr (siwa-[\w.-]+) (\d)", path.read_text()):
                self.assertTrue((MANUAL / f"{name}.{number}").exists(), f"{path.name}: {name}({number})")

    def test_settings(self):
        told = re.findall(r"^\.It Ic (\w+)$", page("siwa-notifyd.conf.5"), re.M)
        self.assertEqual(set(told), settings())
        self.assertEqual(len(told), len(SETTINGS.findall(source("src/support/config_table.h"))))

    def test_views_and_their_columns(self):
        text = page("siwa-notifyd-outbox.7")
        with harness.Daemon(harness.Apple()) as daemon:
            for view in ("outbox", "outbox_state"):
                with self.subTest(view=view):
                    told = re.findall(r"^\.It Va (\w+) Pq (\w+)( , No or NULL)?$", section(text, f"The view {view}"), re.M)
                    table = {"outbox": "events", "outbox_state": "state"}[view]
                    nullable = {row["name"]: not row["notnull"] and not row["pk"]
                                for row in daemon.query(f"PRAGMA table_info({table})")}
                    there = [(row["name"], row["type"], nullable[row["name"]])
                             for row in daemon.query(f"PRAGMA table_info({view})")]
                    self.assertEqual([(name, kind, bool(null)) for name, kind, null in told], there)
            self.assertEqual({row["name"] for row in daemon.query("SELECT name FROM sqlite_schema WHERE type = 'view'")},
                             set(re.findall(r"^\.Ss The view (\w+)$", text, re.M)))
            marks = [daemon.query(f"PRAGMA {name}")[0][name] for name in ("application_id", "user_version")]
            self.assertIn(f"is {marks[0]} (0x{marks[0]:x},", text)
            self.assertIn(f"the version of the schema, now {marks[1]}.", text)
            plan = daemon.query("EXPLAIN QUERY PLAN SELECT * FROM outbox WHERE id > ? ORDER BY id LIMIT 500", 0)
            self.assertEqual([row["detail"] for row in plan], [re.search(r"^\.Ql (SEARCH .*)$", text, re.M).group(1)])

    def test_the_consumer_in_the_example_works(self):
        """As it stands there, but for paths: it gets each event once, over a restart of its own and of the daemon."""
        program = re.search(r"^(import sqlite3.*?)^\.Ed$", page("siwa-notifyd-outbox.7"), re.M | re.S).group(1)
        self.assertNotIn("\\", program)
        with contextlib.ExitStack() as stack:
            apple = harness.Apple()
            daemon = stack.enter_context(harness.Daemon(apple))
            mine = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="siwa-consumer-"))) / "accounts.db"
            for placeholder, path in (("/var/lib/siwa-notifyd/outbox.db", daemon.database),
                                      ("/var/lib/accounts/accounts.db", mine)):
                self.assertEqual(program.count(placeholder), 1)
                program = program.replace(placeholder, str(path))
            handle = textwrap.dedent("""
                def handle(mine, id, kind, team, sub, event_time_ms, issued_at_ms):
                    mine.execute("CREATE TABLE IF NOT EXISTS done (id INTEGER, type TEXT, sub TEXT)")
                    mine.execute("INSERT INTO done VALUES (?, ?, ?)", (id, kind, sub))
            """)

            @contextlib.contextmanager
            def consumer():
                process = harness.Process(daemon.directory, "consumer")
                process.spawn([sys.executable, "-c", handle + program])
                try:
                    yield process
                    process.require_running()
                finally:
                    process.process.kill()
                    process.process.wait()

            def done():
                with contextlib.closing(sqlite3.connect(mine)) as connection, contextlib.suppress(sqlite3.OperationalError):
                    return connection.execute("SELECT id, type, sub FROM done ORDER BY rowid").fetchall()
                return []

            def rows():
                return [(row["id"], row["type"], row["sub"]) for row in daemon.rows()]

            def caught_up(count):
                harness.wait_until(lambda: len(done()) >= count, f"{count} events are done")
                self.assertEqual(done(), rows())

            def post(kind):
                self.assertEqual(daemon.post(apple.body(apple.notification(kind)))[0], 200)

            post("consent-revoked")
            with consumer():
                caught_up(1)
                post("account-delete")
                caught_up(2)
                daemon.restart()
                post("email-disabled")
                caught_up(3)
            post("email-enabled")
            with consumer():
                caught_up(4)


class Completion(unittest.TestCase):
    """What bash offers: conf/bash-completion asks the program itself."""

    def offered(self, *words):
        """What it offers for the last of the words."""
        script = (f"source {harness.ROOT}/conf/bash-completion; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _siwa_notifyd; "
                  "printf '%s\\n' \"${COMPREPLY[@]}\"")
        done = subprocess.run(["bash", "--norc", "-c", script, "bash", harness.PROGRAM, *words], capture_output=True, text=True,
                              check=True, cwd=harness.ROOT)
        self.assertEqual(done.stderr, "")
        return set(done.stdout.split())

    def test_every_command_and_option(self):
        self.assertEqual(self.offered(""), {*commands(), "help", "--help", "--version"})
        self.assertEqual(self.offered("help", ""), set(commands()))
        self.assertEqual(self.offered("eve"), {"events"})
        for command in commands():
            with self.subTest(command=command):
                options = {f"--{name}" for name in re.findall(r"^  --([a-z-]+)", help_of(command), re.M)}
                self.assertEqual(self.offered(command, ""), options)

    def test_values(self):
        self.assertEqual(self.offered("serve", "--config", "READ"), {"README.md"})
        self.assertEqual(self.offered("events", "--after", ""), set())
        self.assertEqual(self.offered("events", "--follow", "--j"), {"--json"})
        self.assertEqual(self.offered("nonsense", "--"), set())


class Documents(unittest.TestCase):
    """README.md, CONTRIBUTING.md and doc/: what they name exists."""

    def test_commands_and_options_exist(self):
        known = commands()
        for document in documents():
            for command, rest in re.findall(r"siwa-notifyd ((?!COMMAND)[a-z][a-z-]+)\b([^`\n]*)", "\n".join(code(document))):
                with self.subTest(document=document.name, command=command):
                    self.assertIn(command, known)
                    for option in re.findall(r"(?<![\w-])--([a-z-]+)", rest.split("|")[0].split("&&")[0]):
                        self.assertRegex(help_of(command), rf"(?m)^  --{option}\b")

    def test_metrics_exist(self):
        told = page("siwa-notifyd.8")
        for document in documents():
            for metric in set(re.findall(r"\bsiwa_[a-z_]+\b", document.read_text())):
                with self.subTest(document=document.name, metric=metric):
                    self.assertRegex(told, rf"\b{metric}\b")

    def test_the_groups_are_named(self):
        """A stranger has to know which one to join."""
        groups = re.findall(r"^[ug] (\S+)", source("systemd/siwa-notifyd.sysusers"), re.M)
        self.assertEqual(groups, ["siwa-notifyd", "siwa-notifyd-control"])
        for path in ("README.md", "doc/consumers/README.md", "doc/man/siwa-notifyd-outbox.7"):
            for group in groups:
                with self.subTest(path=path, group=group):
                    self.assertRegex(source(path), rf"(`|\.Ql ){group}(`| )")

    def test_links_and_paths_lead_somewhere(self):
        for document in documents():
            text = document.read_text()
            links = re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)[^)]*\)", text)
            paths = re.findall(r"`((?:doc|conf|src|include|tests|systemd|debian)/[\w./-]*)`", text)
            for link in links:
                if link:
                    with self.subTest(document=document.name, link=link):
                        self.assertTrue((document.parent / link).exists())
            for path in paths:
                if re.search(r"NAME|ROOM", path):
                    continue
                with self.subTest(document=document.name, path=path):
                    self.assertTrue((harness.ROOT / path).exists())


class Proof(unittest.TestCase):
    """A row that was not run again stays in the report as it stands there."""

    @classmethod
    def setUpClass(cls):
        loader = importlib.machinery.SourceFileLoader("proof_run", str(harness.ROOT / "tests/proof/run"))
        cls.proof = importlib.util.module_from_spec(importlib.util.spec_from_loader("proof_run", loader))
        loader.exec_module(cls.proof)
        cls.report = harness.ROOT / "PROOF.md"

    def test_the_report_is_read_as_it_was_written(self):
        parts = self.proof.read_report(self.report)
        self.assertEqual(set(parts), {row.name for row in (harness.ROOT / "tests/proof/rows").iterdir()})
        self.assertEqual(self.proof.report_of(parts), self.report.read_text())

    def test_what_was_not_shown_is_not_counted(self):
        parts = self.proof.read_report(self.report)
        before = self.proof.report_of(parts)
        shown = before.count("| **shown** |")
        self.assertIn(f"**{shown} of {len(parts)} promises shown.**", before)
        self.assertIn("| **shown** |", parts["kill9"][0])
        answer = {"row": "kill9", "result": "failed", "why": "a | b", "promise": "p", "command": "c", "seconds": 1, "libraries": {}}
        parts["kill9"] = self.proof.line_of(answer), self.proof.section_of(answer)
        after = self.proof.report_of(parts)
        self.assertIn(f"**{shown - 1} of {len(parts)} promises shown.**", after)
        self.assertIn("1 s: **failed**: a | b", after)
        self.assertEqual(before.partition("## memory-errors")[2], after.partition("## memory-errors")[2])


def code(document):
    """What stands in a document as code: fenced blocks, indented or not, and spans between backquotes."""
    text = document.read_text()
    blocks = re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.M | re.S)
    rest = re.sub(r"^ *```.*?\n.*?^ *```", "", text, flags=re.M | re.S)
    return blocks + re.findall(r"`([^`\n]+)`", rest)
