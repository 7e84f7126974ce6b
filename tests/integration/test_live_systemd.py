"""The units under a real systemd: `make install` into a throwaway copy of this machine, which systemd-nspawn boots.

The copy is an overlay of `/` whose changes are in memory; it has a network of its own, with nothing but loopback. What is
looked at in there is live_systemd.py. SIWA_RESTARTS (6) and SIWA_KILLS (4) say how often the service is restarted and
killed under load. Needs root, overlayfs and systemd-nspawn, and says so where one is missing.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import harness
import live_systemd

HERE = pathlib.Path(__file__).resolve().parent
BASE_S = 600  # a bound for a machine that hangs
EACH_S = 30  # of a restart or kill

# Runs in a mount namespace of its own, so that nothing stays mounted whatever happens.
PREPARE = r"""
set -eu
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/overlay" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/overlay" "$work/root"
"""
NSPAWN = r"""
machine() {
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --machine="$name" --directory="$work/root" --private-network \
        --register=no --keep-unit --link-journal=no --console=pipe \
        --capability=CAP_BPF,CAP_NET_ADMIN --system-call-filter=bpf `# for IPAddressDeny=` \
        --bind-ro="$source" --bind-ro="$build" --bind="$out:/out" "$@" </dev/null
}
"""
TRY = PREPARE + NSPAWN + "machine /bin/true\n"
BOOT = PREPARE + r"""
make -s -C "$source" -o all install BUILD="$build" DESTDIR="$work/root" >&2
cp "$out/siwa-live.target" "$out/siwa-live.service" "$work/root/etc/systemd/system"
: >"$work/root/etc/machine-id"
""" + NSPAWN + "machine --boot systemd.unit=siwa-live.target\n"

# Only what a system always has, so that the services of this machine do not start over there.
TARGET = """[Unit]
Requires=sysinit.target
After=sysinit.target dbus.socket
Wants=dbus.socket siwa-live.service
"""
RUN = """[Unit]
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
Environment=SIWA_BUILD={build} PYTHONDONTWRITEBYTECODE=1 {counts}
ExecStart={python} {script} /out
StandardOutput=file:/out/output
StandardError=inherit
TimeoutStartSec=infinity
"""


class Machine:
    """Boots the copy and lets it run script there, to its end."""

    def __init__(self, out, script="live_systemd.py"):
        self.out = pathlib.Path(out)
        self.name = f"siwa-{os.getpid()}"
        counts = {name: os.environ[name] for name in ("SIWA_RESTARTS", "SIWA_KILLS") if name in os.environ}
        self.seconds = BASE_S + EACH_S * (live_systemd.RESTARTS + live_systemd.KILLS)
        (self.out / "siwa-live.target").write_text(TARGET)
        (self.out / "siwa-live.service").write_text(RUN.format(
            build=harness.BUILD, python=sys.executable, script=HERE / script,
            counts=" ".join(f"{name}={value}" for name, value in counts.items())))

    def run(self, script, seconds):
        """(exit status, what was said); None as status when it took too long."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
        with tempfile.TemporaryDirectory(prefix="siwa-machine-") as work, open(self.out / "console", "wb") as console:
            environment.update(work=work, out=str(self.out), name=self.name, source=str(harness.ROOT), build=str(harness.BUILD))
            process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], env=environment,
                                       stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = None
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        with contextlib.suppress(OSError):  # which nspawn leaves behind
            pathlib.Path("/run/systemd/nspawn/propagate", self.name).rmdir()
        return status, (self.out / "console").read_text(errors="replace")


class LiveSystemd(unittest.TestCase):
    """Each test of live_systemd.py, by its name: see below."""

    results = {}
    journal = ""

    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise unittest.SkipTest("no live systemd: booting a machine needs root")
        if harness.sanitised():
            raise unittest.SkipTest("no live systemd: a sanitiser does not work in the sandbox of the units")
        harness.need("systemd-nspawn", "unshare", "make")
        out = tempfile.TemporaryDirectory(prefix="siwa-live-")
        cls.addClassCleanup(out.cleanup)
        machine = Machine(out.name)
        status, said = machine.run(TRY, 60)
        if status != 0:
            raise unittest.SkipTest(f"no live systemd: systemd-nspawn cannot run here: {said.strip()[-300:]}")
        status, said = machine.run(BOOT, machine.seconds)
        if not (machine.out / "started").exists():
            raise unittest.SkipTest(f"no live systemd: this machine cannot boot one in a container: {said.strip()[-300:]}")
        for name in ("output", "journal.log"):
            if (machine.out / name).exists():
                cls.journal += (machine.out / name).read_text(errors="replace")
        if not (machine.out / "results.json").exists():
            raise AssertionError(f"the machine ended with {status} and no result:\n{said[-2000:]}\n{cls.journal[-4000:]}")
        cls.results = json.loads((machine.out / "results.json").read_text())
        print((machine.out / "output").read_text(errors="replace"), end="", flush=True)

    def look(self, name):
        result = self.results.get(name)
        self.assertIsNotNone(result, f"the machine did not get that far:\n{self.journal[-4000:]}")
        if result["verdict"] == "skipped":
            self.skipTest(result["text"])
        if result["verdict"] != "ok":
            self.fail(f"{result['text']}\n{self.journal[-4000:]}")
        print(f"     {name} took {result['seconds']:.1f} s there")


def transfer(name):
    return lambda self: self.look(name)


for test in live_systemd.tests():
    setattr(LiveSystemd, test, transfer(test))


if __name__ == "__main__":
    unittest.main()
