"""The table of volumes: a row an entity, in columns, so that a rule over a million rows is a handful of array operations. Pure.

A row holds rings (its last 60 minutes, 48 hours and 35 days) and a ledger (the open hour and day with all counters, first and last
seen, the incident). Each row has its own clock, the minute its rings are true for; a row moves on when it is touched, so what nobody
touches costs nothing. Rings are uint32 and saturate (4.29 billion copies an hour); facts come from the ledger, which is int64 and exact.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.known import Known
from streams.layout import (
    COUNTER_INDEX,
    EMPTY_LEDGER,
    GROUPS,
    HELD_GROUPS,
    LEDGER_WIDTH,
    MINUTES,
    NO_MINUTE,
    NOT_YET,
    RINGS,
    RINGS_WIDTH,
    SATURATED,
    SPANS,
    Field,
    Rings,
    Rows,
    Span,
)
from streams.rollup import Detail, Ints
from streams.topics import ENTITY_PARTITIONS
from streams.volume import is_bucket, kind_of

ROW_VERSION: Final = 1
_N = TypeVar("_N", bound=np.generic)


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A row as it lies in `track-changelog`: only what is not zero, as (place, value) columns."""

    v: int
    ring_at: bytes
    """uint16 each."""
    ring: bytes
    """uint32 each."""
    ledger_at: bytes
    """uint8 each; values are differences from an empty row's."""
    ledger: bytes
    """int64 each."""
    known: Detail | None


class Table:
    """All rows of one worker. Owned by TRACK: nobody else changes it."""

    def __init__(self, capacity: int = 1024) -> None:
        self.names: list[str] = []
        self.row_of: dict[str, int] = {}
        self.known: dict[int, Known] = {}
        self._free: list[int] = []
        self.partition = np.full(capacity, NOT_YET, dtype=np.int32)
        self.kind = np.zeros(capacity, dtype=np.int8)
        """Index into `KINDS`."""
        self.bucket = np.zeros(capacity, dtype=np.bool_)
        self.rings = np.zeros((capacity, RINGS_WIDTH), dtype=np.uint32)
        self.ledger = np.zeros((capacity, LEDGER_WIDTH), dtype=np.int64)
        self.dirty = np.zeros(capacity, dtype=np.bool_)
        """Changed since the last snapshot."""
        self.stored = np.zeros(capacity, dtype=np.bool_)
        """In the changelog."""

    def __len__(self) -> int:
        return len(self.row_of)

    # -- rows -------------------------------------------------------------------------------------------------------------

    def rows_for(self, names: Sequence[str], partition: int) -> Rows:
        """The rows of entities, made where they are new."""
        found = self.row_of
        new = [name for name in names if name not in found]
        if new:
            self._make(list(dict.fromkeys(new)), partition)
        return np.fromiter(map(found.__getitem__, names), np.intp, len(names))

    def _make(self, names: list[str], partition: int) -> None:
        kinds, buckets = [kind_of(name) for name in names], [is_bucket(name) for name in names]
        again, first = min(len(names), len(self._free)), len(self.names)
        places = [*(self._free.pop() for _ in range(again)), *range(first, first + len(names) - again)]
        for row, name in zip(places[:again], names, strict=False):
            self.names[row] = name
        self.names.extend(names[again:])
        self.row_of.update(zip(names, places, strict=True))
        while len(self.names) > len(self.partition):
            self._grow()
        rows = np.array(places, dtype=np.intp)
        self.partition[rows] = partition
        self.kind[rows] = kinds
        self.bucket[rows] = buckets
        self.ledger[rows] = EMPTY_LEDGER

    def _grow(self) -> None:
        self.partition = _doubled(self.partition, NOT_YET)
        self.kind, self.bucket = _doubled(self.kind), _doubled(self.bucket)
        self.rings, self.ledger = _doubled(self.rings), _doubled(self.ledger)
        self.dirty, self.stored = _doubled(self.dirty), _doubled(self.stored)

    def remove(self, rows: Iterable[int]) -> None:
        """Forgets rows."""
        for row in rows:
            del self.row_of[self.names[row]]
            self.known.pop(row, None)
            self._free.append(row)
            self.names[row] = ""
        gone = np.array(list(rows), dtype=np.intp)
        self.partition[gone] = NOT_YET
        self.rings[gone] = 0
        self.ledger[gone] = 0
        self.dirty[gone] = self.stored[gone] = False

    def learn_all(self, details: Sequence[Detail], partition: int) -> None:
        """Adds to what entities are known by."""
        rows = self.rows_for([detail.entity for detail in details], partition)
        for row, detail in zip(rows.tolist(), details, strict=True):
            known = self.known.get(row)
            if known is None:
                known = self.known[row] = Known()
            known.merge(detail)
        self.dirty[rows] = True

    # -- time -------------------------------------------------------------------------------------------------------------

    def advance(self, rows: Rows, minute: int | Ints) -> None:
        """Moves rows on to a minute, or each to its own: what has left a ring becomes zero. Rows already there or further stay."""
        old = self.ledger[rows, Field.CLOCK]
        new = np.broadcast_to(np.asarray(minute), old.shape)
        behind = old < new
        rows, old, new = rows[behind], old[behind], new[behind]
        if not len(rows):
            return
        for group in GROUPS:
            interval = new // group.minutes
            gap = interval - old // group.minutes
            if gap.any():
                self._rotate(rows, gap, interval, group)
        self.ledger[rows, Field.CLOCK] = new
        self.dirty[rows] = True

    def _rotate(self, rows: Rows, gap: Ints, interval: Ints, group: Rings) -> None:
        one = gap == 1
        if one.any():
            firsts = group.first + group.length * np.arange(len(group.names))
            self.rings[rows[one, np.newaxis], firsts + interval[one, np.newaxis] % group.length] = 0
        over = rows[gap >= group.length]
        if len(over):
            self.rings[over, group.first : group.last] = 0
        some = (gap > 1) & (gap < group.length)
        if some.any():
            age = (interval[some, np.newaxis] - np.arange(group.length)) % group.length
            block = self.rings[rows[some], group.first : group.last].reshape(-1, len(group.names), group.length)
            block *= (age >= gap[some, np.newaxis])[:, np.newaxis, :]
            self.rings[rows[some], group.first : group.last] = block.reshape(len(block), -1)

    # -- volume -----------------------------------------------------------------------------------------------------------

    def fold(self, rows: Rows, minute: Ints, counters: Ints, part_of: Ints) -> Rows:
        """Adds cells of minutes that are over, all of one hour; returns the distinct rows.

        `rows` and `minute` have shape (cells,), `counters` (counters, cells); `part_of` says by partition which part a fact opens.
        """
        distinct, place = np.unique(rows, return_inverse=True)
        sums = summed(place, counters, len(distinct))
        last = np.full(len(distinct), NOT_YET, dtype=np.int64)
        np.maximum.at(last, place, minute)
        through = int(minute.max())
        self.advance(distinct, last)  # no further: what is folded with a row must not age its minutes
        self._add_minutes(distinct, place, minute, counters)
        self._add_to_rings(distinct, through, sums, HELD_GROUPS)
        self._note_seen(distinct, place, minute, last, counters)
        ledger = self.ledger
        for span in SPANS:
            start = through // span.minutes
            opened = distinct[ledger[distinct, span.start] != start]
            ledger[opened, span.start] = start
            ledger[opened, span.part] = part_of[self.partition[opened]]
            ledger[distinct, span.counters] += sums.T
            ledger[distinct, span.dirty] = 1
        self.dirty[distinct] = True
        return distinct

    def _add_minutes(self, distinct: Rows, place: Rows, minute: Ints, counters: Ints) -> None:
        """To the rings of minutes: a row may have several in the same call."""
        group = GROUPS[0]
        slots, slot = np.unique(place * group.length + minute % group.length, return_inverse=True)
        sums = summed(slot, counters[list(group.counters)], len(slots))
        row = distinct[slots // group.length]
        for number, of_ring in enumerate(sums):
            places = (row, group.first + number * group.length + slots % group.length)
            self.rings[places] = np.minimum(self.rings[places] + of_ring, SATURATED)

    def _note_seen(self, distinct: Rows, place: Rows, minute: Ints, last: Ints, counters: Ints) -> None:
        ledger = self.ledger
        first = np.full(len(distinct), NO_MINUTE)
        np.minimum.at(first, place, minute)
        trap = np.full(len(distinct), NO_MINUTE)
        trapped = counters[COUNTER_INDEX["traps"]] > 0
        np.minimum.at(trap, place[trapped], minute[trapped])
        for field, seen in ((Field.FIRST_SEEN, first), (Field.FIRST_TRAP, trap)):
            new = (ledger[distinct, field] == NOT_YET) & (seen != NO_MINUTE)
            ledger[distinct[new], field] = seen[new]
        ledger[distinct, Field.LAST_SEEN] = np.maximum(ledger[distinct, Field.LAST_SEEN], last)

    def fold_late(self, rows: Rows, sums: Ints, minute: int) -> None:
        """Adds late cells to the hours and days their rows still hold; minutes, which rules have judged, stay as they are."""
        self.advance(rows, minute)
        for group in HELD_GROUPS:
            clock = self.ledger[rows, Field.CLOCK] // group.minutes
            held = minute // group.minutes > clock - group.length
            self._add_to_rings(rows[held], minute, sums[:, held], (group,))
        first = self.ledger[rows, Field.FIRST_SEEN]
        self.ledger[rows, Field.FIRST_SEEN] = np.where(first == NOT_YET, minute, np.minimum(first, minute))
        self.ledger[rows, Field.LAST_SEEN] = np.maximum(self.ledger[rows, Field.LAST_SEEN], minute)
        self.dirty[rows] = True

    def add_to_open(self, span: Span, rows: Rows, sums: Ints) -> None:
        """Adds to the open hour or day."""
        self.ledger[rows, span.counters] += sums.T
        self.ledger[rows, span.dirty] = 1

    def _add_to_rings(self, rows: Rows, minute: int, sums: Ints, groups: tuple[Rings, ...]) -> None:
        columns = np.concatenate([group.columns(minute) for group in groups])
        counters = [counter for group in groups for counter in group.counters]
        places = (rows[:, np.newaxis], columns)
        self.rings[places] = np.minimum(self.rings[places] + sums[counters].T, SATURATED)

    def merge_rings(self, rows: Rows, into: int, minute: int) -> None:
        """Adds the rings of rows to those of another, all as of a minute."""
        everyone = np.append(rows, into)
        self.advance(everyone, minute)
        self.rings[into] = np.minimum(self.rings[everyone].sum(axis=0, dtype=np.int64), SATURATED)
        self.ledger[into, Field.LAST_SEEN] = minute
        self.dirty[into] = True

    def recent(self, rows: Rows, name: str, minute: int, intervals: int) -> Ints:
        """Sum of the last intervals of a ring up to and with the one of `minute`, as of that minute; rows need not be advanced."""
        ring = RINGS[name]
        now = minute // ring.minutes
        clock = self.ledger[rows, Field.CLOCK] // ring.minutes
        block = self.rings[rows, ring.column : ring.column + ring.length].astype(np.int64)
        age = now - clock[:, np.newaxis] + (clock[:, np.newaxis] - np.arange(ring.length)) % ring.length
        sums: Ints = (block * (age < intervals)).sum(axis=1)
        return sums

    def window(self, rows: Rows, name: str, minute: int, intervals: int) -> Ints:
        """The same sum as `recent`, quicker, of rows that have been advanced to that minute."""
        ring = RINGS[name]
        if intervals == ring.length:
            block = self.rings[rows, ring.column : ring.column + ring.length]
        else:
            columns = ring.column + (minute // ring.minutes - np.arange(intervals)) % ring.length
            block = self.rings[rows[:, np.newaxis], columns]
        sums: Ints = block.sum(axis=1, dtype=np.int64)
        return sums

    def last_minutes(self, rows: Rows, minute: int) -> Ints:
        """Copies and unwanted copies of the 60 minutes up to and with `minute`, oldest first: shape (2, rows, 60)."""
        wanted = minute - MINUTES + 1 + np.arange(MINUTES)
        clock = self.ledger[rows, Field.CLOCK][:, np.newaxis]
        held = (wanted > clock - MINUTES) & (wanted <= clock)
        group = GROUPS[0]
        starts = group.first + group.length * np.arange(len(group.names))
        columns = starts[:, np.newaxis, np.newaxis] + wanted % MINUTES
        values: Ints = self.rings[rows[:, np.newaxis], columns].astype(np.int64) * held
        return values

    # -- snapshots --------------------------------------------------------------------------------------------------------

    def take_changed(self) -> Rows:
        """The rows that changed since this was last asked: they are to be stored."""
        rows = np.flatnonzero(self.dirty)
        self.dirty[rows] = False
        self.stored[rows] = True
        return rows

    def stored_by_partition(self) -> Ints:
        """How many rows of each partition the changelog holds."""
        return np.bincount(self.partition[self.stored], minlength=ENTITY_PARTITIONS)

    def snapshots(self, rows: Rows) -> Iterator[tuple[str, Row]]:
        """Rows as they go into the changelog."""
        rings = _sparse(self.rings[rows], "<u2", "<u4")
        ledgers = _sparse(self.ledger[rows] - EMPTY_LEDGER, "u1", "<i8")
        for row, (ring_at, ring), (ledger_at, ledger) in zip(rows.tolist(), rings, ledgers, strict=True):
            name = self.names[row]
            known = self.known.get(row)
            yield name, Row(ROW_VERSION, ring_at, ring, ledger_at, ledger, known.snapshot(name) if known else None)

    def load(self, rows: Sequence[tuple[str, Row]], partition: int) -> None:
        """Puts rows, no two of one entity, back as they were."""
        places = self.rows_for([name for name, _ in rows], partition)
        self.stored[places] = True
        at, column, ring = _scattered(places, [(row.ring_at, row.ring) for _, row in rows], "<u2", "<u4")
        self.rings[at, column] = ring
        at, column, ledger = _scattered(places, [(row.ledger_at, row.ledger) for _, row in rows], "u1", "<i8")
        self.ledger[at, column] += ledger
        for place, (_, row) in zip(places.tolist(), rows, strict=True):
            if row.known is not None:
                self.known.setdefault(place, Known()).merge(row.known)


def _doubled(column: NDArray[_N], fill: int = 0) -> NDArray[_N]:
    """A column with as many free places again; pages nobody wrote to take no memory."""
    wider = np.zeros((2 * len(column), *column.shape[1:]), dtype=column.dtype)
    wider[: len(column)] = column
    if fill:
        wider[len(column) :] = fill
    return wider


def summed(place: Rows, counters: Ints, places: int) -> Ints:
    """Columns of cells added up by place: shape (counters, places). Float sums are exact below 2^53."""
    if places == len(place):
        sums = np.empty_like(counters)
        sums[:, place] = counters
        return sums
    return np.stack([np.bincount(place, column, places) for column in counters]).astype(np.int64)


def _sparse(block: NDArray[np.generic], place_type: str, value_type: str) -> Iterator[tuple[bytes, bytes]]:
    """Each row of a block as (places, values) of what is not zero."""
    width = block.shape[1]
    flat = np.flatnonzero(block != 0)
    ends = np.searchsorted(flat, np.arange(len(block) + 1) * width).tolist()
    places, values = (flat % width).astype(place_type).tobytes(), block.ravel()[flat].astype(value_type).tobytes()
    wide, deep = np.dtype(place_type).itemsize, np.dtype(value_type).itemsize
    for start, end in pairwise(ends):
        yield places[start * wide : end * wide], values[start * deep : end * deep]


def _scattered(
    rows: Rows, sparse: Sequence[tuple[bytes, bytes]], place_type: str, value_type: str
) -> tuple[Rows, NDArray[np.intp], Ints]:
    """What `_sparse` made of rows, as (row, column, value) of each that is not zero."""
    places = np.frombuffer(b"".join(at for at, _ in sparse), place_type)
    values = np.frombuffer(b"".join(column for _, column in sparse), value_type)
    wide = np.dtype(place_type).itemsize
    lengths = np.fromiter((len(at) // wide for at, _ in sparse), np.intp, len(sparse))
    return np.repeat(rows, lengths), places.astype(np.intp), values.astype(np.int64)
