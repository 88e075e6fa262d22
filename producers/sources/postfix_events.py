"""Open queue ids of a Postfix log, and the events they become. Pure. The rules: `producers.sources.postfix_join`."""

import hashlib
from collections import Counter
from typing import Final, Literal

import msgspec

from producers.event import EVENT_VERSION, MAX_STRING_BYTES, Disposition, MailEvent, Reason, Source
from producers.sources import postfix_grammar as grammar

STATE_VERSION: Final = 1
MAX_TWINS: Final = 20_000
TWIN_CHARS: Final = 11
"""Of a digest, to tell equal lines by: two unlike ones that share it only get a number they do not need."""

Origin = Literal["remote", "local", "pickup", "internal", "unknown"]
Stage = Literal["arriving", "waiting", "counted"]


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """What became of a recipient, while it is not yet known of which message."""

    id: str
    time_ms: int
    disposition: Disposition
    reason: Reason | None


class Mail(msgspec.Struct, array_like=True):
    """One queue id that is open. A copy takes over the description of its first hop."""

    queue_id: str
    """Of the first hop."""
    origin: Origin
    stage: Stage = "arriving"
    time_ms: int = 0
    ip: str | None = None
    account: str | None = None
    sender: str | None = None
    size_bytes: int = 0
    copies: int = 0
    """0: no `queue active` line yet."""
    recipients: int = 0
    """Delivery lines seen, which stand for `copies` where no other line tells."""
    is_outbound: bool | None = None
    is_removed: bool = False
    held: list[Outcome] = []


class State(msgspec.Struct):
    """Everything the joiner remembers. Keys are `host queue-id`; times are ms, -1 for none."""

    v: int = STATE_VERSION
    now_ms: int = 0
    """The newest time seen."""
    start_ms: int = -1
    last_ms: int = -1
    year: int = 0
    open: dict[str, Mail] = {}
    waiting: dict[str, int] = {}
    """Key -> when it must be settled, in that order."""
    twins: dict[str, int] = {}
    """Events of one moment that came from equal lines: digest -> how many."""
    twins_ms: int = -1


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line that a daemon wrote about a queue id, or about none: then `queue_id` and `key` are empty."""

    time_ms: int
    host: str
    daemon: str
    queue_id: str
    key: str
    said: str
    text: str


class EventWriter:
    """Makes `MailEvent`s of what the joiner found. Events are appended to `events`; `refused` counts fields that are too long."""

    def __init__(self, state: State, host: str | None, refused: Counter[str]) -> None:
        """`host` replaces the log's own word for who wrote it."""
        self.state = state
        self.events: list[MailEvent] = []
        self._host = host
        self._refused = refused

    def take(self) -> list[MailEvent]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def emit(
        self,
        host: str,
        name: str,
        time_ms: int,
        disposition: Disposition,
        mail: Mail,
        *,
        reason: Reason | None = None,
        copies: int = 1,
        size_bytes: int = 0,
        helo: str | None = None,
    ) -> None:
        """One event about a message; `host` is the log's word for who wrote it."""
        is_ours = mail.origin in ("local", "pickup", "internal")
        outbound = is_ours if mail.is_outbound is None else mail.is_outbound
        self.events.append(
            MailEvent(
                v=EVENT_VERSION,
                id=name,
                time_ms=time_ms,
                disposition=disposition,
                source=Source("postfix", self._host or host),
                direction="outbound" if outbound else "inbound",
                reason=reason,
                copies=copies,
                sender=mail.sender,
                account=mail.account,
                ip=mail.ip,
                helo=helo,
                size_bytes=size_bytes,
            )
        )

    def unique(self, line: Line) -> str:
        """An id from the line itself, the same in every replay. Equal lines of one moment are told apart by their order."""
        state = self.state
        if state.twins_ms != line.time_ms or len(state.twins) > MAX_TWINS:
            state.twins_ms = line.time_ms
            state.twins.clear()
        digest = digest_of(line.text)
        number = state.twins[digest[:TWIN_CHARS]] = state.twins.get(digest[:TWIN_CHARS], -1) + 1
        return f"{digest}-{number}" if number else digest

    def bounded(self, text: str | None) -> str | None:
        """An address or name within the contract's limit; a longer one is refused and the message kept."""
        if text is None:
            return None
        if "\0" in text:
            self._refused["nul"] += 1
            return None
        if len(text) > MAX_STRING_BYTES or (not text.isascii() and len(text.encode()) > MAX_STRING_BYTES):
            self._refused["too_long"] += 1
            return None
        return text


def address_or_none(text: str | None) -> str | None:
    """An IP address; None for `unknown` and whatever else is none."""
    return text if text is not None and grammar.is_address(text) else None


def digest_of(text: str) -> str:
    """An event id: 120 bits of BLAKE2b, so that chance never makes two alike."""
    return "pf-" + hashlib.blake2b(text.encode(), digest_size=15).hexdigest()
