"""The ring's world: what it promises to whoever measures with it."""

from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from producers.errors import UsageError
from producers.event import MailEvent, check
from producers.publish import Batch
from producers.sources.ring_cast import OUR_DOMAIN, RING_HTML
from producers.sources.ring_hour import OUTCOMES
from producers.sources.ring_truth import Truth, tell
from producers.sources.scenario import DISORDER_MS, HOUR_MS, Paced, Parameters, Position, RingScenario, World
from tests import oracle

SMALL = Parameters(seed=7, days=2, events=12_000, trap_hits=900, senders=120, bots=300)
FAR_FUTURE_MS = 1 << 46


@pytest.fixture(scope="module")
def world() -> World:
    return World(SMALL)


@pytest.fixture(scope="module")
def records(world: World) -> list[bytes]:
    return [record for batch in RingScenario(world).read(None) for record in batch.records]


@pytest.fixture(scope="module")
def events(records: list[bytes]) -> list[MailEvent]:
    return [msgspec.json.decode(record, type=MailEvent) for record in records]


@pytest.fixture(scope="module")
def truth(world: World) -> Truth:
    return tell(world)


def test_the_truth_of_the_story_is_what_the_oracle_counts(truth: Truth, records: list[bytes]) -> None:
    counted = oracle.count((record, FAR_FUTURE_MS) for record in records)
    assert not counted.refused
    assert counted.totals == truth.entities
    assert counted.events == truth.events == SMALL.events + SMALL.trap_hits


def test_every_kind_of_entity_and_every_counter_is_exercised(truth: Truth) -> None:
    kinds = {entity.partition(":")[0] for entity in truth.entities}
    assert kinds == {"campaign", "account", "domain", "ip", "net"}
    for counter in oracle.COUNTERS:
        assert any(counters[counter] for counters in truth.entities.values()), counter
    for name in ("campaign:(none)", "domain:(null)", "domain:(unauthenticated)", "domain:example.co.uk"):
        assert name in truth.entities
    assert any(name.startswith("campaign:declared:") for name in truth.entities)
    assert any(name.startswith("net:2001:db8:") and name.endswith("::/48") for name in truth.entities)


def test_every_event_keeps_the_contract(events: list[MailEvent]) -> None:
    for event in events:
        check(event)
    assert len({event.id for event in events}) == len(events)


def test_the_traps_catch_the_promised_number_and_only_the_ring(events: list[MailEvent], truth: Truth) -> None:
    hits = [event for event in events if event.disposition == "trap"]
    assert len(hits) == SMALL.trap_hits
    assert all(hit.tokens[0] == RING_HTML and hit.copies == 1 and hit.sender_domain is None for hit in hits)
    assert {hit.source.type for hit in hits} == {"mailbox"}
    assert truth.entities[truth.ring.campaign]["traps"] == truth.ring.trap_hits == SMALL.trap_hits


def test_the_ring_changes_everything_but_the_structure_of_its_html(events: list[MailEvent]) -> None:
    ring = [event for event in events if RING_HTML in event.tokens]
    assert len({event.country for event in ring}) == 9
    assert len({event.ip for event in ring}) > 200
    assert len({event.tokens[1] for event in ring}) > 50
    assert len({event.tokens[2] for event in ring}) == 3
    forging_us = [event for event in ring if event.from_domain == OUR_DOMAIN]
    assert forging_us
    assert all(event.auth is not None and event.auth.dmarc == "fail" for event in forging_us)
    refused = [event for event in ring if event.disposition == "rejected"]
    assert 0 < len(refused) < len(ring) / 10


def test_the_default_world_is_the_one_the_documents_speak_of() -> None:
    world = World(Parameters())
    assert world.parameters.start_ms == 1_790_812_800_000  # 2026-10-01T00:00:00Z
    assert world.hours == 21 * 24
    assert world.true_copies == 225_000_000
    assert sum(int(np.sum(part)) for part in (world._trapped, world._refused, world._background)) == 645_000
    assert int(np.sum(world._trapped)) == 45_000


def test_the_truth_projects_the_ring_to_a_month_and_its_tier(truth: Truth) -> None:
    assert truth.ring.true_copies == SMALL.trap_hits * 5_000
    assert truth.ring.true_copies_a_month == truth.ring.true_copies * 30 // SMALL.days
    assert sum(truth.ring.true_copies_by_hour) == truth.ring.true_copies
    assert len(truth.ring.true_copies_by_hour) == SMALL.days * 24
    assert truth.ring.tier == 10_000_000
    assert truth.ring.severity == "critical"


def test_nobody_but_the_ring_must_page(truth: Truth, events: list[MailEvent]) -> None:
    quiet = set(truth.must_not_page)
    of_ring = {f"ip:{event.ip}" for event in events if RING_HTML in event.tokens} | {truth.ring.campaign}
    assert not quiet & of_ring
    assert quiet | of_ring | {f"net:{ip[3:].rpartition('.')[0]}.0/24" for ip in of_ring if ip.startswith("ip:")} | {
        "campaign:(none)",
        "domain:(null)",
        "domain:(unauthenticated)",
    } == set(truth.entities)


def test_no_background_entity_comes_near_a_hundred_thousand_unwanted_a_month() -> None:
    """A 95 % Poisson lower bound above the line takes 34 copies in ten minutes, 164 in an hour, or 3,450 in a day."""
    world = World(msgspec.structs.replace(SMALL, events=57_000, days=2))  # as many a day as by default
    hours = [world.hour(number) for number in range(world.hours)]
    time_ms, way, face, content, outcome, copies, _ = (np.concatenate(column) for column in zip(*hours, strict=True))
    unwanted = np.array(["unwanted" in it.adds for it in OUTCOMES])[outcome]
    people = world.cast
    groups = (
        ([it.ip_entity for it in people.ways], way),
        ([it.net_entity for it in people.ways], way),
        ([it.domain_entity for it in people.faces], face),
        ([it.account for it in people.faces], face),
        ([it.campaign_entity for it in people.contents], content),
    )
    nobody = {None, "domain:(unauthenticated)", "domain:(null)", "campaign:(none)", f"campaign:{RING_HTML}"}
    for names, chosen in groups:
        for minutes, line in ((10, 34), (60, 164), (1440, 3_450)):
            window = time_ms // (minutes * 60_000)
            sums: Counter[tuple[str | None, int]] = Counter()
            for index in np.flatnonzero(unwanted).tolist():
                sums[names[int(chosen[index])], int(window[index])] += int(copies[index])
            most = max((total for (name, _), total in sums.items() if name not in nobody), default=0)
            assert most * 2 < line, (minutes, most)  # twice: a rolling window may hold two halves


def test_events_come_in_time_order_but_for_a_few_seconds(events: list[MailEvent]) -> None:
    latest, disordered = 0, 0
    for event in events:
        assert event.time_ms > latest - DISORDER_MS
        disordered += event.time_ms < latest
        latest = max(latest, event.time_ms)
    assert disordered
    assert SMALL.start_ms <= min(event.time_ms for event in events)
    assert latest < SMALL.start_ms + SMALL.days * 24 * HOUR_MS


def test_no_hour_is_silent_and_days_are_busier_than_nights(events: list[MailEvent]) -> None:
    by_hour = Counter(event.time_ms // HOUR_MS for event in events)
    assert len(by_hour) == SMALL.days * 24
    assert by_hour[SMALL.start_ms // HOUR_MS + 14] > 2 * by_hour[SMALL.start_ms // HOUR_MS + 2]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(records: list[bytes]) -> None:
    again = [record for batch in RingScenario(World(SMALL)).read(None) for record in batch.records]
    assert again == records
    other = RingScenario(World(msgspec.structs.replace(SMALL, seed=8)))
    assert next(iter(other.read(None))).records[:100] != records[:100]
    assert other.key != RingScenario(World(SMALL)).key


def test_a_batch_ends_after_five_thousand_events_or_its_span_of_time(world: World) -> None:
    assert [len(batch.records) for batch in RingScenario(world).read(None)] == [5_000, 5_000, 2_900]
    span_ms = 20 * 60_000
    for batch in RingScenario(world, span_ms).read(None):
        times = [msgspec.json.decode(record, type=MailEvent).time_ms for record in batch.records]
        assert max(times) - min(times) < span_ms + DISORDER_MS
        assert batch.lines == len(times)


def test_it_resumes_from_any_position_with_the_same_bytes(world: World) -> None:
    batches = list(RingScenario(world, 45 * 60_000).read(None))
    for before, _ in pairwise(range(len(batches))):
        resumed = next(RingScenario(world, 45 * 60_000).read(batches[before].position))
        assert resumed == batches[before + 1]
    assert list(RingScenario(world).read(batches[-1].position)) == []


def test_a_position_of_another_world_is_refused(world: World) -> None:
    elsewhere = Position(8, msgspec.structs.replace(SMALL, seed=8), 3, 0)
    with pytest.raises(UsageError, match="other parameters"):
        next(RingScenario(world).read(msgspec.json.encode(elsewhere)))
    with pytest.raises(UsageError, match="not written by this source"):
        next(RingScenario(world).read(b'{"offset": 4}'))


@pytest.mark.parametrize(
    "changes", [{"events": 2_000_001}, {"seed": -1}, {"days": 0}, {"capture_share": 0.0}, {"senders": 3}, {"bots": 0}]
)
def test_a_world_that_cannot_be_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="scenario ring: "):
        World(msgspec.structs.replace(SMALL, **changes))


def test_a_world_is_not_published_before_it_happens(world: World) -> None:
    start_ms, end_ms = SMALL.start_ms, SMALL.start_ms + 2 * 24 * HOUR_MS
    world.check_past(end_ms, None)
    world.check_past(start_ms, 1.0)
    world.check_past(start_ms + HOUR_MS, 1.02)
    for now_ms, speed in ((end_ms - 1, None), (start_ms - 1, 0.5), (start_ms + HOUR_MS, 1.1)):
        with pytest.raises(UsageError, match="at least 2 days ago"):
            world.check_past(now_ms, speed)


def test_a_paced_batch_comes_when_its_last_event_has_happened(world: World) -> None:
    """Two days at 3,600 event seconds a second, publishing for free: 48 seconds of a clock that only sleep moves."""
    now_s = [100.0]

    def sleep(wait_s: float) -> None:
        now_s[0] += wait_s

    source = RingScenario(world, HOUR_MS)
    came: list[tuple[float, Batch]] = [
        (now_s[0], batch) for batch in Paced(source, 3_600, lambda: now_s[0], sleep).read(None)
    ]
    assert [batch for _, batch in came] == list(source.read(None))
    for (earlier_s, _), (later_s, _) in pairwise(came):
        assert earlier_s <= later_s < earlier_s + 2.1
    assert 46 < now_s[0] - 100 < 48.1
