"""What an incident says: a row's numbers in a person's words. Pure."""

from typing import Final

import numpy as np

from streams.incident import (
    Change,
    Count,
    Estimate,
    Evidence,
    Kind,
    Life,
    RuleHit,
    Severity,
    Signal,
    State,
    Volume,
    incident_id,
    severity_name,
)
from streams.layout import MINUTES_A_DAY, Field
from streams.moments import Seen
from streams.rollup import MINUTE_MS, hll_estimate
from streams.rules import TIERS, Limits, Verdicts, poisson_interval, severity_of_line
from streams.table import Table

_KINDS: Final[tuple[Kind, ...]] = ("campaign", "account", "domain", "ip", "net")
_WINDOWS: Final = {10: "10 minutes", 60: "hour", MINUTES_A_DAY: "day"}


def signal_of(
    table: Table,
    row: int,
    life: Life,
    change: Change,
    minute: int,
    seen: Seen,
    verdicts: Verdicts,
    at: int,
    limits: Limits,
) -> Signal:
    """The signal of one step of an incident at the end of a minute; `at` is its place in the verdicts."""
    entity = table.names[row]
    state: State = "resolved" if change == "resolved" else "open"
    return Signal(
        incident=incident_id(entity, life.opened),
        seq=life.seq,
        change=change,
        state=state,
        kind=_KINDS[int(table.kind[row])],
        entity=entity,
        severity=severity_name(life.severity),
        peak_severity=severity_name(life.peak),
        time_ms=(minute + 1) * MINUTE_MS,
        opened_ms=life.opened * MINUTE_MS,
        first_seen_ms=int(table.ledger[row, Field.FIRST_SEEN]) * MINUTE_MS,
        tier=TIERS[life.tier - 1] if life.tier else 0,
        rules=_rules(verdicts, at, limits),
        volume=_volume(seen, verdicts, at, limits),
        evidence=_evidence(table, row),
    )


def _volume(seen: Seen, verdicts: Verdicts, at: int, limits: Limits) -> Volume:
    return Volume(
        copies_60m=seen.copies_60m,
        unwanted_60m=seen.unwanted_60m,
        unwanted_30d=seen.unwanted_30d,
        trap_hits_30d=seen.traps_30d,
        complaints_30d=seen.complaints_30d,
        forged_this_hour=seen.forged_this_hour,
        month_observed=_observed(seen.unwanted_30d),
        month_run_rate=Estimate(
            copies=round(float(verdicts.rate[at])),
            low=int(verdicts.rate_low[at]),
            high=int(np.ceil(verdicts.rate_high[at])),
            observed=int(verdicts.rate_count[at]),
            window_ms=int(verdicts.rate_minutes[at]) * MINUTE_MS,
            method=f"unwanted copies of the last {_WINDOWS[int(verdicts.rate_minutes[at])]} as a month; Poisson 95 %",
        ),
        month_trap=_trap(verdicts, at, seen.traps_30d, limits),
    )


def _observed(unwanted: int) -> Estimate:
    low, high = poisson_interval(np.array([unwanted]))
    return Estimate(
        copies=unwanted,
        low=int(low[0]),
        high=int(np.ceil(high[0])),
        observed=unwanted,
        window_ms=30 * MINUTES_A_DAY * MINUTE_MS,
        method="unwanted copies seen in the last 30 days; Poisson 95 % of the rate behind them",
    )


def _trap(verdicts: Verdicts, at: int, hits: int, limits: Limits) -> Estimate | None:
    if np.isnan(verdicts.trap[at]):
        return None
    return Estimate(
        copies=round(float(verdicts.trap[at])),
        low=int(verdicts.trap_low[at]),
        high=int(np.ceil(verdicts.trap_high[at])),
        observed=hits,
        window_ms=int(verdicts.trap_minutes[at]) * MINUTE_MS,
        method=f"trap hits / configured capture share {limits.capture_share:g}, as a month; Poisson 95 %",
    )


def _rules(verdicts: Verdicts, at: int, limits: Limits) -> tuple[RuleHit, ...]:
    hits = []
    if tier := int(verdicts.seen_tier[at]):
        window = _WINDOWS[int(verdicts.rate_minutes[at])]
        says = (
            f"{int(verdicts.rate_count[at]):,} unwanted copies in the last {window} are {verdicts.rate[at]:,.0f} a month "
            f"({verdicts.rate_low[at]:,.0f} to {verdicts.rate_high[at]:,.0f})"
        )
        hits.append(RuleHit("tier", _by_line(TIERS[tier - 1], limits), says, TIERS[tier - 1]))
    if tier := int(verdicts.trap_tier[at]):
        says = (
            f"trap hits stand for {verdicts.trap[at]:,.0f} copies a month "
            f"({verdicts.trap_low[at]:,.0f} to {verdicts.trap_high[at]:,.0f})"
        )
        hits.append(RuleHit("trap", _by_line(TIERS[tier - 1], limits), says, TIERS[tier - 1]))
    elif verdicts.trapped[at]:
        hits.append(RuleHit("trap", "info", "trap hits; no capture share is configured to project them, or too few to"))
    if verdicts.pages_by_share[at]:
        hits.append(RuleHit("share", "critical", f"above {limits.page_share:.1%} of all intake in the last 24 hours"))
    return tuple(hits)


def _by_line(line: int, limits: Limits) -> Severity:
    return severity_name(int(severity_of_line(np.array(line), limits.page_tier)))


def _evidence(table: Table, row: int) -> Evidence:
    known = table.known.get(row)
    if known is None:
        return Evidence()
    tokens, countries = known.top()
    return Evidence(
        tokens=tuple(Count(name, copies) for name, copies in tokens),
        countries=tuple(Count(name, copies) for name, copies in countries),
        addresses=hll_estimate(known.registers),
    )
