"""What ALERT shows over HTTP of its open incidents: the plain page, the JSON and the gauges. Values in, text out; Faust serves it."""

import html
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from streams.incident import Alert
from streams.metrics import Metrics, label_of
from streams.render import MAX_NAME, moment, visible

SHOWN_INCIDENTS: Final = 200
"""Open incidents that get a series of their own; how many more there are is a gauge with an alert on it."""
PAGE_ROWS: Final = 500
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LOUDNESS: Final = {"critical": 0, "warning": 1, "info": 2}


def loudest_first(alerts: Iterable[Alert]) -> list[Alert]:
    """Critical before warning before info, then the largest projected month, then by id."""
    return sorted(alerts, key=lambda alert: (_LOUDNESS[alert.severity], -month_copies(alert), alert.id))


def month_copies(alert: Alert) -> int:
    """Copies a month that the alert's title speaks of: from traps where that can be said, else the larger of what is seen."""
    volume = alert.volume
    seen = max(volume.month_run_rate, volume.month_observed, key=lambda estimate: estimate.low)
    if volume.month_trap is not None and volume.month_trap.low >= seen.low:
        return volume.month_trap.copies
    return seen.copies


def show(metrics: Metrics, label_key: str, alerts: Collection[Alert]) -> None:
    """Sets the gauges to the incidents that are open now: no other series stays."""
    metrics.drop("alert_incident_month_copies")
    loud = [alert for alert in loudest_first(alerts) if alert.severity != "info"]
    for alert in loud[:SHOWN_INCIDENTS]:
        metrics.set(
            "alert_incident_month_copies",
            month_copies(alert),
            incident=alert.id,
            kind=alert.kind,
            entity=label_of(alert.entity, label_key),
            severity=alert.severity,
        )
    metrics.set("alert_incidents_overflow", max(len(loud) - SHOWN_INCIDENTS, 0))
    for severity in _LOUDNESS:
        metrics.set("alert_open_incidents", sum(alert.severity == severity for alert in alerts), severity=severity)


def incidents_json(alerts: Iterable[Alert]) -> bytes:
    """All open incidents, loudest first, as a JSON list of alerts."""
    return msgspec.json.encode(loudest_first(alerts))


def page(alerts: Collection[Alert]) -> str:
    """A page without scripts that lists what is open. All text from mail is escaped, and what cannot be seen is written out."""
    rows = loudest_first(alerts)
    body = "".join(_row(alert) for alert in rows[:PAGE_ROWS]) or '<tr><td colspan="5">Nothing is open.</td></tr>'
    more = f"<p>{len(rows) - PAGE_ROWS} more are at /api/incidents.</p>" if len(rows) > PAGE_ROWS else ""
    return _PAGE.replace("{count}", str(len(rows))).replace("{more}", more).replace("{rows}", body)


def _row(alert: Alert) -> str:
    links = (
        f'<a href="{_escaped(alert.runbook_url)}">runbook</a> <a href="{_escaped(alert.dashboard_url)}">dashboard</a>'
    )
    return (
        f'<tr class="{alert.severity}"><td>{alert.severity}</td><td>{_escaped(alert.title)}'
        f"<details><summary>{_escaped(visible(alert.entity, MAX_NAME))}</summary>{_escaped(alert.summary)}</details></td>"
        f"<td>{moment(alert.opened_ms)}</td><td>{moment(alert.time_ms)}</td><td>{links}</td></tr>\n"
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Spamtide: open incidents</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4em .8em; border-bottom: 1px solid #ccc }
tr.critical td:first-child { color: #b00020; font-weight: bold }
tr.warning td:first-child { color: #8a5a00; font-weight: bold }
summary, details { color: #555; overflow-wrap: anywhere }
</style></head><body>
<h1>{count} open incidents</h1>
<table><thead><tr><th>severity</th><th>incident</th><th>open since</th><th>as of</th><th></th></tr></thead>
<tbody>
{rows}</tbody></table>
{more}
</body></html>
"""
