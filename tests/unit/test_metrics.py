"""Metrics: one table, bounded series, labels without anybody's address."""

import re
import socket
import urllib.request
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from producers.errors import Unavailable
from streams.metrics import (
    BY_NAME,
    MAX_LABEL_CHARS,
    SHOWN,
    SHOWN_UNTIL,
    TABLE,
    CounterName,
    GaugeName,
    HistogramName,
    Metric,
    Metrics,
    Stage,
    TopSeries,
    label_of,
    stay_or_enter,
)

KINDS = {"counter": CounterName, "gauge": GaugeName, "histogram": HistogramName}
SERIES = "track_entity_unwanted_month_copies"


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Values of a metric by its labels, as Prometheus reads them."""
    families = text_string_to_metric_families(metrics.render().decode())
    found = [sample for family in families for sample in family.samples if sample.name == f"spamtide_{name}"]
    return {tuple(sample.labels[label] for label in BY_NAME[name].labels): sample.value for sample in found}


def test_every_name_stands_once_in_the_table_under_its_kind() -> None:
    assert len(BY_NAME) == len(TABLE)
    for kind, names in KINDS.items():
        assert {metric.name for metric in TABLE if metric.kind == kind} == set(get_args(names))


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_a_name_says_its_kind_and_base_unit(metric: Metric) -> None:
    assert metric.help.endswith(".")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert ("seconds" in metric.name) == (metric.unit == "seconds")
    assert metric.kind != "histogram" or metric.unit == "seconds"
    assert metric.name.split("_")[0] in (*get_args(Stage), "build")


@pytest.mark.parametrize("stage", get_args(Stage))
def test_a_stage_shows_its_own_metrics_and_which_version_it_is(stage: Stage) -> None:
    text = Metrics(stage).render().decode()
    families = set(re.findall(r"^# TYPE spamtide_(\w+?)(?:_total)? \w+$", text, re.MULTILINE))
    assert {metric.name.removesuffix("_total") for metric in TABLE if metric.name.startswith(stage)} <= families
    assert not [name for name in families if not name.startswith((stage, "build_info"))]
    assert f'stage="{stage}"' in text


def test_counters_are_added_in_bulk_and_a_bool_is_a_gauge() -> None:
    metrics = Metrics("count")
    metrics.add("count_bad_total", 3, reason="nul")
    metrics.add("count_bad_total", 4, reason="nul")
    metrics.set("count_partition_idle", True, partition="7")
    metrics.observe("count_flush_seconds", 0.2)
    assert samples(metrics, "count_bad_total") == {("nul",): 7}
    assert samples(metrics, "count_partition_idle") == {("7",): 1}
    assert "spamtide_count_flush_seconds_count 1.0" in metrics.render().decode()


def test_two_of_one_stage_do_not_share_anything() -> None:
    first, second = Metrics("count"), Metrics("count")
    first.add("count_records_total", 5)
    assert samples(second, "count_records_total") == {(): 0}


def test_series_are_dropped_one_by_one_by_some_labels_or_all() -> None:
    metrics = Metrics("count")
    for partition in "012":
        for why in ("ahead", "poison"):
            metrics.set("count_partition_paused", True, partition=partition, why=why)
    metrics.drop("count_partition_paused", partition="0", why="ahead")
    metrics.drop("count_partition_paused", partition="1")
    assert set(samples(metrics, "count_partition_paused")) == {("0", "poison"), ("2", "ahead"), ("2", "poison")}
    metrics.drop("count_partition_paused")
    assert samples(metrics, "count_partition_paused") == {}


def test_the_watchdog_is_there_from_the_start() -> None:
    assert samples(Metrics("alert"), "alert_watchdog") == {(): 1}


def test_metrics_are_served_at_a_free_port() -> None:
    metrics = Metrics("track")
    metrics.serve("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
        assert b"spamtide_track_rows" in answer.read()


def test_a_taken_port_is_told_with_the_setting_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Unavailable) as caught:
        Metrics("count").serve("127.0.0.1", taken.getsockname()[1])
    assert "SPAMTIDE_COUNT_METRICS_PORT" in str(caught.value)


# -- bounded series -------------------------------------------------------------------------------------------------------


def names(first: int, end: int) -> list[str]:
    return [f"campaign:{number}" for number in range(first, end)]


def test_who_was_shown_stays_until_well_below_the_line() -> None:
    shown = stay_or_enter(names(0, 100), frozenset())
    assert shown == set(names(0, SHOWN))
    overtaken = [*names(1000, 1010), *names(0, 100)]
    assert stay_or_enter(overtaken, shown) == {*names(1000, 1010), *names(0, SHOWN_UNTIL - 10)}
    assert stay_or_enter([*names(1000, 1020), *names(0, 100)], shown) == {
        *names(1000, 1020),
        *names(0, SHOWN_UNTIL - 20),
    }


@given(st.lists(st.lists(st.integers(0, 200), unique=True), max_size=8))
def test_never_more_than_the_bound_is_shown(rankings: list[list[int]]) -> None:
    shown: frozenset[str] = frozenset()
    for ranking in rankings:
        ranked = [f"ip:{number}" for number in ranking]
        shown = stay_or_enter(ranked, shown)
        assert set(ranked[:SHOWN]) <= shown <= set(ranked[:SHOWN_UNTIL])


def test_the_leaders_have_series_and_the_others_are_counted() -> None:
    metrics = Metrics("track")
    series = TopSeries(metrics, "key")
    series.update("campaign", [(name, 1000.0 - at) for at, name in enumerate(names(0, 80))], live=5000)
    assert len(samples(metrics, SERIES)) == SHOWN
    assert samples(metrics, SERIES)["campaign", "campaign:0"] == 1000
    assert samples(metrics, "track_entities_left_out") == {("campaign",): 5000 - SHOWN}
    series.update("campaign", [("campaign:0", 7.0)], live=1)
    assert samples(metrics, SERIES) == {("campaign", "campaign:0"): 7}
    series.clear()
    assert samples(metrics, SERIES) == {}


# -- labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entity", ["account:anna@harbour.example", "ip:192.0.2.1", "net:2001:db8::/48"])
def test_accounts_and_addresses_are_short_keyed_hashes(entity: str) -> None:
    kind, _, name = entity.partition(":")
    label = label_of(entity, "key")
    assert re.fullmatch(rf"{kind}:[0-9a-f]{{12}}", label)
    assert name not in label
    assert label == label_of(entity, "key")
    assert label != label_of(entity, "another key")


@pytest.mark.parametrize(
    "entity", ["domain:example.com", "campaign:html:7c1f", "ip:(other)", "domain:(unauthenticated)"]
)
def test_domains_campaigns_and_buckets_are_readable(entity: str) -> None:
    assert label_of(entity, "key") == entity


def test_a_campaign_shows_no_address_and_no_control_character() -> None:
    label = label_of("campaign:subject:for bob@victim.example\x1b[31m\n", "key")
    assert label.startswith("campaign:subject:for *@victim.example?[31m?~")
    assert "bob" not in label


@given(st.text(max_size=400), st.text(max_size=80))
def test_a_label_is_bounded_and_printable_whatever_the_mail_says(name: str, key: str) -> None:
    label = label_of("campaign:" + name, key)
    assert len(label) <= MAX_LABEL_CHARS
    assert label.isprintable()


def test_two_long_names_never_share_a_series() -> None:
    first, second = ("campaign:" + "x" * 300 + end for end in "ab")
    assert label_of(first, "") != label_of(second, "")
