"""COUNT and TRACK on a real broker, compared with the oracle for equality."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from producers.errors import AuditFailure, Fenced
from producers.sources.scenario import Parameters, RingScenario, World
from streams.admin import apply, remove
from streams.clients import make_admin
from streams.settings import Settings
from streams.topics import (
    BY_NAME,
    CAMPAIGN_ALERTS,
    MAIL_EVENTS,
    MAIL_EVENTS_DLQ,
    MAIL_VOLUME,
    SENDER_ALERTS,
    TRACK_CHANGELOG,
    VOLUME_SIGNALS,
)
from tests import oracle
from tests.builders import NOON_MS, encoded, mail
from tests.integration.stages import (
    Environment,
    Topic,
    encoded_each,
    expected,
    publish,
    running,
    wait_for_facts,
    wait_until,
)
from tests.postfix_server import running_postfix

YEAR_2100_MS = 4_102_444_800_000


def records_of(world: World) -> list[bytes]:
    return [record for batch in RingScenario(world).read(None) for record in batch.records]


def test_facts_of_the_ring_equal_the_oracle(settings: Settings, environment_of: Environment) -> None:
    publish(settings, records_of(World(Parameters(seed=7, days=3, events=20_000, trap_hits=6_000, senders=300))))
    with running(settings, environment_of, "count", "track") as stages:
        wait_for_facts(settings, expected(settings), 90)
        assert [stage.stop() for stage in stages] == [0, 0]


def test_bad_records_reach_the_dead_letter_queue_and_good_ones_beside_them_are_counted(
    settings: Settings, environment_of: Environment
) -> None:
    good = [mail(NOON_MS + number * 1000) for number in range(12)]
    line = encoded(good[0])
    bad: list[tuple[str, int, bytes]] = [
        ("not_json", 0, b"garbage"),
        ("wrong_type", 0, line.replace(b'"size_bytes":1000', b'"size_bytes":"big"')),
        ("too_long", 0, encoded(mail(helo="h" * 320)).replace(b"h" * 320, b"h" * 321)),
        ("nul", 0, b"\x00" + line),
        ("nul", 0, encoded(mail(helo="a\x00b"))),
        ("future", 0, encoded(mail(YEAR_2100_MS))),
        ("not_utf8", 0, encoded(mail(helo="hi")).replace(b'"hi"', b'"\xc3\x28"')),
        ("bad_ip", 0, encoded(mail(ip="300.1.1.1"))),
        ("empty", 0, b""),
        ("not_json", 1, b"\n".join((encoded(good[1]), b"{broken", encoded(good[2])))),
    ]
    values = [value for _, _, value in bad] + encoded_each(good[3:])
    publish(settings, values, partitions=1)
    wanted = expected(settings)
    assert wanted.events == 11
    with running(settings, environment_of, "count", "track"):
        wait_for_facts(settings, wanted, 60)
        letters = Topic(settings, MAIL_EVENTS_DLQ).read(2)
    found = []
    for letter in letters:
        headers = headers_of(letter)
        assert headers["topic"] == settings.topic("mail-events")
        assert headers["stage"] == "count"
        found.append((headers["reason"], int(headers["line"]), int(headers["partition"]), int(headers["offset"])))
    assert found == [(reason, number, 0, offset) for offset, (reason, number, _) in enumerate(bad)]
    bodies = [letter.value() or b"" for letter in letters]
    assert bodies == [value for _, _, value in bad[:-1]] + [b"{broken"]


def test_workers_that_come_and_go_lose_and_double_nothing(settings: Settings, environment_of: Environment) -> None:
    records = records_of(World(Parameters(seed=13, days=3, events=50_000, trap_hits=10_000, senders=500)))
    parts = [records[number * 10_000 : (number + 1) * 10_000] for number in range(6)]
    with running(settings, environment_of, "count", "track"):
        publish(settings, parts[0])
        others = [msgspec.structs.replace(settings, slot=slot) for slot in (1, 2)]
        with running(others[0], environment_of, "count", "track") as second:
            publish(settings, parts[1])
            with running(others[1], environment_of, "count", "track") as third:
                publish(settings, parts[2])
                wait_until(lambda: members(settings, "track") == 3, 60, "a third worker in the group")
                publish(settings, parts[3])
                assert [stage.stop() for stage in third] == [0, 0]
            publish(settings, parts[4])
            for stage in second:
                stage.kill()
        publish(settings, parts[5])
        wait_for_facts(settings, expected(settings), 120)


def members(settings: Settings, group: str) -> int:
    """How many workers a group has."""
    name = settings.topic(group)
    admin = make_admin(settings)  # a client that is not held is gone before it answers
    return len(admin.describe_consumer_groups([name])[name].result(30).members)


def headers_of(message: Message) -> dict[str, str]:
    headers = message.headers() or []
    assert isinstance(headers, list)
    return {name: value.decode() for name, value in headers if isinstance(value, bytes)}


@pytest.mark.timeout(420)
def test_kill_nine_in_the_middle_loses_and_doubles_nothing(settings: Settings, environment_of: Environment) -> None:
    settings = msgspec.structs.replace(settings, capture_share=0.0002)
    records = records_of(World(Parameters(seed=11, days=4, events=180_000, trap_hits=20_000, senders=1_500)))
    assert len(records) == 200_000
    rng = Random(11)
    with running(settings, environment_of, "count", "track", "alert") as stages:
        for number in range(10):  # the load keeps coming while stages die
            publish(settings, records[number * 20_000 : (number + 1) * 20_000])
            for stage in stages:
                time.sleep(rng.uniform(0, 1.2))  # a random moment is what is wanted
                stage.kill()
                stage.start()
        wait_for_facts(settings, expected(settings), 180)
        signals = one_content_each(settings, VOLUME_SIGNALS, "incident")
        assert any(signal["change"] == "opened" for signal in signals.values())
        assert {seq for _, seq in signals} >= set(range(1, 1 + max(seq for _, seq in signals)))
        steps = {key for key, signal in signals.items() if signal["change"] != "volume"}
        wait_until(lambda: steps == alerts(settings), 60, "every alert")


def alerts(settings: Settings) -> set[tuple[str, int]]:
    """(id, seq) of every alert, each with one content."""
    campaigns, senders = (one_content_each(settings, name, "id") for name in (CAMPAIGN_ALERTS, SENDER_ALERTS))
    return campaigns.keys() | senders.keys()


def one_content_each(settings: Settings, name: str, identity: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(incident, seq) -> content. Fails where one has two contents."""
    topic = Topic(settings, name)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for message in topic.read(1):
        content = orjson.loads(message.value() or b"")
        assert found.setdefault((content[identity], content["seq"]), content) == content
    topic.close()
    return found


def test_two_workers_of_one_slot_end_with_one_that_names_the_other(
    settings: Settings, environment_of: Environment
) -> None:
    publish(settings, encoded_each([mail()]))
    with running(settings, environment_of, "count", "track") as (first, _):
        wait_for_facts(settings, expected(settings), 60)
        with running(settings, environment_of, "count"):
            assert first.ends(60) == Fenced.exit_status
        assert "SPAMTIDE_SLOT" in first.words


def test_a_lost_changelog_is_refused_with_a_sentence(settings: Settings, environment_of: Environment) -> None:
    publish(settings, encoded_each([mail()]))
    with running(settings, environment_of, "count", "track") as (_, track):
        wait_for_facts(settings, expected(settings), 60)
        assert track.stop() == 0
        admin = make_admin(settings)  # a client that is not held is gone before it answers
        for done in admin.delete_topics([settings.topic(TRACK_CHANGELOG)]).values():
            done.result(30)
        wait_until(lambda: settings.topic(TRACK_CHANGELOG) in made_again(settings), 30, "an empty changelog")
        track.start()
        assert track.ends(60) == AuditFailure.exit_status
        assert "track-changelog" in track.words


def made_again(settings: Settings) -> list[str]:
    return [outcome.topic for outcome in apply(settings) if outcome.outcome == "created"]


def test_a_gap_in_the_input_ranges_stops_the_count(settings: Settings, environment_of: Environment) -> None:
    publish(settings, encoded_each([mail()]))
    with running(settings, environment_of, "count", "track") as (count, track):
        wait_for_facts(settings, expected(settings), 60)
        assert count.stop() == 0
        publish(settings, encoded_each(mail() for _ in range(16)))
        skip_to_the_end(settings)
        publish(settings, encoded_each(mail() for _ in range(16)))
        count.start()
        assert track.ends(60) == AuditFailure.exit_status
        assert "were never counted" in track.words


def skip_to_the_end(settings: Settings) -> None:
    """Somebody resets COUNT's offsets by hand."""
    admin = make_admin(settings)
    topic, group = settings.topic(MAIL_EVENTS), settings.topic("count")
    places = [TopicPartition(topic, number) for number in range(BY_NAME[MAIL_EVENTS].partitions)]
    ends = admin.list_offsets({place: OffsetSpec.latest() for place in places})  # type: ignore[no-untyped-call]
    moved = [TopicPartition(topic, place.partition, end.result(30).offset) for place, end in ends.items()]

    def reset() -> bool:
        asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, moved)])
        try:
            answer = asked[group].result(30)
        except KafkaException:
            return False
        return not any(place.error for place in answer.topic_partitions or [])  # not while its member's session lasts

    wait_until(reset, 40, "an empty group")


def test_a_world_that_was_read_again_says_the_same(settings: Settings, environment_of: Environment) -> None:
    settings = msgspec.structs.replace(settings, capture_share=0.0002)
    publish(settings, records_of(World(Parameters(seed=5, days=2, events=10_000, trap_hits=4_000, senders=200))))
    again = msgspec.structs.replace(settings, flush_ms=50, commit_ms=300, idle_ms=2_500)
    with running(settings, environment_of, "count", "track"):
        wait_for_facts(settings, expected(settings), 60)
        told = story(settings)
    with own_topics(again) as replay:
        publish(replay, records_of(World(Parameters(seed=5, days=2, events=10_000, trap_hits=4_000, senders=200))))
        with running(replay, environment_of, "count", "track"):
            wait_for_facts(replay, expected(replay), 60)
            assert story(replay) == told
    assert {change for _, _, change, _, _ in told} >= {"opened", "escalated", "volume"}


def story(settings: Settings) -> list[tuple[str, int, str, str, int]]:
    """What was told of each incident, in order."""
    signals = one_content_each(settings, VOLUME_SIGNALS, "incident")
    return sorted((id_, seq, told["change"], told["severity"], told["time_ms"]) for (id_, seq), told in signals.items())


@contextmanager
def own_topics(settings: Settings) -> Iterator[Settings]:
    """The same under another prefix."""
    own = msgspec.structs.replace(settings, topic_prefix=settings.topic_prefix + "again-")
    apply(own)
    yield own
    remove(own)


def test_every_message_of_a_real_postfix_is_counted_once(
    settings: Settings, environment_of: Environment, tmp_path: Path
) -> None:
    with running_postfix() as postfix:
        postfix.flood(900, 1)
        postfix.flood(100, 3)
        postfix.wait_until_removed(2 * 1_000)
        log = tmp_path / "mail.log"
        log.write_bytes(Path(postfix.log).read_bytes())
    command = [sys.executable, "-m", "streams.cli", "produce", "postfix", str(log)]
    done = subprocess.run(command, env=environment_of(settings), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with running(settings, environment_of, "count", "track"):
        wait_for_facts(settings, expected(settings), 60)
    facts = Topic(settings, MAIL_VOLUME)
    totals = oracle.facts_total(message.value() or b"" for message in facts.read(1))
    campaign = [
        counters for (entity, span, _), counters in totals.items() if (entity, span) == ("campaign:(none)", "hour")
    ]
    assert sum(counters["messages"] for counters in campaign) == 1_000
    assert sum(counters["copies"] for counters in campaign) == 900 + 3 * 100
