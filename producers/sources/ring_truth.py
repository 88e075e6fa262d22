"""The truth about a ring's world, summed from its own story: no code that is to be measured takes part."""

from typing import Final

import msgspec
import numpy as np

from producers.sources.ring_cast import RING_CAMPAIGN, Ints
from producers.sources.ring_hour import OUTCOMES, Hour
from producers.sources.scenario import HOUR_MS, World

COUNTERS: Final = (
    "copies", "messages", "unwanted", "rejected", "traps", "complaints", "forged", "deferred", "bounced", "bytes",
)  # fmt: skip
MONTH_DAYS: Final = 30
HOURS_AT_ONCE: Final = 24
TIERS: Final = (100_000_000, 10_000_000, 1_000_000, 100_000)
PAGES_FROM: Final = 10_000_000
_BUCKETS: Final = ("campaign:(none)", "domain:(unauthenticated)", "domain:(null)")


class Ring(msgspec.Struct, frozen=True):
    """What must be found."""

    campaign: str
    """The entity the ring must be reported as."""
    trap_hits: int
    true_copies: int
    """Sent everywhere from start to end."""
    true_copies_a_month: int
    """The same pace for 30 days."""
    tier: int
    severity: str
    true_copies_by_hour: list[int]
    """From the start on: so that an estimate at any moment can be compared."""


class Truth(msgspec.Struct, frozen=True):
    """Beside a scenario, as JSON. Times in ms since the Unix epoch; the world is [start_ms, end_ms)."""

    scenario: str
    seed: int
    start_ms: int
    end_ms: int
    capture_share: float
    events: int
    """All of them: trap hits and others."""
    ring: Ring
    must_not_page: list[str]
    """Every entity that the ring has no part in, sorted; buckets such as `campaign:(none)` are nobody and not listed."""
    entities: dict[str, dict[str, int]]
    """Totals of each entity that anything was counted for, sorted by name."""


def tell(world: World) -> Truth:
    """The whole truth; the same for the same world."""
    parameters = world.parameters
    ways, faces, contents, events = _sums(world)
    people = world.cast
    totals: dict[str, Ints] = {}
    for names, sums in (
        ([way.ip_entity for way in people.ways], ways),
        ([way.net_entity for way in people.ways], ways),
        ([face.domain_entity for face in people.faces], faces),
        ([face.account and "account:" + face.account for face in people.faces], faces),
        ([content.campaign_entity for content in people.contents], contents),
    ):
        for name, row in zip(names, sums, strict=True):
            if name is not None and row.any():
                totals[name] = totals[name] + row if name in totals else row
    of_ring = {RING_CAMPAIGN, *_BUCKETS}
    for way in people.ways[people.bot_ways_from :]:
        of_ring |= {str(way.ip_entity), str(way.net_entity)}
    return Truth(
        scenario="ring",
        seed=parameters.seed,
        start_ms=parameters.start_ms,
        end_ms=parameters.start_ms + world.hours * HOUR_MS,
        capture_share=parameters.capture_share,
        events=events,
        ring=_ring(world),
        must_not_page=sorted(totals.keys() - of_ring),
        entities={name: dict(zip(COUNTERS, totals[name].tolist(), strict=True)) for name in sorted(totals)},
    )


def _ring(world: World) -> Ring:
    by_hour = np.diff(np.rint(np.cumsum(world.ring_rhythm) * world.true_copies), prepend=0)
    month = round(world.true_copies * MONTH_DAYS / world.parameters.days)
    tier = next((line for line in TIERS if month > line), 0)
    severity = "critical" if tier >= PAGES_FROM else "warning" if tier >= TIERS[2] else "info"
    return Ring(
        campaign=RING_CAMPAIGN,
        trap_hits=world.parameters.trap_hits,
        true_copies=world.true_copies,
        true_copies_a_month=month,
        tier=tier,
        severity=severity,
        true_copies_by_hour=by_hour.astype(np.int64).tolist(),
    )


def _sums(world: World) -> tuple[Ints, Ints, Ints, int]:
    """Counters of each way, face and content, shape (choices, counters); and the number of events."""
    people = world.cast
    ways, faces, contents = (
        np.zeros((len(group), len(COUNTERS)), dtype=np.int64) for group in (people.ways, people.faces, people.contents)
    )
    events = 0
    for first in range(0, world.hours, HOURS_AT_ONCE):
        hours = [world.hour(number) for number in range(first, min(first + HOURS_AT_ONCE, world.hours))]
        day = Hour(*(np.concatenate(column) for column in zip(*hours, strict=True)))
        events += len(day.time_ms)
        for row, counter in enumerate(COUNTERS):
            amount = _amount(world, day, counter)
            for choice, sums in ((day.way, ways), (day.face, faces), (day.content, contents)):
                np.add.at(sums[:, row], choice, amount)
    return ways, faces, contents, events


def _amount(world: World, day: Hour, counter: str) -> Ints:
    """What each event adds to a counter."""
    if counter == "forged":
        fails = np.array([face.auth is not None and face.auth.dmarc == "fail" for face in world.cast.faces])
        counted = np.array(["messages" in outcome.adds for outcome in OUTCOMES])
        return np.where(fails[day.face] & counted[day.outcome], day.copies, 0)
    adds = np.array([counter in outcome.adds for outcome in OUTCOMES])
    unit = {"messages": np.ones_like(day.copies), "bytes": day.size_bytes}.get(counter, day.copies)
    return np.where(adds[day.outcome], unit, 0)
