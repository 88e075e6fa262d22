"""COUNT's cells through TRACK's core: facts equal the oracle, however the log was read and whatever crashed."""

from collections.abc import Mapping, Sequence
from random import Random

import msgspec
import pytest

from producers.errors import AuditFailure
from producers.event import MailEvent
from streams.incident import Signal
from streams.rollup import Rollup
from streams.topics import partition_of
from streams.volume import COUNTERS
from tests import oracle
from tests.builders import DAY_MS, HOUR_MS, MINUTE_MS, NOON_MS, encoded, mail, spam, trap_hit
from tests.world import ALL_PARTITIONS, LIMITS, Counting, Totals, Tracking, counted, story_of, totals_of

RING = "campaign:html:ring"


def oracle_totals(events: Sequence[MailEvent]) -> Totals:
    facts = oracle.count((encoded(event), event.time_ms + 10) for event in events).facts()
    return {key: tuple(counters[name] for name in COUNTERS) for key, counters in facts.items()}


def day_of_mail(seed: int, events: int = 600, span_ms: int = 2 * HOUR_MS, names: int = 30) -> list[MailEvent]:
    """Honest and unwanted mail of some senders, and a ring that traps catch for a few hours; about in order of time."""
    rng = Random(seed)
    found = []
    for index in range(events):
        time_ms = NOON_MS + index * span_ms // events - (rng.randrange(40_000) if rng.random() < 0.3 else 0)
        ip = f"10.0.{rng.randrange(3)}.{rng.randrange(6)}"
        campaign = f"html:c{rng.randrange(names)}"
        if rng.random() < 0.2 and span_ms / 4 < time_ms - NOON_MS < span_ms / 2:
            found.append(trap_hit(time_ms, "html:ring", ip=ip, country="BR"))
        elif rng.random() < 0.3:
            found.append(
                spam(time_ms, campaign, ip=ip, copies=rng.randrange(1, 5), account="ann" if index % 9 else None)
            )
        else:
            found.append(mail(time_ms, ip=ip, sender_domain=f"d{rng.randrange(8)}.test", tokens=(f"url:{campaign}",)))
    return found


def dealt(events: Sequence[MailEvent], inputs: int, seed: int = 0) -> dict[int, list[MailEvent]]:
    rng = Random(seed)
    logs: dict[int, list[MailEvent]] = {partition: [] for partition in range(inputs)}
    for event in events:
        logs[rng.randrange(inputs)].append(event)
    return logs


def played(inputs: Mapping[int, Sequence[MailEvent]], seed: int = 0) -> Tracking:
    """The whole way, read at one go."""
    return Tracking(counted(inputs, Random(seed)), len(inputs)).run()


# -- facts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "seed"), [(1, 1), (2, 2), (5, 3)])
def test_facts_equal_the_oracle_for_any_batching_and_any_interleaving(inputs: int, seed: int) -> None:
    events = day_of_mail(seed)
    log = counted(dealt(events, inputs, seed), Random(seed))
    tracking = Tracking(log, inputs).run(Random(seed + 100))
    assert totals_of(tracking.facts) == oracle_totals(events)


def test_facts_equal_the_oracle_over_days_with_long_silences() -> None:
    events = [
        mail(NOON_MS + day * DAY_MS + minute * MINUTE_MS)
        for day in (0, 1, 4, 11)
        for minute in (0, 59, 60, 719, 720, 1_000)
    ]
    assert totals_of(played({0: events}).facts) == oracle_totals(events)


def test_an_hour_is_told_when_it_is_over_and_not_before() -> None:
    # hour 12 [0-----------------------60)  grace [60---61)
    counting = Counting({0: [mail(), mail(NOON_MS + 30 * MINUTE_MS), mail(NOON_MS + 61 * MINUTE_MS)]})
    tracking = Tracking({p: [] for p in ALL_PARTITIONS})
    told = []
    for _ in range(3):
        counting.read(0, 1)
        put(tracking, counting.flush())
        tracking.closer.advance()
        tracking.commit()
        told.append(sorted({fact.span for fact in tracking.facts}))
    assert told == [[], [], ["hour"]]
    assert {fact.start_ms for fact in tracking.facts} == {NOON_MS}


def put(tracking: Tracking, records: list[bytes]) -> None:
    """Produces records, and lets TRACK take them."""
    assert isinstance(tracking.log, dict)
    for value in records:
        partition = msgspec.msgpack.decode(value, type=Rollup).partition
        tracking.log[partition].append(value)
        tracking.take(partition)


def test_at_the_end_of_all_input_open_hours_are_told_and_revised_when_more_comes() -> None:
    # [0---- idle: told, revision 0      10----- idle: told again, revision 1, same part
    first, second = mail(copies=2), mail(NOON_MS + 10 * MINUTE_MS, copies=3)
    counting = Counting({0: [first, second]})
    tracking = Tracking({p: [] for p in ALL_PARTITIONS})
    for _ in range(2):
        counting.read(0, 1)
        put(tracking, counting.flush(idle=[0]))
        tracking.closer.advance()
        tracking.commit()
    own = [fact for fact in tracking.facts if fact.entity == "ip:192.0.2.1" and fact.span == "hour"]
    assert [(fact.revision, fact.copies) for fact in own] == [(0, 2), (1, 5)]
    assert len({fact.part for fact in own}) == 1
    assert totals_of(tracking.facts) == oracle_totals([first, second])


def test_idleness_told_again_tells_no_fact_again() -> None:
    counting = Counting({0: [mail()]})
    tracking = Tracking({p: [] for p in ALL_PARTITIONS})
    counting.read(0, 1)
    put(tracking, counting.flush(idle=[0]))
    tracking.closer.advance()
    tracking.commit()
    told = len(tracking.facts)
    put(tracking, counting.flush(idle=[0]))
    tracking.closer.advance()
    tracking.commit()
    assert len(tracking.facts) == told


# -- late -----------------------------------------------------------------------------------------------------------------


def with_late(ago_ms: int) -> list[MailEvent]:
    """Mail of an hour; the last comes `ago_ms` after the end of its minute."""
    ordinary = [mail(NOON_MS + index * MINUTE_MS) for index in range(60)]
    return [*ordinary, mail(NOON_MS + HOUR_MS - ago_ms, copies=7)]


@pytest.mark.parametrize("ago_ms", [3 * MINUTE_MS, 2 * HOUR_MS, 20 * HOUR_MS, 47 * HOUR_MS])
def test_a_late_cell_revises_hours_and_days_that_are_held(ago_ms: int) -> None:
    events = with_late(ago_ms)
    tracking = played({0: events})
    assert totals_of(tracking.facts) == oracle_totals(events)
    place = tracking.closer.partitions[partition_of("campaign:(none)")]
    assert place.late_copies == 7
    assert place.too_late_copies == {"hour": 0, "day": 0}


def test_a_cell_later_than_48_hours_enters_its_day_only_and_later_than_35_days_nothing() -> None:
    for ago_ms, hours, days in ((50 * HOUR_MS, 7, 0), (30 * DAY_MS, 7, 0), (36 * DAY_MS, 7, 7)):
        events = with_late(ago_ms)
        tracking = Tracking(counted({0: events}, Random(0), most=5)).run()
        late = events[-1].time_ms
        missing = {
            key: value for key, value in oracle_totals(events).items() if totals_of(tracking.facts).get(key) != value
        }
        spans = {("hour", late - late % HOUR_MS)} | ({("day", late - late % DAY_MS)} if days else set())
        assert {(span, start) for _, span, start in missing} == spans
        too_late = tracking.closer.partitions[partition_of("campaign:(none)")].too_late_copies
        assert too_late == {"hour": hours, "day": days}


def test_late_mail_is_never_judged() -> None:
    # in time: a trickle; late: a flood of one minute, an hour ago
    ordinary = [mail(NOON_MS + index * MINUTE_MS) for index in range(180)]
    flood = [spam(NOON_MS + HOUR_MS, copies=1_000, ip="10.9.9.9", country="BR") for _ in range(50)]
    assert played({0: ordinary + flood + [mail(NOON_MS + 200 * MINUTE_MS)]}).signals == []
    in_time = sorted(ordinary + flood, key=lambda event: event.time_ms)
    assert played({0: in_time}).signals != []


# -- time -----------------------------------------------------------------------------------------------------------------


def test_minutes_close_in_order_though_partitions_are_read_at_different_speed() -> None:
    events = day_of_mail(3)
    log = counted({0: events}, Random(3))
    whole = Tracking(log).run()
    uneven = Tracking(log)
    ring = partition_of(RING)
    for partitions in ([p for p in ALL_PARTITIONS if p % 3 == 0], [ring], ALL_PARTITIONS):
        for most in (3, 5, 1_000):
            for partition in set(partitions) & set(uneven.left()):
                uneven.take(partition, most)
            uneven.closer.advance()
        uneven.commit()
    assert totals_of(uneven.facts) == totals_of(whole.facts)
    assert story_of(uneven.signals) == story_of(whole.signals)
    for entity in {signal.entity for signal in uneven.signals}:
        times = [signal.time_ms for signal in uneven.signals if signal.entity == entity]
        assert times == sorted(times)


def test_a_rollup_that_skips_or_repeats_offsets_stops_the_count() -> None:
    log = counted({0: day_of_mail(1, events=500)}, Random(1), most=50)
    for broken in ([*log[4][:2], *log[4][3:]], [*log[4][:2], log[4][1]]):
        tracking = Tracking({**log, 4: broken}, partitions=[4])
        with pytest.raises(AuditFailure, match="mail-events partition 0"):
            tracking.take(4, len(broken))


# -- crashes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_replay_after_crashes_equals_life(seed: int) -> None:
    inputs = 1 + seed % 3
    events = day_of_mail(seed)
    late = [msgspec.structs.replace(event, time_ms=event.time_ms - 2 * HOUR_MS) for event in events[::50]]
    log = counted(dealt([*events, *late], inputs, seed), Random(seed), most=200)
    life = Tracking(log, inputs).run()
    crashed = Tracking(log, inputs).run(Random(seed), most=6, crash=0.2)
    assert story_of(crashed.signals) == story_of(life.signals)
    assert totals_of(crashed.facts) == totals_of(life.facts)
    ring = [signal for signal in life.signals if signal.entity == RING]
    assert ring[0].change == "opened"
    assert ids(crashed.signals) == ids(life.signals)


def ids(signals: Sequence[Signal]) -> dict[tuple[str, int], str]:
    """(incident, seq) -> change: one content each."""
    found: dict[tuple[str, int], str] = {}
    for signal in signals:
        assert (signal.incident, signal.seq) not in found, "an incident's seq is told once"
        found[signal.incident, signal.seq] = signal.change
    return found


def test_the_marker_keeps_what_waits() -> None:
    # rollups of minutes 0..9 are taken, the watermark stands at 8: cells of 8 and 9 wait and are read again
    counting = Counting({0: [mail(NOON_MS + index * MINUTE_MS) for index in range(10)]})
    tracking = Tracking({p: [] for p in ALL_PARTITIONS})
    for _ in range(10):
        counting.read(0, 1)
        put(tracking, counting.flush())
    tracking.closer.advance()
    tracking.commit()
    partition = partition_of("ip:192.0.2.1")
    place = tracking.closer.partitions[partition]
    assert place.next_offset - place.waits_from == 2
    tracking.restore()
    put(tracking, counting.flush(idle=[0]))
    tracking.closer.advance()
    tracking.commit()
    assert totals_of(tracking.facts)["ip:192.0.2.1", "hour", NOON_MS][0] == 10


def test_partitions_may_move_to_another_worker() -> None:
    events = day_of_mail(4)
    log = counted({0: events}, Random(4), most=100)
    life = Tracking(log).run()
    old = Tracking(log)
    for partition in ALL_PARTITIONS:
        old.take(partition, len(log[partition]) // 2)
    old.closer.advance()
    old.commit()
    moved = range(10, 20)
    new = Tracking(log, partitions=moved)
    for partition in moved:
        new.changelog[partition], new.markers[partition] = old.changelog.pop(partition), old.markers[partition]
    old.closer.drop(moved)
    new.restore()
    for worker in (old, new):
        for partition in worker.left():
            worker.take(partition, 1_000)
        worker.closer.advance()
        worker.commit()
    assert totals_of([*old.facts, *new.facts]) == totals_of(life.facts)
    assert story_of([*old.signals, *new.signals]) == story_of(life.signals)


# -- bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [0.0, 0.2])
def test_sums_equal_the_oracle_whatever_was_evicted(crash: float) -> None:
    events = day_of_mail(7, events=1_000, names=200)
    log = counted({0: events}, Random(7), most=100)
    tracking = Tracking(log, max_rows=60).run(Random(7), most=6, crash=crash)
    assert len(tracking.closer.table) < 200, "evicted rows are gone, save those for which cells wait and open incidents"
    assert any("(other)" in name for name in tracking.closer.table.row_of)
    assert totals_of(tracking.facts) == oracle_totals(events)


def test_a_row_with_an_open_incident_is_never_evicted() -> None:
    events = day_of_mail(8, names=200)
    tracking = Tracking(counted({0: events}, Random(8), most=100), max_rows=20).run(Random(8), most=6)
    life = played({0: events}, 8)
    assert [entry for entry in story_of(tracking.signals) if entry[0] == RING] == [
        entry for entry in story_of(life.signals) if entry[0] == RING
    ]


def test_a_row_unseen_for_35_days_is_forgotten_and_its_tombstone_told() -> None:
    once = mail(ip="203.0.113.50")
    events = [once, *(mail(NOON_MS + day * DAY_MS) for day in range(1, 38))]
    log = counted({0: events}, Random(1), most=2)
    tracking = Tracking(log).run(Random(1), most=3)
    stored = {name for rows in tracking.changelog.values() for name in rows}
    assert "ip:203.0.113.50" not in stored
    assert "ip:203.0.113.50" not in tracking.closer.table.row_of
    assert "ip:192.0.2.1" in stored
    assert totals_of(tracking.facts) == oracle_totals(events)


def test_parts_never_collide_when_an_entity_goes_and_comes_back() -> None:
    tracking = Tracking(counted({0: day_of_mail(9, names=300)}, Random(9), most=60), max_rows=60)
    tracking.run(Random(9), most=4, crash=0.2, commit=0.9)
    lives: dict[tuple[str, str, int], set[int]] = {}
    for fact in tracking.facts:
        lives.setdefault((fact.entity, fact.span, fact.start_ms), set()).add(fact.part)
    assert max(map(len, lives.values())) > 2, "the case must make rows come back"
    totals_of(tracking.facts)  # contradicts itself where two lives share a part


# -- signals --------------------------------------------------------------------------------------------------------------


def test_a_ring_is_opened_told_each_hour_and_resolved() -> None:
    # hits [22:00----23:00)   the trap rule looks at this day and the last [next day----)   quiet for an hour: resolved at 01:00
    start = NOON_MS + 10 * HOUR_MS
    hits = [trap_hit(start + index * MINUTE_MS, "html:ring") for index in range(60)]
    after = [mail(start + HOUR_MS + index * 10 * MINUTE_MS) for index in range(6 * 28)]
    log = counted({0: [*hits, *after]}, Random(0))
    ring = [signal for signal in Tracking(log, quiet_minutes=60).run().signals if signal.entity == RING]
    assert ring[0].change == "opened"
    assert ring[0].opened_ms <= start + 10 * MINUTE_MS
    assert (ring[-1].change, ring[-1].time_ms) == ("resolved", NOON_MS + 37 * HOUR_MS)
    assert [signal.seq for signal in ring] == list(range(1, len(ring) + 1))
    hours = [signal.time_ms for signal in ring if signal.change == "volume"]
    assert hours == [start + (hour + 1) * HOUR_MS for hour in range(26)]
    assert ring[-1].volume.unwanted_60m == 0
    assert len({signal.incident for signal in ring}) == 1


def test_what_a_signal_knows_of_a_ring() -> None:
    hits = [
        trap_hit(NOON_MS + index * 30_000, "html:ring", ip=f"10.0.{index}.1", country=("BR", "US")[index % 2])
        for index in range(120)
    ]
    opened = next(signal for signal in played({0: hits}).signals if signal.entity == RING)
    assert opened.kind == "campaign"
    assert opened.first_seen_ms == NOON_MS
    assert opened.volume.month_trap is not None
    assert opened.volume.month_trap.low < opened.volume.month_trap.copies < opened.volume.month_trap.high
    assert opened.volume.month_trap.observed == opened.volume.trap_hits_30d
    assert {count.name for count in opened.evidence.countries} == {"BR", "US"}
    assert opened.evidence.tokens[0].name == "html:ring"
    assert [hit.rule for hit in opened.rules]
    assert LIMITS.capture_share is not None


def test_nobody_in_particular_is_never_the_base_of_an_incident() -> None:
    flood = [spam(NOON_MS + index * 1_000, tokens=(), ip=None, copies=1_000) for index in range(2_000)]
    tracking = played({0: flood})
    assert totals_of(tracking.facts)["campaign:(none)", "hour", NOON_MS][0] == 2_000_000
    assert tracking.signals == []
