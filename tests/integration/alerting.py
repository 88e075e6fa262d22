"""What the tests of ALERT share: a transaction that publishes signals, and the stage as a process of its own."""

import json
import os
import signal as signals
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import msgspec
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.clients import make_admin, make_reader, make_transactional_producer
from streams.incident import Signal
from streams.settings import Settings
from streams.topics import BY_NAME, VOLUME_SIGNALS, partition_of

_PROGRAM = """
import os, sys
from producers.errors import SystemFault
from streams import alert
from streams.settings import load
{patch}
try:
    alert.run(load(os.environ))
except SystemFault as fault:
    print(fault, file=sys.stderr)
    sys.exit(fault.exit_status)
"""


def publish(settings: Settings, sent: Sequence[Signal | bytes], *, commit: bool = True, entity: str = "") -> None:
    """Puts signals (or bytes at the place of `entity`) on `volume-signals` in one transaction."""
    producer = make_transactional_producer(settings, "test-signals")
    producer.init_transactions(30)
    producer.begin_transaction()
    for one in sent:
        key = entity or (one.entity if isinstance(one, Signal) else "")
        value = one if isinstance(one, bytes) else msgspec.json.encode(one)
        producer.produce(settings.topic(VOLUME_SIGNALS), value, key.encode(), partition_of(key))
    producer.flush(30)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def read_all(settings: Settings, name: str) -> list[Message]:
    """Every committed record of a topic, in order within each partition."""
    reader = make_reader(settings)
    left = set(range(BY_NAME[name].partitions))
    reader.assign([TopicPartition(settings.topic(name), partition, 0) for partition in left])
    found = []
    deadline = time.monotonic() + 30
    while left and time.monotonic() < deadline:
        for message in reader.consume(1000, 0.2):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition() or 0)
            else:
                raise AssertionError(error)
    reader.close()
    assert not left, f"{name} could not be read to its end"
    return found


def committed(settings: Settings) -> dict[int, int]:
    """ALERT's committed offset of each partition that has one."""
    asked = ConsumerGroupTopicPartitions(settings.topic("alert"))
    [answer] = _admin(settings).list_consumer_group_offsets([asked]).values()
    return {at.partition: at.offset for at in answer.result(30).topic_partitions or [] if at.offset >= 0}


def due(settings: Settings) -> dict[int, int]:
    """The offset after the last committed signal of each partition: where ALERT must arrive."""
    wait_until(
        lambda: _ends(settings, IsolationLevel.READ_COMMITTED) == _ends(settings, IsolationLevel.READ_UNCOMMITTED)
    )
    ends: dict[int, int] = {}
    for message in read_all(settings, VOLUME_SIGNALS):
        ends[message.partition() or 0] = (message.offset() or 0) + 1
    return ends


def _at_rest(settings: Settings) -> bool:
    """A transaction is over for its producer before its markers are in every partition; then the two ends still differ."""
    try:
        return _ends(settings, IsolationLevel.READ_COMMITTED) == _ends(settings, IsolationLevel.READ_UNCOMMITTED)
    except KafkaException:  # a partition this young may have no leader yet
        return False


@lru_cache(maxsize=1)
def _admin(settings: Settings) -> AdminClient:
    """One client a test: it is asked many times a second."""
    return make_admin(settings)


def _ends(settings: Settings, isolation: IsolationLevel) -> dict[int, int]:
    partitions = range(BY_NAME[VOLUME_SIGNALS].partitions)
    asked = {TopicPartition(settings.topic(VOLUME_SIGNALS), partition): OffsetSpec.latest() for partition in partitions}  # type: ignore[no-untyped-call]
    answers = _admin(settings).list_offsets(asked, isolation_level=isolation)
    return {at.partition: answer.result(30).offset for at, answer in answers.items()}


def wait_until(condition: Callable[[], bool], seconds: float = 45) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def wait_until_all_is_handled(settings: Settings) -> None:
    target = due(settings)
    wait_until(lambda: committed(settings) == target)


class Stage:
    """A running ALERT."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page; status 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        assert self.process.poll() is None, self.end()
        return self.get("/healthz")[0] == 200

    def incidents(self) -> dict[str, int]:
        """Open incidents by id, with the seq they stand at."""
        return {alert["id"]: alert["seq"] for alert in json.loads(self.get("/api/incidents")[1])}

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signals.SIGTERM)
        return self.end()

    def end(self, seconds: float = 30) -> tuple[int, str]:
        """Exit status and what was said, once it has ended."""
        _, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said


@contextmanager
def running(settings: Settings, environment: dict[str, str], patch: str = "") -> Iterator[Stage]:
    """ALERT in a process of its own. `patch` is Python that runs before it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(patch=patch)],
        env=os.environ | environment | {"SPAMTIDE_ALERT_PORT": str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Stage(process, port)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
