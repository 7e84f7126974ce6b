#!/usr/bin/env python3
"""Breaks a copy of the tree in one place, and demands that a test notices.

    sabotage.py [--make TARGET]… FILE OLD NEW -- COMMAND…

The tree is copied as it stands, with its build. In the copy, FILE is changed from OLD, which must stand there exactly
once, to NEW; then the targets (default: all tests) are built and COMMAND is run. Exit status 0: the command failed, so
the change was caught. 1: it passed all the same. 2: it could not be tried, because OLD does not stand there once, the
build fails, or the command does not even pass where nothing was changed.

As a module: Copy. Environment: SIWA_BUILD is the build directory (default `build`).
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = os.environ.get("SIWA_BUILD", "build")


class CannotTry(Exception):
    """The experiment says nothing: the change does not apply or does not build."""


class Copy:
    """A copy of the tree and its build, to be broken again and again."""

    def __init__(self, root=ROOT, build=BUILD, also=()):
        self.build = build
        self.make_arguments = [f"BUILD={build}"]
        self.folder = tempfile.TemporaryDirectory(prefix="siwa-sabotage-")
        self.root = pathlib.Path(self.folder.name)
        self.originals = {}
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                                capture_output=True, check=True).stdout.decode().split("\0")
        for name in filter(None, listed):
            if (root / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.root / name)
        for folder in (build, *also):
            if (root / folder).is_dir():  # with its times, so that make builds only what changed
                shutil.copytree(root / folder, self.root / folder, symlinks=True)
        # What lies beside the tree does not lie beside the copy.
        vectors = os.environ.get("VECTORS_DIR", "../shared/vectors")
        self.environment = {**os.environ, "SIWA_BUILD": build, "VECTORS_DIR": str((root / vectors).resolve())}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def change(self, file, old, new):
        path = self.root / file
        text = path.read_text()
        if text.count(old) != 1:
            raise CannotTry(f"{file}: {old!r} stands there {text.count(old)} times")
        self.originals.setdefault(file, text)
        path.write_text(text.replace(old, new))

    def restore(self):
        for file, text in self.originals.items():
            (self.root / file).write_text(text)
        self.originals.clear()

    def make(self, *targets):
        done = self.run(["make", "-s", f"-j{os.cpu_count()}", *self.make_arguments, *targets])
        if done.returncode != 0:
            raise CannotTry(f"make {' '.join(targets)} fails:\n{done.stdout[-2000:]}")

    def run(self, command, timeout=1800, environment=None):
        return subprocess.run(list(map(str, command)), cwd=self.root, env={**self.environment, **(environment or {})},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=timeout, check=False)

    def control(self, changes, targets, command, timeout=1800, environment=None):
        """Whether a command fails once the changes, [(file, old, new), …], were made; and what it said."""
        try:
            for change in changes:
                self.change(*change)
            self.make(*targets)
            try:
                done = self.run(command, timeout, environment)
            except subprocess.TimeoutExpired:
                return True, f"did not end within {timeout} s"
            return done.returncode != 0, done.stdout
        finally:
            self.restore()


def main():
    arguments = sys.argv[1:]
    command = arguments[arguments.index("--") + 1:] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", metavar="TARGET", action="append")
    parser.add_argument("file")
    parser.add_argument("old")
    parser.add_argument("new")
    given = parser.parse_args(arguments[:-len(command) - 1] if command else arguments)
    if not command:
        parser.error("no command; it stands behind --")
    targets = given.make or ["all", "tests"]
    with Copy() as copy:
        try:
            copy.make(*targets)
            sound = copy.run(command)
            if sound.returncode != 0:
                raise CannotTry(f"the command fails where nothing was changed:\n{sound.stdout[-2000:]}")
            caught, output = copy.control([(given.file, given.old, given.new)], targets, command)
        except CannotTry as why:
            print(f"sabotage: not tried: {why}", file=sys.stderr)
            return 2
    print(output[-4000:], end="")
    print("caught" if caught else "NOT CAUGHT")
    return 0 if caught else 1


if __name__ == "__main__":
    sys.exit(main())
