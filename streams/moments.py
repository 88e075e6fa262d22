"""What rows had seen at the end of each minute of a stretch: the rules' columns for all of them at once. Pure.

A stretch `[first, last]` lies within one hour. Its sums are taken once, at its end, and each earlier moment is that less what came after:

    minute ring before   [-60 ........ -1][first ... last]   added in the stretch
    at minute m           windows end here ──▶ m            sums at last - added in (m, last]
"""

from typing import Final, NamedTuple

import numpy as np

from streams.layout import MINUTES, SPANS, Rows
from streams.rollup import Bools, Ints
from streams.rules import Columns
from streams.table import Table
from streams.volume import COUNTERS

_FORGED: Final = SPANS[0].counters.start + COUNTERS.index("forged")
_COPIES, _UNWANTED, _TRAPS, _COMPLAINTS, _FORGED_CELL = (
    COUNTERS.index(name) for name in ("copies", "unwanted", "traps", "complaints", "forged")
)


class Seen(NamedTuple):
    """What a row had seen at the end of a minute."""

    copies_60m: int
    unwanted_60m: int
    unwanted_30d: int
    traps_30d: int
    complaints_30d: int
    forged_this_hour: int


class Moments:
    """Rows R by minutes M of a stretch; all arrays have this shape, and lie row by row when flattened."""

    def __init__(self, table: Table, rows: Rows, first: int, last: int, before: Ints, added: Ints) -> None:
        """`before` is `Table.last_minutes` as of `first - 1`, `added` is `added_by_minute`; the rows are advanced to `last`."""
        self.rows, self.first, self.minutes = rows, first, last - first + 1
        after = added.sum(axis=2, keepdims=True) - np.cumsum(added, axis=2)

        def at_each(ring: str, intervals: int, counter: int) -> Ints:
            moments: Ints = table.window(rows, ring, last, intervals)[:, np.newaxis] - after[counter]
            return moments

        self.copies_60m = self._window(before[0], added[_COPIES], 60)
        self.unwanted_10m = self._window(before[1], added[_UNWANTED], 10)
        self.unwanted_60m = self._window(before[1], added[_UNWANTED], 60)
        self.unwanted_24h = at_each("hour_unwanted", 24, _UNWANTED)
        self.unwanted_30d = at_each("day_unwanted", 30, _UNWANTED)
        self.traps_24h = at_each("day_traps", 2, _TRAPS)
        self.traps_30d = at_each("day_traps", 30, _TRAPS)
        self.complaints_30d = at_each("day_complaints", 30, _COMPLAINTS)
        self.forged_this_hour = table.ledger[rows, _FORGED][:, np.newaxis] - after[_FORGED_CELL]

    def _window(self, before: Ints, added: Ints, minutes: int) -> Ints:
        """Sums of the last minutes up to each moment."""
        total = np.zeros((len(self.rows), 1 + MINUTES + self.minutes), dtype=np.int64)
        np.cumsum(np.concatenate((before, added), axis=1), axis=1, out=total[:, 1:])
        ends = total[:, 1 + MINUTES :]
        sums: Ints = ends - total[:, 1 + MINUTES - minutes : 1 + MINUTES - minutes + self.minutes]
        return sums

    def columns(self, first_trap: Ints, intake_24h: Ints, projected: Bools, tier: Ints) -> Columns:
        """For the rules, flattened. The arguments have one element a row: they are the same for every minute."""
        return Columns(
            minute=np.tile(np.arange(self.first, self.first + self.minutes), len(self.rows)),
            unwanted_10m=self.unwanted_10m.ravel(),
            unwanted_60m=self.unwanted_60m.ravel(),
            unwanted_24h=self.unwanted_24h.ravel(),
            unwanted_30d=self.unwanted_30d.ravel(),
            traps_24h=self.traps_24h.ravel(),
            traps_30d=self.traps_30d.ravel(),
            first_trap=np.repeat(first_trap, self.minutes),
            intake_24h=np.repeat(intake_24h, self.minutes),
            projected=np.repeat(projected, self.minutes),
            tier=np.repeat(tier, self.minutes),
        )

    def seen(self, place: int, minute: int) -> Seen:
        """Of the row at a place, at the end of a minute."""
        at = (place, minute - self.first)
        return Seen(
            int(self.copies_60m[at]),
            int(self.unwanted_60m[at]),
            int(self.unwanted_30d[at]),
            int(self.traps_30d[at]),
            int(self.complaints_30d[at]),
            int(self.forged_this_hour[at]),
        )


def added_by_minute(rows: Rows, cell_rows: Rows, cell_minute: Ints, counters: Ints, first: int, last: int) -> Ints:
    """Cells of a stretch as an array (counters, rows, minutes). `rows` ascend; cells of other rows are left out."""
    place = np.searchsorted(rows, cell_rows)
    own = (place < len(rows)) & (rows[np.minimum(place, len(rows) - 1)] == cell_rows)
    minutes = last - first + 1
    at = place[own] * minutes + cell_minute[own] - first
    sums = np.stack([np.bincount(at, column, len(rows) * minutes) for column in counters[:, own]])
    return sums.astype(np.int64).reshape(len(counters), len(rows), minutes)
