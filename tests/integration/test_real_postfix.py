"""The log of a real Postfix whose content filter sends every message back: each message is counted once, also over a kill."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import msgspec
import pytest

from producers.event import MailEvent
from producers.publish import Publisher
from producers.sources.postfix import PostfixFile
from streams.settings import Settings
from tests.integration.test_publish import ByClients, committed
from tests.postfix_server import FORBIDDEN_SUBJECT, RunningPostfix, running_postfix

ONE, THREE, REMOTE = 800, 150, 50
"""Messages with one recipient and with three, from loopback; and from other addresses, with two."""
MESSAGES = ONE + THREE + REMOTE
COPIES = ONE + 3 * THREE + 2 * REMOTE
REFUSED, FORBIDDEN = 7, 3


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def send_from_elsewhere(postfix: RunningPostfix) -> None:
    for number in range(REMOTE):
        with postfix.connect_from(f"198.51.100.{number + 1}") as session:
            session.sendmail("shop@example.org", ["a@example.test", "b@example.test"], "Subject: sale\r\n\r\nbuy\r\n")
    with postfix.connect_from("203.0.113.9") as session:
        for number in range(REFUSED):
            session.mail("spam@example.org")
            assert session.rcpt(f"x{number}@elsewhere.example")[0] == 554
            session.rset()
        for _ in range(FORBIDDEN):
            session.mail("spam@example.org")
            session.rcpt("a@example.test")
            assert session.data(f"Subject: {FORBIDDEN_SUBJECT} goods\r\n\r\nbuy\r\n")[0] == 550


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with running_postfix() as postfix:
        send_from_elsewhere(postfix)
        postfix.flood(ONE)
        postfix.flood(THREE, recipients=3)
        text = postfix.wait_until_removed(2 * MESSAGES)
    path = tmp_path_factory.mktemp("postfix") / "mail.log"
    path.write_text(text)
    return path


def read(path: Path) -> list[MailEvent]:
    events: list[MailEvent] = []
    for batch in PostfixFile(path, "host", UTC, now_ms).read(None):
        assert batch.refused == {}
        events += [msgspec.json.decode(record, type=MailEvent) for record in batch.records]
    return events


def test_a_thousand_messages_through_a_filter_are_a_thousand_messages(log: Path) -> None:
    events = read(log)
    accepted = [event for event in events if event.disposition == "accepted"]
    assert len(accepted) == MESSAGES
    assert sum(event.copies for event in accepted) == COPIES
    assert Counter(event.copies for event in accepted) == {1: ONE, 2: REMOTE, 3: THREE}
    assert len({event.id for event in events}) == len(events)
    assert log.read_text().count("(queue active)") == 2 * MESSAGES, "the filter did not send everything back"


def test_the_first_hops_client_is_kept_and_the_filters_address_is_not_seen(log: Path) -> None:
    remote = [event for event in read(log) if event.disposition == "accepted" and event.ip != "127.0.0.1"]
    assert sorted(str(event.ip) for event in remote) == sorted(f"198.51.100.{number + 1}" for number in range(REMOTE))
    assert {event.direction for event in remote} == {"inbound"}


def test_rejections_are_told_apart(log: Path) -> None:
    refused = [event for event in read(log) if event.disposition != "accepted"]
    assert Counter((event.disposition, event.reason, event.ip) for event in refused) == {
        ("attempt", "relay", "203.0.113.9"): REFUSED,
        ("rejected", "content", "203.0.113.9"): FORBIDDEN,
    }


def test_a_filter_that_speaks_xforward_is_joined_too() -> None:
    with running_postfix(xforward=True) as postfix:
        send_from_elsewhere(postfix)
        postfix.wait_until_removed(2 * REMOTE)
        events = [event for event in read(postfix.log) if event.disposition == "accepted"]
    assert len(events) == REMOTE
    assert all(event.ip is not None and event.ip.startswith("198.51.100.") for event in events)


@pytest.mark.kafka
def test_a_killed_source_goes_on_and_every_event_is_there_once(
    log: Path, settings: Settings, environment_of: Callable[[Settings], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.sources.postfix.BATCH_LINES", 500)
    expected = read(log)
    kill_after_first_commits(log, settings, environment_of(settings))
    before = len(committed(settings))
    assert 0 < before < len(expected)
    source = PostfixFile(log, "test", UTC, now_ms)
    Publisher(ByClients(settings), source).run(threading.Event())
    ids = Counter(msgspec.json.decode(value, type=MailEvent).id for _, value in committed(settings))
    assert ids == Counter(event.id for event in expected)


CHILD = """
import sys, threading, time
from datetime import UTC
from pathlib import Path
import producers.sources.postfix as postfix
from producers.publish import Publisher
from streams.settings import load
from tests.integration.test_publish import ByClients
postfix.BATCH_LINES = 500
source = postfix.PostfixFile(Path(sys.argv[1]), "test", UTC, lambda: time.time_ns() // 1_000_000)
publisher = Publisher(ByClients(load(__import__("os").environ)), source)
batches = source.read(publisher.start())
for _ in range(4):
    publisher.publish(next(batches))
publisher._producer.begin_transaction()
publisher._produce(next(batches).records)
publisher._producer.flush(10)
print("in the middle", flush=True)
time.sleep(60)
"""


def kill_after_first_commits(log: Path, settings: Settings, environment: dict[str, str]) -> None:
    """kill -9 while a transaction is open whose records are on the broker already."""
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", CHILD, log], cwd=root, env=environment, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
