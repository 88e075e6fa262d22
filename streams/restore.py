"""Reads TRACK's state back from Kafka: the changelog to its true end, and the rollups whose cells still waited."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from producers.errors import AuditFailure, Unavailable
from streams.clients import make_admin, make_reader
from streams.settings import Settings
from streams.topics import MAIL_EVENTS, MAIL_ROLLUPS, TRACK_CHANGELOG

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 30.0
_TELL_S: Final = 5.0
_PATIENCE: Final = 60
"""Empty polls of half a second before a read is given up: longer than an open transaction can last."""


class Restorer:
    """Talks to the cluster for `streams.track` while its partitions are paused."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = make_admin(settings)

    def cluster(self) -> tuple[str, int]:
        """The id of the rollup topic, which changes when it is made anew; and how many input partitions there are."""
        names = [self._settings.topic(name) for name in (MAIL_ROLLUPS, MAIL_EVENTS)]
        metadata = self._admin.list_topics(timeout=_TIMEOUT_S).topics
        for name in names:
            if name not in metadata:
                raise Unavailable(f"topic {name} is missing; run `spamtide topics apply`")
        described = self._admin.describe_topics(TopicCollection(names[:1]))[names[0]].result(_TIMEOUT_S)
        return str(described.topic_id), len(metadata[names[1]].partitions)

    def changelog(self, partitions: Iterable[int]) -> dict[int, dict[bytes, bytes]]:
        """The newest committed value of each key of each partition, up to the end that *any* reader sees.

        That end counts transactions still open: they are waited for, so that nothing committed a moment ago is missed.
        """
        topic = self._settings.topic(TRACK_CHANGELOG)
        places = [TopicPartition(topic, partition) for partition in partitions]
        ends = {place.partition: offset for place, offset in self._ends(places).items() if offset > 0}
        values: dict[int, dict[bytes, bytes]] = {place.partition: {} for place in places}
        starts = dict.fromkeys(ends, OFFSET_BEGINNING)
        for partition, _, key, value in self._read(topic, starts, ends):
            if value is None:
                values[partition].pop(key, None)
            else:
                values[partition][key] = value
        return values

    def rollups(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
        """(partition, offset, value) of the records in [start, end) of each partition."""
        ends = {partition: end for partition, (start, end) in ranges.items() if start < end}
        starts = {partition: ranges[partition][0] for partition in ends}
        for partition, offset, _, value in self._read(self._settings.topic(MAIL_ROLLUPS), starts, ends):
            if value is not None:
                yield partition, offset, value

    def _read(
        self, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> Iterator[tuple[int, int, bytes, bytes | None]]:
        """(partition, offset, key, value) of the committed records of each partition in [start, end).

        Raises `AuditFailure` where a start is gone, `Unavailable` when the broker gives nothing for long.
        """
        unread = dict(ends)
        reader = make_reader(self._settings)
        try:
            reader.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
            patience, told_s = _PATIENCE, time.monotonic()
            count = 0
            while unread:
                messages = reader.consume(10_000, 0.5)
                patience = _PATIENCE if messages else patience - 1
                if not patience:
                    raise Unavailable(f"{topic}: nothing more comes before the end; is the broker running?")
                for message in messages:
                    partition, offset = _checked(message, topic)
                    if message.error() is None and offset < ends[partition]:
                        yield partition, offset, message.key() or b"", message.value()
                        count += 1
                        offset += 1
                    if offset >= ends[partition]:
                        unread.pop(partition, None)
                if time.monotonic() - told_s > _TELL_S:
                    told_s = time.monotonic()
                    log.info("restoring: %d records of %s read, %d partitions to go", count, topic, len(unread))
        except KafkaException as error:
            raise Unavailable(f"{topic}: {error.args[0].str()}") from error
        finally:
            reader.close()

    def _ends(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        asked = self._admin.list_offsets(
            {place: OffsetSpec.latest() for place in places},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=_TIMEOUT_S,
        )
        return {place: future.result(_TIMEOUT_S).offset for place, future in asked.items()}


def _checked(message: Message, topic: str) -> tuple[int, int]:
    """Partition and offset of a record, or of the end of a partition."""
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise AuditFailure(
                f"{topic} partition {message.partition()} no longer holds records that TRACK still needs: retention passed them. "
                "See README, 'When the audit fails'"
            )
        raise Unavailable(f"{topic}: {error.str()}")
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise Unavailable(f"{topic}: a record without a place")
    return partition, offset
