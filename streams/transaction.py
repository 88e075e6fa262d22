"""Exactly once, in one place: read, compute, and publish outputs and offsets in one Kafka transaction.

    consume ──▶ stage.take ──▶ (due?) ──▶ begin ─ outputs ─ offsets of all owned partitions ─ commit ──▶ stage.committed

Crash-only. A definite abort drops the memory of every owned partition and restores it from what is committed; an outcome that was not
learned ends the process, whose restart with the same transactional id fences what was left and finishes it. A producer is never used
again after a commit that timed out (librdkafka #5423).
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from producers.errors import AuditFailure, Fenced, SystemFault, Unavailable, UnknownOutcome
from streams.clients import make_group_consumer, make_transactional_producer
from streams.settings import Settings

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1
_FENCED: Final = (
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.FENCED_INSTANCE_ID,
)


class Outgoing(NamedTuple):
    """A record to publish. The partition is always explicit."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]] | None = None


class Committed(NamedTuple):
    """Where a group stands on one partition: the next offset and the note committed with it.

    `fresh` where it never stood there: then the offset is that of the oldest record there is.
    """

    offset: int
    note: str = ""
    fresh: bool = False


class Outcome(NamedTuple):
    """How a commit went: when, how long it took, and how many records each partition then held beyond what was counted."""

    now_ms: int
    took_s: float
    lag: Mapping[int, int]


class Stage(Protocol):
    """What a counting stage decides. The worker does all the talking to Kafka.

    `restore` is called with partitions paused, before any of their records are taken. `drop` is called after a commit when partitions
    go to another worker; and for all of them when they are lost or a transaction was aborted: then all memory must go.
    """

    name: str
    topic: str
    batch: int

    def restore(self, committed: Mapping[int, Committed]) -> None:
        """Loads the state that belongs to these offsets."""

    def drop(self, partitions: Iterable[int]) -> None:
        """Forgets partitions."""

    def take(self, messages: Sequence[Message], now_ms: int) -> None:
        """Adds records to the sums."""

    def at_end(self, partition: int, end: int) -> None:
        """This partition was read to its stable end: the offset after all that was there, markers of transactions included."""

    def reaches(self, ends: Mapping[int, int]) -> None:
        """How far each owned partition is known to reach: beyond what was handed over, there may be records on their way."""

    def held_back(self) -> Mapping[int, bool]:
        """Whether each owned partition should be paused now."""

    def due(self, now_ms: int) -> bool:
        """Whether to commit now."""

    def outputs(self) -> Iterable[Outgoing]:
        """What goes into the transaction. Called once a commit."""

    def note(self, partition: int) -> str:
        """What to commit beside the partition's offset."""

    def committed(self, outcome: Outcome) -> None:
        """The transaction is in the log: metrics may move."""

    def aborted(self) -> None:
        """The transaction is not in the log; `drop` and `restore` follow."""


class Worker:
    """Runs one stage until told to stop. Raises a `SystemFault` for what a restart must mend."""

    def __init__(self, settings: Settings, stage: Stage, **consumer_settings: Any) -> None:
        self._stage = stage
        self._identity = f"{stage.name}-{settings.slot}"
        self._topic = settings.topic(stage.topic)
        self._next: dict[int, int] = {}
        self._unrestored: dict[int, Committed] = {}
        self._paused: set[int] = set()
        self._aborted = False
        self._generation: Any = None
        self._producer: Producer = make_transactional_producer(settings, self._identity)
        self._consumer: Consumer = make_group_consumer(
            settings, stage.name, group_instance_id=self._identity, enable_partition_eof=True, **consumer_settings
        )

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set; then commits what was read and leaves the group."""
        self._open()
        try:
            while not stop.is_set():
                self._turn()
            self._commit()
        except KafkaException as error:
            self._next.clear()  # closing revokes, and nothing of a failed worker may be committed
            raise self._fault(error) from error
        except BaseException:
            self._next.clear()
            raise
        finally:
            self._consumer.close()
        log.info("%s stopped: everything read is committed", self._identity)

    def _open(self) -> None:
        """Fences an older self, finishes what it left open, and joins the group."""
        try:
            self._producer.init_transactions(3 * _TIMEOUT_S)
        except KafkaException as error:
            raise Unavailable(
                f"{self._identity}: {error.args[0].str()}; is the broker running? `make kafka` starts one"
            ) from error
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _turn(self) -> None:
        messages = self._consumer.consume(self._stage.batch, _POLL_S)
        # The generation of the batch: a rebalance is only served inside `consume`, so it cannot have moved since.
        self._generation = self._consumer.consumer_group_metadata()
        now_ms = _now_ms()
        self._take(messages, now_ms)
        self._restore()
        self._hold_back()
        if self._stage.due(now_ms):
            self._commit()
        if self._aborted:
            self._reassign()

    def _take(self, messages: Sequence[Message], now_ms: int) -> None:
        """Hands on the records among what `consume` gave, then the ends that no record followed; handles faults."""
        records: list[Message] = []
        ended: dict[int, int] = {}
        for message in messages:
            partition, error = message.partition(), message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._on_error(message, error)
            elif partition in self._next and (offset := message.offset()) is not None:
                if error is not None:
                    ended[partition] = offset
                    continue
                records.append(message)
                ended.pop(partition, None)
                self._next[partition] = offset + 1
        self._stage.take(records, now_ms)
        for partition, end in ended.items():
            self._stage.at_end(partition, end)
        self._stage.reaches(self._ends())

    def _on_error(self, message: Message, error: KafkaError) -> None:
        code = error.code()
        partition = message.partition()
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise AuditFailure(
                f"{self._identity}: {self._topic} partition {partition} no longer holds the offset the group stands at: "
                "records were deleted before they were counted. See README, 'When the audit fails'"
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            raise Unavailable(f"{self._identity}: topic {self._topic} is missing; run `spamtide topics apply`")
        if error.code() == KafkaError._FATAL or error.fatal():  # a consumer has one fatal fault: its place was taken
            raise self._fenced()
        log.warning("%s: %s", self._identity, error.str())

    def _hold_back(self) -> None:
        wanted = {partition for partition, hold in self._stage.held_back().items() if hold}
        changes = (
            (self._consumer.pause, wanted - self._paused),
            (self._consumer.resume, self._paused - wanted & self._next.keys()),
        )
        for change, partitions in changes:
            if partitions:
                change([TopicPartition(self._topic, partition) for partition in partitions])
        self._paused = wanted

    # -- the group ------------------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        starts = []
        for found in consumer.committed(partitions, _TIMEOUT_S):  # stable: waits for transactions in flight
            fresh = found.offset < 0
            self._unrestored[found.partition] = Committed(found.offset, found.metadata or "", fresh)
            start = OFFSET_BEGINNING if fresh else found.offset
            starts.append(TopicPartition(self._topic, found.partition, start))
        consumer.incremental_assign(starts)
        consumer.pause(starts)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit()
        self._release(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("%s: lost %d partitions; what was not committed is dropped", self._identity, len(partitions))
        self._release(consumer, partitions)
        self._forget()  # sums are not kept apart by input partition: what remains starts anew from its offsets too

    def _release(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        released = [place.partition for place in partitions]
        for partition in released:
            self._next.pop(partition, None)
            self._unrestored.pop(partition, None)
            self._paused.discard(partition)
        self._stage.drop(released)
        consumer.incremental_unassign(partitions)

    def _restore(self) -> None:
        """Loads what was assigned, then lets it flow."""
        if not self._unrestored:
            return
        committed = {partition: self._located(partition, found) for partition, found in self._unrestored.items()}
        self._unrestored = {}
        self._stage.restore(committed)
        self._next |= {partition: found.offset for partition, found in committed.items()}
        self._consumer.resume([TopicPartition(self._topic, partition) for partition in committed])

    def _located(self, partition: int, committed: Committed) -> Committed:
        """With the number of the oldest record where nothing was ever committed. Waits for a topic that was made just now."""
        if not committed.fresh:
            return committed
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                low, _ = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _TIMEOUT_S)
            except KafkaException as error:
                if time.monotonic() > deadline_s or error.args[0].fatal():
                    raise
                time.sleep(_POLL_S)
            else:
                return Committed(low, fresh=True)

    def _reassign(self) -> None:
        """Takes all owned partitions anew from their committed offsets."""
        self._aborted = False
        owned = self._consumer.assignment()
        self._consumer.incremental_unassign(owned)
        self._on_assign(self._consumer, owned)

    # -- the transaction ------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """One transaction over everything taken since the last. Nothing owned, nothing to fence: nothing is done."""
        if not self._next:
            return
        began_s = time.monotonic()
        offsets = []
        for partition, offset in self._next.items():
            offsets.append(TopicPartition(self._topic, partition, offset, self._stage.note(partition)))
        self._producer.begin_transaction()
        try:
            for record in self._stage.outputs():
                self._produce(record)
            self._producer.send_offsets_to_transaction(offsets, self._generation, _TIMEOUT_S)
            self._producer.commit_transaction(_TIMEOUT_S)
        except KafkaException as error:
            self._after_failure(error)
            return
        self._stage.committed(Outcome(_now_ms(), time.monotonic() - began_s, self._lag()))

    def _ends(self) -> dict[int, int]:
        """From what the last fetch said of each partition; no request is made."""
        places = {partition: TopicPartition(self._topic, partition) for partition in self._next}
        return {
            partition: self._consumer.get_watermark_offsets(place, cached=True)[1]
            for partition, place in places.items()
        }

    def _lag(self) -> dict[int, int]:
        return {partition: max(end - self._next[partition], 0) for partition, end in self._ends().items()}

    def _produce(self, record: Outgoing) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=record.headers,
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _after_failure(self, error: KafkaException) -> None:
        """A definite abort: forget, and restore from what is committed. Anything else ends the process."""
        reason: KafkaError = error.args[0]
        if not reason.txn_requires_abort() or reason.fatal() or reason.code() in _FENCED:
            raise self._fault(error)
        log.warning("%s: transaction aborted (%s); restoring from what is committed", self._identity, reason.str())
        self._producer.abort_transaction(_TIMEOUT_S)
        self._stage.aborted()
        self._forget()

    def _forget(self) -> None:
        self._stage.drop(list(self._next))
        self._next.clear()
        self._paused.clear()
        self._aborted = True

    def _fenced(self) -> Fenced:
        return Fenced(
            f"{self._identity}: another worker runs with the same slot and has taken over; "
            "give each worker of a stage its own SPAMTIDE_SLOT"
        )

    def _fault(self, error: KafkaException) -> SystemFault:
        reason: KafkaError = error.args[0]
        what = f"{self._identity}: {reason.str()}"
        if reason.code() in _FENCED:
            return self._fenced()
        if reason.code() in (KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError.REQUEST_TIMED_OUT):
            return UnknownOutcome(
                f"{what}; the outcome of the last transaction is not known: restart this worker to finish it"
            )
        if reason.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE):
            return Unavailable(f"{what}; is the broker running? `make kafka` starts one")
        return SystemFault(what)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
