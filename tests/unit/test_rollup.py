"""What an event counts for, event time of an input partition, names of nets and domains, and HyperLogLog."""

import numpy as np
import pytest

from producers.event import packed_address
from streams.rollup import (
    BOUNCED,
    COMPLAINT,
    DEFERRED,
    FORGED,
    MESSAGE,
    MINUTE_MS,
    ON_TIME,
    REJECTED,
    TRAP,
    UNWANTED,
    InputProgress,
    domain_name,
    flags_of,
    hll_estimate,
    hll_register,
    networks_of,
    pack_columns,
    top_names,
)

BAD = ("spam", "phish", "malware")
FINE = ("ham", "unknown")


@pytest.mark.parametrize("verdict", [*BAD, *FINE])
def test_an_accepted_message_is_unwanted_by_verdict_alone(verdict: str) -> None:
    for reason in (None, "content"):
        assert flags("accepted", verdict, reason) == MESSAGE | (UNWANTED if verdict in BAD else 0)


@pytest.mark.parametrize("verdict", [*BAD, *FINE])
@pytest.mark.parametrize(
    "reason", [None, "content", "policy", "auth", "unknown_user", "relay", "rate", "protocol", "quota", "other"]
)
def test_a_rejected_message_is_unwanted_by_verdict_or_for_content_or_policy(verdict: str, reason: str | None) -> None:
    unwanted = verdict in BAD or reason in ("content", "policy")
    assert flags("rejected", verdict, reason) == MESSAGE | REJECTED | (UNWANTED if unwanted else 0)


@pytest.mark.parametrize("verdict", [*BAD, *FINE])
def test_what_a_trap_caught_is_a_message_and_unwanted(verdict: str) -> None:
    assert flags("trap", verdict) == MESSAGE | TRAP | UNWANTED


@pytest.mark.parametrize("verdict", [*BAD, *FINE])
def test_what_is_no_message_is_counted_apart(verdict: str) -> None:
    for forged in (False, True):
        assert flags("deferred", verdict, forged=forged) == DEFERRED
        assert flags("attempt", verdict, forged=forged) == DEFERRED
        assert flags("bounced", verdict, forged=forged) == BOUNCED
        assert flags("complaint", verdict, forged=forged) == COMPLAINT | UNWANTED


def test_a_message_that_fails_dmarc_is_forged_whatever_became_of_it() -> None:
    for disposition in ("accepted", "rejected", "trap"):
        assert flags(disposition, "ham", forged=True) == flags(disposition, "ham") | FORGED


def test_a_source_that_does_not_count_adds_trap_hits_and_complaints_only() -> None:
    for verdict in (*BAD, *FINE):
        for disposition in ("accepted", "rejected", "deferred", "attempt", "bounced"):
            assert flags(disposition, verdict, "content", forged=True, counts=False) == 0
        assert flags("trap", verdict, forged=True, counts=False) == TRAP
        assert flags("complaint", verdict, forged=True, counts=False) == COMPLAINT


def flags(disposition: str, verdict: str, reason: str | None = None, forged: bool = False, counts: bool = True) -> int:
    return flags_of(disposition, verdict, reason, forged, counts)


# -- event time -----------------------------------------------------------------------------------------------------------

GRACE_MS = 60_000


def late(progress: InputProgress, *times_ms: int, append_ms: int | None = None) -> list[bool]:
    times = np.array(times_ms, dtype=np.int64)
    after = progress.observe(times, times if append_ms is None else np.full(len(times), append_ms))
    return [bool(minute != ON_TIME) for minute in after]


def test_an_event_is_late_when_grace_has_passed_since_its_minute_ended() -> None:
    # minute 0 [0----)            event of minute 0 after progress 119,999: its minute ended 59,999 ms ago: in time
    # grace           [----)      after progress 120,000: late
    for progress_ms, expected in ((119_999, False), (120_000, True), (120_001, True)):
        assert late(InputProgress(GRACE_MS, progress_ms), MINUTE_MS - 1) == [expected]
        assert late(InputProgress(GRACE_MS, progress_ms), 0) == [expected]
        assert late(InputProgress(GRACE_MS, progress_ms), MINUTE_MS) == [False]


def test_an_event_is_judged_by_what_came_before_it_and_not_by_itself() -> None:
    assert late(InputProgress(GRACE_MS), 0, 120_000, 59_999, 60_000) == [False, False, True, False]


def test_progress_never_passes_the_append_time() -> None:
    progress = InputProgress(GRACE_MS)
    assert late(progress, 10 * MINUTE_MS, append_ms=5_000) == [False]
    assert progress.progress_ms == 5_000
    assert late(progress, 4_000, append_ms=5_001) == [False]
    assert progress.progress_ms == 5_000


def test_progress_never_goes_back() -> None:
    progress = InputProgress(GRACE_MS, 1_000_000)
    late(progress, 5, 999_999)
    assert progress.progress_ms == 1_000_000
    assert late(progress) == []


def test_a_late_event_names_the_last_minute_that_was_over_when_it_came() -> None:
    # minutes  [0----)[1----)[2----)[3----)     progress 200,000 less a grace of 60,000: minute 1 is the last that is over
    progress = InputProgress(GRACE_MS)
    times = np.array([200_000, 0, 119_999, 120_000])
    assert progress.observe(times, times).tolist() == [ON_TIME, 1, 1, ON_TIME]


def test_the_first_event_of_a_partition_is_never_late() -> None:
    assert late(InputProgress(GRACE_MS), 0) == [False]


# -- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "ip", "net"),
    [
        ("192.0.2.77", "192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("::1", "::/64", "::/48"),
    ],
)
def test_one_address_and_its_net(address: str, ip: str, net: str) -> None:
    packed = packed_address(address)
    assert packed is not None
    assert networks_of(packed) == (ip, net)


def test_only_what_was_authenticated_is_held_answerable() -> None:
    assert domain_name("Mail.Shop.example.com") == "example.com"
    assert domain_name(None) == "(unauthenticated)"
    assert domain_name("") == "(null)"


def test_leading_names_are_ranked_by_copies_and_then_by_name() -> None:
    copies = {"b": 2, "a": 2, "z": 9} | {f"n{index}": 1 for index in range(20)}
    assert top_names(copies) == (("z", 9), ("a", 2), ("b", 2), ("n0", 1), ("n1", 1), ("n10", 1), ("n11", 1), ("n12", 1))


# -- columns and registers ------------------------------------------------------------------------------------------------


def test_a_column_takes_the_narrowest_type_that_holds_it() -> None:
    largest = [0, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, 1 << 62]
    packed = pack_columns(np.array([[0, value] for value in largest], dtype=np.int64))
    assert [kind for kind, _ in packed] == ["", "<u1", "<u2", "<u2", "<u4", "<u4", "<i8", "<i8"]
    for value, (kind, column) in zip(largest[1:], packed[1:], strict=True):
        assert np.frombuffer(column, kind).tolist() == [0, value]


@pytest.mark.parametrize("distinct", [10, 1_000, 20_000])
def test_distinct_names_are_estimated_within_ten_percent(distinct: int) -> None:
    registers: dict[int, int] = {}
    for index in range(distinct):
        packed = hll_register(f"192.0.{index >> 8}.{index & 255}")
        registers[packed >> 6] = max(registers.get(packed >> 6, 0), packed & 63)
    assert abs(hll_estimate(registers) - distinct) <= distinct * 0.1


def test_nothing_seen_is_estimated_as_nothing() -> None:
    assert hll_estimate({}) == 0


def test_a_register_and_its_rank_fit_sixteen_bits() -> None:
    for index in range(5_000):
        packed = hll_register(str(index))
        assert 0 <= packed >> 6 < 1024
        assert 1 <= packed & 63 <= 55
