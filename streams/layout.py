"""How a row of volumes lies in memory: which rings, which ledger columns, which spans of facts. Data only.

rings   [minute_copies x 60 | minute_unwanted x 60][hour ... x 48][day ... x 35]       uint32
ledger  [clock, seen, spans, incident ...][counters of the open hour][of the open day]   int64
"""

from enum import IntEnum
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.rollup import Ints
from streams.volume import COUNTERS

Rows = NDArray[np.intp]
"""Places of rows in a table."""

MINUTES, HOURS, DAYS = 60, 48, 35
MINUTES_AN_HOUR, MINUTES_A_DAY = 60, 1440
SATURATED: Final = np.iinfo(np.uint32).max
COUNTER_INDEX: Final = {name: index for index, name in enumerate(COUNTERS)}


class Ring(msgspec.Struct, frozen=True):
    """One ring: which counter, over how many intervals of how many minutes, and where its columns lie."""

    counter: int
    length: int
    minutes: int
    column: int


class Rings(msgspec.Struct, frozen=True):
    """Rings of one interval, side by side."""

    names: tuple[str, ...]
    counters: tuple[int, ...]
    length: int
    minutes: int
    first: int

    @property
    def last(self) -> int:
        """One past the last column."""
        return self.first + self.length * len(self.names)

    def columns(self, minute: int) -> Ints:
        """The column of each ring that holds a minute's interval."""
        return self.first + self.length * np.arange(len(self.names)) + minute // self.minutes % self.length


def _lay_out() -> tuple[Rings, ...]:
    groups: list[Rings] = []
    for prefix, length, minutes, counters in (
        ("minute", MINUTES, 1, ("copies", "unwanted")),
        ("hour", HOURS, MINUTES_AN_HOUR, ("copies", "unwanted")),
        ("day", DAYS, MINUTES_A_DAY, ("copies", "unwanted", "traps", "complaints")),
    ):
        names = tuple(f"{prefix}_{counter}" for counter in counters)
        places = tuple(COUNTER_INDEX[counter] for counter in counters)
        groups.append(Rings(names, places, length, minutes, groups[-1].last if groups else 0))
    return tuple(groups)


GROUPS: Final = _lay_out()
HELD_GROUPS: Final = GROUPS[1:]
"""What a late cell may still change: hours and days, never the minutes that rules have judged."""
RINGS: Final = {
    name: Ring(counter, group.length, group.minutes, group.first + group.length * place)
    for group in GROUPS
    for place, (name, counter) in enumerate(zip(group.names, group.counters, strict=True))
}
RINGS_WIDTH: Final = GROUPS[-1].last


class Field(IntEnum):
    """Columns of the ledger before the counters. Times are minutes since the epoch, `NOT_YET` for never."""

    CLOCK = 0
    FIRST_SEEN = 1
    LAST_SEEN = 2
    FIRST_TRAP = 3
    HOUR = 4
    HOUR_PART = 5
    HOUR_REVISION = 6
    HOUR_DIRTY = 7
    DAY = 8
    DAY_PART = 9
    DAY_REVISION = 10
    DAY_DIRTY = 11
    STATE = 12
    OPENED = 13
    SEVERITY = 14
    PEAK = 15
    TIER = 16
    SEQ = 17
    LAST_SPOKE = 18
    LOWER_SINCE = 19
    RESOLVED = 20


NOT_YET: Final = -1
NO_MINUTE: Final = 1 << 62
ABSENT: Final = (
    Field.CLOCK, Field.FIRST_SEEN, Field.LAST_SEEN, Field.FIRST_TRAP, Field.HOUR, Field.DAY, Field.OPENED,
    Field.LAST_SPOKE, Field.LOWER_SINCE, Field.RESOLVED,
)  # fmt: skip


class Span(msgspec.Struct, frozen=True, eq=False):
    """A length of fact: its ledger columns, and how long after its end a late cell may still revise it. There are two, told apart by identity."""

    name: Literal["hour", "day"]
    minutes: int
    held: int
    """In spans: late cells of older ones are too late."""
    start: Field
    part: Field
    revision: Field
    dirty: Field
    counters: slice


_COUNTED: Final = len(Field)
SPANS: Final = (
    Span("hour", MINUTES_AN_HOUR, HOURS, Field.HOUR, Field.HOUR_PART, Field.HOUR_REVISION, Field.HOUR_DIRTY,
         slice(_COUNTED, _COUNTED + len(COUNTERS))),
    Span("day", MINUTES_A_DAY, DAYS, Field.DAY, Field.DAY_PART, Field.DAY_REVISION, Field.DAY_DIRTY,
         slice(_COUNTED + len(COUNTERS), _COUNTED + 2 * len(COUNTERS))),
)  # fmt: skip
LEDGER_WIDTH: Final = _COUNTED + 2 * len(COUNTERS)
EMPTY_LEDGER: Final = np.zeros(LEDGER_WIDTH, dtype=np.int64)
"""The ledger of a row without volume."""
EMPTY_LEDGER[list(ABSENT)] = NOT_YET
