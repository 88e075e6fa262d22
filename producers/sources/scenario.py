"""`scenario ring`: one ring hides in an honest world. A source, and the truth about it.

The story. Harbour is a mailbox provider. For three weeks 3,000 honest domains write to its people: a few of them most of it, more by day
than by night, less at weekends; their newsletters go out once a week; Harbour's own people write back; bounces, greylisting,
complaints and a thin rain of everyday spam from thousands of addresses, none of which comes near a hundred thousand a month.

Among them works one ring. From compromised computers in nine countries it advertises pills, software and mortgages. It changes its
address, its From (sometimes Harbour's own) and its link with almost every message, but keeps the structure of its HTML. Harbour's
own MX turns a little of it away. Its trap mailboxes, which catch one copy of every 5,000 that the ring sends anywhere, catch exactly
45,000 in those three weeks: 225 million copies were sent, 321 million a month, and nobody saw more than the 45,000 and a trickle.

The world is made hour by hour; an hour is a pure function of the parameters and its number, so a killed producer goes on exactly where
its last commit ended, and memory stays bounded. Time never comes from a clock.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np

from producers.errors import UsageError
from producers.event import MailEvent
from producers.publish import Batch
from producers.sources.ring_cast import Cast, Floats, cast
from producers.sources.ring_hour import OUTCOMES, Hour, background, refused, trapped

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
BATCH_EVENTS: Final = 5_000
MAX_EVENTS: Final = 2_000_000
DISORDER_MS: Final = 5_000
"""Events may come in this much out of order, as they do where many servers write."""
REFUSED_SHARE: Final = 0.005
"""Of all other events, the ring's mail that our own MX saw and refused."""
DEFAULT_START_MS: Final = 1_790_812_800_000
"""2026-10-01T00:00:00Z."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides the world."""

    seed: int = 1
    start_ms: int = DEFAULT_START_MS
    days: int = 21
    events: int = 600_000
    """Events beside the trap hits."""
    trap_hits: int = 45_000
    capture_share: float = 1 / 5_000
    """Trap hits a copy that the ring sends anywhere."""
    senders: int = 3_000
    bots: int = 12_000
    """Addresses that the ring sends from."""


class Position(msgspec.Struct, frozen=True):
    """Where to go on: an hour of the world and how many of its events are done."""

    seed: int
    parameters: Parameters
    next: int
    skip: int


class World:
    """The plan of a scenario: who there is, and how much happens in each hour. Built once, then only read."""

    def __init__(self, parameters: Parameters) -> None:
        """Raises `UsageError` for sizes that cannot be."""
        _check(parameters)
        self.parameters = parameters
        self.hours = parameters.days * 24
        root = np.random.SeedSequence(parameters.seed)
        people, plan, self._story = root.spawn(3)
        self.cast: Cast = cast(people, parameters.senders, parameters.bots)
        rng = np.random.Generator(np.random.PCG64(plan))
        at = np.arange(self.hours) + parameters.start_ms // HOUR_MS
        self.ring_rhythm = _normed(1 + 0.25 * np.cos((at % 24 - 3) / 24 * 2 * np.pi))
        weekend = (at // 24 + 3) % 7 >= 5  # the epoch began on a Thursday
        honest = _normed((1 + 0.6 * np.cos((at % 24 - 14) / 24 * 2 * np.pi)) * np.where(weekend, 0.7, 1.0))
        refusals = round(parameters.events * REFUSED_SHARE)
        self._trapped = rng.multinomial(parameters.trap_hits, self.ring_rhythm)
        self._refused = rng.multinomial(refusals, self.ring_rhythm)
        self._background = rng.multinomial(parameters.events - refusals, honest)

    @property
    def true_copies(self) -> int:
        """What the ring sent, everywhere."""
        return round(self.parameters.trap_hits / self.parameters.capture_share)

    def check_past(self, now_ms: int, speed: float | None) -> None:
        """Raises `UsageError` where events would be published before they happened: COUNT refuses those.

        `speed` is in event seconds a second; None for all at once.
        """
        start_ms = self.parameters.start_ms
        length_ms = self.hours * HOUR_MS
        end_ms = now_ms + (length_ms / speed if speed else 0)
        if start_ms > now_ms or start_ms + length_ms > end_ms:
            raise UsageError(
                "scenario ring: the world would be published before this machine's clock comes to it; give --start a day "
                f"at least {length_ms // DAY_MS} days ago"
            )

    def hour(self, number: int) -> Hour:
        """What happens in an hour, in order of publication; the same for every call."""
        seed = np.random.SeedSequence(self._story.entropy, spawn_key=(*self._story.spawn_key, number))
        rng = np.random.Generator(np.random.PCG64(seed))
        happened = [
            background(self.cast, rng, int(self._background[number]), number + self.parameters.start_ms // HOUR_MS),
            refused(self.cast, rng, int(self._refused[number]), number, self.hours, self.parameters.bots),
            trapped(self.cast, rng, int(self._trapped[number]), number, self.hours, self.parameters.bots),
        ]
        columns = [np.concatenate(parts) for parts in zip(*happened, strict=True)]
        time_ms = rng.integers(0, HOUR_MS, len(columns[0])) + self.parameters.start_ms + number * HOUR_MS
        order = np.argsort(time_ms + rng.integers(0, DISORDER_MS, len(time_ms)), kind="stable")
        return Hour(time_ms[order], *(column[order] for column in columns))


class RingScenario:
    """The world as a source. A batch spans less than `span_ms` of event time, where that is given."""

    def __init__(self, world: World, span_ms: int | None = None) -> None:
        self.world = world
        digest = hashlib.blake2b(msgspec.json.encode(world.parameters), digest_size=6).hexdigest()
        self.key = f"scenario:ring:{digest}"
        self._digest = digest
        self._span_ms = span_ms if span_ms is not None else world.hours * HOUR_MS

    def read(self, position: bytes | None) -> Iterator[Batch]:
        """Batches from a position of this same world, or from its start. Raises `UsageError` for another world's."""
        for _, batch in self.timed(position):
            yield batch

    def timed(self, position: bytes | None) -> Iterator[tuple[int, Batch]]:
        """As `read`, each with the largest event time in it, in ms since the Unix epoch."""
        first, skip = self._resume(position)
        records: list[bytes] = []
        begun_ms = latest_ms = 0
        for number in range(first, self.world.hours):
            hour = self.world.hour(number)
            encoded = self._encode(number, hour)
            newest = np.maximum.accumulate(hour.time_ms)
            while skip < len(encoded):
                if not records:
                    begun_ms = int(newest[skip])
                by_time = int(np.searchsorted(newest, begun_ms + self._span_ms))
                end = max(min(skip + BATCH_EVENTS - len(records), by_time), skip)
                records += encoded[skip:end]
                latest_ms = int(newest[end - 1]) if end > skip else latest_ms
                skip = end
                if len(records) == BATCH_EVENTS or skip < len(encoded):
                    yield latest_ms, self._batch(records, number, skip)
                    records = []
            skip = 0
        if records:
            yield latest_ms, self._batch(records, self.world.hours, 0)

    def _batch(self, records: list[bytes], number: int, skip: int) -> Batch:
        parameters = self.world.parameters
        position = Position(parameters.seed, parameters, number, skip)
        return Batch(records, msgspec.json.encode(position), len(records), {})

    def _resume(self, position: bytes | None) -> tuple[int, int]:
        if position is None:
            return 0, 0
        try:
            found = msgspec.json.decode(position, type=Position)
        except msgspec.MsgspecError:
            raise UsageError(f"the stored position of {self.key} was not written by this source") from None
        if found.parameters != self.world.parameters:
            raise UsageError(f"the stored position of {self.key} belongs to a world with other parameters")
        return found.next, found.skip

    def _encode(self, number: int, hour: Hour) -> list[bytes]:
        """The events of an hour, as records."""
        people, encode = self.world.cast, msgspec.json.Encoder().encode
        prefix = f"{self._digest}-{number:x}-"
        records = []
        for index, (time_ms, way, face, content, outcome, copies, size) in enumerate(
            zip(*(column.tolist() for column in hour), strict=True)
        ):
            came, who, shown, became = people.ways[way], people.faces[face], people.contents[content], OUTCOMES[outcome]
            event = MailEvent(
                v=1,
                id=f"{prefix}{index:x}",
                time_ms=time_ms,
                disposition=became.disposition,
                source=became.source,
                direction=who.direction,
                verdict=became.verdict,
                reason=became.reason,
                copies=copies,
                sender=who.sender,
                account=who.account,
                ip=came.ip,
                helo=came.helo,
                sender_domain=who.sender_domain,
                from_domain=who.from_domain,
                auth=who.auth,
                country=came.country,
                asn=came.asn,
                size_bytes=size,
                campaign=shown.declared,
                tokens=shown.tokens,
            )
            records.append(encode(event))
        return records


class Paced:
    """A scenario that takes its time: `speed` event seconds in a second of `clock`. A batch comes when its last event has happened."""

    def __init__(
        self, source: RingScenario, speed: float, clock: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self.key = source.key
        self._source, self._speed, self._clock, self._sleep = source, speed, clock, sleep

    def read(self, position: bytes | None) -> Iterator[Batch]:
        """As the scenario's. The first batch comes at once, and sets the pace of the others."""
        began: tuple[float, int] | None = None
        for time_ms, batch in self._source.timed(position):
            if began is None:
                began = self._clock(), time_ms
            due = began[0] + (time_ms - began[1]) / 1000 / self._speed
            if (wait := due - self._clock()) > 0:
                self._sleep(wait)
            yield batch


def _check(parameters: Parameters) -> None:
    limits = {
        "seed": (parameters.seed, 0, 1 << 62),
        "start": (parameters.start_ms, 0, 1 << 43),
        "days": (parameters.days, 1, 30),
        "events": (parameters.events, 0, MAX_EVENTS),
        "trap hits": (parameters.trap_hits, 0, MAX_EVENTS),
        "senders": (parameters.senders, 10, 32_000),
        "bots": (parameters.bots, 10, 100_000),
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise UsageError(f"scenario ring: {name} must be from {low:,} to {high:,}, not {value:,}")
    if not 0 < parameters.capture_share <= 1:
        raise UsageError(
            f"scenario ring: the capture share must be above 0 and at most 1, not {parameters.capture_share}"
        )


def _normed(weights: Floats) -> Floats:
    shares: Floats = weights / weights.sum()
    return shares
