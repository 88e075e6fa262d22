"""A finished Postfix log file as a source: each line exactly once, half-joined messages kept in the position.

What a message is and when it is told: `producers.sources.postfix_join`.
"""

from collections.abc import Iterator
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from producers.errors import InvalidInput, UsageError
from producers.event import MAX_SKEW_MS, check
from producers.publish import Batch
from producers.sources.lines import FileIdentity, identify, read_file
from producers.sources.ndjson import Clock
from producers.sources.postfix_grammar import HEADER, infer_year
from producers.sources.postfix_join import MAX_LINE_BYTES, PostfixJoiner

BATCH_LINES: Final = 10_000
DAY_MS: Final = 86_400_000
_ENDS_BYTES: Final = 262_144
"""How much of the file's start and end is searched for a time stamp."""


class PostfixPosition(msgspec.Struct, frozen=True):
    """Where to go on: the byte after the last line used, and what the joiner knew there."""

    file: FileIdentity
    offset: int
    year: int
    joiner: msgspec.Raw


class PostfixFile:
    """A log file that is complete. Another file under the same path (after a rotation) is read from its start."""

    def __init__(
        self, path: Path, host: str, zone: tzinfo, clock: Clock, year: int | None = None, told_host: str | None = None
    ) -> None:
        """`host` is this machine (for the key); `told_host`, if given, is published in place of the log's own host names.

        `zone` is that of traditional time stamps; `year` that of the first line, None to infer it.
        """
        self.key = f"postfix:{path.resolve()}@{told_host or host}"
        self._path = path
        self._zone = zone
        self._clock = clock
        self._year = year
        self._told_host = told_host

    def read(self, position: bytes | None) -> Iterator[Batch]:
        """Raises `Unavailable` where the file cannot be read, `UsageError` for a position that is not ours."""
        identity = identify(self._path)
        offset, year, joiner = self._resume(position, identity)
        lines = 0
        for offset, line in read_file(self._path, offset, MAX_LINE_BYTES):  # noqa: B020 -- it goes on from where it was
            joiner.feed(line)
            lines += 1
            if lines == BATCH_LINES:
                yield _batch(joiner, identity, offset, year, lines)
                lines = 0
        joiner.finish()
        batch = _batch(joiner, identity, offset, year, lines)
        if batch.lines or batch.records:
            yield batch

    def _resume(self, position: bytes | None, identity: FileIdentity) -> tuple[int, int, PostfixJoiner]:
        found = self._decode(position)
        if found is not None and (found.file != identity or found.offset > self._path.stat().st_size):
            found = None
        year = found.year if found else self._year or self._infer_year()
        joiner = PostfixJoiner(self._zone, year, self._clock() + MAX_SKEW_MS, self._told_host)
        if found is None:
            return 0, year, joiner
        try:
            joiner.restore(bytes(found.joiner))
        except InvalidInput:
            raise self._foreign() from None
        return found.offset, year, joiner

    def _decode(self, position: bytes | None) -> PostfixPosition | None:
        if position is None:
            return None
        try:
            return msgspec.json.decode(position, type=PostfixPosition)
        except msgspec.MsgspecError:
            raise self._foreign() from None

    def _foreign(self) -> UsageError:
        return UsageError(f"the stored position of {self.key} was not written by this version of the source")

    def _infer_year(self) -> int:
        """The newest year that puts no line after the file's last change, a day's grace for a wrong `zone`."""
        newest_ms = self._path.stat().st_mtime_ns // 1_000_000 + DAY_MS
        size = self._path.stat().st_size
        stamps = []
        for start, which in ((0, 0), (max(0, size - _ENDS_BYTES), -1)):
            with self._path.open("rb") as file:
                file.seek(start)
                lines = file.read(_ENDS_BYTES).decode("utf-8", "replace").split("\n")
            headers = [found for line in lines if (found := HEADER.fullmatch(line)) and found[1][4] != "-"]
            stamps += [headers[which][1]] if headers else []
        if not stamps:
            return 1970
        return infer_year(stamps[0], stamps[-1], newest_ms, self._zone)


def find_zone(name: str | None, localtime: Path = Path("/etc/localtime")) -> tzinfo:
    """A zone of the IANA database by name; without one, this machine's, in which its syslog writes. Raises `UsageError`."""
    if name is not None:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"no time zone is named {name}; use one like Europe/Berlin or UTC") from None
    try:
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


def _batch(joiner: PostfixJoiner, identity: FileIdentity, offset: int, year: int, lines: int) -> Batch:
    state = joiner.snapshot()  # first: a snapshot that would be too large settles messages
    encode, records = msgspec.json.Encoder().encode, []
    for event in joiner.take():
        try:
            check(event)
        except InvalidInput as error:
            joiner.refused[error.reason] += 1
        else:
            records.append(encode(event))
    refused = dict(joiner.refused)
    joiner.refused.clear()
    position = PostfixPosition(identity, offset, year, msgspec.Raw(state))
    return Batch(records, msgspec.json.encode(position), lines, refused)
