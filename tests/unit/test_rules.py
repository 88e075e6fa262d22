"""When a volume is worth telling: intervals, lines, holding, traps, severities."""

from typing import Any

import numpy as np
import pytest

from streams.rules import (
    CRITICAL,
    INFO,
    MONTH_MINUTES,
    NONE,
    TIERS,
    WARNING,
    Columns,
    Limits,
    Verdicts,
    evaluate,
    may_speak,
    poisson_interval,
    severity_of_line,
)

LIMITS = Limits(capture_share=0.001, trap_min_hits=10, page_share=0.01, page_tier=10_000_000)
DAY = 1_440
MINUTE = 20_000 * DAY - 1
"""The last minute of a day."""
PLENTY = 1 << 40


def columns(**changes: Any) -> Columns:
    """One row: nothing unwanted, in an intake so large that no share of it matters."""
    ordinary = {
        "unwanted_10m": 0, "unwanted_60m": 0, "unwanted_24h": 0, "unwanted_30d": 0, "traps_24h": 0, "traps_30d": 0,
        "first_trap": -1, "intake_24h": PLENTY, "tier": 0,
    }  # fmt: skip
    projected = changes.pop("projected", True)
    minute = changes.pop("minute", MINUTE)
    values = {name: np.array([value], dtype=np.int64) for name, value in (ordinary | changes).items()}
    return Columns(minute=minute, projected=np.array([projected]), **values)


def judged(limits: Limits = LIMITS, /, **changes: Any) -> Verdicts:
    return evaluate(columns(**changes), limits)


def steady(per_10_minutes: int) -> dict[str, int]:
    """Counts of all windows at an even pace that has gone on for a month."""
    return {
        "unwanted_10m": per_10_minutes,
        "unwanted_60m": 6 * per_10_minutes,
        "unwanted_24h": 144 * per_10_minutes,
        "unwanted_30d": 4_320 * per_10_minutes,
    }


# -- intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [  # the exact 95 % limits of a Poisson mean (Garwood 1936), as tabulated
        (10, 4.795, 18.39),
        (20, 12.22, 30.89),
        (50, 37.11, 65.92),
        (100, 81.36, 121.63),
        (1_000, 938.97, 1_063.95),
    ],
)
def test_the_interval_is_within_a_percent_of_the_exact_one(count: int, low: float, high: float) -> None:
    found_low, found_high = poisson_interval(np.array([count]))
    assert found_low[0] == pytest.approx(low, rel=0.01)
    assert found_high[0] == pytest.approx(high, rel=0.01)


def test_nothing_seen_has_no_lower_bound_and_an_upper_one_above_three() -> None:
    low, high = poisson_interval(np.array([0]))
    assert low[0] == 0
    assert 3 < high[0] < 4


def test_the_interval_holds_the_count_and_grows_with_it() -> None:
    counts = np.arange(1, 5_000)
    low, high = poisson_interval(counts)
    assert (low < counts).all()
    assert (counts < high).all()
    assert (low > 0).all()
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()


# -- tier -----------------------------------------------------------------------------------------------------------------


def first_count_above(line: int, window_minutes: int) -> int:
    """The least count whose lower bound, as a month, lies above a line."""
    counts = np.arange(1, 200_000)
    low, _ = poisson_interval(counts)
    return int(counts[np.argmax(low * (MONTH_MINUTES / window_minutes) > line)])


@pytest.mark.parametrize(("window", "minutes"), [("unwanted_10m", 10), ("unwanted_60m", 60), ("unwanted_24h", DAY)])
def test_each_window_reaches_a_tier_where_its_lower_bound_passes_the_line(window: str, minutes: int) -> None:
    for index, line in enumerate(TIERS[:2]):
        enough = first_count_above(line, minutes)
        assert judged(**{window: enough - 1}).tier[0] == index
        assert judged(**{window: enough}).tier[0] == index + 1
        found = judged(**{window: enough})
        assert found.rate_minutes[0] == minutes
        assert found.rate_count[0] == enough
        assert found.rate_low[0] > line


def test_the_month_that_was_seen_reaches_a_tier_by_itself_while_it_goes_on() -> None:
    enough = first_count_above(TIERS[0], MONTH_MINUTES)
    assert judged(unwanted_30d=enough, unwanted_24h=enough // 300 + 1).seen_tier[0] == 1
    assert judged(unwanted_30d=enough - 1, unwanted_24h=enough // 300 + 1).seen_tier[0] == 0
    assert judged(unwanted_30d=100 * enough, unwanted_24h=0).seen_tier[0] == 0, "what has ended is not told for a month"


def test_the_pace_is_that_of_the_window_with_the_highest_lower_bound() -> None:
    burst = judged(unwanted_10m=1_000, unwanted_60m=1_000, unwanted_24h=1_000, unwanted_30d=1_000)
    assert burst.rate_minutes[0] == 10
    assert burst.rate[0] == 4_320_000
    even = judged(**steady(per_10_minutes=30))
    assert even.rate_minutes[0] == DAY, "of equal paces the longest window is surest"
    assert even.rate[0] == 129_600


def test_a_tier_is_held_down_to_half_its_line() -> None:
    # line 100,000   --------   reached above, held while the estimate is at least half
    half = {"unwanted_30d": 50_000, "unwanted_24h": 50_000 // 30}
    below = {"unwanted_30d": 49_999, "unwanted_24h": 1_666}
    assert judged(**half).tier[0] == 0
    assert judged(**half, tier=1).tier[0] == 1
    assert judged(**below, tier=1).tier[0] == 0
    assert judged(tier=4).tier[0] == 0


def test_a_held_tier_is_never_more_than_what_was_held() -> None:
    assert judged(**steady(180), tier=1).tier[0] == 1
    assert judged(**steady(180), tier=2).tier[0] == 2
    assert judged(**steady(180), tier=3).tier[0] == 2, "777,600 a month is more than half a million, not half of ten"


def test_nothing_unwanted_says_nothing() -> None:
    verdict = judged()
    assert (verdict.severity[0], verdict.tier[0], verdict.trapped[0], verdict.pages_by_share[0]) == (0, 0, False, False)


# -- severity and share ---------------------------------------------------------------------------------------------------


def test_severity_grows_with_the_line_and_pages_from_the_configured_one() -> None:
    lines = np.array([0, *TIERS])
    assert severity_of_line(lines, 10_000_000).tolist() == [NONE, INFO, WARNING, CRITICAL, CRITICAL]
    assert severity_of_line(lines, 1_000_000).tolist() == [NONE, INFO, CRITICAL, CRITICAL, CRITICAL]
    assert severity_of_line(lines, 100_000_001).tolist() == [NONE, INFO, WARNING, WARNING, WARNING]


def test_an_info_volume_pages_when_it_is_a_share_of_all_intake() -> None:
    volume = steady(30)
    day = volume["unwanted_24h"]
    low = float(poisson_interval(np.array([day]))[0][0])
    assert judged(**volume, intake_24h=int(low / 0.01) + 1).severity[0] == INFO
    paged = judged(**volume, intake_24h=int(low / 0.01) - 1)
    assert paged.severity[0] == CRITICAL
    assert paged.pages_by_share[0]


def test_a_share_of_little_mail_does_not_page() -> None:
    assert judged(unwanted_24h=20, unwanted_30d=20, intake_24h=20).severity[0] == NONE


# -- traps ----------------------------------------------------------------------------------------------------------------


def test_trap_hits_are_projected_through_the_capture_share() -> None:
    # first hit three days before the end of the minute: [first_trap ---- 3 days ----)
    verdict = judged(traps_30d=300, traps_24h=100, first_trap=MINUTE + 1 - 3 * DAY)
    assert verdict.trap[0] == pytest.approx(300 * 10 / 0.001)
    low, high = poisson_interval(np.array([300]))
    assert verdict.trap_low[0] == pytest.approx(low[0] * 10 / 0.001)
    assert verdict.trap_high[0] == pytest.approx(high[0] * 10 / 0.001)
    assert verdict.trap_minutes[0] == 3 * DAY
    assert verdict.trap_tier[0] == 2


def test_hits_of_the_first_minutes_are_projected_from_an_hour() -> None:
    verdict = judged(traps_30d=10, traps_24h=10, first_trap=MINUTE)
    assert verdict.trap_minutes[0] == 60
    assert verdict.trap[0] == pytest.approx(10 * 720 / 0.001)


def test_no_more_than_the_days_that_are_held_are_divided_by() -> None:
    verdict = judged(traps_30d=3_000, traps_24h=100, first_trap=MINUTE - 90 * DAY)
    assert verdict.trap_minutes[0] == 30 * DAY
    assert verdict.trap[0] == pytest.approx(3_000 / 0.001)
    morning = judged(traps_30d=3_000, traps_24h=100, first_trap=MINUTE - 90 * DAY, minute=MINUTE + 60)
    assert morning.trap_minutes[0] == 29 * DAY + 60, "this day and 29 before"


def test_too_few_hits_are_not_projected() -> None:
    assert np.isnan(judged(traps_30d=9, traps_24h=9, first_trap=MINUTE - 60).trap[0])
    assert not np.isnan(judged(traps_30d=10, traps_24h=1, first_trap=MINUTE - 60).trap[0])


def test_a_campaign_that_hits_no_trap_any_more_is_not_projected() -> None:
    assert np.isnan(judged(traps_30d=5_000, traps_24h=0, first_trap=MINUTE - 20 * DAY).trap[0])


def test_without_a_capture_share_hits_are_told_and_not_projected() -> None:
    verdict = judged(Limits(None, 10, 0.01, 10_000_000), traps_30d=500, traps_24h=500, first_trap=MINUTE - 600)
    assert np.isnan(verdict.trap[0])
    assert verdict.trap_tier[0] == 0
    assert verdict.trapped[0]
    assert verdict.severity[0] == INFO


def test_only_campaigns_stand_for_volume_elsewhere() -> None:
    verdict = judged(traps_30d=500, traps_24h=500, first_trap=MINUTE - 600, projected=False)
    assert np.isnan(verdict.trap[0])
    assert not verdict.trapped[0]
    assert verdict.severity[0] == NONE


# -- columns --------------------------------------------------------------------------------------------------------------


def test_a_row_that_may_not_speak_says_nothing() -> None:
    for unwanted in range(60):
        for traps in (0, 9):
            if not may_speak(np.array([unwanted]), np.array([traps]), LIMITS)[0]:
                counts = dict.fromkeys(("unwanted_10m", "unwanted_60m", "unwanted_24h", "unwanted_30d"), unwanted)
                verdict = judged(**counts, traps_24h=traps, traps_30d=traps, first_trap=MINUTE, intake_24h=0)
                assert verdict.severity[0] == NONE
    assert may_speak(np.array([0]), np.array([10]), LIMITS)[0]
