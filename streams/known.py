"""What an unwanted row is known by, packed as small as it is stored: most rows are known by one name and one address. Pure."""

import struct
from typing import Final

import numpy as np

from streams.rollup import HLL_BITS, Detail, top_names

Sums = tuple[tuple[str, int], ...]
"""(name, copies) of distinct names."""


class Known:
    """Sums of names and registers. Sums are cut to the leading ones, so a hostile stream of names is bounded."""

    __slots__ = ("_countries", "_registers", "_tokens")
    KEPT: Final = 32

    def __init__(self) -> None:
        self._tokens: Sums = ()
        self._countries: Sums = ()
        self._registers: bytes | bytearray = b""

    def merge(self, detail: Detail) -> None:
        """Adds what one flush saw."""
        self._tokens = self._added(self._tokens, detail.tokens)
        self._countries = self._added(self._countries, detail.countries)
        self._registers = _highest(self._registers, detail.registers)

    def _added(self, sums: Sums, seen: Sums) -> Sums:
        if not seen or (not sums and len(seen) <= self.KEPT):
            return sums or seen
        added = dict(sums)
        for name, copies in seen:
            added[name] = added.get(name, 0) + copies
        if len(added) > self.KEPT:
            return tuple(sorted(added.items(), key=lambda pair: (-pair[1], pair[0]))[: self.KEPT // 2])
        return tuple(added.items())

    @property
    def tokens(self) -> dict[str, int]:
        """Copies by token."""
        return dict(self._tokens)

    @property
    def countries(self) -> dict[str, int]:
        """Copies by country."""
        return dict(self._countries)

    @property
    def registers(self) -> dict[int, int]:
        """Rank by register of the HyperLogLog, where there is one."""
        return {value >> 6: value & 63 for value in _values(_packed(self._registers))}

    def snapshot(self, entity: str) -> Detail:
        """As a detail again, to be kept or shown."""
        return Detail(entity, self._tokens, self._countries, _packed(self._registers))

    def top(self) -> tuple[Sums, Sums]:
        """Leading tokens and countries."""
        return top_names(self.tokens), top_names(self.countries)


_FEW_BYTES: Final = 64
"""Registers that take more, packed, are kept as ranks, a byte a register: quick to raise one of, and never more than 1 KiB."""


def _highest(registers: bytes | bytearray, seen: bytes) -> bytes | bytearray:
    """The higher rank of each register: packed as in `Detail` while they are few, then as ranks."""
    if not seen or registers == seen:
        return registers
    if isinstance(registers, bytearray):
        return _raised(registers, seen)
    if len(registers) + len(seen) > _FEW_BYTES:
        return _raised(_raised(bytearray(1 << HLL_BITS), registers), seen)
    if not registers:
        return seen
    highest = {value >> 6: value for value in _values(registers)}
    higher = {value >> 6: value for value in _values(seen) if highest.get(value >> 6, 0) < value}
    if not higher:
        return registers
    highest |= higher
    return struct.pack(f"<{len(highest)}H", *sorted(highest.values()))


def _raised(ranks: bytearray, seen: bytes) -> bytearray:
    for value in _values(seen):
        register, rank = value >> 6, value & 63
        if ranks[register] < rank:
            ranks[register] = rank
    return ranks


def _values(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 2}H", packed)


def _packed(registers: bytes | bytearray) -> bytes:
    if isinstance(registers, bytes):
        return registers
    ranks = np.frombuffer(registers, np.uint8)
    held = np.flatnonzero(ranks)
    return (held << 6 | ranks[held]).astype("<u2").tobytes()
