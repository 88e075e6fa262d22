"""TRACK: fold rollups into each entity's volumes, judge each closed minute, own every incident.

    mail-rollups ──▶ streams.close (pure) ──commit──▶ mail-volume, volume-signals, volume-top, and rows + marker to track-changelog

State lives in the changelog, written in the same transaction as the offsets it belongs to. A marker a partition says which offset that
is; where marker and offset differ, TRACK refuses to count on.
"""

import gc
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from confluent_kafka import Message

from producers.errors import AuditFailure
from streams.close import Closer
from streams.leaders import Ranking, leaders_of, rank
from streams.metrics import Metrics, TopSeries
from streams.restore import Restorer
from streams.rollup import MINUTE_MS, ROLLUP_VERSION, Rollup
from streams.rules import Limits
from streams.settings import Settings
from streams.table import ROW_VERSION, Row
from streams.topics import MAIL_ROLLUPS, MAIL_VOLUME, TRACK_CHANGELOG, VOLUME_SIGNALS, VOLUME_TOP, partition_of
from streams.transaction import Committed, Outcome, Outgoing, Worker
from streams.volume import Leaders
from streams.waiting import MARKER_VERSION, Marker
from streams.watermark import NEVER

log = logging.getLogger(__name__)

MARKER_KEY: Final = b"(marker)"
"""No entity has this key: theirs begin with a kind."""
MIN_COMMIT_MS: Final = 1000
"""Closed minutes are committed at once, but in compressed time many go into one transaction."""


class Track:
    """The stage: see `streams.transaction.Stage`."""

    name = "track"
    topic = MAIL_ROLLUPS
    batch = 64
    """Two flushes of a COUNT: closing what they bring stays short, also where minutes are many."""

    def __init__(self, settings: Settings, metrics: Metrics, restorer: Restorer) -> None:
        self._settings = settings
        self._metrics = metrics
        self._restorer = restorer
        limits = Limits(settings.capture_share, settings.trap_min_hits, settings.page_share, settings.page_tier)
        self._closer = Closer(limits, settings.quiet_minutes, settings.grace_ms)
        self._decoder = msgspec.msgpack.Decoder(Rollup)
        self._packer = msgspec.msgpack.Encoder()
        self._writer = msgspec.json.Encoder()
        self._series = TopSeries(metrics, settings.label_key)
        self._rankings: dict[str, Ranking] = {}
        self._top: dict[tuple[int, str], bool] = {}
        self._topic_id = ""
        self._committed_ms = 0
        self._moved = False
        self._told_minute = NEVER

    # -- state ------------------------------------------------------------------------------------------------------------

    def restore(self, committed: Mapping[int, Committed]) -> None:
        """Rebuilds rows and clocks as of the committed offsets. Raises `AuditFailure` where they do not fit."""
        self._metrics.set("track_restoring", 1)
        self._topic_id, inputs = self._restorer.cluster()
        stored = self._restorer.changelog(committed)
        waits = {}
        for partition, place in committed.items():
            records = stored[partition]
            marker = self._marker(partition, place, records.pop(MARKER_KEY, None), len(records))
            self._closer.open(partition, place.offset, inputs, marker)
            self._closer.load(partition, [(key.decode(), self._row(value)) for key, value in records.items()])
            waits[partition] = (marker.waits_from if marker else place.offset, place.offset)
        for _, offset, value in self._restorer.rollups(waits):
            self._closer.take_again(self._rollup(value), offset)
        self._metrics.set("track_restoring", 0)
        self._metrics.set("track_restored_rows", len(self._closer.table))
        log.info("track: %d partitions with %d entities are ready", len(committed), len(self._closer.table))

    def _marker(self, partition: int, place: Committed, value: bytes | None, rows: int) -> Marker | None:
        """The partition's marker, which must belong to the committed offset; none where nothing was ever committed."""
        where = f"track-changelog partition {partition}"
        if value is None:
            if not place.fresh or rows:
                raise AuditFailure(f"{where} has no marker, but {_found(place, rows)}. {_WAY_OUT}")
            return None
        try:
            marker = msgspec.msgpack.decode(value, type=Marker)
        except msgspec.DecodeError:
            raise AuditFailure(f"{where} was written by another version of Spamtide. {_WAY_OUT}") from None
        if marker.v != MARKER_VERSION:
            raise AuditFailure(f"{where} has format {marker.v}, this is {MARKER_VERSION}. {_WAY_OUT}")
        if place.fresh:
            raise AuditFailure(f"{where} holds state, but the group `track` has no offset any more. {_WAY_OUT}")
        if marker.next_offset != place.offset:
            raise AuditFailure(
                f"{where} belongs to offset {marker.next_offset}, the group stands at {place.offset}. {_WAY_OUT}"
            )
        if marker.topic_id != self._topic_id:
            raise AuditFailure(f"{where} belongs to a mail-rollups topic that was deleted. {_WAY_OUT}")
        if marker.rows != rows:
            raise AuditFailure(f"{where} holds {rows} entities, its marker says {marker.rows}. {_WAY_OUT}")
        return marker

    def _row(self, value: bytes) -> Row:
        row = msgspec.msgpack.decode(value, type=Row)
        if row.v != ROW_VERSION:
            raise AuditFailure(f"track-changelog has a row of format {row.v}, this is {ROW_VERSION}. {_WAY_OUT}")
        return row

    def drop(self, partitions: Iterable[int]) -> None:
        """Forgets partitions."""
        dropped = set(partitions)
        self._closer.drop(dropped)
        self._top = {key: value for key, value in self._top.items() if key[0] not in dropped}
        self._rankings = {}
        self._series.clear()
        for partition in dropped:
            self._metrics.drop("track_input_lag_records", partition=str(partition))
        self._moved = False

    # -- input ------------------------------------------------------------------------------------------------------------

    def take(self, messages: Sequence[Message], now_ms: int) -> None:
        """Takes rollups and closes every minute that is over."""
        if not messages:
            return
        gc.disable()  # rollups are many small values that die young, beside millions that stay: scanning them finds nothing
        try:
            self._take(messages)
        finally:
            gc.enable()

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            value, offset = message.value(), message.offset()
            if value is not None and offset is not None:
                self._closer.take(self._rollup(value), offset)
        self._moved = True
        self._closer.advance()

    def _rollup(self, value: bytes) -> Rollup:
        try:
            rollup = self._decoder.decode(value)
        except msgspec.DecodeError as error:
            raise AuditFailure(
                f"mail-rollups holds a record that is no rollup ({error}); who else writes to it?"
            ) from None
        if rollup.v != ROLLUP_VERSION:
            raise AuditFailure(
                f"mail-rollups has format {rollup.v}, this is {ROLLUP_VERSION}: run COUNT and TRACK of one version"
            )
        return rollup

    def at_end(self, partition: int, end: int) -> None:
        """Of no meaning here: time comes with the records."""

    def reaches(self, ends: Mapping[int, int]) -> None:
        """Of no meaning here either."""

    def held_back(self) -> Mapping[int, bool]:
        """Never: what waits is bounded by COUNT."""
        return {}

    # -- output -----------------------------------------------------------------------------------------------------------

    def due(self, now_ms: int) -> bool:
        """At a closed minute, but not more than once a second; and every `commit_ms` when anything moved."""
        since_ms = now_ms - self._committed_ms
        closed = self._closer.newest > self._told_minute or bool(self._closer.facts)
        return self._moved and since_ms >= (MIN_COMMIT_MS if closed else self._settings.commit_ms)

    def outputs(self) -> Iterable[Outgoing]:
        """Facts, signals, leaders, changed rows and the markers."""
        closer, topic = self._closer, self._settings.topic
        closer.tell_late()
        closer.evict(self._settings.max_rows)
        encode = self._writer.encode
        volume = topic(MAIL_VOLUME)
        for fact in closer.facts:
            yield Outgoing(volume, partition_of(fact.entity), fact.entity.encode(), encode(fact))
        for signal in closer.signals:
            key = signal.entity
            yield Outgoing(topic(VOLUME_SIGNALS), partition_of(key), key.encode(), encode(signal))
        yield from self._leaders()
        yield from self._changelog()

    def _leaders(self) -> Iterable[Outgoing]:
        """The leaders of each partition and kind, where they changed; emptied where they fell behind."""
        closer, topic = self._closer, self._settings.topic(VOLUME_TOP)
        if closer.newest <= self._told_minute:
            return
        self._rankings = rank(closer.table, closer.newest)
        leaders = leaders_of(closer.table, self._rankings, closer.newest)
        for key in leaders.keys() | self._top.keys():
            partition, kind = key
            rows = leaders.get(key, ())
            body = Leaders(1, partition, kind, (closer.newest + 1) * MINUTE_MS, rows)
            if rows or self._top[key]:
                yield Outgoing(topic, 0, f"{partition} {kind}".encode(), self._writer.encode(body))
        self._top = dict.fromkeys(leaders, True)

    def _changelog(self) -> Iterable[Outgoing]:
        closer, topic = self._closer, self._settings.topic(TRACK_CHANGELOG)
        for partition, name in closer.forgotten:
            yield Outgoing(topic, partition, name.encode(), None)
        rows = closer.table.take_changed()
        partitions = closer.table.partition[rows].tolist()
        for partition, (name, row) in zip(partitions, closer.table.snapshots(rows), strict=True):
            yield Outgoing(topic, partition, name.encode(), self._packer.encode(row))
        stored = closer.table.stored_by_partition().tolist()
        for partition, place in closer.partitions.items():
            marker = place.marker(self._topic_id, stored[partition])
            yield Outgoing(topic, partition, MARKER_KEY, self._packer.encode(marker))

    def note(self, partition: int) -> str:
        """Nothing: the marker says it all."""
        return ""

    def committed(self, outcome: Outcome) -> None:
        """Metrics move; what was told is forgotten."""
        closer, metrics = self._closer, self._metrics
        for place in closer.partitions.values():
            place.epoch += 1
        metrics.add("track_transactions_total", outcome="committed")
        metrics.observe("track_commit_seconds", outcome.took_s)
        metrics.add("track_facts_total", len(closer.facts))
        for change, times in Counter(signal.change for signal in closer.signals).items():
            metrics.add("track_signals_total", times, change=change)
        metrics.add("track_cells_total", closer.cells_folded)
        metrics.add("track_minutes_closed_total", closer.minutes_closed)
        metrics.add("track_rows_evicted_total", closer.evicted)
        metrics.add("track_late_copies_total", closer.late_copies)
        metrics.add("track_too_late_copies_total", closer.too_late_copies)
        self._show(outcome)
        closer.told()
        self._told_minute = closer.newest
        self._committed_ms = outcome.now_ms
        self._moved = False

    def _show(self, outcome: Outcome) -> None:
        closer, metrics, table = self._closer, self._metrics, self._closer.table
        metrics.set("track_rows", len(table))
        for partition, records in outcome.lag.items():
            metrics.set("track_input_lag_records", records, partition=str(partition))
        if closer.newest == self._told_minute:
            return
        metrics.set("track_watermark_seconds", (closer.newest + 1) * 60)
        for severity, incidents in closer.open_incidents().items():
            metrics.set("track_open_incidents", incidents, severity=severity)
        for kind, ranking in self._rankings.items():
            leading = [(table.names[ranked.row], float(ranked.month_run_rate)) for ranked in ranking.leading]
            self._series.update(kind, leading, ranking.live)

    def aborted(self) -> None:
        """Only counted: `drop` forgets."""
        self._metrics.add("track_transactions_total", outcome="aborted")


_WAY_OUT: Final = "Counting on would be wrong; see README, 'When the audit fails'"


def _found(place: Committed, rows: int) -> str:
    return f"the group `track` stands at offset {place.offset}" if not place.fresh else f"{rows} entities"


def run(settings: Settings, stop: threading.Event) -> None:
    """Runs a TRACK worker until `stop` is set. Raises `SystemFault`."""
    metrics = Metrics("track")
    metrics.serve(settings.metrics_address, settings.track_metrics_port)
    Worker(settings, Track(settings, metrics, Restorer(settings))).run(stop)
