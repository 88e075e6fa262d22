"""What one line of a Postfix log says. Pure.

The format is that of syslog(3) with RFC 3164 or RFC 3339 time stamps, and of the daemons' own messages (postlogd(8), smtpd(8),
cleanup(8), qmgr(8), smtp(8) and their kin; Postfix 2.10 to 3.10). A log quotes strangers: addresses, HELO names, headers and the words
of remote servers. So every line is read from the left by a fixed grammar, an address ends where its quoting says, and nothing after
the first free text is believed.
"""

import re
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

import msgspec

from producers.errors import InvalidInput
from producers.event import Reason, packed_address

_STAMP = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)"
HEADER: Final = re.compile(rf"({_STAMP}) (\S{{1,255}}) (?:([^\s\[\]:]+)(?:\[\d+\])?: )?(.*)", re.DOTALL)
"""Time stamp, host, program (None where there is none), message."""
PROGRAM: Final = re.compile(r"postfix[^/]*(?:/[^/]+)*/([a-z-]+)")
"""`postfix/smtpd`, `postfix/submission/smtpd`, `postfix-in/smtpd`: a multi-instance name, a service name, the daemon."""
QUEUE_ID: Final = re.compile(r"[0-9A-F]{6,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,25}")
"""Short ids are hexadecimal, long ones (`enable_long_queue_ids`) base 52 without vowels: no word is one."""

_ADDRESS = r'<((?:"(?:[^"\\]|\\.)*"|[^<>"\s\\])*)>'
_PEER = r"[^\s\[\]]*\[(?:IPv6:)?([^\s\[\]]*)\]"
CLIENT: Final = re.compile(rf"client={_PEER}(.*)", re.DOTALL)
ORIGIN: Final = re.compile(rf"(?:, orig_queue_id=(\w+))?(?:, orig_client={_PEER})?")
"""What a local filter says by XFORWARD of the message it returns."""
LOGIN: Final = re.compile(
    r", sasl_method=[^\s,]+, sasl_username=(.*?)(?:, (?:sasl_sender|orig_queue_id|orig_client)=.*)?", re.DOTALL
)
ACTIVE: Final = re.compile(r"from=<(.*)>, size=(\d{1,12}), nrcpt=(\d{1,6}) \(queue active\)", re.DOTALL)
EXPIRED: Final = re.compile(r"from=<.*>, status=(?:force-)?expired, returned to sender", re.DOTALL)
DELIVERY: Final = re.compile(
    rf"to={_ADDRESS}, (?:orig_to={_ADDRESS}, )?relay=([^\s,]+), (?:conn_use=\d+, )?delay=(\d{{1,9}}(?:\.\d+)?), "
    r"(?:delays=[\d./]+, )?(?:dsn=([245]\.\d{1,3}\.\d{1,3}), )?status=([a-z-]+)(?: \((.*))?",
    re.DOTALL,
)
"""Recipient, original recipient, relay, delay in s, enhanced status code, status, response with its closing parenthesis."""
REQUEUED: Final = re.compile(rf"(?:queued|forwarded) as ({QUEUE_ID.pattern})\)?\Z")
REFUSAL: Final = re.compile(rf"(\S+) from {_PEER}(?::\d+)?: (.*)", re.DOTALL)
"""Stage of the SMTP dialogue, address, reply and what it was about."""
_REPLY: Final = re.compile(r"(?:([45])\d\d )?(?:([45])(\.\d{1,3}\.\d{1,3}) )?(?:<[^<>]*>: )?(.*)", re.DOTALL)
_ENVELOPE: Final = re.compile(
    rf"; from={_ADDRESS},?(?: to={_ADDRESS},?)?(?: proto=\w+,?)?(?: helo={_ADDRESS})?(?: [a-z_]+=<[^<>]*>)*\Z"
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1
    )
}
_LOCAL_NETS: Final = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
_NEW_YEAR_MONTHS: Final = frozenset({1, 2, 11, 12})
_FOLD_MS: Final = 30 * 60_000


class Refusal(msgspec.Struct, frozen=True):
    """A reply that refused something."""

    stage: str
    """`RCPT`, `END-OF-MESSAGE`, ..."""
    address: str
    is_permanent: bool
    reason: Reason
    sender: str | None
    """None where the line leaves room for doubt: all of it is a stranger's words."""
    helo: str | None


def read_refusal(text: str) -> Refusal | None:
    """`RCPT from host[addr]: 554 5.7.1 <...>: why; from=<...> to=<...> proto=ESMTP helo=<...>`; None for what is not so."""
    matched = REFUSAL.fullmatch(text)
    if matched is None:
        return None
    stage, address, said = matched.groups()
    envelope = _ENVELOPE.search(said) if said.count("; from=<") == 1 else None
    reply = _REPLY.match(said.partition("; from=<")[0])
    if reply is None:
        return None
    code, status, detail, words = reply.groups()
    sender, _, helo = envelope.groups() if envelope else (None, None, None)
    kind = status or code or "5"
    return Refusal(stage, address, kind == "5", reason_of(kind + (detail or ""), words), sender, helo)


_WORDS: Final[tuple[tuple[Reason, re.Pattern[str]], ...]] = (
    ("relay", re.compile(r"relay access denied|relaying denied", re.IGNORECASE)),
    ("unknown_user", re.compile(r"user unknown|unknown user|undeliverable address|no such user", re.IGNORECASE)),
    ("policy", re.compile(r"blocked using|block ?list|blacklist", re.IGNORECASE)),
    ("auth", re.compile(r"\b(?:spf|dkim|dmarc)\b|authentication required|must issue a starttls", re.IGNORECASE)),
    ("protocol", re.compile(r"helo command rejected|fully-qualified|pipelining|domain not found", re.IGNORECASE)),
    ("other", re.compile(r"gr[ea]ylist", re.IGNORECASE)),
    ("rate", re.compile(r"too many|too much|rate limit", re.IGNORECASE)),
    ("quota", re.compile(r"quota|mailbox full|mailbox is full", re.IGNORECASE)),
)
_STATUS: Final[tuple[tuple[Reason, re.Pattern[str]], ...]] = (
    ("unknown_user", re.compile(r"\d\.1\.[01236]\b")),
    ("quota", re.compile(r"\d\.2\.2\b|\d\.3\.[14]\b")),
    ("auth", re.compile(r"\d\.7\.2[0-7]\b")),
    ("protocol", re.compile(r"\d\.5\.|\d\.1\.[78]\b")),
    ("policy", re.compile(r"\d\.7\.")),
)


def reason_of(status: str, words: str) -> Reason:
    """Why, from the words of our own server and the enhanced status code (RFC 3463; RFC 7372 for x.7.20 and up)."""
    for reason, pattern in _WORDS:
        if pattern.search(words):
            return reason
    return reason_of_status(status)


def reason_of_status(status: str | None) -> Reason:
    """Why, from the enhanced status code alone, where the words are a remote server's."""
    for reason, pattern in _STATUS:
        if status is not None and pattern.match(status):
            return reason
    return "other"


@lru_cache(maxsize=100_000)
def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address; `unknown` is not."""
    return packed_address(text) is not None


@lru_cache(maxsize=100_000)
def is_local(text: str) -> bool:
    """Loopback, private (RFC 1918, RFC 4193) or link-local: where a content filter may live. A socket's path is local too."""
    try:
        address = ip_address(text)
    except ValueError:
        return "/" in text
    return any(address in net for net in _LOCAL_NETS)


@lru_cache(maxsize=10_000)
def relay_address(relay: str) -> str:
    """`mx.example.com[192.0.2.1]:25` -> `192.0.2.1`, `host[private/lmtp]` -> `private/lmtp`, `local` and `none` as they are."""
    _, bracket, rest = relay.partition("[")
    return rest.partition("]")[0].removeprefix("IPv6:") if bracket else relay


class StampReader:
    """Time stamps to ms since the Unix epoch. A traditional one names no year: it lies closest to the line before it.

    `zone` is where the traditional form was written, `year` the year of its first line. `last_ms` is the state that a restart needs.
    """

    def __init__(self, zone: tzinfo, year: int) -> None:
        self._zone = zone
        self._year = year
        self._text = ""
        self.last_ms: int | None = None

    def read(self, text: str) -> int:
        """Raises `InvalidInput` for what the calendar does not have."""
        if text == self._text and self.last_ms is not None:
            return self.last_ms
        try:
            ms = _traditional_ms(text, self._zone, self._year, self.last_ms) if text[4] != "-" else _rfc3339_ms(text)
        except (ValueError, KeyError, OverflowError):
            raise InvalidInput("bad_time") from None
        self._text, self.last_ms = text, ms
        return ms


def _rfc3339_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _traditional_ms(text: str, zone: tzinfo, year: int, last_ms: int | None) -> int:
    month, day = _MONTHS[text[:3]], int(text[4:6])
    hour, minute, second = int(text[7:9]), int(text[10:12]), min(59, int(text[13:15]))
    if last_ms is None:
        return round(datetime(year, month, day, hour, minute, second, tzinfo=zone).timestamp() * 1000)
    last_year = datetime.fromtimestamp(last_ms / 1000, zone).year
    best: int | None = None
    for candidate in (last_year, last_year + 1, last_year - 1) if month in _NEW_YEAR_MONTHS else (last_year,):
        for fold in (0, 1):
            try:
                moment = datetime(candidate, month, day, hour, minute, second, tzinfo=zone, fold=fold)
            except ValueError:  # February 29th
                continue
            ms = round(moment.timestamp() * 1000)
            if best is None or abs(ms - last_ms) < abs(best - last_ms):
                best = ms
    if best is None:
        raise ValueError(text)
    return best


def infer_year(first: str, last: str, newest_ms: int, zone: tzinfo) -> int:
    """The year of the first of two traditional stamps, less than a year apart: the newest that puts neither after `newest_ms`."""
    year = datetime.fromtimestamp(newest_ms / 1000, UTC).year + 1
    while True:
        try:
            end_ms = _traditional_ms(last, zone, year, None)
            turns = _order(first) > _order(last)
            _traditional_ms(first, zone, year - turns, None)
        except ValueError:  # February 29th
            year -= 1
            continue
        if end_ms <= newest_ms:
            return year - turns
        year -= 1


def _order(stamp: str) -> tuple[int, str]:
    return _MONTHS[stamp[:3]], stamp[3:]
