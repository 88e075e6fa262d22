"""What is an event, and with which reason a line is refused."""

import msgspec
import pytest

from producers.errors import InvalidInput
from producers.event import MailEvent, check, decode_lines, is_country, is_plain, packed_address
from tests.builders import altered, encoded, mail, spam


def outcomes(value: bytes) -> list[tuple[int, str]]:
    """(line, reason or "good") of a record."""
    return [(line, "good" if isinstance(found, MailEvent) else found.reason) for line, _, found in decode_lines(value)]


def reason_of(value: bytes) -> str:
    ((line, reason),) = outcomes(value)
    assert line == 0
    return reason


def without(field: str) -> bytes:
    fields = msgspec.to_builtins(mail())
    del fields[field]
    return msgspec.json.encode(fields)


REFUSED = {
    "plain text": (b"hello", "not_json"),
    "an object cut short": (encoded(mail())[:-1], "not_json"),
    "two objects on a line": (encoded(mail()) + encoded(mail()), "not_json"),
    "a lone surrogate": (altered(mail()).replace(b"ann@", b"\\ud800"), "not_json"),
    "a control character inside a string": (altered(mail()).replace(b"ann@", b"a\tb"), "not_json"),
    "nesting without end": (b"[" * 100_000, "wrong_type"),
    "nesting without end in an unknown field": (altered(mail())[:-1] + b',"x":' + b"[" * 100_000, "not_json"),
    "latin-1": (altered(mail()).replace(b"ann@", b"\xe4nn@"), "not_utf8"),
    "a raw NUL in a field": (altered(mail()).replace(b"ann@", b"a\0n@"), "nul"),
    "a raw NUL outside": (b"\0" + encoded(mail()), "nul"),
    "an escaped NUL in a field": (altered(mail(), sender="a\0b"), "nul"),
    "an escaped NUL in a token": (altered(mail(), tokens=["url:a\0.test"]), "nul"),
    "an escaped NUL in the host": (altered(mail(), source={"type": "t", "host": "a\0"}), "nul"),
    "a list": (b"[]", "wrong_type"),
    "null": (b"null", "wrong_type"),
    "a number": (b"5", "wrong_type"),
    "a time as text": (altered(mail(), time_ms="1790856000000"), "wrong_type"),
    "a time with a fraction": (altered(mail(), time_ms=0.5), "wrong_type"),
    "a boolean as number": (altered(mail(), copies=True), "wrong_type"),
    "tokens as text": (altered(mail(), tokens="url:a.test"), "wrong_type"),
    "null where a word is needed": (altered(mail(), disposition=None), "wrong_type"),
    "a source as text": (altered(mail(), source="postfix"), "wrong_type"),
    "no id": (without("id"), "missing_field"),
    "no time": (without("time_ms"), "missing_field"),
    "no version": (without("v"), "missing_field"),
    "no disposition": (without("disposition"), "missing_field"),
    "no source": (without("source"), "missing_field"),
    "a source without host": (altered(mail(), source={"type": "t"}), "missing_field"),
    "an unknown disposition": (altered(mail(), disposition="eaten"), "unknown_value"),
    "an unknown verdict": (altered(mail(), verdict="SPAM"), "unknown_value"),
    "an unknown channel": (altered(mail(), channel="fax"), "unknown_value"),
    "an unknown DMARC result": (altered(mail(), auth={"dmarc": "maybe"}), "unknown_value"),
    "a sender of 321 characters": (altered(mail(), sender="x" * 321), "too_long"),
    "a sender of 320 characters and 322 bytes": (altered(mail(), sender="é" * 2 + "x" * 318), "too_long"),
    "a token of 97 characters": (altered(mail(), tokens=["x" * 97]), "too_long"),
    "a token of 49 characters and 98 bytes": (altered(mail(), tokens=["é" * 49]), "too_long"),
    "an id of 43 characters and 129 bytes": (altered(mail(), id="€" * 43), "too_long"),
    "a campaign of 33 characters and 99 bytes": (altered(mail(), campaign="€" * 33), "too_long"),
    "a host of 128 characters and 256 bytes": (altered(mail(), source={"type": "t", "host": "é" * 128}), "too_long"),
    "nine tokens": (altered(mail(), tokens=list("abcdefghi")), "too_long"),
    "a country of three letters": (altered(mail(), country="DEU"), "too_long"),
    "an id without a character": (altered(mail(), id=""), "too_short"),
    "a token without a character": (altered(mail(), tokens=[""]), "too_short"),
    "no copies": (altered(mail(), copies=0), "out_of_range"),
    "more copies than may be claimed": (altered(mail(), copies=1_000_001), "out_of_range"),
    "a time before the epoch": (altered(mail(), time_ms=-1), "out_of_range"),
    "a time beyond 63 bits": (altered(mail()).replace(b'"time_ms":', b'"time_ms":99999999'), "out_of_range"),
    "an ASN of 33 bits": (altered(mail(), asn=1 << 32), "out_of_range"),
    "a size below zero": (altered(mail(), size_bytes=-1), "out_of_range"),
    "version 2": (altered(mail(), v=2), "version"),
    "version as text": (altered(mail(), v="1"), "version"),
    "no bytes": (b"", "empty"),
    "white space only": (b" \r\n\t\n", "empty"),
    "a name for an address": (altered(mail(), ip="localhost"), "bad_ip"),
    "an address with a port": (altered(mail(), ip="192.0.2.1:25"), "bad_ip"),
    "an address short of a part": (altered(mail(), ip="192.0.2"), "bad_ip"),
    "an address with a zone": (altered(mail(), ip="fe80::1%eth0"), "bad_ip"),
    "an address with a NUL": (altered(mail(), ip="192.0.2.1\0"), "bad_ip"),
    "an empty address": (altered(mail(), ip=""), "bad_ip"),
    "a country in small letters": (altered(mail(), country="de"), "bad_country"),
    "a country in letters of another script": (altered(mail(), country="ДЕ"), "bad_country"),
    "a country with a digit": (altered(mail(), country="D1"), "bad_country"),
}


@pytest.mark.parametrize(("value", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_line_is_refused_with_its_reason(value: bytes, reason: str) -> None:
    assert reason_of(value) == reason


def test_a_reason_never_quotes_the_input() -> None:
    for value, reason in REFUSED.values():
        for _, _, found in decode_lines(value):
            assert isinstance(found, InvalidInput)
            assert str(found) == found.reason == reason


def test_every_field_survives_encoding() -> None:
    event = mail(
        channel="im", direction="outbound", account="ann", helo="h", from_domain="f.test", country="DE", asn=64500,
        campaign="c-1", tokens=("url:a.test", "subject:b"), copies=1_000_000, sender="",
    )  # fmt: skip
    assert [found for _, _, found in decode_lines(encoded(event))] == [event]


def test_a_bad_line_in_the_middle_of_a_record_does_not_stop_the_good_ones() -> None:
    good, bad = spam(), b'{"v":1}'
    record = encoded(good) + b"\n" + bad + b"\n" + encoded(good)
    assert list(decode_lines(record))[0::2] == [(0, encoded(good), good), (2, encoded(good), good)]
    assert outcomes(record) == [(0, "good"), (1, "missing_field"), (2, "good")]
    assert next(line for index, line, _ in decode_lines(record) if index == 1) == bad


def test_one_object_written_over_several_lines_is_one_event() -> None:
    pretty = msgspec.json.format(encoded(mail()), indent=2)
    assert pretty.count(b"\n") > 5
    assert [(line, content) for line, content, _ in decode_lines(pretty)] == [(0, pretty)]
    assert reason_of(pretty) == "good"


def test_blank_lines_are_nothing_but_count_as_lines() -> None:
    assert outcomes(b"\n" + encoded(mail()) + b"\n\n \n" + encoded(mail()) + b"\n\n") == [(1, "good"), (4, "good")]


def test_lines_may_end_as_on_windows() -> None:
    assert outcomes(b"\r\n".join([encoded(mail()), b"bad", encoded(mail()), b""])) == [
        (0, "good"),
        (1, "not_json"),
        (2, "good"),
    ]


def test_unknown_fields_are_ignored() -> None:
    assert reason_of(altered(mail(), colour="red", nested={"a": [1, None]})) == "good"


def test_the_longest_allowed_is_allowed() -> None:
    longest = {"id": "x" * 128, "sender": "é" * 160, "tokens": ["€" * 32] * 8, "country": "DE", "asn": (1 << 32) - 1}
    assert reason_of(altered(mail(), **longest)) == "good"


def test_an_ipv4_address_mapped_into_ipv6_is_the_ipv4_one() -> None:
    assert packed_address("::ffff:192.0.2.1") == packed_address("192.0.2.1") == bytes([192, 0, 2, 1])
    assert packed_address("2001:db8::1") == bytes.fromhex("20010db8" + "00" * 11 + "01")


@pytest.mark.parametrize("text", ["192.0.2.256", "192.0.2.01x", "1", "", "::g", "192.0.2.1 ", "1.2.3.4\0", "é"])
def test_what_is_no_address_has_no_bytes(text: str) -> None:
    assert packed_address(text) is None


def test_a_country_is_two_capital_ascii_letters() -> None:
    assert [text for text in ("DE", "de", "D", "DEU", "D1", "ÄÖ", "") if is_country(text)] == ["DE"]


def test_a_line_is_plain_when_its_characters_are_its_bytes() -> None:
    assert is_plain(b'{"a":"b\\n"}')
    assert not is_plain(b'{"a":"\\u0000"}')
    assert not is_plain("é".encode())


def test_a_source_that_builds_events_is_told_what_is_wrong_with_them() -> None:
    check(mail(helo="x" * 320))
    for event, reason in (
        (mail(helo="é" * 161), "too_long"),
        (mail(account="a\0"), "nul"),
        (mail(ip="nowhere"), "bad_ip"),
        (mail(country="xx"), "bad_country"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            check(event)
