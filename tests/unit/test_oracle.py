"""The oracle judges everybody else: here it is judged, by hand and against the contract's decoder."""

import json
from typing import Any

import msgspec
import pytest

from producers.errors import InvalidInput
from producers.event import Auth, MailEvent, Source, decode_lines
from tests import oracle, oracle_reader
from tests.builders import DAY_MS, FORGED, HOUR_MS, LOG, MX, NOON_MS, altered, complaint, encoded, mail, spam, trap_hit

LATER_MS = NOON_MS + HOUR_MS


def only(**counters: int) -> dict[str, int]:
    return dict.fromkeys(oracle.COUNTERS, 0) | counters


@pytest.mark.parametrize(
    ("event", "counters"),
    [
        (mail(copies=3), only(copies=3, messages=1, bytes=1_000)),
        (mail(copies=3, source=LOG), only()),
        (spam(copies=2), only(copies=2, messages=1, bytes=1_000, unwanted=2)),
        (spam(disposition="rejected"), only(copies=1, messages=1, bytes=1_000, unwanted=1, rejected=1)),
        (
            mail(disposition="rejected", reason="policy"),
            only(copies=1, messages=1, bytes=1_000, unwanted=1, rejected=1),
        ),
        (mail(disposition="rejected", reason="quota"), only(copies=1, messages=1, bytes=1_000, rejected=1)),
        (mail(reason="content"), only(copies=1, messages=1, bytes=1_000)),
        (mail(auth=FORGED, copies=2), only(copies=2, messages=1, bytes=1_000, forged=2)),
        (mail(auth=Auth(dmarc="pass")), only(copies=1, messages=1, bytes=1_000)),
        (trap_hit(), only(copies=1, messages=1, bytes=1_000, unwanted=1, traps=1)),
        (trap_hit(source=LOG), only(traps=1)),
        (complaint(copies=4), only(complaints=4, unwanted=4)),
        (complaint(source=LOG), only(complaints=1)),
        (mail(disposition="deferred", copies=5, auth=FORGED), only(deferred=5)),
        (mail(disposition="attempt"), only(deferred=1)),
        (mail(disposition="bounced", copies=2, verdict="spam"), only(bounced=2)),
        (mail(disposition="bounced", source=LOG), only()),
    ],
)
def test_an_event_adds_to_its_counters(event: MailEvent, counters: dict[str, int]) -> None:
    assert oracle.counters_of(msgspec.to_builtins(event)) == counters


@pytest.mark.parametrize(
    ("fields", "entities"),
    [
        ({}, {"domain:honest.test", "ip:192.0.2.1", "net:192.0.2.0/24", "campaign:(none)"}),
        (
            {"account": "ann"},
            {"account:ann", "domain:honest.test", "ip:192.0.2.1", "net:192.0.2.0/24", "campaign:(none)"},
        ),
        ({"ip": None, "sender_domain": "a.b.shop.co.uk"}, {"domain:shop.co.uk", "campaign:(none)"}),
        ({"ip": None, "sender_domain": "Mail.Example.ORG."}, {"domain:example.org", "campaign:(none)"}),
        ({"ip": None, "sender_domain": None}, {"domain:(unauthenticated)", "campaign:(none)"}),
        ({"ip": None, "sender_domain": None, "sender": ""}, {"domain:(null)", "campaign:(none)"}),
        ({"ip": None, "sender": ""}, {"domain:honest.test", "campaign:(none)"}),
        ({"ip": None, "tokens": ("subject:s", "url:u")}, {"domain:honest.test", "campaign:url:u"}),
        ({"ip": None, "tokens": ("list:l", "x:y")}, {"domain:honest.test", "campaign:list:l"}),
        ({"ip": None, "tokens": ("html:h",), "campaign": "c"}, {"domain:honest.test", "campaign:declared:c"}),
        (
            {"ip": "2001:DB8:1:2:3::4"},
            {"domain:honest.test", "campaign:(none)", "ip:2001:db8:1:2::/64", "net:2001:db8:1::/48"},
        ),
        (
            {"ip": "::ffff:192.0.2.200"},
            {"domain:honest.test", "campaign:(none)", "ip:192.0.2.200", "net:192.0.2.0/24"},
        ),
    ],
)
def test_an_event_counts_for_its_entities(fields: dict[str, Any], entities: set[str]) -> None:
    assert set(oracle.entities_of(msgspec.to_builtins(mail(**fields)))) == entities


def test_sums_are_kept_by_entity_and_hour_and_a_bad_line_stops_nobody() -> None:
    """
    [noon            1 p.m.            2 p.m.
      two, one bad    one more, in the same record
    """
    record = b"\n".join(
        (encoded(mail(copies=2)), b"{oops", encoded(mail(copies=3)), b"", encoded(mail(NOON_MS + HOUR_MS)))
    )
    counted = oracle.count([(b"garbage", LATER_MS), (record, LATER_MS)])
    assert counted.refused == [(0, 0, "not_json"), (1, 1, "not_json")]
    assert counted.events == 3
    noon, one = counted.by_hour["ip:192.0.2.1", NOON_MS], counted.by_hour["ip:192.0.2.1", NOON_MS + HOUR_MS]
    assert (noon["copies"], one["copies"], counted.totals["ip:192.0.2.1"]["copies"]) == (5, 1, 6)
    assert counted.by_day["ip:192.0.2.1", NOON_MS - NOON_MS % DAY_MS]["messages"] == 3
    assert counted.facts()["ip:192.0.2.1", "hour", NOON_MS] == noon


def test_who_is_not_counted_for_has_no_row() -> None:
    assert oracle.count([(encoded(mail(source=LOG)), NOON_MS)]).totals == {}


def test_an_event_may_be_five_minutes_ahead_of_the_broker_and_no_more() -> None:
    records = [(encoded(mail(NOON_MS + 300_000)), NOON_MS), (encoded(mail(NOON_MS + 300_001)), NOON_MS)]
    assert oracle.count(records).refused == [(1, 0, "future")]


def fact(part: int, revision: int, **counters: int) -> bytes:
    known = {"v": 1, "entity": "ip:192.0.2.1", "span": "hour", "start_ms": NOON_MS, "part": part, "revision": revision}
    return json.dumps(known | counters).encode()


def test_facts_add_up_over_parts_each_at_its_highest_revision() -> None:
    values = [fact(0, 2, copies=5), fact(0, 1, copies=3, bytes=9), fact(1, 1, copies=10), fact(0, 2, copies=5)]
    assert oracle.facts_total(values) == {("ip:192.0.2.1", "hour", NOON_MS): only(copies=15)}
    assert oracle.facts_total([fact(0, 1)]) == {}


def test_two_contents_under_one_revision_are_a_contradiction() -> None:
    with pytest.raises(AssertionError, match="two contents"):
        oracle.facts_total([fact(0, 1, copies=1), fact(0, 1, copies=2)])


BAD: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b" \n ", "empty"),
    (b"{", "not_json"),
    (b"[]", "wrong_type"),
    (b"{}", "missing_field"),
    (b'{"v":1,"id":"\xff"}', "not_utf8"),
    (b'{"v":1,\0}', "nul"),
    (altered(mail(), v=2), "version"),
    (altered(mail(), v="1"), "version"),
    (altered(mail(), id=""), "too_short"),
    (altered(mail(), id="i" * 129), "too_long"),
    (altered(mail(), time_ms="noon"), "wrong_type"),
    (altered(mail(), time_ms=1.5), "wrong_type"),
    (altered(mail(), time_ms=-1), "out_of_range"),
    (altered(mail(), time_ms=1 << 63), "out_of_range"),
    (altered(mail(), copies=0), "out_of_range"),
    (altered(mail(), copies=1_000_001), "out_of_range"),
    (altered(mail(), copies=True), "wrong_type"),
    (altered(mail(), disposition="lost"), "unknown_value"),
    (altered(mail(), verdict=None), "wrong_type"),
    (altered(mail(), reason="mood"), "unknown_value"),
    (altered(mail(), sender=7), "wrong_type"),
    (altered(mail(), sender="é" * 161), "too_long"),
    (altered(mail(), account=""), "too_short"),
    (altered(mail(), helo="a\0b"), "nul"),
    (altered(mail(), tokens=["a"] * 9), "too_long"),
    (altered(mail(), tokens=["t" * 97]), "too_long"),
    (altered(mail(), tokens=[""]), "too_short"),
    (altered(mail(), tokens=["\0"]), "nul"),
    (altered(mail(), tokens="html:x"), "wrong_type"),
    (altered(mail(), ip="localhost"), "bad_ip"),
    (altered(mail(), ip="192.0.2.256"), "bad_ip"),
    (altered(mail(), ip="fe80::1%eth0"), "bad_ip"),
    (altered(mail(), country="de"), "bad_country"),
    (altered(mail(), country="DEU"), "too_long"),
    (altered(mail(), asn=1 << 32), "out_of_range"),
    (altered(mail(), size_bytes=-1), "out_of_range"),
    (altered(mail(), auth={"spf": "maybe"}), "unknown_value"),
    (altered(mail(), auth=[]), "wrong_type"),
    (altered(mail(), source={"type": "x"}), "missing_field"),
    (altered(mail(), source={"type": "", "host": "h"}), "too_short"),
    (altered(mail(), source={"type": "t", "host": "h", "counts": 1}), "wrong_type"),
    (altered(mail(), campaign="c" * 97), "too_long"),
]
GOOD: list[bytes] = [
    encoded(mail()),
    altered(mail(), future_field={"deep": [1, None]}),
    altered(mail(), sender=None, ip=None, auth=None, asn=None, reason=None),
    altered(mail(), ip="2001:db8::1", country="DE", auth={"arc": "pass", "new": 1}),
    altered(mail(), sender="é" * 160, tokens=["t" * 96] * 8),
    json.dumps(json.loads(encoded(mail())), indent=2).encode(),
    msgspec.json.encode(mail(source=Source("x" * 32, "h" * 255, counts=False))),
    encoded(mail(source=MX), spam()),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_the_oracle_and_the_decoder_refuse_a_bad_line_for_the_same_reason(line: bytes, reason: str) -> None:
    assert oracle.count([(line, LATER_MS)]).refused == [(0, 0, reason)]
    assert [(index, fault_of(event)) for index, _, event in decode_lines(line)] == [(0, reason)]


@pytest.mark.parametrize("value", GOOD)
def test_the_oracle_and_the_decoder_take_a_good_record(value: bytes) -> None:
    assert oracle.count([(value, LATER_MS)]).refused == []
    decoded = list(decode_lines(value))
    assert [line for line, _ in oracle_reader.lines(value)] == [index for index, _, _ in decoded]
    assert not any(isinstance(event, InvalidInput) for _, _, event in decoded)


def fault_of(event: object) -> str | None:
    return event.reason if isinstance(event, InvalidInput) else None
