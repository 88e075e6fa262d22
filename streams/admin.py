"""Topics on the cluster: make what is missing, tell what differs, change nothing."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Literal

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic, ResourceType, TopicMetadata

from producers.errors import Unavailable, UsageError
from streams.clients import make_admin
from streams.settings import Settings
from streams.topics import TOPICS, TopicSpec

TIMEOUT_S: Final = 30.0
"""How long the cluster may take for one step."""
_POLL_S: Final = 0.1


class Difference(msgspec.Struct, frozen=True):
    """One setting of a topic that is not what it must be."""

    setting: str
    now: str
    should_be: str


class Outcome(msgspec.Struct, frozen=True):
    """What `apply` found or did for one topic. `grown`: more partitions than at first, which this topic allows."""

    topic: str
    outcome: Literal["created", "fine", "grown", "differs"]
    partitions: int
    differences: tuple[Difference, ...] = ()


def wait_for_broker(
    settings: Settings, timeout_s: float = TIMEOUT_S, progress: Callable[[float], None] | None = None
) -> None:
    """Returns when the cluster answers; `progress` is told the seconds waited. Raises `Unavailable`."""
    admin = make_admin(settings)
    since = time.monotonic()
    while True:
        left_s = timeout_s - (time.monotonic() - since)
        try:
            admin.list_topics(timeout=max(min(left_s, 2.0), 0.1))
        except KafkaException as error:
            if left_s <= 0:
                raise _unreachable(settings, error) from None
            if progress is not None:
                progress(time.monotonic() - since)
            time.sleep(_POLL_S)
        else:
            return


def apply(settings: Settings) -> list[Outcome]:
    """Makes the topics that are missing and compares the others, in the order of `streams.topics.TOPICS`.

    Raises `Unavailable` where the cluster does not answer or refuses.
    """
    wait_for_broker(settings)
    admin = make_admin(settings)
    try:
        cluster = admin.list_topics(timeout=TIMEOUT_S)
        replication = 1 if len(cluster.brokers) < 3 else 3
        wanted = {settings.topic(spec.name): spec for spec in TOPICS}
        missing = {name: spec for name, spec in wanted.items() if name not in cluster.topics}
        created = _create(admin, missing, replication)
        cluster = _wait_for_leaders(admin, wanted)
        configs = _configs(admin, [name for name in wanted if name not in created])
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    outcomes = []
    for name, spec in wanted.items():
        if name in created:
            outcomes.append(Outcome(name, "created", spec.partitions))
        else:
            outcomes.append(compare(name, spec, cluster.topics[name], configs[name], replication))
    return outcomes


def compare(name: str, spec: TopicSpec, topic: TopicMetadata, config: Mapping[str, str], replication: int) -> Outcome:
    """What a topic is against what it must be. `config` holds the broker's values by setting."""
    partitions = len(topic.partitions)
    copies = min((len(partition.replicas) for partition in topic.partitions.values()), default=0)
    found = [
        Difference(setting, config.get(setting, ""), value)
        for setting, value in _wanted_config(spec, replication).items()
        if config.get(setting, "") != value
    ]
    if copies < replication:
        found.append(Difference("replication", str(copies), str(replication)))
    if partitions < spec.partitions or (partitions > spec.partitions and not spec.may_grow):
        found.append(Difference("partitions", str(partitions), str(spec.partitions)))
    if found:
        return Outcome(name, "differs", partitions, tuple(found))
    return Outcome(name, "grown" if partitions > spec.partitions else "fine", partitions)


def existing(settings: Settings) -> dict[str, int]:
    """Partitions of each of our topics that is on the cluster, by physical name. Raises `Unavailable`."""
    admin = make_admin(settings)
    try:
        topics = admin.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    ours = [settings.topic(spec.name) for spec in TOPICS]
    return {name: len(topics[name].partitions) for name in ours if name in topics}


def remove(settings: Settings) -> None:
    """Deletes every topic and group under a prefix: a replay or a test is over. Refuses to work without a prefix."""
    prefix = settings.topic_prefix
    if not prefix:
        raise UsageError("only topics under a prefix are removed: set SPAMTIDE_TOPIC_PREFIX")
    admin = make_admin(settings)
    try:
        topics = [name for name in admin.list_topics(timeout=TIMEOUT_S).topics if name.startswith(prefix)]
        if topics:
            _settle(admin.delete_topics(topics, operation_timeout=TIMEOUT_S), KafkaError.UNKNOWN_TOPIC_OR_PART)
        listed = admin.list_consumer_groups(request_timeout=TIMEOUT_S).result().valid
        groups = [group.group_id for group in listed if group.group_id.startswith(prefix)]
        if groups:
            gone = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NON_EMPTY_GROUP)
            _settle(admin.delete_consumer_groups(groups, request_timeout=TIMEOUT_S), *gone)
    except KafkaException as error:
        raise _unreachable(settings, error) from None


def _create(admin: AdminClient, missing: Mapping[str, TopicSpec], replication: int) -> set[str]:
    """Makes topics; returns the names this call made, which are not those another call made at the same time."""
    if not missing:
        return set()
    asked = [
        NewTopic(
            name,
            num_partitions=spec.partitions,
            replication_factor=replication,
            config=_wanted_config(spec, replication),
        )
        for name, spec in missing.items()
    ]
    futures = admin.create_topics(asked, operation_timeout=TIMEOUT_S)
    return _settle(futures, KafkaError.TOPIC_ALREADY_EXISTS)


def _settle(futures: Mapping[str, Future[Any]], *harmless: int) -> set[str]:
    """Waits for each answer; returns the names that went well, without those that failed harmlessly. Raises `KafkaException`."""
    done = set()
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() not in harmless:
                raise
        else:
            done.add(name)
    return done


def _wait_for_leaders(admin: AdminClient, wanted: Mapping[str, TopicSpec]) -> ClusterMetadata:
    """The metadata in which every topic has a leader for each partition: only then can it be written to."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        cluster = admin.list_topics(timeout=TIMEOUT_S)
        if all(_has_leaders(cluster.topics.get(name)) for name in wanted):
            return cluster
        if time.monotonic() > until:
            raise Unavailable(
                f"topics were made but have no leaders after {TIMEOUT_S:.0f} s: look at the brokers' logs"
            )
        time.sleep(_POLL_S)


def _has_leaders(topic: TopicMetadata | None) -> bool:
    return (
        topic is not None
        and bool(topic.partitions)
        and all(partition.leader >= 0 for partition in topic.partitions.values())
    )


def _configs(admin: AdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = admin.describe_configs(asked, request_timeout=TIMEOUT_S)
    return {
        resource.name: {entry.name: str(entry.value) for entry in future.result().values()}
        for resource, future in futures.items()
    }


def _wanted_config(spec: TopicSpec, replication: int) -> dict[str, str]:
    """Broker settings of a topic. With three replicas two must have a record before it counts as written."""
    return dict(spec.config) | ({"min.insync.replicas": "2"} if replication >= 3 else {})


def _unreachable(settings: Settings, error: KafkaException) -> Unavailable:
    reason = error.args[0].str() if isinstance(error.args[0], KafkaError) else str(error)
    return Unavailable(
        f"Kafka at {settings.bootstrap_servers} does not answer ({reason}): start one with `make kafka`, "
        "or name yours in SPAMTIDE_BOOTSTRAP_SERVERS"
    )
