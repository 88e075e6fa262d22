"""What happens in an hour of the ring's world, as columns of choices from the cast. Pure; randomness is an argument."""

from typing import Final, NamedTuple

import numpy as np

from producers.event import Source
from producers.sources.ring_cast import (
    ACCOUNTS,
    DECLARED,
    NO_CONTENT,
    NO_WAY,
    PRODUCTS,
    RING_FACES,
    SNOWSHOES,
    SPAM_CONTENTS,
    SPAM_FACES,
    SPAM_WAYS,
    URL_DOMAINS,
    Cast,
    Ints,
    Outcome,
)


class Hour(NamedTuple):
    """Events in order of publication: when, and indexes into the cast."""

    time_ms: Ints
    way: Ints
    face: Ints
    content: Ints
    outcome: Ints
    copies: Ints
    size_bytes: Ints


Columns = tuple[Ints, Ints, Ints, Ints, Ints, Ints]
"""An `Hour` without its times."""

_MX: Final = Source("rspamd", "mx1.harbour.example")
_LOG: Final = Source("postfix", "mx1.harbour.example", counts=False)
_TRAP: Final = Source("mailbox", "traps.harbour.example")
_DESK: Final = Source("arf", "abuse.harbour.example")
_PARTNER: Final = Source("arf", "partner.harbour.example", counts=False)
_MAIL: Final = ("copies", "messages", "bytes")
_BAD: Final = (*_MAIL, "unwanted")

OUTCOMES: Final = (
    Outcome("accepted", _MX, _MAIL, "ham"),
    Outcome("accepted", _MX, _MAIL, "unknown"),
    Outcome("rejected", _MX, (*_MAIL, "rejected"), "unknown", "unknown_user"),
    Outcome("accepted", _MX, _BAD, "spam"),
    Outcome("accepted", _MX, _BAD, "phish"),
    Outcome("accepted", _MX, _BAD, "malware"),
    Outcome("rejected", _MX, (*_BAD, "rejected"), "unknown", "content"),
    Outcome("rejected", _MX, (*_BAD, "rejected"), "unknown", "policy"),
    Outcome("rejected", _MX, (*_MAIL, "rejected"), "unknown", "rate"),
    Outcome("rejected", _MX, (*_MAIL, "rejected"), "unknown", "auth"),
    Outcome("attempt", _MX, ("deferred",)),
    Outcome("deferred", _MX, ("deferred",)),
    Outcome("bounced", _MX, ("bounced",)),
    Outcome("complaint", _DESK, ("complaints", "unwanted")),
    Outcome("complaint", _PARTNER, ("complaints",)),
    Outcome("accepted", _LOG, (), "ham"),  # what the MX counted already
    Outcome("rejected", _MX, (*_BAD, "rejected"), "spam", "content"),
    Outcome("trap", _TRAP, (*_BAD, "traps"), "spam"),
)
(
    HAM, UNKNOWN, NO_SUCH_USER, SPAM, PHISH, MALWARE, CONTENT, POLICY, RATE, AUTH,
    GREYLISTED, DEFERRED, BOUNCED, COMPLAINT, PARTNERS_COMPLAINT, SEEN_AGAIN, RING_REFUSED, TRAPPED,
) = range(len(OUTCOMES))  # fmt: skip

_SHARES: Final = (0.60, 0.18, 0.105, 0.06, 0.03, 0.01, 0.005, 0.002, 0.008)
"""Of the background: personal, newsletters, our own, spam, greylisting, bounces, notices from `<>`, complaints, seen again."""
_SEND_HOURS: Final = 4
"""How long a newsletter takes to go out, once a week."""


def background(people: Cast, rng: np.random.Generator, count: int, hour_of_world: int) -> Columns:
    """An hour of everybody but the ring. `hour_of_world` counts from the Unix epoch and decides which newsletters go out."""
    counts = rng.multinomial(count, _SHARES).tolist()
    personal, letters, ours, spam, greylisted, bounced, notices, complaints, again = counts
    parts = (
        _personal(people, rng, personal, HAM),
        _newsletters(people, rng, letters, hour_of_world),
        _ours(people, rng, ours),
        _everyday_spam(people, rng, spam),
        _greylisted(people, rng, greylisted),
        _bounced(people, rng, bounced),
        _notices(people, rng, notices),
        _complaints(people, rng, complaints, hour_of_world),
        _personal(people, rng, again, SEEN_AGAIN),
    )
    way, face, content, outcome, copies, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    return way, face, content, outcome, copies, size


def trapped(people: Cast, rng: np.random.Generator, count: int, hour: int, hours: int, bots: int) -> Columns:
    """The ring's mail that a trap mailbox caught: one recipient each."""
    way, face, content, size = _ring(people, rng, count, hour / hours, bots)
    return way, face, content, _all(count, TRAPPED), _all(count, 1), size


def refused(people: Cast, rng: np.random.Generator, count: int, hour: int, hours: int, bots: int) -> Columns:
    """The ring's mail that our MX refused for its content."""
    way, face, content, size = _ring(people, rng, count, hour / hours, bots)
    return way, face, content, _all(count, RING_REFUSED), rng.integers(1, 4, count), size


def _ring(people: Cast, rng: np.random.Generator, count: int, done: float, bots: int) -> tuple[Ints, Ints, Ints, Ints]:
    """A fifth of the bots is in use at a time, and a handful of link domains; `done` is how far the world has come, of 1."""
    bot = (int(done * bots) + rng.integers(0, max(1, bots // 5), count)) % bots
    domain = (int(done * URL_DOMAINS) + rng.integers(0, 3, count)) % URL_DOMAINS
    content = people.ring_contents_from + domain * len(PRODUCTS) + rng.integers(0, len(PRODUCTS), count)
    face = people.ring_faces_from + rng.integers(0, RING_FACES, count)
    return people.bot_ways_from + bot, face, content, rng.integers(2_000, 6_000, count)


def _personal(people: Cast, rng: np.random.Generator, count: int, outcome: int) -> Columns:
    sender, way = _senders(people, rng, count)
    if outcome == HAM:
        became = rng.choice((HAM, UNKNOWN, NO_SUCH_USER), count, p=(0.95, 0.045, 0.005))
    else:
        became = _all(count, outcome)
    return way, sender, _all(count, NO_CONTENT), became, rng.geometric(0.8, count), _sizes(rng, count)


def _newsletters(people: Cast, rng: np.random.Generator, count: int, hour: int) -> Columns:
    sender = _on_air(people, rng, count, hour)
    copies = rng.integers(1, 31, count)
    return (
        _way_of(people, rng, sender),
        sender,
        people.newsletter_content[sender],
        _all(count, HAM),
        copies,
        _sizes(rng, count),
    )


def _complaints(people: Cast, rng: np.random.Generator, count: int, hour: int) -> Columns:
    sender = _on_air(people, rng, count, hour)
    became = rng.choice((COMPLAINT, PARTNERS_COMPLAINT), count, p=(0.7, 0.3))
    return (
        _way_of(people, rng, sender),
        sender,
        people.newsletter_content[sender],
        became,
        _all(count, 1),
        _all(count, 0),
    )


def _on_air(people: Cast, rng: np.random.Generator, count: int, hour: int) -> Ints:
    """Senders whose newsletter goes out now, each in its own hours of the week; in a small world, any that has one."""
    writers = np.flatnonzero(people.newsletter_content >= 0)
    begins = writers * 2_654_435_761 % 168  # spread over the week
    now = writers[(hour - begins) % 168 < _SEND_HOURS]
    return rng.choice(now if len(now) else writers, count)


def _ours(people: Cast, rng: np.random.Generator, count: int) -> Columns:
    """Our own people write; the first few run campaigns that they declare. Every fourth message comes by the web, without address."""
    account = np.minimum(np.searchsorted(people.account_shares, rng.random(count)), ACCOUNTS - 1)
    way = np.where(rng.random(count) < 0.25, NO_WAY, people.account_ways_from + account % 100)
    declared = account < DECLARED
    content = np.where(declared, people.declared_contents_from + account % DECLARED, NO_CONTENT)
    copies = np.where(declared, rng.integers(1, 41, count), rng.geometric(0.7, count))
    became = rng.choice((HAM, DEFERRED), count, p=(0.97, 0.03))
    return way, people.account_faces_from + account, content, became, copies, _sizes(rng, count)


def _everyday_spam(people: Cast, rng: np.random.Generator, count: int) -> Columns:
    face = np.where(
        rng.random(count) < 0.1, rng.integers(0, SNOWSHOES, count), rng.integers(SNOWSHOES, SPAM_FACES, count)
    )
    outcomes = (SPAM, PHISH, MALWARE, CONTENT, POLICY, NO_SUCH_USER, RATE, AUTH)
    became = rng.choice(outcomes, count, p=(0.25, 0.04, 0.01, 0.30, 0.15, 0.15, 0.05, 0.05))
    content = people.spam_contents_from + rng.integers(0, SPAM_CONTENTS, count)
    way = people.spam_ways_from + rng.integers(0, SPAM_WAYS, count)
    return way, people.spam_faces_from + face, content, became, rng.integers(1, 4, count), _sizes(rng, count)


def _greylisted(people: Cast, rng: np.random.Generator, count: int) -> Columns:
    """Turned away before DATA: nothing is proved and nothing is shown."""
    way = people.spam_ways_from + rng.integers(0, SPAM_WAYS, count)
    face = people.spam_faces_from + rng.integers(SNOWSHOES, SPAM_FACES, count)
    return way, face, _all(count, NO_CONTENT), _all(count, GREYLISTED), _all(count, 1), _all(count, 0)


def _bounced(people: Cast, rng: np.random.Generator, count: int) -> Columns:
    """Our own mail that came back."""
    account = rng.integers(0, ACCOUNTS, count)
    face = people.account_faces_from + account
    return _all(count, NO_WAY), face, _all(count, NO_CONTENT), _all(count, BOUNCED), _all(count, 1), _all(count, 0)


def _notices(people: Cast, rng: np.random.Generator, count: int) -> Columns:
    """Others' notices of failure, from the null sender."""
    _, way = _senders(people, rng, count)
    face = _all(count, people.null_face)
    return way, face, _all(count, NO_CONTENT), _all(count, HAM), _all(count, 1), _sizes(rng, count)


def _senders(people: Cast, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
    last = len(people.sender_shares) - 1
    sender: Ints = np.minimum(np.searchsorted(people.sender_shares, rng.random(count)), last)
    return sender, _way_of(people, rng, sender)


def _way_of(people: Cast, rng: np.random.Generator, sender: Ints) -> Ints:
    way: Ints = people.first_way[sender] + rng.integers(0, people.way_count[sender])
    return way


def _sizes(rng: np.random.Generator, count: int) -> Ints:
    """Log-normal about 12 KB, at most 25 MB."""
    return np.minimum(rng.lognormal(9.4, 1.2, count), 25_000_000).astype(np.int64)


def _all(count: int, value: int) -> Ints:
    return np.full(count, value, dtype=np.int64)
