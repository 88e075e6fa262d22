"""The rounds: what is run on what, in which order, and which figures come of it."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from streams.rollup import MINUTE_MS, Rollup
from streams.settings import Settings
from tests.bench.child import Run, Task, What
from tests.bench.kafka import (
    forget_group,
    publish_events,
    publish_rollups,
    read_rollups,
    rollup_ends,
    topics,
)
from tests.bench.report import Figure
from tests.bench.world import CITY, START_MS, TOWN, World, closing, rollups

Say = Callable[[str], None]
_ROOT: Final = Path(__file__).parents[2]
_LIMIT_S: Final = 300
_READERS: Final[tuple[What, ...]] = ("consume", "decode", "count")
EVENT_MINUTES: Final = 20
"""Event time that COUNT's events are spread over."""
CELL_MINUTES: Final = 60
_EVENTS_OF_CITY: Final = 0.65
"""Events of `CITY` for each of `TOWN`: about three cells come of each."""


class Cells(msgspec.Struct, frozen=True):
    """Rollups to be tracked: (partition, value) of each record, and how many cells they hold."""

    name: str
    records: list[tuple[int, bytes]]
    cells: int


class Measured(msgspec.Struct, frozen=True):
    """A finished run and what it worked on: `units` of events or cells."""

    units: int
    run: Run


def measure(bootstrap_servers: str, events: int, rounds: int, say: Say) -> list[Figure]:
    """All figures. The first round warms the broker and is thrown away."""
    measured: dict[str, list[Measured]] = defaultdict(list)
    tracked = [_city(events, say)]
    with topics(bootstrap_servers) as settings:
        _fill(settings, events, say)
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}{' (warm-up)' if not number else ''}: consume, decode, COUNT ...")
            starts = rollup_ends(settings)
            forget_group(settings, "count")
            for what in _READERS:
                measured[what].append(Measured(events, run_child(Task(what, settings, events))))
                _tell(what, measured[what][-1], say)
        tracked.append(_counted(settings, starts, events))
    for number in range(rounds + 1):
        for work in tracked:
            say(
                f"round {number} of {rounds}{' (warm-up)' if not number else ''}: {work.name}, {work.cells:,} cells ..."
            )
            measured[work.name].append(track(bootstrap_servers, work))
            _tell(work.name, measured[work.name][-1], say)
    return figures_of({name: runs[1:] for name, runs in measured.items()})


def _tell(name: str, done: Measured, say: Say) -> None:
    run = done.run
    say(f"  {name}: {done.units / run.wall_s:,.0f}/s, {done.units / run.cpu_s:,.0f} a CPU second; {run.wall_s:.1f} s")


def profile(bootstrap_servers: str, events: int, folder: Path, say: Say) -> list[Path]:
    """Runs each stage once under cProfile: what a function took is told, and is too much for those that are called often."""
    paths = [folder / f"bench-{name}.prof" for name in ("count", "track", "track-counted")]
    with topics(bootstrap_servers) as settings:
        _fill(settings, events, say)
        starts = rollup_ends(settings)
        say("COUNT under the profiler ...")
        run_child(Task("count", settings, events, str(paths[0])))
        counted = _counted(settings, starts, events)
    for path, work in zip(paths[1:], (_city(events, say), counted), strict=True):
        say(f"{work.name} under the profiler, {work.cells:,} cells ...")
        track(bootstrap_servers, work, str(path))
    return paths


def track(bootstrap_servers: str, work: Cells, profile: str | None = None) -> Measured:
    """TRACK over rollups, in topics of its own as its state begins empty."""
    with topics(bootstrap_servers) as settings:
        count = publish_rollups(settings, work.records)
        return Measured(work.cells, run_child(Task("track", settings, count, profile)))


def run_child(task: Task) -> Run:
    """The task in a process of its own. Raises `SystemExit` with its words where it fails."""
    command = [sys.executable, "-m", "tests.bench.child", msgspec.json.encode(task).decode()]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=_ROOT, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"bench: {task.what} has not committed {task.records:,} records in {_LIMIT_S} s") from None
    if done.returncode:
        raise SystemExit(f"bench: the process that ran {task.what} ended with exit status {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Run)


def figures_of(measured: dict[str, list[Measured]]) -> list[Figure]:
    """Rates by wall clock and by CPU second of all the process's threads, and their ratios."""
    units: dict[What | str, str] = {"track": "cells", "track_counted": "cells"}
    figures = []
    for name, runs in measured.items():
        unit = units.get(name, "events")
        figures.append(Figure(f"{name}.{unit}_s", f"{unit}/s", tuple(m.units / m.run.wall_s for m in runs)))
        figures.append(Figure(f"{name}.{unit}_cpu_s", f"{unit}/CPU s", tuple(m.units / m.run.cpu_s for m in runs)))
    figures.append(Figure("count.over_raw_consume", "of CPU rate", _ratio(measured["count"], measured["consume"])))
    figures.append(Figure("count.over_decode", "of CPU rate", _ratio(measured["count"], measured["decode"])))
    for name in ("count", "track"):
        runs = measured[name]
        figures.append(Figure(f"{name}.commits", "transactions", tuple(float(m.run.commits) for m in runs)))
        figures.append(Figure(f"{name}.outputs", "records", tuple(float(sum(m.run.outputs.values())) for m in runs)))
        figures.append(Figure(f"{name}.resident_mib", "MiB", tuple(m.run.resident_kib / 1024 for m in runs)))
    return figures


def _ratio(ours: Sequence[Measured], theirs: Sequence[Measured]) -> tuple[float, ...]:
    """How the rates a CPU second compare, round by round."""
    return tuple((a.units / a.run.cpu_s) / (b.units / b.run.cpu_s) for a, b in zip(ours, theirs, strict=True))


def _fill(settings: Settings, events: int, say: Say) -> None:
    say(f"publishing {events:,} events ...")
    written = publish_events(settings, World(TOWN, events, EVENT_MINUTES * MINUTE_MS))
    say(f"published; {written / events:.0f} bytes an event")


def _city(events: int, say: Say) -> Cells:
    count = round(events * _EVENTS_OF_CITY)
    say(f"adding up {count:,} events of a large world for TRACK ...")
    return _cells("track", list(rollups(World(CITY, count, CELL_MINUTES * MINUTE_MS), CELL_MINUTES)))


def _counted(settings: Settings, starts: dict[int, int], events: int) -> Cells:
    """What COUNT wrote from these offsets on, and the end of its last minute."""
    records = list(read_rollups(settings, starts))
    ends = _ends(records)
    records += closing(ends, START_MS + (EVENT_MINUTES + 3) * MINUTE_MS)
    return _cells("track_counted", records)


def _ends(records: list[tuple[int, bytes]]) -> dict[int, int]:
    """Of each input partition the offset up to which it was counted."""
    decoder = msgspec.msgpack.Decoder(Rollup)
    return {r.partition: r.end for _, value in records[-1:] for r in decoder.decode(value).ranges}


def _cells(name: str, records: list[tuple[int, bytes]]) -> Cells:
    decoder = msgspec.msgpack.Decoder(Rollup)
    return Cells(name, records, sum(len(decoder.decode(value).name_of) // 4 for _, value in records))
