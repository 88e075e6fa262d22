"""One incident an entity, however many rules: its contract (`Signal`, `Alert`) and its life. Pure.

    none ──open──▶ open ──escalate / de-escalate──▶ open ──quiet──▶ resolved ──within 35 days──▶ open again, same id

TRACK owns this life and publishes a `Signal` at each step, in the same transaction as its counts; ALERT renders it.
"""

from typing import Final, Literal

import msgspec

SIGNAL_VERSION: Final = 1

Kind = Literal["campaign", "account", "domain", "ip", "net"]
Severity = Literal["info", "warning", "critical"]
Change = Literal["opened", "escalated", "deescalated", "resolved", "reopened", "volume"]
"""`volume` repeats the figures each hour, zeros included, so that silence is never mistaken; the others are steps of the life."""
State = Literal["open", "resolved"]


class Estimate(msgspec.Struct, frozen=True):
    """A number of copies that was inferred, with its 95 % interval `[low, high]` (both ends possible) and how it was made."""

    copies: int
    low: int
    high: int
    observed: int
    """What was counted: copies in the window, or trap hits."""
    window_ms: int
    """Length of the window that was counted."""
    method: str


class RuleHit(msgspec.Struct, frozen=True):
    """One rule that speaks, in numbers and words."""

    rule: str
    severity: Severity
    says: str
    tier: int = 0
    """The monthly line that was crossed (100,000; 1,000,000; ...), 0 where the rule knows no tier."""


class Count(msgspec.Struct, frozen=True):
    """A name and how many copies carried it."""

    name: str
    copies: int


class Evidence(msgspec.Struct, frozen=True):
    """What a person needs to know this entity by. Names come from mail: show them as text, never as markup."""

    tokens: tuple[Count, ...] = ()
    countries: tuple[Count, ...] = ()
    addresses: int = 0
    """Distinct connecting addresses (HyperLogLog estimate); for a net, distinct campaigns."""


class Volume(msgspec.Struct, frozen=True):
    """Volume at the end of the minute that decided. The three monthly figures are never mixed."""

    copies_60m: int
    unwanted_60m: int
    unwanted_30d: int
    """Unwanted copies seen here in the last 30 days."""
    trap_hits_30d: int
    complaints_30d: int
    forged_60m: int
    month_observed: Estimate
    """Unwanted copies seen in the last 30 days."""
    month_run_rate: Estimate
    """A month at the fastest current pace (of 10 minutes, an hour, a day), as seen here."""
    month_trap: Estimate | None = None
    """A month of true volume everywhere, inferred from trap hits through the capture share; null where no share is configured."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an incident, or its hourly volume, on `volume-signals`. `(incident, seq)` has one content for ever."""

    v: int = SIGNAL_VERSION
    incident: str
    seq: int
    change: Change
    state: State
    kind: Kind
    entity: str
    """Full entity id, `kind:name`: also the key of the record."""
    severity: Severity
    peak_severity: Severity
    time_ms: int
    """Event time: the end of the minute that decided, ms since the Unix epoch."""
    opened_ms: int
    first_seen_ms: int
    tier: int
    """The highest monthly line now crossed, 0 for none."""
    rules: tuple[RuleHit, ...]
    volume: Volume
    evidence: Evidence


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What people and programs read on `campaign-alerts`, `sender-alerts` and `incidents`: a pure function of one signal."""

    v: int = SIGNAL_VERSION
    id: str
    """The incident's id. `(id, seq)` has one content: drop a repeat by it."""
    seq: int
    change: Change
    state: State
    severity: Severity
    title: str
    summary: str
    kind: Kind
    entity: str
    time_ms: int
    opened_ms: int
    first_seen_ms: int
    tier: int
    rules: tuple[RuleHit, ...]
    volume: Volume
    evidence: Evidence
    runbook_url: str
    dashboard_url: str
