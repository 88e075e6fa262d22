"""What a person reads when an incident changes: title, summary and links of one signal. Pure.

An alert is a function of its signal and the two configured addresses, so that a repeat of it is the same to the byte.
"""

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from streams.incident import Alert, Count, Estimate, Kind, RuleHit, Signal

MAX_TITLE_NAME: Final = 80
"""Characters of an entity's name in a title: mail subjects and pagers cut what is longer."""
MAX_NAME: Final = 160
"""Characters of a name in running text."""
_UNSEEN: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories with no glyph of their own: controls, bidirectional overrides, zero width, separators of lines."""
_KINDS: Final[dict[Kind, str]] = {
    "campaign": "campaign",
    "account": "account",
    "domain": "sender domain",
    "ip": "address",
    "net": "network",
}
_TIER_WORDS: Final = {100_000: "100 k", 1_000_000: "1 M", 10_000_000: "10 M", 100_000_000: "100 M"}
_LOUDNESS: Final = {"critical": 0, "warning": 1, "info": 2}


def alert_of(signal: Signal, runbook_url: str, dashboard_url: str) -> Alert:
    """The alert that one signal is published as."""
    return Alert(
        v=signal.v,
        id=signal.incident,
        seq=signal.seq,
        change=signal.change,
        state=signal.state,
        severity=signal.severity,
        title=_title(signal),
        summary=" ".join(_sentences(signal)),
        kind=signal.kind,
        entity=signal.entity,
        time_ms=signal.time_ms,
        opened_ms=signal.opened_ms,
        first_seen_ms=signal.first_seen_ms,
        tier=signal.tier,
        rules=signal.rules,
        volume=signal.volume,
        evidence=signal.evidence,
        runbook_url=runbook_url + _anchor(signal.rules),
        dashboard_url=f"{dashboard_url}{'&' if '?' in dashboard_url else '?'}var-entity={quote(signal.entity, safe='')}",
    )


def visible(text: str, limit: int) -> str:
    """Text of strangers made safe to read: what cannot be seen is written out (`\\u202e`), the end is cut to `limit` characters.

    It stays plain text: who puts it into markup must escape it there.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(_seen(character) for character in text)


def _seen(character: str) -> str:
    category = unicodedata.category(character)
    if category in _UNSEEN or (category == "Zs" and character != " "):
        code = ord(character)
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return character


def amount(copies: int) -> str:
    """A number in words a person can say: `45,000`, `1.4 million`, `321 million`."""
    for unit, word in ((10**9, "billion"), (10**6, "million")):
        if copies >= unit:
            value = copies / unit
            return f"{value:,.0f} {word}" if value >= 100 else f"{value:.3g} {word}"
    return f"{copies:,}"


def moment(time_ms: int) -> str:
    """An instant to the minute, UTC."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _title(signal: Signal) -> str:
    who = f"{_KINDS[signal.kind]} {visible(_name(signal.entity), MAX_TITLE_NAME)}"
    if signal.state == "resolved":
        return f"Resolved: {who} is quiet again"
    if signal.change == "reopened":
        return f"Back again: {who} {_pace(signal)}"
    return f"{who[0].upper()}{who[1:]} {_pace(signal)}"


def _name(entity: str) -> str:
    return entity.partition(":")[2]


def _pace(signal: Signal) -> str:
    """The estimate that reaches highest for sure (by its lower end), named for what it is, and the line it crossed."""
    volume = signal.volume
    tier = f" (tier {_TIER_WORDS.get(signal.tier, amount(signal.tier))})" if signal.tier else ""
    seen = max(volume.month_run_rate, volume.month_observed, key=lambda estimate: estimate.low)
    if volume.month_trap is not None and volume.month_trap.low >= seen.low:
        return f"projected at {amount(volume.month_trap.copies)} copies a month{tier}"
    if not signal.tier and volume.trap_hits_30d:
        return f"hit traps {amount(volume.trap_hits_30d)} times in 30 days"
    if seen is volume.month_run_rate:
        return f"running at {amount(seen.copies)} unwanted copies a month{tier}"
    return f"sent {amount(seen.copies)} unwanted copies in 30 days{tier}"


def _sentences(signal: Signal) -> Iterable[str]:
    yield f"First seen {moment(signal.first_seen_ms)}, incident open since {moment(signal.opened_ms)}; {_step(signal)}."
    volume = signal.volume
    yield (
        f"Seen here: {amount(volume.unwanted_30d)} unwanted copies in 30 days and {amount(volume.unwanted_60m)} in the last hour; "
        f"run rate {_interval(volume.month_run_rate)}."
    )
    if volume.month_trap is not None:
        yield f"{amount(volume.trap_hits_30d)} trap hits stand for {_interval(volume.month_trap)}."
    elif volume.trap_hits_30d:
        yield f"Traps were hit {amount(volume.trap_hits_30d)} times in 30 days; that is not projected."
    if about := "; ".join(_about(signal)):
        yield about[0].upper() + about[1:] + "."


def _step(signal: Signal) -> str:
    at = moment(signal.time_ms)
    steps = {
        "opened": f"opened as {signal.severity}",
        "escalated": f"raised to {signal.severity} at {at}",
        "deescalated": f"lowered to {signal.severity} at {at}",
        "resolved": f"resolved at {at}, at its worst {signal.peak_severity}",
        "reopened": f"open again since {at} as {signal.severity}",
        "volume": f"still {signal.severity} at {at}",
    }
    return steps[signal.change]


def _interval(estimate: Estimate) -> str:
    low, high = amount(estimate.low), amount(estimate.high)
    return f"{amount(estimate.copies)} a month (95 %: {low} to {high}; {estimate.method})"


def _about(signal: Signal) -> Iterable[str]:
    evidence = signal.evidence
    if evidence.addresses:
        yield f"{amount(evidence.addresses)} {'campaigns' if signal.kind == 'net' else 'addresses'}"
    if evidence.countries:
        yield f"top countries {_counts(evidence.countries[:5])}"
    if evidence.tokens and signal.kind != "campaign":
        yield f"mostly {_counts(evidence.tokens[:3])}"
    if signal.rules:
        yield "rules " + ", ".join(f"{hit.rule} ({hit.severity})" for hit in signal.rules)


def _counts(counts: Iterable[Count]) -> str:
    return ", ".join(f"{visible(count.name, MAX_NAME)} ({amount(count.copies)})" for count in counts)


def _anchor(rules: tuple[RuleHit, ...]) -> str:
    """The runbook's heading for the loudest rule, the first of equals; none while no rule speaks."""
    if not rules:
        return ""
    return "#" + quote(min(rules, key=lambda hit: _LOUDNESS[hit.severity]).rule)
