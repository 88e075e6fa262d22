"""An incident's life, minute by minute."""

import pytest

from streams.incident import (
    CALMER_FOR_MINUTES,
    NO_INCIDENT,
    OPEN,
    REOPENS_FOR_MINUTES,
    RESOLVED,
    Change,
    Life,
    incident_id,
    severity_name,
    step,
)
from streams.rules import CRITICAL, INFO, NONE, WARNING

QUIET = 360


def lived(life: Life, *minutes: tuple[int, int, int]) -> tuple[Life, list[tuple[int, Change]]]:
    """(minute, severity, tier) one after another; what was told, and when."""
    told: list[tuple[int, Change]] = []
    for minute, severity, tier in minutes:
        life, change = step(life, severity, tier, minute, QUIET)
        if change is not None:
            told.append((minute, change))
    return life, told


def opened(at: int = 0, severity: int = WARNING, tier: int = 2) -> Life:
    life, told = lived(Life(), (at, severity, tier))
    assert told == [(at, "opened")]
    return life


def test_nothing_to_say_opens_nothing() -> None:
    assert step(Life(), NONE, 0, 5, QUIET) == (Life(), None)


def test_an_incident_opens_with_the_first_word() -> None:
    assert opened(7) == Life(state=OPEN, opened=7, severity=WARNING, peak=WARNING, tier=2, seq=1, last_spoke=7)


def test_the_same_said_again_is_not_told_again() -> None:
    life, told = lived(opened(), *((minute, WARNING, 2) for minute in range(1, 100)))
    assert told == []
    assert (life.seq, life.last_spoke) == (1, 99)


def test_a_higher_severity_or_tier_is_told_at_once() -> None:
    life, told = lived(opened(), (1, WARNING, 3), (2, CRITICAL, 3))
    assert told == [(1, "escalated"), (2, "escalated")]
    assert (life.seq, life.severity, life.peak, life.tier) == (3, CRITICAL, CRITICAL, 3)


def test_a_lower_severity_is_told_when_it_has_lasted() -> None:
    # severity  CRITICAL [0----1) WARNING [1---- told at 61)
    minutes = [(minute, WARNING, 2) for minute in range(1, 100)]
    life, told = lived(opened(0, CRITICAL, 3), *minutes)
    assert told == [(1 + CALMER_FOR_MINUTES, "deescalated")]
    assert (life.severity, life.peak, life.tier, life.lower_since) == (WARNING, CRITICAL, 2, -1)


def test_a_dip_shorter_than_an_hour_is_not_told() -> None:
    dip = [(minute, INFO, 1) for minute in range(1, CALMER_FOR_MINUTES)]
    life, told = lived(opened(), *dip, (60, WARNING, 2), *((minute, INFO, 1) for minute in range(61, 120)))
    assert told == []
    assert life.severity == WARNING


def test_quiet_resolves_and_not_a_minute_before() -> None:
    # spoke at 0 [----- quiet 360 -----) resolved at 360
    life, told = lived(opened(), *((minute, NONE, 0) for minute in range(1, QUIET)))
    assert told == []
    life, told = lived(life, (QUIET, NONE, 0))
    assert told == [(QUIET, "resolved")]
    assert (life.state, life.resolved, life.tier, life.severity, life.seq) == (RESOLVED, QUIET, 0, WARNING, 2)
    assert lived(life, (QUIET + 1, NONE, 0)) == (life, [])


def test_one_word_within_quiet_begins_quiet_anew() -> None:
    life, told = lived(opened(), *((minute, NONE, 0) for minute in range(1, 300)), (300, WARNING, 2))
    life, told = lived(life, *((minute, NONE, 0) for minute in range(301, 660)))
    assert told == []
    assert lived(life, (660, NONE, 0))[1] == [(660, "resolved")]


def resolved() -> Life:
    life, _ = lived(opened(5, CRITICAL, 3), (400, NONE, 0))
    assert life.state == RESOLVED
    return life


def test_within_35_days_it_reopens_under_its_id_and_goes_on_counting() -> None:
    last = 400 + REOPENS_FOR_MINUTES
    life, told = lived(resolved(), (last, INFO, 1))
    assert told == [(last, "reopened")]
    assert (life.opened, life.seq, life.severity, life.peak, life.state) == (5, 3, INFO, CRITICAL, OPEN)


def test_after_35_days_it_is_a_new_one() -> None:
    first = 401 + REOPENS_FOR_MINUTES
    life, told = lived(resolved(), (first, INFO, 1))
    assert told == [(first, "opened")]
    assert life == Life(OPEN, first, INFO, INFO, 1, 1, first)


def test_a_reopened_incident_resolves_again_after_its_own_quiet() -> None:
    life, _ = lived(resolved(), (1_000, INFO, 1))
    assert lived(life, (1_359, NONE, 0))[1] == []
    assert lived(life, (1_360, NONE, 0))[1] == [(1_360, "resolved")]


def test_a_whole_life_is_told_in_order() -> None:
    _, told = lived(
        Life(),
        (0, INFO, 1),
        (10, CRITICAL, 3),
        (20, WARNING, 2),
        (80, WARNING, 2),
        (440, NONE, 0),
        (900, WARNING, 2),
        (1_260, NONE, 0),
    )
    changes = ["opened", "escalated", "deescalated", "resolved", "reopened", "resolved"]
    assert told == list(zip([0, 10, 80, 440, 900, 1_260], changes, strict=True))


def test_an_id_is_the_same_for_every_replay_and_another_for_every_opening() -> None:
    assert incident_id("campaign:html:ring", 29_847_600) == incident_id("campaign:html:ring", 29_847_600)
    assert len({incident_id(entity, minute) for entity in ("ip:1", "ip:2", "1:ip") for minute in range(100)}) == 300
    assert len(incident_id("ip:1", 1)) == 16


def test_a_severity_has_a_word_and_none_has_none() -> None:
    assert [severity_name(severity) for severity in (INFO, WARNING, CRITICAL)] == ["info", "warning", "critical"]
    with pytest.raises(ValueError, match="no severity"):
        severity_name(NONE)


def test_a_life_that_never_began_is_all_empty() -> None:
    assert Life().state == NO_INCIDENT
    assert Life().seq == 0
