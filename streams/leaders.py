"""The leaders of the moment: for each kind the rows that matter most in the last hour. Pure."""

from typing import Final

import numpy as np

from streams.incident import OPEN
from streams.rules import MONTH_MINUTES, SEVERITIES, TIERS
from streams.table import Field, Table
from streams.volume import KINDS, Leader

LEADING: Final = 20


def leaders_of(table: Table, minute: int, leading: int = LEADING) -> dict[tuple[int, str], tuple[Leader, ...]]:
    """By (partition, kind): the worker's leading rows of the hour that ends with `minute`, most unwanted first, then most copies.

    The leaders of all workers together hold the leaders of the whole.
    """
    live = np.flatnonzero((table.partition >= 0) & (table.ledger[:, Field.LAST_SEEN] > minute - 60))
    unwanted = table.recent(live, "minute_unwanted", minute, 60)
    copies = table.recent(live, "minute_copies", minute, 60)
    leaders: dict[tuple[int, str], tuple[Leader, ...]] = {}
    for number, kind in enumerate(KINDS[:-1]):
        own = np.flatnonzero(table.kind[live] == number)
        best = own[np.lexsort((-copies[own], -unwanted[own]))[:leading]]
        for at in best.tolist():
            row = int(live[at])
            key = (int(table.partition[row]), kind)
            leader = _leader(table, row, minute, int(copies[at]), int(unwanted[at]))
            leaders[key] = (*leaders.get(key, ()), leader)
    return leaders


def _leader(table: Table, row: int, minute: int, copies: int, unwanted: int) -> Leader:
    tier, severity, state = table.ledger[row, [Field.TIER, Field.SEVERITY, Field.STATE]].tolist()
    return Leader(
        entity=table.names[row],
        copies_60m=copies,
        unwanted_60m=unwanted,
        month_run_rate=unwanted * MONTH_MINUTES // 60,
        tier=TIERS[tier - 1] if tier and state == OPEN else 0,
        severity=SEVERITIES[severity] if state == OPEN else None,
        unwanted_by_minute=tuple(table.series(row, "minute_unwanted", minute)),
    )
