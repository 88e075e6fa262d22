"""`spamtide produce`: read events from a source and publish them. `streams.cli` adds the group and puts `Connections` into `ctx.obj`."""

import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

import click
import msgspec

from producers.errors import Unavailable
from producers.publish import Connections, Publisher, Source, Totals
from producers.sources.ndjson import NdjsonFile, NdjsonStream
from producers.sources.postfix import PostfixFile, find_zone
from producers.sources.ring_truth import tell
from producers.sources.scenario import MAX_EVENTS, Paced, Parameters, RingScenario, World

PROGRESS_S: Final = 2.0
SHOWN_FAULTS: Final = 20
_FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


@click.group()
def produce() -> None:
    """Read mail events from a source and publish them.

    A file is read exactly once: events and position go into Kafka in one transaction, so that a run that was interrupted or
    killed goes on where its last commit ended when the same command is given again. One run at a time for each file.

    \b
    Exit status: 0 done, even where some lines were refused (they are counted by reason);
                 1 nothing could be used at all;  130 interrupted;  others as for every spamtide command.
    """


@produce.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path))
@click.pass_obj
def ndjson(connections: Connections, file: Path) -> None:
    """Publish MailEvents from FILE, one JSON object a line; `-` is standard input.

    A file is exactly once. Standard input cannot be read again: each batch is committed as it fills or the input pauses, and
    what a killed run had not committed has to be sent again by whoever wrote it (at least once).

    \b
    Example: spamtide produce ndjson events.ndjson
    """
    if str(file) == "-":
        run_source(connections, NdjsonStream(sys.stdin.fileno(), uuid.uuid4().hex, _now_ms, _Faults()))
    else:
        run_source(connections, NdjsonFile(file, socket.gethostname(), _now_ms, _Faults()))


@produce.command()
@click.argument("file", type=_FILE)
@click.option(
    "--year",
    type=click.IntRange(1970, 9999),
    help="Year of the first line, for time stamps without one. [default: the newest year that puts no line after FILE's last change]",
)
@click.option(
    "--tz",
    "zone",
    metavar="NAME",
    help="Time zone of time stamps without one, like Europe/Berlin. [default: this machine's, in which its syslog writes]",
)
@click.option("--host", metavar="NAME", help="Name of the mail server to publish. [default: as each line says]")
@click.pass_obj
def postfix(connections: Connections, file: Path, year: int | None, zone: str | None, host: str | None) -> None:
    """Publish what a finished Postfix log FILE tells: each message once, whatever its road through content filters.

    Time stamps may be traditional (`Dec  9 10:18:23`) or RFC 3339. Lines of other programs are passed over.

    \b
    Example: spamtide produce postfix /var/log/mail.log.1
    """
    run_source(connections, PostfixFile(file, socket.gethostname(), find_zone(zone), _now_ms, year, host))


@produce.group()
def scenario() -> None:
    """Publish a made world, the same for the same seed, with the truth about it."""


@scenario.command()
@click.option(
    "--seed", type=click.IntRange(0, 1 << 62), default=1, show_default=True, help="Another seed, another world."
)
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Event seconds in a second: 15000 plays three weeks in two minutes. [default: as fast as it can]",
)
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"]),
    default="2026-10-01",
    show_default=True,
    help="When the three weeks begin, UTC.",
)
@click.option(
    "--events",
    type=click.IntRange(0, MAX_EVENTS),
    default=600_000,
    show_default=True,
    help="Events beside the trap hits.",
)
@click.option(
    "--truth",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what must be found, as JSON.",
)
@click.pass_obj
def ring(
    connections: Connections, seed: int, speed: float | None, start: datetime, events: int, truth: Path | None
) -> None:
    """Publish three weeks of honest mail with one ring in it.

    The traps catch 45,000 of the ring's messages, one of every 5,000 that it sends: 321 million a month.

    \b
    Example: spamtide produce scenario ring --seed 7 --speed 15000 --truth truth.json
    """
    start_ms = int(start.replace(tzinfo=UTC).timestamp() * 1000)
    world = World(Parameters(seed=seed, start_ms=start_ms, events=events))
    world.check_past(_now_ms(), speed)
    if truth is not None:
        _write(truth, msgspec.json.encode(tell(world)))
    source: Source = RingScenario(world)
    if speed is not None:
        source = Paced(RingScenario(world, span_ms=max(1, int(speed * 1000))), speed, time.monotonic, time.sleep)
    run_source(connections, source)


def _write(path: Path, content: bytes) -> None:
    """A file that is whole or not there. Raises `Unavailable`."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from None


def run_source(connections: Connections, source: Source) -> None:
    """Publish a source to its end, with progress and a summary on standard error; ends the process for what was interrupted.

    Raises `SystemFault`.
    """
    publisher = Publisher(connections, source)
    stop = threading.Event()
    progress = _Progress(source.key)
    with _interruptible(publisher, stop) as received:
        try:
            publisher.run(stop, progress.show)
        except KeyboardInterrupt:
            stop.set()
    progress.summary(publisher.totals)
    if stop.is_set():
        how = (
            "the same command goes on from here"
            if publisher.totals.can_resume
            else "what was not published must be sent again"
        )
        click.echo(f"interrupted; {how}", err=True)
        raise SystemExit(128 + received[0] if received else 130)
    if publisher.totals.refused and not publisher.totals.events and publisher.totals.lines:
        raise SystemExit(1)


@contextmanager
def _interruptible(publisher: Publisher, stop: threading.Event) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end a transaction first, and anything else at once. Yields the signals received."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        stop.set()
        if not publisher.in_transaction:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """A line every few seconds (over itself on a terminal), and one at the end."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._started = self._shown = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def show(self, totals: Totals) -> None:
        now = time.monotonic()
        if now - self._shown < (0.2 if self._on_terminal else PROGRESS_S):
            return
        self._shown = now
        rate = totals.lines / max(0.001, now - self._started)
        text = f"{totals.lines:,} lines, {totals.events:,} events published ({rate:,.0f} lines/s)"
        click.echo(f"\r\x1b[K{text}" if self._on_terminal else text, err=True, nl=not self._on_terminal)

    def summary(self, totals: Totals) -> None:
        """What was done, always one line."""
        text = f"{self._key}: {totals.lines:,} lines read, {totals.events:,} events published"
        if totals.resumed and not totals.lines:
            text += " (all of it was published before)"
        elif totals.resumed:
            text += " (went on from an earlier run)"
        if totals.refused:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(totals.refused.items()))
            text += f", {totals.refused.total():,} refused: {reasons}"
        click.echo(f"\r\x1b[K{text}" if self._on_terminal else text, err=True)


class _Faults:
    """Says which lines cannot be used: the first few, then no more."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, line: int, reason: str) -> None:
        self._count += 1
        if self._count <= SHOWN_FAULTS:
            click.echo(f"line {line:,}: {reason}", err=True)
        elif self._count == SHOWN_FAULTS + 1:
            click.echo("more lines are refused; they are counted", err=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
