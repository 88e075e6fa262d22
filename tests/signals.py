"""Signals for tests: one readable builder."""

from typing import Any, Final

import msgspec

from streams.incident import Change, Count, Estimate, Evidence, Kind, RuleHit, Severity, Signal, Volume, incident_id

START_MS: Final = 1_780_000_020_000
MINUTE_MS: Final = 60_000


def estimate(copies: int, window_ms: int = 3_600_000) -> Estimate:
    """An estimate with an interval of a tenth to each side."""
    return Estimate(copies, copies * 9 // 10, copies * 11 // 10, copies // 1000, window_ms, "test")


def a_signal(
    entity: str, seq: int = 1, change: Change = "opened", severity: Severity = "critical", **other: Any
) -> Signal:
    """One step of the incident of `entity`: `seq` minutes after it opened."""
    kind: Kind = msgspec.convert(entity.partition(":")[0], Kind)
    values: dict[str, Any] = {
        "incident": incident_id(entity, START_MS // MINUTE_MS),
        "seq": seq,
        "change": change,
        "state": "resolved" if change == "resolved" else "open",
        "kind": kind,
        "entity": entity,
        "severity": severity,
        "peak_severity": severity,
        "time_ms": START_MS + seq * MINUTE_MS,
        "opened_ms": START_MS,
        "first_seen_ms": START_MS - 60 * MINUTE_MS,
        "tier": 100_000_000,
        "rules": (RuleHit("tier", "warning", "fast", 1_000_000), RuleHit("trap", "critical", "much", 100_000_000)),
        "volume": Volume(900, 800, 45_000, 4_500, 3, 0, estimate(45_000), estimate(1_400_000), estimate(321_000_000)),
        "evidence": Evidence((Count("url:pills.example", 700),), (Count("CN", 500), Count("BR", 200)), 1_204),
    }
    return Signal(**(values | other))
