"""`spamtide up`: children are kept running and told about; what no restart mends ends everything; Ctrl-C leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from producers.errors import Unavailable
from streams import up
from streams.metrics import free_port
from streams.settings import Settings
from streams.up import Child, Supervisor, delay_s, ensure_broker
from tests.integration.alerting import wait_until


def child(name: str, program: str) -> Child:
    return Child(name, (sys.executable, "-uc", program), dict(os.environ))


STAYS = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAYS


class Running:
    """A supervisor at work, and what it said."""

    def __init__(self, *children: Child) -> None:
        self.said: list[str] = []
        self.stop = threading.Event()
        self.status: int | None = None
        self.supervisor = Supervisor(children, self.said.append)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.status = self.supervisor.run(self.stop)

    def heard(self, *words: str) -> list[str]:
        return [line for line in list(self.said) if all(word in line for word in words)]

    def join(self, seconds: float = 30) -> int:
        self._thread.join(seconds)
        assert self.status is not None, "it did not end"
        return self.status


@contextmanager
def running(*children: Child) -> Iterator[Running]:
    work = Running(*children)
    work._thread.start()
    try:
        yield work
    finally:
        work.stop.set()
        work.join()


def test_the_wait_doubles_from_half_a_second_to_half_a_minute() -> None:
    assert [delay_s(exits) for exits in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert delay_s(100_000) == 30


def test_a_stage_that_exits_is_started_again_and_it_is_said_why() -> None:
    with running(child("fake", "import sys; print('no luck today'); sys.exit(3)")) as work:
        wait_until(lambda: len(work.heard("fake  | no luck today")) >= 2)
    assert work.heard("up: fake ended (exit status 3): no luck today -- starting it again in 0.5 s")
    assert work.join() == 0


def test_a_stage_that_ends_well_unasked_is_started_again_too() -> None:
    with running(child("fake", "print('done')")) as work:
        wait_until(lambda: bool(work.heard("up: fake ended (exit status 0): done")))


def test_a_killed_stage_is_told_by_its_signal() -> None:
    with running(child("fake", "import os; os.kill(os.getpid(), 9)")) as work:
        wait_until(lambda: bool(work.heard("up: fake ended (killed by SIGKILL)")))


def test_the_wait_grows_while_a_stage_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "FIRST_DELAY_S", 0.01)
    with running(child("fake", "raise SystemExit(1)")) as work:
        wait_until(lambda: len(work.heard("up: fake ended")) >= 4)
    waits = [line.rpartition(" in ")[2] for line in work.heard("up: fake ended")]
    assert waits[:4] == ["0.01 s", "0.02 s", "0.04 s", "0.08 s"]


def test_a_stage_that_lived_long_enough_begins_with_the_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(up, "HEALTHY_AFTER_S", 0.0)
    with running(child("fake", "raise SystemExit(1)")) as work:
        wait_until(lambda: len(work.heard("up: fake ended")) >= 3)
    assert {line.rpartition(" in ")[2] for line in work.heard("up: fake ended")} == {"0.01 s"}


@pytest.mark.parametrize("status", [2, 6])
def test_what_no_restart_mends_ends_everything_with_its_status(status: int) -> None:
    with running(child("other", STAYS), child("fake", f"raise SystemExit({status})")) as work:
        assert work.join() == status
    assert work.supervisor.ended
    assert len(work.heard(f"up: fake cannot go on (exit status {status})")) == 1
    assert not work.heard("starting it again")


def test_a_stage_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "STOP_S", 0.3)
    with running(child("fake", STUBBORN), child("other", STAYS)) as work:
        wait_until(lambda: len(work.heard("ready")) == 2)
        began = time.monotonic()
        work.stop.set()
        assert work.join() == 0
    assert time.monotonic() - began < 10
    assert not work.heard("up:")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of the script that starts Kafka: it notes how it was called."""
    path = tmp_path / "kafka"
    path.write_text(f'#!/bin/sh\necho "$1 ${{SPAMTIDE_BOOTSTRAP_SERVERS-none}}" >{tmp_path}/called\n', encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(up, "KAFKA_SCRIPT", path)
    return path


def test_kafka_is_started_where_no_cluster_is_named(script: Path) -> None:
    reached = ensure_broker(Settings(), False, {"SPAMTIDE_KAFKA_PORT": "19999"}, lambda _: None)
    assert reached.bootstrap_servers == "127.0.0.1:19999"
    assert (script.parent / "called").read_text(encoding="utf-8") == "start none\n"


def test_a_cluster_that_is_named_is_used(script: Path) -> None:
    settings = Settings(bootstrap_servers="kafka.example:9092")
    assert ensure_broker(settings, True, {}, lambda _: None) is settings
    assert not (script.parent / "called").exists()


def test_a_kafka_that_does_not_start_is_told_with_the_way_out(script: Path) -> None:
    script.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    with pytest.raises(Unavailable, match="SPAMTIDE_BOOTSTRAP_SERVERS"):
        ensure_broker(Settings(), False, {}, lambda _: None)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return True
    except OSError:
        return False


def children_of(pid: int) -> dict[str, int]:
    """Stage -> pid of the children that run it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if parent == pid and "run" in arguments:
            found[arguments[arguments.index("run") + 1]] = int(path.name)
    return found


@pytest.mark.kafka
def test_up_runs_the_real_stages_restarts_a_killed_one_and_ends_cleanly(
    settings: Settings, environment_of: Callable[[Settings], Mapping[str, str]]
) -> None:
    port = free_port("127.0.0.1")
    own = msgspec.structs.replace(settings, alert_port=port)
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "up"], env=dict(environment_of(own)), stderr=subprocess.PIPE, text=True
    )
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=said.extend, args=(process.stderr,))
    reader.start()
    try:
        wait_until(lambda: is_ready(port), 90)
        wait_until(lambda: any("track: 32 partitions" in line for line in said), 90)
        before = children_of(process.pid)
        assert set(before) == {"count", "track", "alert"}
        os.kill(before["count"], signal.SIGKILL)
        wait_until(lambda: children_of(process.pid).get("count", before["count"]) != before["count"], 30)
        pids = children_of(process.pid).values()
    finally:
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        status = process.wait(20)
        reader.join()
        process.stderr.close()
    assert status == 0
    assert time.monotonic() - began < 10
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert [line for line in said if line.startswith("up: count ended (killed by SIGKILL)")]
    assert said[-1] == "up: stopped\n"
