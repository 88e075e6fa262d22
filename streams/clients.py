"""The one place where Kafka clients are made: security settings, isolation level and time-outs are the same everywhere."""

import ssl
from typing import Any, Final

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from streams.settings import Settings

TIMEOUT_MS: Final = 10_000
"""Session and transaction time-out: how long a dead worker holds its partitions and its open transaction."""


def librdkafka_config(settings: Settings) -> dict[str, Any]:
    """What every librdkafka client needs to reach the cluster."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.security_protocol,
        "client.id": f"spamtide-{settings.slot}",
        "socket.keepalive.enable": True,
        "log.connection.close": False,
    }
    optional = {
        "ssl.ca.location": settings.ssl_ca_location,
        "ssl.certificate.location": settings.ssl_certificate_location,
        "ssl.key.location": settings.ssl_key_location,
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": settings.sasl_password,
    }
    return config | {name: value for name, value in optional.items() if value}


def aiokafka_security(settings: Settings) -> dict[str, Any]:
    """The same security for an aiokafka client (Faust's transport), in its own words."""
    security: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.ssl_ca_location or None)
        if settings.ssl_certificate_location:
            context.load_cert_chain(settings.ssl_certificate_location, settings.ssl_key_location or None)
        security["ssl_context"] = context
    if settings.sasl_mechanism:
        security |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password,
        }
    return security


def make_admin(settings: Settings) -> AdminClient:
    """An admin client. What fails is said by its caller in one sentence: librdkafka would print each refused connection."""
    return AdminClient(librdkafka_config(settings) | {"log_level": 2})


def make_group_consumer(settings: Settings, group: str, **more: Any) -> Consumer:
    """A member of a consumer group whose offsets are committed only by transactions. Keyword names use `_` for `.`.

    `auto.offset.reset=error`: a position that is gone is a fault to be told, never a silent jump.
    """
    return Consumer(
        librdkafka_config(settings)
        | {
            "group.id": settings.topic_prefix + group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": TIMEOUT_MS,
            "heartbeat.interval.ms": TIMEOUT_MS // 10,
            "max.poll.interval.ms": 30 * TIMEOUT_MS,
        }
        | {name.replace("_", "."): value for name, value in more.items()}
    )


def make_reader(settings: Settings, **more: Any) -> Consumer:
    """A consumer that belongs to no group: it is told what to read, sees committed records only and is told of the end."""
    return Consumer(
        librdkafka_config(settings)
        | {
            "group.id": settings.topic_prefix + "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
        | {name.replace("_", "."): value for name, value in more.items()}
    )


def make_transactional_producer(settings: Settings, transactional_id: str, **more: Any) -> Producer:
    """A producer whose records become visible by `commit_transaction` only. The id is prefixed like a topic."""
    return Producer(
        librdkafka_config(settings)
        | {
            "transactional.id": settings.topic_prefix + transactional_id,
            "transaction.timeout.ms": TIMEOUT_MS,
            # With more in flight, a first batch that a fresh partition refuses ("not leader yet") is overtaken by the next, whose
            # sequence number the broker accepts as the first; the retry then passes for a duplicate and its records are lost.
            "max.in.flight.requests.per.connection": 1,
            "linger.ms": 5,
            "compression.type": "zstd",
            "compression.level": 1,
            "message.max.bytes": 1_048_588,  # the broker's own limit: room for MAX_RECORD_BYTES and its framing
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 512 * 1024,
        }
        | {name.replace("_", "."): value for name, value in more.items()}
    )
