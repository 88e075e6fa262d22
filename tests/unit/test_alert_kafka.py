"""How far ALERT commits, and what it fetches: without a broker."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP, Message

from producers.errors import AuditFailure
from streams.alert import make_app
from streams.alert_kafka import HandledConsumer, ReadCommittedThread, Transport, broker_urls
from streams.settings import Settings
from streams.topics import ALERT_OPEN_CHANGELOG

SIGNALS = TP("volume-signals", 3)


def a_message(offset: int) -> Message:
    message: Any = Message.__new__(Message)
    message.tp, message.topic, message.partition = SIGNALS, *SIGNALS
    message.offset, message.acked = offset, False
    return message  # type: ignore[no-any-return]


def a_consumer(*delivered: Message) -> Any:
    consumer: Any = HandledConsumer.__new__(HandledConsumer)
    consumer._next, consumer._unacked_messages = {}, set()
    consumer._unhandled = {SIGNALS: deque(delivered)}
    return consumer


def test_what_left_its_stream_unhandled_is_not_committed() -> None:
    first, second = a_message(40), a_message(47)
    consumer = a_consumer(first, second)
    consumer.ack(first)
    assert consumer._new_offset(SIGNALS) is None
    consumer.handled(first)
    consumer.ack(second)
    assert consumer._new_offset(SIGNALS) == 41


def test_offsets_without_a_record_hold_no_commit_back() -> None:
    # [0, handled] [1..6, aborted and markers] [7, handled): Faust's own book stops at 1 for ever
    delivered = [a_message(0), a_message(7)]
    consumer = a_consumer(*delivered)
    for message in delivered:
        consumer.handled(message)
    assert consumer._new_offset(SIGNALS) == 8


def test_a_signal_that_was_delivered_and_thrown_away_stops_the_worker_before_a_later_one_is_committed() -> None:
    handled, lost, later = a_message(5), a_message(6), a_message(8)
    consumer = a_consumer(handled, lost, later)
    consumer.handled(handled)
    with pytest.raises(AuditFailure, match="offset 6 was read but never handled, though 8 was"):
        consumer.handled(later)
    assert consumer._new_offset(SIGNALS) == 6


def test_a_signal_delivered_before_the_last_seek_counts_for_nothing() -> None:
    before, again = a_message(5), a_message(5)
    consumer = a_consumer(again)
    consumer.handled(before)
    assert consumer._new_offset(SIGNALS) is None


def test_a_fetch_keeps_to_the_partitions_it_was_asked_for_and_to_the_changelog_in_a_rebalance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    async def fetch(self: Any, consumer: Any, active: Any, *_: Any) -> dict[TP, list[Any]]:
        asked.append(active)
        return {}

    monkeypatch.setattr(ReadCommittedThread.__mro__[1], "_fetch_records", fetch)
    thread: Any = ReadCommittedThread.__new__(ReadCommittedThread)
    thread.app = SimpleNamespace(rebalancing=True, tables=SimpleNamespace(changelog_topics={"changelog"}))
    active = {SIGNALS, TP("changelog", 3)}

    async def scenario() -> None:
        assert await thread._fetch_records(None, set()) == {}  # aiokafka would take none for all
        assert await thread._fetch_records(None, {SIGNALS}) == {}
        await thread._fetch_records(None, active)
        thread.app.rebalancing = False
        await thread._fetch_records(None, active)
        active.clear()  # as Faust does while a fetch waits

    asyncio.run(scenario())
    assert asked == [{TP("changelog", 3)}, {SIGNALS, TP("changelog", 3)}]


def test_the_application_uses_our_clients_and_the_changelog_that_topics_apply_makes() -> None:
    settings = Settings(topic_prefix="own-", bootstrap_servers="a.example:1,b.example:2")
    app = make_app(settings)
    assert isinstance(app.transport, Transport)
    assert [table.changelog_topic_name for table in app.tables.values()] == [settings.topic(ALERT_OPEN_CHANGELOG)]
    assert app.conf.id == "own-alert"
    assert app.conf.web_bind == "127.0.0.1"
    assert broker_urls(settings) == "kafka://a.example:1;kafka://b.example:2"
