"""The demo's judge: it must see every way in which what came out is not the truth."""

from pathlib import Path
from typing import Any

import msgspec

from streams.incident import Alert, Estimate
from streams.render import alert_of
from streams.verdict import Check, Ring, Story, Truth, comparison, judge, with_entities
from streams.volume import COUNTERS
from tests.signals import START_MS, a_signal

RING = "campaign:html:7c1f"
NAMES = {RING: 100, "domain:honest.example": 7}
TRUTH = Truth(
    start_ms=START_MS,
    end_ms=START_MS + 86_400_000,
    events=107,
    ring=Ring(RING, 321_000_000, 100_000_000, "critical"),
    must_not_page=("domain:honest.example",),
    entities={name: {"copies": copies, "messages": copies} for name, copies in NAMES.items()},
)


def sums(names: dict[str, int]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(copies if counter in ("copies", "messages") else 0 for counter in COUNTERS)
        for name, copies in names.items()
    }


def an_alert(entity: str = RING, **other: Any) -> Alert:
    return alert_of(a_signal(entity, **other), "r", "d")


def a_month(low: int, high: int, time_ms: int = START_MS, seq: int = 1) -> Alert:
    """A state of the ring's incident with this estimate."""
    alert = an_alert(time_ms=time_ms, seq=seq)
    estimate = Estimate((low + high) // 2, low, high, 45_000, 1, "test")
    return msgspec.structs.replace(alert, volume=msgspec.structs.replace(alert.volume, month_trap=estimate))


def told(**other: Any) -> list[Check]:
    """Verdicts on a story in which everything holds but for what is named."""
    holds = {"sums": sums(NAMES), "alerts": [an_alert()], "states": [a_month(320_000_000, 322_000_000)]}
    return judge(TRUTH, Story(**(holds | other)))


def failures(**other: Any) -> list[str]:
    return [check.says for check in told(**other) if not check.holds]


def test_everything_holds_where_it_is_the_truth() -> None:
    assert failures() == []
    assert told()[0].says == "facts: 2 campaigns and senders equal the truth in all 10 counters"


def test_one_copy_too_few_is_seen() -> None:
    assert failures(sums=sums({**NAMES, RING: 99})) == [
        "facts: 1 of 2 differ, the first is campaign:html:7c1f: copies 99, not 100"
    ]


def test_an_entity_that_is_missing_or_invented_is_seen() -> None:
    assert "copies 0, not 7" in failures(sums=sums({RING: 100}))[0]
    assert "ip:192.0.2.1: copies 1, not 0" in failures(sums=sums({**NAMES, "ip:192.0.2.1": 1}))[0]


def test_rows_of_nobody_are_not_compared() -> None:
    assert failures(sums=sums({**NAMES, "intake:7": 107})) == []


def test_an_alert_of_another_severity_tier_or_campaign_is_not_the_ring_s() -> None:
    assert failures(alerts=[])[0].endswith("what was said is nothing")
    assert "warning at tier 100 million" in failures(alerts=[an_alert(severity="warning")])[0]
    assert "critical at tier 10 million" in failures(alerts=[an_alert(tier=10_000_000)])[0]
    assert failures(alerts=[an_alert("campaign:other")])


def test_an_interval_beside_the_truth_is_seen() -> None:
    assert failures(states=[a_month(300_000_000, 320_999_999)])
    assert failures(states=[a_month(321_000_001, 340_000_000)])
    assert not failures(states=[a_month(321_000_000, 321_000_000)])
    assert failures(states=[])


def test_the_last_estimate_while_the_world_lasted_counts() -> None:
    early, last = a_month(1, 2, START_MS, 1), a_month(320_000_000, 322_000_000, TRUTH.end_ms, 2)
    after = a_month(200_000_000, 210_000_000, TRUTH.end_ms + 1, 3)
    assert failures(states=[after, last, early]) == []


def test_a_page_for_somebody_innocent_is_seen() -> None:
    innocent = an_alert("domain:honest.example")
    assert "domain:honest.example" in failures(alerts=[an_alert(), innocent])[0]
    assert failures(alerts=[an_alert(), an_alert("domain:honest.example", severity="warning")]) == []


def test_the_truths_of_several_inputs_add_up(tmp_path: Path) -> None:
    (tmp_path / "ring.json").write_bytes(msgspec.json.encode(TRUTH))
    (tmp_path / "log.json").write_bytes(
        b'{"entities": {"domain:honest.example": {"copies": 2}, "ip:192.0.2.1": {"copies": 3}}}'
    )
    found = with_entities(tmp_path / "ring.json", tmp_path / "log.json")
    assert found.entities["domain:honest.example"] == {"copies": 9, "messages": 7}
    assert found.entities["ip:192.0.2.1"] == {"copies": 3}
    assert found.entities[RING] == TRUTH.entities[RING]


def test_the_comparison_marks_what_is_different() -> None:
    table = comparison(TRUTH, Story(sums=sums({**NAMES, RING: 99})))
    marks = [str(cell) for cell in table.columns[-1].cells]
    assert marks.count("DIFFERENT") == 2  # its kind, and the ring itself
    assert "equal" in marks
