"""The configuration of the server: one typed object, read from flags, environment and file.

A value is taken from the first place that has one: the flag (`--max-running 32`), the environment
(`LEARNBACK_MAX_RUNNING=32`), the TOML file named by `--config` or `LEARNBACK_CONFIG`
(`max_running = 32`), the default. All of it is read and refused before torch is imported.

Unknown flags and unknown keys of the file are refused. Unknown variables of the environment are
not, because the prefix is shared: the client and the trainer have theirs, and Kubernetes sets
`LEARNBACK_PORT` and `LEARNBACK_SERVICE_HOST` in every pod beside a Service named "learnback" (so
no field may ever be called `port`). One that is nearly the name of a field is refused as a slip.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import ipaddress
import json
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from learnback_server.engine.options import EngineOptions
from learnback_store.connection import connect
from learnback_store.generations import KEEP_SECONDS
from learnback_store.keys import DEFAULT_NAMESPACE

ENV_PREFIX = "LEARNBACK_"
# Stands for the embedded model, which is a folder inside a package rather than a name of the hub.
NANO = "nano"
# Likeness (0 to 1, difflib) from which an unknown variable counts as a slip of the pen:
# LEARNBACK_MAX_RUNING is 0.95 like max_running, LEARNBACK_TIMEOUT 0.70 like queue_timeout.
_SLIP_LIKENESS = 0.85
_HIGHEST_PORT = 65535
# What page_tokens = 0 comes to at most, so that the cache is whole pages on any device.
_LARGEST_PAGE_TOKENS = 256
_ENGINE = EngineOptions()
# May bear passwords, so no complaint repeats them.
_SECRET = frozenset({"redis_url"})


class ConfigError(Exception):
    """The configuration can't be used; the message says what to change."""


class ServerConfig(BaseSettings):
    """All that can be set about the server. Constructing one directly reads no environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    listen: str = Field(
        "127.0.0.1:50051",
        description="Address to serve on, HOST:PORT. Port 0 takes a free one, which is logged.",
    )
    auth_file: str = Field(
        "",
        description="File of bearer tokens and what each may do (docs/security.md); read again "
        "when it changes. Empty: whoever reaches the address may do everything.",
    )
    tls_cert: str = Field(
        "",
        description="Certificate of the server, with those between it and its authority (PEM); "
        "read again when it changes. Empty: connections are not encrypted.",
    )
    tls_key: str = Field("", description="Key of the certificate (PEM, not encrypted).")
    tls_client_ca: str = Field(
        "",
        description="Authorities (PEM): a client must show a certificate of one of them. Empty: "
        "none is asked for.",
    )

    model: str = Field(
        NANO,
        min_length=1,
        description=f"Model to serve: '{NANO}' (embedded), a folder, or a name of the hub.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (cuda if there is one), cpu, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of the weights. auto: what is fastest here for this model."
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of the engine. 0: one for a small model, else one a core.",
    )

    max_running: int = Field(
        _ENGINE.max_running, ge=1, le=4096, description="Sequences decoded together."
    )
    max_waiting: int = Field(
        _ENGINE.max_waiting,
        ge=1,
        le=1_000_000,
        description="Generations that may wait; one more is refused with QUEUE_FULL.",
    )
    step_tokens: int = Field(
        _ENGINE.step_tokens,
        ge=1,
        description="Most tokens of one forward pass; at least max_running.",
    )
    page_tokens: int = Field(
        _ENGINE.page_tokens,
        ge=0,
        le=1024,
        description="Tokens a page of the cache holds. 0: what suits the model (16 or 256).",
    )
    cache_tokens: int = Field(
        _ENGINE.cache_tokens,
        ge=1,
        description="Tokens that the whole key-value cache holds. On the CPU half as much memory "
        "again may be used to keep rows in one piece.",
    )
    prefix_cache: bool = Field(
        _ENGINE.prefix_cache,
        description="Keep the pages of finished prompts for prompts that begin alike.",
    )

    max_tokens: int = Field(
        512, ge=1, description="Longest answer, in tokens, of a request that does not say."
    )
    queue_timeout: float = Field(
        60.0,
        gt=0,
        le=86400,
        description="Longest wait in the queue, in seconds, of a request that does not say.",
    )
    max_message_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest request, in bytes; a larger one is refused with MESSAGE_TOO_LARGE.",
    )

    redis_url: str = Field(
        "",
        repr=False,
        description="Redis that keeps feedback for the trainer: redis://, rediss://, unix:// or "
        "redis+sentinel://. Empty: no feedback is taken.",
    )
    redis_namespace: str = Field(
        DEFAULT_NAMESPACE,
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="What every key in Redis begins with; the trainer's must be the same.",
    )
    generation_expiry: float = Field(
        float(KEEP_SECONDS),
        ge=1,
        le=366 * 86400,
        description="Seconds that an answer is kept, in Redis, for feedback to speak of it.",
    )
    checkpoint_dir: str = Field(
        "",
        description="Folder of checkpoints, shared with the trainer, or their place in an object "
        "store: s3://BUCKET/PREFIX. Empty: none can be looked at or moved.",
    )
    checkpoint_cache: str = Field(
        "",
        description="Local folder that checkpoints are fetched into from an object store; several "
        "programs may share it. Empty: one of this user in the folder for temporary files.",
    )
    merge: Literal["auto", "never"] = Field(
        "auto",
        description="auto: the live adapter is merged aside, into weights of its own. never: "
        "adapters take no memory beyond their factors, and run slower.",
    )
    swap: Literal["aside", "drain"] = Field(
        "aside",
        description="How full weights take the place of others. aside: loaded while those answer. "
        "drain: requests wait until those have ended and been let go, which takes less memory.",
    )

    drain_grace: float = Field(
        30.0,
        ge=0,
        le=86400,
        description="Seconds that running generations may go on after SIGTERM.",
    )
    keepalive: float = Field(
        30.0,
        ge=1,
        le=86400,
        description="Seconds of silence after which a connection is pinged.",
    )
    keepalive_timeout: float = Field(
        10.0,
        ge=1,
        le=3600,
        description="Seconds after which an unanswered ping ends the connection and its calls.",
    )
    max_connection_age: float = Field(
        300.0,
        ge=1,
        le=86400,
        description="Seconds after which a client is asked to reconnect, so that load spreads.",
    )
    max_connection_age_grace: float = Field(
        3600.0,
        ge=0,
        le=86400,
        description="Seconds that calls on a connection past its age may still take.",
    )

    metrics_listen: str = Field(
        "",
        description="Address to serve metrics on over HTTP, HOST:PORT, such as 127.0.0.1:9464. "
        "Port 0 takes a free one, which is logged. Empty: none are served.",
    )

    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+/?)?$",
        description="Collector that traces go to, by OTLP over gRPC: http://HOST:4317, or https:// "
        "for TLS. Empty: none are made. OTEL_* variables set the rest.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages to log: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text for people, json (one object a line) for collectors."
    )
    log_texts: bool = Field(
        False, description="Log prompts, answers and feedback too, which are personal data."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leaves only the arguments: `read_command_line` merges the sources in the open."""
        return (init_settings,)

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _is_host_and_port(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "metrics_listen":
            return value
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):(\d{1,5})", value)
        if match is None or int(match[2]) > _HIGHEST_PORT:
            raise ValueError("must be HOST:PORT with a port of 0 to 65535, such as 0.0.0.0:50051")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_known(cls, value: str) -> str:
        if value:
            # Nothing is sent yet. Its own message could repeat the password.
            try:
                connect(value).close()
            except ValueError as error:
                raise ValueError(
                    "must be redis://HOST:PORT/DB, rediss:// for TLS, unix:///SOCKET or "
                    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
                ) from error
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key are needed together")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key beside it")
        return self

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> Self:
        if self.step_tokens < self.max_running:
            raise ValueError(
                f"step_tokens ({self.step_tokens}) must be at least max_running "
                f"({self.max_running}): a step gives one token to every running sequence"
            )
        page_tokens = self.page_tokens or _LARGEST_PAGE_TOKENS
        if self.cache_tokens % page_tokens:
            raise ValueError(
                f"cache_tokens ({self.cache_tokens}) must be a multiple of {page_tokens}, the "
                "tokens of a page"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        host = self.listen.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def engine_options(self) -> EngineOptions:
        """Returns the part of this that the engine goes by."""
        return EngineOptions(
            max_running=self.max_running,
            max_waiting=self.max_waiting,
            step_tokens=self.step_tokens,
            page_tokens=self.page_tokens,
            cache_tokens=self.cache_tokens,
            prefix_cache=self.prefix_cache,
        )

    def to_toml(self) -> str:
        """Returns all values as a TOML file that gives the same configuration, each explained."""
        blocks = [
            f"# {field.description}\n{name} = {_toml_value(getattr(self, name))}\n"
            for name, field in type(self).model_fields.items()
        ]
        return "\n".join(blocks)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line asked for."""

    config: ServerConfig
    print_config: bool


def read_command_line(
    argv: Sequence[str], environment: Mapping[str, str] = os.environ
) -> CommandLine:
    """Reads flags, environment and file, in this order of precedence.

    Args:
        argv: The flags, without the program's name.
        environment: Where `LEARNBACK_*` is looked up.

    Raises:
        ConfigError: A value, a key of the file or a variable is unknown or out of its range.
        SystemExit: `--help` or `--version` was asked for, or a flag is unknown.
    """
    parser = _parser()
    flags = CliSettingsSource[argparse.ArgumentParser](
        ServerConfig,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )
    arguments = parser.parse_args(argv)
    _refuse_slips(environment)
    file = arguments.config or environment.get(f"{ENV_PREFIX}CONFIG")
    values = _file_values(Path(file)) if file else {}
    values |= _environment_values(environment)
    values |= flags(parsed_args=arguments)()
    return CommandLine(_validated(values), arguments.print_config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="learnback-server",
        description="Serves a language model over gRPC.",
        epilog=textwrap.dedent(
            f"""\
            Each option can also be set in the environment (--max-running as
            {ENV_PREFIX}MAX_RUNNING) or in the TOML file (max_running = ...).
            The flag goes before the environment, the environment before the file."""
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = importlib.metadata.version("learnback")
    parser.add_argument("--version", action="version", version=f"learnback {version}")
    parser.add_argument("--config", metavar="FILE", help="TOML file to read values from")
    parser.add_argument(
        "--print-config", action="store_true", help="print the effective values as TOML, and exit"
    )
    return parser


def _file_values(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the configuration file {file} can't be read: {error}") from error


def _environment_values(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: environment[ENV_PREFIX + name.upper()]
        for name in ServerConfig.model_fields
        if ENV_PREFIX + name.upper() in environment
    }


def _refuse_slips(environment: Mapping[str, str]) -> None:
    known = {"config", *ServerConfig.model_fields}
    for variable in sorted(environment):
        name = variable.removeprefix(ENV_PREFIX).lower()
        if variable.startswith(ENV_PREFIX) and name not in known:
            close = _closest(name, known)
            if close:
                raise ConfigError(
                    f"the environment variable {variable} is unknown; "
                    f"did you mean {ENV_PREFIX}{close.upper()}?"
                )


def _closest(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_SLIP_LIKENESS)), "")


def _validated(values: dict[str, Any]) -> ServerConfig:
    try:
        return ServerConfig(**values)
    except ValidationError as error:
        problems = [_problem(details) for details in error.errors()]
        raise ConfigError("\n".join(problems)) from error


def _problem(details: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        close = _closest(name, ServerConfig.model_fields)
        hint = f"; did you mean {close}?" if close else "; see --help for all there is"
        return f"{name}: no such option{hint}"
    message = str(details["msg"]).removeprefix("Value error, ")
    if not name or name in _SECRET:
        return f"{name}: {message}".removeprefix(": ")
    return f"{name}: {message}, not {details['input']!r}"


def _toml_value(value: str | float | bool) -> str:
    # JSON spells strings, numbers and truth values as TOML does.
    return json.dumps(value, ensure_ascii=False)
