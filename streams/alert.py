"""ALERT: turns each signal into the alert that people and programs read, keeps the table of open incidents, serves the page.

    volume-signals ──▶ publish ──▶ campaign-alerts or sender-alerts   (steps of an incident)
                          │──────▶ incidents                          (present state, compacted)
                          └──────▶ alert-open-changelog               (Faust's table of what is open)

At least once: a signal is committed after the broker has confirmed all that came of it, and the alert is a pure function of its signal, so a
repeat has the same id, seq and bytes. Whatever goes wrong with one signal stops the worker before that signal is committed.
"""

import asyncio
import contextlib
import logging
import signal as signals
from typing import Any, Final, cast

import faust
import msgspec
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException
from faust.types import EventT, FutureMessage
from faust.web import Request, Response, View
from faust.web.drivers.aiohttp import Web

from producers.errors import AuditFailure, SystemFault, Unavailable
from streams import alert_web
from streams.alert_kafka import HandledConsumer, Transport, broker_urls, settings_of
from streams.clients import TIMEOUT_MS, make_admin
from streams.incident import Alert, Signal
from streams.metrics import CONTENT_TYPE, Metrics
from streams.render import alert_of
from streams.settings import Settings
from streams.topics import (
    ALERT_OPEN_CHANGELOG,
    BY_NAME,
    CAMPAIGN_ALERTS,
    ENTITY_PARTITIONS,
    INCIDENTS,
    SENDER_ALERTS,
    VOLUME_SIGNALS,
    partition_of,
)

APP: Final = "alert"
COMMIT_S: Final = 1.0
"""Signals published again after a crash: at most those of this long."""
STOP_S: Final = 8.0
"""A worker that was told to stop and has not by then leaves at once: nothing is lost by that."""
_DECODER: Final = msgspec.json.Decoder(Signal)
_ENCODER: Final = msgspec.json.Encoder()
_ROWS: Final = msgspec.json.Decoder(Alert)

log = logging.getLogger(__name__)


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


class OwnPages(Web):
    """Faust's web server with our pages only: no index and no view into tables of Faust's own."""

    production_blueprints = ()


class AlertApp(faust.App):
    """The Faust application of one worker: its settings, its clients, and the fault that ended it."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        self.metrics = Metrics("alert")
        self.fault: SystemFault | None = None
        self.ended = asyncio.Event()
        self.ready = False
        super().__init__(settings.topic(APP), **options)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return Transport(self.conf.broker_producer, self)

    async def on_started(self) -> None:
        """Faust calls this to wait for the restored table."""
        await super().on_started()
        self.ready = not self.should_stop

    def _create_directories(self) -> None:
        """None: all state is in Kafka."""

    def fail(self, fault: SystemFault) -> None:
        """Ends the worker. The first fault is the one that is told."""
        self.fault = self.fault or fault
        self.ended.set()


def make_app(settings: Settings) -> AlertApp:
    """The application: its topics, table, agent and pages. Nothing is connected yet."""
    app = AlertApp(
        settings,
        broker=broker_urls(settings),
        store="memory://",
        autodiscover=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        broker_session_timeout=TIMEOUT_MS / 1000,
        broker_commit_interval=COMMIT_S,
        stream_wait_empty=False,
        canonical_url=f"http://slot-{settings.slot}",  # part of the group's memory of a member: it must outlive a changed port
        web_bind=settings.metrics_address,
        web_host=settings.metrics_address,
        web_port=settings.alert_port,
        web_router_enabled=False,
        web_tables_enabled=False,
    )
    app.web = OwnPages(app)
    publisher = Publisher(app)

    async def alerts(stream: faust.StreamT[bytes]) -> None:
        async for event in cast("faust.Stream[bytes]", stream).noack().events():
            await _handle(app, publisher, event)

    app.agent(publisher.topic(VOLUME_SIGNALS), name="alerts", concurrency=1)(alerts)
    _add_pages(app, publisher.open)
    return app


async def _handle(app: AlertApp, publisher: "Publisher", event: EventT[bytes]) -> None:
    """One signal to its end. A fault stops the worker, and nothing after this signal is handled or committed."""
    try:
        await publisher.publish(event)
    except SystemFault as fault:
        app.fail(fault)
    except KafkaError as error:
        app.fail(Unavailable(f"the broker did not take an alert: {error}"))
    except Exception as error:
        log.exception("ALERT stops on an unexpected error")
        app.fail(
            SystemFault(
                f"ALERT met an error of its own ({type(error).__name__}), see the log; the signal is not committed"
            )
        )
    else:
        consumer = app.consumer
        assert isinstance(consumer, HandledConsumer)
        consumer.handled(event.message)
        event.ack()
        return
    await app.wait_until_stopped()


class Publisher:
    """Makes an alert of a signal, publishes it and keeps the table."""

    def __init__(self, app: AlertApp) -> None:
        self._app = app
        self._settings = app.settings
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

    async def publish(self, event: EventT[bytes]) -> None:
        """Returns when the broker has confirmed every record. Raises `AuditFailure`, `KafkaError`."""
        signal = _decoded(event)
        alert = alert_of(signal, self._settings.runbook_url, self._settings.dashboard_url)
        value = _ENCODER.encode(alert)
        sends = [await self._send(INCIDENTS, alert.id, value)]
        if signal.change != "volume":
            name = CAMPAIGN_ALERTS if signal.kind == "campaign" else SENDER_ALERTS
            sends.append(await self._send(name, alert.entity, value))
        if self._keep(alert, value):
            sends.append(self.open.sent)
        await asyncio.gather(*sends)
        self._app.metrics.add("alert_signals_total", change=signal.change)
        if signal.change != "volume":
            self._app.metrics.add("alert_alerts_total", severity=signal.severity)

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


def _add_pages(app: AlertApp, table: OpenIncidents) -> None:
    """The pages. Until the table is restored what they show is not whole, and `/healthz` says so."""

    async def metrics(view: View, _: Request) -> Response:
        alert_web.show(app.metrics, app.settings.label_key, table.alerts())
        return view.bytes(app.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(view: View, _: Request) -> Response:
        return view.text("ok\n") if app.ready else view.text("restoring\n", status=503)

    async def incidents(view: View, _: Request) -> Response:
        return view.bytes(alert_web.incidents_json(table.alerts()), content_type="application/json")

    async def index(view: View, _: Request) -> Response:
        return view.html(alert_web.page(table.alerts()), headers=dict(alert_web.PAGE_HEADERS))

    for path, handler in (("/metrics", metrics), ("/healthz", healthz), ("/api/incidents", incidents), ("/", index)):
        app.page(path, name=handler.__name__)(handler)


def run(settings: Settings) -> None:
    """Runs ALERT in this process until SIGINT or SIGTERM. Raises `SystemFault` where it cannot go on."""
    for noisy in ("faust", "mode", "aiokafka", "streams.alert_kafka", __name__):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _check_topics(settings)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    app = make_app(settings)
    loop = asyncio.get_running_loop()
    for number in (signals.SIGINT, signals.SIGTERM):
        loop.add_signal_handler(number, app.ended.set)
    starting = asyncio.ensure_future(app.start())
    crashed = asyncio.ensure_future(app.wait_until_stopped())
    ended = asyncio.ensure_future(app.ended.wait())
    await asyncio.wait((starting, crashed, ended), return_when=asyncio.FIRST_COMPLETED)
    reason = starting.exception() if starting.done() else None
    if reason is None:
        await asyncio.wait((crashed, ended), return_when=asyncio.FIRST_COMPLETED)
    reason = reason or app.crash_reason
    for task in (starting, crashed, ended):
        task.cancel()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(app.stop(), STOP_S)
    if app.fault is not None:
        raise app.fault
    if reason is not None:
        raise SystemFault(
            f"ALERT's Kafka worker crashed ({type(reason).__name__}: {reason}); a restart goes on where it stopped"
        )


def _check_topics(settings: Settings) -> None:
    """Before Faust, which would wait for a broker or topic without a word. Raises `Unavailable`."""
    try:
        found = make_admin(settings).list_topics(timeout=TIMEOUT_MS / 1000).topics
    except KafkaException:
        raise Unavailable(
            f"no broker answers at {settings.bootstrap_servers}; is it running (`make kafka`), is SPAMTIDE_BOOTSTRAP_SERVERS right?"
        ) from None
    for name in (VOLUME_SIGNALS, CAMPAIGN_ALERTS, SENDER_ALERTS, INCIDENTS, ALERT_OPEN_CHANGELOG):
        topic = found.get(settings.topic(name))
        if topic is None or len(topic.partitions) != BY_NAME[name].partitions:
            raise Unavailable(
                f"topic {settings.topic(name)} is missing or has other partitions: run `spamtide topics apply`"
            )
