"""How records are written down: one JSON object each, versioned and read strictly.

    {"schema": "learnback.feedback/1", "body": {...}}

A schema or version that is not known here, a field too many or too few, or a value of another type
is a `RecordUnreadableError`, never a guess. A new version gets a new number, and a reader of the
old one beside it. Figures must be finite: JSON has no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Self, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from learnback_store.errors import RecordUnreadableError

_S = TypeVar("_S", bound="Strict")


class Strict:
    """Parts of records: no unknown fields, no conversions, no infinities when read."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False
    )


class Record(Strict):
    """What is written down as a whole, under a schema of its own."""

    __slots__ = ()
    schema: ClassVar[str]

    def to_json(self) -> str:
        """Returns the record as one line of JSON."""
        body = _adapter(type(self)).dump_python(self, mode="json")
        return canonical_json({"schema": self.schema, "body": body})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            RecordUnreadableError: It is something else, or of another version.
        """
        try:
            envelope = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise RecordUnreadableError(f"not JSON where {cls.schema} was expected") from error
        if not isinstance(envelope, dict) or set(envelope) != {"schema", "body"}:
            raise RecordUnreadableError(f"not a record where {cls.schema} was expected")
        if envelope["schema"] != cls.schema:
            raise RecordUnreadableError(
                f"a record of schema {envelope['schema']!r} where {cls.schema} was expected; "
                "it may be of a newer version of this program"
            )
        return read_body(cls, envelope["body"])


# Making one takes milliseconds, so each is made once.
_adapters: Final[dict[type[Any], TypeAdapter[Any]]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def canonical_json(value: object) -> str:
    """Returns JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def to_body(part: Strict) -> Any:
    """Returns the dataclass as plain JSON values."""
    return _adapter(type(part)).dump_python(part, mode="json")


def read_body(kind: type[_S], body: object) -> _S:
    """Reads the plain JSON values of a dataclass, strictly.

    Raises:
        RecordUnreadableError: A field is missing, unknown or of another type.
    """
    try:
        read: _S = _adapter(kind).validate_json(canonical_json(body))
    except ValidationError as error:
        where = ", ".join(
            ".".join(map(str, one["loc"])) + ": " + one["type"]
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise RecordUnreadableError(f"the body is not of {kind.__name__} ({where})") from error
    return read


def require_finite(owner: str, figures: Iterable[float | None]) -> None:
    """Refuses figures that JSON can't bear.

    Raises:
        ValueError: One is infinite or not a number.
    """
    if not all(figure is None or math.isfinite(figure) for figure in figures):
        raise ValueError(f"{owner}: every figure must be finite")
