"""The leaders of the moment: for each kind the rows that matter most in the last hour. Pure."""

from typing import Final, NamedTuple

import numpy as np

from streams.incident import OPEN
from streams.layout import Field
from streams.rules import MONTH_MINUTES, SEVERITIES, TIERS
from streams.table import Table
from streams.volume import KINDS, Leader

RANKED: Final = 60
TOLD: Final = 20
"""Of the ranked, those that go to `volume-top`."""


class Ranked(NamedTuple):
    """A row and its copies in the last hour."""

    row: int
    copies: int
    unwanted: int

    @property
    def month_run_rate(self) -> int:
        """The hour's unwanted copies as a month."""
        return self.unwanted * MONTH_MINUTES // 60


class Ranking(NamedTuple):
    """The leading rows of a kind, most unwanted first, then most copies; and how many were seen in the hour at all."""

    leading: list[Ranked]
    live: int


def rank(table: Table, minute: int) -> dict[str, Ranking]:
    """By kind, over the hour that ends with `minute`."""
    live = np.flatnonzero((table.partition >= 0) & (table.ledger[:, Field.LAST_SEEN] > minute - 60))
    unwanted = table.recent(live, "minute_unwanted", minute, 60)
    copies = table.recent(live, "minute_copies", minute, 60)
    rankings = {}
    for number, kind in enumerate(KINDS[:-1]):
        own = np.flatnonzero(table.kind[live] == number)
        best = own[np.lexsort((-copies[own], -unwanted[own]))[:RANKED]]
        columns = (live[best].tolist(), copies[best].tolist(), unwanted[best].tolist())
        rankings[kind] = Ranking([Ranked(*values) for values in zip(*columns, strict=True)], len(own))
    return rankings


def leaders_of(table: Table, rankings: dict[str, Ranking], minute: int) -> dict[tuple[int, str], tuple[Leader, ...]]:
    """The told leaders by (partition, kind). Those of all workers together hold the leaders of the whole."""
    leaders: dict[tuple[int, str], tuple[Leader, ...]] = {}
    for kind, ranking in rankings.items():
        for ranked in ranking.leading[:TOLD]:
            key = (int(table.partition[ranked.row]), kind)
            leaders[key] = (*leaders.get(key, ()), _leader(table, ranked, minute))
    return leaders


def _leader(table: Table, ranked: Ranked, minute: int) -> Leader:
    tier, severity, state = table.ledger[ranked.row, [Field.TIER, Field.SEVERITY, Field.STATE]].tolist()
    return Leader(
        entity=table.names[ranked.row],
        copies_60m=ranked.copies,
        unwanted_60m=ranked.unwanted,
        month_run_rate=ranked.month_run_rate,
        tier=TIERS[tier - 1] if tier and state == OPEN else 0,
        severity=SEVERITIES[severity] if state == OPEN else None,
        unwanted_by_minute=tuple(table.last_minutes(np.array([ranked.row]), minute)[1, 0].tolist()),
    )
