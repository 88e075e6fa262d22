"""Stages as processes of their own, and what comes out of them: for tests that kill, starve and compare."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import Message, Producer, TopicPartition

from producers.event import MailEvent
from streams.clients import make_reader, make_transactional_producer
from streams.settings import Settings
from streams.topics import BY_NAME, MAIL_EVENTS, MAIL_VOLUME
from tests import oracle

ROOT: Final = Path(__file__).parents[2]
Environment = Callable[[Settings], dict[str, str]]


class Running:
    """A stage that can be killed and started again; its words are kept."""

    def __init__(self, stage: str, settings: Settings, environment: dict[str, str]) -> None:
        self._command = [sys.executable, "-m", "streams.cli", "run", stage]
        self._environment = environment
        self._settings = settings
        self._words: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def kill(self) -> None:
        """`kill -9`: nothing is said goodbye to."""
        self.process.kill()
        self._wait(30)

    def stop(self, within_s: float = 15) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._wait(within_s)

    def ends(self, within_s: float) -> int:
        """Waits for the stage to end by itself; the exit status."""
        return self._wait(within_s)

    @property
    def words(self) -> str:
        """Everything it wrote to standard error before it ended."""
        return "".join(self._words)

    def _wait(self, within_s: float) -> int:
        if self.process.stderr is not None and not self.process.stderr.closed:
            _, written = self.process.communicate(timeout=within_s)
            self._words.append(written)
        return self.process.returncode


@contextmanager
def running(settings: Settings, environment: Environment, *stages: str) -> Iterator[list[Running]]:
    """Stages that run until the block ends, whatever happens in it."""
    processes: list[Running] = []
    try:
        for stage in stages:
            processes.append(Running(stage, settings, environment(settings)))  # noqa: PERF401 the ones started must end
        yield processes
    finally:
        for process in processes:
            process.kill()


class Topic:
    """Everything committed on a topic, read on as it grows."""

    def __init__(self, settings: Settings, name: str, partitions: int | None = None) -> None:
        self.messages: list[Message] = []
        self._reader = make_reader(settings)
        count = partitions or BY_NAME[name].partitions
        self._reader.assign([TopicPartition(settings.topic(name), number, 0) for number in range(count)])

    def read(self, seconds: float = 0.3) -> list[Message]:
        """All so far."""
        while new := [message for message in self._reader.consume(10_000, seconds) if message.error() is None]:
            self.messages += new
        return self.messages

    def close(self) -> None:
        self._reader.close()


def publish(settings: Settings, values: Sequence[bytes], partitions: int = 8) -> None:
    """Values in one transaction, spread over the partitions in turn."""
    producer: Producer = make_transactional_producer(settings, "test-source")
    producer.init_transactions(30)
    producer.begin_transaction()
    for number, value in enumerate(values):
        producer.produce(settings.topic(MAIL_EVENTS), value=value, partition=number % partitions)
        if number % 10_000 == 0:
            producer.poll(0)
    producer.commit_transaction(60)


def encoded_each(events: Iterable[MailEvent]) -> list[bytes]:
    """A record an event."""
    return [msgspec.json.encode(event) for event in events]


def expected(settings: Settings) -> oracle.Counted:
    """What the oracle makes of all that lies on `mail-events`."""
    topic = Topic(settings, MAIL_EVENTS)
    records = [(message.value() or b"", message.timestamp()[1]) for message in topic.read(2)]
    topic.close()
    return oracle.count(records)


def wait_for_facts(settings: Settings, wanted: oracle.Counted, within_s: float) -> None:
    """Until `mail-volume` says what the oracle says, to the last copy. Fails with the first differences."""
    topic = Topic(settings, MAIL_VOLUME)
    facts, deadline_s, seen = wanted.facts(), time.monotonic() + within_s, -1
    found: dict[tuple[str, str, int], oracle.Counters] = {}
    while time.monotonic() < deadline_s:
        messages = topic.read()
        if len(messages) != seen:
            seen = len(messages)
            found = oracle.facts_total(message.value() or b"" for message in messages)
            if found == facts:
                topic.close()
                return
    topic.close()
    wrong = [key for key in facts.keys() | found.keys() if facts.get(key) != found.get(key)]
    shown = [(key, found.get(key), facts.get(key)) for key in sorted(wrong)[:3]]
    raise AssertionError(f"{len(wrong)} of {len(facts)} facts differ after {within_s} s; (key, found, wanted): {shown}")


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Waits for a condition; fails with what did not come."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not come within {within_s} s"
        time.sleep(0.05)
