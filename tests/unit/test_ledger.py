"""Sums of facts: the highest revision of each part counts, in whatever order they come."""

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streams.ledger import HOUR_MS, Ledger
from streams.volume import COUNTERS, Fact


def a_fact(entity: str = "ip:192.0.2.1", hour: int = 0, part: int = 0, revision: int = 1, **counters: int) -> bytes:
    return msgspec.json.encode(Fact(1, entity, "hour", hour * HOUR_MS, part, revision, **counters))


def sums(*values: bytes) -> dict[str, tuple[int, ...]]:
    ledger = Ledger()
    ledger.take(values)
    return ledger.sums()


def copies(count: int) -> tuple[int, ...]:
    return tuple(count if counter == "copies" else 0 for counter in COUNTERS)


def test_nothing_is_nothing() -> None:
    assert sums() == {}
    assert sums(a_fact()) == {}


def test_parts_and_hours_add_up_and_revisions_replace() -> None:
    found = sums(
        a_fact(hour=0, part=0, revision=1, copies=5),
        a_fact(hour=0, part=0, revision=2, copies=7),
        a_fact(hour=0, part=1, revision=1, copies=20),
        a_fact(hour=1, part=0, revision=1, copies=100),
    )
    assert found == {"ip:192.0.2.1": copies(127)}


def test_facts_of_days_say_the_same_again_and_are_not_added() -> None:
    day = msgspec.json.encode(Fact(1, "ip:192.0.2.1", "day", 0, 0, 1, copies=5))
    assert sums(day, a_fact(copies=5)) == {"ip:192.0.2.1": copies(5)}


def test_an_entity_may_look_like_a_fact_of_a_day() -> None:
    entity = 'campaign:"span":"day"'
    assert sums(a_fact(entity, copies=3)) == {entity: copies(3)}


def test_sums_may_be_asked_for_on_the_way() -> None:
    ledger = Ledger()
    ledger.take([a_fact(revision=1, copies=5)])
    assert ledger.sums() == {"ip:192.0.2.1": copies(5)}
    ledger.take([a_fact(revision=2, copies=9), a_fact("net:192.0.2.0/24", copies=1)])
    assert ledger.sums() == {"ip:192.0.2.1": copies(9), "net:192.0.2.0/24": copies(1)}
    assert ledger.facts == 3


Facts = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 2), st.integers(1, 3)), max_size=30
)


@given(Facts, st.randoms(use_true_random=False))
def test_order_and_repeats_change_nothing(keys: list[tuple[str, int, int, int]], random: Random) -> None:
    facts = [a_fact(f"ip:{e}", hour, part, revision, copies=revision * 10 + part) for e, hour, part, revision in keys]
    shuffled = facts + facts[::2]
    random.shuffle(shuffled)
    newest: dict[tuple[str, int, int], int] = {}
    for entity, hour, part, revision in keys:
        newest[entity, hour, part] = max(newest.get((entity, hour, part), 0), revision)
    expected: dict[str, int] = {}
    for (entity, _, part), revision in newest.items():
        expected[f"ip:{entity}"] = expected.get(f"ip:{entity}", 0) + revision * 10 + part
    assert sums(*shuffled) == {entity: copies(count) for entity, count in expected.items()}
