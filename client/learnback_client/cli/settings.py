"""The configuration of the `learnback` command: one typed object from flags, environment and file.

A value is taken from the first place that has one: the flag (`--timeout 30`), the environment
(`LEARNBACK_TIMEOUT=30`), the TOML file (`timeout = 30`), the default. The file is the one of
`--config` or `LEARNBACK_CLIENT_CONFIG`, else `~/.config/learnback/client.toml` if it is there.
Unknown keys of the file are refused; unknown variables are not, because the server shares the
prefix. LEARNBACK_TLS_CERT and LEARNBACK_TLS_KEY are read by both: beside a server the command shows
the server's own certificate, as its probe must under mutual TLS. Sampling is not configured here:
how an answer is made stands on the command line.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from learnback_client.call import DEFAULT_TIMEOUT_S
from learnback_client.client import Client

ENV_PREFIX = "LEARNBACK_"
CONFIG_VARIABLE = "LEARNBACK_CLIENT_CONFIG"


class SettingsError(Exception):
    """The configuration can't be used; the message says what to change."""


class ClientSettings(BaseSettings):
    """All that can be set about the `learnback` command."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    address: str | None = Field(None, description="HOST:PORT of the server.")
    token: SecretStr | None = Field(None, description="Bearer token.")
    token_file: Path | None = Field(None, description="File that holds the bearer token.")
    tls: bool = Field(False, description="Encrypt, trusting the system's authorities.")
    ca_file: Path | None = Field(None, description="Encrypt, trusting these authorities (PEM).")
    tls_cert: Path | None = Field(None, description="Certificate to show (PEM); encrypts.")
    tls_key: Path | None = Field(None, description="Key of the certificate (PEM).")
    plaintext_token: bool = Field(
        False, description="Allow sending the token unencrypted to another machine."
    )
    timeout: float = Field(DEFAULT_TIMEOUT_S, gt=0, description="Seconds that a call may take.")
    author: str | None = Field(None, description="The end user on whose behalf calls are made.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Says where values come from, first one first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def connect(self) -> Client:
        """Returns a client of the configured server.

        Raises:
            InvalidRequest: Address or token can't be used.
            SettingsError: The file of the token can't be read.
        """
        return Client(
            self.address,
            token=self._token(),
            tls=self.tls,
            ca_file=self.ca_file,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            plaintext_token=self.plaintext_token,
            timeout=self.timeout,
        )

    def _token(self) -> str | None:
        if self.token_file is None:
            return self.token.get_secret_value() if self.token else None
        try:
            return self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the token can't be read: {error}") from error


def load_settings(flags: dict[str, Any], config: Path | None) -> ClientSettings:
    """Reads the configuration.

    Args:
        flags: Values of the command line; None where it says nothing.
        config: The file of `--config`, if it was given.

    Raises:
        SettingsError: A value or key is wrong, or the file can't be read.
    """
    path = _find_file(config)

    class Located(ClientSettings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return Located(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(_describe(error, path)) from error
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error


def _find_file(config: Path | None) -> Path | None:
    named = config or os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingsError(f"there is no file {path}")
        return path
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(base) / "learnback" / "client.toml"
    return path if path.is_file() else None


def _describe(error: ValidationError, path: Path | None) -> str:
    where = f" (flags, environment LEARNBACK_*, {path})" if path else ""
    lines = [
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
        for each in error.errors(include_input=False)
    ]
    return f"wrong configuration{where}: " + "; ".join(lines)
