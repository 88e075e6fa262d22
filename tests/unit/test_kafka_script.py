"""`deploy/kafka/kafka`: what it says, and with which exit status, when it cannot or need not start a broker."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "deploy" / "kafka" / "kafka"
TEST_BROKER_PORT = "19092"
COREUTILS = ("bash", "cat", "chmod", "cmp", "dirname", "flock", "grep", "head", "mkdir", "mktemp", "rm", "sed", "tr")


def kafka(verb: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The script's answer with these settings and, but for the place of the jars, none of the caller's own."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SPAMTIDE_") or name == "SPAMTIDE_CACHE"
    }
    return subprocess.run(
        [SCRIPT, verb], env=inherited | settings, capture_output=True, text=True, timeout=120, check=False
    )


def folder_of_programs(folder: Path, *names: str) -> str:
    """A PATH on which there is nothing but these programs."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None, f"{name} is not on this machine"
        (folder / name).symlink_to(found)
    return str(folder)


def fake_java(folder: Path, version: str) -> str:
    """A JAVA_HOME whose Java only says its version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return str(folder)


@pytest.fixture
def own_node(tmp_path: Path) -> dict[str, str]:
    """Settings of a node that nothing else uses. The port is below those the kernel hands out."""
    return {"SPAMTIDE_KAFKA_DIR": str(tmp_path / "node"), "SPAMTIDE_KAFKA_PORT": "18092"}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with Kafka."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def test_without_java_one_line_names_the_package_to_install(tmp_path: Path, own_node: dict[str, str]) -> None:
    path = folder_of_programs(tmp_path / "programs", *COREUTILS)

    answer = kafka("start", own_node | {"PATH": path, "JAVA_HOME": ""})

    assert answer.returncode == 1
    assert answer.stderr == (
        "kafka: Java is missing: install it with 'apt-get install default-jre-headless' (or 'make setup').\n"
    )


def test_a_java_older_than_17_is_refused_by_name(tmp_path: Path, own_node: dict[str, str]) -> None:
    home = fake_java(tmp_path / "jdk-11", "11.0.2")

    answer = kafka("start", own_node | {"JAVA_HOME": home})

    assert answer.returncode == 1
    assert re.fullmatch(
        r"kafka: \S+/bin/java is Java 11, Kafka \S+ needs 17 or newer: .*'apt-get install .*\n", answer.stderr
    )


def test_maven_is_asked_for_only_while_the_jars_are_not_there(tmp_path: Path, own_node: dict[str, str]) -> None:
    path = folder_of_programs(tmp_path / "programs", *COREUTILS)
    home = fake_java(tmp_path / "jdk-17", "17.0.15")

    answer = kafka("start", own_node | {"PATH": path, "JAVA_HOME": home, "SPAMTIDE_CACHE": str(tmp_path / "cache")})

    assert answer.returncode == 1
    assert re.fullmatch(r"kafka: Maven is missing, .*: install it with 'apt-get install maven' .*\n", answer.stderr)


def test_a_taken_port_is_named_with_a_command_for_another(own_node: dict[str, str], taken_port: int) -> None:
    answer = kafka("start", own_node | {"SPAMTIDE_KAFKA_PORT": str(taken_port)})

    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith(f"kafka: port {taken_port} is taken by another program: stop it,")
    assert re.search(r"SPAMTIDE_KAFKA_PORT=\d+ \S*deploy/kafka/kafka start$", answer.stderr)


def test_the_controllers_port_must_be_free_too(own_node: dict[str, str], taken_port: int) -> None:
    answer = kafka("start", own_node | {"SPAMTIDE_KAFKA_PORT": str(taken_port - 1)})

    assert answer.returncode == 1
    assert "is taken by another program" in answer.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [("SPAMTIDE_KAFKA_PORT", "kafka"), ("SPAMTIDE_KAFKA_PORT", "65535"), ("SPAMTIDE_KAFKA_HEAP", "plenty")],
)
def test_a_setting_that_makes_no_sense_is_named(own_node: dict[str, str], setting: str, value: str) -> None:
    answer = kafka("start", own_node | {setting: value})

    assert answer.returncode == 1
    assert re.fullmatch(rf"kafka: {setting}={value} is no .*\n", answer.stderr)


def test_a_cluster_of_ones_own_is_used_instead(own_node: dict[str, str]) -> None:
    answer = kafka("start", own_node | {"SPAMTIDE_BOOTSTRAP_SERVERS": "kafka-1.example:9092"})

    assert answer.returncode == 0
    assert answer.stdout.count("\n") == 1
    assert "that cluster is used and none is started here: kafka-1.example:9092" in answer.stdout
    assert not Path(own_node["SPAMTIDE_KAFKA_DIR"]).exists()


def test_stopping_what_does_not_run_is_harmless(own_node: dict[str, str]) -> None:
    answer = kafka("stop", own_node)

    assert (answer.returncode, answer.stdout) == (0, "kafka: not running on 127.0.0.1:18092\n")


def test_status_of_what_does_not_run_is_3(own_node: dict[str, str]) -> None:
    assert kafka("status", own_node).returncode == 3


def test_a_pid_file_left_behind_never_kills_who_has_the_pid_now(
    own_node: dict[str, str], bystander: subprocess.Popen[bytes]
) -> None:
    node = Path(own_node["SPAMTIDE_KAFKA_DIR"])
    node.mkdir()
    (node / "kafka.pid").write_text(f"{bystander.pid}\n")

    answer = kafka("stop", own_node)

    assert (answer.returncode, answer.stdout) == (0, "kafka: not running on 127.0.0.1:18092\n")
    assert bystander.poll() is None


@pytest.mark.kafka
def test_a_second_start_says_that_it_already_runs() -> None:
    node = {"SPAMTIDE_KAFKA_PORT": TEST_BROKER_PORT}
    first = kafka("start", node)
    assert first.returncode == 0, first.stderr

    second = kafka("start", node)

    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith(f"kafka: already running on 127.0.0.1:{TEST_BROKER_PORT} (pid ")
    assert kafka("status", node).returncode == 0


def test_the_container_image_has_the_version_that_maven_fetches() -> None:
    pom = (CHECKOUT / "deploy" / "kafka" / "pom.xml").read_text()
    compose = (CHECKOUT / "deploy" / "compose.yaml").read_text()

    fetched = re.findall(r"<kafka\.version>(.*)</kafka\.version>", pom)

    assert fetched == re.findall(r"image: apache/kafka:(\S+)", compose)
