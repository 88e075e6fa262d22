"""JSON lines: what is published as it came, what is refused, and where a killed run goes on."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from producers.errors import Unavailable, UsageError
from producers.event import MAX_RECORD_BYTES, MAX_SKEW_MS, MailEvent, Source
from producers.publish import Batch
from producers.sources import ndjson
from producers.sources.ndjson import NdjsonFile, NdjsonStream

NOW_MS = 1_000_000_000


def event(name: str, time_ms: int = NOW_MS) -> bytes:
    return msgspec.json.encode(
        MailEvent(v=1, id=name, time_ms=time_ms, disposition="accepted", source=Source("t", "h"))
    )


@pytest.fixture
def faults() -> list[tuple[int, str]]:
    return []


def source(path: Path, faults: list[tuple[int, str]]) -> NdjsonFile:
    return NdjsonFile(path, "host", lambda: NOW_MS, lambda line, reason: faults.append((line, reason)))


def records(batches: list[Batch]) -> list[bytes]:
    return [record for batch in batches for record in batch.records]


def test_bad_lines_are_told_by_number_and_the_good_ones_around_them_kept(
    tmp_path: Path, faults: list[tuple[int, str]]
) -> None:
    lines = [
        event("1"),
        b"garbage",
        event("2").replace(b'"accepted"', b'"eaten"'),
        event("x" * 129),
        event("3", NOW_MS + MAX_SKEW_MS + 1),
        event("4") + b"\r",
        b"",
        b" " * (MAX_RECORD_BYTES + 1),
        b'{"v":1}',
        event("5\\u0000").replace(b"\\\\u", b"\\u"),
        event("6").replace(b'"t"', b'"\xff"'),
        event("7"),
    ]
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(lines))
    batches = list(source(path, faults).read(None))
    assert records(batches) == [event("1"), event("4"), event("7")]
    assert [number for number, _ in faults] == [2, 3, 4, 5, 8, 9, 10, 11]
    assert dict(faults) == {
        2: "not_json", 3: "unknown_value", 4: "too_long", 5: "future", 8: "oversize", 9: "missing_field", 10: "nul", 11: "not_utf8",
    }  # fmt: skip
    assert sum(batches[0].refused.values()) == len(faults)
    assert sum(batch.lines for batch in batches) == len(lines)


def test_any_batchs_position_is_where_the_next_run_goes_on(
    tmp_path: Path, faults: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "BATCH_LINES", 3)
    path = tmp_path / "events"
    path.write_bytes(b"\n".join([*(event(str(number)) for number in range(10)), b"bad"]))
    whole = list(source(path, []).read(None))
    assert len(whole) == 4
    for index, batch in enumerate(whole):
        faults.clear()
        rest = list(source(path, faults).read(batch.position))
        assert records(rest) == records(whole[index + 1 :])
        assert faults == ([(11, "not_json")] if index < 3 else [])


def test_a_file_that_grew_is_read_from_where_it_ended(tmp_path: Path, faults: list[tuple[int, str]]) -> None:
    path = tmp_path / "events"
    path.write_bytes(event("1") + b"\n")
    position = list(source(path, faults).read(None))[-1].position
    with path.open("ab") as file:
        file.write(event("2") + b"\n")
    assert records(list(source(path, faults).read(position))) == [event("2")]
    assert list(source(path, faults).read(list(source(path, faults).read(position))[-1].position)) == []


def test_another_file_under_the_same_name_is_read_from_its_start(tmp_path: Path, faults: list[tuple[int, str]]) -> None:
    path = tmp_path / "events"
    path.write_bytes(event("1") + b"\n")
    position = list(source(path, faults).read(None))[-1].position
    path.write_bytes(event("2") + b"\n")  # the same inode, another first line
    assert records(list(source(path, faults).read(position))) == [event("2")]


@pytest.mark.parametrize("position", [b"{}", b"7", b"not json"])
def test_a_position_of_another_make_is_refused(tmp_path: Path, faults: list[tuple[int, str]], position: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(event("1"))
    with pytest.raises(UsageError, match="was not written by this source"):
        list(source(path, faults).read(position))


def test_a_file_that_is_not_there_or_is_compressed_is_said_so(tmp_path: Path, faults: list[tuple[int, str]]) -> None:
    with pytest.raises(Unavailable, match="cannot read"):
        list(source(tmp_path / "none", faults).read(None))
    path = tmp_path / "events.gz"
    path.write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UsageError, match="gunzip"):
        list(source(path, faults).read(None))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def stream(reading: int, faults: list[tuple[int, str]]) -> NdjsonStream:
    return NdjsonStream(reading, "run", lambda: NOW_MS, lambda line, reason: faults.append((line, reason)))


def test_a_pipe_whose_writer_pauses_is_handed_on_without_waiting_for_more(
    pipe: tuple[int, int], faults: list[tuple[int, str]]
) -> None:
    reading, writing = pipe
    batches = stream(reading, faults).read(None)
    os.write(writing, event("1") + b"\n" + event("2")[:10])
    assert next(batches).records == [event("1")]
    os.write(writing, event("2")[10:])
    os.close(writing)
    last = next(batches)
    assert (last.records, last.position) == ([event("2")], b"")
    assert next(batches, None) is None


def test_a_line_without_end_is_refused_and_never_held_whole(
    pipe: tuple[int, int], faults: list[tuple[int, str]]
) -> None:
    reading, writing = pipe

    def write() -> None:
        for _ in range(40):
            os.write(writing, b"x" * 65_536)
        os.write(writing, b"\n" + event("1") + b"\n")
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    batches = list(stream(reading, faults).read(None))
    writer.join()
    assert records(batches) == [event("1")]
    assert faults == [(1, "oversize")]


def test_two_runs_over_standard_input_do_not_share_a_key() -> None:
    assert (
        NdjsonStream(0, "a", time.time_ns, lambda *_: None).key
        != NdjsonStream(0, "b", time.time_ns, lambda *_: None).key
    )
