"""Settings: `SPAMTIDE_*` over a TOML file over defaults, checked once at start. The only reader of the environment."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from producers.errors import UsageError

PREFIX: Final = "SPAMTIDE_"
DEFAULT_BOOTSTRAP: Final = "127.0.0.1:9092"

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One flat list; every name is also `SPAMTIDE_<NAME>` in the environment and `<name>` in the TOML file."""

    bootstrap_servers: _Text = DEFAULT_BOOTSTRAP
    """Kafka brokers to begin with, `host:port`, several with commas."""
    topic_prefix: Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = ""
    """Goes before each topic, group and transactional id, so that a replay or a test lives in topics of its own."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the brokers are spoken to."""
    ssl_ca_location: str = ""
    """File of the certificate authorities to trust (PEM); without it, those of the system."""
    ssl_certificate_location: str = ""
    """File of the client's own certificate (PEM), where the brokers ask for one."""
    ssl_key_location: str = ""
    """File of its key (PEM), where that is not in the certificate's file."""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """How to log in, with a `SASL_` protocol."""
    sasl_username: str = ""
    """Whom to log in as."""
    sasl_password: str = ""
    """With which password; better in the environment or a file than in a shell's history."""

    slot: Annotated[int, msgspec.Meta(ge=0, le=9999)] = 0
    """Which of a stage's workers this is. Two workers with one slot fence each other."""
    metrics_address: _Text = "127.0.0.1"
    """Where the stages serve their metrics and ALERT its page: loopback, unless you open it on purpose."""
    count_metrics_port: _Port = 9541
    """COUNT's `/metrics`; 0 takes any free port."""
    track_metrics_port: _Port = 9542
    """TRACK's `/metrics`; 0 takes any free port."""
    alert_port: _Port = 9543
    """ALERT's web server: metrics, and the page; 0 takes any free port."""
    label_key: str = ""
    """Secret for the short hashes that stand for accounts and addresses in metric labels."""

    flush_ms: _Positive = 1000
    """COUNT flushes at least this often."""
    idle_ms: _Positive = 30_000
    """A partition read to its end and silent for this long no longer holds the watermark back."""
    grace_ms: Annotated[int, msgspec.Meta(ge=0)] = 60_000
    """The watermark lags the slowest partition by this much."""
    max_ahead_minutes: _Positive = 30
    """COUNT pauses a partition this far ahead (event time) of its slowest active one."""
    commit_ms: _Positive = 10_000
    """TRACK commits at least this often."""
    max_rows: Annotated[int, msgspec.Meta(ge=1000)] = 2_000_000
    """Entities TRACK keeps; above it the least recent small ones fold into `(other)`."""

    capture_share: _Share | None = None
    """Share of all mail that our traps catch. Without it trap hits are shown but not projected."""
    trap_min_hits: _Positive = 10
    """Trap hits, of a day or of 30 days, below which that many are not projected."""
    page_share: _Share = 0.01
    """Unwanted volume above this share of all intake pages."""
    page_tier: _Positive = 10_000_000
    """Unwanted copies a month from which an incident is critical."""
    quiet_minutes: _Positive = 360
    """An incident resolves after this long below its line."""
    runbook_url: str = "https://example.invalid/spamtide/runbooks.md"
    """What an alert links to for what to do; the loudest rule is added as `#rule`."""
    dashboard_url: str = "https://example.invalid/d/spamtide-campaign"
    """What an alert links to for the picture; `var-entity=` is added."""

    def topic(self, name: str) -> str:
        """The physical name of a topic."""
        return self.topic_prefix + name


def load(environ: Mapping[str, str], toml_path: Path | None = None) -> Settings:
    """Settings from a TOML file (named, or by `SPAMTIDE_CONFIG`) with the environment over it.

    Raises `UsageError` with one line that names the setting, what is wrong and where it came from.
    """
    return load_with_origin(environ, toml_path)[0]


def load_with_origin(environ: Mapping[str, str], toml_path: Path | None = None) -> tuple[Settings, dict[str, str]]:
    """As `load`; and by name, for each setting that is not a default, the variable or the file it came from."""
    named = environ.get(PREFIX + "CONFIG")
    path = toml_path or (Path(named) if named else None)
    values: dict[str, Any] = _from_toml(path) if path else {}
    origin = dict.fromkeys(values, str(path))
    for name in Settings.__struct_fields__:
        variable = variable_of(name)
        if variable in environ:
            values[name] = environ[variable]
            origin[name] = variable
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(_explain(str(error), origin)) from None
    _check(settings, origin)
    return settings, origin


def _check(settings: Settings, origin: Mapping[str, str]) -> None:
    """What one setting asks of another, and that named files are there."""
    if settings.security_protocol.startswith("SASL"):
        for name in ("sasl_mechanism", "sasl_username", "sasl_password"):
            if not getattr(settings, name):
                raise UsageError(f"setting {name} is missing: security_protocol is {settings.security_protocol}")
    for name in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location"):
        if (path := getattr(settings, name)) and not Path(path).is_file():
            raise UsageError(f"setting {name} (from {origin.get(name, 'defaults')}): there is no file {path}")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def environ_of(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which another process loads these very settings; whatever else `environ` holds is kept."""
    ours = {variable_of(name) for name in Settings.__struct_fields__} | {PREFIX + "CONFIG"}
    kept = {name: value for name, value in environ.items() if name not in ours}
    values = {variable_of(name): getattr(settings, name) for name in Settings.__struct_fields__}
    return kept | {name: str(value) for name, value in values.items() if value not in (None, "")}


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the settings file {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None


def _explain(message: str, origin: Mapping[str, str]) -> str:
    """`Expected int >= 1 - at $.flush_ms` as a sentence that names the variable or the file."""
    what, _, where = message.partition(" - at `$.")
    name = where.rstrip("`")
    if not name:
        return f"settings: {what}; `spamtide settings` lists the names"
    return f"setting {name} (from {origin.get(name, 'defaults')}): {what}"
