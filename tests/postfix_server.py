"""A real Postfix for a test: private folders, loopback ports, a content filter that sends every message back.

    client ──▶ smtpd :inbound ──▶ queue ──▶ smtp ──▶ filter ──▶ smtpd :reinject ──▶ queue ──▶ smtp ──▶ smtp-sink

So each message is in the log under two queue ids. Postfix must be started by root, as it takes on users of its own.
"""

import os
import shutil
import smtplib
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

MAIN_CF: Final = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.example.test
mydestination =
relay_domains = example.test
mynetworks = 127.0.0.0/8
inet_protocols = ipv4
inet_interfaces = loopback-only
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_connection_count_limit = 0
header_checks = regexp:{home}/header_checks
relayhost = [127.0.0.1]:{sink}
relay_transport = smtp
alias_maps =
alias_database =
"""
MASTER_CF: Final = """\
127.0.0.1:{inbound} inet n - n - - smtpd
  -o syslog_name=postfix/inbound -o content_filter=smtp:[127.0.0.1]:{filter}
127.0.0.1:{reinject} inet n - n - - smtpd
  -o syslog_name=postfix/reinject -o content_filter= -o receive_override_options=no_header_body_checks
  -o smtpd_authorized_xclient_hosts= -o smtpd_authorized_xforward_hosts={xforward}
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
FORBIDDEN_SUBJECT: Final = "forbidden"
START_S: Final = 30.0


class RunningPostfix(msgspec.Struct, frozen=True):
    """Where it listens and what it writes."""

    port: int
    log: Path

    def wait_for_log(self, is_enough: Callable[[str], bool], timeout_s: float = 60) -> str:
        """The log, as soon as it says what is waited for."""
        give_up = time.monotonic() + timeout_s
        while not is_enough(text := self.log.read_text("utf-8", "replace") if self.log.exists() else ""):
            if time.monotonic() > give_up:
                raise AssertionError("Postfix's log did not come so far; its end:\n" + text[-3000:])
            time.sleep(0.1)
        return text

    def wait_until_removed(self, queue_ids: int, timeout_s: float = 60) -> str:
        """The log once this many queue ids have left the queue: two for each message."""
        return self.wait_for_log(lambda text: text.count(": removed\n") >= queue_ids, timeout_s)

    def flood(self, messages: int, recipients: int = 1) -> None:
        """Messages by Postfix's own smtp-source, from loopback, with numbered recipients where there are several."""
        command = ["smtp-source", "-s", "8", "-l", "1200", "-m", str(messages), "-r", str(recipients)]
        addresses = ["-f", "shop@example.org", "-t", "reader@example.test"]
        subprocess.run([*command, *addresses, f"127.0.0.1:{self.port}"], check=True, timeout=60)

    @contextmanager
    def connect_from(self, address: str) -> Iterator[smtplib.SMTP]:
        """An SMTP session that Postfix takes for one from `address` (XCLIENT)."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as session:
            session.ehlo("client.example.org")
            session.docmd("XCLIENT", f"NAME=client.example.org ADDR={address}")
            session.ehlo("client.example.org")
            yield session


@contextmanager
def running_postfix(*, xforward: bool = False) -> Iterator[RunningPostfix]:
    """Starts everything, yields when mail is taken, and stops everything whatever happens.

    With `xforward` the filter tells the second smtpd the first queue id and client.
    """
    if os.geteuid() != 0:
        raise AssertionError("Postfix can only be started by root: run the tests as root")
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="spamtide-postfix-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)  # its daemons run as the user postfix
        inbound, reinject, sink = _free_ports(3)
        filter_port = stack.enter_context(_running_filter(reinject, xforward))
        stack.enter_context(_running_sink(sink))
        ports = {"inbound": inbound, "reinject": reinject, "sink": sink, "filter": filter_port}
        _configure(home, ports, xforward)
        stack.callback(_stop, home)
        _postfix(home, "start")
        _wait_for_port(inbound)
        _wait_for_port(reinject)
        yield RunningPostfix(inbound, home / "mail.log")


def _configure(home: Path, ports: dict[str, int], xforward: bool) -> None:
    conf = home / "conf"
    for folder in (conf, home / "queue", home / "data"):
        folder.mkdir()
    shutil.chown(home / "data", "postfix")
    (conf / "main.cf").write_text(MAIN_CF.format(home=home, **ports))
    (conf / "master.cf").write_text(MASTER_CF.format(xforward="127.0.0.0/8" if xforward else "", **ports))
    (home / "header_checks").write_text(f"/^Subject: {FORBIDDEN_SUBJECT}/ REJECT not wanted here\n")


def _postfix(home: Path, command: str) -> None:
    done = subprocess.run(
        ["postfix", "-c", home / "conf", command], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        log = home / "mail.log"
        raise AssertionError(f"postfix {command}: {done.stderr}{log.read_text() if log.exists() else ''}")


def _stop(home: Path) -> None:
    """`postfix stop` waits for the master; where that fails the master is killed by the id it wrote."""
    try:
        _postfix(home, "stop")
    except (AssertionError, subprocess.TimeoutExpired):
        pid = home / "queue/pid/master.pid"
        if pid.exists():
            subprocess.run(["kill", "-9", pid.read_text().strip()], check=False)


@contextmanager
def _running_sink(port: int) -> Iterator[None]:
    command = ["smtp-sink", "-u", "postfix", f"127.0.0.1:{port}", "200"]
    sink = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield
    finally:
        sink.kill()
        sink.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [int(held.getsockname()[1]) for held in sockets]


def _wait_for_port(port: int) -> None:
    give_up = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > give_up:
                raise AssertionError(f"nothing listens on port {port}") from None
            time.sleep(0.05)
        else:
            return


# --- the content filter ------------------------------------------------------------------------------------------------


@contextmanager
def _running_filter(reinject_port: int, xforward: bool) -> Iterator[int]:
    """An SMTP proxy that finds nothing wrong: what it is given goes to the second smtpd, whose reply it passes back."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _Filter(self, reinject_port, xforward).converse()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Session) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


class _Filter:
    """One SMTP dialogue with Postfix's smtp(8): RFC 5321, as much as that client speaks."""

    def __init__(self, session: socketserver.StreamRequestHandler, reinject_port: int, xforward: bool) -> None:
        self._session = session
        self._reinject_port = reinject_port
        self._xforward = xforward
        self._sender = ""
        self._recipients: list[str] = []
        self._forward: list[str] = []

    def converse(self) -> None:
        self._say("220 filter.example.test ESMTP")
        while command := self._session.rfile.readline().decode("latin-1").rstrip("\r\n"):
            verb = command.split(" ", 1)[0].upper()
            if verb == "QUIT":
                self._say("221 2.0.0 Bye")
                return
            self._say(self._answer(verb, command))

    def _answer(self, verb: str, command: str) -> str:
        if verb == "EHLO":
            return "250-filter.example.test\r\n250-8BITMIME\r\n" + (
                "250-XFORWARD IDENT ADDR NAME\r\n250 OK" if self._xforward else "250 OK"
            )
        if verb == "XFORWARD":
            self._forward.append(command.split(" ", 1)[1])
        elif verb == "MAIL":
            self._sender, self._recipients = _path(command), []
        elif verb == "RCPT":
            self._recipients.append(_path(command))
        elif verb == "DATA":
            self._say("354 go on")
            return self._pass_on(self._read_message())
        return "250 2.1.0 Ok"

    def _read_message(self) -> bytes:
        lines = []
        while (line := self._session.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _pass_on(self, message: bytes) -> str:
        with smtplib.SMTP("127.0.0.1", self._reinject_port, timeout=30) as out:
            out.ehlo("filter.example.test")
            for attributes in self._forward:
                out.docmd("XFORWARD", attributes)
            self._forward = []
            out.mail(self._sender)
            for recipient in self._recipients:
                out.rcpt(recipient)
            code, reply = out.data(message)
        return f"{code} 2.0.0 from MTA(smtp:[127.0.0.1]:{self._reinject_port}): {code} {reply.decode()}"

    def _say(self, reply: str) -> None:
        self._session.wfile.write(reply.encode() + b"\r\n")


def _path(command: str) -> str:
    return command.partition("<")[2].partition(">")[0]
