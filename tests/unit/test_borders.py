"""What may import what, read from the source itself.

Pure modules decide and touch nothing: no Kafka, Faust or Prometheus, no clock, environment or randomness, and no module that is not pure.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
    for package in ("streams", "producers")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py"
}
PURE = {
    "producers.errors", "producers.event", "producers.tokens",
    "producers.sources.postfix_events", "producers.sources.postfix_grammar", "producers.sources.postfix_join",
    "producers.sources.ring_cast", "producers.sources.ring_hour",
    "streams.accumulate", "streams.close", "streams.incident", "streams.known", "streams.leaders", "streams.layout", "streams.ledger", "streams.moments",
    "streams.render",
    "streams.rollup", "streams.rules", "streams.signals", "streams.table", "streams.topics", "streams.volume",
    "streams.waiting", "streams.watermark",
}  # fmt: skip
IMPURE = {
    "aiokafka", "asyncio", "click", "confluent_kafka", "faust", "mode", "os", "prometheus_client", "random", "secrets",
    "subprocess", "threading", "time",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today"}
CONTRACTS = {"producers.errors", "producers.event", "producers.tokens"}
MAY_ALSO = {"streams.cli": {"producers.cli"}, "streams.schema": {"producers.positions"}}
"""The face adds the group `produce`; the schemas are of every contract, that of `source-positions` too."""
READS_ENVIRONMENT = {"streams.cli"}
"""It hands `os.environ` to `streams.settings`, which alone knows the names in it."""


def imports(source: str) -> Iterator[str]:
    """The modules a source imports, wherever in it; `from package import module` counts as the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            assert not node.level, "imports are absolute here"
            within = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name for name in within if name in MODULES)
            if not all(name in MODULES for name in within):
                yield node.module


def impurities(source: str) -> list[str]:
    """What a pure module must not do."""
    found = []
    for name in imports(source):
        package = name.partition(".")[0]
        if package in IMPURE or (package in ("streams", "producers") and name not in PURE):
            found.append(f"imports {name}")
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in CLOCKS
            and ast.unparse(node.value).endswith(("datetime", "date"))
        ):
            found.append(f"reads a clock: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng") and not node.args:
            found.append("draws without a seed")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("open", "print", "input")
        ):
            found.append(f"calls {node.func.id}")
    return found


def trespasses(module: str, source: str) -> list[str]:
    """Imports across the border between the two packages that are not allowed."""
    allowed = CONTRACTS | MAY_ALSO.get(module, set())
    if module.startswith("producers."):
        return [name for name in imports(source) if name.partition(".")[0] == "streams"]
    return [name for name in imports(source) if name.partition(".")[0] == "producers" and name not in allowed]


def environment_reads(source: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "environb", "getenv")
            and ast.unparse(node.value) == "os"
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {n.name for n in node.names}
        )
    ]


@pytest.mark.parametrize("module", sorted(PURE))
def test_a_pure_module_touches_nothing(module: str) -> None:
    assert impurities(MODULES[module]) == []


def test_a_module_that_says_it_is_pure_is_held_to_it() -> None:
    says = {
        module
        for module, source in MODULES.items()
        if "Pure." in (ast.get_docstring(ast.parse(source)) or "").replace("(pure)", "")
    }
    assert says <= PURE


@pytest.mark.parametrize("module", sorted(MODULES))
def test_packages_meet_only_in_the_contracts(module: str) -> None:
    assert trespasses(module, MODULES[module]) == []


@pytest.mark.parametrize("module", sorted(MODULES.keys() - READS_ENVIRONMENT))
def test_nobody_else_reads_the_environment(module: str) -> None:
    assert environment_reads(MODULES[module]) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", "imports time"),
        ("from time import monotonic", "imports time"),
        ("def f():\n    import confluent_kafka.admin", "imports confluent_kafka.admin"),
        ("from streams import settings", "imports streams.settings"),
        ("from streams.clients import make_admin", "imports streams.clients"),
        ("import datetime\nx = datetime.datetime.now(datetime.UTC)", "reads a clock: datetime.datetime.now"),
        ("from datetime import date\nx = date.today", "reads a clock: date.today"),
        ("x = np.random.default_rng()", "draws without a seed"),
        ("with open('x') as f: pass", "calls open"),
    ],
)
def test_the_check_finds_what_is_not_pure(source: str, found: str) -> None:
    assert impurities(source) == [found]


def test_the_check_lets_pure_work_pass() -> None:
    assert (
        impurities("from datetime import datetime\nfrom streams.volume import Fact\nx = datetime.fromtimestamp(0)")
        == []
    )


def test_the_check_finds_a_trespass() -> None:
    assert trespasses("producers.event", "from streams.topics import TOPICS") == ["streams.topics"]
    assert trespasses("producers.event", "import streams.topics") == ["streams.topics"]
    assert trespasses("streams.count", "from producers.publish import Batch") == ["producers.publish"]
    assert trespasses("streams.cli", "from producers.cli import produce") == []


def test_the_check_finds_who_reads_the_environment() -> None:
    assert environment_reads("import os\nx = os.environ['A']") == ["os.environ"]
    assert environment_reads("import os\nx = os.getenv('A')") == ["os.getenv"]
    assert environment_reads("from os import environ") == ["from os import environ"]
    assert environment_reads("environ = {}") == []
