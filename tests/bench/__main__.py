"""`make bench`: what COUNT and TRACK sustain in one process on a real Kafka. Prints a table, writes `build/bench.json`.

Exit status 1 where a figure is less than it must be.
"""

import argparse
import os
import pstats
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.report import as_json, exit_status, table, versions
from tests.bench.rounds import measure, profile

_FOLDER: Final = Path(__file__).parents[2] / "build"
_HOTTEST: Final = 25


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and tells; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="events for COUNT; TRACK gets twice the cells (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, after one to warm up (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="run each stage once and show where its time goes")
    chosen = parser.parse_args(arguments)
    bootstrap_servers = f"127.0.0.1:{os.environ.get('SPAMTIDE_KAFKA_PORT', '19092')}"
    _FOLDER.mkdir(exist_ok=True)
    if chosen.profile:
        for path in profile(bootstrap_servers, chosen.events, _FOLDER, _say):
            print(f"\n{path.name}, by time in the function itself:")
            pstats.Stats(str(path)).strip_dirs().sort_stats("tottime").print_stats(_HOTTEST)
        return 0
    figures = measure(bootstrap_servers, chosen.events, chosen.rounds, _say)
    found = versions()
    path = _FOLDER / "bench.json"
    path.write_bytes(as_json(figures, chosen.events, found))
    print(table(figures))
    print(", ".join(f"{name} {number}" for name, number in found.items()) + f"; {path}")
    return exit_status(figures)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
