"""Time and audit of one partition of `mail-rollups`: which input offsets were counted, and which minutes are over. Pure.

input partitions  0: ----------|          progress: the largest event time COUNT saw
                  1: -------|             the slowest that is not idle decides
                  2: (idle)
watermark               [---|-grace)      minutes that end at or before it are over: their cells fold, the rules run
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from producers.errors import AuditFailure
from streams.rollup import MINUTE_MS, InputRange

NEVER: Final = -1


class InputState(msgspec.Struct, array_like=True):
    """What is known of one input partition."""

    end: int
    """Next offset to be counted: everything before it was."""
    progress_ms: int
    idle: bool


class Clock:
    """Merges what COUNT reports of the input partitions. One a partition of `mail-rollups`; its state goes into the marker."""

    __slots__ = ("_expected", "_grace_ms", "closable", "closed", "inputs")

    def __init__(self, grace_ms: int, expected_inputs: int) -> None:
        self._grace_ms = grace_ms
        self._expected = expected_inputs
        self.inputs: dict[int, InputState] = {}
        self.closable = NEVER
        """The last minute (since the epoch) that is over, by the records read so far."""
        self.closed = NEVER
        """The last minute that was folded and judged."""

    def observe(self, ranges: Iterable[InputRange]) -> None:
        """Takes the ranges of one flush. Raises `AuditFailure` where an input offset was skipped or counted twice."""
        for part in ranges:
            known = self.inputs.get(part.partition)
            if known is None:
                self.inputs[part.partition] = InputState(part.end, part.progress_ms, part.idle)
                continue
            if part.start != known.end:
                what = "were never counted" if part.start > known.end else "would be counted twice"
                low, high = sorted((known.end, part.start))
                raise AuditFailure(
                    f"mail-events partition {part.partition}: offsets [{low}, {high}) {what}. "
                    "Counting stops here; see README, 'When the audit fails'"
                )
            known.end = part.end
            known.progress_ms = max(known.progress_ms, part.progress_ms)
            known.idle = part.idle
        self.closable = max(self.closable, self._last_minute_over())

    def _last_minute_over(self) -> int:
        """Every input partition must have been heard of. Where all are idle nothing more is coming: the last minute seen is over."""
        states = self.inputs.values()
        if len(states) < self._expected:
            return NEVER
        active = [state.progress_ms for state in states if not state.idle]
        if active:
            slowest = min(active)
            return NEVER if slowest < 0 else (slowest - self._grace_ms) // MINUTE_MS - 1
        return max((state.progress_ms for state in states), default=NEVER) // MINUTE_MS

    @property
    def all_idle(self) -> bool:
        """Nothing is coming on any input partition."""
        return len(self.inputs) >= self._expected and all(state.idle for state in self.inputs.values())
