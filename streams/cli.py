"""`spamtide`: the face of producers and streams. Decides nothing; loads settings, calls, and turns faults into one line and a status."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from producers.errors import SpamtideError, SystemFault, UsageError
from streams.face import Face, stop_on_signal
from streams.settings import PREFIX, Settings, variable_of

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C (128 + SIGINT)."""
_SECRET: Final = ("password", "label_key")
_GROUP_HELP: Final = {"produce": "Read mail events from a source and publish them."}


class LazyGroup(click.Group):
    """Imports `spamtide produce` and its sources only when it is asked for, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_GROUP_HELP]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "produce":
            from producers.cli import produce

            return produce
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [
            (name, _GROUP_HELP.get(name) or self.commands[name].get_short_help_str(90))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Settings as TOML; SPAMTIDE_* variables go over it. [default: SPAMTIDE_CONFIG, if set]",
)
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Spamtide counts mail on Kafka, per sender and per campaign, and tells when spam surges.

    \b
    sources -> mail-events -> COUNT -> mail-rollups -> TRACK -> volume-signals -> ALERT -> campaign-alerts
      `spamtide produce` reads logs and feeds;
      COUNT adds up each minute; TRACK keeps the volumes, judges them and owns the incidents;
      ALERT tells people and programs;  `spamtide up` runs all three, `run` one of them.

    \b
    To see it work:          spamtide demo
    To run it here:          spamtide up
    To feed it a log:        spamtide produce postfix /var/log/mail.log.1
    To look at it:           spamtide top        spamtide alerts --follow
    On a cluster of yours:   SPAMTIDE_BOOTSTRAP_SERVERS=kafka.example:9092 spamtide topics apply

    \b
    Exit status: 0 done, 1 not as it should be, 2 a setting or argument, 3 something does not answer, 4 another worker has
    this slot, 5 the end of a commit was not learned (start again), 6 the audit failed: see the README, 130 interrupted.
    """
    ctx.obj = Face(config, os.environ)


@cli.command()
@click.argument("stage", type=click.Choice(["count", "track", "alert"]))
@click.pass_obj
def run(face: Face, stage: str) -> None:
    """Run one worker of a STAGE until it is stopped. Ctrl-C commits and ends; a second one kills.

    Run more of them with SPAMTIDE_SLOT=1, 2, ... to share the work.
    """
    settings = face.settings
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if stage == "alert":
        from streams.alert import run as run_alert

        run_alert(settings)
        return
    stop = stop_on_signal()
    if stage == "count":
        from streams.count import run as run_count

        run_count(settings, stop)
    else:
        from streams.track import run as run_track

        run_track(settings, stop)


@cli.command()
@click.pass_obj
def up(face: Face) -> None:
    """Run everything on this machine: Kafka unless a cluster is named, the topics, and all three stages. Ctrl-C ends it.

    A stage that ends is started again, after 0.5 s at first and at most 30 s, and it is said why. Kafka goes on running.
    """
    from streams.up import up as run_up

    named = "bootstrap_servers" in face.origin
    raise SystemExit(run_up(face.settings, named, os.environ, stop_on_signal(), say))


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the demo's topics, to look at them.")
@click.pass_obj
def demo(face: Face, keep: bool) -> None:
    """Watch a spam ring become an alert: three weeks of mail in two minutes, on a real Kafka, compared with the truth.

    Starts Kafka as `up` does, works in topics of its own and removes them. Exit status 0 where everything holds, 1 where not.
    """
    from streams.demo import run as run_demo

    named = "bootstrap_servers" in face.origin
    raise SystemExit(run_demo(face.settings, named, os.environ, keep, stop_on_signal(), say))


@cli.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with each alert as it comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Each alert as published, one JSON object a line.")
@click.option(
    "--severity", type=click.Choice(["info", "warning", "critical"]), default="info", help="Only these and worse."
)
@click.option("--since", metavar="TIME", help="Only from TIME on: 90m, 24h, 7d, or 2026-10-01T12:00 (UTC).")
@click.pass_obj
def alerts(face: Face, follow: bool, as_json: bool, severity: Any, since: str | None) -> None:
    """Print the alerts that were raised, oldest first, repeats left out. Times are those of the mail."""
    from streams.listen import Listener, parse_since
    from streams.listen import run as run_listen

    since_ms = parse_since(since, time.time_ns() // 1_000_000) if since else 0
    run_listen(face.settings, Listener(severity, since_ms), as_json, follow, stop_on_signal())


@cli.command()
@click.option("--once", is_flag=True, help="Print the table once and end; so it does where output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows once, one JSON object a line.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["campaign", "account", "domain", "ip", "net"]),
    help="Only this kind; may be given several times.",
)
@click.pass_obj
def top(face: Face, once: bool, as_json: bool, kinds: tuple[str, ...]) -> None:
    """Show the campaigns and senders that lead now: their pace as a month, tier, severity and last hour. Ctrl-C ends it."""
    from streams.top import SENDER_KINDS
    from streams.top import run as run_top

    run_top(face.settings, kinds or ("campaign", *SENDER_KINDS), once, as_json, stop_on_signal())


@cli.group()
def topics() -> None:
    """Make, list and describe the topics."""


@topics.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a topic.")
@click.pass_obj
def apply(face: Face, as_json: bool) -> None:
    """Make the topics that are missing. One that is not as it should be is told and never changed: exit status 1."""
    import msgspec

    from streams.admin import apply as apply_topics

    outcomes = apply_topics(face.settings)
    for outcome in outcomes:
        if as_json:
            click.echo(msgspec.json.encode(outcome))
            continue
        click.echo(f"{outcome.topic:32} {outcome.partitions:3} partitions  {outcome.outcome}")
        for differs in outcome.differences:
            click.echo(f"{'':32} {differs.setting} is {differs.now or 'not set'}, should be {differs.should_be}")
    if any(outcome.outcome == "differs" for outcome in outcomes):
        raise SystemExit(1)


@topics.command("list")
@click.pass_obj
def list_topics(face: Face) -> None:
    """Print every topic: partitions, key and what a record is. One that is not on the cluster is marked `missing`."""
    from streams.admin import existing
    from streams.topics import TOPICS

    found = existing(face.settings)
    for spec in TOPICS:
        name = face.settings.topic(spec.name)
        partitions = f"{found[name]:3} partitions" if name in found else "missing"
        click.echo(f"{name:32} {partitions:14}  key: {spec.key:20} {spec.content}")


@topics.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="deploy/schema",
    show_default=True,
    help="Folder to write to; files of the same names are replaced.",
)
def schema(out: Path) -> None:
    """Write the contracts as JSON Schema and AsyncAPI 3."""
    from streams.schema import write

    try:
        written = write(out)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; name another folder with --out") from None
    click.echo(f"{len(written)} files in {out}")


@cli.command()
@click.pass_obj
def settings(face: Face) -> None:
    """Check the settings and print each with its value and where it came from. Exit status 2 on a bad one."""
    loaded, origin = face.settings, face.origin
    for name in Settings.__struct_fields__:
        value = getattr(loaded, name)
        shown = "(hidden)" if value and name.endswith(_SECRET) else "" if value is None else str(value)
        click.echo(f"{name:22} {shown:32} {origin.get(name, 'default')}")
    known = {variable_of(name) for name in Settings.__struct_fields__} | {PREFIX + "CONFIG", PREFIX + "DEBUG"}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith((PREFIX + "KAFKA_", PREFIX + "CACHE")):
            click.echo(f"spamtide: {name} is no setting and was not read", err=True)


@cli.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    click.echo(f"spamtide {version_of('spamtide')}")


def say(line: str) -> None:
    """A line for the person who watches."""
    click.echo(line, err=True)


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command and exits with its status."""
    try:
        sys.exit(_status(arguments))
    except BrokenPipeError:  # the reader of our output went away: nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _status(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="spamtide", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 0 if arguments == [] or sys.argv[1:] == [] else error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except SpamtideError as error:
        if os.environ.get(PREFIX + "DEBUG"):
            raise
        click.echo("spamtide: " + " ".join(str(error).split()), err=True)
        return error.exit_status if isinstance(error, SystemFault) else 1
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
