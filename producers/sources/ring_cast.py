"""Who is in the ring's world, and what each of them is called. Pure; a function of seed and sizes.

A message of this world is four choices: the way it came (address), the face it shows (who it says it is), its content (what it shares
with its kin) and its outcome. Every choice carries the names and counters that the story gives it, so that the truth is summed from
the story and not from the code that will be measured.

Addresses are private or reserved for benchmarks and documentation (RFC 1918, 2544, 5737, 3849), names are reserved (RFC 2606, 6761), AS
numbers private (RFC 6996).
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from producers.event import Auth, Direction, Disposition, Reason, Source, Verdict

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

OUR_DOMAIN: Final = "harbour.example"
NEWSLETTER_EVERY: Final = 10
"""One sender of this many also has a newsletter."""
SPAM_WAYS, SPAM_CONTENTS, SPAM_FACES, SNOWSHOES = 8_000, 1_500, 200, 50
ACCOUNTS: Final = 240
DECLARED: Final = 6
"""Of our accounts, so many send campaigns that they declare."""
RING_FACES: Final = 40
URL_DOMAINS: Final = 400
"""Domains the ring buys, uses for about an hour, and throws away."""
RING_HTML: Final = "html:7c1f0a52d9e48b36"
RING_CAMPAIGN: Final = "campaign:" + RING_HTML
PRODUCTS: Final = (
    "subject:cheap * pills no prescription",
    "subject:oem * software * off",
    "subject:* mortgage approved",
)
COUNTRIES: Final = ("BR", "CN", "IN", "KR", "PL", "RU", "TR", "UA", "VN")
RESERVED: Final = (
    # host of the sender, its registrable domain as its registry sells it
    ("example.com", "example.com"),
    ("mail.example.com", "example.com"),
    ("news.example.co.uk", "example.co.uk"),
    ("example.co.uk", "example.co.uk"),
    ("a.b.example.net", "example.net"),
    ("mx.example.co.jp", "example.co.jp"),
    ("Example.ORG", "example.org"),
)
"""Senders whose answerable host is not their registrable domain, so that the public suffix list has work to do."""


class Way(msgspec.Struct, frozen=True):
    """Where a message comes from."""

    ip: str | None
    ip_entity: str | None
    net_entity: str | None
    helo: str | None = None
    country: str | None = None
    asn: int | None = None


class Face(msgspec.Struct, frozen=True):
    """Who a message says it is, and how much of that was proved."""

    sender: str
    domain_entity: str
    sender_domain: str | None = None
    from_domain: str | None = None
    account: str | None = None
    auth: Auth | None = None
    direction: Direction = "inbound"


class Content(msgspec.Struct, frozen=True):
    """What a message shares with its kin."""

    campaign_entity: str
    tokens: tuple[str, ...] = ()
    declared: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a message, and the counters this adds to: `messages` by one, `bytes` by its size, the others by its copies."""

    disposition: Disposition
    source: Source
    adds: tuple[str, ...]
    verdict: Verdict = "unknown"
    reason: Reason | None = None


class Cast(msgspec.Struct, frozen=True):
    """Everybody. `*_from` are indexes where a group begins in `ways`, `faces` and `contents`."""

    ways: list[Way]
    faces: list[Face]
    contents: list[Content]
    sender_shares: Floats
    """Cumulative share of honest mail by sender: a few send most of it."""
    first_way: Ints
    """Of each sender; the ways of one sender lie together."""
    way_count: Ints
    newsletter_content: Ints
    """Of each sender, -1 for none."""
    account_shares: Floats
    account_faces_from: int
    account_ways_from: int
    declared_contents_from: int
    null_face: int
    spam_ways_from: int
    spam_faces_from: int
    spam_contents_from: int
    bot_ways_from: int
    ring_faces_from: int
    ring_contents_from: int


NO_WAY: Final = 0
NO_CONTENT: Final = 0
_PASSED: Final = Auth(spf="pass", dkim="pass", dmarc="pass")
_UNPROVED: Final = Auth(spf="softfail", dkim="none", dmarc="none")
_FORGED: Final = Auth(spf="fail", dkim="none", dmarc="fail")


def cast(seed: np.random.SeedSequence, senders: int, bots: int) -> Cast:
    """The same people for the same arguments."""
    rng = np.random.Generator(np.random.PCG64(seed))
    ways: list[Way] = [Way(None, None, None)]
    faces: list[Face] = []
    contents: list[Content] = [Content("campaign:(none)")]
    way_count = rng.integers(1, 5, senders)
    first_way = np.zeros(senders, dtype=np.int64)
    newsletter = np.full(senders, -1, dtype=np.int64)
    for number in range(senders):
        face = _honest_face(number)
        first_way[number] = len(ways)
        ways += [_honest_way(number, host, face) for host in range(int(way_count[number]))]
        faces.append(face)
        if number % NEWSLETTER_EVERY == 0:
            newsletter[number] = len(contents)
            contents.append(_newsletter(number))
    account_ways_from, account_faces_from, declared_from = len(ways), len(faces), len(contents)
    ways += [_way(f"192.0.2.{host}", "net:192.0.2.0/24") for host in range(1, 101)]
    faces += [_account(number) for number in range(ACCOUNTS)]
    contents += [_declared(number) for number in range(DECLARED)]
    null_face = len(faces)
    faces.append(Face("", "domain:(null)"))
    spam_ways_from, spam_faces_from, spam_contents_from = len(ways), len(faces), len(contents)
    ways += [_spam_way(number) for number in rng.choice(512 * 254, SPAM_WAYS, replace=False).tolist()]
    faces += [_spam_face(number) for number in range(SPAM_FACES)]
    contents += [_spam_content(number) for number in range(SPAM_CONTENTS)]
    bot_ways_from, ring_faces_from, ring_contents_from = len(ways), len(faces), len(contents)
    ways += [_bot(number) for number in rng.choice(10_000 * 254, bots, replace=False).tolist()]
    faces += [_ring_face(number) for number in range(RING_FACES)]
    contents += [_ring_content(domain, product) for domain in range(URL_DOMAINS) for product in PRODUCTS]
    return Cast(
        ways=ways,
        faces=faces,
        contents=contents,
        sender_shares=_shares(rng, senders),
        first_way=first_way,
        way_count=way_count,
        newsletter_content=newsletter,
        account_shares=_shares(rng, ACCOUNTS),
        account_faces_from=account_faces_from,
        account_ways_from=account_ways_from,
        declared_contents_from=declared_from,
        null_face=null_face,
        spam_ways_from=spam_ways_from,
        spam_faces_from=spam_faces_from,
        spam_contents_from=spam_contents_from,
        bot_ways_from=bot_ways_from,
        ring_faces_from=ring_faces_from,
        ring_contents_from=ring_contents_from,
    )


def _shares(rng: np.random.Generator, count: int) -> Floats:
    """Cumulative shares, heavy-tailed (Pareto 1.1, cut off at 300 times the smallest)."""
    sizes = np.minimum(rng.pareto(1.1, count) + 1, 300)
    shares: Floats = np.cumsum(sizes) / sizes.sum()
    return shares


def _way(ip: str, net_entity: str, helo: str | None = None, country: str | None = None, asn: int | None = None) -> Way:
    return Way(ip, "ip:" + ip, net_entity, helo, country, asn)


def _honest_face(number: int) -> Face:
    host, registrable = (
        RESERVED[number]
        if number < len(RESERVED)
        else (f"sender-{number}.{('example', 'test', 'invalid')[number % 3]}",) * 2
    )
    return Face(f"news@{host}", f"domain:{registrable}", host, host.lower(), auth=_PASSED)


def _honest_way(number: int, host: int, face: Face) -> Way:
    helo, country, asn = f"mx{host}.{face.from_domain}", ("US", "DE", "GB", "FR")[number % 4], 64_512 + number % 800
    if number % 33 == 5:
        site, subnet = number + 1, host + 1
        prefix = f"2001:db8:{site:x}:{subnet:x}::"
        return Way(f"{prefix}{host + 25:x}", f"ip:{prefix}/64", f"net:2001:db8:{site:x}::/48", helo, country, asn)
    net = f"10.{number >> 8}.{number & 255}"
    return _way(f"{net}.{10 + host}", f"net:{net}.0/24", helo, country, asn)


def _newsletter(number: int) -> Content:
    """Some show structure, some only a link or a subject; the order of the tokens says nothing."""
    html, url, subject = (
        f"html:a{number:015x}",
        f"url:shop-{number}.example",
        f"subject:* offers of week * no. {number}",
    )
    tokens, name = (
        ((html, url, subject), html),
        ((subject, url, html), html),
        ((subject, url), url),
        ((subject,), subject),
        ((f"list:{number}",), f"list:{number}"),
    )[number // NEWSLETTER_EVERY % 5]
    return Content("campaign:" + name, tokens)


def _account(number: int) -> Face:
    name = f"user-{number}@{OUR_DOMAIN}"
    return Face(name, "domain:" + OUR_DOMAIN, OUR_DOMAIN, OUR_DOMAIN, name, _PASSED, "outbound")


def _declared(number: int) -> Content:
    return Content(
        f"campaign:declared:spring-{number}", ("html:declared-ids-go-first", f"url:{OUR_DOMAIN}"), f"spring-{number}"
    )


def _spam_way(number: int) -> Way:
    net = f"198.{18 + (number // 254 >> 8)}.{number // 254 & 255}"
    return _way(f"{net}.{number % 254 + 1}", f"net:{net}.0/24", f"host-{number}.invalid", "US", 65_000 + number % 300)


def _spam_face(number: int) -> Face:
    """Most prove nothing; the first few are snowshoe domains that pass everything."""
    domain = f"deals-{number}.test"
    if number < SNOWSHOES:
        return Face(f"offer@{domain}", "domain:" + domain, domain, domain, auth=_PASSED)
    return Face(
        f"someone@{domain}", "domain:(unauthenticated)", None, domain, auth=_FORGED if number % 4 == 0 else _UNPROVED
    )


def _spam_content(number: int) -> Content:
    if number % 3 == 0:
        return Content(f"campaign:subject:win * prize {number}", (f"subject:win * prize {number}",))
    return Content(
        f"campaign:url:spam-{number}.invalid", (f"url:spam-{number}.invalid", f"subject:hello * {number % 50}")
    )


def _bot(number: int) -> Way:
    """A compromised computer: its net lies in one of nine countries."""
    net = number // 254
    text = f"10.{128 + (net >> 8)}.{net & 255}"
    country, asn = COUNTRIES[net % len(COUNTRIES)], 4_200_000_000 + net % 300
    return _way(f"{text}.{number % 254 + 1}", f"net:{text}.0/24", f"[{text}.{number % 254 + 1}]", country, asn)


def _ring_face(number: int) -> Face:
    """Nothing proved; every fifth forges our own domain, as the provider's customers would trust it."""
    domain = OUR_DOMAIN if number % 5 == 0 else f"victim-{number}.example"
    auth = _FORGED if number % 5 == 0 or number % 3 == 0 else _UNPROVED
    return Face(f"bounce-{number}@{domain}", "domain:(unauthenticated)", None, domain, auth=auth)


def _ring_content(domain: int, product: str) -> Content:
    return Content(RING_CAMPAIGN, (RING_HTML, f"url:pharm-{domain}.invalid", product))
