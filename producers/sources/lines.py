"""Lines of a file, from a byte offset, with a bound on their length; and what makes a file the same file."""

import hashlib
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from producers.errors import Unavailable, UsageError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_CHUNK_BYTES: Final = 1 << 18


class FileIdentity(msgspec.Struct, frozen=True):
    """Tells a file from a later one of the same path: the inode, and a fingerprint of the first line.

    The device number is left out: it changes with a reboot or a remount, and would make every file a new one.
    """

    inode: int
    first_line: str


def identify(path: Path) -> FileIdentity:
    """Raises `Unavailable` where the file cannot be read, `UsageError` for what is no text file."""
    with _open(path) as file:
        first = file.readline(4096)
        inode = path.stat().st_ino
    if first.startswith(_GZIP_MAGIC):
        raise UsageError(f"{path} is compressed; unpack it first: gunzip --keep {path}")
    return FileIdentity(inode, hashlib.blake2b(first, digest_size=12).hexdigest())


def read_file(path: Path, offset: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """`read_stream` from an offset of the file. Raises `Unavailable` where it cannot be read."""
    with _open(path) as file:
        file.seek(offset)
        for size, line in read_stream(file, limit):
            offset += size
            yield offset, line


def read_pipe(descriptor: int, limit: int, patience_s: float = 0.2) -> Iterator[tuple[bool, bytes | None]]:
    """(whether the writer paused, line without its end) of a pipe, terminal or socket; None for a line longer than `limit`.

    A pause, with no line, is told once when nothing came for `patience_s`: time to hand on what was gathered.
    """
    held, skipping, quiet = b"", False, True
    while True:
        if not quiet and not select.select([descriptor], [], [], patience_s)[0]:
            quiet = True
            yield True, b""
        chunk = os.read(descriptor, _CHUNK_BYTES)
        if not chunk:
            break
        quiet = False
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield False, None if skipping or len(line) > limit else line
            skipping = False
        if len(held) > limit:
            held, skipping = b"", True
    if held or skipping:
        yield False, None if skipping else held


def read_stream(stream: IO[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """(size with its end in bytes, line without it); None in place of a line longer than `limit`, which is never held whole.

    The last line counts without its newline too.
    """
    while line := stream.readline(limit + 1):
        if line.endswith(b"\n"):
            yield len(line), line[:-1]
        elif len(line) <= limit:
            yield len(line), line
        else:
            yield len(line) + _skip_line(stream, limit), None


def _skip_line(stream: IO[bytes], limit: int) -> int:
    size = 0
    while piece := stream.readline(limit):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from None
