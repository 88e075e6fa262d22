"""The bench: its world is the same each time, its table tells what is missed, and its exit status says so."""

from collections import Counter

import msgspec
import pytest

from producers.event import MailEvent, check
from streams.rollup import Rollup, cells_of, flags_of
from streams.volume import COUNTERS
from tests.bench import __main__ as command
from tests.bench.child import Run
from tests.bench.report import MUSTS, Figure, as_json, exit_status, table, versions
from tests.bench.rounds import Measured, figures_of
from tests.bench.world import INPUTS, START_MS, TOWN, World, rollups

MINUTE_MS = 60_000
SLOW = Figure("count.events_s", "events/s", (60_000.0, 49_000.0, 48_000.0))
FAST = Figure("track.cells_s", "cells/s", (123_456.0, 50_000.0, 51_000.0))


def world(total: int = 12_000, minutes: int = 3) -> World:
    return World(TOWN, total, minutes * MINUTE_MS)


def events_of(some: World) -> list[MailEvent]:
    return [event for chunk in some.events() for event in chunk]


def is_unwanted(event: MailEvent) -> bool:
    flags = flags_of(event.disposition, event.verdict, event.reason, False, event.source.counts)
    return bool(flags & 2)


def test_the_same_world_is_drawn_each_time() -> None:
    assert events_of(world()) == events_of(world())


def test_another_seed_is_another_world() -> None:
    assert events_of(world()) != events_of(World(TOWN, 12_000, 3 * MINUTE_MS, seed=3))


def test_every_event_keeps_the_contract_and_time_moves_evenly_over_the_span() -> None:
    events = events_of(world())
    for event in events:
        check(event)
        assert msgspec.json.decode(msgspec.json.encode(event), type=MailEvent) == event
    times_ms = [event.time_ms for event in events]
    assert times_ms == sorted(times_ms)
    assert times_ms[0] == START_MS
    assert START_MS + 3 * MINUTE_MS - 1000 < times_ms[-1] < START_MS + 3 * MINUTE_MS


def test_the_traffic_is_as_the_figures_say() -> None:
    events = events_of(world())
    size_bytes = sum(len(msgspec.json.encode(event)) for event in events) / len(events)
    assert 380 < size_bytes < 460
    assert 0.28 < sum(map(is_unwanted, events)) / len(events) < 0.32
    assert {"accepted", "rejected", "trap", "deferred", "bounced", "complaint"} == {e.disposition for e in events}
    assert any(event.account and event.campaign for event in events)
    assert any(":" in (event.ip or "") for event in events)
    senders = Counter(event.from_domain for event in events)
    (_, most), *_, (_, least) = senders.most_common()
    assert most > 500 * least  # Zipf: a few send much, many send little


def test_rollups_hold_every_copy_and_ranges_follow_on_without_a_gap() -> None:
    some = world()
    copies, ends = 0, dict.fromkeys(range(INPUTS), 0)
    for partition, value in rollups(some, 3):
        rollup = msgspec.msgpack.decode(value, type=Rollup)
        cells = cells_of(rollup)
        for at, name in enumerate(rollup.names):
            if name.startswith("campaign:"):
                copies += int(cells.counters[COUNTERS.index("copies"), cells.name_of == at].sum())
        for part in rollup.ranges if partition == 0 else ():
            assert part.start == ends[part.partition]
            ends[part.partition] = part.end
    messages = ("accepted", "rejected", "trap")
    assert copies == sum(event.copies for event in events_of(some) if event.disposition in messages)
    assert ends == dict.fromkeys(range(INPUTS), 12_000 // INPUTS)


def test_the_table_shows_the_median_the_must_and_what_is_missed() -> None:
    told = {line.split()[0]: line for line in table([SLOW, FAST]).splitlines()}
    assert "49,000" in told["count.events_s"]
    assert "50,000" in told["count.events_s"]
    assert told["count.events_s"].endswith("MISSED")
    assert "50,000 .. 123,456" in told["track.cells_s"]
    assert not told["track.cells_s"].endswith("MISSED")


def test_a_missed_must_is_an_exit_status_of_one() -> None:
    assert exit_status([FAST]) == 0
    assert exit_status([FAST, SLOW]) == 1


def test_a_figure_that_is_just_what_it_must_be_is_not_missed() -> None:
    assert not Figure("count.events_s", "events/s", (50_000.0,)).missed


def test_the_json_holds_what_the_table_holds() -> None:
    body = msgspec.json.decode(as_json([SLOW, FAST], 1_000, versions()))
    assert body["figures"]["count.events_s"]["missed"] is True
    assert body["figures"]["track.cells_s"]["value"] == 51_000
    assert {"kafka", "librdkafka", "python", "numpy"} <= body["versions"].keys()


def test_rates_come_of_wall_clock_and_of_cpu_seconds_and_every_must_has_a_figure() -> None:
    run = Run(wall_s=2.0, cpu_s=4.0, commits=3, resident_kib=2048, outputs={"mail-rollups": 32})
    quick = Run(wall_s=1.0, cpu_s=1.0, commits=0, resident_kib=1024, outputs={})
    one = {"consume": quick, "decode": quick, "count": run, "track": run, "track_counted": run}
    figures = {f.key: f for f in figures_of({name: [Measured(200_000, taken)] for name, taken in one.items()})}
    assert figures["count.events_s"].value == 100_000
    assert figures["count.events_cpu_s"].value == 50_000
    assert figures["count.over_raw_consume"].value == 0.25
    assert figures["track.cells_s"].must == 50_000
    assert figures.keys() >= MUSTS.keys()


def test_the_command_prints_the_table_and_ends_with_one_where_a_must_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(command, "_FOLDER", tmp_path)
    monkeypatch.setattr(command, "measure", lambda *_: [SLOW, FAST])
    assert command.main(["--events", "1000"]) == 1
    assert "MISSED" in capsys.readouterr().out
    monkeypatch.setattr(command, "measure", lambda *_: [FAST])
    assert command.main([]) == 0
