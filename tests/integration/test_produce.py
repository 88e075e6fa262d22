"""`spamtide produce` as a user types it: what it says, how it ends, and that it goes on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from producers.cli import produce
from producers.event import MailEvent
from streams.settings import Settings
from tests.integration.test_publish import ByClients, committed
from tests.postfix_log import active, client, filtered

pytestmark = pytest.mark.kafka
EVENT = b'{"v":1,"id":"1","time_ms":1000,"disposition":"accepted","source":{"type":"t","host":"h"}}\n'


def invoke(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(produce, arguments, obj=ByClients(settings), catch_exceptions=False)


def test_a_postfix_log_is_published_and_the_next_run_finds_nothing_new(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    lines = [
        *filtered("4A1B2C3D", "5A1B2C3D", recipients=2),
        "garbage",
        client("10:00:03", "6A1B2C3D"),
        active("10:00:03", "6A1B2C3D"),
    ]
    log.write_text("\n".join(lines))
    first = invoke(settings, "postfix", str(log), "--year", "2026", "--tz", "UTC", "--host", "mail.example.test")
    assert first.exit_code == 0
    assert f"{len(lines)} lines read, 2 events published, 1 refused: unparsed 1" in first.stderr
    events = [msgspec.json.decode(value, type=MailEvent) for _, value in committed(settings)]
    assert sorted((event.copies, event.source.host) for event in events) == [
        (1, "mail.example.test"),
        (2, "mail.example.test"),
    ]
    again = invoke(settings, "postfix", str(log), "--year", "2026", "--tz", "UTC", "--host", "mail.example.test")
    assert again.exit_code == 0
    assert "0 events published (all of it was published before)" in again.stderr
    assert len(committed(settings)) == 2


def test_a_zone_that_is_none_is_a_usage_error(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    log.write_text(client("10:00:00", "4A1B2C3D"))
    with pytest.raises(Exception, match="no time zone is named Mars"):
        invoke(settings, "postfix", str(log), "--tz", "Mars")


def test_where_nothing_can_be_used_the_exit_status_is_1(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text("garbage\nmore\n")
    done = invoke(settings, "ndjson", str(path))
    assert done.exit_code == 1
    assert "line 2: not_json" in done.stderr


def test_a_few_bad_lines_among_good_ones_are_success(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(EVENT + b"garbage\n" + EVENT)
    assert invoke(settings, "ndjson", str(path)).exit_code == 0
    assert len(committed(settings)) == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_at_a_pipe_it_ends_at_once_and_keeps_what_was_handed_on(
    settings: Settings, environment_of: Callable[[Settings], dict[str, str]], number: signal.Signals, status: int
) -> None:
    command = [str(Path(sys.executable).with_name("spamtide")), "produce", "ndjson", "-"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment_of(settings))
    try:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(b"garbage\n" + EVENT)
        child.stdin.flush()
        assert child.stderr.readline() == b"line 1: not_json\n"
        while not committed(settings):
            assert child.poll() is None
        os.kill(child.pid, number)
        said = child.stderr.read().decode()
        assert child.wait(30) == status
    finally:
        child.kill()
        child.communicate()
    assert "1 events published" in said
    assert "interrupted; what was not published must be sent again" in said
