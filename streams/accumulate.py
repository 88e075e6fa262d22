"""COUNT's sums: events in, cells out. Pure.

Between flushes the events live here as columns of small numbers; `drain` groups them into cells and forgets them, so a worker that dies
has nothing to lose. Distinct strings are looked at once a flush; everything else is array arithmetic.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from producers.event import MailEvent, is_country, packed_address
from producers.tokens import campaign_of
from streams.rollup import (
    BIT_OF,
    EVIDENCE,
    INTAKE,
    MESSAGE,
    MINUTE_MS,
    ON_TIME,
    ROLLUP_VERSION,
    Bools,
    Detail,
    Ints,
    Rollup,
    domain_name,
    flags_of,
    hll_register,
    networks_of,
    pack_columns,
    top_names,
)
from streams.topics import ENTITY_PARTITIONS, partition_of
from streams.volume import COUNTERS

_K = TypeVar("_K")
_V = TypeVar("_V")

MAX_NAMES: Final = 300_000
"""Distinct entities or token sets remembered from flush to flush: about 100 MB. Above it all are forgotten and learned anew."""
RECORD_BYTES: Final = 400_000
"""Estimated size at which a partition's cells go on in another record: well below `MAX_ROLLUP_BYTES`."""


class _Memo(dict[_K, _V]):
    """A dictionary that makes what it lacks: the hot path looks up in C and computes once a distinct key and flush."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[_K], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> _V:
        value = self[key] = self._make(key)
        return value


_COLUMNS = attrgetter(
    "disposition", "verdict", "reason", "auth", "source", "sender", "account", "ip", "sender_domain", "country",
    "campaign", "tokens", "copies", "size_bytes", "time_ms",
)  # fmt: skip


class Prepared(NamedTuple):
    """Events as columns, each of length N."""

    time_ms: Ints
    bad_ip: Bools
    bad_country: Bools
    columns: tuple[Ints, ...]


class Accumulator:
    """Sums of one flush."""

    def __init__(self) -> None:
        self._flags = _Memo[tuple[Any, ...], int](lambda key: flags_of(*key))
        self._forget_names()
        self.clear()

    def clear(self) -> None:
        """Forgets all sums since the last flush. What was learned of names stays, until there are too many."""
        self.events = 0
        self.copies = 0
        """Of messages."""
        self._batches: list[tuple[Ints, ...]] = []
        if len(self._names) > MAX_NAMES or len(self._token_sets) > MAX_NAMES:
            self._forget_names()

    def _forget_names(self) -> None:
        self._names: list[str] = []
        self._partitions: list[int] = []
        self._entities = _Memo[str, int](self._add_entity)
        self._campaigns = _Memo[tuple[str | None, tuple[str, ...]], int](
            lambda key: self._entities["campaign:" + campaign_of(*key)]
        )
        self._accounts = _Memo[str | None, int](lambda name: -1 if name is None else self._entities["account:" + name])
        self._domains = _Memo[str | None, int](lambda name: self._entities["domain:" + domain_name(name)])
        self._addresses = _Memo[str | None, int](self._address)
        self._countries = _Memo[str | None, int](self._country)
        self._country_names: list[str] = []
        self._tokens = _Memo[tuple[str, ...], int](self._token_set)
        self._token_sets: list[tuple[str, ...]] = []

    def prepare(self, events: Sequence[MailEvent]) -> Prepared:
        """The events as columns of numbers, not yet added."""
        (disposition, verdict, reason, auth, source, sender, account, ip, domain, country, campaign, tokens, copies,
         size, time_ms) = zip(*map(_COLUMNS, events), strict=True)  # fmt: skip
        count = len(events)
        forged = [a is not None and a.dmarc == "fail" for a in auth]
        counts = [s.counts for s in source]
        answerable = [d if d is not None else s if s == "" else None for d, s in zip(domain, sender, strict=True)]

        def ids(memo: _Memo[Any, int], keys: Any) -> Ints:
            return np.fromiter(map(memo.__getitem__, keys), np.int64, count)

        address = ids(self._addresses, ip)
        country_of = ids(self._countries, country)
        columns: tuple[Ints, ...] = (
            ids(self._campaigns, zip(campaign, tokens, strict=True)),
            ids(self._accounts, account),
            ids(self._domains, answerable),
            np.where(address < 0, -1, address >> 32),
            np.where(address < 0, -1, address & 0xFFFFFFFF),
            ids(self._flags, zip(disposition, verdict, reason, forged, counts, strict=True)),
            np.fromiter(copies, np.int64, count),
            np.fromiter(size, np.int64, count),
            ids(self._tokens, tokens),
            country_of,
        )
        return Prepared(np.fromiter(time_ms, np.int64, count), address == -2, country_of == -2, columns)

    def add(self, prepared: Prepared, kept: Bools, after: Ints) -> None:
        """Adds the prepared events where `kept`; `after` is what `InputProgress.observe` said of each."""
        code = prepared.time_ms // MINUTE_MS << 32 | after - ON_TIME
        columns = (*prepared.columns, code)
        if not kept.all():
            columns = tuple(column[kept] for column in columns)
        self.events += len(columns[-1])
        self._batches.append(columns)

    def drain(self) -> list[list[Rollup]]:
        """The rollups of each output partition, without ranges (at least one a partition), and forgets the sums."""
        if not self._batches:
            return [[_rollup(partition, (), _NO_CELLS, ())] for partition in range(ENTITY_PARTITIONS)]
        flush = _Flush(self._names, self._partitions, self._token_sets, self._country_names, self._batches)
        self.clear()
        return flush.rollups()

    def _add_entity(self, name: str) -> int:
        self._names.append(name)
        self._partitions.append(partition_of(name))
        return len(self._names) - 1

    def _address(self, text: str | None) -> int:
        """Entity ids of address and net in one number; -1 for none, -2 for what is no address."""
        if text is None:
            return -1
        packed = packed_address(text)
        if packed is None:
            return -2
        ip, net = networks_of(packed)
        return self._entities["ip:" + ip] << 32 | self._entities["net:" + net]

    def _token_set(self, tokens: tuple[str, ...]) -> int:
        self._token_sets.append(tokens)
        return len(self._token_sets) - 1

    def _country(self, text: str | None) -> int:
        if text is None:
            return -1
        if not is_country(text):
            return -2
        self._country_names.append(text)
        return len(self._country_names) - 1


class _Flush:
    """One flush, grouped. N events, M cells; a cell is an entity, a minute and, of late ones, the minute they came after."""

    def __init__(
        self,
        names: list[str],
        partitions: list[int],
        token_sets: list[tuple[str, ...]],
        countries: list[str],
        batches: list[tuple[Ints, ...]],
    ) -> None:
        self._token_sets, self._country_names = token_sets, countries
        columns = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        self._kinds, self._names, self._partitions = _present(np.stack(columns[:5]), names, partitions)
        self._flags, self._copies, self._size, self._token_set, self._country, code = columns[5:]
        self._codes, self._code = np.unique(code, return_inverse=True)

    def rollups(self) -> list[list[Rollup]]:
        """The records of each output partition."""
        entity, code, counters = self._cells()
        intake = self._intake()
        details = self._details()
        order = np.argsort(self._partitions[entity], kind="stable")
        bounds = np.searchsorted(self._partitions[entity][order], np.arange(ENTITY_PARTITIONS + 1))
        return [
            self._partition(partition, entity[cells], code[cells], counters[:, cells], intake, details)
            for partition in range(ENTITY_PARTITIONS)
            for cells in [order[bounds[partition] : bounds[partition + 1]]]
        ]

    def _cells(self) -> tuple[Ints, Ints, Ints]:
        """Entity, code and counters (C, M) of every cell that holds something, by entity."""
        span = len(self._codes)
        key = self._kinds * span + self._code
        key[self._kinds < 0] = len(self._names) * span  # no such entity: one cell more, dropped below
        cells, cell_of = _distinct(key, len(self._names) * span + 1)
        counters = self._sums(cell_of, len(cells))
        kept = (cells < len(self._names) * span) & counters.any(axis=0)
        cells = cells[kept]
        return cells // span, self._codes[cells % span], counters[:, kept]

    def _intake(self) -> tuple[Ints, Ints]:
        """Codes and counters of everything together."""
        counters = self._sums(self._code[np.newaxis], len(self._codes))
        kept = counters.any(axis=0)
        return self._codes[kept], counters[:, kept]

    def _sums(self, cell_of: Ints, cells: int) -> Ints:
        """Counters (C, cells) over `cell_of`, shape (kinds, N). Float sums are exact: far below 2^53."""
        sums = np.zeros((len(COUNTERS), cells), dtype=np.int64)
        for row, counter in zip(sums, COUNTERS, strict=True):
            held = np.flatnonzero(self._flags & BIT_OF.get(counter, MESSAGE))
            if not len(held):
                continue
            places = cell_of[:, held].ravel()
            if counter == "messages":
                row[:] = np.bincount(places, minlength=cells)
                continue
            values = (self._size if counter == "bytes" else self._copies)[held]
            row[:] = np.bincount(places, np.tile(values, len(cell_of)), cells)
        return sums

    def _details(self) -> dict[int, Detail]:
        """What unwanted campaigns, accounts and nets are known by, per entity."""
        held = np.flatnonzero(self._flags & EVIDENCE)
        if not len(held):
            return {}
        campaign, account, _, ip, net = self._kinds[:, held]
        copies = self._copies[held]
        owners = np.concatenate((campaign, account))
        twice = np.tile(copies, 2)
        tokens = _top(owners, np.tile(self._token_set[held], 2), twice, lambda index: self._token_sets[index])
        countries = _top(owners, np.tile(self._country[held], 2), twice, lambda index: (self._country_names[index],))
        seen = np.concatenate((ip, ip, campaign))
        registers = _registers(np.concatenate((owners, net)), seen, self._names)
        return {
            entity: Detail(
                self._names[entity], tokens.get(entity, ()), countries.get(entity, ()), registers.get(entity, b"")
            )
            for entity in tokens.keys() | countries.keys() | registers.keys()
        }

    def _partition(
        self,
        partition: int,
        entity: Ints,
        code: Ints,
        counters: Ints,
        intake: tuple[Ints, Ints],
        details: dict[int, Detail],
    ) -> list[Rollup]:
        """Cells of one partition as records of bounded size. An entity's detail goes with its first cell.

        The last cells are the partition's own copy of all intake: TRACK needs the whole to know a share of it.
        """
        everyone = len(self._names)
        entity = np.concatenate((entity, np.full(len(intake[0]), everyone, dtype=np.int64)))
        code = np.concatenate((code, intake[0]))
        counters = np.concatenate((counters, intake[1]), axis=1)
        entities, first, name_of = np.unique(entity, return_index=True, return_inverse=True)
        names = [f"{INTAKE}:{partition}" if index == everyone else self._names[index] for index in entities.tolist()]
        own = [details.get(index) for index in entities.tolist()]
        size = np.array(
            [len(name) * 4 + (_size(detail) if detail else 0) for name, detail in zip(names, own, strict=True)]
        )
        weight = np.full(len(entity), 8 + 8 * len(COUNTERS), dtype=np.int64)
        weight[first] += size.astype(np.int64)
        record = np.cumsum(weight) // RECORD_BYTES if len(weight) else weight
        records = []
        for number in range(int(record[-1]) + 1 if len(record) else 1):
            inside = np.flatnonzero(record == number)
            lowest, highest = (int(name_of[inside[0]]), int(name_of[inside[-1]]) + 1) if len(inside) else (0, 0)
            cells = (name_of[inside] - lowest, code[inside], counters[:, inside])
            starts = [
                d
                for d, at in zip(own[lowest:highest], first[lowest:highest], strict=True)
                if d and record[at] == number
            ]
            records.append(_rollup(partition, tuple(names[lowest:highest]), cells, tuple(starts)))
        return records


def _present(kinds: Ints, names: list[str], partitions: list[int]) -> tuple[Ints, list[str], Ints]:
    """Entity ids, names and partitions with only those that occur, numbered anew; -1 stays."""
    present = np.zeros(len(names) + 1, dtype=np.bool_)
    present[kinds] = True  # -1 marks the place after the last
    present[-1] = False
    number = np.where(present, np.cumsum(present) - 1, -1)
    occurring = np.flatnonzero(present)
    return (
        number[kinds],
        [names[index] for index in occurring.tolist()],
        np.array(partitions, dtype=np.int64)[occurring],
    )


_NO_CELLS: Final = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((len(COUNTERS), 0), np.int64))


def _rollup(
    partition: int, names: tuple[str, ...], cells: tuple[Ints, Ints, Ints], details: tuple[Detail, ...]
) -> Rollup:
    name_of, code, counters = cells
    return Rollup(
        v=ROLLUP_VERSION,
        partition=partition,
        ranges=(),
        names=names,
        name_of=name_of.astype("<i4").tobytes(),
        minute=(code >> 32).astype("<i4").tobytes(),
        after=((code & 0xFFFFFFFF) + ON_TIME).astype("<i4").tobytes(),
        counters=pack_columns(counters),
        details=details,
    )


def _size(detail: Detail) -> int:
    named = sum(4 * len(name) + 10 for name, _ in detail.tokens + detail.countries)
    return named + len(detail.registers) + 4 * len(detail.entity)


def _distinct(key: Ints, size: int) -> tuple[Ints, Ints]:
    """Distinct values of `key`, ascending, and each element's place among them, in the shape of `key`. All keys are below `size`.

    A table where the keys are dense, a sort where they are sparse (a flush that spans days).
    """
    if size > 8 * key.size + 1024:
        distinct, place = np.unique(key, return_inverse=True)
        return distinct, place.reshape(key.shape)
    present = np.zeros(size, dtype=bool)
    present[key.ravel()] = True
    places = np.cumsum(present) - 1
    return np.flatnonzero(present), places[key]


def _top(
    owner: Ints, item: Ints, copies: Ints, names_of: Callable[[int], tuple[str, ...]]
) -> dict[int, tuple[tuple[str, int], ...]]:
    """For each owner the names that most copies carried; ties by name, so that the order of events does not matter."""
    valid = (owner >= 0) & (item >= 0)
    owner, item, copies = owner[valid], item[valid], copies[valid]
    items = int(item.max(initial=0)) + 1
    pairs, place = np.unique(owner * items + item, return_inverse=True)
    sums = np.bincount(place, copies, len(pairs)).astype(np.int64)
    counted: dict[int, dict[str, int]] = {}
    for pair, total in zip(pairs.tolist(), sums.tolist(), strict=True):
        names = counted.setdefault(pair // items, {})
        for name in names_of(pair % items):
            names[name] = names.get(name, 0) + total
    return {index: top_names(names) for index, names in counted.items()}


def _registers(owner: Ints, seen: Ints, names: list[str]) -> dict[int, bytes]:
    """For each owner the HyperLogLog registers of the entities seen with it."""
    valid = (owner >= 0) & (seen >= 0)
    if not valid.any():
        return {}
    distinct, place = np.unique(seen[valid], return_inverse=True)
    register = np.array([hll_register(names[index].partition(":")[2]) for index in distinct.tolist()], dtype=np.int64)
    pairs = np.unique(owner[valid] << 16 | register[place])
    last = np.append(pairs[1:] >> 6 != pairs[:-1] >> 6, True)[: len(pairs)]  # the highest rank of each register
    pairs = pairs[last]
    owners, starts = np.unique(pairs >> 16, return_index=True)
    values = np.split((pairs & 0xFFFF).astype("<u2"), starts[1:])
    return {index: part.tobytes() for index, part in zip(owners.tolist(), values, strict=True)}
