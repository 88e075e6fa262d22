"""Laws that hold for every input: sums, lateness, snapshots, rules, lives, and replay."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.event import MailEvent
from streams.accumulate import Accumulator
from streams.incident import NO_INCIDENT, OPEN, RESOLVED, Life, incident_id, step
from streams.rollup import ON_TIME, Detail, InputProgress, Rollup
from streams.rules import CRITICAL, TIERS, Columns, Limits, evaluate, may_speak
from streams.table import Row, Table
from streams.volume import COUNTERS
from tests import oracle
from tests.builders import FORGED, HOUR_MS, LOG, MINUTE_MS, NOON_MS, encoded, mail, trap_hit
from tests.world import Tracking, cells_in, counted, story_of, totals_of

few = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
some = settings(few, max_examples=40)
many = settings(few, max_examples=100)

domains = st.sampled_from([None, "a.test", "mail.a.test", "b.co.uk"])
addresses = st.sampled_from([None, "192.0.2.1", "192.0.2.9", "198.51.100.7", "2001:db8::1", "::ffff:192.0.2.1"])
tokens = st.lists(st.sampled_from(["html:a", "url:b", "subject:c", "d"]), max_size=3).map(tuple)


@st.composite
def events(draw: st.DrawFn) -> MailEvent:
    return mail(
        NOON_MS + draw(st.integers(-5 * MINUTE_MS, 70 * MINUTE_MS)),
        disposition=draw(
            st.sampled_from(["accepted", "rejected", "trap", "deferred", "attempt", "bounced", "complaint"])
        ),
        verdict=draw(st.sampled_from(["spam", "phish", "malware", "ham", "unknown"])),
        reason=draw(st.sampled_from([None, "content", "policy", "relay"])),
        copies=draw(st.integers(1, 1_000_000)),
        size_bytes=draw(st.integers(0, 1 << 40)),
        sender=draw(st.sampled_from([None, "", "x@y.test"])),
        sender_domain=draw(domains),
        account=draw(st.sampled_from([None, "ann", "bob"])),
        ip=draw(addresses),
        country=draw(st.sampled_from([None, "DE", "BR"])),
        campaign=draw(st.sampled_from([None, None, "c1"])),
        tokens=draw(tokens),
        auth=draw(st.sampled_from([None, FORGED])),
        source=draw(st.sampled_from([mail().source, LOG])),
    )


def flushed(batches: Sequence[Sequence[MailEvent]], late: Sequence[Sequence[bool]] | None = None) -> list[Rollup]:
    sums = Accumulator()
    for index, batch in enumerate(batches):
        if batch:
            flags = np.array(late[index] if late else [False] * len(batch))
            after = np.where(flags, NOON_MS // MINUTE_MS + 90, ON_TIME)
            sums.add(sums.prepare(batch), np.ones(len(batch), dtype=np.bool_), after)
    return [record for records in sums.drain() for record in records]


def split(items: Sequence[MailEvent], cuts: Sequence[int]) -> list[Sequence[MailEvent]]:
    places = sorted(cut % (len(items) + 1) for cut in cuts)
    return [items[a:b] for a, b in zip([0, *places], [*places, len(items)], strict=True)]


def known_in(records: Sequence[Rollup]) -> dict[str, Detail]:
    return {detail.entity: detail for record in records for detail in record.details}


# -- sums -----------------------------------------------------------------------------------------------------------------


@some
@given(st.lists(events(), min_size=1, max_size=40))
def test_cells_equal_a_plain_dictionary(given_events: list[MailEvent]) -> None:
    expected: dict[tuple[str, int, bool], dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTERS, 0))
    for event in given_events:
        as_read = msgspec.json.decode(encoded(event))
        counters = oracle.counters_of(as_read)
        for entity in oracle.entities_of(as_read):
            for name, value in counters.items():
                expected[entity, event.time_ms // MINUTE_MS, False][name] += value
    found = {
        key: value for key, value in cells_in(flushed([given_events])).items() if key[0].partition(":")[0] != "intake"
    }
    assert found == {key: tuple(sums.values()) for key, sums in expected.items() if any(sums.values())}


@some
@given(st.lists(events(), min_size=1, max_size=40), st.lists(st.integers(0, 100), max_size=4), st.randoms())
def test_neither_order_nor_batches_change_a_cell(given_events: list[MailEvent], cuts: list[int], rng: Random) -> None:
    shuffled = rng.sample(given_events, len(given_events))
    one, other = flushed([given_events]), flushed(split(shuffled, cuts))
    assert cells_in(one) == cells_in(other)
    assert known_in(one) == known_in(other)


@some
@given(st.lists(events(), min_size=1, max_size=30), st.data())
def test_late_and_timely_cells_together_are_all(given_events: list[MailEvent], data: st.DataObject) -> None:
    flags = data.draw(st.lists(st.booleans(), min_size=len(given_events), max_size=len(given_events)))
    apart: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0] * len(COUNTERS))
    for (entity, minute, _), counters in cells_in(flushed([given_events], [flags])).items():
        for index, value in enumerate(counters):
            apart[entity, minute][index] += value
    whole = {(entity, minute): list(value) for (entity, minute, _), value in cells_in(flushed([given_events])).items()}
    assert apart == whole


# -- event time -----------------------------------------------------------------------------------------------------------


@many
@given(
    st.lists(st.tuples(st.integers(0, 20 * MINUTE_MS), st.integers(-MINUTE_MS, MINUTE_MS)), min_size=1, max_size=60),
    st.lists(st.integers(0, 100), max_size=6),
)
def test_no_split_of_a_sequence_changes_which_events_are_late(times: list[tuple[int, int]], cuts: list[int]) -> None:
    time_ms = np.array([time for time, _ in times])
    append_ms = np.maximum(time_ms + np.array([delay for _, delay in times]), 0)
    whole = InputProgress(60_000)
    expected = whole.observe(time_ms, append_ms).tolist()
    parts = InputProgress(60_000)
    places = sorted(cut % (len(times) + 1) for cut in cuts)
    found: list[int] = []
    for a, b in zip([0, *places], [*places, len(times)], strict=True):
        found += parts.observe(time_ms[a:b], append_ms[a:b]).tolist()
    assert found == expected
    assert parts.progress_ms == whole.progress_ms <= append_ms.max()


# -- rows -----------------------------------------------------------------------------------------------------------------

cells = st.tuples(st.integers(1, 3_000), st.integers(0, 1 << 34), st.integers(0, 1 << 20), st.booleans())


@some
@given(st.lists(cells, max_size=12), st.dictionaries(st.text(max_size=5), st.integers(1, 99), max_size=8))
def test_a_row_survives_its_snapshot(lives: list[tuple[int, int, int, bool]], names: dict[str, int]) -> None:
    table, minute = Table(capacity=1), NOON_MS // MINUTE_MS
    row = table.rows_for(["campaign:x"], 7)
    for gap, copies, traps, late in lives:
        counters = np.zeros((len(COUNTERS), 1), dtype=np.int64)
        counters[COUNTERS.index("copies")], counters[COUNTERS.index("traps")] = copies, traps
        if late:
            table.fold_late(row, counters, minute - gap)
            continue
        minute += gap
        table.fold(row, np.array([minute]), counters, np.zeros(8, dtype=np.int64))
    if names:
        table.learn_all([Detail("campaign:x", tuple(names.items()), (("DE", 1),), b"\x05\x00")], 7)
    copy = Table(capacity=1)
    for name, snapshot in table.snapshots(table.take_changed()):
        copy.load([(name, msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Row))], 7)
    if lives or names:
        other = copy.row_of["campaign:x"]
        assert (copy.rings[other] == table.rings[row[0]]).all()
        assert (copy.ledger[other] == table.ledger[row[0]]).all()
        before, after = table.known.get(int(row[0])), copy.known.get(other)
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert (before.tokens, before.countries, before.registers) == (
                after.tokens,
                after.countries,
                after.registers,
            )


# -- rules ----------------------------------------------------------------------------------------------------------------

volumes = st.one_of(st.integers(0, 50), st.integers(0, 10_000), st.integers(0, 1 << 31))


@st.composite
def rows(draw: st.DrawFn) -> tuple[int, ...]:
    ten, more, day, month = sorted(draw(st.tuples(volumes, volumes, volumes, volumes)))
    few_traps, traps = sorted(draw(st.tuples(volumes, volumes)))
    return (
        ten,
        more,
        day,
        month,
        few_traps,
        traps,
        draw(st.integers(-1, 29_847_600)),
        draw(volumes),
        draw(st.integers(0, 4)),
    )


def columns_of(given_rows: Sequence[tuple[int, ...]], projected: Sequence[bool]) -> Columns:
    values = np.array(given_rows, dtype=np.int64).reshape(-1, 9).T
    ten, more, day, month, traps_24h, traps_30d, first_trap, intake, tier = values
    return Columns(
        minute=29_847_600, unwanted_10m=ten, unwanted_60m=more, unwanted_24h=day, unwanted_30d=month, traps_24h=traps_24h,
        traps_30d=traps_30d, first_trap=first_trap, intake_24h=intake, projected=np.array(projected, dtype=np.bool_),
        tier=tier,
    )  # fmt: skip


LIMITS = [Limits(0.001, 10, 0.01, 10_000_000), Limits(None, 1, 0.5, 1)]


@many
@given(st.lists(st.tuples(rows(), st.booleans()), min_size=1, max_size=8), st.sampled_from(LIMITS))
def test_rules_over_many_rows_equal_rules_over_each(
    given_rows: list[tuple[tuple[int, ...], bool]], limits: Limits
) -> None:
    together = evaluate(columns_of([row for row, _ in given_rows], [own for _, own in given_rows]), limits)
    for index, (row, own) in enumerate(given_rows):
        alone = evaluate(columns_of([row], [own]), limits)
        for field in together.__struct_fields__:
            np.testing.assert_array_equal(getattr(together, field)[index], getattr(alone, field)[0], err_msg=field)


@many
@given(rows(), st.booleans(), st.sampled_from(LIMITS))
def test_a_verdict_is_within_its_bounds(row: tuple[int, ...], projected: bool, limits: Limits) -> None:
    columns = columns_of([row], [projected])
    verdict = evaluate(columns, limits)
    assert 0 <= verdict.severity[0] <= CRITICAL
    assert 0 <= verdict.tier[0] == max(verdict.seen_tier[0], verdict.trap_tier[0]) <= len(TIERS)
    assert verdict.rate_low[0] <= verdict.rate[0] <= verdict.rate_high[0]
    if verdict.tier[0] or verdict.trapped[0]:
        assert verdict.severity[0] > 0
    if not may_speak(columns.unwanted_30d, columns.traps_30d, limits)[0] and not columns.tier[0]:
        assert verdict.severity[0] == 0, "a row that is not looked at has nothing to say"


# -- lives ----------------------------------------------------------------------------------------------------------------


@many
@given(
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 3), st.integers(0, 4)), max_size=80), st.integers(1, 400)
)
def test_a_life_is_told_without_gaps(minutes: list[tuple[int, int, int]], quiet_minutes: int) -> None:
    life, minute = Life(), 0
    open_id: str | None = None
    seqs: dict[str, int] = defaultdict(int)
    for gap, severity, tier in minutes:
        minute += gap
        before = life
        life, change = step(life, severity, tier if severity else 0, minute, quiet_minutes)
        assert life.state in (NO_INCIDENT, OPEN, RESOLVED)
        own = incident_id("ip:x", life.opened)
        if change is None:
            assert (life.seq, life.state, life.severity, life.tier) == (
                before.seq, before.state, before.severity, before.tier,
            )  # fmt: skip
            continue
        seqs[own] += 1
        assert life.seq == seqs[own], "one seq a told change, from one"
        if change in ("opened", "reopened"):
            assert open_id is None, "never two openings without a resolve between"
            assert (change == "reopened") == (life.seq > 1)
            open_id = own
        assert open_id == own, "the id stays while it is open"
        if change == "resolved":
            open_id = None
        assert (life.state == OPEN) == (open_id is not None)
        assert life.peak >= life.severity > 0


# -- replay ---------------------------------------------------------------------------------------------------------------


def hours_of_mail(seed: int, stragglers: float = 0.1) -> list[MailEvent]:
    """Up to 100 minutes, with floods that begin and end, and a share of stragglers of up to two hours."""
    rng = Random(seed)
    found: list[MailEvent] = []
    floods = [(rng.randrange(100), rng.randrange(5, 60), rng.randrange(1, 400)) for _ in range(4)]
    for index in range(rng.randrange(100, 400)):
        minute = index * 100 // 400
        time_ms = NOON_MS + minute * MINUTE_MS + rng.randrange(MINUTE_MS)
        if rng.random() < stragglers:
            time_ms -= rng.randrange(2 * HOUR_MS)
        for number, (start, length, copies) in enumerate(floods):
            if start <= minute < start + length and rng.random() < 0.3:
                found.append(
                    trap_hit(time_ms, f"html:f{number}", copies=copies, ip=f"10.0.{number}.{rng.randrange(9)}")
                )
        found.append(
            mail(time_ms, verdict=rng.choice(("ham", "spam")), ip=f"10.1.{rng.randrange(5)}.1", tokens=("url:x",))
        )
    return found


@few
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0, 0.4), st.integers(2, 12))
def test_replay_equals_life_and_the_oracle(seed: int, inputs: int, crash: float, most: int) -> None:
    rng = Random(seed)
    logs: dict[int, list[MailEvent]] = {partition: [] for partition in range(inputs)}
    given_events = hours_of_mail(seed)
    for event in given_events:
        logs[rng.randrange(inputs)].append(event)
    log = counted(logs, rng, most=rng.choice((10, 100, 1_000)))
    life = Tracking(log, inputs).run()
    again = Tracking(log, inputs).run(rng, most=most, crash=crash)
    assert totals_of(again.facts) == totals_of(life.facts)
    assert story_of(again.signals) == story_of(life.signals)
    numbers = [(signal.incident, signal.seq) for signal in again.signals]
    assert len(set(numbers)) == len(numbers)
    facts = oracle.count((encoded(event), event.time_ms + 10) for event in given_events).facts()
    assert totals_of(life.facts) == {key: tuple(sums[name] for name in COUNTERS) for key, sums in facts.items()}


@few
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_how_the_input_was_read_changes_no_fact_and_no_incident(seed: int, inputs: int) -> None:
    # a straggler is never judged itself, but counts in its hour and day from the minute it came after
    rng = Random(seed)
    logs: dict[int, list[MailEvent]] = {partition: [] for partition in range(inputs)}
    for event in hours_of_mail(seed):
        logs[rng.randrange(inputs)].append(event)
    one, other = (
        Tracking(counted(logs, Random(seed + more), most), inputs).run(Random(seed))
        for more, most in ((1, 20), (2, 300))
    )
    assert totals_of(one.facts) == totals_of(other.facts)
    assert story_of(one.signals) == story_of(other.signals)


@pytest.mark.parametrize("seed", range(2))
def test_eviction_never_changes_a_sum(seed: int) -> None:
    given_events = [
        msgspec.structs.replace(event, tokens=(f"url:{index % 90}",)) for index, event in enumerate(hours_of_mail(seed))
    ]
    log = counted({0: given_events}, Random(seed), most=40)
    tracking = Tracking(log, max_rows=50).run(Random(seed), most=4, crash=0.1)
    facts = oracle.count((encoded(event), event.time_ms + 10) for event in given_events).facts()
    assert totals_of(tracking.facts) == {key: tuple(sums[name] for name in COUNTERS) for key, sums in facts.items()}
