"""`MailEvent`s as JSON lines, from a file (each line exactly once) or a stream (at least once).

A line is published as it came, so that fields of a newer version live on; one that COUNT would refuse is refused here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from producers.errors import InvalidInput, UsageError
from producers.event import MAX_RECORD_BYTES, MAX_SKEW_MS, decode_lines
from producers.publish import Batch
from producers.sources.lines import FileIdentity, identify, read_file, read_pipe

BATCH_LINES: Final = 5_000
BATCH_BYTES: Final = 8_000_000

Report = Callable[[int, str], None]
"""Told of each line that cannot be used: its number, from 1, and the reason."""
Clock = Callable[[], int]
"""Now, in ms since the Unix epoch."""


class FilePosition(msgspec.Struct, frozen=True):
    """Where to go on in a file: the byte after the last line used."""

    file: FileIdentity
    offset: int
    line: int
    """Lines before the offset."""


class NdjsonFile:
    """A file of JSON lines. Another file under the same path is read from its start."""

    def __init__(self, path: Path, host: str, clock: Clock, report: Report) -> None:
        self.key = f"ndjson:{path.resolve()}@{host}"
        self._path = path
        self._clock = clock
        self._report = report

    def read(self, position: bytes | None) -> Iterator[Batch]:
        """Raises `Unavailable` where the file cannot be read."""
        identity = identify(self._path)
        offset, number = self._resume(position, identity)
        pending = _Pending(self._clock, self._report, number)
        for offset, line in read_file(self._path, offset, MAX_RECORD_BYTES):  # noqa: B020 -- it goes on from where it was
            pending.add(line)
            if pending.is_full:
                yield pending.take(_encode(identity, offset, pending.number))
        if pending.lines:
            yield pending.take(_encode(identity, offset, pending.number))

    def _resume(self, position: bytes | None, identity: FileIdentity) -> tuple[int, int]:
        if position is None:
            return 0, 0
        try:
            found = msgspec.json.decode(position, type=FilePosition)
        except msgspec.MsgspecError:
            raise UsageError(f"the stored position of {self.key} was not written by this source") from None
        if found.file != identity or found.offset > self._path.stat().st_size:
            return 0, 0
        return found.offset, found.line


class NdjsonStream:
    """Standard input: it cannot be read again, so nothing is kept, and `run` names this run's key apart from others'."""

    def __init__(self, descriptor: int, run: str, clock: Clock, report: Report) -> None:
        self.key = f"ndjson:-:{run}"
        self._descriptor = descriptor
        self._clock = clock
        self._report = report

    def read(self, position: bytes | None) -> Iterator[Batch]:
        """The position is ignored. A batch ends when it is full and when the writer pauses."""
        del position
        pending = _Pending(self._clock, self._report, 0)
        for paused, line in read_pipe(self._descriptor, MAX_RECORD_BYTES):
            if not paused:
                pending.add(line)
            if pending.is_full or (paused and pending.lines):
                yield pending.take(b"")
        if pending.lines:
            yield pending.take(b"")


class _Pending:
    """The batch that is being gathered."""

    def __init__(self, clock: Clock, report: Report, number: int) -> None:
        self.number = number
        self.lines = 0
        self._clock = clock
        self._report = report
        self._clear()

    def _clear(self) -> None:
        self.lines = 0
        self._bytes = 0
        self._records: list[bytes] = []
        self._refused: Counter[str] = Counter()
        self._latest_ms = self._clock() + MAX_SKEW_MS

    @property
    def is_full(self) -> bool:
        return self.lines >= BATCH_LINES or self._bytes >= BATCH_BYTES

    def add(self, line: bytes | None) -> None:
        """One line: kept, refused, or passed over where it is blank. None is an over-long one."""
        self.number += 1
        self.lines += 1
        if line is None:
            self._refuse("oversize")
            return
        line = line.strip()
        if not line:
            return
        reason = _fault(line, self._latest_ms)
        if reason is not None:
            self._refuse(reason)
            return
        self._records.append(line)
        self._bytes += len(line)

    def take(self, position: bytes) -> Batch:
        """The batch, and a fresh start."""
        batch = Batch(self._records, position, self.lines, dict(self._refused))
        self._clear()
        return batch

    def _refuse(self, reason: str) -> None:
        self._refused[reason] += 1
        self._report(self.number, reason)


def _fault(line: bytes, latest_ms: int) -> str | None:
    """Why COUNT would refuse this line; None where it would not."""
    for _, _, event in decode_lines(line):
        if isinstance(event, InvalidInput):
            return event.reason
        if event.time_ms > latest_ms:
            return "future"
    return None


def _encode(identity: FileIdentity, offset: int, line: int) -> bytes:
    return msgspec.json.encode(FilePosition(identity, offset, line))
