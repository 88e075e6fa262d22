"""Sources into a real Kafka: a killed run repeats nothing and loses nothing."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from producers.errors import Fenced, UsageError
from producers.event import MAX_RECORD_BYTES, MailEvent, Source
from producers.publish import Batch, Publisher, transactional_id
from producers.sources.ndjson import NdjsonFile
from streams import clients
from streams.settings import Settings
from streams.topics import MAIL_EVENTS, SOURCE_POSITIONS

pytestmark = pytest.mark.kafka
PARTITIONS = 8


class ByClients:
    """`Connections` as the command line makes them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def make_producer(self, transactional_id: str) -> Producer:
        return clients.make_transactional_producer(self._settings, transactional_id)

    def make_reader(self) -> Consumer:
        return clients.make_reader(self._settings)

    def topic(self, name: str) -> str:
        return self._settings.topic(name)


class Numbers:
    """A source of `count` small records in batches; the position is the next number."""

    def __init__(self, count: int, batch: int = 100, key: str = "numbers") -> None:
        self.key = key
        self._count = count
        self._batch = batch

    def read(self, position: bytes | None) -> Iterator[Batch]:
        start = 0 if position is None else int(position)
        for first in range(start, self._count, self._batch):
            end = min(first + self._batch, self._count)
            yield Batch([b"%d" % number for number in range(first, end)], b"%d" % end, end - first, {})


def committed(settings: Settings, name: str = MAIL_EVENTS) -> list[tuple[int, bytes]]:
    """(partition, value) of every record that a read-committed consumer sees."""
    reader = clients.make_reader(settings)
    topic = settings.topic(name)
    partitions = list(reader.list_topics(topic, timeout=10).topics[topic].partitions)
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    records, open_partitions = [], set(partitions)
    while open_partitions:
        message = reader.poll(10)
        assert message is not None, "the reader was not told of the end"
        if message.error():
            open_partitions.discard(message.partition())
        else:
            records.append((message.partition() or 0, message.value() or b""))
    reader.close()
    return records


def run(settings: Settings, source: Numbers | NdjsonFile) -> Publisher:
    publisher = Publisher(ByClients(settings), source)
    publisher.run(threading.Event())
    return publisher


def test_every_record_is_published_once_and_spread_round_robin(settings: Settings) -> None:
    totals = run(settings, Numbers(1000)).totals
    records = committed(settings)
    assert sorted(int(value) for _, value in records) == list(range(1000))
    assert all(int(value) % PARTITIONS == partition for partition, value in records)
    assert (totals.events, totals.lines, totals.batches) == (1000, 1000, 10)


def test_a_second_run_goes_on_where_the_first_one_ended(settings: Settings) -> None:
    run(settings, Numbers(250))
    totals = run(settings, Numbers(1000)).totals
    assert totals.resumed
    assert totals.events == 750
    assert sorted(int(value) for _, value in committed(settings)) == list(range(1000))


def test_a_run_killed_in_a_transaction_is_as_if_that_transaction_never_was(settings: Settings) -> None:
    killed = Publisher(ByClients(settings), Numbers(1000))
    batches = Numbers(1000).read(killed.start())
    killed.publish(next(batches))
    producer = killed._producer
    producer.begin_transaction()
    for number in range(100, 200):
        producer.produce(settings.topic(MAIL_EVENTS), b"%d" % number, partition=number % PARTITIONS)
    producer.flush(10)  # on the broker, never committed: as after kill -9
    run(settings, Numbers(1000))
    assert Counter(int(value) for _, value in committed(settings)) == Counter(range(1000))


def test_a_run_that_was_overtaken_says_who_took_its_place(settings: Settings) -> None:
    first = Publisher(ByClients(settings), Numbers(1000))
    batches = Numbers(1000).read(first.start())
    first.publish(next(batches))
    run(settings, Numbers(300))
    with pytest.raises(Fenced, match="another `spamtide produce` reads numbers"):
        first.publish(next(batches))
    assert Counter(int(value) for _, value in committed(settings)) == Counter(range(300))


def test_a_position_behind_anothers_open_transaction_is_still_found(settings: Settings) -> None:
    """Otherwise a source would start again from 0 whenever a neighbour is in the middle of a commit."""
    first = Publisher(ByClients(settings), Numbers(200, batch=200))
    batches = Numbers(200, batch=200).read(first.start())
    other = ByClients(settings).make_producer(transactional_id("other"))
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(settings.topic(SOURCE_POSITIONS), b"{}", b"other", partition=0)
    other.flush(10)
    first.publish(next(batches))
    released = threading.Timer(1.0, other.abort_transaction, (10,))
    released.start()
    totals = run(settings, Numbers(300)).totals
    released.join()
    assert totals.resumed
    assert totals.events == 100


def test_an_oversize_record_is_refused_and_its_neighbours_are_published(settings: Settings) -> None:
    class Large:
        key = "large"

        def read(self, position: bytes | None) -> Iterator[Batch]:
            yield Batch([b"a", b"x" * (MAX_RECORD_BYTES + 1), b"y" * MAX_RECORD_BYTES, b"b"], b"1", 4, {"nul": 1})

    publisher = Publisher(ByClients(settings), Large())
    totals = publisher.run(threading.Event())
    assert sorted(len(value) for _, value in committed(settings)) == [1, 1, MAX_RECORD_BYTES]
    assert totals.refused == {"nul": 1, "oversize": 1}


def test_a_source_that_cannot_go_back_leaves_no_position(settings: Settings) -> None:
    class Pipe:
        key = "pipe"

        def read(self, position: bytes | None) -> Iterator[Batch]:
            assert position is None
            yield Batch([b"a"], b"", 1, {})

    Publisher(ByClients(settings), Pipe()).run(threading.Event())
    assert committed(settings, SOURCE_POSITIONS) == []
    assert len(committed(settings)) == 1


def test_missing_topics_are_said_with_the_command_that_makes_them(broker: str) -> None:
    nowhere = Settings(bootstrap_servers=broker, topic_prefix="test-no-such-topics-")
    with pytest.raises(UsageError, match="spamtide topics apply"):
        Publisher(ByClients(nowhere), Numbers(1)).start()


def test_stopping_between_batches_publishes_whole_batches(settings: Settings) -> None:
    stop = threading.Event()
    publisher = Publisher(ByClients(settings), Numbers(1000))
    publisher.run(stop, lambda _: stop.set())
    assert sorted(int(value) for _, value in committed(settings)) == list(range(100))


def test_a_file_of_json_lines_is_published_as_it_came_and_its_bad_lines_are_told(
    settings: Settings, tmp_path: Path
) -> None:
    source = Source("test", "host")
    event = MailEvent(v=1, id="1", time_ms=1_000, disposition="accepted", source=source)
    good = msgspec.json.encode(event)[:-1] + b',"later_field":1}'
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join((good, b"garbage", b"", good)))
    faults: list[tuple[int, str]] = []
    totals = run(
        settings, NdjsonFile(path, "host", lambda: 2_000, lambda line, reason: faults.append((line, reason)))
    ).totals
    assert [value for _, value in committed(settings)] == [good, good]
    assert faults == [(2, "not_json")]
    assert (totals.lines, totals.events, totals.refused) == (4, 2, {"not_json": 1})
