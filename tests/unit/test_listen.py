"""`spamtide alerts`: each alert once, as a line or as published."""

from typing import Any, cast

import msgspec
import pytest
from confluent_kafka import Message

from producers.errors import UsageError
from streams.incident import Alert
from streams.listen import Listener, line_of, parse_since
from streams.render import alert_of
from tests.signals import START_MS, a_signal

NOW_MS = 1_800_000_000_000


class Record:
    """As much of a Kafka message as a listener looks at."""

    def __init__(self, value: bytes | None) -> None:
        self._value = value

    def value(self) -> bytes | None:
        return self._value


def an_alert(entity: str = "campaign:x", seq: int = 1, **other: Any) -> Alert:
    return alert_of(a_signal(entity, seq, **other), "r", "d")


def heard(listener: Listener, *alerts: Alert | None) -> list[tuple[str, int]]:
    records = cast("list[Message]", [Record(msgspec.json.encode(alert) if alert else None) for alert in alerts])
    return [(alert.entity, alert.seq) for alert, _ in listener.new(records)]


def test_a_repeat_is_told_once() -> None:
    listener = Listener()
    first, second = an_alert(), an_alert(seq=2)
    assert heard(listener, first, second, first) == [("campaign:x", 1), ("campaign:x", 2)]
    assert heard(listener, second) == []


def test_severity_means_this_and_worse() -> None:
    alerts = [an_alert(f"ip:{level}", severity=level) for level in ("info", "warning", "critical")]
    assert [entity for entity, _ in heard(Listener("warning"), *alerts)] == ["ip:warning", "ip:critical"]


def test_since_is_a_time_of_the_mail_and_includes_itself() -> None:
    at = an_alert(seq=1)
    assert heard(Listener(since_ms=at.time_ms), at)
    assert not heard(Listener(since_ms=at.time_ms + 1), at)


def test_a_record_without_value_is_passed_over() -> None:
    assert heard(Listener(), None) == []


def test_a_line_shows_time_severity_step_and_title_without_control_characters() -> None:
    alert = msgspec.structs.replace(an_alert(), title="Campaign \x1b[31mx")
    assert START_MS == 1_780_000_020_000
    assert line_of(alert) == "2026-05-28 20:28 UTC  CRITICAL  opened       Campaign \\u001b[31mx"


@pytest.mark.parametrize(
    ("text", "since_ms"),
    [
        ("90m", NOW_MS - 5_400_000),
        ("24h", NOW_MS - 86_400_000),
        ("7d", NOW_MS - 7 * 86_400_000),
        ("2026-10-01", 1_790_812_800_000),
        ("2026-10-01T02:00+02:00", 1_790_812_800_000),
    ],
)
def test_since_is_a_span_or_a_time(text: str, since_ms: int) -> None:
    assert parse_since(text, NOW_MS) == since_ms


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-7d", "7dd", "2026-13-01"])
def test_what_is_no_time_is_told_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="90m, 24h, 7d"):
        parse_since(text, NOW_MS)
