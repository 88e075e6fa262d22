"""COUNT: decode and check each event, add it up in memory per entity and minute, publish the sums once a second.

    mail-events ──▶ decode ──▶ cells in memory ──flush──▶ mail-rollups     (what cannot be counted ──▶ mail-events-dlq)

Nothing is kept between flushes: offsets, sums and refusals go into one transaction, and how far each partition's event time has come is
committed beside its offset. A worker that dies is replaced by one that reads on from there.
"""

import gc
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from confluent_kafka import Message

from producers.errors import InvalidInput
from producers.event import MAX_RECORD_BYTES, MAX_SKEW_MS, MailEvent, decode_lines, is_plain
from streams.accumulate import Accumulator
from streams.metrics import CounterName, GaugeName, Metrics
from streams.rollup import ON_TIME, Bools, InputProgress, InputRange, Ints, Rollup
from streams.settings import Settings
from streams.topics import MAIL_EVENTS, MAIL_EVENTS_DLQ, MAIL_ROLLUPS
from streams.transaction import Committed, Outcome, Outgoing, Worker

MAX_EVENTS: Final = 100_000
"""A flush is due at this many events, whatever the time: it bounds memory."""
POISON_WINDOW: Final = 10_000
"""A partition is paused when more than half of this many last records were bad."""


_BY_PARTITION: Final[tuple[GaugeName, ...]] = (
    "count_partition_progress_seconds",
    "count_partition_idle",
    "count_partition_paused",
    "count_input_lag_records",
)


class Refused(msgspec.Struct, frozen=True):
    """A line that could not be counted, and where it came from."""

    partition: int
    offset: int
    line: int
    reason: str
    value: bytes


class InputPartition:
    """What COUNT knows of one input partition between two commits."""

    __slots__ = ("_recent", "at_end", "end", "held", "idle", "last_ms", "next", "poisoned", "progress", "start")

    def __init__(self, offset: int, progress: InputProgress, now_ms: int) -> None:
        self.start = self.next = self.end = offset
        self.progress = progress
        self.last_ms = now_ms
        self.at_end = self.idle = self.held = self.poisoned = False
        self._recent: deque[tuple[int, int]] = deque()

    def saw(self, records: int, bad: int, next_offset: int, now_ms: int) -> None:
        """Notes a batch: how many records, how many of them bad."""
        self.next = next_offset
        self.last_ms = now_ms
        self.at_end = self.idle = False
        self._recent.append((records, bad))
        while sum(n for n, _ in self._recent) - self._recent[0][0] >= POISON_WINDOW:
            self._recent.popleft()
        seen, spoiled = (sum(column) for column in zip(*self._recent, strict=True))
        self.poisoned = self.poisoned or 2 * spoiled > max(
            seen, POISON_WINDOW
        )  # batches are not cut: `seen` may be more

    def settle(self, now_ms: int, idle_ms: int) -> bool:
        """Declares the partition idle or not; true where that changed."""
        idle = self.poisoned or (self.at_end and now_ms - self.last_ms >= idle_ms)
        changed = idle != self.idle
        self.idle = idle
        return changed

    @property
    def active_ms(self) -> int | None:
        """Event time, where it has any and is not idle."""
        return None if self.idle or self.progress.progress_ms < 0 else self.progress.progress_ms


class Count:
    """The stage: see `streams.transaction.Stage`."""

    name = "count"
    topic = MAIL_EVENTS
    batch = 2_000
    """Few enough to stay in the processor's cache from decoding to counting."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sums = Accumulator()
        self._decoder = msgspec.json.Decoder(MailEvent)
        self._inputs: dict[int, InputPartition] = {}
        self._refused: list[Refused] = []
        self._tally: Counter[CounterName] = Counter()
        self._flushed_ms = self._now_ms = 0
        self._moved = False

    def restore(self, committed: Mapping[int, Committed]) -> None:
        """Takes partitions up where their offsets, and the event time noted with them, stand."""
        for partition, place in committed.items():
            progress = InputProgress(self._settings.grace_ms, int(place.note or -1))
            self._inputs[partition] = InputPartition(place.offset, progress, self._now_ms)
        self._moved = True

    def drop(self, partitions: Iterable[int]) -> None:
        """Forgets partitions and whatever was not committed."""
        for partition in partitions:
            self._inputs.pop(partition, None)
            for name in _BY_PARTITION:
                self._metrics.drop(name, partition=str(partition))
        self._clear()

    def take(self, messages: Sequence[Message], now_ms: int) -> None:
        """Decodes and adds records."""
        self._now_ms = now_ms
        if not messages:
            return
        gc.disable()  # a batch is a hundred thousand small values that die young: scanning them finds nothing
        try:
            self._take(messages, now_ms)
        finally:
            gc.enable()

    def _take(self, messages: Sequence[Message], now_ms: int) -> None:
        values = [message.value() or b"" for message in messages]
        partition_of = np.fromiter((message.partition() for message in messages), np.int64, len(messages))
        append_ms = np.fromiter((message.timestamp()[1] for message in messages), np.int64, len(messages))
        events, record_of, line_of, refused = self._decode(values)
        bad = Counter({index for index, _, _, _ in refused})
        if events:
            prepared = self._sums.prepare(events)
            partitions, append_ms = partition_of[record_of], append_ms[record_of]
            future = prepared.time_ms > append_ms + MAX_SKEW_MS
            kept = ~(future | prepared.bad_ip | prepared.bad_country)
            after = self._observe(partitions, prepared.time_ms, append_ms, kept)
            self._sums.add(prepared, kept, after)
            self._tally["count_events_total"] += int(kept.sum())
            self._tally["count_late_events_total"] += int((after != ON_TIME).sum())
            for index in np.flatnonzero(~kept):
                reason = (
                    "bad_ip" if prepared.bad_ip[index] else "bad_country" if prepared.bad_country[index] else "future"
                )
                record = int(record_of[index])
                refused.append((record, int(line_of[index]), reason, _line(values[record], int(line_of[index]))))
                bad[record] = 1
        for record, line, reason, value in sorted(refused):
            message = messages[record]
            self._refused.append(Refused(message.partition(), message.offset(), line, reason, value))  # type: ignore[arg-type]
        self._note(messages, partition_of, np.array(sorted(bad), dtype=np.int64), now_ms)

    def _decode(self, values: list[bytes]) -> tuple[list[MailEvent], Ints, Ints, list[tuple[int, int, str, bytes]]]:
        """Events with the record and line of each; and (record, line, reason, bytes) of what is none.

        The whole batch at once where every record is one plain line, which is nearly always; else record by record.
        """
        joined = b"\n".join(values)
        if _one_object_a_line(joined, len(values)) and is_plain(joined):
            try:
                events = self._decoder.decode_lines(joined)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                events = []
            if len(events) == len(values):
                return events, np.arange(len(values)), np.zeros(len(values), dtype=np.int64), []
        events, places, refused = [], [], []
        for record, value in enumerate(values):
            for line, content, outcome in decode_lines(value):
                if isinstance(outcome, InvalidInput):
                    refused.append((record, line, outcome.reason, content))
                else:
                    events.append(outcome)
                    places.append((record, line))
        where = np.array(places, dtype=np.int64).reshape(-1, 2)
        return events, where[:, 0], where[:, 1], refused

    def _observe(self, partitions: Ints, time_ms: Ints, append_ms: Ints, kept: Bools) -> Ints:
        """Moves each partition's event time on; which events are late, and after which minute they came."""
        after = np.full(len(time_ms), ON_TIME, dtype=np.int64)
        for partition in np.unique(partitions).tolist():
            own = np.flatnonzero((partitions == partition) & kept)
            after[own] = self._inputs[partition].progress.observe(time_ms[own], append_ms[own])
        return after

    def _note(self, messages: Sequence[Message], partition_of: Ints, bad: Ints, now_ms: int) -> None:
        self._tally["count_records_total"] += len(messages)
        self._moved = True
        bad_in = Counter(partition_of[bad].tolist())
        for partition in np.unique(partition_of).tolist():
            own = np.flatnonzero(partition_of == partition)
            end = messages[own[-1]].offset() + 1
            self._inputs[partition].saw(len(own), bad_in[partition], end, now_ms)

    def at_end(self, partition: int, end: int) -> None:
        """Silence may begin to count."""
        place = self._inputs[partition]
        place.at_end, place.end = True, end

    def reaches(self, ends: Mapping[int, int]) -> None:
        """A partition with more on its way is not silent, though its records wait behind those of another."""
        for partition, end in ends.items():
            place = self._inputs[partition]
            if place.at_end and end > place.end:
                place.at_end = place.idle = False

    def held_back(self) -> Mapping[int, bool]:
        """Pauses a poisoned partition, and one whose event time runs far ahead of the slowest active one.

        A partition let go again must first have come within half the distance, so that it is not stopped at every batch.
        """
        active = [ms for ms in (place.active_ms for place in self._inputs.values()) if ms is not None]
        slowest, allowed = min(active, default=0), self._settings.max_ahead_minutes * 60_000
        for place in self._inputs.values():
            ahead = 0 if place.active_ms is None else place.active_ms - slowest
            place.held = place.poisoned or ahead > (allowed // 2 if place.held else allowed)
        return {partition: place.held for partition, place in self._inputs.items()}

    def due(self, now_ms: int) -> bool:
        """Once a flush interval when anything moved, idleness included; at once when memory says so."""
        if self._sums.events >= MAX_EVENTS:
            return True
        if now_ms - self._flushed_ms < self._settings.flush_ms:
            return False
        for place in self._inputs.values():
            self._moved |= place.settle(now_ms, self._settings.idle_ms)
        return self._moved

    def outputs(self) -> Iterable[Outgoing]:
        """Sums with the ranges they cover, to every output partition; and what was refused."""
        ranges = tuple(
            InputRange(partition, place.start, place.next, place.progress.progress_ms, place.idle)
            for partition, place in sorted(self._inputs.items())
        )
        self._tally["count_copies_total"] += self._sums.copies
        topic = self._settings.topic(MAIL_ROLLUPS)
        encoder = msgspec.msgpack.Encoder()
        for records in self._sums.drain():
            records[-1] = msgspec.structs.replace(records[-1], ranges=ranges)
            for record in records:
                self._tally["count_flush_cells_total"] += len(record.minute) // 4
                yield _outgoing(topic, record, encoder)
        for refused in self._refused:
            yield self._dead_letter(refused)

    def _dead_letter(self, refused: Refused) -> Outgoing:
        headers: list[tuple[str, str | bytes | None]] = [
            ("topic", self._settings.topic(MAIL_EVENTS)),
            ("partition", str(refused.partition)),
            ("offset", str(refused.offset)),
            ("line", str(refused.line)),
            ("stage", self.name),
            ("reason", refused.reason),
        ]
        value = refused.value[:MAX_RECORD_BYTES]
        if len(value) < len(
            refused.value
        ):  # compressed, it fitted the input topic; whole, it would stop the worker here
            headers.append(("cut_from_bytes", str(len(refused.value))))
        return Outgoing(self._settings.topic(MAIL_EVENTS_DLQ), 0, None, value, headers)

    def note(self, partition: int) -> str:
        """Event time goes with the offset, so that the next owner finds the same events late."""
        return str(self._inputs[partition].progress.progress_ms)

    def committed(self, outcome: Outcome) -> None:
        """Metrics move; the next flush starts where this one ended."""
        metrics = self._metrics
        metrics.add("count_transactions_total", outcome="committed")
        metrics.observe("count_flush_seconds", outcome.took_s)
        for name, value in self._tally.items():
            metrics.add(name, value)
        for reason, times in Counter(refused.reason for refused in self._refused).items():
            metrics.add("count_bad_total", times, reason=reason)
        for number, place in self._inputs.items():
            place.start = place.next
            partition = str(number)
            metrics.set("count_partition_progress_seconds", place.progress.progress_ms / 1000, partition=partition)
            metrics.set("count_partition_idle", place.idle, partition=partition)
            metrics.set("count_partition_paused", place.poisoned, partition=partition, why="poison")
            metrics.set("count_partition_paused", place.held and not place.poisoned, partition=partition, why="ahead")
            metrics.set("count_input_lag_records", outcome.lag.get(number, 0), partition=partition)
        self._clear()
        self._flushed_ms = outcome.now_ms

    def aborted(self) -> None:
        """Only counted: `drop` forgets."""
        self._metrics.add("count_transactions_total", outcome="aborted")

    def _clear(self) -> None:
        self._sums.clear()
        self._refused.clear()
        self._tally.clear()
        self._moved = False


def _one_object_a_line(joined: bytes, records: int) -> bool:
    """Whether lines and records must be the same: no object can go on over `}\\n{`, and no record is empty or begins in another.

    Counting what was decoded is not enough: two objects on one line and an empty record beside them look like two good records.
    """
    joints = records - 1
    whole = joined.startswith(b"{") and joined.endswith(b"}")
    return whole and joined.count(b"\n") == joints and joined.count(b"}\n{") == joints


def _line(value: bytes, line: int) -> bytes:
    """The bytes of a line of a record; of a record that is one object over several lines, all of it."""
    return (
        value
        if line == 0 and b"\n" not in value.rstrip(b"\n")
        else next(content for index, content, _ in decode_lines(value) if index == line)
    )


def _outgoing(topic: str, record: Rollup, encoder: msgspec.msgpack.Encoder) -> Outgoing:
    return Outgoing(topic, record.partition, str(record.partition).encode(), encoder.encode(record))


def run(settings: Settings, stop: threading.Event) -> None:
    """Runs a COUNT worker until `stop` is set. Raises `SystemFault`."""
    metrics = Metrics("count")
    metrics.serve(settings.metrics_address, settings.count_metrics_port)
    stage = Count(settings, metrics)
    Worker(settings, stage, fetch_min_bytes=1, queued_max_messages_kbytes=65536).run(stop)
