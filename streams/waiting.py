"""What TRACK knows of one partition, and the cells whose minute is not over. Pure."""

from collections import deque
from typing import Final

import msgspec
import numpy as np

from streams.layout import SPANS, Rows
from streams.rollup import Bools, Ints
from streams.volume import COUNTERS
from streams.watermark import Clock, InputState

MARKER_VERSION: Final = 1


class Marker(msgspec.Struct, frozen=True, array_like=True):
    """Where a partition stands: one record of `track-changelog` in each transaction. What it says must equal the group's offset."""

    v: int
    topic_id: str
    next_offset: int
    """Of `mail-rollups`: everything before it is in the rows, or waits."""
    waits_from: int
    """The oldest rollup that holds a waiting cell."""
    closed: int
    rows: int
    """Rows in the changelog: fewer found means that it lost some."""
    epoch: int
    """Transactions so far: what keeps parts of facts apart."""
    late_copies: int
    too_late_copies: dict[str, int]
    inputs: dict[int, InputState]


class Partition:
    """What the core knows of one partition."""

    __slots__ = ("clock", "epoch", "late_copies", "next_offset", "too_late_copies", "waiting")

    def __init__(self, clock: Clock, next_offset: int) -> None:
        self.clock = clock
        self.next_offset = next_offset
        self.epoch = 0
        self.late_copies = 0
        self.too_late_copies: dict[str, int] = {span.name: 0 for span in SPANS}
        self.waiting: deque[tuple[int, int]] = deque()
        """(offset, last minute waited for) of the records that may hold waiting cells, oldest first."""

    @property
    def waits_from(self) -> int:
        """The oldest record with a cell of a minute that is not closed."""
        while self.waiting and self.waiting[0][1] <= self.clock.closed:
            self.waiting.popleft()
        return self.waiting[0][0] if self.waiting else self.next_offset

    def marker(self, topic_id: str, rows: int) -> Marker:
        """For the changelog, with this transaction counted."""
        return Marker(
            MARKER_VERSION, topic_id, self.next_offset, self.waits_from, self.clock.closed, rows, self.epoch + 1,
            self.late_copies, self.too_late_copies, self.clock.inputs,
        )  # fmt: skip


class WaitingCells(msgspec.Struct, frozen=True):
    """Waiting cells as columns. `order` is minute * 2; of a late cell the minute it came after, * 2 + 1."""

    order: Ints
    minute: Ints
    rows: Rows
    counters: Ints

    def where(self, chosen: "Bools | Rows | slice") -> "WaitingCells":
        return WaitingCells(self.order[chosen], self.minute[chosen], self.rows[chosen], self.counters[:, chosen])


def joined(parts: list[WaitingCells]) -> WaitingCells:
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return WaitingCells(nothing, nothing, nothing.astype(np.intp), np.zeros((len(COUNTERS), 0), dtype=np.int64))
    return WaitingCells(
        np.concatenate([cells.order for cells in parts]),
        np.concatenate([cells.minute for cells in parts]),
        np.concatenate([cells.rows for cells in parts]),
        np.concatenate([cells.counters for cells in parts], axis=1),
    )


def by_order(cells: WaitingCells) -> dict[int, WaitingCells]:
    """Late cells, which lie in order, by the minute they came after."""
    keys, starts = np.unique(cells.order >> 1, return_index=True)
    bounds = [*starts.tolist(), len(cells.order)]
    return {key: cells.where(slice(*bounds[at : at + 2])) for at, key in enumerate(keys.tolist())}


def between(minute: Ints, first: int, last: int) -> slice:
    """Where ascending minutes lie in [first, last]."""
    return slice(int(np.searchsorted(minute, first)), int(np.searchsorted(minute, last, side="right")))
