"""Prints each campaign alert once: python subscribe.py [BOOTSTRAP_SERVERS [TOPIC_PREFIX]]"""

import json
import os
import sys

from confluent_kafka import Consumer

arguments = dict(enumerate(sys.argv))
bootstrap = arguments.get(1) or os.environ.get("SPAMTIDE_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
prefix = arguments.get(2) or os.environ.get("SPAMTIDE_TOPIC_PREFIX", "")
consumer = Consumer(
    {"bootstrap.servers": bootstrap, "group.id": prefix + "subscriber", "auto.offset.reset": "earliest"}
)
consumer.subscribe([prefix + "campaign-alerts"])
newest: dict[str, int] = {}  # at least once: a repeat has a seq that was seen already
while True:
    for message in consumer.consume(100, timeout=1.0):
        alert = None if message.error() else json.loads(message.value())
        if alert and alert["seq"] > newest.get(alert["id"], 0):
            newest[alert["id"]] = alert["seq"]
            print(alert["severity"], alert["title"], alert["summary"], sep="\n  ", flush=True)
