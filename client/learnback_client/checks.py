"""Checks of arguments that must hold before a request can be built at all.

Only what the contract can't carry is refused here: text that is not Unicode, numbers that its
fields can't hold, names that it does not have. Ranges that depend on the model or the server are
the server's to check, so that there is one authority on them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from enum import StrEnum
from numbers import Real
from typing import SupportsIndex, TypeVar

from google.protobuf.duration_pb2 import Duration

from learnback_client.errors import invalid

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1
# The largest seed of the contract: every integer up to here survives JSON and JavaScript.
SEED_MAX = 2**53 - 1
# The longest google.protobuf.Duration, in seconds: about 10,000 years.
DURATION_MAX_S = 315_576_000_000
_NANOS_PER_S = 10**9

EnumT = TypeVar("EnumT", bound=StrEnum)


def text(field: str, value: object) -> str:
    """Returns `value` if it is a string that UTF-8 can carry.

    Raises:
        InvalidRequest: It is not a string, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise invalid(field, f"must be a string, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            field, f"is not valid Unicode: a lone surrogate stands at character {error.start}"
        ) from error
    return value


def required(field: str, value: object) -> str:
    """Returns `value` if it is text that is not empty.

    Raises:
        InvalidRequest: It is not.
    """
    checked = text(field, value)
    if not checked:
        raise invalid(field, "is empty")
    return checked


def optional_text(field: str, value: object) -> str:
    """Returns `value` if it is text; None is the contract's empty text.

    Raises:
        InvalidRequest: It is neither.
    """
    return "" if value is None else text(field, value)


def integer(field: str, value: object, low: int = INT32_MIN, high: int = INT32_MAX) -> int:
    """Returns `value` as an int if it is an integer from `low` to `high`.

    Raises:
        InvalidRequest: It is not.
    """
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise invalid(field, f"must be an integer, not {type(value).__name__}")
    number = operator.index(value)  # also of NumPy's integers
    if not low <= number <= high:
        raise invalid(field, f"must be from {low} to {high}, not {number}")
    return number


def real(field: str, value: object) -> float:
    """Returns `value` as a float if it is a finite number.

    Raises:
        InvalidRequest: It is not.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise invalid(field, f"must be a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise invalid(field, f"must be a finite number, not {value}")
    return float(value)


def flag(field: str, value: object) -> bool:
    """Returns `value` if it is a bool.

    Raises:
        InvalidRequest: It is not.
    """
    if not isinstance(value, bool):
        raise invalid(field, f"must be True or False, not {value!r}")
    return value


def duration(field: str, value: object) -> Duration:
    """Returns a number of seconds as a Duration.

    Raises:
        InvalidRequest: It is not a number that a Duration can hold.
    """
    seconds = real(field, value)
    if abs(seconds) > DURATION_MAX_S:
        raise invalid(field, f"must be at most {DURATION_MAX_S} seconds")
    result = Duration()
    result.FromNanoseconds(round(seconds * _NANOS_PER_S))
    return result


def labels(value: object) -> dict[str, str]:
    """Returns `value` as a dictionary if it maps strings to strings.

    Raises:
        InvalidRequest: It does not.
    """
    if not isinstance(value, Mapping):
        raise invalid("labels", f"must map strings to strings, not be a {type(value).__name__}")
    return {text("labels", key): text(f"labels[{key!r}]", entry) for key, entry in value.items()}


def member(field: str, value: object, kind: type[EnumT]) -> EnumT:
    """Returns the member of `kind` that `value` is or names.

    Raises:
        InvalidRequest: There is none.
    """
    known = [each for each in kind if each.value != "unspecified"]
    for each in known:
        if value == each:
            return each
    names = ", ".join(repr(str(each)) for each in known)
    raise invalid(field, f"must be one of {names}, not {value!r}")


def members(field: str, values: object, kind: type[EnumT]) -> list[EnumT]:
    """Returns the members of `kind` that `values` are or name; None is none.

    Raises:
        InvalidRequest: `values` is no list, or there is no such member.
    """
    if values is None:
        return []
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise invalid(field, f"must be a list, not {type(values).__name__}")
    return [member(field, each, kind) for each in values]
