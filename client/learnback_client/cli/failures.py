"""What went wrong, as one line on stderr that says what to do, and an exit code.

Exit codes: 1 an error of the call, 2 wrong usage or configuration, 130 Ctrl-C, 141 the reader of
the output went away (the last two as a shell shows the signals INT and PIPE).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

import typer

from learnback_client import errors
from learnback_client.cli.settings import SettingsError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

P = ParamSpec("P")
T = TypeVar("T")

# What to do about an error. The first class that fits tells.
_HINTS: tuple[tuple[type[errors.LearnbackError], str], ...] = (
    (errors.ServerDraining, "try again in a moment"),
    (errors.StoreUnavailable, "try again in a moment"),
    (errors.Unavailable, "start one with `learnback up`, or name one with --address"),
    (errors.Unauthenticated, "give a token with --token-file or LEARNBACK_TOKEN"),
    (errors.DeadlineExceeded, "give it longer with --timeout"),
    (errors.ContextLengthExceeded, "shorten the input, or ask for fewer --max-tokens"),
)


def reports_failures(command: Callable[P, T]) -> Callable[P, T]:
    """Makes a command end with one line and an exit code instead of a traceback."""

    @wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> T:
        try:
            return command(*args, **options)
        except errors.LearnbackError as error:
            fail(describe(error), EXIT_FAILED)
        except SettingsError as error:
            fail(str(error), EXIT_USAGE)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            _abandon_stdout()
            raise typer.Exit(EXIT_BROKEN_PIPE) from None
        except OSError as error:  # reading files has errors of its own, so this is the output
            _abandon_stdout()
            fail(f"can't write the answer: {error.strerror}", EXIT_FAILED)

    return run


def describe(error: errors.LearnbackError) -> str:
    """Returns an error and what to do about it in one line."""
    parts = [" ".join(error.message.split())]
    parts += [
        f"{each.field}: {each.description}"
        for each in error.violations
        if each.description not in error.message
    ]
    hint = _hint(error)
    if hint:
        parts.append(hint)
    return "; ".join(parts)


def fail(message: str, code: int) -> NoReturn:
    """Prints one line on stderr and ends the command.

    Args:
        message: What is wrong, and what to do.
        code: The exit code.
    """
    print(f"learnback: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _hint(error: errors.LearnbackError) -> str:
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return hint
    if error.retry_after is not None:
        return f"try again in {error.retry_after:g} s"
    if isinstance(error, errors.Internal) and error.request_id:
        return f"the server's log has the details under request id {error.request_id}"
    return ""


def _abandon_stdout() -> None:
    """Lets Python flush what is left of stdout at exit without failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
