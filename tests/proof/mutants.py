#!/usr/bin/env python3
"""Would the tests notice? Changes the sources in one small place after the other, and runs the unit tests that are about that place.

    mutants.py [--room ROOM]… [--count N] [--seed N] [--file PART] [--only FILE] [--survivors]

A condition is flipped, a constant is one more or the other one, a call is left out. A mutant is killed when a unit test fails,
crashes or does not end, as it is built or, in the verifier, with AddressSanitizer and UBSan, as `make asan` builds it; it does not
count where it does not compile, or where the compiler makes the very same code of it. N
picks so many of each room at random, 0 takes all. Survivors are held against tests/proof/survivors.txt, which says why each may
live: `file: line => line as changed | reason`, or `file: what was done | reason` for all of a kind.

Each mutant is a file of its own beside the tree, of which one object is made, and linked with the tests before the library.
Nothing of the tree changes.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / os.environ.get("SIWA_BUILD", "build")
SURVIVORS = ROOT / "tests" / "proof" / "survivors.txt"
CFLAGS = ["-std=c17", "-O2", "-D_FORTIFY_SOURCE=2", "-fPIE", "-pthread", "-w"]
SANITISED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PACKAGES = ["libmicrohttpd", "openssl", "jansson", "sqlite3", "libcurl", "libconfig", "check"]
TEST_S = 60
ENVIRONMENT = {"MALLOC_PERTURB_": "165"}
SLOW_SANITISED = ("json_flat", "vectors")  # sanitised, they are left to their own file
UNFORKED = {"CK_FORK": "no"}  # quicker, where no test needs to be apart: in the verifier

# The unit tests of a file, the quickest to notice first; those of its room behind.
VERIFIER = ("notification", "base64url", "verdict", "peek", "judge", "jws", "jwks", "vectors", "json_flat", "json_text")
TESTS = {
    "verifier": collections.defaultdict(lambda: VERIFIER),
    "keys": {
        "fetch": ("fetch",), "fetch_attempt": ("fetch", "refresher"), "fetch_local": ("fetch",),
        "key_cache": ("key_cache",), "key_file": ("key_cache",), "key_snapshot": ("key_cache",),
        "refresh_plan": ("refresh_plan", "refresher"), "refresher": ("refresher",),
    },
    "dispatcher": {
        "apart": ("quarantine", "deferral", "outbox"), "audit": ("consumers", "outbox"), "backup": ("backup",),
        "consumers": ("consumers", "outbox"),
        "consumers_list": ("consumers",), "deferral": ("deferral",), "deferral_rows": ("deferral",), "delivery": ("writer",),
        "erasure": ("erasure",), "erasure_body": ("erasure",), "erasure_run": ("erasure", "retention"),
        "history": ("history",), "history_summary": ("history",), "identity": ("identity", "outbox"),
        "outbox_reader": ("consumers", "outbox"), "page_scrub": ("page_scrub",), "policy": ("policy",),
        "quarantine": ("quarantine",), "retention": ("retention",), "sweeper": ("sweeper",), "wal_check": ("outbox",),
        "wal_gather": ("wal_gather",), "writer": ("writer_task", "writer"),
    },
}
ELSEWHERE = ("outbox", "deferral", "writer")


def tests_of(room, name):
    tests = TESTS[room].get(name) if room != "verifier" else VERIFIER
    tests = tests or ELSEWHERE
    own = [test for test in tests if test == name]
    return [*own, *(test for test in tests if test != name)]


# ---------------------------------------------------------------------------------------------------------- mutants

Mutant = collections.namedtuple("Mutant", "file begin end new what")
STRANGE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M)
COMPARISON = re.compile(r"(?<![-<>=!+*/%&|^])(==|!=|<=|>=|<|>)(?![<>=])")
OTHERWISE = {"==": ["!="], "!=": ["=="], "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"],
             "&&": ["||"], "||": ["&&"], "true": ["false"], "false": ["true"]}
NUMBER = re.compile(r"(?<![\w.{])(0x[0-9a-fA-F]+|\d+)([uUlL]*)(?![\w.])")
CALL = re.compile(r"(?:(?<=[;{})])|(?<=else))\s*((?:\(void\))?[a-z_]\w*\s*\([^;{}]*\);)")
RETURN = re.compile(r"\breturn (VERDICT_[A-Z_]+|-E[A-Z0-9]+);")
NO_CALLS = ("if", "while", "for", "switch", "return", "sizeof", "do")


def masked(text):
    """The same text with blanks where no code stands."""
    return STRANGE.sub(lambda found: re.sub(r"[^\n]", " ", found.group(0)), text)


def as_number(digits):
    """As C reads it."""
    return int(digits, 8) if re.fullmatch(r"0[0-7]+", digits) else int(digits, 0)


def closing(code, begin):
    depth = 0
    for at in range(begin, len(code)):
        depth += (code[at] == "(") - (code[at] == ")")
        if depth == 0:
            return at
    return None


def line_of(text, at):
    begin = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return text[begin:end if end >= 0 else len(text)]


def mutants_of(file):
    """Every mutant of a file, in the order of the file."""
    text = file.read_text()
    code = masked(text)
    name = str(file.relative_to(ROOT))
    found = []

    def add(begin, end, new, what):
        found.append(Mutant(name, begin, end, new, what))

    for place in COMPARISON.finditer(code):
        for new in OTHERWISE[place.group(1)]:
            add(place.start(1), place.end(1), new, "a condition")
    for place in re.finditer(r"&&|\|\||\btrue\b|\bfalse\b", code):
        what = "a condition" if place.group(0) in ("&&", "||") else "a constant"
        add(place.start(), place.end(), OTHERWISE[place.group(0)][0], what)
    for place in re.finditer(r"\b(?:if|while) \(", code):
        end = closing(code, place.end() - 1)
        condition = code[place.end():end] if end else ""
        if end and not re.search(r"&&|\|\||[=!<>]=|(?<!-)[<>]", condition):
            add(place.end(), end, f"!({text[place.end():end]})", "a condition")
    for place in NUMBER.finditer(code):
        if len(NUMBER.findall(line_of(code, place.start()))) >= 8:
            continue  # a table, which a test goes through as a whole
        number = as_number(place.group(1))
        # More room than is asked for changes nothing, less does.
        line = code[code.rfind("\n", 0, place.start()) + 1:place.start()]
        shrinks = number > 0 and re.search(r"^\s+[\w ]+\w \w+\[[^]]*$|^\w[\w ]+ \w+\[[^]]*$|\b[mc]alloc\([^;]*$", line)
        add(place.start(), place.end(), f"{number + (-1 if shrinks else 1)}{place.group(2)}", "a constant")
    for place in RETURN.finditer(code):
        new = "0" if place.group(1).startswith("-") else "VERDICT_ACCEPTED"
        add(place.start(1), place.end(1), new if new != place.group(1) else "VERDICT_INTERNAL", "a constant")
    for place in CALL.finditer(code):
        called = re.match(r"(?:\(void\))?(\w+)", place.group(1)).group(1)
        if called not in NO_CALLS and not called.isupper():
            add(place.start(1), place.end(1), ";", f"no {called}")
    return sorted(found)


def key_of(mutant, text):
    """How a mutant is named: its lines before and after."""
    begin = text.rfind("\n", 0, mutant.begin) + 1
    end = text.find("\n", mutant.end)
    if re.fullmatch(r"\s*return [\w-]+;", text[begin:end]):  # which says little without what stands before
        begin = text.rfind("\n", 0, begin - 1) + 1
    squeeze = lambda lines: " ".join(lines.split())
    return f"{mutant.file}: {squeeze(text[begin:end])} => {squeeze(text[begin:mutant.begin] + mutant.new + text[mutant.end:end])}"


# -------------------------------------------------------------------------------------------------------------- run


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


class Bench:
    """Compiles, links and runs. Each thread has a folder of its own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.cflags = [*CFLAGS, "-D_GNU_SOURCE", '-DSIWA_VERSION="0"', "-Iinclude", *output("pkg-config", "--cflags", *PACKAGES)]
        self.libs = [*output("pkg-config", "--libs", *PACKAGES), "-lm", "-pthread"]
        self.local = threading.local()
        self.lock = threading.Lock()
        self.threads = 0
        self.texts = {}
        self.apart = self.namespace()
        self.environment = {**os.environ, **ENVIRONMENT, "VECTORS_DIR": str((ROOT / os.environ.get(
            "VECTORS_DIR", "../shared/vectors")).resolve())}

    def namespace(self):
        """Where it may be, a test has a /tmp of its own and cannot outlive us."""
        if ROOT.is_relative_to("/tmp"):  # which would hide what the tests read
            return []
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                   'mount -t tmpfs tmpfs /tmp && exec "$@"', "sh"]
        done = subprocess.run([*command, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return command if done.returncode == 0 else []

    def run(self, *command, **how):
        return subprocess.run(list(map(str, command)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False, **how).returncode

    def compile(self, source, made, *more):
        return self.run("cc", *self.cflags, *more, "-c", "-o", made, source) == 0

    def test_object(self, name, *more):
        return self.folder / f"test_{name}{'-sanitised' if more else ''}.o"

    def test_objects(self, names, *more):
        """The tests themselves, once."""
        def make(name):
            if not self.compile(f"tests/unit/test_{name}.c", self.test_object(name, *more), "-Itests/unit", *more):
                raise RuntimeError(f"test_{name} does not compile")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(make, names))

    def mine(self):
        if not hasattr(self.local, "folder"):
            with self.lock:
                self.threads += 1
                self.local.folder = self.folder / f"thread-{self.threads}"
            self.local.folder.mkdir()
            self.local.originals = {}
        return self.local.folder

    def object_of(self, file, text, *more):
        """The path of an object made of this text in the place of a file; None where it does not compile."""
        folder = self.mine()
        source = folder / pathlib.Path(file).name
        source.write_text(text)
        made = folder / "mutant.o"
        made.unlink(missing_ok=True)
        return made if self.compile(source, made, "-iquote", (ROOT / file).parent, *more) else None

    def survives(self, made, room, test, *more):
        program = self.mine() / "test"
        if self.run("cc", "-pie", *more, "-o", program, self.test_object(test, *more), made, BUILD / "libsiwa.a", *self.libs) != 0:
            raise RuntimeError(f"test_{test} does not link")
        process = subprocess.Popen([*self.apart, program], cwd=ROOT, env={**self.environment, **(UNFORKED if room == "verifier" else {})}, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            return process.wait(TEST_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            process.wait()

    def stands(self, room, test, more):
        """The control of the bench itself: linked with an object that was not changed, a test passes."""
        file = next(file for file in sorted((ROOT / "src" / room).glob("*.c")) if test in tests_of(room, file.stem))
        name = str(file.relative_to(ROOT))
        made = self.object_of(name, self.text_of(name), *more)
        if not self.survives(made, room, test, *more):
            raise RuntimeError(f"test_{test} fails with {name} as it stands {' '.join(more)}")

    def text_of(self, file):
        with self.lock:
            return self.texts.setdefault(file, (ROOT / file).read_text())

    def verdict(self, mutant):
        """killed, survived, same (code) or broken (does not compile)"""
        text = self.text_of(mutant.file)
        self.mine()
        if mutant.file not in self.local.originals:
            self.local.originals[mutant.file] = self.object_of(mutant.file, text).read_bytes()
        changed = text[:mutant.begin] + mutant.new + text[mutant.end:]
        made = self.object_of(mutant.file, changed)
        if not made:
            return "broken"
        if made.read_bytes() == self.local.originals[mutant.file]:
            return "same"
        room, name = mutant.file.split("/")[1], pathlib.Path(mutant.file).stem
        tests = tests_of(room, name)
        if not all(self.survives(made, room, test) for test in tests):
            return "killed"
        if room != "verifier":
            return "survived"
        made = self.object_of(mutant.file, changed, *SANITISED)
        quick = [test for test in tests if test == name or test not in SLOW_SANITISED]
        return "survived" if all(self.survives(made, room, test, *SANITISED) for test in quick) else "killed"


def read_survivors():
    """{key: reason}"""
    reasons = {}
    for line in SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else []:
        if line.strip() and not line.startswith("#"):
            key, _, reason = line.rpartition(" | ")
            reasons[key.strip()] = reason.strip()
    return reasons


def choose(room, count, seed, part=""):
    files = [file for file in sorted((ROOT / "src" / room).glob("*.c")) if part in file.name]
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    if 0 < count < len(mutants):
        mutants = sorted(random.Random(seed).sample(mutants, count))
    return mutants


def measure(room, count, seed, part="", progress=lambda text: None, only=None):
    """(counts, [what survived without a reason]) of one room; only: the keys of those to try."""
    mutants = [mutant for mutant in choose(room, count, seed, part)
               if only is None or key_of(mutant, (ROOT / mutant.file).read_text()) in only]
    reasons = read_survivors()
    counts, unexplained = collections.Counter(), []
    with tempfile.TemporaryDirectory(prefix="siwa-mutants-", dir="/var/tmp") as folder:
        bench = Bench(folder)
        names = sorted({test for mutant in mutants for test in tests_of(room, pathlib.Path(mutant.file).stem)})
        builds = ((), SANITISED) if room == "verifier" else ((),)
        for more in builds:
            bench.test_objects(names, *more)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda pair: bench.stands(room, *pair), [(name, more) for name in names for more in builds]))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for mutant, verdict in zip(mutants, pool.map(bench.verdict, mutants)):
                key = key_of(mutant, bench.text_of(mutant.file))
                counts[verdict] += 1
                if verdict != "survived":
                    continue
                reason = reasons.get(key) or reasons.get(f"{mutant.file}: {mutant.what}") or reasons.get(f"*: {mutant.what}")
                progress(f"survived{' (' + reason + ')' if reason else ''}: {key}")
                if not reason:
                    unexplained.append(key)
    return counts, unexplained


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", action="append", choices=sorted(TESTS))
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", metavar="PART", default="")
    parser.add_argument("--only", metavar="FILE", type=pathlib.Path, help="the mutants to try, as --survivors names them")
    parser.add_argument("--survivors", action="store_true", help="only print those without a reason")
    given = parser.parse_args()
    only = set(given.only.read_text().splitlines()) if given.only else None
    for room in given.room or ["verifier"]:
        progress = (lambda text: None) if given.survivors else (lambda text: print(text, file=sys.stderr, flush=True))
        counts, unexplained = measure(room, given.count, given.seed, given.file, progress, only)
        print("\n".join(unexplained) if given.survivors else json.dumps({"room": room, **counts, "without a reason": len(unexplained)}))


if __name__ == "__main__":
    main()
