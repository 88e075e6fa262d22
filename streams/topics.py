"""Every topic: its key, partitions, retention and who writes it. Data only, and the one rule that places a keyed record.

Settings not named here are the cluster's. Replication is 1 on a cluster of one or two brokers, else 3 with two in-sync replicas.
"""

import zlib
from collections.abc import Mapping
from typing import Final

import msgspec

ENTITY_PARTITIONS: Final = 32
"""Partitions of every topic keyed by entity. Fixed: state lives by this number."""
DAY_MS: Final = 86_400_000


class TopicSpec(msgspec.Struct, frozen=True):
    """What a topic must look like. `config` holds broker setting names and values, as text."""

    name: str
    partitions: int
    config: Mapping[str, str]
    key: str
    content: str
    may_grow: bool = False


def _kept(days: int, **more: str) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS), **_dotted(more)}


def _compacted(**more: str) -> dict[str, str]:
    return {"cleanup.policy": "compact", **_dotted(more)}


def _dotted(settings: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "."): value for name, value in settings.items()}


MAIL_EVENTS: Final = "mail-events"
MAIL_EVENTS_DLQ: Final = "mail-events-dlq"
SOURCE_POSITIONS: Final = "source-positions"
MAIL_ROLLUPS: Final = "mail-rollups"
TRACK_CHANGELOG: Final = "track-changelog"
VOLUME_SIGNALS: Final = "volume-signals"
ENFORCEMENT_ACTIONS: Final = "enforcement-actions"
MAIL_VOLUME: Final = "mail-volume"
VOLUME_TOP: Final = "volume-top"
CAMPAIGN_ALERTS: Final = "campaign-alerts"
SENDER_ALERTS: Final = "sender-alerts"
INCIDENTS: Final = "incidents"
ALERT_OPEN_CHANGELOG: Final = "alert-open-changelog"

TOPICS: Final[tuple[TopicSpec, ...]] = (
    TopicSpec(
        MAIL_EVENTS, 8, _kept(7, message_timestamp_type="LogAppendTime"), "none", "MailEvent, JSON lines", may_grow=True
    ),
    TopicSpec(MAIL_EVENTS_DLQ, 1, _kept(30), "none", "bytes as they came, origin in headers"),
    TopicSpec(SOURCE_POSITIONS, 1, _compacted(), "source", "SourcePosition, JSON"),
    TopicSpec(
        MAIL_ROLLUPS, ENTITY_PARTITIONS, _kept(7, compression_type="producer"), "partition number", "Rollup, msgpack"
    ),
    TopicSpec(TRACK_CHANGELOG, ENTITY_PARTITIONS, _compacted(), "entity", "row or marker, msgpack"),
    TopicSpec(VOLUME_SIGNALS, ENTITY_PARTITIONS, _kept(30), "entity", "Signal, JSON"),
    TopicSpec(ENFORCEMENT_ACTIONS, ENTITY_PARTITIONS, _compacted(), "entity", "EnforcementAction, JSON"),
    TopicSpec(MAIL_VOLUME, ENTITY_PARTITIONS, _kept(400), "entity", "Fact, JSON"),
    TopicSpec(VOLUME_TOP, 1, _compacted(), "partition and kind", "Leaders, JSON"),
    TopicSpec(CAMPAIGN_ALERTS, 8, _kept(90), "entity", "Alert, JSON"),
    TopicSpec(SENDER_ALERTS, 8, _kept(90), "entity", "Alert, JSON"),
    TopicSpec(INCIDENTS, 8, _compacted(), "incident", "Alert, JSON: the present state"),
    TopicSpec(
        ALERT_OPEN_CHANGELOG, ENTITY_PARTITIONS, _compacted(), "incident", "Alert, JSON: ALERT's table of what is open"
    ),
)
BY_NAME: Final[Mapping[str, TopicSpec]] = {spec.name: spec for spec in TOPICS}


def partition_of(key: str, partitions: int = ENTITY_PARTITIONS) -> int:
    """The partition of a keyed record: CRC-32 (ISO 3309) of its UTF-8 bytes, modulo the count.

    Passed explicitly to every producer, because librdkafka and aiokafka hash keys differently by default.
    """
    return zlib.crc32(key.encode()) % partitions
