"""The live table: partitions merged, traps added from incidents, names from mail shown as text."""

import io
from typing import Any

import pytest
from rich.console import Console

from streams.incident import Alert, Severity, State
from streams.render import alert_of
from streams.top import Board, page, show, sparkline
from streams.volume import Leader, Leaders
from tests.signals import a_signal

HOUR_MS = 3_600_000


def a_leader(entity: str, run_rate: int = 0, **other: Any) -> Leader:
    values = {"copies_60m": 9, "unwanted_60m": 5, "tier": 0, "severity": None, "unwanted_by_minute": (1,) * 60}
    return Leader(entity=entity, month_run_rate=run_rate, **(values | other))


def leaders(partition: int, *rows: Leader, kind: str = "campaign", time_ms: int = 100 * HOUR_MS) -> Leaders:
    return Leaders(1, partition, kind, time_ms, rows)


def an_alert(entity: str, seq: int = 1, severity: Severity = "critical", state: State = "open") -> Alert:
    return alert_of(a_signal(entity, seq, severity=severity, state=state), "r", "d")


def board_of(*taken: Leaders | Alert) -> Board:
    board = Board()
    for each in taken:
        if isinstance(each, Alert):
            board.take_alert(each)
        else:
            board.take_leaders(each)
    return board


def printed(board: Board, kinds: tuple[str, ...] = ("campaign",)) -> str:
    out = io.StringIO()
    show(Console(file=out, width=160, color_system=None, markup=True, emoji=True), page(board, kinds))
    return out.getvalue()


def test_partitions_are_merged_by_pace() -> None:
    board = board_of(leaders(0, a_leader("campaign:a", 10)), leaders(1, a_leader("campaign:b", 20)))
    assert [row.entity for row in board.rows(["campaign"])] == ["campaign:b", "campaign:a"]


def test_the_newest_word_of_a_partition_replaces_the_one_before() -> None:
    board = board_of(leaders(0, a_leader("campaign:a")), leaders(0, a_leader("campaign:b")))
    assert [row.entity for row in board.rows(["campaign"])] == ["campaign:b"]


def test_leaders_of_an_hour_that_is_over_for_the_others_are_gone() -> None:
    old = leaders(0, a_leader("campaign:a"), time_ms=99 * HOUR_MS)
    assert board_of(old).rows(["campaign"])
    assert not board_of(old, leaders(1, time_ms=100 * HOUR_MS)).rows(["campaign"])


def test_what_traps_tell_is_added_and_decides_the_order() -> None:
    board = board_of(leaders(0, a_leader("campaign:seen", 2_000_000), a_leader("campaign:trapped", 51_000)))
    board.take_alert(an_alert("campaign:trapped"))
    first, second = board.rows(["campaign"])
    assert (first.entity, first.month_trap, first.month_run_rate) == ("campaign:trapped", 321_000_000, 51_000)
    assert (second.entity, second.month_trap) == ("campaign:seen", None)


def test_an_incident_that_leads_nowhere_is_shown_until_it_is_resolved() -> None:
    board = board_of(an_alert("campaign:x"))
    assert [(row.entity, row.severity) for row in board.rows(["campaign"])] == [("campaign:x", "critical")]
    board.take_alert(an_alert("campaign:x", 2, state="resolved"))
    assert board.rows(["campaign"]) == []


def test_a_late_repeat_does_not_bring_an_old_state_back() -> None:
    board = board_of(an_alert("campaign:x", 3, "critical"), an_alert("campaign:x", 2, "warning"))
    assert [row.severity for row in board.rows(["campaign"])] == ["critical"]


def test_only_the_kinds_asked_for_are_shown() -> None:
    board = board_of(leaders(0, a_leader("campaign:a")), leaders(0, a_leader("ip:192.0.2.1"), kind="ip"))
    assert [row.entity for row in board.rows(["ip", "net"])] == ["ip:192.0.2.1"]
    assert "Senders" not in printed(board)
    assert "Campaigns" not in printed(board, ("ip",))


def test_what_is_nobody_s_does_not_lead() -> None:
    board = board_of(
        leaders(0, a_leader("campaign:(none)", 9), a_leader("campaign:(other):3", 8), a_leader("campaign:a"))
    )
    assert [row.entity for row in board.rows(["campaign"])] == ["campaign:a"]


def test_markup_emoji_and_control_characters_from_mail_stay_text() -> None:
    text = printed(board_of(leaders(0, a_leader("campaign:subject:[bold]x[/] :smile: \x1b[2J\u202e"))))
    assert "[bold]x[/] :smile: \\u001b[2J\\u202e" in text
    assert "\x1b" not in text


def test_a_table_without_anything_says_so() -> None:
    assert "no minute is closed yet" in printed(Board())


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ((), ""),
        ((0, 0, 0), "   "),
        ((0, 1, 4, 8), " ▁▄█"),
        ((1_000_000, 1), "█▁"),
    ],
)
def test_a_sparkline_is_as_high_as_its_share_of_the_highest(values: tuple[int, ...], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_sparkline_has_at_most_its_width() -> None:
    assert [len(sparkline((1,) * count, 30)) for count in (1, 29, 30, 31, 60, 61)] == [1, 29, 30, 16, 30, 21]
