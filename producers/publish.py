"""Publish what a source reads: its events and its position in one transaction.

    source ── Batch ──▶ begin ─ events round robin on mail-events ─ position on source-positions ─▶ commit

A killed file source therefore repeats nothing and loses nothing: its next run, with the same transactional id, first ends what was
open and then goes on from the last committed position. Crash-only: whatever goes wrong in a transaction ends the run with a sentence;
running the same command again is the one way to recover.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from producers.errors import Fenced, SystemFault, Unavailable, UnknownOutcome, UsageError
from producers.event import MAX_RECORD_BYTES
from producers.positions import POSITION_VERSION, SourcePosition, committed_position

MAIL_EVENTS: Final = "mail-events"
SOURCE_POSITIONS: Final = "source-positions"
STEP_S: Final = 1.0
"""How long one call may block, so that Ctrl-C is heard."""
PATIENCE_S: Final = 30.0
"""How long the cluster may take for one step before the run ends. Three times the transaction time-out, so that a dead
predecessor's open transaction is over before we give up."""
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})


class Batch(msgspec.Struct, frozen=True):
    """What one transaction publishes."""

    records: list[bytes]
    """Each one encoded `MailEvent`."""
    position: bytes
    """JSON, opaque to the publisher: where to go on after this batch. Empty: the source cannot go back, so nothing is kept."""
    lines: int
    """Input lines consumed by this batch."""
    refused: dict[str, int]
    """Reason -> lines or fields that could not be used."""


class Source(Protocol):
    """Something that reads events and can tell where it stopped."""

    @property
    def key(self) -> str:
        """Key on `source-positions`. Names the input and the host: two runs with one key fence each other."""

    def read(self, position: bytes | None) -> Iterator[Batch]:
        """Batches from a position that it made itself, or from the start."""


class Connections(Protocol):
    """How `producers`, which knows no settings, gets its clients."""

    def make_producer(self, transactional_id: str) -> Producer: ...

    def make_reader(self) -> Consumer: ...

    def topic(self, name: str) -> str: ...


class Totals(msgspec.Struct):
    """What was committed in this run."""

    lines: int = 0
    events: int = 0
    batches: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    resumed: bool = False
    """Whether an earlier run's position was found."""
    can_resume: bool = True
    """Whether a later run can go on from here."""


class Publisher:
    """One source's way into Kafka. Owns its producer; `totals` moves only after a commit."""

    def __init__(self, connections: Connections, source: Source) -> None:
        self._events_topic = connections.topic(MAIL_EVENTS)
        self._positions_topic = connections.topic(SOURCE_POSITIONS)
        self._connections = connections
        self._source = source
        self._producer = connections.make_producer(transactional_id(source.key))
        self._partitions = 0
        self._before = SourcePosition(POSITION_VERSION, 0, 0, msgspec.Raw(b""))
        self.totals = Totals()
        self.in_transaction = False
        """An interruption now must wait for the end of the transaction; at other times it may come at once."""

    def run(self, stop: threading.Event, progress: Callable[[Totals], None] | None = None) -> Totals:
        """Publish until the source ends or `stop` is set. `progress` is told after each commit.

        Raises `Unavailable`, `Fenced`, `UnknownOutcome`, and what the source raises.
        """
        batches = self._source.read(self.start())
        while not stop.is_set():
            batch = next(batches, None)
            if batch is None:
                break
            self.publish(batch)
            if progress is not None:
                progress(self.totals)
        return self.totals

    def start(self) -> bytes | None:
        """End what a predecessor left open, then find its last committed position; None for a first run."""
        self._partitions = self._count_partitions()
        self._patiently(self._producer.init_transactions, "taking over")
        found = committed_position(self._connections.make_reader(), self._positions_topic, self._source.key, PATIENCE_S)
        if found is None:
            return None
        self._before = found
        self.totals.resumed = True
        return bytes(found.position)

    def publish(self, batch: Batch) -> None:
        """One transaction. An event too large for a record is refused and counted; everything else is committed or nothing is."""
        records, refused = _fitting(batch)
        self.in_transaction = True
        try:
            self._producer.begin_transaction()
            self._produce(records)
            after = self._position_after(batch, len(records))
            if batch.position:
                self._send(self._positions_topic, msgspec.json.encode(after), 0, self._source.key.encode())
            self._patiently(self._producer.commit_transaction, "the commit")
            self._before = after
            self._add_up(batch, len(records), refused)
        except KafkaException as error:
            raise self._fault(error) from error
        finally:
            self.in_transaction = False

    def _add_up(self, batch: Batch, events: int, refused: dict[str, int]) -> None:
        self.totals.lines += batch.lines
        self.totals.events += events
        self.totals.batches += 1
        self.totals.can_resume = bool(batch.position)
        self.totals.refused.update(refused)

    def _position_after(self, batch: Batch, events: int) -> SourcePosition:
        position = msgspec.Raw(batch.position or b"null")
        return SourcePosition(
            POSITION_VERSION, self._before.events + events, self._before.lines + batch.lines, position
        )

    def _produce(self, records: list[bytes]) -> None:
        produce, poll, topic, partitions = (
            self._producer.produce,
            self._producer.poll,
            self._events_topic,
            self._partitions,
        )
        for number, record in enumerate(records, self._before.events):
            try:
                produce(topic, record, None, number % partitions)
            except BufferError:
                self._send(topic, record, number % partitions, None)
            if not number & 1023:
                poll(0)

    def _send(self, topic: str, value: bytes, partition: int, key: bytes | None) -> None:
        """Produce, waiting for room in the client's queue."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
            except BufferError:
                if time.monotonic() > give_up:
                    raise Unavailable(f"the broker takes no records of {self._source.key}; {_GO_ON}") from None
                self._producer.poll(0.1)
            else:
                return

    def _patiently(self, step: Callable[[float], None], what: str) -> None:
        """A step of the transaction protocol, repeated while the client calls that safe. Raises for every other end."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                step(STEP_S)
            except KafkaException as error:
                if not _error(error).retriable() or time.monotonic() > give_up:
                    raise self._fault(error, what) from error
            else:
                return

    def _fault(self, exception: KafkaException, what: str = "a record") -> SystemFault:
        """The sentence for an error of the transaction, which is over: aborted here, or by the next run."""
        error, key = _error(exception), self._source.key
        if error.code() in _FENCED:
            return Fenced(f"another `spamtide produce` reads {key} under the same name; stop one of the two")
        if error.txn_requires_abort():
            self._abort()
            return Unavailable(
                f"{what} of {key} failed ({error.str()}); nothing of the last batch was published; {_GO_ON}"
            )
        if self.in_transaction and error.retriable():
            return UnknownOutcome(f"{what} of {key} did not end in {PATIENCE_S:.0f} s; {_GO_ON}")
        return Unavailable(f"{what} of {key} failed: {error.str()}; {_GO_ON}")

    def _abort(self) -> None:
        """Best effort: what is not aborted here, the next run's `init_transactions` ends."""
        try:
            self._producer.abort_transaction(PATIENCE_S)
        except KafkaException:
            return

    def _count_partitions(self) -> int:
        try:
            topics = self._producer.list_topics(timeout=PATIENCE_S / 3).topics
        except KafkaException as error:
            raise Unavailable(
                f"no broker answers ({_error(error).str()}); is it running? `make kafka` starts one here"
            ) from error
        missing = [name for name in (self._events_topic, self._positions_topic) if name not in topics]
        if missing:
            raise UsageError(f"not on this cluster: {', '.join(missing)}; make the topics with `spamtide topics apply`")
        return len(topics[self._events_topic].partitions)


_GO_ON: Final = "run the same command again, it goes on where the last commit ended"


def transactional_id(key: str) -> str:
    """Short, and the same for every run of a source."""
    return "source-" + hashlib.blake2b(key.encode(), digest_size=10).hexdigest()


def _error(exception: KafkaException) -> KafkaError:
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


def _fitting(batch: Batch) -> tuple[list[bytes], dict[str, int]]:
    """The records that fit, and the refusals with those that do not."""
    fitting = [record for record in batch.records if len(record) <= MAX_RECORD_BYTES]
    oversize = len(batch.records) - len(fitting)
    if not oversize:
        return batch.records, batch.refused
    return fitting, batch.refused | {"oversize": batch.refused.get("oversize", 0) + oversize}
