"""`spamtide demo`: a spam ring in an honest world, from its events to its alert, on a real Kafka, compared with the truth.

    Kafka ─ fresh topics ─ three stages ─ feed the ring, then a Postfix log ─ wait until all is counted ─ compare ─ clean up

The truth is written by the scenario from its own story; nothing here or in the stages takes part in it.
"""

import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from confluent_kafka import Message
from rich.live import Live
from rich.text import Text

from producers.errors import SystemFault, UsageError
from streams import top
from streams.admin import remove
from streams.incident import Alert
from streams.ledger import Ledger
from streams.listen import Listener, line_of
from streams.render import moment
from streams.settings import Settings, environ_of
from streams.tail import Tail
from streams.topics import CAMPAIGN_ALERTS, INCIDENTS, MAIL_VOLUME, SENDER_ALERTS, VOLUME_TOP
from streams.up import KAFKA_SCRIPT, Say, Supervisor, apply_topics, ensure_broker, stages
from streams.verdict import Story, Truth, comparison, judge, with_entities

RING: Final = ("scenario", "ring", "--seed", "1")
LIMIT_S: Final = 160.0
"""From the first event on. It ends by itself within three minutes, whatever happens."""
HOUR_MS: Final = 3_600_000
TELL_S: Final = 5.0
"""Between two lines of progress, where the output is no terminal; a table comes with every sixth."""
INTERRUPTED: Final = 130
TOPICS_READ: Final = (MAIL_VOLUME, VOLUME_TOP, INCIDENTS, CAMPAIGN_ALERTS, SENDER_ALERTS)
_FEW: Final = 5
"""Rows of a table on the way."""
KINDS: Final = ("campaign", *top.SENDER_KINDS)
FOLDER: Final = KAFKA_SCRIPT.parent.parent / "demo"


def demo_settings(settings: Settings, prefix: str) -> Settings:
    """Settings for compressed time: three weeks in a minute or two, in topics of their own, at ports nobody else has."""
    return msgspec.structs.replace(
        settings,
        topic_prefix=prefix,
        slot=0,
        count_metrics_port=0,
        track_metrics_port=0,
        alert_port=0,
        idle_ms=3000,
        max_ahead_minutes=2880,
        capture_share=0.0002,
    )


class Feeder:
    """Runs the sources one after the other, as a user would; owns their processes."""

    def __init__(self, commands: Sequence[Sequence[str]], environ: Mapping[str, str]) -> None:
        self._commands = [[sys.executable, "-m", "streams.cli", "produce", *command] for command in commands]
        self._environ = dict(environ)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self.said = "starting"
        """The last line of the source that runs."""
        self.done = False
        self.status = 0

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the source that runs, at its next commit."""
        self._stopped.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        for command in self._commands:
            if self._stopped.is_set() or self.status:
                return
            self._process = subprocess.Popen(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in lines:
                    self.said = line.strip() or self.said
            self.status = self._process.wait()
        self.said = "everything is published"
        self.done = True


class Watch:
    """What came out so far."""

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.topic_prefix
        self._listener = Listener()
        self.ledger = Ledger()
        self.board = top.Board()
        self.story = Story()

    def take(self, messages: Sequence[Message]) -> None:
        """Takes records of `TOPICS_READ`."""
        by_topic: dict[str, list[Message]] = {}
        for message in messages:
            by_topic.setdefault(str(message.topic()).removeprefix(self._prefix), []).append(message)
        self.ledger.take(value for message in by_topic.get(MAIL_VOLUME, ()) if (value := message.value()))
        for name in (VOLUME_TOP, INCIDENTS):
            self.board.take(by_topic.get(name, ()), self._prefix)
        for message in by_topic.get(INCIDENTS, ()):
            if value := message.value():
                self.story.states.append(msgspec.json.decode(value, type=Alert))
        for name in (CAMPAIGN_ALERTS, SENDER_ALERTS):
            self.story.alerts += [alert for alert, _ in self._listener.new(by_topic.get(name, ()))]


def _how_far(watch: Watch, truth: Truth | None) -> str:
    at_ms = watch.board.time_ms
    if not at_ms:
        return "no minute is judged yet"
    if truth is None:
        return f"judged up to {moment(at_ms)}"
    share = (at_ms - truth.start_ms) / (truth.end_ms - truth.start_ms)
    return f"judged up to {moment(at_ms)} ({min(share, 1):.0%})"


class Screen:
    """Progress: a live table on a terminal, otherwise lines."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._out = top.console()
        self._began = self._told = time.monotonic()
        self._lines = 0
        self._live: Live | None = None

    def __enter__(self) -> "Screen":
        if self._out.is_terminal:
            self._live = Live(Text(""), console=self._out, transient=True, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def show(self, watch: Watch, truth: Truth | None, said: str) -> None:
        """Tells how far it is, when it is time to."""
        now = time.monotonic()
        if now - self._told < (0.5 if self._live else TELL_S):
            return
        self._told = now
        line = (
            f"demo: {now - self._began:3.0f} s  {_how_far(watch, truth)}; {watch.ledger.facts:,} facts, "
            f"{len(watch.story.alerts):,} alerts; {said}"
        )
        page = top.page(watch.board, KINDS, _FEW)
        if self._live is not None:
            page.renderables.append(Text(line))
            self._live.update(page, refresh=True)
            return
        self._say(line)
        self._lines += 1
        if self._lines % 6 == 0:
            top.show(self._out, page)


def run(
    settings: Settings, named: bool, environ: Mapping[str, str], keep: bool, stop: threading.Event, say: Say
) -> int:
    """The whole demo; returns the exit status: 0 where everything holds, 1 where not, 130 interrupted. Raises `SystemFault`."""
    log, postfix_truth = FOLDER / "mail.log", FOLDER / "truth.json"
    if not log.is_file():
        raise UsageError(f"the demo needs Spamtide's source tree: {log} is not there; clone it and run `make demo`")
    own = demo_settings(ensure_broker(settings, named, environ, say), f"demo-{secrets.token_hex(3)}-")
    say(f"demo: topics begin with {own.topic_prefix}")
    apply_topics(own, say)
    with TemporaryDirectory(prefix="spamtide-demo-") as folder:
        truth_file = Path(folder) / "truth.json"
        own_environ = environ_of(own, environ)
        feeder = Feeder([[*RING, "--truth", str(truth_file)], ["postfix", str(log)]], own_environ)
        said: deque[str] = deque(maxlen=40)
        supervisor = Supervisor(stages(own_environ), said.append)
        try:
            supervisor.start()
            feeder.start()
            watch = Watch(own)
            truth = _follow(own, watch, feeder, supervisor, [truth_file, postfix_truth], stop, say)
        except SystemFault:
            for line in said:
                say(line)
            raise
        finally:
            say("demo: stopping the stages ...")
            feeder.stop()
            supervisor.stop()
            _clean_up(own, keep, say)
    return INTERRUPTED if truth is None else _tell(truth, watch, said, say)


def _follow(
    settings: Settings,
    watch: Watch,
    feeder: Feeder,
    supervisor: Supervisor,
    truth_files: Sequence[Path],
    stop: threading.Event,
    say: Say,
) -> Truth | None:
    """Reads what comes out until it is the truth, or the time is over; None where `stop` was set."""
    truth: Truth | None = None
    began = time.monotonic()
    is_judged = False
    with Tail(settings, TOPICS_READ) as tail, Screen(say) as screen:
        while not stop.is_set():
            if supervisor.ended:
                raise SystemFault(f"a stage cannot go on (exit status {supervisor.status}); its last lines are above")
            if feeder.status:
                raise SystemFault(f"a source failed (exit status {feeder.status}): {feeder.said}")
            messages = tail.poll(0.3)
            watch.take(messages)
            if truth is None and truth_files[0].is_file():  # it is written before the first event, whole or not at all
                truth = with_entities(*truth_files)
            screen.show(watch, truth, feeder.said)
            is_over = time.monotonic() - began > LIMIT_S
            if is_over and not (truth and feeder.done):
                raise SystemFault(f"the events were not all published within {LIMIT_S:.0f} s: {feeder.said}")
            is_judged = is_judged and not messages
            may_be_all = truth and feeder.done and watch.board.time_ms >= truth.end_ms - HOUR_MS
            if truth and (is_over or (may_be_all and not messages and not is_judged)):
                is_judged = True
                watch.story.sums = watch.ledger.sums()
                if is_over or all(check.holds for check in judge(truth, watch.story)):
                    return truth
    return None


def _clean_up(settings: Settings, keep: bool, say: Say) -> None:
    if keep:
        say(f"demo: kept the topics: SPAMTIDE_TOPIC_PREFIX={settings.topic_prefix} spamtide alerts")
        return
    try:
        remove(settings)
    except SystemFault as fault:
        say(f"demo: could not remove the topics that begin with {settings.topic_prefix}: {fault}")


def _tell(truth: Truth, watch: Watch, said: Sequence[str], say: Say) -> int:
    """Prints table, alerts and comparison; returns the exit status."""
    out = top.console()
    top.show(out, top.page(watch.board, KINDS, _FEW))
    loud = [alert for alert in watch.story.alerts if alert.severity != "info"]
    quiet = len(watch.story.alerts) - len(loud)
    out.print(Text("Alerts" + (f" ({quiet:,} of severity info are not shown)" if quiet else "")))
    for alert in sorted(loud, key=lambda alert: (alert.time_ms, alert.seq)):
        out.print(Text(line_of(alert), overflow="fold"))
    top.show(out, comparison(truth, watch.story))
    checks = judge(truth, watch.story)
    for check in checks:
        out.print(
            Text(f"{'holds' if check.holds else 'DOES NOT HOLD':13}  {check.says}", "" if check.holds else "bold red")
        )
    if all(check.holds for check in checks):
        return 0
    say("demo: not everything holds; the stages' last lines were:")
    for line in said:
        say(line)
    return 1
