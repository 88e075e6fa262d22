"""Whether what came out is the truth: the demo's judge."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from streams.incident import Alert, Estimate
from streams.ledger import Sums
from streams.render import amount, moment, visible
from streams.volume import COUNTERS, KINDS

_ENTITY_KINDS: Final = KINDS[:5]
_NOTHING: Final = (0,) * len(COUNTERS)
_LARGEST: Final = 3
"""Of each kind, so many entities are shown beside the ring."""


class Ring(msgspec.Struct, frozen=True):
    """What the scenario says of its ring (the fields that are judged)."""

    campaign: str
    true_copies_a_month: int
    tier: int
    severity: str


class Truth(msgspec.Struct, frozen=True):
    """What the scenario says of its world; other fields are passed over."""

    start_ms: int
    end_ms: int
    events: int
    ring: Ring
    must_not_page: tuple[str, ...]
    entities: dict[str, dict[str, int]]


class _Entities(msgspec.Struct, frozen=True):
    entities: dict[str, dict[str, int]]


class Story(msgspec.Struct):
    """What Spamtide said."""

    sums: Sums = {}
    """Facts, summed over hours."""
    alerts: list[Alert] = []
    states: list[Alert] = []
    """Every state that an incident had."""


class Check(msgspec.Struct, frozen=True):
    """One thing that must hold."""

    holds: bool
    says: str


def with_entities(truth_file: Path, *more: Path) -> Truth:
    """A scenario's truth, with what was to be counted in other inputs added. Raises `OSError`, `msgspec.DecodeError`."""
    truth = msgspec.json.decode(truth_file.read_bytes(), type=Truth)
    entities = {name: dict(counters) for name, counters in truth.entities.items()}
    for path in more:
        for name, counters in msgspec.json.decode(path.read_bytes(), type=_Entities).entities.items():
            sums = entities.setdefault(name, {})
            for counter, value in counters.items():
                sums[counter] = sums.get(counter, 0) + value
    return msgspec.structs.replace(truth, entities=entities)


def judge(truth: Truth, story: Story) -> list[Check]:
    """All that must hold."""
    return [_facts(truth, story), _ring_alert(truth, story), _interval(truth, story), _innocent(truth, story)]


def _true_sums(truth: Truth) -> Sums:
    sums = {name: tuple(c.get(counter, 0) for counter in COUNTERS) for name, c in truth.entities.items()}
    return {name: values for name, values in sums.items() if any(values)}


def _counted(story: Story) -> Sums:
    return {name: values for name, values in story.sums.items() if name.partition(":")[0] in _ENTITY_KINDS}


def _facts(truth: Truth, story: Story) -> Check:
    true, counted = _true_sums(truth), _counted(story)
    wrong = sorted(name for name in true.keys() | counted.keys() if true.get(name) != counted.get(name))
    if not wrong:
        return Check(
            True, f"facts: {len(true):,} campaigns and senders equal the truth in all {len(COUNTERS)} counters"
        )
    name = wrong[0]
    at = next(at for at in range(len(COUNTERS)) if true.get(name, _NOTHING)[at] != counted.get(name, _NOTHING)[at])
    return Check(
        False,
        f"facts: {len(wrong):,} of {len(true):,} differ, the first is {visible(name, 80)}: {COUNTERS[at]} "
        f"{counted.get(name, _NOTHING)[at]:,}, not {true.get(name, _NOTHING)[at]:,}",
    )


def _ring_alert(truth: Truth, story: Story) -> Check:
    ring = truth.ring
    wanted = f"the ring: severity {ring.severity}, tier {amount(ring.tier)} a month"
    found = [alert for alert in story.alerts if alert.entity == ring.campaign]
    right = [alert for alert in found if alert.severity == ring.severity and alert.tier == ring.tier]
    if right:
        return Check(True, f"{wanted}, first said for {moment(min(alert.time_ms for alert in right))}")
    said = ", ".join(sorted({f"{alert.severity} at tier {amount(alert.tier)}" for alert in found})) or "nothing"
    return Check(False, f"{wanted}: not said; what was said is {said}")


def _interval(truth: Truth, story: Story) -> Check:
    """The ring's last estimate while its world lasted: later ones look at days in which it sent nothing."""
    estimate = _last_estimate(truth, story)
    true = truth.ring.true_copies_a_month
    if estimate is None:
        return Check(False, f"the ring's month of {amount(true)} copies: nothing was inferred from traps")
    says = f"{amount(estimate.copies)} a month from traps, 95 %: {estimate.low:,} to {estimate.high:,}; the truth is {true:,}"
    return Check(estimate.low <= true <= estimate.high, f"the ring's month: {says}")


def _last_estimate(truth: Truth, story: Story) -> Estimate | None:
    states = [
        state
        for state in story.states
        if state.entity == truth.ring.campaign and state.time_ms <= truth.end_ms and state.volume.month_trap
    ]
    return max(states, key=lambda state: (state.time_ms, state.seq)).volume.month_trap if states else None


def _innocent(truth: Truth, story: Story) -> Check:
    innocent = set(truth.must_not_page)
    paged = sorted(
        {alert.entity for alert in story.alerts if alert.severity == "critical" and alert.entity in innocent}
    )
    if not paged:
        return Check(True, f"nobody was paged for one of the {len(innocent):,} who have no part in it")
    return Check(False, f"{len(paged):,} innocent were paged, the first is {visible(paged[0], 80)}")


def comparison(truth: Truth, story: Story) -> Table:
    """Truth against facts: each kind as a whole, the ring, and the largest of each kind."""
    true, counted = _true_sums(truth), _counted(story)
    made = Table(title="Truth and facts", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    made.add_column("who", max_width=60, overflow="ellipsis", no_wrap=True)
    for heading in ("copies, truth", "copies, facts", "unwanted, truth", "unwanted, facts", ""):
        made.add_column(heading, justify="right", no_wrap=True)
    for label, names in _groups(truth, true, counted):
        cells = []
        for counter in ("copies", "unwanted"):
            at = COUNTERS.index(counter)
            cells += [f"{sum(side.get(name, _NOTHING)[at] for name in names):,}" for side in (true, counted)]
        same = all(true.get(name) == counted.get(name) for name in names)
        made.add_row(Text(label), *cells, Text("equal" if same else "DIFFERENT", "" if same else "bold red"))
    return made


def _groups(truth: Truth, true: Sums, counted: Sums) -> Iterator[tuple[str, list[str]]]:
    for kind in _ENTITY_KINDS:
        names = [name for name in true.keys() | counted.keys() if name.startswith(kind + ":")]
        yield f"all {len(names):,} of kind {kind}", names
    ring = truth.ring.campaign
    yield f"{visible(ring, 80)} (the ring)", [ring]
    for kind in _ENTITY_KINDS:
        names = [name for name in true if name.startswith(kind + ":") and name != ring]
        for name in sorted(names, key=lambda name: (-true[name][0], name))[:_LARGEST]:
            yield visible(name, 80), [name]
