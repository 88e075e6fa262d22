"""How far ALERT commits, and what it fetches: without a broker."""

import asyncio
from typing import Any

import pytest
from faust.types import TP, Message

from streams.alert import make_app
from streams.alert_kafka import HandledConsumer, ReadCommittedThread, Transport, broker_urls
from streams.settings import Settings
from streams.topics import ALERT_OPEN_CHANGELOG

SIGNALS = TP("volume-signals", 3)


def a_message(offset: int) -> Message:
    message: Any = Message.__new__(Message)
    message.tp, message.offset, message.acked = SIGNALS, offset, False
    return message  # type: ignore[no-any-return]


def test_what_left_its_stream_unhandled_is_not_committed() -> None:
    consumer: Any = HandledConsumer.__new__(HandledConsumer)
    consumer._next, consumer._unacked_messages = {}, set()
    consumer.ack(a_message(40))
    assert consumer._new_offset(SIGNALS) is None
    consumer.handled(a_message(40))
    consumer.ack(a_message(47))
    assert consumer._new_offset(SIGNALS) == 41


def test_offsets_without_a_record_hold_no_commit_back() -> None:
    # [0, handled] [1..6, aborted and markers] [7, handled): Faust's own book stops at 1 for ever
    consumer: Any = HandledConsumer.__new__(HandledConsumer)
    consumer._next = {}
    for offset in (0, 7):
        consumer.handled(a_message(offset))
    assert consumer._new_offset(SIGNALS) == 8


def test_a_fetch_keeps_to_the_partitions_it_was_asked_for_and_none_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def fetch(self: Any, consumer: Any, active: Any, *_: Any) -> dict[TP, list[Any]]:
        asked.append(active)
        return {}

    monkeypatch.setattr(ReadCommittedThread.__mro__[1], "_fetch_records", fetch)
    thread: Any = ReadCommittedThread.__new__(ReadCommittedThread)
    active = {SIGNALS}
    assert asyncio.run(thread._fetch_records(None, set())) == {}
    asyncio.run(thread._fetch_records(None, active))
    active.clear()
    assert asked == [{SIGNALS}]


def test_the_application_uses_our_clients_and_the_changelog_that_topics_apply_makes() -> None:
    settings = Settings(topic_prefix="own-", bootstrap_servers="a.example:1,b.example:2")
    app = make_app(settings)
    assert isinstance(app.transport, Transport)
    assert [table.changelog_topic_name for table in app.tables.values()] == [settings.topic(ALERT_OPEN_CHANGELOG)]
    assert app.conf.id == "own-alert"
    assert app.conf.web_bind == "127.0.0.1"
    assert broker_urls(settings) == "kafka://a.example:1;kafka://b.example:2"
