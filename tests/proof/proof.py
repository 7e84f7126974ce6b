"""What the rows of the proof share. A row is a program in tests/proof/rows that keeps this interface:

    ROW --size ci|full [--count N] [--seed N]     tries the promise; --count goes before what the size stands for
    ROW --control [--count N] [--seed N]          breaks the daemon on purpose, and demands that the row itself notices
    ROW --applies                                 whether what a control changes still stands in the sources: exit status 0 or 1

Progress goes to standard error; standard output is one JSON object:

    {"promise": "one sentence", "result": "shown" | "failed" | "not run here", "why": "…", "seed": N,
     "counts": {"what was counted": N, …}, "notes": ["…"]}
    {"controls": [{"broken": "one sentence", "caught": true, "why": "what gave it away"}, …]}

Exit status: 0 shown (every control caught), 1 failed (one missed), 77 cannot be run here: then "why" says what is missing, and
the promise counts as not shown. SIWA_BUILD is the build directory. How a row does it is its own affair: what follows is for
those in Python.

    proof.main(promise, measure, ci=1000, full=100000, controls=[proof.Break("…", [(file, old, new)])])

measure(run) gets run.count, run.seed, run.size, run.build and returns the counts; it raises proof.Failed or proof.NotHere.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "tools"), str(ROOT / "tests" / "integration")]

from sabotage import CannotTry, Copy  # noqa: E402  (the path is set above)

BUILD = os.environ.get("SIWA_BUILD", "build")
NOT_HERE = 77
WHY_MAX = 400


class Failed(Exception):
    """The promise does not hold."""


class NotHere(Exception):
    """This machine cannot try it."""


class Break:
    """A negative control: what is broken, as changes [(file, old, new), …] of a copy of the tree. There the row itself must
    fail. targets is what has to be built there; count how much the row tries; words must stand in what gave it away;
    environment goes to the row."""

    def __init__(self, broken, changes, targets=("all", "proof-programs"), count=None, words="", environment=None):
        self.broken, self.changes, self.targets, self.count, self.words = broken, changes, targets, count, words
        self.environment = environment


class Run:
    def __init__(self, size, count, seed):
        self.size, self.count, self.seed = size, count, seed
        self.build = ROOT / BUILD
        self.program = self.build / "siwa-notifyd"
        self.vectors = (ROOT / os.environ.get("VECTORS_DIR", "../shared/vectors")).resolve()
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def tool(self, *command, **how):
        """Runs a program of the proof: its last line of output is a JSON object of counts. Exit status 1: it found something."""
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              errors="replace", check=False, **how)
        lines = done.stdout.strip().splitlines() or [""]
        if done.returncode == NOT_HERE:
            raise NotHere(lines[-1])
        if done.returncode != 0:
            raise Failed("\n".join(lines[-5:]) + (f" (exit status {done.returncode})" if done.returncode != 1 else ""))
        return json.loads(lines[-1])


def one_line(text):
    text = " ".join(str(text).split())
    return text if len(text) <= WHY_MAX else f"{text[:WHY_MAX // 2]} … {text[-WHY_MAX // 2:]}"


def measure_row(promise, measure, run):
    answer = {"promise": promise, "result": "shown", "why": "", "seed": run.seed, "counts": {}, "notes": run.notes}
    try:
        answer["counts"] = measure(run)
        code = 0
    except NotHere as why:
        answer.update(result="not run here", why=one_line(why))
        code = NOT_HERE
    except Exception as why:  # pylint: disable=broad-except  (whatever goes wrong, nothing was shown)
        answer.update(result="failed", why=one_line(f"{type(why).__name__}: {why}" if not isinstance(why, Failed) else why))
        code = 1
    return answer, code


def control_row(controls, given, also):
    """Runs this row itself in a copy of the tree for each way to break it."""
    row = pathlib.Path(sys.argv[0]).resolve().relative_to(ROOT)
    answers, code = [], 0
    with Copy(ROOT, BUILD, also=also) as copy:
        for control in controls:
            command = [row, "--size", "ci"]
            if control.count or given.count:
                command += ["--count", control.count or given.count]
            if given.seed is not None:
                command += ["--seed", given.seed]
            try:
                failed, output = copy.control(control.changes, control.targets, command, environment=control.environment)
                answer = json.loads(output.strip().splitlines()[-1])
                caught = failed and answer["result"] == "failed" and control.words in answer["why"]
                why = answer["why"] or answer["result"]
            except (CannotTry, ValueError, IndexError) as error:
                caught, why = False, f"could not be tried: {error}"
            print(f"{'caught' if caught else 'MISSED'}: {control.broken}: {one_line(why)}", file=sys.stderr)
            answers.append({"broken": control.broken, "caught": caught, "why": one_line(why)})
            code = code if caught else 1
    return {"controls": answers}, code


def misplaced(controls):
    """The changes of controls that do not stand in their files exactly once."""
    for control in controls:
        for file, old, _ in control.changes:
            count = (ROOT / file).read_text().count(old)
            if count != 1:
                yield f"{control.broken}: {file}: {old!r} stands there {count} times"


def main(promise, measure, controls, ci, full, also=()):
    """also: build directories that the copies of the controls need besides BUILD."""
    parser = argparse.ArgumentParser(description=promise)
    parser.add_argument("--size", choices=("ci", "full"), default="ci")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--applies", action="store_true")
    given = parser.parse_args()
    if given.applies:
        wrong = list(misplaced(controls))
        print("\n".join(wrong) or f"{len(controls)} controls apply")
        sys.exit(1 if wrong or not controls else 0)
    if given.control:
        answer, code = control_row(controls, given, also)
    else:
        count = given.count or (full if given.size == "full" else ci)
        answer, code = measure_row(promise, measure, Run(given.size, count, 1 if given.seed is None else given.seed))
    print(json.dumps(answer))
    sys.exit(code)
