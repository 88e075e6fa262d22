"""Sums of facts: of each part of an hour the highest revision counts. Pure; holds a few million facts in columns."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.volume import COUNTERS, Fact

HOUR_MS: Final = 3_600_000
_ENTITY, _HOUR, _PART, _REVISION = range(4)
_KEYS: Final = 4
_DAY: Final = b'"span":"day"'
_counters: Final = attrgetter(*COUNTERS)

Sums = dict[str, tuple[int, ...]]
"""Entity id -> one number for each of `COUNTERS`."""


class Ledger:
    """Takes the records of `mail-volume` in any order, repeats included."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Fact)
        self._entities: dict[str, int] = {}
        self._rows: list[NDArray[np.int64]] = []
        self.facts = 0
        """Facts taken, of hours and days."""

    def take(self, values: Iterable[bytes]) -> None:
        """Adds facts. Facts of days say the same again and are passed over. Raises `msgspec.DecodeError`."""
        rows = []
        for value in values:
            self.facts += 1
            if (
                _DAY in value
            ):  # before decoding, which is most of the work; within a string these quotes would be escaped
                continue
            fact = self._decoder.decode(value)
            if fact.span == "hour":
                entity = self._entities.setdefault(fact.entity, len(self._entities))
                rows.append((entity, fact.start_ms // HOUR_MS, fact.part, fact.revision, *_counters(fact)))
        if rows:
            self._rows.append(np.array(rows, dtype=np.int64))

    def sums(self) -> Sums:
        """Totals of every entity that anything was counted for."""
        if not self._rows:
            return {}
        rows = np.concatenate(self._rows)
        order = np.lexsort((rows[:, _REVISION], rows[:, _PART], rows[:, _HOUR], rows[:, _ENTITY]))
        rows = rows[order]
        keys = rows[:, :_REVISION]
        newest = np.append((keys[1:] != keys[:-1]).any(axis=1), True)
        rows = rows[newest]
        self._rows = [rows]  # what was replaced need not be sorted again
        totals = np.zeros((len(self._entities), len(COUNTERS)), dtype=np.int64)
        np.add.at(totals, rows[:, _ENTITY], rows[:, _KEYS:])
        return {name: tuple(totals[at].tolist()) for name, at in self._entities.items() if totals[at].any()}
