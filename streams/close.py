"""The core of TRACK: rollups in; minutes close in order; facts, signals and changed rows out. Pure.

    take ──▶ cells wait ──▶ (watermark passes a minute) ──▶ fold into rows ──▶ judge ──▶ signals
                                                          └──▶ hour or day over ──▶ facts

A cell is late when its minute was over by the events before it in its own input partition (or, where that had been idle, by the records
before it here); it is added after the minute it came after. So neither facts nor judgements depend on how a log was cut into batches. Late cells revise hours and days, never a judgement. WaitingCells that wait are not saved: they are read again from `mail-rollups`.
"""

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

import msgspec
import numpy as np

from streams.incident import OPEN, Life, Signal, step
from streams.layout import MINUTES_A_DAY, SPANS, Field, Rows, Span
from streams.moments import Moments, added_by_minute
from streams.rollup import INTAKE, ON_TIME, Ints, Rollup, cells_of
from streams.rules import SEVERITIES, Columns, Limits, Verdicts, evaluate, may_speak
from streams.signals import signal_of
from streams.table import Row, Table, summed
from streams.volume import COUNTERS, FACT_VERSION, KINDS, Fact
from streams.waiting import Marker, Partition, WaitingCells, between, by_order, joined
from streams.watermark import NEVER, Clock

_LIFE: Final = slice(Field.STATE, Field.RESOLVED + 1)
_COPIES, _UNWANTED, _TRAPS = (COUNTERS.index(name) for name in ("copies", "unwanted", "traps"))
_CAMPAIGN, _INTAKE_KIND = KINDS.index("campaign"), KINDS.index(INTAKE)
_NO_MINUTE: Final = 1 << 62
_EXPIRES_MINUTES: Final = 35 * 1440


class Closer:
    """All partitions of one worker, over one table."""

    def __init__(self, limits: Limits, quiet_minutes: int, grace_ms: int) -> None:
        self.table = Table()
        self.partitions: dict[int, Partition] = {}
        self.facts: list[Fact] = []
        self.signals: list[Signal] = []
        self.forgotten: list[tuple[int, str]] = []
        """(partition, entity) of rows to be deleted from the changelog."""
        self.cells_folded = self.minutes_closed = self.evicted = self.late_copies = self.too_late_copies = 0
        """Since the last commit."""
        self.newest = NEVER
        """The newest closed minute of any partition."""
        self._limits = limits
        self._quiet_minutes = quiet_minutes
        self._grace_ms = grace_ms
        self._waiting: list[WaitingCells] = []
        self._late: dict[tuple[Span, int, int], Ints] = {}
        self._open: set[int] = set()
        self._spans_open = False
        self._overdue = False
        """Whether a cell waits for a minute that is closed already."""

    # -- partitions -------------------------------------------------------------------------------------------------------

    def open(self, partition: int, next_offset: int, expected_inputs: int, marker: Marker | None = None) -> None:
        """Begins a partition, anew or where its marker stands; its rows are loaded into the table by `load`."""
        self.partitions[partition] = place = Partition(Clock(self._grace_ms, expected_inputs), next_offset)
        if marker is not None:
            place.epoch, place.late_copies = marker.epoch, marker.late_copies
            place.too_late_copies |= marker.too_late_copies
            place.clock.inputs = dict(marker.inputs)
            place.clock.closed = place.clock.closable = marker.closed
            self.newest = max(self.newest, marker.closed)

    def load(self, partition: int, rows: list[tuple[str, Row]]) -> None:
        """Puts back the rows of a partition."""
        self.table.load(rows, partition)
        for name, _ in rows:
            row = self.table.row_of[name]
            if self.table.ledger[row, Field.STATE] == OPEN:
                self._open.add(row)
        self._spans_open = True

    def drop(self, partitions: Iterable[int]) -> None:
        """Forgets partitions, their rows and what waits for them."""
        gone = set(partitions)
        self._waiting = [
            kept
            for cells in self._waiting
            for kept in [cells.where(~np.isin(self.table.partition[cells.rows], list(gone)))]
        ]
        rows = np.flatnonzero(np.isin(self.table.partition, list(gone))).tolist()
        self._open.difference_update(rows)
        self.table.remove(rows)
        for partition in gone:
            self.partitions.pop(partition, None)
        self.facts.clear()
        self.signals.clear()
        self.forgotten.clear()
        self._late.clear()

    # -- input ------------------------------------------------------------------------------------------------------------

    def take(self, rollup: Rollup, offset: int) -> None:
        """Takes one record. Raises `AuditFailure` where it does not follow on what was counted."""
        place = self.partitions[rollup.partition]
        self.table.learn_all(rollup.details, rollup.partition)
        self._wait(rollup, offset, place)
        place.clock.observe(rollup.ranges)
        place.next_offset = offset + 1

    def take_again(self, rollup: Rollup, offset: int) -> None:
        """Takes back, after a restore, the cells of a record before the offset that still wait."""
        place = self.partitions[rollup.partition]
        self._wait(rollup, offset, place, again=True)

    def _wait(self, rollup: Rollup, offset: int, place: Partition, again: bool = False) -> None:
        if not rollup.name_of:
            return
        cells = cells_of(rollup)
        minute, after = cells.minute.astype(np.int64), cells.after.astype(np.int64)
        closable = place.clock.closable
        late = (after != ON_TIME) | (minute <= closable)
        order = np.where(late, np.maximum(after, closable) * 2 + 1, minute * 2)
        if again:  # what was late without its input partition knowing was added at once
            order = np.where(after != ON_TIME, after * 2 + 1, minute * 2)
        rows = self.table.rows_for(rollup.names, rollup.partition)[cells.name_of]
        waits = order >> 1 > place.clock.closed if again else np.ones(len(order), dtype=np.bool_)
        self._waiting.append(WaitingCells(order, minute, rows, cells.counters).where(waits))
        place.waiting.append((offset, int(order.max()) >> 1))
        self._overdue = self._overdue or bool((order[waits] >> 1 <= closable).any())
        if not again:
            campaigns = self.table.kind[rows] == _CAMPAIGN  # every copy is in one campaign: counted once
            copies = int(cells.counters[_COPIES, late & campaigns].sum())
            place.late_copies += copies
            self.late_copies += copies

    # -- minutes ----------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Closes every minute that is over, in order, all partitions together where their watermarks allow."""
        over = {p: place.clock for p, place in self.partitions.items() if place.clock.closable > place.clock.closed}
        if over or self._overdue:
            self._overdue = False
            cells = self._due()
            self._close_minutes(over, cells)
            day_over = any(clock.closable // MINUTES_A_DAY > clock.closed // MINUTES_A_DAY for clock in over.values())
            for clock in over.values():
                clock.closed = clock.closable
            if day_over:
                self._expire()
        if self.partitions and all(place.clock.all_idle for place in self.partitions.values()):
            self._tell_open_spans()

    def _due(self) -> WaitingCells:
        """Takes the cells whose minute is over in their own partition, by order."""
        everything = joined(self._waiting)
        closable = np.full(max(self.partitions, default=0) + 1, NEVER, dtype=np.int64)
        for partition, place in self.partitions.items():
            closable[partition] = place.clock.closable
        due = everything.order >> 1 <= closable[self.table.partition[everything.rows]]
        self._waiting = [everything.where(~due)] if not due.all() else []
        chosen = everything.where(due)
        return chosen.where(np.argsort(chosen.order, kind="stable"))

    def _close_minutes(self, over: dict[int, Clock], cells: WaitingCells) -> None:
        """Stretch by stretch: minutes of one hour, of the same partitions, in which no late cell comes."""
        is_late = cells.order & 1 == 1
        late, on_time = by_order(cells.where(is_late)), cells.where(~is_late)
        visits = sorted({*on_time.minute.tolist(), *late})
        began = [clock.closed + 1 for clock in over.values() if clock.closed != NEVER]
        end = max([*(clock.closable for clock in over.values()), *visits[-1:]], default=NEVER)
        minute = min([*visits[:1], *began], default=end)
        while minute <= end:
            active = [p for p, clock in over.items() if clock.closed < minute <= clock.closable]
            last = self._stretch(minute, active, over, late)
            self._close_stretch(minute, last, active, on_time.where(between(on_time.minute, minute, last)))
            if last in late:
                self._fold_late(late[last], last)
            minute = self._next_minute(last, visits)
        if end > self.newest:
            self.minutes_closed += end - self.newest if self.newest != NEVER else 1
            self.newest = end

    def _stretch(self, minute: int, active: list[int], over: dict[int, Clock], late: dict[int, WaitingCells]) -> int:
        """The last minute of the stretch that begins with `minute`."""
        if not active:
            return minute
        ends = [minute // 60 * 60 + 59, *(over[partition].closable for partition in active)]
        ends += [clock.closed for clock in over.values() if clock.closed >= minute]
        ends += [after for after in late if after >= minute]
        return min(ends)

    def _next_minute(self, last: int, visits: list[int]) -> int:
        """The next minute at which anything can happen."""
        if self._open:
            return last + 1
        next_visit = visits[bisect_right(visits, last) :][:1]
        hour_end = (last + 1) // 60 * 60 + 59
        return min([*next_visit, *([hour_end] if self._spans_open else [])], default=_NO_MINUTE)

    def _close_stretch(self, first: int, last: int, active: list[int], cells: WaitingCells) -> None:
        rows = self._at_stake(cells, first, active)
        before = self.table.last_minutes(rows, first - 1)
        self._fold(cells)
        if len(rows):
            self.table.advance(rows, last)
            added = added_by_minute(rows, cells.rows, cells.minute, cells.counters, first, last)
            self._judge(Moments(self.table, rows, first, last, before, added), last)
        for span in SPANS:
            if (last + 1) % span.minutes == 0:
                self._close_span(span, active)

    def _at_stake(self, cells: WaitingCells, first: int, active: list[int]) -> Rows:
        """Rows that must be judged: those that can speak with all that the stretch brings, and those with an open incident."""
        table = self.table
        watched = [row for row in self._open if table.partition[row] in active]
        rows, place = np.unique(cells.rows, return_inverse=True)
        due = summed(place, cells.counters[[_UNWANTED, _TRAPS]], len(rows))
        unwanted, traps = (table.recent(rows, name, first, 30) for name in ("day_unwanted", "day_traps"))
        speaks = may_speak(unwanted + due[0], traps + due[1], self._limits) & ~table.bucket[rows]
        return np.union1d(rows[speaks], np.array(watched, dtype=np.intp))

    def _fold(self, cells: WaitingCells) -> None:
        if not len(cells.rows):
            return
        self.cells_folded += len(cells.rows)
        self._spans_open = True
        parts = np.zeros(max(self.partitions) + 1, dtype=np.int64)
        for partition, place in self.partitions.items():
            parts[partition] = place.epoch * 2
        self.table.fold(cells.rows, cells.minute, cells.counters, parts)

    def _fold_late(self, cells: WaitingCells, after: int) -> None:
        """Adds late cells to the hours and days that are still held; what is older is counted as too late."""
        self.cells_folded += len(cells.rows)
        for minute in np.unique(cells.minute).tolist():
            chosen = cells.minute == minute
            rows, place = np.unique(cells.rows[chosen], return_inverse=True)
            sums = summed(place, cells.counters[:, chosen], len(rows))
            self.table.fold_late(rows, sums, minute)
            for span in SPANS:
                start = minute // span.minutes
                if start <= after // span.minutes - span.held:
                    self._too_late(span, rows, sums)
                    continue
                is_open = self.table.ledger[rows, span.start] == start
                self.table.add_to_open(span, rows[is_open], sums[:, is_open])
                self._spans_open = True
                for row, counters in zip(rows[~is_open].tolist(), sums[:, ~is_open].T, strict=True):
                    key = (span, start, row)
                    self._late[key] = self._late[key] + counters if key in self._late else counters

    def _too_late(self, span: Span, rows: Rows, sums: Ints) -> None:
        campaigns = self.table.kind[rows] == _CAMPAIGN
        for row, copies in zip(rows[campaigns].tolist(), sums[_COPIES, campaigns].tolist(), strict=True):
            self.partitions[int(self.table.partition[row])].too_late_copies[span.name] += copies
            self.too_late_copies += copies if span is SPANS[0] else 0

    # -- facts ------------------------------------------------------------------------------------------------------------

    def _close_span(self, span: Span, active: list[int]) -> None:
        """The hour or day is over: what changed is told, and the ledger is ready for the next."""
        ledger, table = self.table.ledger, self.table
        ended = (ledger[:, span.start] != NEVER) & (table.partition != NEVER) & np.isin(table.partition, active)
        rows = np.flatnonzero(ended)
        self._tell(span, rows)
        ledger[rows, span.start] = NEVER
        ledger[rows, span.revision] = 0
        ledger[rows, span.counters] = 0
        table.dirty[rows] = True
        live = table.partition != NEVER
        self._spans_open = any(bool((ledger[live, span.start] != NEVER).any()) for span in SPANS)

    def _tell_open_spans(self) -> None:
        """Silence everywhere: the open hour and day are told as far as they are known. Each later telling is a higher revision."""
        for span in SPANS:
            rows = np.flatnonzero((self.table.partition != NEVER) & (self.table.ledger[:, span.start] != NEVER))
            self._tell(span, rows)

    def _tell(self, span: Span, rows: Rows) -> None:
        """Facts of those rows that changed since they were last told."""
        ledger = self.table.ledger
        rows = rows[ledger[rows, span.dirty] == 1]
        if not len(rows):
            return
        ledger[rows, span.dirty] = 0
        self.table.dirty[rows] = True
        told = rows[self.table.kind[rows] != _INTAKE_KIND]
        names = self.table.names
        starts, parts, revisions = (ledger[told, column].tolist() for column in (span.start, span.part, span.revision))
        for row, start, part, revision, counters in zip(
            told.tolist(), starts, parts, revisions, ledger[told, span.counters].tolist(), strict=True
        ):
            self.facts.append(_fact(names[row], span, start, part, revision, counters))
        ledger[told, span.revision] += 1

    def tell_late(self) -> None:
        """Late cells of hours and days that are no longer open: parts of their own."""
        for (span, start, row), counters in self._late.items():
            if self.table.kind[row] != _INTAKE_KIND:
                part = self.partitions[int(self.table.partition[row])].epoch * 2 + 1
                self.facts.append(_fact(self.table.names[row], span, start, part, 0, counters.tolist()))
        self._late.clear()

    def told(self) -> None:
        """What was to be told is committed."""
        self.facts.clear()
        self.signals.clear()
        self.forgotten.clear()
        self.cells_folded = self.minutes_closed = self.evicted = self.late_copies = self.too_late_copies = 0

    def _expire(self) -> None:
        """Rows unseen for 35 days hold nothing any more."""
        last = self.table.ledger[:, Field.LAST_SEEN]
        old = (last != NEVER) & (last < self._closed()[self.table.partition] - _EXPIRES_MINUTES)
        old &= (self.table.partition != NEVER) & (self.table.ledger[:, Field.STATE] != OPEN)
        self.forget(np.flatnonzero(old))

    def _closed(self) -> Ints:
        """The last closed minute by partition; the place after the last stands for rows of none."""
        closed = np.full(max(self.partitions, default=0) + 2, NEVER, dtype=np.int64)
        for partition, place in self.partitions.items():
            closed[partition] = place.clock.closed
        return closed

    def evict(self, most: int) -> None:
        """Above `most` rows the least recent small ones go: their facts are told, their rings are added to `(other)`."""
        excess = len(self.table) - most
        if excess <= 0:
            return
        table, ledger = self.table, self.table.ledger
        rows = np.flatnonzero((table.partition != NEVER) & (ledger[:, Field.STATE] != OPEN) & ~table.bucket)
        size = np.minimum(table.recent(rows, "day_copies", self.newest, 30), (1 << 32) - 1)
        age = np.maximum(ledger[rows, Field.LAST_SEEN], 0) // 60
        order = np.argsort(age << 32 | size, kind="stable")[: excess + most // 20]
        self._fold_into_other(rows[order])

    def _fold_into_other(self, rows: Rows) -> None:
        table = self.table
        gone = self._forgettable(rows)
        for span in SPANS:
            self._tell(span, gone[table.ledger[gone, span.start] != NEVER])
        for partition, kind in {(int(table.partition[row]), int(table.kind[row])) for row in gone.tolist()}:
            own = gone[(table.partition[gone] == partition) & (table.kind[gone] == kind)]
            (other,) = table.rows_for((f"{KINDS[kind]}:(other):{partition}",), partition)
            table.merge_rings(own, int(other), self.newest)
        self.evicted += len(gone)
        self.forget(gone)

    def open_incidents(self) -> dict[str, int]:
        """How many incidents are open, by severity."""
        severity = self.table.ledger[sorted(self._open), Field.SEVERITY]
        return {name: int((severity == level).sum()) for level, name in enumerate(SEVERITIES) if level}

    def _forgettable(self, rows: Rows) -> Rows:
        """Those of the rows for which nothing waits."""
        waiting = {row for cells in self._waiting for row in cells.rows.tolist()} | {row for _, _, row in self._late}
        return rows[[row not in waiting for row in rows.tolist()]] if waiting else rows

    def forget(self, rows: Rows) -> None:
        """Removes rows that have nothing more to tell; the changelog gets tombstones."""
        gone = self._forgettable(rows).tolist()
        self.forgotten += [(int(self.table.partition[row]), self.table.names[row]) for row in gone]
        self.table.remove(gone)

    # -- judgement --------------------------------------------------------------------------------------------------------

    def _judge(self, moments: Moments, last: int) -> None:
        """Runs the rules over every row and minute of a stretch, and lives each row's incident through it."""
        ledger, rows = self.table.ledger, moments.rows
        is_open = ledger[rows, Field.STATE] == OPEN
        columns = moments.columns(
            first_trap=ledger[rows, Field.FIRST_TRAP],
            intake_24h=self._intake(rows, last),
            projected=self.table.kind[rows] == _CAMPAIGN,
            tier=np.where(is_open, ledger[rows, Field.TIER], 0),
        )
        verdicts = evaluate(columns, self._limits)
        severity, tier = (said.reshape(len(rows), -1) for said in (verdicts.severity, verdicts.tier))
        as_held = (ledger[rows, Field.SEVERITY] == severity.T) & (ledger[rows, Field.TIER] == tier.T)
        eventful = (np.where(is_open, ~as_held, severity.T > 0)).any(axis=0)
        same = rows[is_open & ~eventful]
        ledger[same, Field.LAST_SPOKE] = last
        ledger[same, Field.LOWER_SINCE] = NEVER
        self.table.dirty[same] = True
        told = []
        for place in np.flatnonzero(eventful).tolist():
            told += self._live(place, moments, columns, verdicts)
        if (last + 1) % 60 == 0:
            told += self._tell_volumes(moments, verdicts, last)
        self.signals += [signal for _, signal in sorted(told, key=itemgetter(0))]

    def _live(self, place: int, moments: Moments, columns: Columns, verdicts: Verdicts) -> list[tuple[int, Signal]]:
        """Lives one row's incident through a stretch; what it tells, with the minute."""
        row, told = int(moments.rows[place]), []
        life = Life(*self.table.ledger[row, _LIFE].tolist())
        start = place * moments.minutes
        for minute in range(moments.first, moments.first + moments.minutes):
            at = minute - moments.first + start
            held = life.tier
            life, change = step(life, int(verdicts.severity[at]), int(verdicts.tier[at]), minute, self._quiet_minutes)
            if change is not None:
                seen = moments.seen(place, minute)
                told.append(
                    (minute, signal_of(self.table, row, life, change, minute, seen, verdicts, at, self._limits))
                )
            if life.tier != held or change in ("opened", "reopened", "resolved"):  # what is held now decides the rest
                rest = slice(at + 1, start + moments.minutes)
                tier = life.tier if life.state == OPEN else 0
                verdicts.overwrite(rest, evaluate(columns.part(rest, tier), self._limits))
        self.table.ledger[row, _LIFE] = msgspec.structs.astuple(life)
        self.table.dirty[row] = True
        (self._open.add if life.state == OPEN else self._open.discard)(row)
        return told

    def _tell_volumes(self, moments: Moments, verdicts: Verdicts, last: int) -> list[tuple[int, Signal]]:
        """At the end of an hour every open incident repeats its figures."""
        told = []
        for place in np.flatnonzero(self.table.ledger[moments.rows, Field.STATE] == OPEN).tolist():
            row, at = int(moments.rows[place]), (place + 1) * moments.minutes - 1
            life = Life(*self.table.ledger[row, _LIFE].tolist())
            life = msgspec.structs.replace(life, seq=life.seq + 1)
            self.table.ledger[row, _LIFE] = msgspec.structs.astuple(life)
            self.table.dirty[row] = True
            seen = moments.seen(place, last)
            told.append((last, signal_of(self.table, row, life, "volume", last, seen, verdicts, at, self._limits)))
        return told

    def _intake(self, rows: Rows, minute: int) -> Ints:
        """All copies of the 24 complete hours before this one, as the partition of each row knows them."""
        partitions = self.table.partition[rows]
        known = [(p, row) for p in self.partitions if (row := self.table.row_of.get(f"{INTAKE}:{p}")) is not None]
        totals = np.zeros(max(self.partitions) + 1, dtype=np.int64)
        if known:
            places, intake = (np.array(column, dtype=np.intp) for column in zip(*known, strict=True))
            day, hour = (self.table.recent(intake, "hour_copies", minute, hours) for hours in (25, 1))
            totals[places] = day - hour
        return totals[partitions]


def _fact(entity: str, span: Span, start: int, part: int, revision: int, counters: list[int]) -> Fact:
    return Fact(FACT_VERSION, entity, span.name, start * span.minutes * 60_000, part, revision, *counters)
