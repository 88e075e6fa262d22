"""`spamtide topics` on a real broker: makes what is missing, tells what differs, changes nothing."""

from collections.abc import Callable, Mapping
from time import monotonic

import pytest
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from confluent_kafka.admin import TopicMetadata as Metadata

from producers.errors import Unavailable, UsageError
from streams import cli
from streams.admin import Difference, Outcome, apply, compare, existing, remove, wait_for_broker
from streams.clients import make_admin
from streams.settings import Settings
from streams.topics import BY_NAME, MAIL_EVENTS, MAIL_ROLLUPS, TOPICS, VOLUME_SIGNALS

pytestmark = pytest.mark.kafka


@pytest.fixture
def bare(settings: Settings) -> Settings:
    """A prefix without topics."""
    remove(settings)
    deadline = monotonic() + 20
    while existing(settings):
        assert monotonic() < deadline
    return settings


def by_name(outcomes: list[Outcome], settings: Settings) -> dict[str, Outcome]:
    return {outcome.topic.removeprefix(settings.topic_prefix): outcome for outcome in outcomes}


def change(settings: Settings, name: str, setting: str, value: str) -> None:
    resource = ConfigResource(ResourceType.TOPIC, settings.topic(name))
    resource.add_incremental_config(ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET))
    admin = make_admin(settings)  # a client that is not held is gone before it answers
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    asked = ConfigResource(ResourceType.TOPIC, settings.topic(name))
    deadline = monotonic() + 20  # the broker answers from its own copy of the metadata, a moment later
    while admin.describe_configs([asked])[asked].result(30)[setting].value != value:
        assert monotonic() < deadline


def grow(settings: Settings, name: str, partitions: int) -> None:
    admin = make_admin(settings)
    for future in admin.create_partitions([NewPartitions(settings.topic(name), partitions)]).values():
        future.result(30)
    deadline = monotonic() + 20
    while existing(settings)[settings.topic(name)] != partitions:
        assert monotonic() < deadline


def test_what_is_missing_is_made_and_a_second_time_changes_nothing(bare: Settings) -> None:
    assert {outcome.outcome for outcome in apply(bare)} == {"created"}
    assert existing(bare) == {bare.topic(spec.name): spec.partitions for spec in TOPICS}
    assert {outcome.outcome for outcome in apply(bare)} == {"fine"}


def test_only_the_missing_one_is_made(bare: Settings) -> None:
    admin = make_admin(bare)
    made = admin.create_topics([NewTopic(bare.topic(MAIL_ROLLUPS), num_partitions=3, replication_factor=1)])
    for future in made.values():
        future.result(30)
    found = by_name(apply(bare), bare)
    assert found[MAIL_EVENTS].outcome == "created"
    assert found[MAIL_ROLLUPS].outcome == "differs"
    assert Difference("partitions", "3", "32") in found[MAIL_ROLLUPS].differences
    assert existing(bare)[bare.topic(MAIL_ROLLUPS)] == 3


def test_a_topic_with_other_settings_is_told_and_not_changed(settings: Settings) -> None:
    change(settings, VOLUME_SIGNALS, "retention.ms", "60000")
    for _ in range(2):
        found = by_name(apply(settings), settings)[VOLUME_SIGNALS]
        assert found.outcome == "differs"
        assert found.differences == (Difference("retention.ms", "60000", str(30 * 86_400_000)),)


def test_mail_events_may_have_grown_and_no_other(settings: Settings) -> None:
    grow(settings, MAIL_EVENTS, 12)
    grow(settings, VOLUME_SIGNALS, 33)
    found = by_name(apply(settings), settings)
    assert found[MAIL_EVENTS] == Outcome(settings.topic(MAIL_EVENTS), "grown", 12)
    assert found[VOLUME_SIGNALS].differences == (Difference("partitions", "33", "32"),)


def test_the_command_tells_by_its_exit_status(
    settings: Settings,
    environment_of: Callable[[Settings], Mapping[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment_of(settings).items():
        if name.startswith("SPAMTIDE_"):
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(["topics", "apply", "--json"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.count('"outcome":"fine"') == len(TOPICS)
    change(settings, VOLUME_SIGNALS, "cleanup.policy", "compact")
    with pytest.raises(SystemExit) as ended:
        cli.main(["topics", "apply"])
    assert ended.value.code == 1
    assert "cleanup.policy is compact, should be delete" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["topics", "list"])
    assert capsys.readouterr().out.count("\n") == len(TOPICS)


def test_topics_without_a_prefix_are_never_removed(settings: Settings) -> None:
    with pytest.raises(UsageError):
        remove(Settings(bootstrap_servers=settings.bootstrap_servers))


def test_a_cluster_that_does_not_answer_is_told_in_time() -> None:
    waited: list[float] = []
    with pytest.raises(Unavailable) as caught:
        wait_for_broker(Settings(bootstrap_servers="127.0.0.1:1"), 0.5, waited.append)
    assert "127.0.0.1:1" in str(caught.value)
    assert waited == sorted(waited)


class Partition:
    """As much of a partition's metadata as `compare` looks at."""

    def __init__(self, replicas: int) -> None:
        self.replicas = list(range(replicas))


def test_three_brokers_want_three_copies_of_which_two_are_in_step() -> None:
    topic = Metadata()
    topic.partitions = {number: Partition(1) for number in range(32)}  # type: ignore[misc]
    spec = BY_NAME[VOLUME_SIGNALS]
    config = {**spec.config, "min.insync.replicas": "1"}
    found = compare("x", spec, topic, config, replication=3)
    assert found.differences == (Difference("min.insync.replicas", "1", "2"), Difference("replication", "1", "3"))
