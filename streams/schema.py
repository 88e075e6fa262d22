"""The contracts as JSON Schema (2020-12) and AsyncAPI 3.0, made from the types: the same text for the same code. Pure but for `write`.

What the schemas cannot say (limits in bytes, what a campaign is) is in the docstrings they carry along as descriptions.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from producers.event import MailEvent
from producers.positions import SourcePosition
from streams.incident import Alert, EnforcementAction, Signal
from streams.rollup import Rollup
from streams.topics import (
    CAMPAIGN_ALERTS,
    ENFORCEMENT_ACTIONS,
    INCIDENTS,
    MAIL_EVENTS,
    MAIL_ROLLUPS,
    MAIL_VOLUME,
    SENDER_ALERTS,
    SOURCE_POSITIONS,
    TOPICS,
    VOLUME_SIGNALS,
    VOLUME_TOP,
    TopicSpec,
)
from streams.volume import Fact, Leaders

CONTRACTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    MAIL_EVENTS: MailEvent,
    SOURCE_POSITIONS: SourcePosition,
    MAIL_ROLLUPS: Rollup,
    VOLUME_SIGNALS: Signal,
    ENFORCEMENT_ACTIONS: EnforcementAction,
    MAIL_VOLUME: Fact,
    VOLUME_TOP: Leaders,
    CAMPAIGN_ALERTS: Alert,
    SENDER_ALERTS: Alert,
    INCIDENTS: Alert,
}
"""The record of each topic. The others hold bytes as they came, or one stage's own state, which nobody else may read."""
_RECEIVED: Final = (MAIL_EVENTS, ENFORCEMENT_ACTIONS)
"""Topics that other programs may write; all others are for reading."""
_MSGPACK: Final = (MAIL_ROLLUPS,)
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def files() -> dict[str, str]:
    """Every generated file: name -> content."""
    made = {f"{contract.__name__}.schema.json": _text(json_schema(contract)) for contract in set(CONTRACTS.values())}
    return dict(sorted(made.items())) | {"asyncapi.json": _text(asyncapi())}


def write(folder: Path) -> list[Path]:
    """Writes the files; those that are there are replaced. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
        paths.append(folder / name)
    return paths


def json_schema(contract: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one contract, for itself."""
    (reference,), components = _schemas([contract], "#/$defs/{name}")
    return {"$schema": _DIALECT, **reference, "$defs": components}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document: topics are channels, addressed without prefix."""
    contracts = sorted(set(CONTRACTS.values()), key=lambda contract: contract.__name__)
    _, components = _schemas(contracts, "#/components/schemas/{name}")
    components = {name: _draft_07(schema) for name, schema in components.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Spamtide",
            "version": version("spamtide"),
            "description": "Topics of Spamtide. SPAMTIDE_TOPIC_PREFIX goes before each name.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {spec.name: _channel(spec) for spec in TOPICS},
        "operations": {_operation_name(spec): _operation(spec) for spec in TOPICS if spec.name in CONTRACTS},
        "components": {"messages": _messages(), "schemas": components},
    }


def _channel(spec: TopicSpec) -> dict[str, Any]:
    contract = CONTRACTS.get(spec.name)
    name = contract.__name__ if contract else _opaque(spec)
    config: dict[str, Any] = dict(spec.config)
    config["cleanup.policy"] = [config["cleanup.policy"]]
    if "retention.ms" in config:
        config["retention.ms"] = int(config["retention.ms"])
    return {
        "address": spec.name,
        "description": f"{spec.content}. Key: {spec.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions,
                "topicConfiguration": config,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation_name(spec: TopicSpec) -> str:
    verb = "receive" if spec.name in _RECEIVED else "send"
    return verb + "".join(part.capitalize() for part in spec.name.split("-"))


def _operation(spec: TopicSpec) -> dict[str, Any]:
    name = CONTRACTS[spec.name].__name__
    return {
        "action": "receive" if spec.name in _RECEIVED else "send",
        "channel": {"$ref": f"#/channels/{spec.name}"},
        "messages": [{"$ref": f"#/channels/{spec.name}/messages/{name}"}],
    }


def _messages() -> dict[str, Any]:
    messages: dict[str, Any] = {}
    for spec in TOPICS:
        contract = CONTRACTS.get(spec.name)
        if contract is None:
            messages[_opaque(spec)] = {
                "name": _opaque(spec),
                "contentType": "application/octet-stream",
                "summary": spec.content,
            }
            continue
        messages[contract.__name__] = {
            "name": contract.__name__,
            "contentType": "application/msgpack" if spec.name in _MSGPACK else "application/json",
            "summary": (inspect.getdoc(contract) or "").partition("\n")[0],
            "payload": {"$ref": f"#/components/schemas/{contract.__name__}"},
        }
    return dict(sorted(messages.items()))


def _opaque(spec: TopicSpec) -> str:
    """Name of the message of a topic without a contract."""
    return "".join(part.capitalize() for part in spec.name.split("-"))


def _schemas(
    contracts: list[type[msgspec.Struct]], reference: str
) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    references, components = msgspec.json.schema_components(contracts, ref_template=reference)
    for contract in contracts:
        for struct in _structs(contract):
            _describe(struct, components[struct.__name__])
    return references, dict(sorted(components.items()))


def _structs(contract: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    """A contract and every struct in it."""
    found: set[type[msgspec.Struct]] = set()

    def visit(node: Any) -> None:
        if isinstance(node, msgspec.inspect.StructType):
            if node.cls in found:
                return
            found.add(node.cls)
            for field in node.fields:
                visit(field.type)
        elif isinstance(node, msgspec.inspect.UnionType):
            for each in node.types:
                visit(each)
        elif isinstance(node, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            visit(node.item_type)
        elif isinstance(node, msgspec.inspect.TupleType):
            for each in node.item_types:
                visit(each)

    visit(msgspec.inspect.type_info(contract))
    return found


def _describe(struct: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    """Puts the docstrings of a struct and under each field into the schema; array-like ones also learn their fields' names."""
    schema["description"] = inspect.getdoc(struct) or ""
    docs = field_docs(struct)
    for at, name in enumerate(struct.__struct_fields__):
        if "prefixItems" in schema:
            field = schema["prefixItems"][at] = {"title": name, **schema["prefixItems"][at]}
        else:
            field = schema["properties"][name]
        if name in docs:
            field["description"] = docs[name]


def _draft_07(schema: Any) -> Any:
    """The same in JSON Schema draft 7, which is what AsyncAPI 3.0 speaks: tuples are written otherwise there."""
    if isinstance(schema, list):
        return [_draft_07(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    older = {key: _draft_07(value) for key, value in schema.items() if key != "prefixItems"}
    if "prefixItems" in schema:
        if "items" in older:
            older["additionalItems"] = older.pop("items")
        older["items"] = _draft_07(schema["prefixItems"])
    return older


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The string that follows each field of a class, on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[field.target.id] = " ".join(after.value.value.split())
    return docs


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
