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
import os
import signal as signals
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import faust
import msgspec
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException
from faust.web import Request, Response, View
from faust.web.drivers.aiohttp import Web

from producers.errors import SystemFault, Unavailable
from streams import alert_web
from streams.alert_kafka import Transport, broker_urls
from streams.alert_publish import OpenIncidents, Publisher, Sent
from streams.clients import TIMEOUT_MS, make_admin
from streams.metrics import CONTENT_TYPE, Metrics, free_port
from streams.settings import Settings
from streams.topics import (
    ALERT_OPEN_CHANGELOG,
    BY_NAME,
    CAMPAIGN_ALERTS,
    INCIDENTS,
    SENDER_ALERTS,
    VOLUME_SIGNALS,
)

APP: Final = "alert"
COMMIT_S: Final = 1.0
"""Signals published again after a crash: at most those of this long."""
MAX_UNCONFIRMED: Final = 256
"""Signals on their way at a time: one by one would cost a round trip each."""
STOP_S: Final = 8.0
"""A worker that was told to stop and has not by then leaves at once: nothing is lost by that."""

log = logging.getLogger("spamtide.alert")  # not the module's: Faust keeps that one silent where nobody set up logging


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
        self.sent: asyncio.Queue[Sent] = asyncio.Queue(MAX_UNCONFIRMED)
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
    publisher = Publisher(app, settings, app.metrics)

    async def alerts(stream: faust.StreamT[bytes]) -> None:
        async for event in cast("faust.Stream[bytes]", stream).noack().events():
            async with _faults_end(app):
                await app.sent.put(await publisher.send(event))
                event.ack()

    async def confirm() -> None:
        while True:
            async with _faults_end(app):
                await publisher.confirm(await app.sent.get())
                app.sent.task_done()

    app.agent(publisher.topic(VOLUME_SIGNALS), name="alerts", concurrency=1)(alerts)
    app.task(confirm)
    _add_pages(app, publisher.open)
    return app


@contextlib.asynccontextmanager
async def _faults_end(app: AlertApp) -> AsyncIterator[None]:
    """Whatever goes wrong inside ends the worker, and what would have come after it never happens."""
    try:
        yield
        return
    except SystemFault as fault:
        app.fail(fault)
    except KafkaError as error:
        app.fail(Unavailable(f"the broker did not take an alert: {error}"))
    except Exception as error:
        log.exception("ALERT stops on an unexpected error")
        app.fail(
            SystemFault(f"an error of ALERT's own ({type(error).__name__}), see the log; its signal is not committed")
        )
    await app.wait_until_stopped()


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
    for noisy in ("faust", "mode", "aiokafka", "streams.alert_kafka", "streams.alert_publish", __name__):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _check_topics(settings)
    if settings.alert_port == 0:  # Faust must be told a port
        settings = msgspec.structs.replace(settings, alert_port=free_port(settings.metrics_address))
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
        await asyncio.wait_for(app.sent.join(), COMMIT_S)  # what is on its way may still be committed
    await _stop(app)
    if app.fault is not None:
        raise app.fault
    if isinstance(reason, OSError):
        where = f"{settings.metrics_address}:{settings.alert_port}"
        raise Unavailable(
            f"cannot serve on {where} ({reason.strerror}): set SPAMTIDE_ALERT_PORT to a free port"
        ) from None
    if reason is not None:
        raise SystemFault(
            f"ALERT's Kafka worker crashed ({type(reason).__name__}: {reason}); a restart goes on where it stopped"
        )


async def _stop(app: AlertApp) -> None:
    """Stops what Faust started. Where that hangs, the process ends here: Faust's threads would hold it for as long as they like."""
    stopping = asyncio.ensure_future(app.stop())
    done, _ = await asyncio.wait((stopping,), timeout=STOP_S)
    if not done:
        log.error("ALERT did not stop within %g s and leaves at once%s", STOP_S, f": {app.fault}" if app.fault else "")
        logging.shutdown()
        os._exit((app.fault or SystemFault()).exit_status)


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
