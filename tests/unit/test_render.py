"""What a person reads of an incident: names made safe, figures named for what they are, links that arrive."""

from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from streams.incident import Alert, Change, RuleHit, Severity, Signal
from streams.render import MAX_TITLE_NAME, alert_of, amount, moment, visible
from tests.signals import a_signal, estimate

RUNBOOK, DASHBOARD = "https://runbook.example/page", "https://grafana.example/d/campaign"
RING = "campaign:url:pills.example"


def alert(signal: Signal) -> Alert:
    return alert_of(signal, RUNBOOK, DASHBOARD)


def test_the_title_of_a_trapped_campaign_is_one_line_with_its_projection_and_tier() -> None:
    assert (
        alert(a_signal(RING)).title == "Campaign url:pills.example projected at 321 million copies a month (tier 100 M)"
    )


def test_the_summary_keeps_the_three_monthly_figures_apart_and_names_their_methods() -> None:
    assert alert(a_signal(RING, 2, "escalated")).summary == (
        "First seen 2026-05-28 19:27 UTC, incident open since 2026-05-28 20:27 UTC; raised to critical at 2026-05-28 20:29 UTC. "
        "Seen here: 45,000 unwanted copies in 30 days and 800 in the last hour; "
        "run rate 1.4 million a month (95 %: 1.26 million to 1.54 million; test). "
        "4,500 trap hits stand for 321 million a month (95 %: 289 million to 353 million; test). "
        "1,204 addresses; top countries CN (500), BR (200); rules tier (warning), trap (critical)."
    )


def test_an_alert_is_the_same_to_the_byte_each_time_it_is_made() -> None:
    signal = a_signal(RING, 3, "volume")
    again = msgspec.json.decode(msgspec.json.encode(signal), type=Signal)
    assert msgspec.json.encode(alert(signal)) == msgspec.json.encode(alert(again))


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ("resolved", "Resolved: campaign url:pills.example is quiet again"),
        ("reopened", "Back again: campaign url:pills.example projected at 321 million copies a month (tier 100 M)"),
        ("volume", "Campaign url:pills.example projected at 321 million copies a month (tier 100 M)"),
    ],
)
def test_the_title_says_which_step_of_its_life_an_incident_took(change: Change, title: str) -> None:
    assert alert(a_signal(RING, 2, change)).title == title


def test_what_is_seen_is_never_called_a_projection() -> None:
    volume = msgspec.structs.replace(a_signal(RING).volume, month_trap=None)
    seen = a_signal("account:bob@our.example", volume=volume, tier=1_000_000)
    assert alert(seen).title == "Account bob@our.example running at 1.4 million unwanted copies a month (tier 1 M)"
    long_ago = msgspec.structs.replace(volume, month_run_rate=estimate(10), month_observed=estimate(2_000_000))
    assert alert(a_signal("ip:192.0.2.7", volume=long_ago, tier=1_000_000)).title == (
        "Address 192.0.2.7 sent 2 million unwanted copies in 30 days (tier 1 M)"
    )


def test_trap_hits_that_cannot_be_projected_are_told_as_hits() -> None:
    volume = msgspec.structs.replace(a_signal(RING).volume, month_trap=None, trap_hits_30d=12)
    told = alert(a_signal(RING, volume=volume, tier=0))
    assert told.title == "Campaign url:pills.example hit traps 12 times in 30 days"
    assert "Traps were hit 12 times in 30 days; that is not projected." in told.summary


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("pay\u202eexe.gpj", "pay\\u202eexe.gpj"),
        ("two\r\nlines", "two\\u000d\\u000alines"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028break", "line\\u2028break"),
        ("nbsp\u00a0here", "nbsp\\u00a0here"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("bücher 本 🎁", "bücher 本 🎁"),
    ],
)
def test_what_cannot_be_seen_in_a_name_is_written_out(hostile: str, shown: str) -> None:
    assert visible(hostile, 100) == shown
    told = alert(a_signal(f"campaign:subject:{hostile}"))
    assert shown in told.title
    assert told.title.isprintable()
    assert told.entity == f"campaign:subject:{hostile}"


def test_a_long_name_is_cut_in_the_title() -> None:
    title = alert(a_signal("campaign:subject:" + "x" * 400)).title
    assert "x" * (MAX_TITLE_NAME - len("subject:") - 1) + "… projected" in title
    assert len(title) < 2 * MAX_TITLE_NAME


def test_the_dashboard_link_carries_any_entity_whole() -> None:
    entity = "campaign:subject:50% off & more? #1/ü+"
    link = urlsplit(alert(a_signal(entity)).dashboard_url)
    assert parse_qs(link.query) == {"var-entity": [entity]}
    assert (link.path, link.fragment) == ("/d/campaign", "")
    assert alert_of(a_signal(RING), RUNBOOK, DASHBOARD + "?orgId=1").dashboard_url == (
        "https://grafana.example/d/campaign?orgId=1&var-entity=campaign%3Aurl%3Apills.example"
    )


@pytest.mark.parametrize(
    ("severities", "anchor"), [((), ""), (("info", "critical"), "#trap"), (("critical", "critical"), "#tier")]
)
def test_the_runbook_opens_at_the_loudest_rule_the_first_of_equals(
    severities: tuple[Severity, ...], anchor: str
) -> None:
    rules = tuple(RuleHit(rule, severity, "") for rule, severity in zip(("tier", "trap"), severities, strict=False))
    assert alert(a_signal(RING, rules=rules)).runbook_url == RUNBOOK + anchor


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        (0, "0"),
        (45_000, "45,000"),
        (1_400_000, "1.4 million"),
        (321_400_000, "321 million"),
        (2_000_000_000, "2 billion"),
    ],
)
def test_an_amount_can_be_read_aloud(copies: int, words: str) -> None:
    assert amount(copies) == words


def test_a_moment_is_told_in_utc() -> None:
    assert moment(0) == "1970-01-01 00:00 UTC"
