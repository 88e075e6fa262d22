"""Rows of volumes: rotation, saturation, what was recent, snapshots."""

from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.incident import OPEN
from streams.known import Known
from streams.layout import DAYS, HOURS, MINUTES, RINGS, SPANS, Field, Rows
from streams.rollup import Detail, Ints
from streams.table import Row, Table
from streams.volume import COUNTERS

DAY = 1_440
START = 20_000 * DAY
"""A midnight, in minutes since the epoch."""
SATURATED = (1 << 32) - 1


def row_of(table: Table, name: str = "ip:192.0.2.1", partition: int = 3) -> Rows:
    return table.rows_for([name], partition)


def sums(copies: int = 1, **counters: int) -> Ints:
    values = {"copies": copies, "messages": 1, **counters}
    return np.array([[values.get(name, 0)] for name in COUNTERS], dtype=np.int64)


def fold(table: Table, row: Rows, minute: int, copies: int = 1, part: int = 0, **counters: int) -> None:
    table.fold(row, np.full(len(row), minute), sums(copies, **counters), np.full(32, part))


def copies_by_interval(table: Table, row: Rows, ring: str, minute: int) -> dict[int, int]:
    """Interval -> copies, of those that are not zero."""
    length, minutes = RINGS[ring].length, RINGS[ring].minutes
    newest = minute // minutes
    sums = [int(table.recent(row, ring, minute, intervals)[0]) for intervals in range(length + 1)]
    held = {newest - age: sums[age + 1] - sums[age] for age in range(length) if sums[age + 1] > sums[age]}
    if ring == "minute_copies":
        last = table.last_minutes(row, minute)[0, 0].tolist()
        assert held == {newest - length + 1 + index: value for index, value in enumerate(last) if value}
    return held


# -- rotation -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1, 2, 30, 59, 60, 61, 120, DAY, 2 * DAY, 35 * DAY, 36 * DAY, 400 * DAY])
@pytest.mark.parametrize("first", [START, START + 59, START + DAY - 1, START + 777])
def test_a_row_touched_after_a_gap_holds_what_is_still_recent(first: int, gap: int) -> None:
    # [first) ------ gap ------ [second)
    table = Table()
    row = row_of(table)
    second = first + gap
    fold(table, row, first, 5, unwanted=2)
    fold(table, row, second, 7, unwanted=3)
    for prefix, length, minutes in (("minute", MINUTES, 1), ("hour", HOURS, 60), ("day", DAYS, DAY)):
        for counter, before, now in (("copies", 5, 7), ("unwanted", 2, 3)):
            expected: dict[int, int] = {second // minutes: now}
            if first // minutes > second // minutes - length:
                expected[first // minutes] = expected.get(first // minutes, 0) + before
            assert copies_by_interval(table, row, f"{prefix}_{counter}", second) == expected


def test_a_random_life_equals_a_plain_dictionary() -> None:
    rng = Random(11)
    table = Table()
    row = row_of(table)
    seen: list[tuple[int, int]] = []
    minute = START + 17
    for _ in range(300):
        minute += rng.choice((1, 1, 1, 2, 7, 59, 60, 61, 300, DAY - 1, 3 * DAY))
        copies = rng.randrange(1, 100)
        fold(table, row, minute, copies)
        seen.append((minute, copies))
        later = minute + rng.choice((0, 1, 30, 90, DAY))
        for ring, length, minutes in (
            ("minute_copies", MINUTES, 1),
            ("hour_copies", HOURS, 60),
            ("day_copies", DAYS, DAY),
        ):
            for intervals in (1, 2, length // 2, length):
                since = later // minutes - intervals
                expected = sum(n for at, n in seen if at // minutes > since)
                assert int(table.recent(row, ring, later, intervals)[0]) == expected
            by_interval = copies_by_interval(table, row, ring, later)
            assert sum(by_interval.values()) == sum(n for at, n in seen if at // minutes > later // minutes - length)


def test_rows_with_different_pasts_move_on_together() -> None:
    table = Table()
    rows = table.rows_for([f"ip:10.0.0.{index}" for index in range(6)], 0)
    times = [START - 40 * DAY, START - 3 * DAY, START - 61, START - 30, START - 1, START]
    for row, minute in zip(rows, times, strict=True):
        fold(table, np.array([row]), minute, 5)
    table.advance(rows, START)
    assert table.recent(rows, "minute_copies", START, 60).tolist() == [0, 0, 0, 5, 5, 5]
    assert table.recent(rows, "hour_copies", START, 48).tolist() == [0, 0, 5, 5, 5, 5]
    assert table.recent(rows, "day_copies", START, 35).tolist() == [0, 5, 5, 5, 5, 5]
    for name, ring in RINGS.items():
        for intervals in (1, 10, ring.length):
            quick, careful = (get(rows, name, START, intervals) for get in (table.window, table.recent))
            assert quick.tolist() == careful.tolist()


def test_moving_on_never_goes_back() -> None:
    table = Table()
    row = row_of(table)
    fold(table, row, START + 10, 5)
    table.advance(row, START)
    assert table.ledger[row[0], Field.CLOCK] == START + 10
    assert table.recent(row, "minute_copies", START + 10, 1)[0] == 5


def test_a_ring_saturates_and_the_ledger_does_not() -> None:
    table = Table()
    row = row_of(table)
    for _ in range(3):
        fold(table, row, START, 3_000_000_000)
    assert table.recent(row, "minute_copies", START, 1)[0] == SATURATED
    assert table.ledger[row[0], SPANS[0].counters][0] == 9_000_000_000


def test_nothing_is_recent_of_a_new_row() -> None:
    table = Table()
    row = row_of(table)
    assert table.recent(row, "day_copies", START, 35)[0] == 0
    assert table.last_minutes(row, START).tolist() == [[[0] * MINUTES]] * 2


# -- ledger ---------------------------------------------------------------------------------------------------------------


def test_the_ledger_knows_first_last_first_trap_and_the_open_hour_and_day() -> None:
    table = Table()
    row = row_of(table)
    fold(table, row, START + 5, 2, part=4)
    fold(table, row, START + 50, 3, part=6, traps=1)
    fold(table, row, START + 70, 4, part=8, traps=1)
    ledger = table.ledger[row[0]]
    assert (ledger[Field.FIRST_SEEN], ledger[Field.LAST_SEEN]) == (START + 5, START + 70)
    assert ledger[Field.FIRST_TRAP] == START + 50
    # hour 0 [5 --- 50 ---)[70 ---  : the stage closes the hour; here the ledger shows that the new one takes a new part
    assert (ledger[Field.HOUR], ledger[Field.HOUR_PART]) == (START // 60 + 1, 8)
    assert (ledger[Field.DAY], ledger[Field.DAY_PART]) == (START // DAY, 4)
    assert ledger[SPANS[1].counters][0] == 9


def test_late_cells_change_hours_and_days_that_are_held_and_never_minutes() -> None:
    table = Table()
    row = row_of(table)
    fold(table, row, START, 1)
    for ago, copies in ((10, 10), (47 * 60, 100), (48 * 60, 1_000), (34 * DAY, 10_000), (35 * DAY, 100_000)):
        table.fold_late(row, sums(copies), START - ago)
    assert table.recent(row, "minute_copies", START, 60)[0] == 1
    assert table.recent(row, "hour_copies", START, 48)[0] == 111
    assert table.recent(row, "day_copies", START, 35)[0] == 11_111
    assert table.ledger[row[0], Field.FIRST_SEEN] == START - 35 * DAY
    assert table.ledger[row[0], Field.LAST_SEEN] == START


def test_a_row_may_begin_with_a_late_cell() -> None:
    table = Table()
    row = row_of(table)
    table.fold_late(row, sums(4), START)
    fold(table, row, START + 3, 1)
    assert table.recent(row, "hour_copies", START + 3, 1)[0] == 5
    assert table.recent(row, "minute_copies", START + 3, 60)[0] == 1


# -- rows -----------------------------------------------------------------------------------------------------------------


def test_the_table_grows_and_keeps_what_it_holds() -> None:
    table = Table(capacity=2)
    for index in range(50):
        fold(table, table.rows_for([f"ip:{index}"], index % 32), START, index + 1)
    assert len(table) == 50
    rows = table.rows_for([f"ip:{index}" for index in range(50)], 0)
    assert table.recent(rows, "day_copies", START, 1).tolist() == list(range(1, 51))
    assert table.partition[rows].tolist() == [index % 32 for index in range(50)]


def test_a_removed_row_is_forgotten_and_its_place_is_clean_for_the_next() -> None:
    table = Table()
    row = row_of(table, "campaign:url:old")
    fold(table, row, START, 9, traps=2)
    table.learn_all([Detail("campaign:url:old", (("t", 1),), (), b"")], 3)
    table.ledger[row[0], Field.STATE] = OPEN
    table.take_changed()
    table.remove(row.tolist())
    assert len(table) == 0
    assert table.stored_by_partition()[3] == 0
    again = row_of(table, "ip:198.51.100.1", 5)
    assert again.tolist() == row.tolist(), "the place is used again"
    assert again[0] not in table.known
    assert not table.rings[again].any()
    empty = Table()
    assert (table.ledger[again] == empty.ledger[row_of(empty, "ip:198.51.100.1", 5)]).all()
    assert table.take_changed().tolist() == []


def test_buckets_are_marked() -> None:
    table = Table()
    names = ["campaign:(none)", "domain:(unauthenticated)", "domain:(null)", "ip:(other):3", "intake:3", "ip:192.0.2.1"]
    assert table.bucket[table.rows_for(names, 3)].tolist() == [True] * 5 + [False]


def test_rings_are_merged_as_of_a_minute() -> None:
    table = Table()
    rows = table.rows_for(["ip:a", "ip:b"], 0)
    (into,) = table.rows_for(["ip:(other):0"], 0).tolist()
    fold(table, rows[:1], START - 90, 1)
    fold(table, rows[1:], START - 5, 2, unwanted=2)
    fold(table, np.array([into]), START - 30, 4)
    table.merge_rings(rows, into, START)
    other = np.array([into])
    assert table.recent(other, "minute_copies", START, 60)[0] == 6
    assert table.recent(other, "hour_copies", START, 48)[0] == 7
    assert table.recent(other, "day_unwanted", START, 35)[0] == 2
    table.rings[other] = SATURATED
    table.merge_rings(rows, into, START)
    assert table.rings[into].max() == SATURATED


# -- snapshots ------------------------------------------------------------------------------------------------------------


def state_of(table: Table, name: str) -> Any:
    row = table.row_of[name]
    known = table.known.get(row)
    learned = (known.tokens, known.countries, known.registers) if known else None
    arrays = [column[row].tolist() for column in (table.rings, table.ledger, table.partition, table.kind, table.bucket)]
    return arrays, learned


def test_what_changed_is_taken_once() -> None:
    table = Table()
    row = row_of(table)
    fold(table, row, START)
    assert table.take_changed().tolist() == row.tolist()
    assert table.take_changed().tolist() == []
    table.advance(row, START)
    assert table.take_changed().tolist() == [], "a row that is already there does not change"
    table.advance(row, START + 1)
    assert table.take_changed().tolist() == row.tolist()


def test_a_snapshot_loaded_is_the_row_itself() -> None:
    table = Table()
    names = [f"campaign:url:{index}" for index in range(20)]
    rng = Random(5)
    for index, name in enumerate(names):
        row = row_of(table, name, index % 32)
        for minute in sorted(rng.sample(range(index * 5_000, index * 5_000 + 5_000), index)):
            fold(table, row, START + minute, rng.randrange(1 << 33), traps=1)
        if index % 3 == 0:
            registers = np.array([5 << 6 | 3, 9 << 6 | 1], "<u2").tobytes()
            table.learn_all([Detail(name, (("a", 3), ("b", 1)), (("DE", 2),), registers)], index % 32)
    copy = Table(capacity=1)
    for name, snapshot in table.snapshots(table.take_changed()):
        stored = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Row)
        copy.load([(name, stored)], table.partition[table.row_of[name]])
    stored_names = [name for name in names if name in copy.row_of]
    assert len(stored_names) == 20, "the first has no volume, but is known"
    for name in stored_names:
        assert state_of(copy, name) == state_of(table, name)
    assert copy.take_changed().tolist() == [], "what was loaded need not be stored"
    assert copy.stored_by_partition().tolist() == [1] * 20 + [0] * 12


# -- known ----------------------------------------------------------------------------------------------------------------


def test_a_stream_of_names_is_cut_to_the_leading_ones() -> None:
    known = Known()
    for index in range(500):
        known.merge(Detail("campaign:x", (("html:x", 100), (f"url:{index}", 1)), (), b""))
        assert len(known.tokens) <= Known.KEPT
    assert known.top()[0][0] == ("html:x", 50_000)


def test_the_highest_rank_of_a_register_is_kept() -> None:
    known = Known()
    for rank in (3, 9, 4):
        known.merge(Detail("campaign:x", (), (), np.array([7 << 6 | rank], "<u2").tobytes()))
    assert known.registers == {7: 9}
    assert known.snapshot("campaign:x").registers == np.array([7 << 6 | 9], "<u2").tobytes()


def packed(ranks: dict[int, int]) -> bytes:
    return np.array(sorted(register << 6 | rank for register, rank in ranks.items()), "<u2").tobytes()


@pytest.mark.parametrize("registers", [3, 30, 33, 1_000])
def test_registers_few_or_many_keep_each_its_highest_rank_whatever_the_order(registers: int) -> None:
    rng = Random(registers)
    expected: dict[int, int] = {}
    known = Known()
    for _ in range(200):
        seen = {rng.randrange(registers): rng.randint(1, 54) for _ in range(rng.randint(0, 20))}
        known.merge(Detail("campaign:x", (), (), packed(seen)))
        expected |= {register: max(rank, expected.get(register, 0)) for register, rank in seen.items()}
    assert known.registers == expected
    assert known.snapshot("campaign:x").registers == packed(expected)
    again = Known()
    again.merge(known.snapshot("campaign:x"))
    assert again.registers == expected


def test_rows_folded_together_move_on_each_to_its_own_last_minute() -> None:
    # a  [30 ---- hour ---- 65)      b is folded with it up to minute 119, but a stands at 65: its minute 30 is still recent
    # b                     [119)
    table = Table()
    rows = table.rows_for(["ip:a", "ip:b"], 3)
    fold(table, rows[:1], START + 30, 4)
    counters = np.concatenate((sums(1), sums(2), sums(8)), axis=1)
    minutes = np.array([START + 60, START + 65, START + 119])
    table.fold(np.array([rows[0], rows[0], rows[1]]), minutes, counters, np.zeros(32, dtype=np.int64))
    assert table.ledger[rows, Field.CLOCK].tolist() == [START + 65, START + 119]
    assert table.recent(rows[:1], "minute_copies", START + 66, 60).tolist() == [7]
    assert table.window(rows[:1], "minute_copies", START + 65, 60).tolist() == [7]
    assert table.recent(rows, "hour_copies", START + 119, 1).tolist() == [3, 8]
    assert table.recent(rows, "day_copies", START + 119, 1).tolist() == [7, 8]
