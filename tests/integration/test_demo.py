"""The demo in small: every stage for real, the same ring, fewer honest events; and what it does when something is wrong."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from producers.errors import SystemFault, UsageError
from streams import demo
from streams.clients import make_admin
from streams.settings import Settings

pytestmark = pytest.mark.kafka
SMALL = (*demo.RING, "--events", "3000")


@pytest.fixture
def environ() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SPAMTIDE_")}


def demo_topics(settings: Settings) -> set[str]:
    admin = make_admin(settings)
    return {name for name in admin.list_topics(timeout=30).topics if name.startswith("demo-")}


@pytest.mark.timeout(240)
def test_the_ring_becomes_an_alert_and_every_sum_is_the_truth(
    broker: str, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "RING", SMALL)
    settings = Settings(bootstrap_servers=broker)
    said: list[str] = []
    status = demo.run(settings, True, environ, False, threading.Event(), said.append)
    out = capsys.readouterr().out
    assert status == 0, "\n".join([out, *said])
    assert out.count("holds  ") == 4
    assert "DIFFERENT" not in out
    assert "CRITICAL  escalated    Campaign html:" in out
    (prefix,) = (line.rpartition(" ")[2] for line in said if line.startswith("demo: topics begin with"))
    assert not [name for name in demo_topics(settings) if name.startswith(prefix)]


def test_a_demo_that_is_interrupted_cleans_up(
    broker: str, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "RING", SMALL)
    stop = threading.Event()
    stop.set()
    said: list[str] = []
    assert demo.run(Settings(bootstrap_servers=broker), True, environ, False, stop, said.append) == 130
    assert said[-1] == "demo: stopping the stages ..."


def test_a_source_that_fails_ends_the_demo_with_its_words(
    broker: str, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "RING", ("scenario", "nonsense"))
    with pytest.raises(SystemFault, match="a source failed"):
        demo.run(Settings(bootstrap_servers=broker), True, environ, False, threading.Event(), lambda _: None)


def test_without_the_source_tree_it_says_so(
    tmp_path: Path, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    with pytest.raises(UsageError, match="source tree"):
        demo.run(Settings(), True, environ, False, threading.Event(), lambda _: None)
