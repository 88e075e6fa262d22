"""Settings: the environment over a TOML file over defaults, checked once, each fault told in one line."""

from pathlib import Path

import pytest

from producers.errors import UsageError
from streams.settings import Settings, environ_of, load, load_with_origin


def toml(folder: Path, text: str) -> Path:
    path = folder / "spamtide.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_the_defaults_hold() -> None:
    assert load({}) == Settings()
    assert load({"PATH": "/bin", "FLUSH_MS": "7"}) == Settings()


def test_the_environment_wins_over_the_file_and_each_origin_is_told(tmp_path: Path) -> None:
    path = toml(tmp_path, 'topic_prefix = "file-"\nflush_ms = 500\n')
    settings, origin = load_with_origin({"SPAMTIDE_FLUSH_MS": "250"}, path)
    assert (settings.topic_prefix, settings.flush_ms) == ("file-", 250)
    assert origin == {"topic_prefix": str(path), "flush_ms": "SPAMTIDE_FLUSH_MS"}


def test_a_variable_may_name_the_file(tmp_path: Path) -> None:
    path = toml(tmp_path, "slot = 3\n")
    assert load({"SPAMTIDE_CONFIG": str(path)}).slot == 3


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("SPAMTIDE_FLUSH_MS", "soon", "setting flush_ms (from SPAMTIDE_FLUSH_MS)"),
        ("SPAMTIDE_FLUSH_MS", "0", ">= 1"),
        ("SPAMTIDE_CAPTURE_SHARE", "1.5", "setting capture_share"),
        ("SPAMTIDE_CAPTURE_SHARE", "nan", "setting capture_share"),
        ("SPAMTIDE_TOPIC_PREFIX", "a/b", "setting topic_prefix"),
        ("SPAMTIDE_ALERT_PORT", "65536", "setting alert_port"),
        ("SPAMTIDE_BOOTSTRAP_SERVERS", "", "setting bootstrap_servers"),
        ("SPAMTIDE_SECURITY_PROTOCOL", "TLS", "setting security_protocol"),
        ("SPAMTIDE_SECURITY_PROTOCOL", "SASL_SSL", "setting sasl_mechanism is missing"),
        ("SPAMTIDE_SSL_CA_LOCATION", "/no/such/file", "there is no file /no/such/file"),
        ("SPAMTIDE_CONFIG", "/no/such/file", "cannot read the settings file /no/such/file"),
    ],
)
def test_a_bad_setting_is_told_in_one_line_that_names_it(variable: str, value: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load({variable: value})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("flush = 1", "unknown field `flush`"),
        ("flush_ms = = 1", "is not TOML"),
        ('flush_ms = "x"', "spamtide.toml"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load({}, toml(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_process_loads_the_very_same_settings(tmp_path: Path) -> None:
    path = toml(tmp_path, "slot = 3\n")
    settings = Settings(topic_prefix="t-", capture_share=0.0002, page_share=0.5, quiet_minutes=1)
    environ = environ_of(
        settings, {"PATH": "/bin", "SPAMTIDE_SLOT": "9", "SPAMTIDE_CONFIG": str(path), "SPAMTIDE_KAFKA_PORT": "1"}
    )
    assert load(environ) == settings
    assert (environ["PATH"], environ["SPAMTIDE_KAFKA_PORT"]) == ("/bin", "1")


def test_the_prefix_goes_before_every_topic() -> None:
    assert Settings(topic_prefix="t-").topic("mail-events") == "t-mail-events"
