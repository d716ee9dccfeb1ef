"""What is known of the work in hand: its ids, for log lines and exemplars.

It follows the work through `await` and belongs to one call or one round. `about` opens it, `note`
adds what becomes known on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from opentelemetry.trace import get_current_span

TRACE_ID = "trace_id"

_NOTHING: Mapping[str, str] = MappingProxyType({})
_work: ContextVar[dict[str, str] | None] = ContextVar("learnback_work", default=None)


@contextmanager
def about(**ids: str) -> Iterator[dict[str, str]]:
    """Opens a piece of work for as long as the `with` lasts; ids that are empty are left out.

    Yields:
        What is known of it, which grows by `note`.
    """
    known = {**ids_in_hand(), **_present(ids)}
    token = _work.set(known)
    try:
        yield known
    finally:
        _work.reset(token)


def note(**ids: str) -> None:
    """Adds ids to the work in hand, if there is any, and to its span."""
    known = _work.get()
    if known is not None:
        present = _present(ids)
        known.update(present)
        span = get_current_span()
        for name, value in present.items():
            span.set_attribute(f"learnback.{name}", value)


def ids_in_hand() -> Mapping[str, str]:
    """Returns the ids of the work in hand."""
    return _work.get() or _NOTHING


def exemplar() -> dict[str, str] | None:
    """Returns what an observation made now is an example of, for prometheus-client."""
    return exemplar_of(ids_in_hand().get(TRACE_ID, ""))


def exemplar_of(trace_id: str) -> dict[str, str] | None:
    """Returns the exemplar that names a trace; None if there is none."""
    return {TRACE_ID: trace_id} if trace_id else None


def _present(ids: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in ids.items() if value}
