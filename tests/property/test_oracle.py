"""The oracle and the contract's decoder were written apart: whatever stands in a field, they say the same."""

import json

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from producers.errors import InvalidInput
from producers.event import MailEvent, decode_lines
from tests import oracle
from tests.builders import mail

LATER_MS = 253_402_300_799_999

numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(-1e15, 1e15, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=400) | st.sampled_from(
    [
        "",
        "\0",
        "DE",
        "spam",
        "192.0.2.1",
        "::1",
        "1.2.3.4.",
        "01.2.3.4",
        "2001:db8::1%1",
        "::ffff:1.2.3.4",
        "é" * 161,
        "ß" * 48,
    ]
)
plain = st.none() | st.booleans() | numbers | texts
anything = (
    plain
    | st.lists(plain, max_size=10)
    | st.dictionaries(st.sampled_from(["spf", "dkim", "type", "host", "counts"]), plain)
)


@given(st.sampled_from(MailEvent.__struct_fields__), anything)
@example("ip", "1.2.3.4\n")
@example("country", "ÄÖ")
@settings(max_examples=600, deadline=None)
def test_one_changed_field_is_judged_alike(field: str, value: object) -> None:
    line = json.dumps(msgspec.to_builtins(mail()) | {field: value}, ensure_ascii=False).encode()
    ((_, _, event),) = decode_lines(line)
    refused = [reason for _, _, reason in oracle.count([(line, LATER_MS)]).refused]
    assert len(refused) == isinstance(event, InvalidInput)
    if isinstance(event, InvalidInput) and not isinstance(value, dict | list):  # of two faults either may be told first
        assert refused == [event.reason]


@given(
    st.lists(
        st.sampled_from([b"", b" ", b"{", b"}", b"[]", b"\0", b"\xff", b'{"v":1}', msgspec.json.encode(mail())]),
        max_size=6,
    )
)
@settings(deadline=None)
def test_the_lines_of_a_record_are_told_alike(parts: list[bytes]) -> None:
    value = b"\n".join(parts)
    told = [(line, event.reason) for line, _, event in decode_lines(value) if isinstance(event, InvalidInput)]
    assert [(line, reason) for _, line, reason in oracle.count([(value, LATER_MS)]).refused] == told
