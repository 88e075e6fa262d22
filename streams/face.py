"""What every command is handed, and how a signal asks one to stop."""

import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from streams.settings import Settings, environ_of, load_with_origin

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

_quiet = logging.getLogger("spamtide.librdkafka")
"""What fails is said once, by whoever asked; librdkafka would print each refused connection."""
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Face:
    """What every command is handed: the settings, loaded when first needed; and clients for `producers` (its `Connections`)."""

    def __init__(self, config: Path | None, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        self._loaded: tuple[Settings, dict[str, str]] | None = None

    @property
    def settings(self) -> Settings:
        """Raises `UsageError`."""
        return self._load()[0]

    @property
    def origin(self) -> dict[str, str]:
        """Where each setting that is not a default came from. Raises `UsageError`."""
        return self._load()[1]

    @property
    def environ(self) -> dict[str, str]:
        """The environment for a child process: it loads these same settings."""
        return environ_of(self.settings, self._environ)

    def _load(self) -> tuple[Settings, dict[str, str]]:
        if self._loaded is None:
            self._loaded = load_with_origin(self._environ, self._config)
        return self._loaded

    def make_producer(self, transactional_id: str) -> "Producer":
        """For a source."""
        from streams.clients import make_transactional_producer

        return make_transactional_producer(self.settings, transactional_id, logger=_quiet)

    def make_reader(self) -> "Consumer":
        """For a source's position."""
        from streams.clients import make_reader

        return make_reader(self.settings, logger=_quiet)

    def topic(self, name: str) -> str:
        """The physical name of a topic."""
        return self.settings.topic(name)


def stop_on_signal() -> threading.Event:
    """An event that SIGINT or SIGTERM sets; the next one kills."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, handle)
    return stop
