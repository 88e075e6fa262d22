"""`spamtide top`: the leaders of the moment as a table, from `volume-top` and, for what traps tell, `incidents`."""

import sys
import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec
from confluent_kafka import Message
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.incident import Alert
from streams.render import amount, moment, visible
from streams.settings import Settings
from streams.tail import Tail
from streams.topics import INCIDENTS, VOLUME_TOP
from streams.volume import Leader, Leaders, is_bucket

TOPICS_READ: Final = (VOLUME_TOP, INCIDENTS)
SENDER_KINDS: Final = ("account", "domain", "ip", "net")
HOUR_MS: Final = 3_600_000
SHOWN: Final = 10
"""Rows of one table."""
PLAIN_WIDTH: Final = 160
"""Columns where the output is no terminal."""
REFRESH_S: Final = 0.5
_BARS: Final = " ▁▂▃▄▅▆▇█"
_STYLES: Final = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a leader, and what its open incident adds."""

    entity: str
    kind: str
    copies_60m: int
    unwanted_60m: int
    month_run_rate: int
    """Unwanted copies of the last hour as a month, as seen here."""
    month_trap: int | None
    """Copies a month everywhere, inferred from traps; null where nothing is."""
    tier: int
    severity: str | None
    unwanted_by_minute: tuple[int, ...]


class Board:
    """The newest word of every partition and incident. Owns nothing else; `take` moves it on."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[int, str], Leaders] = {}
        self._incidents: dict[str, Alert] = {}
        self.time_ms = 0
        """End of the newest closed minute."""

    def take(self, messages: Iterable[Message], prefix: str) -> None:
        """Takes records of `TOPICS_READ`, whose physical names begin with `prefix`."""
        for message in messages:
            value = message.value()
            if value is None:
                continue
            if message.topic() == prefix + VOLUME_TOP:
                self.take_leaders(msgspec.json.decode(value, type=Leaders))
            else:
                self.take_alert(msgspec.json.decode(value, type=Alert))

    def take_leaders(self, leaders: Leaders) -> None:
        """The leaders of one partition and kind."""
        self._leaders[leaders.partition, leaders.kind] = leaders
        self.time_ms = max(self.time_ms, leaders.time_ms)

    def take_alert(self, alert: Alert) -> None:
        """The present state of one incident."""
        known = self._incidents.get(alert.id)
        if known is None or alert.seq >= known.seq:
            self._incidents[alert.id] = alert

    def rows(self, kinds: Sequence[str]) -> list[Row]:
        """Every leader and open incident of these kinds, largest projected month first. What is nobody's is left out."""
        told = {alert.entity: alert for alert in self._incidents.values() if alert.state == "open"}
        rows = {}
        for entity, alert in told.items():
            rows[entity] = _of_alert(alert)
        for leaders in self._leaders.values():
            if leaders.time_ms > self.time_ms - HOUR_MS:
                rows |= {leader.entity: _of_leader(leader, told.get(leader.entity)) for leader in leaders.leaders}
        wanted = [row for row in rows.values() if row.kind in kinds and not is_bucket(row.entity)]
        return sorted(wanted, key=_size)


def _size(row: Row) -> tuple[int, int, str]:
    return -max(row.month_run_rate, row.month_trap or 0), -row.copies_60m, row.entity


def _of_leader(leader: Leader, alert: Alert | None) -> Row:
    return Row(
        entity=leader.entity,
        kind=_kind(leader.entity),
        copies_60m=leader.copies_60m,
        unwanted_60m=leader.unwanted_60m,
        month_run_rate=leader.month_run_rate,
        month_trap=_month_trap(alert) if alert else None,
        tier=leader.tier,
        severity=leader.severity,
        unwanted_by_minute=leader.unwanted_by_minute,
    )


def _of_alert(alert: Alert) -> Row:
    """An open incident that leads nowhere: only traps know it, or it is quiet now."""
    return Row(
        entity=alert.entity,
        kind=alert.kind,
        copies_60m=alert.volume.copies_60m,
        unwanted_60m=alert.volume.unwanted_60m,
        month_run_rate=alert.volume.month_run_rate.copies,
        month_trap=_month_trap(alert),
        tier=alert.tier,
        severity=alert.severity,
        unwanted_by_minute=(),
    )


def _month_trap(alert: Alert) -> int | None:
    return alert.volume.month_trap.copies if alert.volume.month_trap else None


def _kind(entity: str) -> str:
    return entity.partition(":")[0]


def sparkline(values: Sequence[int], width: int = 30) -> str:
    """Values as bars, summed to `width` columns, as high as their share of the highest; empty for no values."""
    if not values:
        return ""
    size = -(-len(values) // width)
    sums = [sum(values[at : at + size]) for at in range(0, len(values), size)]
    top = max(sums)
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // top)] if top else " " for value in sums)


def table(title: str, rows: Sequence[Row], shown: int = SHOWN) -> Table:
    """Rows as a table. Names come from mail: they are text, never markup, and what cannot be seen in them is written out."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, expand=False)
    made.add_column("severity", no_wrap=True)
    made.add_column("who", overflow="ellipsis", no_wrap=True, max_width=56)
    for heading in ("copies/h", "unwanted/h", "month, run rate", "month, traps", "tier"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("unwanted, last hour", no_wrap=True)
    for row in rows[:shown]:
        style = _STYLES.get(row.severity or "", "")
        made.add_row(
            Text(row.severity or "-", style),
            Text(visible(row.entity, 120), style),
            Text(f"{row.copies_60m:,}"),
            Text(f"{row.unwanted_60m:,}"),
            Text(amount(row.month_run_rate)),
            Text("-" if row.month_trap is None else amount(row.month_trap), style),
            Text(amount(row.tier) if row.tier else "-", style),
            Text(sparkline(row.unwanted_by_minute)),
        )
    return made


def page(board: Board, kinds: Sequence[str], shown: int = SHOWN) -> Group:
    """Both tables, campaigns first, with the time they are of."""
    when = moment(board.time_ms) if board.time_ms else "no minute is closed yet"
    parts: list[Text | Table] = [Text(f"Spamtide, {when}")]
    if "campaign" in kinds:
        parts.append(table("Campaigns", board.rows(["campaign"]), shown))
    if senders := [kind for kind in kinds if kind != "campaign"]:
        parts.append(table("Senders", board.rows(senders), shown))
    return Group(*parts)


def console() -> Console:
    """Standard output: a terminal of its own width, or plain text."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(highlight=False, markup=False, emoji=False, width=PLAIN_WIDTH, color_system=None)


def show(out: Console, what: RenderableType) -> None:
    """Prints; where the output is no terminal, without the spaces that only fill columns up."""
    if out.is_terminal:
        out.print(what)
        return
    with out.capture() as captured:
        out.print(what)
    lines = [line.rstrip() for line in captured.get().split("\n")]
    out.file.write("\n".join(line for before, line in pairwise(["", *lines]) if line or before) + "\n")


def run(settings: Settings, kinds: Sequence[str], once: bool, as_json: bool, stop: threading.Event) -> None:
    """Shows the table until `stop`; just once where asked, for JSON, and where the output is no terminal. Raises `Unavailable`."""
    board, out = Board(), console()
    with Tail(settings, TOPICS_READ) as tail:
        board.take(tail.to_end(), settings.topic_prefix)
        if as_json:
            for row in board.rows(kinds):
                out.file.write(msgspec.json.encode(row).decode() + "\n")
            return
        if once or not out.is_terminal:
            show(out, page(board, kinds))
            return
        with Live(page(board, kinds), console=out, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                board.take(tail.poll(REFRESH_S), settings.topic_prefix)
                live.update(page(board, kinds), refresh=True)
