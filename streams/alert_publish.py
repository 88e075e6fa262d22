"""What ALERT does with one signal: its alert, the records of it, and the table of what is open, kept by Faust."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final, NamedTuple, cast

import faust
import msgspec
from faust.types import EventT, FutureMessage, Message

from producers.errors import AuditFailure
from streams.alert_kafka import HandledConsumer, settings_of
from streams.incident import Alert, Signal
from streams.metrics import Metrics
from streams.render import alert_of
from streams.settings import Settings
from streams.topics import (
    ALERT_OPEN_CHANGELOG,
    BY_NAME,
    CAMPAIGN_ALERTS,
    ENTITY_PARTITIONS,
    INCIDENTS,
    SENDER_ALERTS,
    partition_of,
)

_DECODER: Final = msgspec.json.Decoder(Signal)
_ENCODER: Final = msgspec.json.Encoder()
_ROWS: Final = msgspec.json.Decoder(Alert)


class OpenIncidents(faust.Table):  # type: ignore[type-arg]
    """The last alert of each incident that is not resolved, by incident id. `sent` is the changelog record of the last change."""

    sent: FutureMessage

    def _changelog_topic_name(self) -> str:
        return settings_of(self.app).topic(ALERT_OPEN_CHANGELOG)

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Faust would only log that a change of the table was not written; `Publisher` waits for it."""
        self.sent = super().send_changelog(*args, **kwargs)
        return self.sent

    def alerts(self) -> list[Alert]:
        """All rows."""
        return [_ROWS.decode(row) for row in self.values()]


class Sent(NamedTuple):
    """A signal whose records are on their way, and what the broker will say of them."""

    signal: Signal
    message: Message
    confirmations: Sequence[Awaitable[Any]]


class Publisher:
    """Makes an alert of a signal, publishes it and keeps the table."""

    def __init__(self, app: faust.App, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._topics = {name: self.topic(name) for name in (CAMPAIGN_ALERTS, SENDER_ALERTS, INCIDENTS)}
        self.open = OpenIncidents(
            app,
            name="open",
            key_type=bytes,
            value_type=bytes,
            partitions=ENTITY_PARTITIONS,
        )
        app.tables.add(self.open)

    def topic(self, name: str) -> faust.TopicT:
        """A topic of bytes: contracts are decoded by msgspec, not by Faust."""
        return self._app.topic(
            self._settings.topic(name),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=BY_NAME[name].partitions,
        )

    async def send(self, event: EventT[bytes]) -> Sent:
        """Hands the records of one signal to the producer, in order. Raises `AuditFailure`, `KafkaError`."""
        signal = _decoded(event)
        alert = alert_of(signal, self._settings.runbook_url, self._settings.dashboard_url)
        value = _ENCODER.encode(alert)
        confirmations = [await self._send(INCIDENTS, alert.id, value)]
        if signal.change != "volume":
            name = CAMPAIGN_ALERTS if signal.kind == "campaign" else SENDER_ALERTS
            confirmations.append(await self._send(name, alert.entity, value))
        if self._keep(alert, value):
            confirmations.append(self.open.sent)
        return Sent(signal, event.message, confirmations)

    async def confirm(self, sent: Sent) -> None:
        """Returns when the broker has taken every record of a signal: then, and in order, it counts as handled. Raises `KafkaError`."""
        await asyncio.gather(*sent.confirmations)
        cast(HandledConsumer, self._app.consumer).handled(sent.message)
        self._metrics.add("alert_signals_total", change=sent.signal.change)
        if sent.signal.change != "volume":
            self._metrics.add("alert_alerts_total", severity=sent.signal.severity)

    async def _send(self, name: str, key: str, value: bytes) -> Any:
        partition = partition_of(key, BY_NAME[name].partitions)
        return await self._topics[name].send(key=key.encode(), value=value, partition=partition)

    def _keep(self, alert: Alert, value: bytes) -> bool:
        """Brings the table up to date; whether that wrote to its changelog."""
        key = alert.id.encode()
        if alert.state == "open":
            self.open[key] = value
            return True
        if key in self.open:
            del self.open[key]
            return True
        return False


def _decoded(event: EventT[bytes]) -> Signal:
    message = event.message
    try:
        return _DECODER.decode(event.value)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        raise AuditFailure(
            f"{message.topic} {message.partition} offset {message.offset} is no signal ({type(error).__name__}): "
            "ALERT and TRACK must be of one version; see the record, then upgrade ALERT"
        ) from None
