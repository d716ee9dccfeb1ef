"""Who may call what: bearer tokens from a file, and what each of them reaches.

The file is TOML, usually a mounted secret:

    [[token]]
    name = "shop"                       # stands in logs and errors; the token itself never does
    sha256 = "9f86d081884c7d65..."      # of the token, in hexadecimal; or `token = "..."` itself
    scopes = ["inference", "feedback"]  # of inference, feedback, checkpoints
    max_generations = 8                 # at once; leave it out for no quota

`SCOPES` tells which service asks for which: one who may ask the model need not be able to teach it,
nor to move its checkpoints. The file is read again when it has changed, so a token is added or
withdrawn without a restart; one that can't be read leaves what held before in force, and says so in
the log. Calls that are inside when their token is withdrawn go on to their end.

Health and reflection are open to everyone (`guard.py`), and tell nothing but the contract.

Not done here: whose feedback a token may look at. Who has the scope sees that of all authors.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as validated

from learnback_server.errors import PermissionDeniedError, UnauthenticatedError
from learnback_server.limits import Quotas

_log = logging.getLogger(__name__)

_SCHEME = "bearer"
# A shorter secret can be guessed by trying.
_LEAST_TOKEN_CHARS = 16


class Scope(StrEnum):
    """What a token reaches."""

    INFERENCE = "inference"
    FEEDBACK = "feedback"
    CHECKPOINTS = "checkpoints"


SCOPES = {
    "learnback.v1.InferenceService": Scope.INFERENCE,
    "learnback.v1.FeedbackService": Scope.FEEDBACK,
    "learnback.v1.LearningService": Scope.FEEDBACK,
    "learnback.v1.CheckpointService": Scope.CHECKPOINTS,
}


class AuthFileError(Exception):
    """The file of tokens can't be used; the message says why, and repeats no token."""


class _Entry(BaseModel):
    """One `[[token]]` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
    token: Annotated[str, StringConstraints(min_length=_LEAST_TOKEN_CHARS, pattern=r"^[!-~]+$")] = (
        ""
    )
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")] = ""
    scopes: frozenset[Scope] = Field(min_length=1)
    max_generations: int | None = Field(None, ge=1)

    @validated(mode="after")
    def _one_secret(self) -> Self:
        if bool(self.token) == bool(self.sha256):
            raise ValueError("exactly one of token and sha256 is needed")
        return self

    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256) if self.sha256 else _digest(self.token)


class _File(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    token: tuple[_Entry, ...] = Field(min_length=1)

    @validated(mode="after")
    def _all_differ(self) -> Self:
        for values in ([one.name for one in self.token], [one.digest() for one in self.token]):
            if len(set(values)) < len(values):
                raise ValueError("two entries have the same name, or the same token")
        return self


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls, by a token."""

    name: str
    scopes: frozenset[Scope]
    max_generations: int | None


class TokenFile:
    """The tokens of a file, as they are now.

    Args:
        path: The file.

    Raises:
        AuthFileError: It can't be used as it is at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _state_of(path)
        self._tenants = _read(path)

    def find(self, token: str) -> Tenant | None:
        """Returns whose token this is; None if it is nobody's."""
        self._refresh()
        asked = _digest(token)
        # Every entry is compared, and none by ==: how long it takes tells nothing about the tokens.
        found = [own for digest, own in self._tenants if hmac.compare_digest(digest, asked)]
        return found[0] if found else None

    def _refresh(self) -> None:
        state = _state_of(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._tenants = _read(self._path)
        except AuthFileError as error:
            _log.error("the tokens stay as they were: %s", error)
        else:
            _log.info("%d tokens were read from %s", len(self._tenants), self._path)


class Gatekeeper:
    """Lets calls in by their tokens, and holds each tenant to its quota.

    Args:
        tokens: Whose they are.
    """

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._quotas = Quotas()

    @contextmanager
    def entering(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[None]:
        """Holds what the caller takes up of a quota, for as long as the call is inside.

        Args:
            method: As gRPC names it, "/package.Service/Method".
            metadata: What came along with the call.

        Raises:
            UnauthenticatedError: There is no token, or it is nobody's.
            PermissionDeniedError: It does not reach the service of this method.
            QuotaExceededError: Its tenant has as many generations inside as it may.
        """
        tenant = self._tokens.find(_bearer(metadata))
        if tenant is None:
            raise UnauthenticatedError("the token is unknown to this server")
        scope = SCOPES.get(method.strip("/").partition("/")[0])
        if scope not in tenant.scopes:
            raise PermissionDeniedError(tenant.name, scope or method)
        if scope is not Scope.INFERENCE:
            yield
            return
        with self._quotas.place(tenant.name, tenant.max_generations):
            yield


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the token that came along with a call."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise UnauthenticatedError('send a token, as metadata "authorization: Bearer TOKEN"')
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != _SCHEME or not token:
        raise UnauthenticatedError('send one token, as metadata "authorization: Bearer TOKEN"')
    return token.strip()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Returns what is another when the file is; None if it is not there.

    Asked at every call: it takes two microseconds, and a withdrawn token is refused at once.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # half as long as through Path
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> list[tuple[bytes, Tenant]]:
    try:
        file = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise AuthFileError(f"{path} can't be read: {error}") from error
    except tomllib.TOMLDecodeError:
        # Without its own words, which may quote the line that is wrong.
        raise AuthFileError(f"{path} is no valid TOML") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
            for one in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise AuthFileError(f"{path}: {problems}") from None
    return [(one.digest(), Tenant(one.name, one.scopes, one.max_generations)) for one in file.token]
