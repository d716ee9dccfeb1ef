"""`learnback up`: Redis, server and trainer on this machine, until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from learnback_client.cli.failures import EXIT_FAILED, fail, reports_failures
from learnback_client.stack import Stack, StackError, StackPlan

_LOOK_SECONDS = 0.5


@reports_failures
def up(
    state: Annotated[
        Path, typer.Option(help="Folder that holds all there is to keep.", metavar="FOLDER")
    ] = Path(".learnback"),
    listen: Annotated[
        str, typer.Option(help="Address to serve on.", metavar="HOST:PORT")
    ] = "127.0.0.1:50051",
    model: Annotated[
        str, typer.Option(help="'nano' (embedded), a folder, or a name of the Hugging Face hub.")
    ] = "nano",
    redis_url: Annotated[
        str, typer.Option(help="A Redis of your own, instead of the embedded one.", metavar="URL")
    ] = "",
    server_flags: Annotated[
        str, typer.Option(help="More flags for learnback-server, as one string.")
    ] = "",
    trainer_flags: Annotated[
        str, typer.Option(help="More flags for learnback-trainer, as one string.")
    ] = "",
) -> None:
    """Run Redis, server and trainer here, until Ctrl-C; goes on where it was the next time."""
    plan = StackPlan(
        state.absolute(),
        listen,
        model,
        redis_url,
        tuple(shlex.split(server_flags)),
        tuple(shlex.split(trainer_flags)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    begun = time.monotonic()
    _say(f"starting {model} on {listen}; state and logs in {state}")
    try:
        with Stack(plan, _say) as stack:
            _say(f"ready in {time.monotonic() - begun:.1f} s; Ctrl-C stops all")
            while True:
                time.sleep(_LOOK_SECONDS)
                stack.watch()
    except StackError as error:
        fail(str(error), EXIT_FAILED)
    except _ToldToStop:
        _say("all is stopped")


class _ToldToStop(BaseException):
    """Leads out of whatever is being done; leaving the stack stops it."""


def _leave(*_: object) -> None:
    # A second Ctrl-C must not break off the stopping.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _say("stopping")
    raise _ToldToStop


def _say(text: str) -> None:
    print(f"learnback: {text}", flush=True)
