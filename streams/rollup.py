"""The rollup: cells `(entity, minute, counters)` between COUNT and TRACK, and the rules of what an event counts for. Pure.

An event counts for up to five entities, named `kind:name`: its campaign, account, answerable domain, address and net.
"""

import hashlib
import math
from ipaddress import IPv6Network
from socket import AF_INET, inet_ntop
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from producers.tokens import registrable_domain
from streams.volume import COUNTERS

ROLLUP_VERSION: Final = 1
MINUTE_MS: Final = 60_000
MAX_ROLLUP_BYTES: Final = 512 * 1024
HLL_BITS: Final = 10
"""A HyperLogLog of 2^10 registers: standard error 1.04 / sqrt(1024) = 3.25 % (Flajolet et al. 2007)."""
MAX_DETAIL_NAMES: Final = 8
ON_TIME: Final = -1
INTAKE: Final = "intake"
"""Kind of the row, one a partition, that holds all mail of all entities: what a share of intake is a share of."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# What an event adds to, as bits.
MESSAGE, UNWANTED, REJECTED, TRAP, COMPLAINT, FORGED, DEFERRED, BOUNCED = (1 << bit for bit in range(8))
BIT_OF: Final = {
    "copies": MESSAGE,
    "unwanted": UNWANTED,
    "rejected": REJECTED,
    "traps": TRAP,
    "complaints": COMPLAINT,
    "forged": FORGED,
    "deferred": DEFERRED,
    "bounced": BOUNCED,
}
EVIDENCE: Final = UNWANTED | TRAP | COMPLAINT


class InputRange(msgspec.Struct, frozen=True, array_like=True):
    """What a flush covers of one input partition, and how far that partition has come."""

    partition: int
    start: int
    """First offset covered; the range is [start, end)."""
    end: int
    progress_ms: int
    """Largest event time seen, not past its append time; -1 before the first event."""
    idle: bool


class Detail(msgspec.Struct, frozen=True, array_like=True):
    """What an unwanted entity is known by: names with copies, and HyperLogLog registers as `register << 6 | rank`."""

    entity: str
    tokens: tuple[tuple[str, int], ...]
    countries: tuple[tuple[str, int], ...]
    registers: bytes
    """uint16 each, ascending, one a register; of connecting addresses, for a net of campaigns."""


class Rollup(msgspec.Struct, frozen=True, array_like=True):
    """One record of `mail-rollups`: cells of one output partition. Columns are little-endian arrays as bytes.

    The last record of a flush carries the ranges, so that time and audit move only when the flush is complete.
    """

    v: int
    partition: int
    ranges: tuple[InputRange, ...]
    names: tuple[str, ...]
    name_of: bytes
    """int32: index into `names`, one a cell."""
    minute: bytes
    """int32: minutes since the Unix epoch, one a cell."""
    after: bytes
    """int32: `ON_TIME`, or of a late cell the last minute that was over, by its own input partition, when it came."""
    counters: tuple[tuple[str, bytes], ...]
    """One column a counter, in the order of `COUNTERS`: (numpy type, values); an empty one is all zeros."""
    details: tuple[Detail, ...]


def flags_of(disposition: str, verdict: str, reason: str | None, forged: bool, counts: bool) -> int:
    """The counters an event adds to. The one place where "unwanted" and "counted once" are decided.

    A source that does not count for its hop adds trap hits and complaints only.
    """
    if disposition == "complaint":
        return COMPLAINT | (UNWANTED if counts else 0)
    if not counts:
        return TRAP if disposition == "trap" else 0
    if disposition in ("deferred", "attempt"):
        return DEFERRED
    if disposition == "bounced":
        return BOUNCED
    flags = MESSAGE | (FORGED if forged else 0)
    if disposition == "trap":
        return flags | TRAP | UNWANTED
    unwanted = verdict in ("spam", "phish", "malware")
    if disposition == "rejected":
        flags |= REJECTED
        unwanted = unwanted or reason in ("content", "policy")
    return flags | (UNWANTED if unwanted else 0)


def hll_register(name: str) -> int:
    """Where a name falls in a HyperLogLog: `register << 6 | rank`, from 64 bits of BLAKE2b."""
    bits = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    rest = bits & ((1 << (64 - HLL_BITS)) - 1)
    rank = (64 - HLL_BITS) - rest.bit_length() + 1
    return (bits >> (64 - HLL_BITS)) << 6 | rank


class Cells(msgspec.Struct, frozen=True):
    """The cells of a rollup as columns. `counters` has shape (len(COUNTERS), cells)."""

    name_of: NDArray[np.int32]
    minute: NDArray[np.int32]
    after: NDArray[np.int32]
    counters: Ints


def pack_columns(counters: Ints) -> tuple[tuple[str, bytes], ...]:
    """Each row of `counters` in the narrowest type that holds it; a row of zeros is empty."""
    return tuple(_pack(column) for column in counters)


def _pack(column: Ints) -> tuple[str, bytes]:
    largest = int(column.max(initial=0))
    if largest == 0:
        return "", b""
    kind = next(kind for kind in ("<u1", "<u2", "<u4", "<i8") if largest <= np.iinfo(kind).max)
    return kind, column.astype(kind).tobytes()


def cells_of(rollup: Rollup) -> Cells:
    """The columns of a rollup, widened."""
    name_of = np.frombuffer(rollup.name_of, "<i4")
    counters = np.zeros((len(COUNTERS), len(name_of)), dtype=np.int64)
    for row, (kind, values) in zip(counters, rollup.counters, strict=True):
        if kind:
            row[:] = np.frombuffer(values, kind)
    return Cells(name_of, np.frombuffer(rollup.minute, "<i4"), np.frombuffer(rollup.after, "<i4"), counters)


def top_names(copies: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """The names that most copies carried, most first, ties by name."""
    ranked = sorted(copies.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(ranked[:MAX_DETAIL_NAMES])


def hll_estimate(registers: dict[int, int]) -> int:
    """Distinct names from registers and their ranks (Flajolet et al. 2007), by linear counting while most are empty."""
    size = 1 << HLL_BITS
    empty = size - len(registers)
    raw = 0.7213 / (1 + 1.079 / size) * size * size / (empty + sum(2.0**-rank for rank in registers.values()))
    if raw <= 2.5 * size and empty:
        return round(size * math.log(size / empty))
    return round(raw)


class InputProgress:
    """Event time of one input partition: decides by itself which events are late, whatever the batches."""

    __slots__ = ("grace_ms", "progress_ms")

    def __init__(self, grace_ms: int, progress_ms: int = -1) -> None:
        self.grace_ms = grace_ms
        self.progress_ms = progress_ms

    def observe(self, time_ms: Ints, append_ms: Ints) -> Ints:
        """Moves on over events in offset order. `ON_TIME`, or where an event's minute had ended `grace_ms` before it came the last
        minute that had; so when a late event is added depends on its partition alone.

            minute  [0----)[1----)[2----)
            events      a      b        c    d is of minute 0, after c: late if c - grace >= end of minute 0

        Progress never passes the append time, so an event dated ahead cannot make the honest ones late.
        """
        seen = np.empty(len(time_ms) + 1, dtype=np.int64)
        seen[0] = self.progress_ms
        np.minimum(time_ms, append_ms, out=seen[1:])
        np.maximum.accumulate(seen, out=seen)
        self.progress_ms = int(seen[-1])
        over = (seen[:-1] - self.grace_ms) // MINUTE_MS - 1
        return np.where(time_ms // MINUTE_MS <= over, over, ON_TIME)


def networks_of(packed: bytes) -> tuple[str, str]:
    """What counts as one address and as its net: IPv4 and its /24; of IPv6 the /64 and the /48."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed), inet_ntop(AF_INET, packed[:3] + b"\0") + "/24"
    return (
        str(IPv6Network((packed[:8] + bytes(8), 64))),
        str(IPv6Network((packed[:6] + bytes(10), 48))),
    )


def domain_name(answerable: str | None) -> str:
    """Whom to hold answerable: the registrable domain; nobody for what was not authenticated; `(null)` for a bounce."""
    if answerable is None:
        return "(unauthenticated)"
    return registrable_domain(answerable) if answerable else "(null)"
