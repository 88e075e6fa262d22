"""The oracle: what must have been counted, from the records as they lie on `mail-events`. Slow and obvious.

It shares nothing with COUNT or TRACK and none of the contract's own code: limits, reasons and names are written down again, by hand, so that
a mistake must be made twice to go unnoticed. Reasons are exact for a line with one fault; of several faults it names the first in the
line, as a reader from left to right would.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

import orjson
import tldextract

COUNTERS: Final = (
    "copies", "messages", "unwanted", "rejected", "traps", "complaints", "forged", "deferred", "bounced", "bytes",
)  # fmt: skip
HOUR_MS: Final = 3_600_000
SKEW_MS: Final = 300_000
SPAN_MS: Final = {"hour": HOUR_MS, "day": 24 * HOUR_MS}

Counters = dict[str, int]

_AUTH: Final = ("pass", "fail", "softfail", "neutral", "none", "temperror", "permerror", "policy")
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "channel": ("email", "im", "comment", "social"),
    "direction": ("inbound", "outbound"),
    "disposition": ("accepted", "rejected", "trap", "deferred", "attempt", "bounced", "complaint"),
    "verdict": ("spam", "phish", "malware", "ham", "unknown"),
    "reason": ("content", "policy", "auth", "unknown_user", "relay", "rate", "protocol", "quota", "other"),
}
_TEXTS: Final[Mapping[str, tuple[int, int]]] = {  # fewest and most bytes
    "id": (1, 128),
    "sender": (0, 320),
    "account": (1, 320),
    "helo": (0, 320),
    "sender_domain": (1, 320),
    "from_domain": (0, 320),
    "campaign": (1, 96),
}
_CODES: Final[Mapping[str, tuple[int, int]]] = {
    "ip": (0, 320),
    "country": (2, 2),
}  # in characters: they are ASCII or bad
_NUMBERS: Final[Mapping[str, tuple[int, int]]] = {
    "time_ms": (0, 253_402_300_799_999),
    "copies": (1, 1_000_000),
    "asn": (0, (1 << 32) - 1),
    "size_bytes": (0, 1 << 40),
}
_NULL_ALLOWED: Final = frozenset(
    ("reason", "sender", "account", "ip", "helo", "sender_domain", "from_domain", "auth", "country", "asn", "campaign")
)
_REQUIRED: Final = ("v", "id", "time_ms", "disposition", "source")
_suffixes: Final = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


class Refused(Exception):
    """A line that must reach the dead-letter queue."""


@dataclass
class Counted:
    """What must have been counted."""

    by_hour: dict[tuple[str, int], Counters] = field(default_factory=dict)
    """(entity, start of the hour in ms) -> counters; only what is not all zeros."""
    totals: dict[str, Counters] = field(default_factory=dict)
    events: int = 0
    refused: list[tuple[int, int, str]] = field(default_factory=list)
    """(index of the record, index of the line, reason)."""

    @property
    def by_day(self) -> dict[tuple[str, int], Counters]:
        """As `by_hour`, in days of UTC."""
        days: dict[tuple[str, int], Counters] = {}
        for (entity, start), counters in self.by_hour.items():
            _add(days, (entity, start - start % SPAN_MS["day"]), counters)
        return days

    def facts(self) -> dict[tuple[str, str, int], Counters]:
        """What `facts_total` must give for the facts that were published."""
        hours = {(entity, "hour", start): counters for (entity, start), counters in self.by_hour.items()}
        return hours | {(entity, "day", start): counters for (entity, start), counters in self.by_day.items()}


def count(records: Iterable[tuple[bytes, int]]) -> Counted:
    """Counters and refusals for records with their append times in ms."""
    counted = Counted()
    for index, (value, append_ms) in enumerate(records):
        for line, found in lines(value):
            try:
                event = read(found)
                if event["time_ms"] > append_ms + SKEW_MS:
                    raise Refused("future")
            except Refused as refused:
                counted.refused.append((index, line, str(refused)))
                continue
            counted.events += 1
            counters = counters_of(event)
            if any(counters.values()):
                for entity in entities_of(event):
                    _add(counted.by_hour, (entity, event["time_ms"] - event["time_ms"] % HOUR_MS), counters)
    for (entity, _), counters in counted.by_hour.items():
        _add(counted.totals, entity, counters)
    return counted


def facts_total(values: Iterable[bytes]) -> dict[tuple[str, str, int], Counters]:
    """(entity, "hour" or "day", start in ms) -> counters, from the values on `mail-volume` in any order.

    Each part counts at its highest revision. Two contents under one revision are a contradiction: `AssertionError`.
    """
    newest: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    for value in values:
        fact = orjson.loads(value)
        part = (fact["entity"], fact["span"], fact["start_ms"], fact["part"])
        held = newest.get(part)
        if held is not None and held["revision"] == fact["revision"]:
            assert held == fact, f"two contents under one revision: {held} and {fact}"
        if held is None or fact["revision"] > held["revision"]:
            newest[part] = fact
    totals: dict[tuple[str, str, int], Counters] = {}
    for (entity, span, start, _), fact in newest.items():
        _add(totals, (entity, span, start), {name: fact.get(name, 0) for name in COUNTERS})
    return {key: counters for key, counters in totals.items() if any(counters.values())}


def lines(value: bytes) -> list[tuple[int, bytes]]:
    """The lines of a record that hold something, with their indexes. One object written over several lines is line 0."""
    if not value.strip():
        return [(0, value)]
    found = [(index, line) for index, line in enumerate(value.split(b"\n")) if line.strip()]
    if b"\n" in value.rstrip(b"\n"):
        try:
            read(value)
        except Refused:
            return found
    return [(0, value)]


def read(line: bytes) -> dict[str, Any]:
    """The event in a line. Raises `Refused` with the reason."""
    if not line.strip():
        raise Refused("empty")
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise Refused(_malformed(line)) from None
    if not isinstance(event, dict):
        raise Refused("wrong_type")
    for name, value in event.items():
        _check_field(name, value)
    if any(name not in event for name in _REQUIRED):
        raise Refused("missing_field")
    _check_nul(event)
    _check_origin(event)
    return event


def entities_of(event: Mapping[str, Any]) -> list[str]:
    """Whom an event counts for."""
    entities = ["campaign:" + _campaign(event)]
    if event.get("account") is not None:
        entities.append("account:" + event["account"])
    if event.get("sender_domain") is not None:
        entities.append("domain:" + _registrable(event["sender_domain"]))
    else:
        entities.append("domain:(null)" if event.get("sender") == "" else "domain:(unauthenticated)")
    if event.get("ip") is not None:
        entities += _places(event["ip"])
    return entities


def counters_of(event: Mapping[str, Any]) -> Counters:
    """What an event adds, to each of its entities."""
    disposition, copies = event["disposition"], event.get("copies", 1)
    counts = event["source"].get("counts", True)
    added: dict[str, int] = defaultdict(int)
    if disposition == "trap":
        added["traps"] = copies
    if disposition == "complaint":
        added["complaints"] = copies
        if counts:
            added["unwanted"] = copies
    if counts and disposition in ("accepted", "rejected", "trap"):
        added["copies"] = copies
        added["messages"] = 1
        added["bytes"] = event.get("size_bytes", 0)
        bad = event.get("verdict") in ("spam", "phish", "malware")
        refused = disposition == "rejected" and event.get("reason") in ("content", "policy")
        if bad or refused or disposition == "trap":
            added["unwanted"] = copies
        if disposition == "rejected":
            added["rejected"] = copies
        if (event.get("auth") or {}).get("dmarc") == "fail":
            added["forged"] = copies
    if counts and disposition in ("deferred", "attempt"):
        added["deferred"] = copies
    if counts and disposition == "bounced":
        added["bounced"] = copies
    return {name: added[name] for name in COUNTERS}


def _campaign(event: Mapping[str, Any]) -> str:
    if event.get("campaign") is not None:
        return "declared:" + str(event["campaign"])
    tokens: list[str] = event.get("tokens", [])
    for scheme in ("html:", "url:", "subject:"):
        for token in tokens:
            if token.startswith(scheme):
                return token
    return tokens[0] if tokens else "(none)"


@cache
def _registrable(host: str) -> str:
    host = host.lower().rstrip(".")
    return _suffixes(host).top_domain_under_public_suffix or host


@cache
def _places(text: str) -> tuple[str, str]:
    address = _address(text)
    if isinstance(address, IPv6Address):
        ip, net = IPv6Network((address, 64), strict=False), IPv6Network((address, 48), strict=False)
        return f"ip:{ip}", f"net:{net}"
    return f"ip:{address}", f"net:{ip_network((int(address), 24), strict=False)}"


def _address(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError("a zone is no part of an address")
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _malformed(line: bytes) -> str:
    if b"\0" in line:
        return "nul"
    try:
        orjson.loads(line.decode(errors="replace"))
    except orjson.JSONDecodeError:
        return "not_json"
    return "not_utf8"  # nothing else was wrong with it


def _check_field(name: str, value: Any) -> None:
    if name == "v":
        if value != 1 or not _is_integer(value):
            raise Refused("version")
    elif value is None and name in _NULL_ALLOWED:
        return
    elif name in _WORDS:
        _check_word(value, _WORDS[name])
    elif name in _TEXTS:
        _check_text(value, *_TEXTS[name])
    elif name in _CODES:
        _check_text(value, *_CODES[name], len)
    elif name in _NUMBERS:
        _check_number(value, *_NUMBERS[name])
    elif name == "tokens":
        _check_tokens(value)
    elif name == "auth":
        _check_auth(value)
    elif name == "source":
        _check_source(value)


def _check_word(value: Any, words: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise Refused("wrong_type")
    if value not in words:
        raise Refused("unknown_value")


def _size(text: str) -> int:
    return len(text.encode())


def _check_text(value: Any, fewest: int, most: int, size: Callable[[str], int] = _size) -> None:
    if not isinstance(value, str):
        raise Refused("wrong_type")
    if size(value) < fewest:
        raise Refused("too_short")
    if size(value) > most:
        raise Refused("too_long")


def _check_number(value: Any, least: int, most: int) -> None:
    if isinstance(value, float) and abs(value) >= 1 << 64:
        raise Refused("out_of_range")  # orjson's form of an integer beyond 64 bits
    if not _is_integer(value):
        raise Refused("wrong_type")
    if not least <= value <= most:
        raise Refused("out_of_range")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_tokens(value: Any) -> None:
    if not isinstance(value, list):
        raise Refused("wrong_type")
    for token in value:
        _check_text(token, 1, 96)
    if len(value) > 8:
        raise Refused("too_long")


def _check_auth(value: Any) -> None:
    if not isinstance(value, dict):
        raise Refused("wrong_type")
    for name in ("spf", "dkim", "dmarc", "arc"):
        if value.get(name) is not None:
            _check_word(value[name], _AUTH)


def _check_source(value: Any) -> None:
    if not isinstance(value, dict):
        raise Refused("wrong_type")
    for name, most in (("type", 32), ("host", 255)):
        if name in value:
            _check_text(value[name], 1, most)
    if not isinstance(value.get("counts", True), bool):
        raise Refused("wrong_type")
    if "type" not in value or "host" not in value:
        raise Refused("missing_field")


def _check_nul(event: Mapping[str, Any]) -> None:
    texts = [event.get(name) for name in _TEXTS]
    texts += [*event.get("tokens", ()), event["source"]["type"], event["source"]["host"]]
    if any(text is not None and "\0" in text for text in texts):
        raise Refused("nul")


def _check_origin(event: Mapping[str, Any]) -> None:
    if event.get("ip") is not None:
        try:
            _address(event["ip"])
        except ValueError:
            raise Refused("bad_ip") from None
    country = event.get("country")
    if country is not None and not ("A" <= country[0] <= "Z" and "A" <= country[1] <= "Z"):
        raise Refused("bad_country")


def _add(sums: dict[Any, Counters], key: Any, counters: Mapping[str, int]) -> None:
    held = sums.setdefault(key, dict.fromkeys(COUNTERS, 0))
    for name, value in counters.items():
        if value:
            held[name] += value
