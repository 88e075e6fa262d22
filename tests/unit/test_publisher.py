"""How a transaction of a source may fail, with a producer that fails on demand."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from producers import publish
from producers.errors import Fenced, Unavailable, UnknownOutcome
from producers.publish import Batch, Publisher, transactional_id


class Failing:
    """A producer whose commit raises what it was given, each time; and what it was asked to do."""

    def __init__(self, *failures: KafkaError) -> None:
        self.failures = list(failures)
        self.calls: list[str] = []

    def begin_transaction(self) -> None:
        self.calls.append("begin")

    def produce(self, *arguments: object) -> None:
        self.calls.append("produce")

    def poll(self, timeout_s: float) -> int:
        return 0

    def commit_transaction(self, timeout_s: float) -> None:
        self.calls.append("commit")
        if self.failures:
            raise KafkaException(self.failures.pop(0))

    def abort_transaction(self, timeout_s: float) -> None:
        self.calls.append("abort")


class Connections:
    def __init__(self, producer: Failing) -> None:
        self._producer = producer

    def make_producer(self, transactional_id: str) -> Producer:
        return cast(Producer, self._producer)

    def make_reader(self) -> Consumer:
        raise AssertionError

    def topic(self, name: str) -> str:
        return name


class Nothing:
    key = "source"

    def read(self, position: bytes | None) -> Iterator[Batch]:
        return iter(())


def error(code: int, **what: bool) -> KafkaError:
    make: Any = KafkaError
    made: KafkaError = make(code, "why", **what)
    return made


def publish_one(*failures: KafkaError) -> tuple[Failing, Publisher]:
    producer = Failing(*failures)
    publisher = Publisher(Connections(producer), Nothing())
    publisher._partitions = 1
    return producer, publisher


BATCH = Batch([b"a"], b"1", 1, {})


def test_a_commit_that_timed_out_for_a_moment_is_asked_again() -> None:
    producer, publisher = publish_one(error(KafkaError._TIMED_OUT, retriable=True))
    publisher.publish(BATCH)
    assert producer.calls == ["begin", "produce", "produce", "commit", "commit"]
    assert publisher.totals.events == 1


def test_a_commit_whose_end_is_not_learned_stops_the_run_and_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "PATIENCE_S", 0.0)
    producer, publisher = publish_one(error(KafkaError._TIMED_OUT, retriable=True))
    with pytest.raises(UnknownOutcome, match="run the same command again"):
        publisher.publish(BATCH)
    assert producer.calls[-1] == "commit", "it must not be aborted: it may have been committed"
    assert publisher.totals.events == 0
    assert not publisher.in_transaction


def test_a_transaction_that_must_be_aborted_is_and_nothing_is_counted() -> None:
    producer, publisher = publish_one(error(KafkaError.REQUEST_TIMED_OUT, txn_requires_abort=True))
    with pytest.raises(Unavailable, match="nothing of the last batch was published"):
        publisher.publish(BATCH)
    assert producer.calls[-1] == "abort"
    assert publisher.totals.events == 0


def test_a_fenced_producer_names_its_source() -> None:
    _, publisher = publish_one(error(KafkaError._FENCED, fatal=True))
    with pytest.raises(Fenced, match="reads source under the same name"):
        publisher.publish(BATCH)


def test_a_transactional_id_is_short_and_always_the_same() -> None:
    assert (
        transactional_id("ndjson:/a@host") == transactional_id("ndjson:/a@host") != transactional_id("ndjson:/b@host")
    )
    assert len(transactional_id("x" * 5000)) < 40


def test_a_source_that_was_stopped_before_it_began_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    producer, publisher = publish_one()
    monkeypatch.setattr(publisher, "start", lambda: None)
    stop = threading.Event()
    stop.set()
    assert publisher.run(stop).batches == 0
    assert producer.calls == []
