"""Which minutes are over, and the audit of ranges."""

import pytest

from producers.errors import AuditFailure
from streams.rollup import MINUTE_MS, InputRange
from streams.watermark import NEVER, Clock

GRACE_MS = 60_000


def clock(inputs: int = 1) -> Clock:
    return Clock(GRACE_MS, inputs)


def seen(partition: int, start: int, end: int, progress_ms: int, idle: bool = False) -> InputRange:
    return InputRange(partition, start, end, progress_ms, idle)


def test_a_minute_is_over_when_grace_has_passed_since_its_end() -> None:
    # minute 0 [0----)        progress 119,999: minute 0 ended 59,999 ms ago
    # grace          [----)   progress 120,000: it is over
    time = clock()
    time.observe([seen(0, 0, 1, 119_999)])
    assert time.closable == NEVER
    time.observe([seen(0, 1, 2, 120_000)])
    assert time.closable == 0
    time.observe([seen(0, 2, 3, 179_999)])
    assert time.closable == 0
    time.observe([seen(0, 3, 4, 180_000)])
    assert time.closable == 1


def test_the_slowest_active_input_decides() -> None:
    time = clock(2)
    time.observe([seen(0, 0, 1, 100 * MINUTE_MS), seen(1, 0, 1, 10 * MINUTE_MS)])
    assert time.closable == 8
    time.observe([seen(1, 1, 2, 20 * MINUTE_MS)])
    assert time.closable == 18


def test_an_idle_input_holds_nobody_back() -> None:
    time = clock(2)
    time.observe([seen(0, 0, 1, 100 * MINUTE_MS), seen(1, 0, 1, 10 * MINUTE_MS, idle=True)])
    assert time.closable == 98


def test_when_all_inputs_are_idle_the_last_minute_seen_is_over() -> None:
    time = clock(2)
    time.observe([seen(0, 0, 1, 100 * MINUTE_MS + 5, idle=True), seen(1, 0, 1, 90 * MINUTE_MS, idle=True)])
    assert time.closable == 100
    assert time.all_idle


def test_all_idle_and_nothing_ever_seen_closes_nothing() -> None:
    time = clock()
    time.observe([seen(0, 0, 0, -1, idle=True)])
    assert time.closable == NEVER


def test_an_active_input_without_an_event_holds_time() -> None:
    time = clock(2)
    time.observe([seen(0, 0, 1, 100 * MINUTE_MS), seen(1, 0, 0, -1)])
    assert time.closable == NEVER


def test_no_minute_is_over_before_every_expected_input_was_heard_of() -> None:
    time = clock(3)
    time.observe([seen(0, 0, 1, 100 * MINUTE_MS), seen(1, 0, 1, 100 * MINUTE_MS)])
    assert time.closable == NEVER
    assert not time.all_idle
    time.observe([seen(2, 0, 1, 50 * MINUTE_MS)])
    assert time.closable == 48


def test_time_never_goes_back() -> None:
    time = clock()
    time.observe([seen(0, 0, 1, 100 * MINUTE_MS, idle=True)])
    assert time.closable == 100
    time.observe([seen(0, 1, 2, 50 * MINUTE_MS)])
    assert time.closable == 100
    assert time.inputs[0].progress_ms == 100 * MINUTE_MS
    assert not time.all_idle


def test_the_first_range_may_start_anywhere() -> None:
    time = clock()
    time.observe([seen(0, 4_711, 5_000, 0)])
    assert time.inputs[0].end == 5_000
    time.observe([seen(0, 5_000, 5_000, 0)])


def test_a_gap_stops_the_count_and_names_the_offsets() -> None:
    time = clock()
    time.observe([seen(3, 0, 10, 0)])
    with pytest.raises(AuditFailure, match=r"mail-events partition 3: offsets \[10, 12\) were never counted"):
        time.observe([seen(3, 12, 20, 0)])


def test_an_overlap_stops_the_count_and_names_the_offsets() -> None:
    time = clock()
    time.observe([seen(3, 0, 10, 0)])
    with pytest.raises(AuditFailure, match=r"mail-events partition 3: offsets \[8, 10\) would be counted twice"):
        time.observe([seen(3, 8, 20, 0)])


def test_an_audit_failure_says_where_to_read_on_in_one_line() -> None:
    time = clock()
    time.observe([seen(0, 0, 10, 0)])
    with pytest.raises(AuditFailure) as failure:
        time.observe([seen(0, 11, 12, 0)])
    assert "README" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert failure.value.exit_status == 6
