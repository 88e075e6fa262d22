"""`spamtide up`: everything on this machine. Starts Kafka where none is named, makes the topics, and keeps the three stages running.

started ──exits──▶ waits 0.5 s, 1 s, ... 30 s ──▶ started        a stage that lived for 60 s begins at 0.5 s again
   └──exits with a status that no restart mends──▶ everything stops with that status
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from producers.errors import AuditFailure, Unavailable, UsageError
from streams.admin import apply
from streams.settings import Settings, environ_of, variable_of

STAGES: Final = ("count", "track", "alert")
FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
HEALTHY_AFTER_S: Final = 60.0
"""A stage that lived so long starts its back-off anew."""
STOP_S: Final = 8.0
"""Time to commit and end before a stage is killed."""
FINAL_STATUSES: Final = (UsageError.exit_status, AuditFailure.exit_status)
"""Exit statuses that a restart would only repeat."""
KAFKA_SCRIPT: Final = Path(__file__).resolve().parent.parent / "deploy" / "kafka" / "kafka"

Say = Callable[[str], None]


class Child(msgspec.Struct, frozen=True):
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]


def stages(environ: Mapping[str, str]) -> list[Child]:
    """The three stages as children of this interpreter."""
    return [Child(name, (sys.executable, "-m", "streams.cli", "run", name), environ) for name in STAGES]


def delay_s(exits: int) -> float:
    """How long to wait after so many exits in a row (from 1): doubling from `FIRST_DELAY_S` to `LONGEST_DELAY_S`."""
    return min(FIRST_DELAY_S * 2.0 ** min(exits - 1, 32), LONGEST_DELAY_S)


def up(settings: Settings, named: bool, environ: Mapping[str, str], stop: threading.Event, say: Say) -> int:
    """Runs it all until `stop` is set or a stage cannot go on; returns the exit status. Raises `Unavailable`."""
    reached = ensure_broker(settings, named, environ, say)
    apply_topics(reached, say)
    say(
        f"up: Kafka at {reached.bootstrap_servers}; the page and metrics of ALERT: {_address(reached.alert_port, reached)}"
    )
    say(f"up: metrics of COUNT: {_address(reached.count_metrics_port, reached, 'metrics')}")
    say(f"up: metrics of TRACK: {_address(reached.track_metrics_port, reached, 'metrics')}")
    if reached.bootstrap_servers != settings.bootstrap_servers:
        say(f"up: for other commands: export {variable_of('bootstrap_servers')}={reached.bootstrap_servers}")
    say("up: running; Ctrl-C ends it. Look with `spamtide top` and `spamtide alerts --follow`")
    status = Supervisor(stages(environ_of(reached, environ)), say).run(stop)
    kafka = "" if reached is settings else "; Kafka goes on running, `make kafka-stop` stops it"
    say(f"up: stopped{kafka}")
    return status


def apply_topics(settings: Settings, say: Say) -> None:
    """Makes the topics; says how many were made and which differ. Raises `Unavailable`."""
    outcomes = apply(settings)
    made = sum(outcome.outcome == "created" for outcome in outcomes)
    say(f"up: {len(outcomes)} topics, {made} of them new")
    for outcome in outcomes:
        for differs in outcome.differences:
            say(f"up: topic {outcome.topic}: {differs.setting} is {differs.now}, should be {differs.should_be}")


def _address(port: int, settings: Settings, path: str = "") -> str:
    return f"http://{settings.metrics_address}:{port}/{path}" if port else "at a free port"


class Supervisor:
    """Keeps children running until told to stop. One thread a child starts it, reads its output and starts it again."""

    def __init__(self, children: Sequence[Child], say: Say) -> None:
        self._say = say
        self._stop = threading.Event()
        self._status = 0
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(child,), name=child.name, daemon=True) for child in children
        ]

    @property
    def ended(self) -> bool:
        """Whether a child's exit ended everything."""
        return self._stop.is_set()

    @property
    def status(self) -> int:
        """Exit status of the child that ended everything; 0 where it was `stop`."""
        return self._status

    def start(self) -> None:
        """Starts every child."""
        for thread in self._threads:
            thread.start()

    def run(self, stop: threading.Event) -> int:
        """Runs until `stop` is set or a child ends everything; returns the status to exit with."""
        self.start()
        try:
            while not stop.wait(0.1) and not self._stop.is_set():
                pass
        finally:
            self.stop()
        return self._status

    def stop(self) -> None:
        """SIGTERM to every child, and SIGKILL after `STOP_S` to those that stay. Returns when all are gone."""
        self._stop.set()
        self._signal_all(signal.SIGTERM)
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(until - time.monotonic(), 0))
        self._signal_all(signal.SIGKILL)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _keep(self, child: Child) -> None:
        exits = 0
        while not self._stop.is_set():
            began = time.monotonic()
            status, last_line = self._once(child)
            if self._stop.is_set():
                return
            if status in FINAL_STATUSES:
                self._say(f"up: {child.name} cannot go on (exit status {status}): stopping everything")
                self._status = status
                self._stop.set()
                return
            exits = 1 if time.monotonic() - began >= HEALTHY_AFTER_S else exits + 1
            wait_s = delay_s(exits)
            said = f": {last_line}" if last_line else ""
            self._say(f"up: {child.name} ended ({_in_words(status)}){said} -- starting it again in {wait_s:g} s")
            self._stop.wait(wait_s)

    def _once(self, child: Child) -> tuple[int, str]:
        """Runs a child to its end; returns its status and the last line it said."""
        with self._lock:
            if self._stop.is_set():
                return 0, ""
            process = subprocess.Popen(
                child.command,
                env=dict(child.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for us: we tell the children
            )
            self._running[child.name] = process
        last_line = self._echo(child.name, process.stdout)
        status = process.wait()
        with self._lock:
            del self._running[child.name]
        return status, last_line

    def _echo(self, name: str, output: IO[str] | None) -> str:
        last_line = ""
        assert output is not None
        with output:
            for line in output:
                if text := line.rstrip():
                    last_line = text
                    self._say(f"{name:5} | {text}")
        return last_line

    def _signal_all(self, number: int) -> None:
        with self._lock:
            for process in self._running.values():
                if process.poll() is None:
                    os.killpg(process.pid, number)


def ensure_broker(settings: Settings, named: bool, environ: Mapping[str, str], say: Say) -> Settings:
    """Starts Kafka by the checkout's own script where the user `named` no cluster; returns settings that reach it.

    Raises `Unavailable`.
    """
    if named or not KAFKA_SCRIPT.is_file():
        return settings
    say("up: starting Kafka (deploy/kafka/kafka start) ...")
    own = {name: value for name, value in environ.items() if name != variable_of("bootstrap_servers")}
    done = subprocess.run([KAFKA_SCRIPT, "start"], env=own, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise Unavailable("Kafka did not start, see above; or name a cluster of yours in SPAMTIDE_BOOTSTRAP_SERVERS")
    port = environ.get("SPAMTIDE_KAFKA_PORT", "9092")
    return msgspec.structs.replace(settings, bootstrap_servers=f"127.0.0.1:{port}")


def _in_words(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
