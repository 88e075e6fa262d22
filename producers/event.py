"""The `MailEvent` contract: what a source publishes on `mail-events` and COUNT reads.

One JSON object a record, or several separated by newlines. Unknown fields are ignored, so that a newer producer does not break an
older COUNT; a field whose meaning changes takes a new `v`.
"""

from typing import Annotated, Final, Literal

import msgspec

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
    time_ms: Annotated[int, msgspec.Meta(ge=0)]
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
