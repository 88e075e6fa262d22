"""The program of the README that subscribes to the alerts, run as a reader would run it."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from streams.clients import librdkafka_config
from streams.render import alert_of
from streams.settings import Settings
from streams.topics import CAMPAIGN_ALERTS, partition_of
from tests.signals import a_signal

PROGRAM = Path(__file__).parents[2] / "deploy/examples/subscribe.py"


@pytest.mark.kafka
def test_the_subscriber_of_the_readme_prints_each_alert_once(settings: Settings) -> None:
    entity = "campaign:url:pills.example"
    first, second = (
        alert_of(signal, settings.runbook_url, settings.dashboard_url)
        for signal in (a_signal(entity, severity="warning"), a_signal(entity, 2, "resolved"))
    )
    producer = Producer(librdkafka_config(settings))
    for alert in (first, first, second):  # a repeat, as after a crash of ALERT
        producer.produce(
            settings.topic(CAMPAIGN_ALERTS), msgspec.json.encode(alert), entity.encode(), partition_of(entity, 8)
        )
    assert producer.flush(30) == 0
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), settings.bootstrap_servers, settings.topic_prefix],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
    finally:
        process.kill()
        process.communicate()
    assert lines == [
        f"{line}\n" for alert in (first, second) for line in (alert.severity, f"  {alert.title}", f"  {alert.summary}")
    ]
