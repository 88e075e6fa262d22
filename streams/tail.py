"""Read topics from their beginning to their end, and on from there: for people and reports. Belongs to no group, commits nothing."""

import logging
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from producers.errors import Unavailable
from streams.admin import existing, wait_for_broker
from streams.clients import make_reader
from streams.settings import Settings

PATIENCE_S: Final = 5.0
"""How long a person waits to be told that the cluster does not answer."""
_POLL_S: Final = 0.2
_BATCH: Final = 5_000

_quiet = logging.getLogger("spamtide.librdkafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Tail:
    """Some topics' records, committed ones only. A context manager. Raises `Unavailable`."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        wait_for_broker(settings, PATIENCE_S)
        found = existing(settings)
        wanted = [settings.topic(name) for name in names]
        if missing := [name for name in wanted if name not in found]:
            raise Unavailable(f"no topic {missing[0]} on {settings.bootstrap_servers}: run `spamtide topics apply`")
        places = [TopicPartition(name, at, OFFSET_BEGINNING) for name in wanted for at in range(found[name])]
        self._behind = {(place.topic, place.partition) for place in places}
        self._consumer: Consumer = make_reader(settings, logger=_quiet)
        self._consumer.assign(places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()

    @property
    def at_end(self) -> bool:
        """Whether every partition was read to its stable end at least once."""
        return not self._behind

    def to_end(self) -> Iterator[Message]:
        """Every record up to the present end."""
        while self._behind:
            yield from self.poll(_POLL_S)

    def poll(self, timeout_s: float) -> list[Message]:
        """The next records, fewer than `_BATCH`; none when none came in time."""
        records = []
        for message in self._consumer.consume(_BATCH, timeout_s):
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((str(message.topic()), message.partition() or 0))
            elif not error.retriable():
                raise Unavailable(f"cannot read {message.topic()}: {error.str()}")
        return records
