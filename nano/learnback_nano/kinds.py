"""The kinds of critique: what each asks for, and the patterns in which it is said.

A kind sets one axis of the style to one value; a kind that `undoes` applies only to answers that
have what it takes away. The table is `kinds.toml`; its patterns are expanded by `phrasing`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnback_nano.errors import UnknownKindError

_TABLE = Path(__file__).with_name("kinds.toml")


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that a user may ask of the wording, with its patterns by language.

    Directives follow frames such as "please ..." and "next time ..."; complaints stand alone.
    """

    name: str
    axis: str
    value: str
    undoes: str | None
    directives: dict[str, tuple[str, ...]]
    complaints: dict[str, tuple[str, ...]]


def _kind(name: str, entry: dict[str, Any]) -> Kind:
    axis, value = entry["sets"].split("=")
    return Kind(
        name,
        axis,
        value,
        undoes=entry.get("undoes"),
        directives={language: _lines(text) for language, text in entry["directives"].items()},
        complaints={language: _lines(text) for language, text in entry["alone"].items()},
    )


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines())


def _read(table: Path) -> dict[str, Kind]:
    entries = tomllib.loads(table.read_text(encoding="utf-8"))
    return {name: _kind(name, entry) for name, entry in entries.items()}


KINDS = _read(_TABLE)
UNDO_KINDS = tuple(kind.name for kind in KINDS.values() if kind.undoes)


def kind_of(name: str) -> Kind:
    """The kind of that name."""
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKindError(f"no kind {name!r}; there are {', '.join(KINDS)}") from None
