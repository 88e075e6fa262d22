"""The generated contracts: in step with the code, whole, and true of real records."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from producers.event import MailEvent
from producers.event import Source as EventSource
from streams.incident import Alert, Signal
from streams.schema import CONTRACTS, asyncapi, field_docs, files, json_schema, write
from streams.topics import BY_NAME, TOPICS

COMMITTED = Path(__file__).parents[2] / "deploy/schema"


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for each in node for found in references(each)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for each in node.values() for found in references(each)]


def resolved(document: Any, reference: str) -> Any:
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


def test_the_committed_files_are_what_the_code_says() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.iterdir()}
    assert committed == files(), "run `make schema` and commit deploy/schema"


def test_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    assert files() == files()
    assert sorted(path.name for path in write(tmp_path / "new" / "folder")) == sorted(files())


@pytest.mark.parametrize("name", files())
def test_every_reference_leads_somewhere(name: str) -> None:
    document = json.loads(files()[name])
    found = references(document)
    assert found
    for reference in found:
        assert resolved(document, reference)


def test_every_topic_is_a_channel_with_its_partitions() -> None:
    channels = asyncapi()["channels"]
    assert list(channels) == [spec.name for spec in TOPICS]
    for name, channel in channels.items():
        assert channel["address"] == name
        assert channel["bindings"]["kafka"]["partitions"] == BY_NAME[name].partitions


def test_every_contract_is_an_operation_and_only_two_topics_are_for_others_to_write() -> None:
    operations = asyncapi()["operations"].values()
    assert {operation["channel"]["$ref"].removeprefix("#/channels/") for operation in operations} == set(CONTRACTS)
    received = [operation["channel"]["$ref"] for operation in operations if operation["action"] == "receive"]
    assert received == ["#/channels/mail-events", "#/channels/enforcement-actions"]


def test_units_and_meanings_travel_with_the_schema() -> None:
    event = json_schema(MailEvent)["$defs"]["MailEvent"]
    assert event["properties"]["time_ms"]["description"] == "When it happened at the source, ms since the Unix epoch."
    assert event["properties"]["tokens"]["maxItems"] == 8
    assert "unit of volume" in event["description"]
    assert set(field_docs(Signal)) <= set(Signal.__struct_fields__)


def test_required_fields_are_those_without_a_default() -> None:
    assert set(json_schema(MailEvent)["$defs"]["MailEvent"]["required"]) == {
        "v",
        "id",
        "time_ms",
        "disposition",
        "source",
    }


def test_every_field_of_a_record_stands_in_its_schema() -> None:
    event = MailEvent(
        v=1, id="a", time_ms=1, disposition="trap", source=EventSource("t", "h"), tokens=("url:x.example",)
    )
    properties = json_schema(MailEvent)["$defs"]["MailEvent"]["properties"]
    assert json.loads(msgspec.json.encode(event)).keys() <= properties.keys()
    assert set(json_schema(Alert)["$defs"]["Alert"]["properties"]) == set(Alert.__struct_fields__)
