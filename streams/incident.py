"""One incident an entity, however many rules: its contract (`Signal`, `Alert`) and its life. Pure.

    none ──open──▶ open ──escalate / de-escalate──▶ open ──quiet──▶ resolved ──within 35 days──▶ open again, same id

TRACK owns this life and publishes a `Signal` at each step, in the same transaction as its counts; ALERT renders it.
"""

import hashlib
from typing import Final, Literal

import msgspec

from streams.rules import SEVERITIES

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
    forged_this_hour: int
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


class EnforcementAction(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody did against an entity, on `enforcement-actions`: so that it can be told whether it helped."""

    v: int = SIGNAL_VERSION
    entity: str
    """Full entity id, `kind:name`: also the key of the record."""
    kind: Literal["takedown", "injunction", "settlement", "block"]
    time_ms: int
    """When it took effect, ms since the Unix epoch."""
    note: str = ""


NO_INCIDENT, OPEN, RESOLVED = range(3)
REOPENS_FOR_MINUTES: Final = 35 * 1440
CALMER_FOR_MINUTES: Final = 60
"""A lower severity or tier must last this long before it is said."""
_NEVER: Final = -1


class Life(msgspec.Struct, frozen=True):
    """An incident's state, as the ledger keeps it: minutes since the epoch, severities as numbers, -1 for never."""

    state: int = NO_INCIDENT
    opened: int = _NEVER
    severity: int = 0
    peak: int = 0
    tier: int = 0
    seq: int = 0
    last_spoke: int = _NEVER
    lower_since: int = _NEVER
    resolved: int = _NEVER


def step(life: Life, severity: int, tier: int, minute: int, quiet_minutes: int) -> tuple[Life, Change | None]:
    """The life after one more minute in which the rules said `severity` and `tier`; and what to tell, if anything."""
    if life.state != OPEN:
        return _outside(life, severity, tier, minute)
    if severity == 0:
        if minute - life.last_spoke < quiet_minutes:
            return life, None
        return _next(life, state=RESOLVED, resolved=minute, tier=0, lower_since=_NEVER), "resolved"
    held, said = (life.severity, life.tier), (severity, tier)
    if said > held:
        grown = _next(
            life, severity=severity, tier=tier, peak=max(life.peak, severity), last_spoke=minute, lower_since=_NEVER
        )
        return grown, "escalated"
    if said == held:
        return msgspec.structs.replace(life, last_spoke=minute, lower_since=_NEVER), None
    since = minute if life.lower_since == _NEVER else life.lower_since
    if minute - since < CALMER_FOR_MINUTES:
        return msgspec.structs.replace(life, last_spoke=minute, lower_since=since), None
    return _next(life, severity=severity, tier=tier, last_spoke=minute, lower_since=_NEVER), "deescalated"


def _outside(life: Life, severity: int, tier: int, minute: int) -> tuple[Life, Change | None]:
    if severity == 0:
        return life, None
    if life.state == RESOLVED and minute - life.resolved <= REOPENS_FOR_MINUTES:
        again = _next(life, state=OPEN, severity=severity, tier=tier, peak=max(life.peak, severity), last_spoke=minute)
        return again, "reopened"
    return Life(OPEN, minute, severity, severity, tier, 1, minute), "opened"


def _next(life: Life, **changes: int) -> Life:
    return msgspec.structs.replace(life, seq=life.seq + 1, **changes)


def incident_id(entity: str, opened: int) -> str:
    """The same for every replay: 16 hex digits of BLAKE2b over entity and opening minute."""
    return hashlib.blake2b(f"{opened} {entity}".encode(), digest_size=8).hexdigest()


def severity_name(severity: int) -> Severity:
    """The word for a severity above none."""
    name = SEVERITIES[severity]
    if name == "none":
        raise ValueError("no severity")
    return name
