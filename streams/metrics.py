"""Every metric: name, kind, unit, meaning and labels in one table. No other module names a metric that is not in it.

Exposed with the prefix `spamtide_`. Counters move only after a commit, so what they say is what is in the log. Labels are bounded by
construction: partitions, reasons, severities, and of entities only those that `TopSeries` and the incident cap let through.
"""

import hashlib
import re
import socket
from collections.abc import Iterable, Mapping, Sequence, Set
from importlib.metadata import version
from typing import Final, Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

from producers.errors import Unavailable

NAMESPACE: Final = "spamtide"
SHOWN: Final = 50
"""Entities of a kind that get a series."""
SHOWN_UNTIL: Final = 60
"""Rank below which a shown entity loses its series again: so that two near the line do not flicker."""
MAX_LABEL_CHARS: Final = 128
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of `Metrics.render`: the Prometheus text format."""

Stage = Literal["count", "track", "alert", "source"]
Kind = Literal["counter", "gauge", "histogram"]

CounterName = Literal[
    "count_records_total",
    "count_events_total",
    "count_copies_total",
    "count_bad_total",
    "count_late_events_total",
    "count_flush_cells_total",
    "count_transactions_total",
    "track_cells_total",
    "track_late_copies_total",
    "track_too_late_copies_total",
    "track_minutes_closed_total",
    "track_rows_evicted_total",
    "track_facts_total",
    "track_signals_total",
    "track_transactions_total",
    "alert_signals_total",
    "alert_alerts_total",
    "source_lines_total",
    "source_refused_total",
]
GaugeName = Literal[
    "count_partition_progress_seconds",
    "count_partition_idle",
    "count_partition_paused",
    "count_input_lag_records",
    "track_watermark_seconds",
    "track_rows",
    "track_restoring",
    "track_restored_rows",
    "track_open_incidents",
    "track_input_lag_records",
    "track_entity_unwanted_month_copies",
    "track_entities_left_out",
    "alert_incident_month_copies",
    "alert_open_incidents",
    "alert_incidents_overflow",
    "alert_watchdog",
    "build_info",
]
HistogramName = Literal["count_flush_seconds", "track_commit_seconds"]
Name = CounterName | GaugeName | HistogramName


class Metric(NamedTuple):
    """One line of the table. `unit` is a base unit, or what is counted."""

    name: Name
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()


TABLE: Final[tuple[Metric, ...]] = (
    Metric("count_records_total", "counter", "records", "Records of mail-events that were counted."),
    Metric("count_events_total", "counter", "events", "Mail events in them."),
    Metric("count_copies_total", "counter", "copies", "Copies (envelope recipients) of messages counted."),
    Metric("count_bad_total", "counter", "lines", "Lines sent to mail-events-dlq.", ("reason",)),
    Metric("count_late_events_total", "counter", "events", "Events older than what TRACK still opens a minute for."),
    Metric("count_flush_cells_total", "counter", "cells", "Cells (entity and minute) published to mail-rollups."),
    Metric("count_flush_seconds", "histogram", "seconds", "Time one flush took, commit included."),
    Metric("count_transactions_total", "counter", "transactions", "Transactions by how they ended.", ("outcome",)),
    Metric("count_partition_progress_seconds", "gauge", "seconds", "Largest event time seen (epoch).", ("partition",)),
    Metric("count_partition_idle", "gauge", "bool", "1 while the partition holds no watermark back.", ("partition",)),
    Metric("count_partition_paused", "gauge", "bool", "1 while paused: `ahead`, or `poison`.", ("partition", "why")),
    Metric("count_input_lag_records", "gauge", "records", "Records between us and the stable end.", ("partition",)),
    Metric("track_cells_total", "counter", "cells", "Cells folded into rows."),
    Metric("track_late_copies_total", "counter", "copies", "Copies that came after their minute was closed."),
    Metric("track_too_late_copies_total", "counter", "copies", "Late copies whose hour is no longer held."),
    Metric("track_minutes_closed_total", "counter", "minutes", "Minutes of event time whose rules have run."),
    Metric("track_watermark_seconds", "gauge", "seconds", "End of the newest closed minute (epoch)."),
    Metric("track_rows", "gauge", "entities", "Entities held."),
    Metric("track_rows_evicted_total", "counter", "entities", "Entities folded into (other)."),
    Metric("track_commit_seconds", "histogram", "seconds", "Time one commit took."),
    Metric("track_restoring", "gauge", "bool", "1 while state is read back from track-changelog."),
    Metric("track_restored_rows", "gauge", "entities", "Entities read back by the last restore."),
    Metric("track_open_incidents", "gauge", "incidents", "Open incidents of this worker.", ("severity",)),
    Metric("track_facts_total", "counter", "facts", "Facts published to mail-volume."),
    Metric("track_signals_total", "counter", "signals", "Signals published to volume-signals.", ("change",)),
    Metric("track_transactions_total", "counter", "transactions", "Transactions by how they ended.", ("outcome",)),
    Metric("track_input_lag_records", "gauge", "records", "Rollups between us and the stable end.", ("partition",)),
    Metric(
        "track_entity_unwanted_month_copies",
        "gauge",
        "copies",
        "Projected unwanted copies a month of this worker's leading entities.",
        ("kind", "entity"),
    ),
    Metric("track_entities_left_out", "gauge", "entities", "Live entities without a series of their own.", ("kind",)),
    Metric("alert_signals_total", "counter", "signals", "Signals read from volume-signals.", ("change",)),
    Metric("alert_alerts_total", "counter", "alerts", "Alerts published.", ("severity",)),
    Metric(
        "alert_incident_month_copies",
        "gauge",
        "copies",
        "Projected copies a month of an open warning or critical incident.",
        ("incident", "kind", "entity", "severity"),
    ),
    Metric("alert_open_incidents", "gauge", "incidents", "Open incidents of this worker.", ("severity",)),
    Metric("alert_incidents_overflow", "gauge", "incidents", "Open incidents above the cap, without a series."),
    Metric("alert_watchdog", "gauge", "bool", "Always 1: an alert on it always fires, so that silence is noticed."),
    Metric("source_lines_total", "counter", "lines", "Input lines that were published.", ("source",)),
    Metric("source_refused_total", "counter", "lines", "Input lines that could not be used.", ("source", "reason")),
    Metric("build_info", "gauge", "bool", "Always 1; which version runs.", ("version", "stage")),
)
BY_NAME: Final[Mapping[str, Metric]] = {metric.name: metric for metric in TABLE}
_PORT_SETTING: Final[Mapping[Stage, str]] = {
    "count": "COUNT_METRICS_PORT",
    "track": "TRACK_METRICS_PORT",
    "alert": "ALERT_PORT",
    "source": "METRICS_PORT",
}
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one stage, in a registry of its own."""

    def __init__(self, stage: Stage) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self._stage = stage
        self.port = 0
        """The port that is served, after `serve`."""
        ProcessCollector(registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in TABLE:
            if metric.name.startswith(stage + "_") or metric.name == "build_info":
                self._register(metric)
        self.set("build_info", 1, version=version("spamtide"), stage=stage)
        if stage == "alert":
            self.set("alert_watchdog", 1)

    def _register(self, metric: Metric) -> None:
        name, text, labels = metric.name, metric.help, metric.labels
        if metric.kind == "counter":
            self._counters[name] = Counter(name, text, labels, namespace=NAMESPACE, registry=self.registry)
        elif metric.kind == "gauge":
            self._gauges[name] = Gauge(name, text, labels, namespace=NAMESPACE, registry=self.registry)
        else:
            self._histograms[name] = Histogram(
                name, text, labels, namespace=NAMESPACE, registry=self.registry, buckets=_BUCKETS_S
            )

    def add(self, name: CounterName, value: float = 1, **labels: str) -> None:
        """Adds to a counter: once a commit, in bulk."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(value)

    def set(self, name: GaugeName, value: float, **labels: str) -> None:
        """Sets a gauge; a bool is 0 or 1."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: HistogramName, value: float) -> None:
        """Adds one observation, in seconds."""
        self._histograms[name].observe(value)

    def drop(self, name: GaugeName, **labels: str) -> None:
        """Takes a gauge's series away: with all labels one series, with some all that match, with none every one."""
        gauge = self._gauges[name]
        if len(labels) < len(BY_NAME[name].labels):
            gauge.remove_by_labels(labels) if labels else gauge.clear()
        elif labels:
            gauge.remove(*(labels[label] for label in BY_NAME[name].labels))

    def render(self) -> bytes:
        """All series in the Prometheus text format, for a stage that serves its own pages."""
        return generate_latest(self.registry)

    def serve(self, address: str, port: int) -> None:
        """Serves `/metrics` from a thread; port 0 takes a free one, see `port`. Raises `Unavailable`."""
        try:
            server, _ = start_http_server(port, address, self.registry)
        except OSError as error:
            raise Unavailable(
                f"cannot serve metrics on {address}:{port} ({error.strerror or error}): "
                f"set SPAMTIDE_{_PORT_SETTING[self._stage]} to a free port (0 takes any), or see SPAMTIDE_METRICS_ADDRESS"
            ) from None
        self.port = server.server_port


def free_port(address: str) -> int:
    """A port that is free now, for a server that must be told one. Who takes it in between makes that server say so."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class TopSeries:
    """Series of the leading entities of each kind; owns what is shown now."""

    def __init__(self, metrics: Metrics, label_key: str) -> None:
        self._metrics = metrics
        self._key = label_key
        self._shown: dict[str, frozenset[str]] = {}

    def update(self, kind: str, ranking: Sequence[tuple[str, float]], live: int) -> None:
        """Shows the leaders of a kind: (entity id, projected unwanted copies a month), largest first, of `live` entities in all."""
        before = self._shown.get(kind, frozenset())
        shown = stay_or_enter([entity for entity, _ in ranking], before)
        for entity in before - shown:
            self._metrics.drop("track_entity_unwanted_month_copies", kind=kind, entity=label_of(entity, self._key))
        for entity, copies in ranking:
            if entity in shown:
                label = label_of(entity, self._key)
                self._metrics.set("track_entity_unwanted_month_copies", copies, kind=kind, entity=label)
        self._metrics.set("track_entities_left_out", max(live - len(shown), 0), kind=kind)
        self._shown[kind] = shown

    def clear(self) -> None:
        """Takes every series away: the partitions went to another worker."""
        self._shown.clear()
        self._metrics.drop("track_entity_unwanted_month_copies")
        self._metrics.drop("track_entities_left_out")


def stay_or_enter(ranking: Iterable[str], shown: Set[str]) -> frozenset[str]:
    """Who is shown now: the first `SHOWN` of a ranking, and of those shown before who is not yet below `SHOWN_UNTIL`. Pure."""
    return frozenset(
        entity for rank, entity in enumerate(ranking) if rank < SHOWN or (rank < SHOWN_UNTIL and entity in shown)
    )


_HASHED: Final = ("account", "ip", "net")
_ADDRESS: Final = re.compile(r"[^\s@<>:,;\"']+@(?=\S)")


def label_of(entity: str, key: str) -> str:
    """An entity id as a label: accounts, addresses and nets as `kind:` and 12 hex digits of a keyed hash (BLAKE2b, RFC 7693).

    Campaigns and domains stay readable, without control characters and local parts of addresses, at most `MAX_LABEL_CHARS` long; where
    that changed something, 8 hex digits of the hash follow, so that two entities never share a series. Pure.
    """
    kind, _, name = entity.partition(":")
    if kind in _HASHED and not name.startswith("("):
        return f"{kind}:{_hash(entity, key, 6)}"
    clean = _ADDRESS.sub("*@", "".join(char if char.isprintable() else "?" for char in entity))
    if clean == entity and len(entity) <= MAX_LABEL_CHARS:
        return entity
    return f"{clean[: MAX_LABEL_CHARS - 9]}~{_hash(entity, key, 4)}"


def _hash(text: str, key: str, size_bytes: int) -> str:
    secret = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32).digest() if key else b""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size_bytes, key=secret).hexdigest()
