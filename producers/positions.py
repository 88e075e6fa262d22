"""Where each source stopped: records on `source-positions`, written in the transaction that published the events."""

import time
from typing import Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from producers.errors import Unavailable, UsageError

POSITION_VERSION: Final = 1


class SourcePosition(msgspec.Struct, frozen=True):
    """A record on `source-positions`; the newest of a key counts."""

    v: int
    events: int
    """Events this source published so far: where the round robin over partitions goes on."""
    lines: int
    position: msgspec.Raw
    """The source's own words."""


def committed_position(reader: Consumer, topic: str, key: str, patience_s: float) -> SourcePosition | None:
    """The newest committed position of a source, None where it never committed. Closes the reader.

    The end to reach is the high watermark, not the last stable offset where a read-committed reader is first told "end":
    another source's open transaction may lie before our own newest position and hide it for as long as it is open.
    Raises `Unavailable` where the end is not reached in time, `UsageError` for a position that is not ours to read.
    """
    found: bytes | None = None
    partition = TopicPartition(topic, 0, OFFSET_BEGINNING)
    give_up = time.monotonic() + patience_s
    end: int | None = None
    try:
        reader.assign([partition])
        while time.monotonic() < give_up:
            message = reader.poll(0.5)
            if message is None:
                continue
            fault = message.error()
            if fault is None:
                if message.key() == key.encode():
                    found = message.value()
                continue
            if fault.code() != KafkaError._PARTITION_EOF:
                raise Unavailable(f"cannot read {topic}: {fault.str()}")
            if end is None:
                end = reader.get_watermark_offsets(partition, cached=True)[1]
            if (message.offset() or 0) >= end:
                return _decode(found, key)
    finally:
        reader.close()
    raise Unavailable(f"cannot read {topic} to its end within {patience_s:.0f} s; run the same command again")


def _decode(value: bytes | None, key: str) -> SourcePosition | None:
    if value is None:
        return None
    try:
        found = msgspec.json.decode(value, type=SourcePosition)
    except msgspec.MsgspecError:
        raise UsageError(f"the position of {key} on source-positions was not written by spamtide") from None
    if found.v != POSITION_VERSION:
        raise UsageError(f"the position of {key} has version {found.v}; this spamtide reads {POSITION_VERSION}")
    return found
