"""COUNT with records in memory: what is counted, what is refused, when time moves and partitions are paused."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka import Message

from producers.event import MAX_RECORD_BYTES, MAX_SKEW_MS
from streams import count
from streams.count import POISON_WINDOW, Count
from streams.metrics import Metrics
from streams.rollup import InputRange, Rollup
from streams.settings import Settings
from streams.topics import ENTITY_PARTITIONS, MAIL_EVENTS, MAIL_EVENTS_DLQ, MAIL_ROLLUPS
from streams.transaction import Committed, Outcome, Outgoing
from tests.builders import HOUR_MS, MINUTE_MS, NOON_MS, altered, encoded, mail, spam
from tests.world import cells_in

SETTINGS = Settings(topic_prefix="p-", idle_ms=30_000, flush_ms=1_000, max_ahead_minutes=30)
WALL_MS = 5_000_000_000_000
"""No decision may rest on it: far from every event."""


class Record:
    """What COUNT asks of a message."""

    def __init__(self, value: bytes | None, offset: int, partition: int = 0, append_ms: int = NOON_MS) -> None:
        self._value, self._offset, self._partition, self._append_ms = value, offset, partition, append_ms

    def value(self) -> bytes | None:
        return self._value

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 2, self._append_ms

    def error(self) -> None:
        return None


def records(
    values: Iterable[bytes | None], start: int = 0, partition: int = 0, append_ms: int = NOON_MS
) -> list[Record]:
    return [Record(value, start + index, partition, append_ms) for index, value in enumerate(values)]


def stage(*partitions: int, **settings: Any) -> Count:
    made = Count(msgspec.structs.replace(SETTINGS, **settings), Metrics("count"))
    made.restore({partition: Committed(0, fresh=True) for partition in partitions or (0,)})
    return made


def take(stage: Count, messages: Sequence[Record], now_ms: int = WALL_MS) -> None:
    stage.take(cast("list[Message]", messages), now_ms)


def flush(stage: Count, now_ms: int = WALL_MS) -> list[Outgoing]:
    found = list(stage.outputs())
    stage.committed(Outcome(now_ms, 0.1, {}))
    return found


def rollups(outputs: Iterable[Outgoing]) -> list[Rollup]:
    topic = "p-" + MAIL_ROLLUPS
    return [msgspec.msgpack.decode(out.value or b"", type=Rollup) for out in outputs if out.topic == topic]


def ranges(outputs: Iterable[Outgoing]) -> tuple[InputRange, ...]:
    found = {record.partition: record.ranges for record in rollups(outputs) if record.ranges}
    assert set(found) == set(range(ENTITY_PARTITIONS))
    assert len(set(found.values())) == 1, "every partition is told the same"
    return found[0]


def dead(outputs: Iterable[Outgoing]) -> list[tuple[str, int, int, bytes]]:
    """(reason, offset, line, bytes) on the dead-letter queue."""
    letters = []
    for out in outputs:
        if out.topic == "p-" + MAIL_EVENTS_DLQ:
            headers = dict(out.headers or [])
            letters.append(
                (str(headers["reason"]), int(str(headers["offset"])), int(str(headers["line"])), out.value or b"")
            )
    return letters


def copies(outputs: Iterable[Outgoing], entity: str = "intake:0") -> int:
    return sum(value[0] for key, value in cells_in(rollups(outputs)).items() if key[0] == entity)


# -- refusals -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_counted_reaches_the_dead_letter_queue_as_it_came_with_its_origin() -> None:
    counting = stage(0, 5)
    latin = encoded(mail()).replace(b"ann@", b"\xe4nn@")
    take(counting, [Record(encoded(mail()), 7, 5), Record(latin, 8, 5)])
    outputs = flush(counting)
    (letter,) = [out for out in outputs if out.topic == "p-" + MAIL_EVENTS_DLQ]
    assert letter.value == latin
    assert letter.headers == [
        ("topic", "p-" + MAIL_EVENTS), ("partition", "5"), ("offset", "8"), ("line", "0"), ("stage", "count"),
        ("reason", "not_utf8"),
    ]  # fmt: skip
    assert copies(outputs) == 1


def test_what_is_larger_than_a_record_may_be_reaches_the_dead_letter_queue_cut_and_says_so() -> None:
    counting = stage()
    take(counting, records([b"x" * (MAX_RECORD_BYTES + 7), encoded(mail())]))
    outputs = flush(counting)
    [letter] = [out for out in outputs if out.headers]
    assert letter.value == b"x" * MAX_RECORD_BYTES
    assert (letter.headers or [])[-1] == ("cut_from_bytes", str(MAX_RECORD_BYTES + 7))
    assert copies(outputs) == 1


def test_each_bad_line_is_refused_alone_and_all_good_ones_around_it_are_counted() -> None:
    good = encoded(spam(copies=2))
    pretty = msgspec.json.format(good, indent=2)
    values = [
        good,
        good + b"\nbad\n" + good + b"\n" + altered(mail(), ip="nowhere") + b"\n",
        b"",
        None,
        altered(mail(), country="xx"),
        pretty,
        altered(mail(), time_ms=NOON_MS + MAX_SKEW_MS + 1),
        good,
    ]
    counting = stage()
    take(counting, records(values))
    outputs = flush(counting)
    assert dead(outputs) == [
        ("not_json", 1, 1, b"bad"),
        ("bad_ip", 1, 3, altered_line(values[1], 3)),
        ("empty", 2, 0, b""),
        ("empty", 3, 0, b""),
        ("bad_country", 4, 0, values[4]),
        ("future", 6, 0, values[6]),
    ]
    assert copies(outputs) == 2 * 5


def altered_line(value: bytes | None, line: int) -> bytes:
    assert value is not None
    return value.split(b"\n")[line]


def test_an_event_may_be_dated_five_minutes_after_its_append_time_and_not_a_millisecond_more() -> None:
    counting = stage()
    at = [mail(NOON_MS + MAX_SKEW_MS + more) for more in (-1, 0, 1)]
    take(counting, records([encoded(event) for event in at]))
    outputs = flush(counting)
    assert [(reason, offset) for reason, offset, _, _ in dead(outputs)] == [("future", 2)]
    assert copies(outputs) == 2
    assert ranges(outputs)[0].progress_ms == NOON_MS, "never past the append time"


def test_an_event_of_the_far_future_does_not_move_time() -> None:
    counting = stage()
    take(counting, records([encoded(mail(NOON_MS - 9)), encoded(mail(4_102_444_800_000)), encoded(mail(NOON_MS - 10))]))
    outputs = flush(counting)
    assert [reason for reason, _, _, _ in dead(outputs)] == ["future"]
    assert ranges(outputs)[0].progress_ms == NOON_MS - 9
    assert copies(outputs) == 2


# -- decoding -------------------------------------------------------------------------------------------------------------

TRICKY: dict[str, list[bytes]] = {
    "plain": [encoded(mail()), encoded(spam(copies=3))],
    "two objects on one line beside an empty record": [encoded(mail()) + encoded(mail()), b""],
    "two objects on one line beside one cut in two": [
        encoded(mail()) + encoded(mail()), encoded(mail())[:-1] + b"\n", b"}",
    ],
    "one object over two records": [encoded(mail())[:-1], b"}", encoded(mail())],
    "an object cut inside its source": [encoded(mail())[:40], encoded(mail())[40:]],
    "white space around": [b" " + encoded(mail()) + b" ", encoded(mail()) + b"\n", b"\n" + encoded(mail())],
    "many lines": [encoded(mail(), spam(), mail()), encoded(mail())],
    "carriage returns": [encoded(mail()) + b"\r\n", b"\r\n".join([encoded(mail()), encoded(mail())])],
    "not ascii": [encoded(mail(helo="münchen.test")), encoded(mail())],
    "an escaped NUL": [altered(mail(), helo="a\0b"), encoded(mail())],
    "too long in bytes only": [altered(mail(), helo="é" * 161), encoded(mail())],
    "bad origin": [altered(mail(), ip="nowhere"), altered(mail(), country="xx"), encoded(mail())],
    "blank": [b" ", b"\n", b"\r\n", encoded(mail())],
    "a list of objects": [b"[" + encoded(mail()) + b"]", b"{}", b"[]", b"null"],
    "braces in text": [encoded(mail(helo="}\n{")), encoded(mail(helo="{}{}"))],
}  # fmt: skip


@pytest.mark.parametrize("values", TRICKY.values(), ids=TRICKY.keys())
def test_decoding_at_once_and_record_by_record_give_the_same(
    values: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = stage()
    take(fast, records(values))
    monkeypatch.setattr(count, "is_plain", lambda _: False)
    slow = stage()
    take(slow, records(values))
    alone = stage()
    for offset, value in enumerate(values):
        take(alone, records([value], start=offset))
    monkeypatch.undo()
    found = [flush(counting) for counting in (fast, slow, alone)]
    cells = [cells_in(rollups(outputs)) for outputs in found]
    assert cells[0] == cells[1] == cells[2]
    letters = [sorted(dead(outputs), key=lambda letter: letter[1:3]) for outputs in found]
    assert letters[0] == letters[1] == letters[2]


def test_plain_records_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(value: bytes) -> object:
        raise AssertionError("record by record")

    monkeypatch.setattr(count, "decode_lines", never)
    counting = stage()
    take(counting, records([encoded(mail()) for _ in range(10)]))
    assert copies(flush(counting)) == 10


# -- ranges ---------------------------------------------------------------------------------------------------------------


def test_ranges_are_contiguous_over_flushes_and_name_every_partition() -> None:
    counting = stage(0, 1)
    counting.restore({0: Committed(100, str(NOON_MS)), 1: Committed(7, "-1")})
    seen = []
    for batch in (
        records([encoded(mail())] * 3, 100),
        [],
        records([encoded(mail()), b"bad"], 7, 1) + records([encoded(mail())], 103),
    ):
        take(counting, batch)
        seen.append([(part.partition, part.start, part.end) for part in ranges(flush(counting))])
    assert seen == [[(0, 100, 103), (1, 7, 7)], [(0, 103, 103), (1, 7, 7)], [(0, 103, 104), (1, 7, 9)]]


def test_only_the_last_record_of_a_flush_carries_the_ranges() -> None:
    counting = stage()
    events = [spam(ip=f"10.{i >> 8}.{i & 255}.1", tokens=(f"html:{i}" + "x" * 80,)) for i in range(4_000)]
    take(counting, records([encoded(event) for event in events]))
    by_partition: dict[int, list[bool]] = {}
    for record in rollups(flush(counting)):
        by_partition.setdefault(record.partition, []).append(bool(record.ranges))
    assert max(len(flags) for flags in by_partition.values()) > 0
    assert all(flags == [False] * (len(flags) - 1) + [True] for flags in by_partition.values())


def test_an_offset_carries_the_event_time_that_the_next_owner_goes_on_from() -> None:
    first = stage()
    take(first, records([encoded(mail(NOON_MS + HOUR_MS))], append_ms=NOON_MS + HOUR_MS))
    flush(first)
    second = stage()
    second.restore({0: Committed(1, first.note(0))})
    take(second, records([encoded(mail(NOON_MS))], 1, append_ms=NOON_MS + HOUR_MS))
    assert all(late for _, _, late in cells_in(rollups(flush(second))))


# -- idleness -------------------------------------------------------------------------------------------------------------


END = 2
"""After one record and the marker of its transaction."""


def idle_at(counting: Count, now_ms: int) -> bool:
    counting.due(now_ms)
    return ranges(flush(counting, now_ms - SETTINGS.flush_ms))[0].idle


def test_a_partition_is_idle_when_it_was_read_to_its_end_and_silent() -> None:
    counting = stage()
    take(counting, records([encoded(mail())]))
    assert not idle_at(counting, WALL_MS + 29_999)
    assert not idle_at(counting, WALL_MS + 99_999), "silent, but its end was not seen"
    counting.at_end(0, END)
    assert not idle_at(counting, WALL_MS + 29_999)
    assert idle_at(counting, WALL_MS + 30_000)


def test_a_record_ends_idleness_at_once() -> None:
    counting = stage()
    take(counting, records([encoded(mail())]))
    counting.at_end(0, END)
    assert idle_at(counting, WALL_MS + 30_000)
    take(counting, records([encoded(mail())], 1), WALL_MS + 40_000)
    assert not idle_at(counting, WALL_MS + 80_000)


def test_a_partition_with_records_on_their_way_is_not_idle() -> None:
    # offsets   0 read, end seen at END      the broker now holds more: it was published while others were read
    counting = stage()
    take(counting, records([encoded(mail())]))
    counting.at_end(0, END)
    counting.reaches({0: END})
    assert idle_at(counting, WALL_MS + 30_000)
    counting.reaches({0: END + 1})
    assert not idle_at(counting, WALL_MS + 90_000)


def test_a_flush_is_due_when_something_moved_and_an_interval_has_passed() -> None:
    counting = stage()
    take(counting, records([encoded(mail())]))
    flush(counting, WALL_MS)
    assert not counting.due(WALL_MS + 1_000), "nothing moved"
    take(counting, records([encoded(mail())], 1), WALL_MS + 1_000)
    assert not counting.due(WALL_MS + 999)
    assert counting.due(WALL_MS + 1_000)
    flush(counting, WALL_MS + 1_000)
    counting.at_end(0, END)
    assert not counting.due(WALL_MS + 30_999)
    assert counting.due(WALL_MS + 31_000), "idleness moves time"


def test_a_flush_is_due_at_once_when_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "MAX_EVENTS", 10)
    counting = stage()
    flush(counting, WALL_MS)
    take(counting, records([encoded(mail())] * 9))
    assert not counting.due(WALL_MS)
    take(counting, records([encoded(mail())], 9))
    assert counting.due(WALL_MS)


# -- poison ---------------------------------------------------------------------------------------------------------------


def fed(counting: Count, good: int, bad: int, start: int, partition: int = 0) -> int:
    values = [encoded(mail())] * good + [b"bad"] * bad
    take(counting, records(values, start, partition))
    return start + good + bad


def test_a_partition_is_paused_when_more_than_half_of_the_last_ten_thousand_are_bad() -> None:
    half = POISON_WINDOW // 2
    counting = stage(0, 1)
    end = fed(counting, half, half, 0)
    assert counting.held_back() == {0: False, 1: False}
    fed(counting, 0, 1, end)
    assert counting.held_back() == {0: True, 1: False}
    assert ranges(flush(counting))
    counting.due(WALL_MS + 1_000)
    assert [part.idle for part in ranges(flush(counting))] == [True, False], "a paused partition holds nobody back"


def test_old_bad_records_are_forgotten() -> None:
    counting = stage()
    end = fed(counting, 0, 4_000, 0)
    for _ in range(4):
        end = fed(counting, 3_000, 0, end)
    fed(counting, 0, 4_000, end)
    assert counting.held_back() == {0: False}


def test_less_than_half_of_what_is_looked_at_is_never_poison() -> None:
    counting = stage()
    end = fed(counting, 4_000, 2_500, 0)
    fed(counting, 3_500, 2_600, end)
    assert counting.held_back() == {0: False}


# -- running ahead --------------------------------------------------------------------------------------------------------


def at(counting: Count, partition: int, minutes: int, offset: int) -> None:
    time_ms = NOON_MS + minutes * MINUTE_MS
    take(counting, records([encoded(mail(time_ms))], offset, partition, append_ms=time_ms))


def test_a_partition_far_ahead_waits_until_it_is_within_half_the_distance() -> None:
    counting = stage(0, 1)
    at(counting, 0, 0, 0)
    at(counting, 1, 30, 0)
    assert counting.held_back() == {0: False, 1: False}
    at(counting, 1, 31, 1)
    assert counting.held_back() == {0: False, 1: True}
    at(counting, 0, 15, 1)
    assert counting.held_back() == {0: False, 1: True}, "sixteen minutes ahead: not yet"
    at(counting, 0, 16, 2)
    assert counting.held_back() == {0: False, 1: False}


def test_nobody_waits_for_a_partition_that_is_idle_or_has_no_event() -> None:
    counting = stage(0, 1, 2)
    at(counting, 1, 500, 0)
    assert not any(counting.held_back().values())
    at(counting, 0, 0, 0)
    assert counting.held_back()[1]
    counting.at_end(0, END)
    counting.due(WALL_MS + 30_000)
    assert not any(counting.held_back().values())


# -- forgetting -----------------------------------------------------------------------------------------------------------


def test_what_was_dropped_is_counted_by_whoever_reads_it_again() -> None:
    counting = stage()
    take(counting, records([encoded(mail()), b"bad"]))
    counting.drop([0])
    assert counting.held_back() == {}
    counting.restore({0: Committed(0, fresh=True)})
    take(counting, records([encoded(mail()), b"bad"]))
    outputs = flush(counting)
    assert copies(outputs) == 1
    assert len(dead(outputs)) == 1
    assert [(part.start, part.end) for part in ranges(outputs)] == [(0, 2)]


def test_metrics_move_with_the_commit_and_not_before() -> None:
    metrics = Metrics("count")
    counting = Count(SETTINGS, metrics)
    counting.restore({0: Committed(0, fresh=True)})
    take(counting, records([encoded(mail()), b"bad"]))
    list(counting.outputs())
    assert b'spamtide_count_bad_total{reason="not_json"} 1.0' not in metrics.render()
    counting.committed(Outcome(WALL_MS, 0.1, {}))
    assert b'spamtide_count_bad_total{reason="not_json"} 1.0' in metrics.render()
    assert b"spamtide_count_records_total 2.0" in metrics.render()
