"""Volumes as TRACK publishes them: facts, and the leaders of the moment. Pure."""

from typing import Final, Literal

import msgspec

FACT_VERSION: Final = 1
COUNTERS: Final = (
    "copies", "messages", "unwanted", "rejected", "traps", "complaints", "forged", "deferred", "bounced", "bytes",
)  # fmt: skip

KINDS: Final = ("campaign", "account", "domain", "ip", "net", "intake")
"""Kinds of row: the five of entity, and each partition's own sum of everything."""
_BUCKETS: Final = ("(none)", "(unauthenticated)", "(null)")
OTHER: Final = "(other)"
"""With `:` and the partition: what was evicted there."""


def kind_of(entity: str) -> int:
    """Index into `KINDS` of an entity id `kind:name`."""
    return KINDS.index(entity.partition(":")[0])


def is_bucket(entity: str) -> bool:
    """Whether a row is nobody in particular: never the base of an incident."""
    kind, _, name = entity.partition(":")
    return kind == KINDS[-1] or name in _BUCKETS or name.rpartition(":")[0] == OTHER


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much one entity sent in one hour or day, on `mail-volume`.

    A total is the sum over parts, each at its highest revision: `{(entity, span, start_ms, part): counters}` keeps the newest.
    """

    v: int
    entity: str
    span: Literal["hour", "day"]
    start_ms: int
    """Start of the hour or day, UTC; the interval is [start, start + span)."""
    part: int
    revision: int
    copies: int = 0
    messages: int = 0
    unwanted: int = 0
    rejected: int = 0
    traps: int = 0
    complaints: int = 0
    forged: int = 0
    deferred: int = 0
    bounced: int = 0
    bytes: int = 0


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the live table."""

    entity: str
    copies_60m: int
    unwanted_60m: int
    month_run_rate: int
    tier: int
    severity: str | None
    unwanted_by_minute: tuple[int, ...]
    """The last 60 closed minutes, oldest first."""


class Leaders(msgspec.Struct, frozen=True):
    """The leaders of one partition and kind at a closed minute, on `volume-top`."""

    v: int
    partition: int
    kind: str
    time_ms: int
    """End of the newest closed minute."""
    leaders: tuple[Leader, ...]
