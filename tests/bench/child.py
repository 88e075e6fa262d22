"""One measured run in a process of its own, so that its CPU seconds are its own: `python -m tests.bench.child TASK`.

The task comes as JSON, the `Run` goes to standard output as JSON. Stages run as `spamtide run` runs them; the clock starts when their
partitions are restored and begin to flow, and stops when the transaction with the last record is committed.
"""

import cProfile
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, cast
from unittest.mock import patch

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Message, TopicPartition

from producers.event import MailEvent
from streams import count, track
from streams.clients import make_reader
from streams.settings import Settings
from streams.topics import MAIL_EVENTS
from streams.transaction import Committed, Outcome, Outgoing, Stage, Worker
from tests.bench.world import INPUTS

What = Literal["consume", "decode", "count", "track"]
_BATCH: Final = 10_000


class Task(msgspec.Struct, frozen=True):
    """What to run, until how many records are done; where a profile goes, if one is wanted."""

    what: What
    settings: Settings
    records: int
    profile: str | None = None


class Run(msgspec.Struct, frozen=True):
    """What one run took. `cpu_s` is of all threads, librdkafka's included."""

    wall_s: float
    cpu_s: float
    commits: int
    resident_kib: int
    """The most memory the process ever held."""
    outputs: dict[str, int]
    """Records published, by topic."""


class Stopwatch:
    """Wall and CPU seconds between `start` and `stop`."""

    def __init__(self) -> None:
        self._started = self._stopped = (0.0, 0.0)

    def start(self) -> None:
        """Begins anew."""
        self._started = self._now()

    def stop(self) -> None:
        """Ends; may be called again, later."""
        self._stopped = self._now()

    def run(self, commits: int = 0, outputs: Mapping[str, int] | None = None) -> Run:
        """What was measured."""
        wall_s, cpu_s = (end - start for start, end in zip(self._started, self._stopped, strict=True))
        resident_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Run(wall_s, cpu_s, commits, resident_kib, dict(outputs or {}))

    def _now(self) -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), used.ru_utime + used.ru_stime


class Watched:
    """A stage that stops its worker when the expected records are committed, and knows what that took. Else it is the stage."""

    def __init__(self, stage: Stage, records: int, stop: threading.Event) -> None:
        self.watch = Stopwatch()
        self.commits = 0
        self.published: Counter[str] = Counter()
        self._stage, self._left, self._stop = stage, records, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def restore(self, committed: Mapping[int, Committed]) -> None:
        """Starts the clock when done."""
        self._stage.restore(committed)
        self.watch.start()

    def take(self, messages: Sequence[Message], now_ms: int) -> None:
        """Counts."""
        self._stage.take(messages, now_ms)
        self._left -= len(messages)

    def due(self, now_ms: int) -> bool:
        """At the last record the interval is not waited for."""
        return self._stage.due(now_ms) or self._left <= 0

    def outputs(self) -> Iterable[Outgoing]:
        """Counts."""
        for record in self._stage.outputs():
            self.published[record.topic] += not self._stop.is_set()
            yield record

    def committed(self, outcome: Outcome) -> None:
        """Stops the clock, and the worker at the last record."""
        self._stage.committed(outcome)
        if self._stop.is_set():
            return  # the worker's last transaction, of nothing
        self.commits += 1
        self.watch.stop()
        if self._left <= 0:
            self._stop.set()


def run_stage(task: Task, profiler: cProfile.Profile | None) -> Run:
    """COUNT or TRACK from where their group stands until the last record is committed."""
    module, run = (count, count.run) if task.what == "count" else (track, track.run)
    stop = threading.Event()
    watched: list[Watched] = []

    def make_worker(settings: Settings, stage: Stage, **more: Any) -> Worker:
        watched.append(Watched(stage, task.records, stop))
        return Worker(settings, cast(Stage, watched[0]), **more)

    with patch.object(module, "Worker", make_worker):
        _profiled(profiler, lambda: run(task.settings, stop))
    return watched[0].watch.run(watched[0].commits, watched[0].published)


def run_reader(task: Task, profiler: cProfile.Profile | None) -> Run:
    """Reads the events and does nothing with them, or decodes them and nothing more: the ceiling of COUNT."""
    reader = make_reader(task.settings, enable_partition_eof=False, queued_max_messages_kbytes=65536)
    topic = task.settings.topic(MAIL_EVENTS)
    decoder = msgspec.json.Decoder(MailEvent)
    watch = Stopwatch()

    def read() -> None:
        left = task.records
        while left > 0:
            messages = reader.consume(_BATCH, 0.1)
            left -= len(messages)
            if task.what == "decode" and messages:
                decoder.decode_lines(b"\n".join([message.value() or b"" for message in messages]))

    watch.start()
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(INPUTS)])
    _profiled(profiler, read)
    watch.stop()
    reader.close()
    return watch.run()


def _profiled(profiler: cProfile.Profile | None, work: Callable[[], None]) -> None:
    if profiler is None:
        work()
    else:
        profiler.runcall(work)


def main() -> None:
    """Runs the task in the first argument."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    profiler = cProfile.Profile() if task.profile else None
    run = (run_stage if task.what in ("count", "track") else run_reader)(task, profiler)
    if profiler is not None and task.profile:
        profiler.dump_stats(task.profile)
    sys.stdout.write(msgspec.json.encode(run).decode() + "\n")


if __name__ == "__main__":
    main()
