"""The oracle: what must have been counted, from the records as they lie on `mail-events`. Slow and obvious.

It shares nothing with COUNT or TRACK and none of the contract's own code: limits, reasons and names are written down again, by hand, so that
a mistake must be made twice to go unnoticed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Any, Final

import orjson
import tldextract

from tests.oracle_reader import Refused, address_of, lines, read

COUNTERS: Final = (
    "copies", "messages", "unwanted", "rejected", "traps", "complaints", "forged", "deferred", "bounced", "bytes",
)  # fmt: skip
HOUR_MS: Final = 3_600_000
SKEW_MS: Final = 300_000
SPAN_MS: Final = {"hour": HOUR_MS, "day": 24 * HOUR_MS}

Counters = dict[str, int]

_suffixes: Final = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


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
    found = _suffixes(host)
    if not found.suffix and not found.ipv4 and not found.ipv6 and not host.startswith("["):
        return ".".join(host.split(".")[-2:])  # the list's default rule `*`
    return found.top_domain_under_public_suffix or host


@cache
def _places(text: str) -> tuple[str, str]:
    address = address_of(text)
    if isinstance(address, IPv6Address):
        ip, net = IPv6Network((address, 64), strict=False), IPv6Network((address, 48), strict=False)
        return f"ip:{ip}", f"net:{net}"
    return f"ip:{address}", f"net:{ip_network((int(address), 24), strict=False)}"


def _add(sums: dict[Any, Counters], key: Any, counters: Mapping[str, int]) -> None:
    held = sums.setdefault(key, dict.fromkeys(COUNTERS, 0))
    for name, value in counters.items():
        if value:
            held[name] += value
