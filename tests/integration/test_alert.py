"""ALERT on the real broker: what is committed becomes alerts, once and for all, whatever happens to the process."""

import json
from collections import defaultdict
from collections.abc import Callable

import msgspec
import pytest

from streams.incident import Alert, Signal
from streams.render import alert_of
from streams.settings import Settings
from streams.topics import CAMPAIGN_ALERTS, INCIDENTS, SENDER_ALERTS, partition_of
from tests.integration.alerting import (
    committed,
    due,
    publish,
    read_all,
    running,
    wait_until,
    wait_until_all_is_handled,
)
from tests.signals import a_signal

pytestmark = pytest.mark.kafka

Environment = Callable[[Settings], dict[str, str]]


def ids(settings: Settings, topic: str) -> list[tuple[str, int]]:
    """(id, seq) of every record, in order within each partition."""
    alerts = [msgspec.json.decode(message.value() or b"", type=Alert) for message in read_all(settings, topic)]
    return [(alert.id, alert.seq) for alert in alerts]


def expected(settings: Settings, signal: Signal) -> bytes:
    return msgspec.json.encode(alert_of(signal, settings.runbook_url, settings.dashboard_url))


def test_committed_signals_become_alerts_and_aborted_ones_never_do(
    settings: Settings, environment_of: Environment
) -> None:
    # one partition: [aborted, aborted, committed, aborted x 5, committed), so that offset 0 and the middle hold gaps
    ring, account = a_signal("campaign:url:pills.example"), a_signal("account:bob@our.example", severity="warning")
    ghosts = [a_signal("campaign:url:pills.example", seq) for seq in (7, 8, 9, 10, 11)]
    publish(settings, ghosts[:2], commit=False)
    publish(settings, [ring, account])
    with running(settings, environment_of(settings)) as alert:
        wait_until_all_is_handled(settings)
        publish(settings, ghosts, commit=False)
        later = [
            a_signal("campaign:url:pills.example", 2, "volume"),
            a_signal("campaign:url:pills.example", 3, "escalated"),
        ]
        publish(settings, later)
        wait_until_all_is_handled(settings)
        assert alert.stop() == (0, "")
    [first, second] = read_all(settings, CAMPAIGN_ALERTS)
    assert (first.value(), second.value()) == (expected(settings, ring), expected(settings, later[1]))
    assert first.key() == b"campaign:url:pills.example"
    assert first.partition() == partition_of("campaign:url:pills.example", 8)
    assert ids(settings, SENDER_ALERTS) == [(account.incident, 1)]
    states = read_all(settings, INCIDENTS)
    assert {(message.key(), message.partition()) for message in states} == {
        (one.incident.encode(), partition_of(one.incident, 8)) for one in (ring, account)
    }
    assert [message.value() for message in states if message.key() == ring.incident.encode()] == [
        expected(settings, signal) for signal in (ring, *later)
    ]


def test_after_kill_9_each_id_and_seq_has_one_content_and_none_is_missing(
    settings: Settings, environment_of: Environment
) -> None:
    lives = {f"campaign:url:c{number}.example": 20 for number in range(100)}
    signals = [
        a_signal(entity, seq, "resolved" if seq == steps and number % 2 else "escalated")
        for seq in range(1, 21)
        for number, (entity, steps) in enumerate(lives.items())
    ]
    for start in range(0, len(signals), 500):
        publish(settings, signals[start : start + 500])
        publish(settings, [a_signal(f"campaign:url:ghost{start}-{at}.example") for at in range(20)], commit=False)
    target = due(settings)
    for share in (0.2, 0.45, 0.7):
        with running(settings, environment_of(settings)) as alert:
            wait_until(lambda share=share: sum(committed(settings).values()) > share * sum(target.values()))  # type: ignore[misc]
            alert.kill()
    with running(settings, environment_of(settings)) as alert:
        wait_until(lambda: alert.ready() and committed(settings) == target)
        still_open = alert.incidents()
    contents = defaultdict(set)
    order = defaultdict(list)
    for message in read_all(settings, CAMPAIGN_ALERTS):
        value = message.value() or b""
        found = json.loads(value)
        contents[found["id"], found["seq"]].add(value)
        order[found["id"]].append(found["seq"])
    assert contents == {(signal.incident, signal.seq): {expected(settings, signal)} for signal in signals}
    assert still_open == {signal.incident: 20 for signal in signals if signal.seq == 20 and signal.state == "open"}
    for seqs in order.values():
        assert seqs[-1] == 20
        assert list(dict.fromkeys(seqs)) == list(range(1, 21)), "a first sighting is never out of order"


def test_a_restart_restores_the_table_and_publishes_nothing_again(
    settings: Settings, environment_of: Environment
) -> None:
    opened = [a_signal(f"campaign:url:c{number}.example") for number in range(40)]
    resolved = [a_signal(signal.entity, 2, "resolved") for signal in opened[:10]]
    publish(settings, opened + resolved)
    with running(settings, environment_of(settings)) as alert:
        wait_until_all_is_handled(settings)
        assert alert.stop() == (0, "")
    before = ids(settings, CAMPAIGN_ALERTS)
    for _ in range(2):
        with running(settings, environment_of(settings)) as alert:
            wait_until(alert.ready)
            assert alert.incidents() == {signal.incident: 1 for signal in opened[10:]}
            assert alert.stop() == (0, "")
    assert ids(settings, CAMPAIGN_ALERTS) == before
    assert len(before) == 50


def test_the_web_server_shows_metrics_and_incidents_and_escapes_what_came_from_mail(
    settings: Settings, environment_of: Environment
) -> None:
    nasty = a_signal("campaign:subject:<script>alert(1)</script>\u202e")
    person = a_signal("account:bob@our.example", severity="warning")
    publish(settings, [nasty, person])
    with running(settings, environment_of(settings)) as alert:
        wait_until(lambda: alert.ready() and len(alert.incidents()) == 2)
        _, metrics = alert.get("/metrics")
        _, page = alert.get("/")
        assert alert.get("/router")[0] == alert.get("/table")[0] == 404
    assert 'spamtide_alert_open_incidents{severity="critical"} 1.0' in metrics
    assert 'spamtide_alert_signals_total{change="opened"} 2.0' in metrics
    assert 'severity="warning"} 3.21e+08' in metrics
    assert "bob" not in metrics
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


@pytest.mark.parametrize(
    ("bad", "patch", "status", "said"),
    [
        (b'{"v":1,"incident":"mallory"}', "", 6, "is no signal (ValidationError)"),
        (
            a_signal("campaign:url:c.example", 2),
            "from streams import alert_publish\nreal = alert_publish.alert_of\nalert_publish.alert_of = lambda signal, *urls: real(signal, *urls) if signal.seq != 2 else 1 / 0",
            1,
            "an error of ALERT's own (ZeroDivisionError)",
        ),
    ],
    ids=["bytes that are no signal", "a handler that raises"],
)
def test_a_fault_stops_the_worker_before_its_signal_or_a_later_one_is_committed(
    settings: Settings, environment_of: Environment, bad: Signal | bytes, patch: str, status: int, said: str
) -> None:
    entity = "campaign:url:c.example"
    publish(settings, [a_signal(entity, 1), bad, a_signal(entity, 3)], entity=entity)
    with running(settings, environment_of(settings), patch) as alert:
        code, last_words = alert.end()
    assert code == status
    assert said in last_words
    assert "mallory" not in last_words
    assert committed(settings) == {partition_of(entity): 1}
    assert [seq for _, seq in ids(settings, CAMPAIGN_ALERTS)] == [1]


def test_a_second_worker_in_one_slot_ends_the_first_which_names_it(
    settings: Settings, environment_of: Environment
) -> None:
    with running(settings, environment_of(settings)) as first:
        wait_until(first.ready)
        with running(settings, environment_of(settings)):
            code, said = first.end()
    assert code == 4
    assert "another ALERT runs with slot 0" in said


def test_a_worker_that_cannot_stop_leaves_all_the_same(settings: Settings, environment_of: Environment) -> None:
    patch = "import asyncio\nalert.STOP_S = 0.5\nalert.AlertApp.stop = lambda self: asyncio.sleep(3600)"
    with running(settings, environment_of(settings), patch) as alert:
        wait_until(alert.ready)
        assert alert.stop() == (1, "ALERT did not stop within 0.5 s and leaves at once\n")


def test_a_missing_topic_is_told_with_the_command_that_makes_it(broker: str, environment_of: Environment) -> None:
    bare = Settings(bootstrap_servers=broker, topic_prefix="never-made-")
    with running(bare, environment_of(bare)) as alert:
        assert alert.end() == (
            3,
            "topic never-made-volume-signals is missing or has other partitions: run `spamtide topics apply`\n",
        )
