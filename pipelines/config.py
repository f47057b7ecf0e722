"""``tailwatch.toml``: validated settings with defaults that work without it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from telemetry.errors import ConfigError

__all__ = ["Config", "load", "reference"]


class Struct(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Unknown keys are errors."""


class Harvest(Struct, frozen=True):
    """What this host records, and from whom it takes more in; `harvest` and `watch` both read it.

    `hz` is the rate of the standard set, `fast_hz` that of softnet, pressure, UDP sockets and thread times (0: the
    same). `processes` are names (regular expressions), `cgroup:PATH` or `pid:N`. `logs` and `records` are TOML files
    that describe a log to follow or a record in shared memory, `scrape` exporters' URLs. While the file `trigger` was
    touched less than `trigger_s` ago (or, in `watch`, an incident is open), costly files are read once a second too.
    `push` is a collector's URL, `listen` where to take in what others push (loopback, unless there are a token and a
    certificate); `token_file` serves both, `tls_ca` are the certificates that pushing and scraping trust (default: the
    system's). `publish` is a URI to which the store is copied each minute; `collect` are stores, or folders of them, by
    path or URI, out of which what is new is copied every `collect_s`. From the store goes what was seen more than
    `keep_days` ago, and the oldest beyond `max_gb` (0: nothing); a `watch` that puts nothing in removes nothing.
    """

    hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 10.0
    fast_hz: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    processes: list[str] = []
    namespaces: bool = True
    kernel: bool = True
    root: str = "/"
    host: str = ""
    keep_days: Annotated[float, msgspec.Meta(ge=0)] = 7.0
    max_gb: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    logs: list[str] = []
    records: list[str] = []
    scrape: list[str] = []
    scrape_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    trigger: str = ""
    trigger_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    push: str = ""
    listen: str = ""
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    publish: str = ""
    collect: list[str] = []
    collect_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0


class Scoring(Struct, frozen=True):
    """How detectors run.

    `detectors` are names of the catalogue or of champions (default: all). `expected` is a file of labels (CSV or
    Parquet): incidents in their time and scope are information only, and say what was expected. `bypass` are selectors
    of series whose packets do not pass the kernel's network stack.
    """

    detectors: list[str] = []
    checkpoint_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    expected: str = ""
    bypass: list[str] = []
    max_series: Annotated[int, msgspec.Meta(ge=1)] = 50_000
    keep_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    keep_evidence_days: Annotated[float, msgspec.Meta(gt=0)] = 7.0


class Alertmanager(Struct, frozen=True):
    """Prometheus Alertmanager, API v2."""

    url: str
    interval_s: float = 60.0
    token_file: str = ""


class Webhook(Struct, frozen=True):
    """A POST of JSON for each incident change."""

    url: str
    token_file: str = ""


class Sinks(Struct, frozen=True):
    """Where incident changes go. `jsonl` is a file, `parquet` a folder with a table a day; `apprise` URLs (chat, mail,
    pagers) may name `env:VARIABLE`.
    """

    jsonl: str = ""
    parquet: str = ""
    alertmanager: Alertmanager | None = None
    webhook: Webhook | None = None
    apprise: list[str] = []
    max_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 60


class Http(Struct, frozen=True):
    """The service's own pages. Loopback unless told otherwise."""

    listen: str = "127.0.0.1:9464"
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class Log(Struct, frozen=True):
    """What jobs say on stderr: `format` is "text", "json" or "auto" (text on a terminal, else JSON)."""

    format: Literal["auto", "text", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Kafka(Struct, frozen=True):
    """A topic that `watch` takes in. `settings` are the client's (values may name `env:VARIABLE`)."""

    topic: str
    settings: dict[str, str] = {}


class Captures(Struct, frozen=True):
    """Captures that `watch` follows, by the name of their tap: a growing file, a folder or glob of a rotated set, a
    named pipe, or "-" for standard input. Several are matched with each other. Their series get a host of their own.
    `detail` is "packets" (every measurement, what the catalogue is made for) or "windows" (a second each: for links so
    busy that the former lags).
    """

    taps: dict[str, str] = {}
    host: str = "wire"
    detail: Literal["packets", "windows"] = "packets"


class Config(Struct, frozen=True):
    """Everything that can be set.

    `store` is a folder, `state` an SQLite path or an SQLAlchemy URL, `tracking` an MLflow tracking URI,
    `artifacts` the folder of MLflow's artifacts (used when the tracking store is a local SQLite file).
    """

    store: str = "tailwatch-data/store"
    state: str = "tailwatch-data/state.db"
    tracking: str = "sqlite:///tailwatch-data/mlflow.db"
    artifacts: str = "tailwatch-data/artifacts"
    checkpoints: str = "tailwatch-data/checkpoints"
    harvest: Harvest = Harvest()
    scoring: Scoring = Scoring()
    sinks: Sinks = Sinks()
    http: Http = Http()
    log: Log = Log()
    captures: Captures = Captures()
    kafka: Kafka | None = None


def load(path: str | None = None) -> Config:
    """Read `path`, or ``./tailwatch.toml`` if it is there, else the defaults.

    Raises
    ------
    ConfigError
        Not TOML, an unknown key, a value of the wrong type: with file and key.
    """
    file = Path(path) if path else Path("tailwatch.toml")
    if path is None and not file.exists():
        return Config()
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), Config)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}") from None


def reference() -> str:
    """Every key with its type, default and meaning, as commented TOML made from the schema."""
    lines: list[str] = []

    def table(cls: type[msgspec.Struct], name: str, optional: bool) -> None:
        doc = " ".join((cls.__doc__ or "").split())
        head = f"# [{name}]" if optional else f"[{name}]"
        lines.extend(([head] if name else []) + [f"# {doc}"])
        nested: list[tuple[type[msgspec.Struct], str, bool]] = []
        for field in msgspec.structs.fields(cls):
            kind = _struct_of(field.type)
            if kind is not None:
                path = f"{name}.{field.name}" if name else field.name
                nested.append((kind, path, field.default is None))
                continue
            if field.default_factory is not msgspec.NODEFAULT:
                default: Any = field.default_factory()
            else:
                default = field.default
            shown = "..." if default is msgspec.NODEFAULT else _toml(default)
            lines.append(f"# {field.name} = {shown}")
        lines.append("")
        for kind, path, absent in nested:
            table(kind, path, absent)

    table(Config, "", False)
    return "\n".join(lines)


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    options = [kind, *getattr(kind, "__args__", ())]
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()
