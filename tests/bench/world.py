"""The traffic that is measured on: events with Zipf-distributed senders, campaigns and addresses. Pure, and the same for the same seed.

About 400 bytes an event; 30 % of the events are unwanted, 10 % come from IPv6, 8 % were submitted by accounts.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from producers.event import Auth, Disposition, MailEvent, Reason, Source, Verdict
from streams.accumulate import Accumulator
from streams.rollup import MINUTE_MS, ON_TIME, InputRange

START_MS: Final = 1_704_110_400_000
"""2024-01-01T12:00:00Z: the start of an hour, and behind the clock of any machine."""
INPUTS: Final = 4
"""Partitions of `mail-events`; event `n` is in partition `n % INPUTS`."""
SEED: Final = 2
_PASS: Final = Auth(spf="pass", dkim="pass", dmarc="pass")
_FAIL: Final = Auth(spf="fail", dkim="none", dmarc="fail")
_MX: Final = Source("rspamd", "mx.bench.test")
_TRAP: Final = Source("mailbox", "traps.bench.test")
_COUNTRIES: Final = [
    "US",
    "DE",
    "FR",
    "NL",
    "GB",
    "BR",
    "IN",
    "VN",
    "CN",
    "RU",
    "UA",
    "TR",
    "PL",
    "IT",
    "ES",
    "JP",
    "KR",
    "ID",
    "MX",
    "AR",
]


class Population(msgspec.Struct, frozen=True):
    """How many there are of each; both honest and unwanted mail have `campaigns` of them."""

    campaigns: int
    domains: int
    accounts: int
    nets: int
    addresses_a_net: int
    exponent: float
    """Frequency falls as 1 / rank^exponent."""


TOWN: Final = Population(campaigns=4_000, domains=5_000, accounts=2_000, nets=1_500, addresses_a_net=4, exponent=1)
"""What COUNT is measured on: some thousands of each."""
CITY: Final = Population(
    campaigns=12_000, domains=30_000, accounts=10_000, nets=30_000, addresses_a_net=4, exponent=0.5
)
"""What TRACK is measured on: some 200,000 entities, many of them seen in an hour."""


class Story(msgspec.Struct, frozen=True):
    """What becomes of a share of the messages."""

    share: float
    disposition: Disposition
    verdict: Verdict = "unknown"
    reason: Reason | None = None
    auth: Auth | None = None
    source: Source = _MX
    shows_content: bool = True
    submitted: bool = False
    null_sender: bool = False


STORIES: Final = (
    Story(0.50, "accepted", "ham", auth=_PASS),
    Story(0.08, "accepted", "ham", auth=_PASS, submitted=True),
    Story(0.05, "rejected", reason="unknown_user", shows_content=False),
    Story(0.05, "deferred", reason="rate", shows_content=False),
    Story(0.02, "bounced", null_sender=True, shows_content=False),
    # the 30 % that are unwanted
    Story(0.12, "accepted", "spam", auth=_PASS),
    Story(0.10, "rejected", "spam", "content", _FAIL),
    Story(0.05, "rejected", reason="policy", shows_content=False),
    Story(0.02, "trap", "phish", auth=_FAIL, source=_TRAP),
    Story(0.01, "complaint", auth=_PASS),
)


class World:
    """`total` events evenly over `span_ms` from `START_MS`. Any part of it can be drawn by itself, `CHUNK` events at a time."""

    CHUNK: Final = 10_000

    def __init__(self, population: Population, total: int, span_ms: int, seed: int = SEED) -> None:
        self._total, self._span_ms, self._seed = total, span_ms, seed
        self._population = population
        self._honest = [_tokens("good", n) for n in range(population.campaigns)]
        self._spammy = [_tokens("evil", n) for n in range(population.campaigns)]
        self._domains = [f"d{n:05}.test" for n in range(population.domains)]
        self._accounts = [f"account-{n}@isp.test" for n in range(population.accounts)]
        nets = range(population.nets)
        self._addresses = [_address(net, host) for host in range(population.addresses_a_net) for net in nets]
        sizes = (population.campaigns, population.domains, population.accounts, len(self._addresses))
        self._ranks = {size: _zipf(size, population.exponent) for size in sizes}

    def events(self) -> Iterator[list[MailEvent]]:
        """All events in order of time, a chunk at a time."""
        for first in range(0, self._total, self.CHUNK):
            yield self._chunk(first, min(self.CHUNK, self._total - first))

    def _chunk(self, first: int, count: int) -> list[MailEvent]:
        rng = np.random.default_rng([self._seed, first])
        people = self._population

        def draw(size: int) -> list[int]:
            ranks: list[int] = np.searchsorted(self._ranks[size], rng.random(count)).tolist()
            return ranks

        columns = (
            range(first, first + count),
            rng.choice(len(STORIES), count, p=[story.share for story in STORIES]).tolist(),
            draw(people.campaigns),
            draw(people.domains),
            draw(people.accounts),
            draw(len(self._addresses)),
            np.minimum(rng.geometric(0.6, count), 50).tolist(),
            rng.integers(1_000, 200_000, count).tolist(),
            rng.integers(0, 1 << 62, count).tolist(),
        )
        return [self._event(*row) for row in zip(*columns, strict=True)]

    def _event(
        self,
        index: int,
        told: int,
        campaign: int,
        domain: int,
        account: int,
        address: int,
        copies: int,
        size: int,
        id_: int,
    ) -> MailEvent:
        story = STORIES[told]
        unwanted = told > 4
        name = self._domains[domain]
        ip = self._addresses[address]
        net = address % self._population.nets
        return MailEvent(
            v=1,
            id=f"{id_:016x}-{index:08x}",
            time_ms=START_MS + index * self._span_ms // self._total,
            disposition=story.disposition,
            source=story.source,
            direction="outbound" if story.submitted else "inbound",
            verdict=story.verdict,
            reason=story.reason,
            copies=copies,
            sender="" if story.null_sender else f"u{id_ % 1_000}@{name}",
            account=self._accounts[account] if story.submitted else None,
            ip=ip,
            helo=f"h{address}.isp{net}.test",
            sender_domain=name if story.auth is _PASS else None,
            from_domain=name,
            auth=story.auth,
            country=_COUNTRIES[net % len(_COUNTRIES)],
            asn=64_512 + net % 1_000,
            size_bytes=size,
            campaign=f"newsletter-{campaign}" if story.submitted else None,
            tokens=() if not story.shows_content else (self._spammy if unwanted else self._honest)[campaign],
        )


def rollups(world: World, minutes: int) -> Iterator[tuple[int, bytes]]:
    """(partition, value) of what COUNT would write about a world of that many minutes, at one flush a minute; all are over at the end."""
    sums, encoder = Accumulator(), msgspec.msgpack.Encoder()
    counted = flushed = 0
    until_ms = START_MS + MINUTE_MS
    for chunk in world.events():
        times_ms = [event.time_ms for event in chunk]
        first = 0
        while first < len(chunk):
            end = bisect_left(times_ms, until_ms)
            _add(sums, chunk[first:end])
            counted += end - first
            first = end
            if end < len(chunk):
                yield from _flush(sums, _numbered(flushed, counted, until_ms - 1), encoder)
                flushed, until_ms = counted, until_ms + MINUTE_MS
    yield from _flush(sums, _numbered(flushed, counted, until_ms - 1), encoder)
    yield from closing({part: _offset(counted, part) for part in range(INPUTS)}, START_MS + (minutes + 3) * MINUTE_MS)


def closing(ends: Mapping[int, int], progress_ms: int) -> Iterator[tuple[int, bytes]]:
    """(partition, value) of an empty flush that moves time on, where the input partitions were counted up to `ends`."""
    ranges = tuple(InputRange(part, end, end, progress_ms, False) for part, end in ends.items())
    yield from _flush(Accumulator(), ranges, msgspec.msgpack.Encoder())


def _flush(
    sums: Accumulator, ranges: tuple[InputRange, ...], encoder: msgspec.msgpack.Encoder
) -> Iterator[tuple[int, bytes]]:
    for records in sums.drain():
        records[-1] = msgspec.structs.replace(records[-1], ranges=ranges)
        for record in records:
            yield record.partition, encoder.encode(record)


def _add(sums: Accumulator, events: Sequence[MailEvent]) -> None:
    if events:
        sums.add(sums.prepare(events), np.ones(len(events), dtype=np.bool_), np.full(len(events), ON_TIME))


def _numbered(start: int, end: int, progress_ms: int) -> tuple[InputRange, ...]:
    """Ranges of the events [start, end), as if the offsets of each input partition had no gaps."""
    return tuple(
        InputRange(part, _offset(start, part), _offset(end, part), progress_ms, False) for part in range(INPUTS)
    )


def _offset(counted: int, partition: int) -> int:
    """How many of the first events lie in a partition."""
    return (counted + INPUTS - 1 - partition) // INPUTS


def _zipf(size: int, exponent: float) -> NDArray[np.float64]:
    """Cumulated probabilities of ranks whose frequency falls as 1 / rank^exponent (Zipf's law)."""
    heights = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -exponent)
    cumulated: NDArray[np.float64] = heights / heights[-1]
    return cumulated


def _tokens(manner: str, number: int) -> tuple[str, ...]:
    digest = number * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1
    return f"html:{manner}{digest:016x}", f"url:{manner}-{number}.test"


def _address(net: int, host: int) -> str:
    """Every tenth net is IPv6; its addresses are in different /64s."""
    if net % 10 == 9:
        return f"2001:db8:{net:x}:{host:x}::{host + 25:x}"
    return f"{11 + (net >> 16)}.{net >> 8 & 255}.{net & 255}.{host * 50 + 7}"
