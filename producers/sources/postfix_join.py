"""Lines of a Postfix log to `MailEvent`s: one message one event, whatever its road through the queue. Pure.

The rule, whole
---------------
*Arrival.* A queue id begins with smtpd's `client=`, pickup's `uid=`, or, for mail that Postfix makes itself (bounces, forwards by
local(8)), cleanup's `message-id=`. The id may be used again after `removed`, or begin anew without it: that is another message.

*One `accepted` event a message*, dated when qmgr first says `queue active`: only then is it whole (a client may hang up before).
copies = nrcpt, the envelope recipients. It is published at once when the client is remote or logged in. Any other message (local
client, pickup, Postfix itself) may be a content filter's copy of one that is counted already, and its direction is not known yet, so it
waits `HOLD_MS` of log time: less than the minute that the pipeline allows for disorder, so it is never late.

*A copy* is what a delivery calls `queued as ID` or `forwarded as ID`, when the relay is local, the id is in this log and is waiting; or
what names its `orig_queue_id` (XFORWARD). It is one message with the first hop and keeps the first hop's client, account, sender and
copies; a filter that splits one message in many does not multiply it. The second hop may be logged before the first one's status. What a
remote server calls `queued as` means nothing. A filter that returns mail through sendmail(1) names no id: it counts as a new message.

*Before the log.* A message counts in the log that first says `queue active`. Where the arrival line is missing, its first `delay=` must be
shorter than `LOST_MS` (before any retry) for that, and where `queue active` is missing too, the arrival must lie within this log (the
lines were lost). Otherwise the log before this one has counted it: rotated logs add up. Only what is inside a content filter at the
moment of rotation may count in both.

*What became of it.* `deferred` for each try that is put off, `bounced` for each recipient refused or expired: published as they come,
copies 1, with the first hop's client and account. Address probes (`deliverable`, `undeliverable`) are no messages.

*Refused.* `attempt` for each command that smtpd or postscreen rejects before the message (one a recipient); `rejected` for a milter's,
proxy's or header check's rejection or silent discard of the message (4xx: `deferred`), copies 1, as no line says how many recipients.

*Direction.* outbound: a login, or a local origin that smtp(8) takes anywhere but to loopback, or that nobody has taken anywhere yet.

*Nothing is proved* by a Postfix log about a domain: `sender_domain` stays null, `account` is the login.

Lines of other programs, and of Postfix about connections, TLS and statistics, carry nothing. One that begins like a line above and
goes on otherwise is refused as `unparsed`.
"""

import re
from collections import Counter
from collections.abc import Callable
from datetime import tzinfo
from typing import Final

import msgspec

from producers.errors import InvalidInput
from producers.event import Disposition, MailEvent, Reason
from producers.sources import postfix_grammar as grammar
from producers.sources.postfix_events import (
    STATE_VERSION,
    EventWriter,
    Line,
    Mail,
    Outcome,
    State,
    address_or_none,
    digest_of,
)

HOLD_MS: Final = 45_000
LOST_MS: Final = 300_000
MAX_LINE_BYTES: Final = 65_536
MAX_STATE_BYTES: Final = 800_000
"""Of a snapshot, which must fit into one record. Above it the messages that were counted longest ago are forgotten."""


class PostfixJoiner:
    """Fed with lines in order; gives the events that became certain. `refused` counts what could not be used, by reason."""

    def __init__(self, zone: tzinfo, year: int, latest_ms: int, host: str | None = None) -> None:
        """`zone` and `year` belong to the traditional time stamps; a line dated at or after `latest_ms` is refused.

        `host` replaces the log's own word for who wrote it.
        """
        self._stamps = grammar.StampReader(zone, year)
        self._latest_ms = latest_ms
        self._state = State()
        self.refused: Counter[str] = Counter()
        self._writer = EventWriter(self._state, host, self.refused)

    def feed(self, line: bytes | None) -> None:
        """One line without its newline; None stands for one that was too long to hold. Never raises for what is in it."""
        if line is None or len(line) > MAX_LINE_BYTES:
            self.refused["too_long"] += 1
            return
        try:
            self._feed(line.decode("utf-8", "replace"))
        except InvalidInput as error:
            self.refused[error.reason] += 1

    def finish(self) -> None:
        """The log ends: settle what waits."""
        self._settle_until(None)

    def take(self) -> list[MailEvent]:
        """The events since the last call."""
        return self._writer.take()

    def snapshot(self) -> bytes:
        """Half-joined messages and all else that a new joiner needs to go on, as JSON of at most `MAX_STATE_BYTES`."""
        self._state.last_ms = -1 if self._stamps.last_ms is None else self._stamps.last_ms
        while len(state := msgspec.json.encode(self._state)) > MAX_STATE_BYTES:
            self._forget()
        return state

    def restore(self, state: bytes) -> None:
        """Raises `InvalidInput` for what `snapshot` did not make."""
        try:
            self._state = msgspec.json.decode(state, type=State)
        except msgspec.MsgspecError:
            raise InvalidInput("bad_state") from None
        if self._state.v != STATE_VERSION:
            raise InvalidInput("bad_state")
        self._writer.state = self._state
        self._stamps.last_ms = None if self._state.last_ms < 0 else self._state.last_ms

    def _forget(self) -> None:
        """A quarter of the open messages, the oldest first; what waits is settled, so that nothing uncounted is lost."""
        keys = list(self._state.open)
        for key in keys[: len(keys) // 4 + 1]:
            if key in self._state.waiting:
                self._settle(key)
            self._state.open.pop(key, None)

    def _feed(self, line: str) -> None:
        header = grammar.HEADER.fullmatch(line)
        if header is None:
            raise InvalidInput("nul" if "\0" in line else "unparsed")
        stamp, host, program, message = header.groups()
        named = program and grammar.PROGRAM.fullmatch(program)
        if not named:
            if program is None and message.startswith("postfix"):
                raise InvalidInput("unparsed")
            return
        time_ms = self._stamps.read(stamp)
        if time_ms >= self._latest_ms:
            raise InvalidInput("future")
        self._advance(time_ms)
        daemon = named[1]
        handler = _HANDLERS.get(daemon)
        queue_id, colon, said = message.partition(": ")
        if handler is None or not colon:
            return
        if queue_id == "NOQUEUE":
            handler(self, Line(time_ms, host, daemon, "", "", said, line))
        elif grammar.QUEUE_ID.fullmatch(queue_id):
            handler(self, Line(time_ms, host, daemon, queue_id, f"{host} {queue_id}", said, line))

    def _advance(self, time_ms: int) -> None:
        state = self._state
        if state.start_ms < 0:
            state.start_ms = time_ms
        if time_ms > state.now_ms:
            state.now_ms = time_ms
            if state.waiting:
                self._settle_until(time_ms)

    # --- what the daemons say ------------------------------------------------------------------------------------------

    def _on_smtpd(self, line: Line) -> None:
        verb, _, said = line.said.partition(" ")
        if line.said.startswith("client="):
            if line.key:
                self._arrive(line)
        elif verb in ("reject:", "milter-reject:", "proxy-reject:"):
            self._reject(line, said)
        elif verb in ("discard:", "milter-discard:"):
            self._discard(line, said)
        elif verb == "proxy-accept:":
            self._name_client(line, said)

    def _arrive(self, line: Line) -> None:
        matched = grammar.CLIENT.fullmatch(line.said)
        if matched is None:
            raise InvalidInput("unparsed")
        address, more = matched.groups()
        local = grammar.is_local(address)
        mail = Mail(line.queue_id, "local" if local else "remote", time_ms=line.time_ms, ip=address_or_none(address))
        if login := grammar.LOGIN.fullmatch(more):
            mail.account = self._writer.bounded(login[1]) or None
            mail.origin, mail.is_outbound = "remote", True
        elif not local:
            mail.is_outbound = False
        self._begin(line, mail)
        origin = grammar.ORIGIN.fullmatch(more) if local else None
        if origin is None:
            return
        mail.ip = address_or_none(origin[2]) or mail.ip
        first = self._state.open.get(f"{line.host} {origin[1]}")
        if first is not None:
            self._join(first, f"{line.host} {origin[1]}", line.key)

    def _name_client(self, line: Line, said: str) -> None:
        """A proxy before the queue: smtpd tells who brought what the smtpd behind the proxy has queued."""
        refusal = grammar.read_refusal(said)
        queued = grammar.REQUEUED.search(said.partition("; from=<")[0])
        mail = self._state.open.get(f"{line.host} {queued[1]}") if queued else None
        if refusal is not None and mail is not None and mail.origin == "local" and mail.stage != "counted":
            mail.ip, mail.is_outbound = address_or_none(refusal.address), False

    def _on_pickup(self, line: Line) -> None:
        if line.said.startswith("uid=") and line.key:
            self._begin(line, Mail(line.queue_id, "pickup", time_ms=line.time_ms))

    def _on_cleanup(self, line: Line) -> None:
        verb, _, said = line.said.partition(" ")
        if verb.startswith("message-id="):
            known = self._state.open.get(line.key)
            if line.key and (known is None or known.is_removed):
                self._begin(line, Mail(line.queue_id, "internal", time_ms=line.time_ms))
        elif verb == "milter-reject:":
            self._reject(line, said)
        elif verb == "reject:":
            self._refuse_message(line, "rejected", "content")
        elif verb in ("discard:", "milter-discard:"):
            self._discard(line, said)

    def _on_qmgr(self, line: Line) -> None:
        if line.said == "removed":
            self._remove(line)
        elif active := grammar.ACTIVE.fullmatch(line.said):
            self._activate(line, active[1], int(active[2]), int(active[3]))
        elif grammar.EXPIRED.fullmatch(line.said):
            self._conclude(line, self._mail_of(line), "bounced", "other")
        elif line.said.startswith("from=<"):
            raise InvalidInput("unparsed")

    def _on_delivery(self, line: Line) -> None:
        if not line.said.startswith("to=<"):
            return
        matched = grammar.DELIVERY.fullmatch(line.said)
        if matched is None:
            raise InvalidInput("unparsed")
        _, _, relay, delay, status_code, status, response = matched.groups()
        mail = self._mail_of(line)
        mail.recipients += 1
        if status in ("deliverable", "undeliverable"):
            self._state.waiting.pop(line.key, None)
            mail.stage = "counted"
            return
        if mail.origin == "unknown" and mail.stage == "arriving":
            self._date_unknown(line, mail, round(float(delay) * 1000))
        address = grammar.relay_address(relay)
        if status == "sent" and self._follow_copy(line, mail, address, response or ""):
            return
        if mail.is_outbound is None and line.daemon in _TAKERS:
            mail.is_outbound = line.daemon == "smtp" and not _is_loopback(address)
        if status == "deferred":
            self._conclude(line, mail, "deferred", grammar.reason_of_status(status_code))
        elif status in ("bounced", "expired"):
            self._conclude(line, mail, "bounced", grammar.reason_of_status(status_code))

    # --- the life of a queue id ----------------------------------------------------------------------------------------

    def _mail_of(self, line: Line) -> Mail:
        mail = self._state.open.get(line.key)
        if mail is None:
            mail = self._state.open[line.key] = Mail(line.queue_id, "unknown", time_ms=line.time_ms)
        return mail

    def _begin(self, line: Line, mail: Mail) -> None:
        if line.key in self._state.waiting:
            self._settle(line.key)
        self._state.open.pop(line.key, None)
        self._state.open[line.key] = mail

    def _activate(self, line: Line, sender: str, size_bytes: int, recipients: int) -> None:
        mail = self._mail_of(line)
        if mail.copies:
            return
        mail.copies = max(1, recipients)
        if mail.sender is None:
            mail.sender, mail.size_bytes = self._writer.bounded(sender), size_bytes
        if mail.stage != "arriving" or mail.origin == "unknown":
            return
        mail.time_ms = line.time_ms
        if mail.origin == "remote":
            self._count(line.key, mail)
        else:
            self._wait(line.key, mail)

    def _date_unknown(self, line: Line, mail: Mail, delay_ms: int) -> None:
        """No arrival line: was it lost, or is it in the log before this one? Traditional stamps are cut to the second."""
        is_active_here = mail.copies > 0
        arrived_here = line.time_ms - delay_ms >= self._state.start_ms + 1000
        if delay_ms < LOST_MS and (is_active_here or arrived_here):
            self._wait(line.key, mail)
        else:
            mail.stage = "counted"

    def _wait(self, key: str, mail: Mail) -> None:
        mail.stage = "waiting"
        self._state.waiting[key] = self._state.now_ms + HOLD_MS

    def _follow_copy(self, line: Line, mail: Mail, relay: str, response: str) -> bool:
        """Whether this delivery only moved the message to another queue id of this log."""
        if line.daemon not in _REQUEUERS or not (relay == "local" or grammar.is_local(relay)):
            return False
        queued = grammar.REQUEUED.search(response)
        key = f"{line.host} {queued[1]}" if queued else ""
        if not key or key == line.key:
            return False
        if key not in self._state.open:
            if mail.origin != "unknown":
                return False
            # The arrival lines of the first hop are not here; those of the copy may be missing for the same cause.
            self._state.open[key] = Mail(key.partition(" ")[2], "unknown", time_ms=line.time_ms)
        self._join(mail, line.key, key)
        return True

    def _join(self, first: Mail, first_key: str, key: str) -> None:
        """The mail at `key` is a copy of `first`. What is not yet counted goes on under the copy's queue id."""
        copy = self._state.open[key]
        joined_before = copy.queue_id == first.queue_id  # by the line of another recipient
        if joined_before or copy.stage == "counted" or copy.origin == "remote":
            return
        copy.queue_id, copy.sender = first.queue_id, first.sender if first.copies else copy.sender
        if first.origin != "unknown":
            copy.ip = first.ip
        elif copy.ip is not None and grammar.is_local(copy.ip):
            copy.ip = None
        copy.account, copy.origin = first.account, first.origin
        copy.is_outbound = copy.is_outbound if first.is_outbound is None else first.is_outbound
        if first.stage == "counted":
            self._state.waiting.pop(key, None)
            self._count_outcomes(key, copy)
            copy.stage = "counted"
            self._drop_if_removed(key, copy)
            return
        copy.time_ms = min(first.time_ms, copy.time_ms) if first.time_ms else copy.time_ms
        copy.copies, copy.size_bytes = first.copies or copy.copies, first.size_bytes or copy.size_bytes
        copy.held = first.held + copy.held
        first.stage, first.held = "counted", []
        self._state.waiting.pop(first_key, None)
        self._drop_if_removed(first_key, first)
        if copy.stage == "arriving":
            self._wait(key, copy)

    def _remove(self, line: Line) -> None:
        mail = self._state.open.get(line.key)
        if mail is None:
            return
        if mail.stage == "waiting":
            mail.is_removed = True
        else:
            del self._state.open[line.key]

    def _drop_if_removed(self, key: str, mail: Mail) -> None:
        if mail.is_removed:
            self._state.open.pop(key, None)

    def _settle_until(self, time_ms: int | None) -> None:
        """Count what has waited long enough; None: everything."""
        while self._state.waiting:
            key, due_ms = next(iter(self._state.waiting.items()))
            if time_ms is not None and due_ms > time_ms:
                return
            self._settle(key)

    def _settle(self, key: str) -> None:
        del self._state.waiting[key]
        mail = self._state.open[key]
        self._count(key, mail)
        self._drop_if_removed(key, mail)

    # --- events --------------------------------------------------------------------------------------------------------

    def _count(self, key: str, mail: Mail) -> None:
        mail.stage = "counted"
        copies = mail.copies or max(1, mail.recipients)
        host = key.partition(" ")[0]
        name = digest_of(f"{host} {mail.queue_id} {mail.time_ms}")
        self._writer.emit(host, name, mail.time_ms, "accepted", mail, copies=copies, size_bytes=mail.size_bytes)
        self._count_outcomes(key, mail)

    def _count_outcomes(self, key: str, mail: Mail) -> None:
        host = key.partition(" ")[0]
        held, mail.held = mail.held, []
        for outcome in held:
            self._writer.emit(host, outcome.id, outcome.time_ms, outcome.disposition, mail, reason=outcome.reason)

    def _conclude(self, line: Line, mail: Mail, disposition: Disposition, reason: Reason) -> None:
        outcome = Outcome(self._writer.unique(line), line.time_ms, disposition, reason)
        mail.held = [*mail.held, outcome]
        if mail.stage == "counted":
            self._count_outcomes(line.key, mail)

    def _reject(self, line: Line, said: str) -> None:
        refusal = grammar.read_refusal(said)
        if refusal is None:
            raise InvalidInput("unparsed")
        if refusal.stage == "END-OF-MESSAGE":
            reason: Reason = refusal.reason if line.said.startswith("reject:") else "content"
            disposition: Disposition = "rejected" if refusal.is_permanent else "deferred"
            self._refuse_message(line, disposition, reason, refusal)
            return
        known = self._state.open.get(line.key)
        mail = Mail("", "remote", ip=address_or_none(refusal.address), sender=self._writer.bounded(refusal.sender))
        mail.account, mail.is_outbound = (known.account, known.is_outbound) if known else (None, None)
        helo = self._writer.bounded(refusal.helo)
        self._writer.emit(
            line.host, self._writer.unique(line), line.time_ms, "attempt", mail, reason=refusal.reason, helo=helo
        )

    def _discard(self, line: Line, said: str) -> None:
        """Accepted with 250 and thrown away: for the sender's volume that is a rejected message."""
        self._refuse_message(line, "rejected", "content", grammar.read_refusal(said))

    def _refuse_message(
        self, line: Line, disposition: Disposition, reason: Reason, refusal: grammar.Refusal | None = None
    ) -> None:
        mail = self._state.open.pop(line.key, None)
        self._state.waiting.pop(line.key, None)
        if mail is None:
            mail = Mail(line.queue_id, "remote", ip=address_or_none(refusal.address) if refusal else None)
        if mail.sender is None and refusal is not None:
            mail.sender = self._writer.bounded(refusal.sender)
        self._writer.emit(line.host, self._writer.unique(line), line.time_ms, disposition, mail, reason=reason)


_HANDLERS: Final[dict[str, Callable[[PostfixJoiner, Line], None]]] = {
    "smtpd": PostfixJoiner._on_smtpd,
    "postscreen": PostfixJoiner._on_smtpd,
    "pickup": PostfixJoiner._on_pickup,
    "cleanup": PostfixJoiner._on_cleanup,
    "qmgr": PostfixJoiner._on_qmgr,
    "nqmgr": PostfixJoiner._on_qmgr,
    "oqmgr": PostfixJoiner._on_qmgr,
    "smtp": PostfixJoiner._on_delivery,
    "lmtp": PostfixJoiner._on_delivery,
    "local": PostfixJoiner._on_delivery,
    "virtual": PostfixJoiner._on_delivery,
    "pipe": PostfixJoiner._on_delivery,
    "error": PostfixJoiner._on_delivery,
    "retry": PostfixJoiner._on_delivery,
    "discard": PostfixJoiner._on_delivery,
}
_TAKERS: Final = frozenset({"smtp", "lmtp", "local", "virtual", "pipe"})
_REQUEUERS: Final = frozenset({"smtp", "lmtp", "local"})
_LOOPBACK: Final = re.compile(r"127\.|::1\Z|.*/")


def _is_loopback(address: str) -> bool:
    return _LOOPBACK.match(address) is not None
