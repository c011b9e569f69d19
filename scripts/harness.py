"""What the scripts here share: the tools they install, the processes they start and end."""

import contextlib
import fcntl
import hashlib
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".conformance"
PACKAGE = ROOT / "scripts" / "conformance-package"
# The Python environments, each with what is installed into it: one for each major of the SDK.
VENVS = {
    "venv": ROOT / "fixtures" / "requirements.txt",
    "venv1": ROOT / "scripts" / "peer" / "requirements.txt",
}

INSTALL_DEADLINE = 900
BUILD_DEADLINE = 3600
START_DEADLINE = 60
STOP_DEADLINE = 15
NODE_MAJOR = 22

# Ports are taken from below the range that outgoing connections use, so that no client can take one
# between the look and the listen.
PORTS = range(20_000, 32_000)

# A process carries this variable with a token of its own, and hands it to what it starts; whoever still has
# it after the process has ended was left behind.
MARK = "HARNESS_TOKEN"


class Problem(Exception):
    """The script cannot do its work: nothing has been shown about the proxy."""


# ---- installing -------------------------------------------------------------------------------------------


class Tools:
    """The installed tools: the fixture's Python, one with the SDK's first major, the suite's Node, and where the
    packages are."""

    def __init__(self):
        self.python = CACHE / "venv" / "bin" / "python"
        self.python1 = CACHE / "venv1" / "bin" / "python"
        self.modules = CACHE / "node_modules"
        self.node = _node(self.modules)

    def module(self, *path):
        found = self.modules.joinpath(*path)
        if not found.exists():
            raise Problem(f"{found} is missing from the installed packages")
        return found


def install():
    """Installs what the pins ask for into .conformance/, or re-uses it when it is already complete."""
    pins = [*VENVS.values(), PACKAGE / "package.json", PACKAGE / "package-lock.json"]
    digest = hashlib.sha256(f"{platform.machine()} {sys.version}".encode())
    for pin in pins:
        digest.update(pin.read_bytes())
    stamp, wanted = CACHE / "complete", digest.hexdigest()

    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            say("installing into .conformance/ (once; about half a minute)")
            stamp.unlink(missing_ok=True)
            with ThreadPoolExecutor() as pool:
                jobs = [pool.submit(_install_python, *venv) for venv in VENVS.items()]
                for done in [*jobs, pool.submit(_install_node)]:
                    done.result()
            stamp.write_text(wanted)
    return Tools()


def _install_python(name, requirements):
    venv = CACHE / name
    run([sys.executable, "-m", "venv", "--clear", venv], deadline=INSTALL_DEADLINE)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--requirement", requirements], deadline=INSTALL_DEADLINE)


def _install_node():
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(PACKAGE / name, CACHE / name)
    # The packages ask for a newer Node than npm itself may run on: the one that is installed with them.
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"]
    run([*npm, "--loglevel=error"], cwd=CACHE, deadline=INSTALL_DEADLINE)


def _node(modules):
    for node in sorted(modules.glob("node-*/bin/node")):
        return node
    node = shutil.which("node")
    if node:
        major = run([node, "--version"]).strip().lstrip("v").split(".")[0]
        if int(major) >= NODE_MAJOR:
            return Path(node)
    raise Problem(f"no Node {NODE_MAJOR} or newer: none is packaged for this platform, and none is on the PATH")


# ---- the binary -------------------------------------------------------------------------------------------


def shadowcat():
    """The binary under test: $SHADOWCAT_BIN, or the release build, which is made when it is missing or stale."""
    named = os.environ.get("SHADOWCAT_BIN")
    if named:
        found = shutil.which(named)
        if not found:
            raise Problem(f"SHADOWCAT_BIN={named} is not an executable")
        return Path(found).resolve()

    binary = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "shadowcat"
    sources = [ROOT / "Cargo.toml", ROOT / "Cargo.lock", *(ROOT / "src").rglob("*")]
    newest = max(path.stat().st_mtime for path in sources if path.exists())
    if not binary.exists() or binary.stat().st_mtime < newest:
        say("building shadowcat (cargo build --release)")
        run(["cargo", "build", "--release", "--bin", "shadowcat"], cwd=ROOT, deadline=BUILD_DEADLINE)
    if not binary.exists():
        raise Problem(f"cargo built no {binary}")
    return binary


# ---- processes --------------------------------------------------------------------------------------------


def run(command, deadline=60, **options):
    """Runs a command that must succeed, and returns what it printed. Quiet unless it fails."""
    command = [str(part) for part in command]
    with Process(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, **options
    ) as it:
        try:
            printed, _ = it.popen.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise Problem(f"{' '.join(command)} took more than {deadline} s") from None
    if it.popen.returncode != 0:
        raise Problem(f"{' '.join(command)} failed with status {it.popen.returncode}:\n{printed}")
    return printed


class Process:
    """A process in a group of its own, that is gone when its `with` block is left."""

    _live = set()
    _closed = False
    _lock = threading.RLock()  # a signal handler takes it too, in whatever thread holds it

    def __init__(self, command, env=None, **options):
        with Process._lock:
            if Process._closed:
                raise Problem("interrupted")
            try:
                self.popen = subprocess.Popen(command, env=env, start_new_session=True, **options)
            except OSError as error:
                raise Problem(f"{command[0]}: {error}") from None
            Process._live.add(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        # The group outlives its leader while a member does; a group without one is not there to be killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        with Process._lock:
            Process._live.discard(self)

    @staticmethod
    def kill_all():
        """Ends whatever still runs, for good: asked first, so that a proxy can end its children."""
        with Process._lock:
            Process._closed = True
            live = list(Process._live)
        for how in (signal.SIGTERM, signal.SIGKILL):
            for process in live:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.popen.pid, how)
            until = time.monotonic() + 3
            while time.monotonic() < until and any(process.popen.poll() is None for process in live):
                time.sleep(0.02)


class Service(Process):
    """A server under test: logs to a file, is waited for until its port answers, is asked to stop, then killed."""

    def __init__(self, name, command, port, log, env=None):
        self.name, self.port, self.log = name, port, Path(log)
        self.token = f"{MARK}={uuid.uuid4().hex}"
        self.left_behind = None
        # `{mark}` in the command is where a proxy is told to hand the token to its child.
        command = [self.token if part == "{mark}" else str(part) for part in command]
        key, value = self.token.split("=")
        with open(self.log, "w") as out:
            environment = {**_plain_environment(), **(env or {}), key: value}
            super().__init__(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self):
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_DEADLINE)
        if self.left_behind is None:
            self.left_behind = self._survivors()
        self.kill()
        for pid in self.left_behind:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_until_it_listens(self):
        until = time.monotonic() + START_DEADLINE
        while time.monotonic() < until:
            if self.popen.poll() is not None:
                raise Died(self, f"exited with status {self.popen.returncode} before it listened")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.02)
        raise Died(self, f"did not listen on port {self.port} within {START_DEADLINE} s")

    def faults(self):
        """What is wrong with how the process ended; ask after the `with` block."""
        status, faults = self.popen.returncode, []
        if status == -signal.SIGKILL:
            faults.append(f"{self.name} did not stop within {STOP_DEADLINE} s of SIGTERM")
        elif status not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            faults.append(f"{self.name} ended with status {status}")
        if self.left_behind:
            faults.append(f"{self.name} left {len(self.left_behind)} process(es) behind")
        return faults

    def tail(self, lines=15):
        return self.log.read_text(errors="replace").splitlines()[-lines:]

    def _survivors(self):
        """Other processes that carry the token, given a moment to end. Only Linux tells."""
        until = time.monotonic() + 5
        while (pids := self._carriers()) and time.monotonic() < until:
            time.sleep(0.05)
        return pids

    def _carriers(self):
        pids = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            pid = int(environ.parent.name)
            with contextlib.suppress(OSError):
                if pid != self.popen.pid and self.token.encode() in environ.read_bytes().split(b"\0"):
                    pids.append(pid)
        return pids


def _plain_environment():
    """Without the variables that set the proxy's options: a test decides about those itself."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("SHADOWCAT_") or key.startswith("SHADOWCAT_LOG")
    }


class Died(Exception):
    """A server under test did not start."""

    def __init__(self, service, what):
        super().__init__(f"{service.name} {what}")
        self.service = service


_handed_out = set()


def free_port():
    for port in random.sample(PORTS, len(PORTS)):
        if port in _handed_out:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _handed_out.add(port)
            return port
    raise Problem("no free port")


# ---- talking ----------------------------------------------------------------------------------------------


def say(line):
    print(line, file=sys.stderr, flush=True)


def main(body):
    """Runs a script's body: its return value is the exit status, a Problem is status 2, and nothing is left running."""

    def interrupted(number, _):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Process.kill_all()
        os._exit(128 + number)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        sys.exit(body())
    except Problem as problem:
        say(f"{Path(sys.argv[0]).name}: {problem}")
        sys.exit(2)
    finally:
        Process.kill_all()
