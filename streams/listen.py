"""`spamtide alerts`: what `campaign-alerts` and `sender-alerts` say, for people a line, for programs the JSON as published."""

import re
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec
from confluent_kafka import Message

from producers.errors import UsageError
from streams.incident import Alert, Severity
from streams.render import moment, visible
from streams.settings import Settings
from streams.tail import Tail
from streams.topics import CAMPAIGN_ALERTS, SENDER_ALERTS

TOPICS_READ: Final = (CAMPAIGN_ALERTS, SENDER_ALERTS)
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
_UNITS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Listener:
    """Drops repeats and what was not asked for. ALERT is at least once: `(id, seq)` has one content."""

    def __init__(self, least: Severity = "info", since_ms: int = 0) -> None:
        self._wanted = SEVERITIES[SEVERITIES.index(least) :]
        self._since_ms = since_ms
        self._seen: set[tuple[str, int]] = set()

    def new(self, messages: Iterable[Message]) -> Iterator[tuple[Alert, bytes]]:
        """Each alert that is asked for, the first time it comes; and its bytes."""
        for message in messages:
            value = message.value()
            if value is None:
                continue
            alert = msgspec.json.decode(value, type=Alert)
            key = alert.id, alert.seq
            if key not in self._seen and alert.severity in self._wanted and alert.time_ms >= self._since_ms:
                self._seen.add(key)
                yield alert, value


def line_of(alert: Alert) -> str:
    """One alert as a line of plain text."""
    return f"{moment(alert.time_ms)}  {alert.severity.upper():8}  {alert.change:11}  {visible(alert.title, 200)}"


def parse_since(text: str, now_ms: int) -> int:
    """`90m`, `24h`, `7d` before now, or an ISO 8601 date or time (UTC unless it says otherwise), in ms. Raises `UsageError`."""
    if found := re.fullmatch(r"(\d{1,6})([mhd])", text):
        return now_ms - int(found[1]) * _UNITS_MS[found[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text!r} is no time: write 90m, 24h, 7d or 2026-10-01T12:00") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def run(settings: Settings, listener: Listener, as_json: bool, follow: bool, stop: threading.Event) -> None:
    """Prints the alerts there are, in order of event time; then, to follow, each as it comes until `stop`. Raises `Unavailable`."""
    with Tail(settings, TOPICS_READ) as tail:
        for alert, value in sorted(listener.new(tail.to_end()), key=lambda pair: (pair[0].time_ms, pair[0].seq)):
            _print(alert, value, as_json)
        while follow and not stop.is_set():
            for alert, value in listener.new(tail.poll(0.5)):
                _print(alert, value, as_json)


def _print(alert: Alert, value: bytes, as_json: bool) -> None:
    print(value.decode() if as_json else line_of(alert), flush=True, file=sys.stdout)
