"""The leaders of the moment."""

import numpy as np

from streams.incident import OPEN
from streams.layout import Field
from streams.leaders import RANKED, TOLD, leaders_of, rank
from streams.rules import CRITICAL
from streams.table import Table
from streams.topics import partition_of
from streams.volume import COUNTERS, Leader

MINUTE = 29_847_600


def volume(table: Table, entity: str, minute: int, copies: int, unwanted: int = 0) -> int:
    rows = table.rows_for([entity], partition_of(entity))
    counters = np.zeros((len(COUNTERS), 1), dtype=np.int64)
    counters[COUNTERS.index("copies")], counters[COUNTERS.index("unwanted")] = copies, unwanted
    table.fold(rows, np.array([minute]), counters, np.zeros(32, dtype=np.int64))
    return int(rows[0])


def told(table: Table) -> dict[tuple[int, str], tuple[Leader, ...]]:
    return leaders_of(table, rank(table, MINUTE), MINUTE)


def ranked(table: Table, kind: str) -> list[tuple[str, int, int]]:
    return [(table.names[row], copies, unwanted) for row, copies, unwanted in rank(table, MINUTE)[kind].leading]


def test_most_unwanted_first_and_then_most_copies() -> None:
    table = Table()
    volume(table, "ip:a", MINUTE, 1_000)
    volume(table, "ip:b", MINUTE, 10, 10)
    volume(table, "ip:c", MINUTE, 500, 10)
    assert ranked(table, "ip") == [("ip:c", 500, 10), ("ip:b", 10, 10), ("ip:a", 1_000, 0)]


def test_each_leader_stands_under_its_partition_and_kind() -> None:
    table = Table()
    for entity in ("campaign:url:a", "account:a", "domain:a.test", "ip:a", "net:a"):
        volume(table, entity, MINUTE, 1)
    found = told(table)
    assert {(partition, kind): leader.entity for (partition, kind), (leader,) in found.items()} == {
        (partition_of(entity), entity.partition(":")[0]): entity
        for entity in ("campaign:url:a", "account:a", "domain:a.test", "ip:a", "net:a")
    }


def test_only_the_last_hour_leads() -> None:
    # [--- 60 minutes ---) ends with MINUTE
    table = Table()
    volume(table, "ip:old", MINUTE - 60, 9)
    volume(table, "ip:just", MINUTE - 59, 9)
    assert ranked(table, "ip") == [("ip:just", 9, 0)]


def test_no_more_are_ranked_and_told_than_a_screen_holds() -> None:
    table = Table()
    for index in range(100):
        volume(table, f"ip:{index}", MINUTE, index + 1)
    assert [copies for _, copies, _ in ranked(table, "ip")] == list(range(100, 100 - RANKED, -1))
    assert rank(table, MINUTE)["ip"].live == 100
    leaders = [leader.copies_60m for partition in told(table).values() for leader in partition]
    assert sorted(leaders, reverse=True) == list(range(100, 100 - TOLD, -1))


def test_all_intake_is_nobody_and_leads_nothing() -> None:
    table = Table()
    table.rows_for(["intake:3"], 3)
    counters = np.full((len(COUNTERS), 1), 5)
    table.fold(table.rows_for(["intake:3"], 3), np.array([MINUTE]), counters, np.zeros(32, dtype=np.int64))
    assert told(table) == {}


def test_a_leader_shows_its_pace_its_last_hour_and_its_incident() -> None:
    table = Table()
    row = volume(table, "ip:a", MINUTE - 10, 3, 2)
    volume(table, "ip:a", MINUTE, 7, 5)
    ((_, leaders),) = told(table).items()
    (leader,) = leaders
    assert leader.month_run_rate == 7 * 720
    assert leader.unwanted_by_minute == (0,) * 49 + (2,) + (0,) * 9 + (5,)
    assert (leader.tier, leader.severity) == (0, None)
    table.ledger[row, [Field.STATE, Field.SEVERITY, Field.TIER]] = OPEN, CRITICAL, 2
    ((leader,),) = told(table).values()
    assert (leader.tier, leader.severity) == (1_000_000, "critical")
