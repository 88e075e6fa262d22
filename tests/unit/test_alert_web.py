"""What ALERT shows of its open incidents: bounded series, no names of people, the loudest first."""

import msgspec

from streams.alert_web import PAGE_ROWS, SHOWN_INCIDENTS, incidents_json, loudest_first, page, show
from streams.incident import Alert, Severity
from streams.metrics import Metrics
from streams.render import alert_of
from tests.signals import a_signal, estimate


def opened(entity: str, severity: Severity = "critical", month: int = 321_000_000) -> Alert:
    volume = msgspec.structs.replace(a_signal(entity).volume, month_trap=estimate(month))
    return alert_of(
        a_signal(entity, severity=severity, volume=volume), "https://runbook.example", "https://grafana.example"
    )


def series(metrics: Metrics) -> list[str]:
    return [line for line in metrics.render().decode().splitlines() if line.startswith("spamtide_alert_")]


def test_a_series_goes_with_its_incident_and_people_are_hashed() -> None:
    metrics = Metrics("alert")
    bob, ring = opened("account:bob@our.example", "warning"), opened("campaign:url:pills.example")
    show(metrics, "key", [bob, ring, opened("ip:192.0.2.7", "info")])
    before = "\n".join(series(metrics))
    assert before.count("spamtide_alert_incident_month_copies{") == 2
    assert "bob" not in before
    assert 'spamtide_alert_open_incidents{severity="info"} 1.0' in before
    show(metrics, "key", [ring])
    after = "\n".join(series(metrics))
    assert after.count("spamtide_alert_incident_month_copies{") == 1
    assert 'entity="campaign:url:pills.example"' in after
    assert 'spamtide_alert_open_incidents{severity="warning"} 0.0' in after


def test_incidents_above_the_cap_are_counted_and_the_loudest_keep_their_series() -> None:
    metrics = Metrics("alert")
    many = [
        opened(f"campaign:url:c{number}.example", "warning", 10**9 + number) for number in range(SHOWN_INCIDENTS + 5)
    ]
    show(metrics, "", [*many, opened("campaign:url:worst.example")])
    shown = [line for line in series(metrics) if line.startswith("spamtide_alert_incident_month_copies{")]
    assert len(shown) == SHOWN_INCIDENTS
    assert "worst" in shown[0]
    assert not any("c5.example" in line for line in shown)
    assert "spamtide_alert_incidents_overflow 6.0" in series(metrics)


def test_the_loudest_come_first_then_the_largest() -> None:
    names = ["small", "large", "loud"]
    alerts = [
        opened("campaign:small", "warning", 2_000_000),
        opened("campaign:large", "warning", 9_000_000),
        opened("campaign:loud", "critical", 1_500_000),
    ]
    expected = [f"campaign:{names[index]}" for index in (2, 1, 0)]
    assert [alert.entity for alert in loudest_first(alerts)] == expected
    assert [one["entity"] for one in msgspec.json.decode(incidents_json(alerts))] == expected


def test_the_page_escapes_every_text_and_says_when_nothing_is_open() -> None:
    hostile = opened("campaign:subject:</td><script>alert('1')</script>\u202e&\"{rows}")
    shown = page([hostile])
    assert "<script" not in shown
    assert "\u202e" not in shown
    assert "&lt;/td&gt;&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;\\u202e&amp;&quot;{rows}" in shown
    assert "Nothing is open." in page([])


def test_a_long_page_is_cut_and_says_where_the_rest_is() -> None:
    shown = page([opened(f"campaign:c{number}") for number in range(PAGE_ROWS + 3)])
    assert shown.count("<details>") == PAGE_ROWS
    assert "3 more are at /api/incidents." in shown
