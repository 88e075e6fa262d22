"""The `MailEvent` contract: what a source publishes on `mail-events` and COUNT reads.

One JSON object a record, or several separated by newlines. Unknown fields are ignored, so that a newer producer does not break an
older COUNT; a field whose meaning changes takes a new `v`.
"""

import socket
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from producers.errors import InvalidInput

EVENT_VERSION: Final = 1
MAX_STRING_BYTES: Final = 320
"""Longest envelope address: 64 + 1 + 255 octets (RFC 5321, 4.5.3.1)."""
MAX_ID_BYTES: Final = 128
MAX_TOKEN_BYTES: Final = 96
MAX_TOKENS: Final = 8
MAX_COPIES: Final = 1_000_000
"""Most recipients one event may claim, so that one forged number cannot look like a campaign."""
MAX_RECORD_BYTES: Final = 1_000_000
"""Largest record a source writes: the broker's 1 MiB less what headers and batch framing need."""
MAX_TIME_MS: Final = 253_402_300_799_999
"""The end of the year 9999: whatever comes through fits 64 bits with room to reckon."""
MAX_SKEW_MS: Final = 5 * 60_000
"""How far an event may be dated after the broker's append time before it is refused."""

Channel = Literal["email", "im", "comment", "social"]
Direction = Literal["inbound", "outbound"]
Disposition = Literal["accepted", "rejected", "trap", "deferred", "attempt", "bounced", "complaint"]
Verdict = Literal["spam", "phish", "malware", "ham", "unknown"]
Reason = Literal["content", "policy", "auth", "unknown_user", "relay", "rate", "protocol", "quota", "other"]
"""Why a message was rejected. `content` and `policy` (block lists, reputation) are about the sender being unwanted; the others are not."""
AuthResult = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror", "policy"]
"""RFC 8601, section 2.7."""

_Text = Annotated[str, msgspec.Meta(max_length=MAX_STRING_BYTES)]
_Token = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOKEN_BYTES)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STRING_BYTES)]


class Auth(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Results of SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 7489) and ARC (RFC 8617); null where not checked."""

    spf: AuthResult | None = None
    dkim: AuthResult | None = None
    dmarc: AuthResult | None = None
    arc: AuthResult | None = None


class Source(msgspec.Struct, frozen=True, gc=False):
    """Who saw it. Of the sources of one hop just one has `counts` true; the others add trap hits, complaints and attributes only."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    counts: bool = True


class MailEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One sighting of a message, or of what became of it.

    `accepted`, `rejected` and `trap` are messages and are counted once; `deferred`, `attempt` (greylisting, rejection before DATA),
    `bounced` and `complaint` are not messages and are counted apart. `copies` (envelope recipients) is the unit of volume.

    Limits are in UTF-8 bytes (`MAX_*_BYTES`). The types here bound characters, which is the same for ASCII; `check_bytes` is exact.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=1)]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]
    time_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
    """When it happened at the source, ms since the Unix epoch."""
    disposition: Disposition
    source: Source
    channel: Channel = "email"
    direction: Direction = "inbound"
    verdict: Verdict = "unknown"
    reason: Reason | None = None
    copies: Annotated[int, msgspec.Meta(ge=1, le=MAX_COPIES)] = 1
    sender: _Text | None = None
    """Envelope sender; the empty string is the null sender `<>` of bounces (RFC 5321, 4.5.5); null when not known."""
    account: _Name | None = None
    """Authenticated user, or messenger account."""
    ip: _Text | None = None
    """Connecting address, IPv4 or IPv6 as text."""
    helo: _Text | None = None
    sender_domain: _Name | None = None
    """The *answerable* domain: of an SPF-passing envelope sender or a passing DKIM d=. Null where nothing was authenticated."""
    from_domain: _Text | None = None
    """The domain the From header shows. Forgeable: never the base of blame."""
    auth: Auth | None = None
    country: Annotated[str, msgspec.Meta(min_length=2, max_length=2)] | None = None
    """ISO 3166-1 alpha-2 of the connecting address."""
    asn: Annotated[int, msgspec.Meta(ge=0, le=4_294_967_295)] | None = None
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    campaign: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOKEN_BYTES)] | None = None
    """A declared campaign id, only where it can be trusted."""
    tokens: Annotated[tuple[_Token, ...], msgspec.Meta(max_length=MAX_TOKENS)] = ()
    """What the message shares with its kin, strongest first (see `producers.tokens`)."""


_DECODER: Final = msgspec.json.Decoder(MailEvent)
_BYTE_LIMITS: Final = (
    ("id", MAX_ID_BYTES),
    ("sender", MAX_STRING_BYTES),
    ("account", MAX_STRING_BYTES),
    ("helo", MAX_STRING_BYTES),
    ("sender_domain", MAX_STRING_BYTES),
    ("from_domain", MAX_STRING_BYTES),
    ("campaign", MAX_TOKEN_BYTES),
)


def decode_lines(value: bytes) -> Iterator[tuple[int, bytes, MailEvent | InvalidInput]]:
    """Each event of a record, or why it cannot be used: (index of the line, its bytes, event or fault).

    Never raises for what is in the bytes. A record that is one JSON object over several lines is one event at line 0.
    """
    if not value.strip():
        yield 0, value, InvalidInput("empty")
        return
    whole = _decode(value)
    if b"\n" not in value.rstrip(b"\n") or isinstance(whole, MailEvent):
        yield 0, value, whole
        return
    for index, line in enumerate(value.split(b"\n")):
        if line.strip():
            yield index, line, _decode(line)


def is_plain(value: bytes) -> bool:
    """Whether characters are bytes here and no escape can hide a NUL: then the limits of the types are exact."""
    return value.isascii() and (b"\\" not in value or b"\\u" not in value)


def _decode(line: bytes) -> MailEvent | InvalidInput:
    try:
        event = _DECODER.decode(line)
        if not is_plain(line):
            check_text(event)
        check_origin(event)
    except msgspec.ValidationError as error:
        return InvalidInput(_reason_of(str(error)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return InvalidInput(_malformed(line, error))
    except InvalidInput as error:
        return error
    return event


def check(event: MailEvent) -> None:
    """What the types cannot say; for sources that build events rather than read them. Raises `InvalidInput`."""
    check_text(event)
    check_origin(event)


def check_text(event: MailEvent) -> None:
    """Limits in UTF-8 bytes, and no NUL. Raises `InvalidInput`."""
    texts: list[tuple[str | None, int]] = [(getattr(event, name), limit) for name, limit in _BYTE_LIMITS]
    texts += [(token, MAX_TOKEN_BYTES) for token in event.tokens]
    texts += [(event.source.type, 32), (event.source.host, 255)]
    for text, limit in texts:
        if text is None:
            continue
        if "\0" in text:
            raise InvalidInput("nul")
        if len(text.encode("utf-8", "surrogatepass")) > limit:
            raise InvalidInput("too_long")


def check_origin(event: MailEvent) -> None:
    """The address is one and the country has the form of one. Raises `InvalidInput`."""
    if event.ip is not None and packed_address(event.ip) is None:
        raise InvalidInput("bad_ip")
    if event.country is not None and not is_country(event.country):
        raise InvalidInput("bad_country")


def packed_address(text: str) -> bytes | None:
    """Four or sixteen bytes in network order, None for what is no address. An IPv4-mapped IPv6 address is the IPv4 one."""
    try:
        return socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        pass
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    mapped = packed.startswith(b"\0" * 10 + b"\xff\xff")
    return packed[12:] if mapped else packed


def is_country(text: str) -> bool:
    """Two capital ASCII letters (ISO 3166-1 alpha-2)."""
    return len(text) == 2 and text.isascii() and text.isalpha() and text.isupper()


def _reason_of(message: str) -> str:
    """A stable label for msgspec's words about what does not fit the contract."""
    if "`$.v`" in message:
        return "version"
    if message.startswith("Object missing"):
        return "missing_field"
    if message.startswith("Invalid enum"):
        return "unknown_value"
    if " of length <= " in message:
        return "too_long"
    if " of length >= " in message:
        return "too_short"
    if "Expected `int` >" in message or "Expected `int` <" in message or "out of range" in message:
        return "out_of_range"
    return "wrong_type"


def _malformed(line: bytes, error: Exception) -> str:
    if b"\0" in line:
        return "nul"
    return "not_utf8" if isinstance(error, UnicodeDecodeError) else "not_json"
