"""Small readable builders of events for everyone's tests: what matters to a test stands in its call, the rest is ordinary."""

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import msgspec

from producers.event import Auth, MailEvent, Source

NOON_MS: Final = 1_790_856_000_000
"""2026-10-01T12:00:00Z: the start of a minute, an hour and half a day."""
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
MX: Final = Source("rspamd", "mx.test")
LOG: Final = Source("postfix", "mx.test", counts=False)
"""Sees what the MX sees, and does not count it."""
TRAPS: Final = Source("mailbox", "traps.test")
FORGED: Final = Auth(spf="fail", dkim="none", dmarc="fail")

_ids = count()


def mail(time_ms: int = NOON_MS, **changes: Any) -> MailEvent:
    """An honest message of one copy that was accepted; its id is new each time."""
    ordinary: dict[str, Any] = {
        "v": 1,
        "id": f"test-{next(_ids)}",
        "time_ms": time_ms,
        "disposition": "accepted",
        "source": MX,
        "verdict": "ham",
        "sender": "ann@honest.test",
        "sender_domain": "honest.test",
        "ip": "192.0.2.1",
        "size_bytes": 1_000,
    }
    return MailEvent(**(ordinary | changes))


def spam(time_ms: int = NOON_MS, campaign: str = "html:spam", **changes: Any) -> MailEvent:
    """A message that was accepted and found to be spam; nothing about it is authenticated."""
    ordinary = {"verdict": "spam", "sender": "x@forged.test", "sender_domain": None, "ip": "198.51.100.7"}
    return mail(time_ms, **(ordinary | {"tokens": (campaign,)} | changes))


def trap_hit(time_ms: int = NOON_MS, campaign: str = "html:ring", **changes: Any) -> MailEvent:
    """A message that a trap mailbox caught."""
    return spam(time_ms, campaign, **({"disposition": "trap", "source": TRAPS, "ip": "203.0.113.9"} | changes))


def complaint(time_ms: int = NOON_MS, **changes: Any) -> MailEvent:
    """Somebody pressed the spam button over an honest-looking message."""
    return mail(time_ms, **({"disposition": "complaint", "verdict": "unknown", "size_bytes": 0} | changes))


def encoded(*events: MailEvent) -> bytes:
    """One record: the events as JSON lines."""
    return b"\n".join(msgspec.json.encode(event) for event in events)


def altered(event: MailEvent, **fields: Any) -> bytes:
    """The event as JSON with fields overwritten by anything at all, for records that break the contract."""
    return msgspec.json.encode(msgspec.to_builtins(event) | fields)


def spread(events: Sequence[MailEvent], start_ms: int, step_ms: int) -> list[MailEvent]:
    """The events at even steps: `[start)[start + step)...`."""
    return [msgspec.structs.replace(event, time_ms=start_ms + index * step_ms) for index, event in enumerate(events)]
