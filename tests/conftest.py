"""Fixtures for everyone: one real broker for the whole run, topics of its own for each test."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.admin import apply, remove
from streams.settings import Settings

ROOT = Path(__file__).parent.parent
PORT = 19092
"""Not the port of `make kafka`: a user's data is never touched."""


@pytest.fixture(scope="session")
def broker() -> str:
    """Bootstrap address of the test broker, started by the script that users start theirs with."""
    environment = os.environ | {"SPAMTIDE_KAFKA_PORT": str(PORT)}
    environment.pop("SPAMTIDE_BOOTSTRAP_SERVERS", None)
    subprocess.run([ROOT / "deploy/kafka/kafka", "start"], env=environment, check=True, timeout=600)
    return f"127.0.0.1:{PORT}"


@pytest.fixture
def settings(broker: str) -> Iterator[Settings]:
    """Settings with a topic prefix of the test's own, quick for tests; topics are made, and removed afterwards."""
    own = Settings(
        bootstrap_servers=broker,
        topic_prefix=f"t{uuid.uuid4().hex[:8]}-",
        count_metrics_port=0,
        track_metrics_port=0,
        alert_port=0,
        flush_ms=200,
        idle_ms=1500,
        commit_ms=1000,
        max_ahead_minutes=100_000,
    )
    apply(own)
    yield own
    remove(own)


@pytest.fixture(scope="session")
def environment_of() -> Callable[[Settings], dict[str, str]]:
    """The environment that gives a subprocess the same settings."""

    def environment(settings: Settings) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SPAMTIDE_")}
        own = {
            f"SPAMTIDE_{name.upper()}": str(value)
            for name in settings.__struct_fields__
            if (value := getattr(settings, name)) not in (None, "")
        }
        return kept | own

    return environment
