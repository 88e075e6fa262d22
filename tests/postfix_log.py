"""Postfix logs for tests, line by line."""

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

from producers.event import MailEvent
from producers.sources.postfix_join import PostfixJoiner

YEAR = 2026
LATEST_MS = round(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)


def at(clock: str, day: int = 3) -> int:
    """A time of day on that day of March 2026, UTC, in ms."""
    return round(datetime.fromisoformat(f"2026-03-{day:02d}T{clock}+00:00").timestamp() * 1000)


def line(clock: str, daemon: str, message: str, day: int = 3) -> str:
    """`10:00:00`, `smtpd`, what it said."""
    return f"Mar {day:2d} {clock} mx postfix/{daemon}[77]: {message}"


def client(clock: str, queue_id: str, address: str = "192.0.2.7", more: str = "", daemon: str = "smtpd") -> str:
    return line(clock, daemon, f"{queue_id}: client=host.example[{address}]{more}")


def active(clock: str, queue_id: str, recipients: int = 1, sender: str = "shop@example.org", size: int = 900) -> str:
    return line(clock, "qmgr", f"{queue_id}: from=<{sender}>, size={size}, nrcpt={recipients} (queue active)")


def delivery(
    clock: str,
    queue_id: str,
    status: str = "sent (250 2.0.0 Ok)",
    *,
    daemon: str = "lmtp",
    to: str = "reader@example.test",
    relay: str = "mx[private/lmtp]",
    delay: str = "0.4",
    dsn: str = "2.0.0",
) -> str:
    said = f"to=<{to}>, relay={relay}, delay={delay}, delays=0.1/0/0.1/0.2, dsn={dsn}, status={status}"
    return line(clock, daemon, f"{queue_id}: {said}")


def requeued(clock: str, first: str, second: str, relay: str = "127.0.0.1[127.0.0.1]:10024") -> str:
    """The first hop's status, when a filter has sent the message back."""
    said = f"sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as {second})"
    return delivery(clock, first, said, daemon="smtp", relay=relay)


def removed(clock: str, queue_id: str) -> str:
    return line(clock, "qmgr", f"{queue_id}: removed")


def filtered(first: str, second: str, address: str = "192.0.2.7", recipients: int = 1, more: str = "") -> list[str]:
    """A message through a filter. The second hop is in the log before the first one's status."""
    return [
        client("10:00:00", first, address, more),
        line("10:00:00", "cleanup", f"{first}: message-id=<1@example.org>"),
        active("10:00:00", first, recipients),
        client("10:00:01", second, "127.0.0.1"),
        line("10:00:01", "cleanup", f"{second}: message-id=<1@example.org>"),
        active("10:00:01", second, recipients, size=1300),
        *[delivery("10:00:01", second)] * recipients,
        *[requeued("10:00:01", first, second)] * recipients,
        removed("10:00:01", first),
        removed("10:00:02", second),
    ]


def joiner(zone: tzinfo = UTC, year: int = YEAR, latest_ms: int = LATEST_MS, host: str | None = None) -> PostfixJoiner:
    return PostfixJoiner(zone, year, latest_ms, host)


def join(lines: Iterable[str | bytes], joined: PostfixJoiner | None = None) -> list[MailEvent]:
    """The events of a whole log."""
    joined = joined or joiner()
    for text in lines:
        joined.feed(text if isinstance(text, bytes) else text.encode())
    joined.finish()
    return joined.take()


def of(events: list[MailEvent], disposition: str) -> list[MailEvent]:
    return [event for event in events if event.disposition == disposition]
