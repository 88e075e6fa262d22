"""Faust's Kafka driver, made to read committed records and to commit no further than what was handled.

Faust asks for `read_uncommitted` unless it runs exactly-once, and its book of acknowledged offsets was made for topics without
transactions: markers and aborted records leave gaps that can hold a partition's commit back for ever (a gap of two or more after
offset 0), and an event dropped or failed on its way is acknowledged like one that was handled. Here the committed offset of a partition
is the one after the last signal whose alerts the broker has confirmed: signals of a partition are handled in order.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import aiokafka
from aiokafka.errors import KafkaError
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.transports import ConsumerCallback
from mode import Service

from producers.errors import AuditFailure, Fenced, SystemFault, Unavailable
from streams.clients import TIMEOUT_MS, aiokafka_security
from streams.settings import Settings

REQUEST_TIMEOUT_MS: Final = 3 * TIMEOUT_MS
_FETCH_WAIT_MS: Final = 500
_IDLE_S: Final = 0.1
_CHECK_S: Final = 1.0


def reach(settings: Settings) -> dict[str, Any]:
    """What every aiokafka client needs to reach the cluster."""
    return {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": f"spamtide-alert-{settings.slot}",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        **aiokafka_security(settings),
    }


class ReadCommittedThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches: signals and the table's changelog alike, committed records only."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        self._assignor = self.app.assignor
        return aiokafka.AIOKafkaConsumer(  # type: ignore[no-untyped-call]
            **reach(settings_of(self.app)),
            group_id=self.app.conf.id,
            group_instance_id=f"{self.app.conf.id}-{settings_of(self.app).slot}",
            partition_assignment_strategy=[self._assignor],
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=TIMEOUT_MS,
            heartbeat_interval_ms=TIMEOUT_MS // 10,
            max_poll_interval_ms=30 * TIMEOUT_MS,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_poll_records=self.app.conf.broker_max_poll_records,
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP] | None,
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> RecordMap:
        """Fetches of the partitions active now; of signals, only once a rebalance has ended.

        Faust 0.15 lets the stream start while it still seeks to the committed offsets, and then empties the stream's queue: what
        was fetched in between is thrown away. It also changes its set of active partitions while a fetch waits, and aiokafka takes an empty
        set for all.
        """
        wanted = set(active_partitions or ())
        if self.app.rebalancing:
            wanted = {tp for tp in wanted if tp.topic in self.app.tables.changelog_topics}
        if not wanted:
            await asyncio.sleep(_IDLE_S)
            return {}
        return await super()._fetch_records(consumer, wanted, timeout, max_records)

    def check_membership(self) -> None:
        """Whether this worker is still the member of the group that it was. Raises `Fenced`, `KafkaError`.

        Faust fetches past the call in which aiokafka reports that its group coordination has died, and would wait for ever. A
        static member is given its id once: another id means that the group took this one for gone, or gave its place away.
        """
        if self._consumer is None:
            return
        coordinator: Any = self._consumer._coordinator
        coordinator.check_errors()
        known, self._member = self._member, coordinator.member_id or self._member
        if known and known != coordinator.member_id:
            raise Fenced(
                f"another ALERT runs with slot {settings_of(self.app).slot}, or this one was silent for {TIMEOUT_MS // 1000} s: "
                "give each its own SPAMTIDE_SLOT; a restart goes on where it stopped"
            )

    _member = ""


class HandledConsumer(driver.Consumer):
    """Commits what `handled` was told, in the order it was delivered, nothing else."""

    _thread: ReadCommittedThread

    def __init__(self, transport: driver.Transport, callback: ConsumerCallback, **options: Any) -> None:
        self._next: dict[TP, int] = {}
        self._unhandled: dict[TP, deque[Message]] = {}

        async def deliver(message: Message) -> None:
            if self.app.topics.acks_enabled_for(message.topic):
                self._unhandled.setdefault(message.tp, deque()).append(message)
            await callback(message)

        super().__init__(transport, deliver, **options)

    def _new_consumer_thread(self) -> ReadCommittedThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    def handled(self, message: Message) -> None:
        """Everything of this partition up to and with this message may be committed. Raises `AuditFailure`.

        A standing audit: each message that was delivered is handled, in order, or the worker must read it again. One that was delivered
        before the last seek or rebalance is no longer known, and counts for nothing.
        """
        unhandled = self._unhandled.get(message.tp)
        if not unhandled or not any(message is one for one in unhandled):
            return
        if message is not unhandled[0]:
            raise AuditFailure(
                f"{message.topic} {message.partition}: offset {unhandled[0].offset} was read but never handled, though "
                f"{message.offset} was; it is not committed, and a restart reads it again"
            )
        unhandled.popleft()
        self._next[message.tp] = message.offset + 1

    async def perform_seek(self) -> None:
        """Everything that is not committed is delivered again."""
        self._unhandled.clear()
        await super().perform_seek()

    @Service.task
    async def _watch(self) -> None:
        while True:
            await self.sleep(_CHECK_S)
            if self.should_stop or self.app.should_stop:
                return  # a client that is closing forgets its member id
            try:
                self._thread.check_membership()
            except (SystemFault, KafkaError) as error:
                fail = cast(Any, self.app).fail
                fail(
                    error
                    if isinstance(error, SystemFault)
                    else Unavailable(f"the group {self.app.conf.id} is lost: {error}")
                )

    def ack(self, message: Message) -> bool:
        """Faust's own word for a message that left its stream, handled or not: it is no longer waited for."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commit, then forget: another worker goes on from there."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._next.pop(tp, None)
            self._unhandled.pop(tp, None)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter(tuple(self._next))

    def _new_offset(self, tp: TP) -> int | None:
        return self._next.get(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets without a record need no book: see the module."""


class IdempotentProducer(driver.Producer):
    """Retries neither repeat nor reorder a record."""

    def _new_producer(self, transactional_id: str | None = None) -> aiokafka.AIOKafkaProducer:
        return aiokafka.AIOKafkaProducer(  # type: ignore[no-untyped-call]
            **reach(settings_of(self.app)), acks="all", enable_idempotence=True, compression_type="zstd"
        )


class Transport(driver.Transport):
    """The three above as one."""

    Consumer = HandledConsumer
    Producer = IdempotentProducer


def broker_urls(settings: Settings) -> str:
    """The bootstrap servers in Faust's words. Only shown: the clients are made by `reach`."""
    servers: Iterable[str] = settings.bootstrap_servers.split(",")
    return ";".join(f"kafka://{server.strip()}" for server in servers)


def settings_of(app: Any) -> Settings:
    """Settings of the application a Faust object belongs to."""
    settings: Settings = app.settings
    return settings
