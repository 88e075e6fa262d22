"""`spamtide alerts` and `spamtide top` on a real broker; and reading a topic to its end."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

import msgspec
import pytest
from confluent_kafka import Producer

from producers.errors import Unavailable
from streams.admin import remove
from streams.clients import librdkafka_config
from streams.incident import Alert
from streams.render import alert_of
from streams.settings import Settings
from streams.tail import Tail
from streams.topics import BY_NAME, CAMPAIGN_ALERTS, INCIDENTS, SENDER_ALERTS, VOLUME_TOP, partition_of
from streams.volume import Leader, Leaders
from tests.integration.alerting import publish, wait_until
from tests.signals import a_signal

pytestmark = pytest.mark.kafka
Environment = Callable[[Settings], Mapping[str, str]]


def put(settings: Settings, name: str, *records: tuple[str, object]) -> None:
    producer = Producer(librdkafka_config(settings))
    for key, value in records:
        partition = partition_of(key, BY_NAME[name].partitions)
        producer.produce(settings.topic(name), msgspec.json.encode(value), key.encode(), partition)
    assert producer.flush(30) == 0


def put_alerts(settings: Settings, *alerts: Alert) -> None:
    for alert in alerts:
        put(settings, CAMPAIGN_ALERTS if alert.kind == "campaign" else SENDER_ALERTS, (alert.entity, alert))


def an_alert(entity: str, seq: int = 1) -> Alert:
    return alert_of(a_signal(entity, seq), "r", "d")


def spamtide(environ: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_alerts_of_both_topics_are_printed_once_in_order_of_time(
    settings: Settings, environment_of: Environment
) -> None:
    put_alerts(
        settings,
        an_alert("ip:192.0.2.1", 3),
        an_alert("campaign:x", 2),
        an_alert("campaign:x", 1),
        an_alert("campaign:x", 2),
    )
    environ = environment_of(settings)
    lines = spamtide(environ, "alerts").splitlines()
    assert [" address " in line.lower() for line in lines] == [False, False, True]
    found = [json.loads(line) for line in spamtide(environ, "alerts", "--json").splitlines()]
    assert [(alert["entity"], alert["seq"]) for alert in found] == [
        ("campaign:x", 1),
        ("campaign:x", 2),
        ("ip:192.0.2.1", 3),
    ]
    assert spamtide(environ, "alerts", "--since", "2030-01-01") == ""


def test_alerts_are_followed_as_they_come(settings: Settings, environment_of: Environment) -> None:
    put_alerts(settings, an_alert("campaign:first"))
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "alerts", "--follow"],
        env=dict(environment_of(settings)),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    heard: list[str] = []
    reader = threading.Thread(target=heard.extend, args=(process.stdout,))
    reader.start()
    try:
        wait_until(lambda: len(heard) == 1)
        put_alerts(settings, an_alert("campaign:second"))
        wait_until(lambda: len(heard) == 2)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        reader.join()
        process.stdout.close()
    assert "second" in heard[1]


def test_the_table_is_plain_text_or_json_where_nobody_watches(settings: Settings, environment_of: Environment) -> None:
    leader = Leader(
        entity="campaign:[red]x",
        copies_60m=9,
        unwanted_60m=5,
        month_run_rate=3600,
        tier=0,
        severity=None,
        unwanted_by_minute=(1,) * 60,
    )
    put(settings, VOLUME_TOP, ("7 campaign", Leaders(1, 7, "campaign", 1_790_812_800_000, (leader,))))
    put(settings, INCIDENTS, ("i", an_alert("ip:192.0.2.1")))
    environ = environment_of(settings)
    text = spamtide(environ, "top")
    assert "Spamtide, 2026-10-01 00:00 UTC" in text
    assert "campaign:[red]x" in text
    assert "321 million" in text
    assert "\x1b" not in text
    (row,) = (json.loads(line) for line in spamtide(environ, "top", "--json", "--kind", "ip").splitlines())
    assert (row["entity"], row["month_trap"], row["tier"]) == ("ip:192.0.2.1", 321_000_000, 100_000_000)


def test_reading_ends_at_the_end_and_sees_nothing_that_was_aborted(settings: Settings) -> None:
    signals = [a_signal(f"campaign:{number}") for number in range(20)]
    publish(settings, signals[:10])
    publish(settings, signals[10:], commit=False)
    with Tail(settings, ["volume-signals"]) as tail:
        assert len(list(tail.to_end())) == 10
        assert tail.at_end


def test_a_topic_that_is_not_there_is_told_with_the_way_out(settings: Settings) -> None:
    bare = msgspec.structs.replace(settings, topic_prefix=settings.topic_prefix + "none-")
    remove(bare)
    with pytest.raises(Unavailable, match="spamtide topics apply"):
        Tail(bare, [VOLUME_TOP])
