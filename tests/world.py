"""COUNT -> TRACK in memory: events in, facts and signals out, with batch sizes, crash points and input partitions of one's choice.

    mail-events (one log an input partition) ──▶ Counting ──▶ mail-rollups (one log a partition) ──▶ Tracking ──▶ facts, signals

Only Kafka is missing. Everything that would cross it is encoded and decoded, and a crash keeps just what a commit would have.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Final

import msgspec
import numpy as np

from producers.event import MailEvent
from streams.accumulate import Accumulator
from streams.close import Closer
from streams.incident import Signal
from streams.rollup import ON_TIME, InputProgress, InputRange, Rollup, cells_of
from streams.rules import Limits
from streams.table import Row
from streams.topics import ENTITY_PARTITIONS
from streams.volume import COUNTERS, Fact
from streams.waiting import Marker

GRACE_MS: Final = 60_000
QUIET_MINUTES: Final = 360
LIMITS: Final = Limits(capture_share=0.0002, trap_min_hits=10, page_share=0.01, page_tier=10_000_000)
ALL_PARTITIONS: Final = range(ENTITY_PARTITIONS)

Totals = dict[tuple[str, str, int], tuple[int, ...]]


class Counting:
    """COUNT: events of each input partition, read in batches, become rollups with the ranges they cover."""

    def __init__(self, inputs: Mapping[int, Sequence[MailEvent]], grace_ms: int = GRACE_MS) -> None:
        self._inputs = inputs
        self._places = dict.fromkeys(inputs, 0)
        self._progress = {partition: InputProgress(grace_ms) for partition in inputs}
        self._sums = Accumulator()
        self._ranges: dict[int, int] = dict(self._places)

    def left(self) -> list[int]:
        """Input partitions that are not read to their end."""
        return [partition for partition, events in self._inputs.items() if self._places[partition] < len(events)]

    def read(self, partition: int, most: int) -> None:
        """Adds up to `most` events; each is taken as appended ten milliseconds after it happened."""
        start = self._places[partition]
        events = self._inputs[partition][start : start + most]
        if events:
            prepared = self._sums.prepare(events)
            after = self._progress[partition].observe(prepared.time_ms, prepared.time_ms + 10)
            self._sums.add(prepared, np.ones(len(events), dtype=np.bool_), after)
            self._places[partition] = start + len(events)

    def flush(self, idle: Iterable[int] = ()) -> list[bytes]:
        """The encoded records of one transaction, in the order they would be produced."""
        ranges = tuple(
            InputRange(p, self._ranges[p], place, self._progress[p].progress_ms, p in set(idle))
            for p, place in self._places.items()
        )
        self._ranges = dict(self._places)
        written = []
        for records in self._sums.drain():
            records[-1] = msgspec.structs.replace(records[-1], ranges=ranges)
            written += [msgspec.msgpack.encode(record) for record in records]
        return written


def counted(
    inputs: Mapping[int, Sequence[MailEvent]], rng: Random, most: int = 400, ends_idle: bool = True
) -> dict[int, list[bytes]]:
    """`mail-rollups`: input partitions read turn by turn at random, flushed at random; all idle at the end."""
    counting = Counting(inputs)
    log: dict[int, list[bytes]] = {partition: [] for partition in ALL_PARTITIONS}
    while counting.left():
        for _ in range(rng.randrange(1, 4)):
            counting.read(rng.choice(counting.left() or [0]), rng.randrange(1, most))
        _append(log, counting.flush())
    if ends_idle:
        _append(log, counting.flush(idle=inputs))
    return log


def _append(log: dict[int, list[bytes]], records: list[bytes]) -> None:
    for value in records:
        log[msgspec.msgpack.decode(value, type=Rollup).partition].append(value)


class Tracking:
    """TRACK over some partitions, as the stage drives its core; `changelog` is what a crash leaves."""

    def __init__(
        self,
        log: Mapping[int, Sequence[bytes]],
        inputs: int = 1,
        limits: Limits = LIMITS,
        partitions: Iterable[int] = ALL_PARTITIONS,
        max_rows: int = 1_000_000,
        quiet_minutes: int = QUIET_MINUTES,
    ) -> None:
        self.log = log
        self.facts: list[Fact] = []
        self.signals: list[Signal] = []
        self.changelog: dict[int, dict[str, bytes]] = {partition: {} for partition in partitions}
        self.markers: dict[int, bytes] = {}
        self._inputs, self._limits, self._max_rows, self._quiet = inputs, limits, max_rows, quiet_minutes
        self._decoder = msgspec.msgpack.Decoder(Rollup)
        self._next = dict.fromkeys(self.changelog, 0)
        self.restore()

    def left(self) -> list[int]:
        """Partitions not read to their end."""
        return [p for p in self.changelog if self._next[p] < len(self.log[p])]

    def take(self, partition: int, most: int = 1) -> None:
        """Takes up to `most` rollups of a partition, without closing minutes."""
        for offset in range(self._next[partition], min(self._next[partition] + most, len(self.log[partition]))):
            self.closer.take(self._decoder.decode(self.log[partition][offset]), offset)
            self._next[partition] = offset + 1

    def commit(self) -> None:
        """What is one transaction in the stage: facts and signals are told, rows and markers are in the changelog."""
        closer = self.closer
        closer.tell_late()
        closer.evict(self._max_rows)
        self.facts += msgspec.json.decode(msgspec.json.encode(closer.facts), type=list[Fact])
        self.signals += closer.signals
        for partition, name in closer.forgotten:
            self.changelog[partition].pop(name, None)
        rows = closer.table.take_changed()
        for partition, (name, row) in zip(
            closer.table.partition[rows].tolist(), closer.table.snapshots(rows), strict=True
        ):
            self.changelog[partition][name] = msgspec.msgpack.encode(row)
        stored = closer.table.stored_by_partition().tolist()
        for partition, place in closer.partitions.items():
            marker = place.marker("topic", stored[partition])
            self.markers[partition] = msgspec.msgpack.encode(marker)
            assert marker.rows == len(self.changelog[partition]), "the marker must count the rows of the changelog"
            assert marker.next_offset == self._next[partition]
            place.epoch += 1
        closer.told()

    def restore(self) -> None:
        """A new process: all memory is gone, the changelog and the committed offsets are not."""
        self.closer = Closer(self._limits, self._quiet, GRACE_MS)
        for partition, rows in self.changelog.items():
            stored = self.markers.get(partition)
            marker = msgspec.msgpack.decode(stored, type=Marker) if stored else None
            start, end = (marker.waits_from, marker.next_offset) if marker else (0, 0)
            self.closer.open(partition, end, self._inputs, marker)
            decoded = [(name, msgspec.msgpack.decode(row, type=Row)) for name, row in rows.items()]
            self.closer.load(partition, decoded)
            self._next[partition] = end
            for offset in range(start, end):
                self.closer.take_again(self._decoder.decode(self.log[partition][offset]), offset)

    def run(self, rng: Random | None = None, most: int = 50, crash: float = 0.0, commit: float = 0.5) -> "Tracking":
        """Reads everything: all partitions by turns, or at random with crashes before and after commits."""
        if rng is None:
            for partition in self.changelog:
                self.take(partition, len(self.log[partition]))
                self.closer.advance()
            self.commit()
            return self
        while left := self.left():
            for _ in range(rng.randrange(1, 40)):
                self.take(rng.choice(left), rng.randrange(1, most))
            self.closer.advance()
            if rng.random() < crash:
                self.restore()
            elif rng.random() < commit or not self.left():
                self.commit()
                if rng.random() < crash:
                    self.restore()
        return self


def totals_of(facts: Iterable[Fact]) -> Totals:
    """(entity, span, start in ms) -> counters: the sum over parts at their highest revision, zeros left out.

    Two contents under one revision are a contradiction: `AssertionError`.
    """
    newest: dict[tuple[str, str, int, int], Fact] = {}
    for fact in facts:
        part = (fact.entity, fact.span, fact.start_ms, fact.part)
        held = newest.get(part)
        assert held is None or held.revision != fact.revision or held == fact, f"{held} contradicts {fact}"
        if held is None or held.revision < fact.revision:
            newest[part] = fact
    sums: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0] * len(COUNTERS))
    for (entity, span, start, _), fact in newest.items():
        held_sums = sums[entity, span, start]
        for index, name in enumerate(COUNTERS):
            held_sums[index] += getattr(fact, name)
    return {key: tuple(counters) for key, counters in sums.items() if any(counters)}


def story_of(signals: Iterable[Signal]) -> list[tuple[str, int, str, str, int]]:
    """What was told, whatever the order of partitions: (entity, seq, change, severity, time)."""
    return sorted((s.entity, s.seq, s.change, s.severity, s.time_ms) for s in signals)


def cells_in(records: Iterable[Rollup]) -> dict[tuple[str, int, bool], tuple[int, ...]]:
    """(entity, minute, late) -> counters summed over records."""
    sums: dict[tuple[str, int, bool], list[int]] = defaultdict(lambda: [0] * len(COUNTERS))
    for record in records:
        cells = cells_of(record)
        for at, name in enumerate(cells.name_of.tolist()):
            held = sums[record.names[name], int(cells.minute[at]), bool(cells.after[at] != ON_TIME)]
            for index, value in enumerate(cells.counters[:, at].tolist()):
                held[index] += value
    return {key: tuple(counters) for key, counters in sums.items()}
