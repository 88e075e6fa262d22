"""The rules: when is a volume worth telling. Pure functions over columns, one element a row.

A monthly figure is always an interval. Counts are taken as Poisson; their 95 % interval is Byar's approximation of the exact one
(Breslow and Day 1987, section 2.3): within 0.5 % of Garwood's from ten counts up.
"""

from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.rollup import Bools, Ints

Floats = NDArray[np.float64]

TIERS: Final = (100_000, 1_000_000, 10_000_000, 100_000_000)
"""Unwanted copies a month at which somebody should know."""
MONTH_MINUTES: Final = 30 * 1440
NONE, INFO, WARNING, CRITICAL = range(4)
SEVERITIES: Final[tuple[Literal["none", "info", "warning", "critical"], ...]] = ("none", "info", "warning", "critical")
_Z95: Final = 1.959964
_HOLD: Final = 0.5
"""A tier once reached is held while the estimate stays above this share of its line."""
_MIN_EXPOSURE_MINUTES: Final = 60
"""Trap hits are never projected from less: the first hits of a campaign come by chance together."""


class Limits(msgspec.Struct, frozen=True):
    """Thresholds, from the settings."""

    capture_share: float | None
    trap_min_hits: int
    page_share: float
    page_tier: int


class Columns(msgspec.Struct, frozen=True):
    """What the rules look at: one element a row and moment, the end of `minute`."""

    minute: Ints | int
    unwanted_10m: Ints
    unwanted_60m: Ints
    unwanted_24h: Ints
    unwanted_30d: Ints
    traps_24h: Ints
    traps_30d: Ints
    first_trap: Ints
    """Minute of the first trap hit, -1 for none."""
    intake_24h: Ints
    """All copies of everyone in the 24 complete hours before this one; 0 where none is complete yet."""
    projected: Bools
    """Rows whose trap hits stand for a volume elsewhere: campaigns."""
    tier: Ints
    """The tier held so far: index into `TIERS` + 1, 0 for none."""

    def part(self, places: slice, tier: int) -> "Columns":
        """Some places (of columns whose minutes are an array), with another tier held."""
        chosen = {name: getattr(self, name)[places] for name in self.__struct_fields__}
        return Columns(**(chosen | {"tier": np.full_like(chosen["tier"], tier)}))


class Verdicts(msgspec.Struct, frozen=True):
    """What the rules say, one element a row. Rates are copies a month."""

    severity: Ints
    tier: Ints
    """Index into `TIERS` + 1; 0 for none."""
    seen_tier: Ints
    """What is seen here reached or holds it; 0 where only traps speak."""
    trap_tier: Ints
    trapped: Bools
    """Enough trap hits in a day to be told, projected or not."""
    pages_by_share: Bools
    rate: Floats
    """The fastest current pace as a month; its interval follows."""
    rate_low: Floats
    rate_high: Floats
    rate_minutes: Ints
    """The window that pace was seen in."""
    rate_count: Ints
    trap: Floats
    """A month inferred from traps; NaN where there is none."""
    trap_low: Floats
    trap_high: Floats
    trap_minutes: Ints

    def overwrite(self, places: slice, newer: "Verdicts") -> None:
        """Puts other verdicts in some places."""
        for name in self.__struct_fields__:
            getattr(self, name)[places] = getattr(newer, name)


def poisson_interval(count: Ints) -> tuple[Floats, Floats]:
    """95 % interval of the mean of a Poisson count (Byar); low is 0 for a count of 0."""
    n = count.astype(np.float64)
    safe = np.maximum(n, 1.0)
    low = np.where(n > 0, safe * (1 - 1 / (9 * safe) - _Z95 / (3 * np.sqrt(safe))) ** 3, 0.0)
    high = (n + 1) * (1 - 1 / (9 * (n + 1)) + _Z95 / (3 * np.sqrt(n + 1))) ** 3
    return low, high


def may_speak(unwanted_30d: Ints, traps_30d: Ints, limits: Limits) -> Bools:
    """Where `evaluate` can possibly say anything: the lowest line is no lower than this for any window, and 30 days hold them all."""
    fewest = TIERS[0] // (MONTH_MINUTES // 10)
    return (unwanted_30d > fewest) | (traps_30d >= limits.trap_min_hits)


def evaluate(columns: Columns, limits: Limits) -> Verdicts:
    """All rules over all rows."""
    current = columns.unwanted_24h * 30 >= columns.unwanted_30d // 10  # a month's sum speaks while it still goes on
    observed = np.where(current, columns.unwanted_30d, 0)
    counts = np.stack((columns.unwanted_10m, columns.unwanted_60m, columns.unwanted_24h, observed, columns.traps_30d))
    low, high = poisson_interval(counts)
    rate, rate_low, rate_high, rate_minutes, rate_count = _pace(counts[:3], low[:3], high[:3])
    factor, trap_minutes = _trap_factor(columns, limits)
    trap, trap_low, trap_high = counts[4] * factor, low[4] * factor, high[4] * factor
    seen, seen_held = _tiers(np.maximum(rate_low, low[3]), np.maximum(rate, observed), columns.tier)
    trap_seen, trap_held = _tiers(np.nan_to_num(trap_low), np.nan_to_num(trap), columns.tier)
    tier = np.maximum.reduce((seen, seen_held, trap_seen, trap_held))
    seen_tier, trap_tier = (
        np.where(held == tier, tier, reached) for reached, held in ((seen, seen_held), (trap_seen, trap_held))
    )
    pages_by_share = (seen > 0) & (columns.intake_24h > 0) & (low[2] > limits.page_share * columns.intake_24h)
    trapped = columns.projected & (columns.traps_24h >= limits.trap_min_hits)
    return Verdicts(
        severity=_severity(limits, tier, trapped, pages_by_share),
        tier=tier,
        seen_tier=seen_tier,
        trap_tier=trap_tier,
        trapped=trapped,
        pages_by_share=pages_by_share,
        rate=rate,
        rate_low=rate_low,
        rate_high=rate_high,
        rate_minutes=rate_minutes,
        rate_count=rate_count,
        trap=trap,
        trap_low=trap_low,
        trap_high=trap_high,
        trap_minutes=trap_minutes,
    )


def severity_of_line(line: Ints, page_tier: int) -> Ints:
    """How loud a monthly line is: told from the first, a warning from a million, a page from `page_tier`."""
    return np.select([line >= page_tier, line >= TIERS[1], line >= TIERS[0]], [CRITICAL, WARNING, INFO], NONE)


def _severity(limits: Limits, tier: Ints, trapped: Bools, pages_by_share: Bools) -> Ints:
    by_tier = severity_of_line(np.array((0, *TIERS))[tier], limits.page_tier)
    told = np.maximum(by_tier, np.where(trapped, INFO, NONE))
    return np.where(pages_by_share, CRITICAL, told).astype(np.int64)


def _pace(counts: Ints, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats, Ints, Ints]:
    """The window (10 minutes, hour, day) whose lower bound projects highest: (month, low, high, minutes, count)."""
    minutes = np.array((10, 60, 1440))
    factor: Floats = (MONTH_MINUTES / minutes)[:, np.newaxis]
    best = np.argmax(low * factor, axis=0)
    at = (best, np.arange(counts.shape[1]))
    month: Floats = (counts.astype(np.float64) * factor)[at]
    bounds: tuple[Floats, Floats] = ((low * factor)[at], (high * factor)[at])
    window: Ints = minutes[best]
    return month, *bounds, window, counts[at]


def _trap_factor(columns: Columns, limits: Limits) -> tuple[Floats, Ints]:
    """What a trap hit stands for in copies a month, NaN where hits are not projected; and the minutes they were taken over.

    The time since the first hit, at most 30 days; divided by the share of all mail that traps catch.
    """
    window_start = (columns.minute // 1440 - 29) * 1440  # the ring holds this day and 29 before
    minutes = np.maximum(columns.minute + 1 - np.maximum(columns.first_trap, window_start), _MIN_EXPOSURE_MINUTES)
    told = columns.projected & (columns.traps_30d >= limits.trap_min_hits) & (columns.traps_24h > 0)
    return np.where(told, MONTH_MINUTES / minutes / (limits.capture_share or np.nan), np.nan), minutes


def _tiers(low: Floats, estimate: Floats, tier: Ints) -> tuple[Ints, Ints]:
    """The tier reached, where the lower bound passes its line; and of the tier so far what is held: above half a line."""
    lines = np.array(TIERS, dtype=np.float64)
    reached = np.searchsorted(lines, low, side="left")  # lines strictly below the bound
    held = np.minimum(np.searchsorted(lines * _HOLD, estimate, side="right"), tier)
    return reached.astype(np.int64), held.astype(np.int64)
