"""How the oracle reads a record: the contract of `mail-events` written down again, by hand. See `tests.oracle`.

Reasons are exact for a line with one fault; of several faults it names the first in the line, as a reader from left to right would.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

import orjson

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
_CODES: Final[Mapping[str, tuple[int, int]]] = {  # in characters: they are ASCII or bad
    "ip": (0, 320),
    "country": (2, 2),
}
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


class Refused(Exception):
    """A line that must reach the dead-letter queue."""


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


def address_of(text: str) -> IPv4Address | IPv6Address:
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
            address_of(event["ip"])
        except ValueError:
            raise Refused("bad_ip") from None
    country = event.get("country")
    if country is not None and not ("A" <= country[0] <= "Z" and "A" <= country[1] <= "Z"):
        raise Refused("bad_country")
