"""Whatever is in a log and wherever a source is killed: each message once, and nothing raises."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.event import check
from tests.postfix_log import active, client, delivery, filtered, join, joiner, line, of, removed, requeued

ID = 0x4A000000


def story(number: int, kind: str, recipients: int) -> list[str]:
    """The lines of one message, which has queue ids of its own."""
    first, second = f"{ID + 2 * number:X}", f"{ID + 2 * number + 1:X}"
    if kind == "direct":
        return [
            client("10:00:00", first),
            active("10:00:00", first, recipients),
            *[delivery("10:00:01", first)] * recipients,
            removed("10:00:01", first),
        ]
    if kind == "deferred":
        return [
            client("10:00:00", first),
            active("10:00:00", first, recipients),
            delivery("10:00:01", first, "deferred (no)", dsn="4.4.1"),
        ]
    if kind == "pickup":
        return [
            line("10:00:00", "pickup", f"{first}: uid=0 from=<root>"),
            *filtered(first, second, recipients=recipients)[1:],
        ]
    address = "127.0.0.1" if kind == "local" else f"192.0.2.{number % 250}"
    return filtered(first, second, address, recipients)


kinds = st.sampled_from(["direct", "deferred", "pickup", "local", "filtered"])
messages = st.lists(st.tuples(kinds, st.integers(1, 4)), min_size=1, max_size=12)


def interleave(stories: list[list[str]], seed: int) -> list[str]:
    """One log of all; the lines of each message stay in order."""
    rng, waiting, log = random.Random(seed), [list(lines) for lines in stories], []
    while waiting:
        chosen = rng.choice(waiting)
        log.append(chosen.pop(0))
        waiting = [lines for lines in waiting if lines]
    return log


@given(messages, st.integers(0, 1 << 32))
def test_each_message_is_counted_once_however_the_lines_mix(told: list[tuple[str, int]], seed: int) -> None:
    log = interleave([story(number, kind, recipients) for number, (kind, recipients) in enumerate(told)], seed)
    events = join(log)
    assert sorted(event.copies for event in of(events, "accepted")) == sorted(recipients for _, recipients in told)
    assert len(of(events, "deferred")) == sum(kind == "deferred" for kind, _ in told)
    assert len({event.id for event in events}) == len(events)


@given(messages, st.integers(0, 1 << 32), st.sets(st.integers(0, 200), max_size=5))
def test_killed_and_restored_at_any_line_gives_the_same_events(
    told: list[tuple[str, int]], seed: int, kills: set[int]
) -> None:
    log = interleave([story(number, kind, recipients) for number, (kind, recipients) in enumerate(told)], seed)
    events, current = [], joiner()
    for number, text in enumerate(log):
        if number in kills:
            events += current.take()
            state, current = current.snapshot(), joiner()
            current.restore(state)
        current.feed(text.encode())
    current.finish()
    assert events + current.take() == join(log)


@given(messages, st.integers(0, 1 << 32), st.integers(0, 200))
def test_a_log_that_is_rotated_anywhere_adds_up(told: list[tuple[str, int]], seed: int, cut: int) -> None:
    """Two files, each read by itself. A message that is inside the filter just then may count in both."""
    log = interleave([story(number, kind, recipients) for number, (kind, recipients) in enumerate(told)], seed)
    counted = of(join(log[:cut]), "accepted") + of(join(log[cut:]), "accepted")
    in_filter = sum(kind not in ("direct", "deferred") for kind, _ in told)
    assert len(told) <= len(counted) <= len(told) + in_filter


words = st.sampled_from(
    [client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D"), delivery("10:00:00", "4A1B2C3D"), requeued("10:00:00", "4A1B2C3D", "5A1B2C3D"),
     removed("10:00:00", "4A1B2C3D"), line("10:00:00", "smtpd", "NOQUEUE: reject: RCPT from h[192.0.2.7]: 554 5.7.1 no; from=<a@b> to=<c@d> proto=SMTP helo=<h>")]
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A line of a log in which bytes were replaced, put in or left out."""
    text = bytearray(draw(words).encode())
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 6))] = draw(
            st.binary(max_size=6) | st.sampled_from([b"<", b">", b'"', b"; from=<", b"status=sent", b"\0"])
        )
    return bytes(text)


@settings(max_examples=300)
@given(st.lists(damaged() | st.binary(max_size=80), max_size=30))
def test_whatever_is_in_a_line_nothing_raises_and_every_event_is_valid(log: list[bytes]) -> None:
    joined = joiner()
    for text in log:
        joined.feed(text)
        restored = joiner()
        restored.restore(joined.snapshot())
        assert restored.snapshot() == joined.snapshot()
    joined.finish()
    for event in joined.take():
        check(event)
        assert 1 <= event.copies <= 1_000_000
