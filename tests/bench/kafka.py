"""The bench's own topics on the test broker, filled and emptied."""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from streams.admin import apply, remove
from streams.clients import make_admin, make_reader, make_transactional_producer
from streams.settings import Settings
from streams.topics import BY_NAME, MAIL_EVENTS, MAIL_ROLLUPS
from tests.bench.world import INPUTS, World

_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.1
_TRANSACTION: Final = 20_000
"""Records a transaction: well within its time-out on a slow machine."""


@contextmanager
def topics(bootstrap_servers: str) -> Iterator[Settings]:
    """Settings with a prefix of their own, `INPUTS` partitions of `mail-events`; all is removed afterwards."""
    settings = Settings(
        bootstrap_servers=bootstrap_servers,
        topic_prefix=f"bench-{uuid.uuid4().hex[:8]}-",
        count_metrics_port=0,
        track_metrics_port=0,
    )
    spec = BY_NAME[MAIL_EVENTS]
    asked = [NewTopic(settings.topic(MAIL_EVENTS), INPUTS, 1, config=dict(spec.config))]
    admin = make_admin(settings)
    for future in admin.create_topics(asked, operation_timeout=_TIMEOUT_S).values():
        future.result()
    apply(settings)  # the others
    try:
        yield settings
    finally:
        remove(settings)


def publish_events(settings: Settings, world: World) -> int:
    """Publishes a world, event `n` to partition `n % INPUTS`; returns the bytes of JSON."""
    encoder = msgspec.json.Encoder()
    written = 0

    def records() -> Iterator[tuple[int, bytes]]:
        nonlocal written
        number = 0
        for chunk in world.events():
            for event in chunk:
                value = encoder.encode(event)
                written += len(value)
                yield number % INPUTS, value
                number += 1

    _publish(settings, MAIL_EVENTS, records())
    return written


def publish_rollups(settings: Settings, records: Iterable[tuple[int, bytes]]) -> int:
    """Publishes (partition, value); returns how many."""
    return _publish(settings, MAIL_ROLLUPS, records)


def _publish(settings: Settings, name: str, records: Iterable[tuple[int, bytes]]) -> int:
    # One request at a time: with more, a first batch that a new partition was not ready for is lost when the second is taken.
    producer = make_transactional_producer(settings, "bench-source", max_in_flight_requests_per_connection=1)
    producer.init_transactions(_TIMEOUT_S)
    topic, count = settings.topic(name), 0
    producer.begin_transaction()
    for partition, value in records:
        _produce(producer, topic, partition, value)
        count += 1
        if count % _TRANSACTION == 0:
            producer.commit_transaction(_TIMEOUT_S)
            producer.begin_transaction()
    producer.commit_transaction(_TIMEOUT_S)
    return count


def _produce(producer: Producer, topic: str, partition: int, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value=value, partition=partition)
        except BufferError:
            producer.poll(0.05)
        else:
            return


def forget_group(settings: Settings, stage: str) -> None:
    """Lets the next worker of a stage begin at the oldest record; waits until the last one has left."""
    admin, group = make_admin(settings), settings.topic_prefix + stage
    until_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            admin.delete_consumer_groups([group])[group].result(_TIMEOUT_S)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.GROUP_ID_NOT_FOUND:
                return
            if code != KafkaError.NON_EMPTY_GROUP or time.monotonic() > until_s:
                raise
            time.sleep(_POLL_S)
        else:
            return


def rollup_ends(settings: Settings) -> dict[int, int]:
    """The offset that the next rollup of each partition will have."""
    reader, topic = make_reader(settings), settings.topic(MAIL_ROLLUPS)
    try:
        return {
            partition: reader.get_watermark_offsets(TopicPartition(topic, partition), _TIMEOUT_S)[1]
            for partition in range(BY_NAME[MAIL_ROLLUPS].partitions)
        }
    finally:
        reader.close()


def read_rollups(settings: Settings, starts: dict[int, int]) -> Iterator[tuple[int, bytes]]:
    """(partition, value) of the rollups from these offsets to the end."""
    reader, topic = make_reader(settings), settings.topic(MAIL_ROLLUPS)
    unread: set[int | None] = set(starts)
    try:
        reader.assign([TopicPartition(topic, part, start or OFFSET_BEGINNING) for part, start in starts.items()])
        while unread:
            for message in reader.consume(1_000, _TIMEOUT_S):
                error, partition, value = message.error(), message.partition(), message.value()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(partition)
                elif error is not None:
                    raise KafkaException(error)
                elif partition is not None and value is not None:
                    yield partition, value
    finally:
        reader.close()
