"""Events become cells: sums, details, sizes."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np
import pytest

from producers.event import MailEvent
from streams.accumulate import Accumulator
from streams.known import Known
from streams.rollup import MAX_ROLLUP_BYTES, ON_TIME, Detail, Rollup, hll_estimate, hll_register
from streams.topics import ENTITY_PARTITIONS, partition_of
from streams.volume import COUNTERS
from tests.builders import FORGED, LOG, MINUTE_MS, NOON_MS, complaint, mail, spam, trap_hit
from tests.world import cells_in

NOON = NOON_MS // MINUTE_MS


def accumulated(events: Sequence[MailEvent], late: Sequence[bool] | None = None) -> list[Rollup]:
    sums = Accumulator()
    prepared = sums.prepare(events)
    after = np.where(late or [False] * len(events), NOON + 90, ON_TIME)
    sums.add(prepared, ~(prepared.bad_ip | prepared.bad_country), after)
    return list(chain.from_iterable(sums.drain()))


def named(**counters: int) -> tuple[int, ...]:
    return tuple(counters.get(name, 0) for name in COUNTERS)


def details_of(records: Sequence[Rollup]) -> dict[str, Detail]:
    return {detail.entity: detail for record in records for detail in record.details}


def test_an_event_counts_for_its_campaign_account_domain_address_and_net() -> None:
    event = spam(account="ann", sender_domain="mail.shop.example.com", copies=3, size_bytes=50)
    cells = cells_in(accumulated([event]))
    expected = named(copies=3, messages=1, unwanted=3, bytes=50)
    entities = ("campaign:html:spam", "account:ann", "domain:example.com", "ip:198.51.100.7", "net:198.51.100.0/24")
    own = {key: value for key, value in cells.items() if not key[0].startswith("intake:")}
    assert own == {(entity, NOON, False): expected for entity in entities}


def test_every_partition_knows_all_intake() -> None:
    cells = cells_in(accumulated([spam(copies=3), mail(copies=4, tokens=("url:x",)), spam(NOON_MS + MINUTE_MS)]))
    for partition in range(ENTITY_PARTITIONS):
        assert cells[f"intake:{partition}", NOON, False][0] == 7
        assert cells[f"intake:{partition}", NOON + 1, False][0] == 1


def test_entities_go_to_their_own_partition() -> None:
    events = [mail(ip=f"10.1.{index}.1", tokens=(f"url:c{index}.test",)) for index in range(200)]
    records = accumulated(events)
    assert {record.partition for record in records} == set(range(ENTITY_PARTITIONS))
    for record in records:
        for name in record.names:
            assert name == f"intake:{record.partition}" or record.partition == partition_of(name)


def test_an_event_without_content_account_address_and_answerable_domain_counts_for_nobody_in_particular() -> None:
    cells = cells_in(accumulated([mail(sender_domain=None, ip=None)]))
    assert {key[0] for key in cells if not key[0].startswith("intake:")} == {
        "campaign:(none)",
        "domain:(unauthenticated)",
    }


def test_the_null_sender_is_not_the_unauthenticated_one() -> None:
    cells = cells_in(accumulated([mail(sender="", sender_domain=None)]))
    assert ("domain:(null)", NOON, False) in cells


def test_each_disposition_adds_to_its_own_counters() -> None:
    events = [
        mail(copies=2, size_bytes=7),
        mail(disposition="rejected", reason="policy", size_bytes=1),
        mail(disposition="rejected", reason="unknown_user", auth=FORGED, size_bytes=0),
        mail(disposition="deferred", copies=5),
        mail(disposition="attempt"),
        mail(disposition="bounced"),
        complaint(),
        trap_hit(ip="192.0.2.1", size_bytes=9),
        mail(source=LOG, copies=100),
        trap_hit(ip="192.0.2.1", source=LOG),
    ]
    expected = named(
        copies=5, messages=4, unwanted=3, rejected=2, traps=2, complaints=1, forged=1, deferred=6, bounced=1, bytes=17
    )
    assert cells_in(accumulated(events))["ip:192.0.2.1", NOON, False] == expected


def test_what_counts_nowhere_makes_no_cell() -> None:
    assert cells_in(accumulated([mail(source=LOG)])) == {}


def test_late_events_have_cells_of_their_own() -> None:
    cells = cells_in(accumulated([mail(), mail(), mail()], late=[False, True, True]))
    assert cells["ip:192.0.2.1", NOON, False][0] == 1
    assert cells["ip:192.0.2.1", NOON, True][0] == 2


def test_bad_origins_are_marked_and_left_out() -> None:
    sums = Accumulator()
    prepared = sums.prepare([mail(ip="nowhere"), mail(), mail(country="xx"), mail(ip="::ffff:192.0.2.1")])
    assert prepared.bad_ip.tolist() == [True, False, False, False]
    assert prepared.bad_country.tolist() == [False, False, True, False]
    sums.add(prepared, ~(prepared.bad_ip | prepared.bad_country), np.full(4, ON_TIME))
    assert sums.events == 2
    assert cells_in(chain.from_iterable(sums.drain()))["ip:192.0.2.1", NOON, False][0] == 2


def test_an_empty_flush_still_has_a_record_for_every_partition() -> None:
    records = Accumulator().drain()
    assert [[record.partition for record in part] for part in records] == [[p] for p in range(ENTITY_PARTITIONS)]
    assert all(not record.names and not record.details for part in records for record in part)


def test_a_flush_forgets_what_it_told() -> None:
    sums = Accumulator()
    sums.add(sums.prepare([mail()]), np.array([True]), np.array([False]))
    assert cells_in(chain.from_iterable(sums.drain()))
    assert sums.events == 0
    assert cells_in(chain.from_iterable(sums.drain())) == {}


def test_a_flush_over_years_gives_the_same_sums_as_many_over_a_minute() -> None:
    # dense and sparse grouping: [0---- minutes of an hour] and a few minutes years apart
    times = [NOON_MS + index % 20 * MINUTE_MS for index in range(60)]
    times += [0, NOON_MS - 5 * 365 * 86_400_000, NOON_MS - 86_400_000]
    events = [mail(time, ip=f"10.0.{index % 3}.{index % 7}") for index, time in enumerate(times)]
    apart: Counter[tuple[str, int, bool]] = Counter()
    for event in events:
        apart.update({key: counters[0] for key, counters in cells_in(accumulated([event])).items()})
    together = {key: counters[0] for key, counters in cells_in(accumulated(events)).items()}
    assert together == apart


# -- sizes ----------------------------------------------------------------------------------------------------------------


def encoded_sizes(records: Sequence[Rollup]) -> list[int]:
    return [len(msgspec.msgpack.encode(record)) for record in records]


def test_records_stay_small_with_long_names_and_many_entities() -> None:
    events = [
        spam(
            account=f"{index:04}" + "é" * 150,
            tokens=(f"html:{index:04}" + "x" * 80, *(f"url:{t}" + "y" * 85 for t in range(7))),
            sender_domain=f"d{index}." + "z" * 60 + ".test",
            ip=f"10.{index >> 8}.{index & 255}.1",
            country="DE",
        )
        for index in range(6_000)
    ]
    records = accumulated(events)
    assert len(records) > ENTITY_PARTITIONS, "the case must be large enough to split"
    assert max(encoded_sizes(records)) < MAX_ROLLUP_BYTES
    cells = cells_in(records)
    assert sum(value[0] for key, value in cells.items() if key[0].startswith("campaign:")) == 6_000
    assert len(details_of(records)) == sum(len(record.details) for record in records), "a detail is told once"
    assert sum(name.startswith("account:") for name in details_of(records)) == 6_000


def test_records_stay_small_over_many_minutes() -> None:
    events = [mail(NOON_MS + index * MINUTE_MS, size_bytes=1 << 33) for index in range(30_000)]
    records = accumulated(events)
    assert len(records) > ENTITY_PARTITIONS
    assert max(encoded_sizes(records)) < MAX_ROLLUP_BYTES
    own = [record for record in records if record.partition == 5]
    assert sum(value[0] for key, value in cells_in(own).items() if key[0] == "intake:5") == 30_000


# -- details --------------------------------------------------------------------------------------------------------------


def test_an_unwanted_campaign_is_known_by_tokens_countries_and_addresses() -> None:
    events = [
        spam(campaign="html:ring", tokens=("html:ring", f"url:{index % 10}.test"), ip=f"10.0.{index}.1",
             country=("DE", "FR", "US")[index % 3], copies=index + 1)
        for index in range(40)
    ]  # fmt: skip
    ring = details_of(accumulated(events))["campaign:html:ring"]
    countries = Counter[str]()
    urls = Counter[str]()
    for index, event in enumerate(events):
        countries[str(event.country)] += index + 1
        urls[event.tokens[1]] += index + 1
    leading = sorted(urls.items(), key=lambda pair: (-pair[1], pair[0]))
    assert ring.countries == tuple(sorted(countries.items(), key=lambda pair: (-pair[1], pair[0])))
    assert ring.tokens == (("html:ring", 820), *leading[:7])
    assert registers_of(ring) == registers_for(f"10.0.{index}.1" for index in range(40))


def test_a_net_is_known_by_its_campaigns_and_honest_mail_by_nothing() -> None:
    events = [spam(campaign=f"html:{index}", ip=f"10.0.0.{index}") for index in range(20)]
    details = details_of(accumulated([*events, mail(tokens=("url:honest.test",))]))
    assert registers_of(details["net:10.0.0.0/24"]) == registers_for(f"html:{index}" for index in range(20))
    assert "campaign:url:honest.test" not in details
    assert not any(name.startswith(("ip:", "domain:")) for name in details)


def registers_of(detail: Detail) -> list[int]:
    found: list[int] = np.frombuffer(detail.registers, "<u2").tolist()
    return found


def registers_for(names: object) -> list[int]:
    highest: dict[int, int] = {}
    assert hasattr(names, "__iter__")
    for name in names:
        packed = hll_register(name)
        highest[packed >> 6] = max(highest.get(packed >> 6, 0), packed & 63)
    return sorted(register << 6 | rank for register, rank in highest.items())


def test_unwanted_mail_without_an_address_is_known_by_its_tokens() -> None:
    detail = details_of(accumulated([spam(ip=None, country=None)]))["campaign:html:spam"]
    assert detail == Detail("campaign:html:spam", (("html:spam", 1),), (), b"")
    assert details_of(accumulated([spam(ip=None, tokens=())])) == {
        "campaign:(none)": Detail("campaign:(none)", (), (), b"")
    }


@pytest.mark.parametrize("distinct", [10, 1_000, 20_000])
def test_addresses_of_a_campaign_are_estimated_over_flushes(distinct: int) -> None:
    known = Known()
    addresses = [f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}" for index in range(distinct)]
    for start in range(0, distinct, 5_000):
        events = [spam(ip=ip) for ip in addresses[start : start + 5_000]]
        known.merge(details_of(accumulated(events))["campaign:html:spam"])
    assert abs(hll_estimate(known.registers) - distinct) <= distinct * 0.1
