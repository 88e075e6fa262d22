"""The README says what the code does: every command, option and setting, the subscriber, the exit statuses."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from producers import errors
from streams.cli import cli
from streams.schema import field_docs
from streams.settings import Settings, variable_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(marker: str) -> str:
    found = re.search(rf"<!-- {marker}: begin -->\n(.*?)<!-- {marker}: end -->", README, re.DOTALL)
    assert found, f"README.md has no block {marker!r}"
    return found[1].strip()


def settings_table() -> str:
    """What must stand in the block `settings`."""
    docs, rows = field_docs(Settings), ["| variable | default | meaning |", "|---|---|---|"]
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        shown = f"`{default}`" if default not in (None, "") else ""
        rows.append(f"| `{variable_of(name)}` | {shown} | {docs[name]} |")
    return "\n".join(rows)


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ("spamtide",)
) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from commands(child, (*path, name))


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_stands_in_the_readme(path: str) -> None:
    assert re.search(rf"^\| `{path}[ `]", README, re.MULTILINE), f"README.md has no row for `{path}`"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_has_help(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help"


def test_every_group_has_help() -> None:
    for name in cli.list_commands(click.Context(cli)):
        group = cli.get_command(click.Context(cli), name)
        assert group is not None
        assert group.help


def test_the_readme_names_no_command_that_is_not_there() -> None:
    named = {found.strip() for found in re.findall(r"^\| `(spamtide(?: [a-z]+)+)", README, re.MULTILINE)}
    assert named == set(COMMANDS)


def test_every_setting_is_documented_with_its_default() -> None:
    assert set(field_docs(Settings)) == set(Settings.__struct_fields__)
    assert between("settings") == settings_table(), f"the block must be:\n{settings_table()}"


def test_the_subscriber_in_the_readme_is_the_one_that_the_tests_run() -> None:
    program = (ROOT / "deploy/examples/subscribe.py").read_text(encoding="utf-8")
    assert between("subscribe.py") == f"```python\n{program}```"


def test_every_exit_status_stands_in_the_readme() -> None:
    faults = [error for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_status")]
    assert len(faults) > 5
    for fault in faults:
        assert re.search(rf"^\| {fault.exit_status} \|", README, re.MULTILINE), fault


def test_every_file_that_the_documents_name_is_there() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:deploy|streams|producers|tests|dashboards)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), f"{document} names {path}"


def test_the_changelog_has_the_present_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert version
    assert f"## [{version[1]}]" in changelog
