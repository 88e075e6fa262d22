"""The face: what it prints, which status it ends with, and that a fault is one line."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from producers import errors
from streams import cli
from streams.face import Face, stop_on_signal
from streams.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SPAMTIDE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signal handlers are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def fail_with(error: BaseException) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_help_teaches_the_flow_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--help") == 0
    said = capsys.readouterr().out
    for word in (
        "mail-events -> COUNT -> mail-rollups -> TRACK",
        "spamtide demo",
        "spamtide produce postfix",
        "Exit status",
    ):
        assert word in said


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, streams.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "streams.settings" in loaded
    assert not loaded & {"confluent_kafka", "faust", "numpy", "prometheus_client", "rich", "producers.cli", "aiokafka"}


def test_a_command_without_arguments_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("topics") == 2
    assert "apply" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run", "nonsense"], ["top", "--kind", "x"], ["--config", "/no/such/file", "version"]]
)
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*arguments) == 2
    assert "Error:" in capsys.readouterr().err


def test_settings_are_shown_with_their_origin_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "s.toml"
    path.write_text('label_key = "hush"\nslot = 4\n', encoding="utf-8")
    monkeypatch.setenv("SPAMTIDE_SASL_PASSWORD", "geheim")
    monkeypatch.setenv("SPAMTIDE_FLUHS_MS", "1")
    assert status_of("--config", str(path), "settings") == 0
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert set(lines) == set(Settings.__struct_fields__)
    assert lines["slot"].split() == ["slot", "4", str(path)]
    assert lines["sasl_password"].split() == ["sasl_password", "(hidden)", "SPAMTIDE_SASL_PASSWORD"]
    assert lines["flush_ms"].split() == ["flush_ms", "1000", "default"]
    assert "geheim" not in out
    assert "hush" not in out
    assert err == "spamtide: SPAMTIDE_FLUHS_MS is no setting and was not read\n"


def test_a_bad_setting_ends_with_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPAMTIDE_FLUSH_MS", "soon")
    assert status_of("settings") == 2
    assert capsys.readouterr().err == "spamtide: setting flush_ms (from SPAMTIDE_FLUSH_MS): Expected `int`, got `str`\n"


@pytest.mark.parametrize(
    "fault",
    [
        errors.UsageError("two\nlines"),
        errors.Unavailable("two\nlines"),
        errors.Fenced("two\nlines"),
        errors.UnknownOutcome("two\nlines"),
        errors.AuditFailure("two\nlines"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_the_system_is_one_line_and_its_own_status(
    fault: errors.SystemFault, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streams.admin.apply", fail_with(fault))
    assert status_of("topics", "apply") == fault.exit_status
    assert capsys.readouterr().err == "spamtide: two lines\n"


def test_debug_shows_where_a_fault_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.admin.apply", fail_with(errors.Unavailable("x")))
    monkeypatch.setenv("SPAMTIDE_DEBUG", "1")
    with pytest.raises(errors.Unavailable):
        cli.main(["topics", "apply"])


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.admin.apply", fail_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["topics", "apply"])


def test_an_interruption_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streams.admin.apply", fail_with(KeyboardInterrupt()))
    assert status_of("topics", "apply") == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_broker_that_is_not_there_is_told_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPAMTIDE_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("streams.tail.PATIENCE_S", 0.2)
    assert status_of("top", "--once") == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "127.0.0.1:1" in said
    assert "SPAMTIDE_BOOTSTRAP_SERVERS" in said


def test_a_stage_is_run_with_the_settings(monkeypatch: pytest.MonkeyPatch, handlers: None) -> None:
    ran: list[Settings] = []
    monkeypatch.setattr("streams.count.run", lambda settings, _: ran.append(settings))
    monkeypatch.setenv("SPAMTIDE_SLOT", "7")
    assert status_of("run", "count") == 0
    assert [settings.slot for settings in ran] == [7]


def test_the_first_signal_stops_and_the_second_kills(handlers: None) -> None:
    stop = stop_on_signal()
    assert not stop.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(5)
    assert {signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_DFL}


def test_sources_get_their_clients_from_the_settings() -> None:
    face = Face(None, {"SPAMTIDE_TOPIC_PREFIX": "t-", "SPAMTIDE_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert face.topic("mail-events") == "t-mail-events"
    assert face.origin["topic_prefix"] == "SPAMTIDE_TOPIC_PREFIX"
    face.make_reader().close()


def test_the_schema_is_written_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("topics", "schema", "--out", str(tmp_path / "schema")) == 0
    assert re.fullmatch(r"\d+ files in .*schema\n", capsys.readouterr().out)
    (tmp_path / "file").touch()
    assert status_of("topics", "schema", "--out", str(tmp_path / "file" / "schema")) == 2
    assert "--out" in capsys.readouterr().err
