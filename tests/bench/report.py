"""The figures: what was measured, what must be reached, and how it is told. Pure but for the look at versions."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import confluent_kafka
import msgspec

MUSTS: Final = {"count.events_s": 50_000.0, "track.cells_s": 50_000.0}
"""The least that is acceptable of a figure, in its unit (issue 2)."""
_POM: Final = Path(__file__).parents[2] / "deploy/kafka/pom.xml"


class Figure(msgspec.Struct, frozen=True):
    """The median of some rounds. More is better wherever there is a must."""

    key: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median."""
        return median(self.rounds)

    @property
    def must(self) -> float | None:
        """The least acceptable value, where there is one."""
        return MUSTS.get(self.key)

    @property
    def missed(self) -> bool:
        """Whether it is less than it must be."""
        return self.must is not None and self.value < self.must


def versions() -> dict[str, str]:
    """Of everything that a figure depends on."""
    kafka = re.search(r"<kafka\.version>(.*)</kafka\.version>", _POM.read_text(encoding="utf-8"))
    return {
        "kafka": kafka[1] if kafka else "unknown",
        "librdkafka": confluent_kafka.libversion()[0],
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "msgspec": version("msgspec"),
        "cores": str(os.cpu_count()),
    }


def table(figures: Sequence[Figure]) -> str:
    """One line a figure: median, what it must be, and the least and most of the rounds."""
    lines = [f"{'figure':30} {'median':>12}  {'unit':12} {'must':>9}  rounds"]
    for figure in figures:
        must = "" if figure.must is None else f"{figure.must:,.0f}"
        spread = f"{_short(min(figure.rounds))} .. {_short(max(figure.rounds))}"
        verdict = "   MISSED" if figure.missed else ""
        lines.append(f"{figure.key:30} {_short(figure.value):>12}  {figure.unit:12} {must:>9}  {spread}{verdict}")
    return "\n".join(lines)


def as_json(figures: Sequence[Figure], events: int, found: dict[str, str]) -> bytes:
    """For other programs: every figure with its rounds, under its key."""
    body = {
        "versions": found,
        "events": events,
        "figures": {
            figure.key: {
                "value": figure.value, "unit": figure.unit, "rounds": figure.rounds, "must": figure.must,
                "missed": figure.missed,
            }
            for figure in figures
        },
    }  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(body), indent=2)


def exit_status(figures: Sequence[Figure]) -> int:
    """1 where a must is missed."""
    return int(any(figure.missed for figure in figures))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
