"""The `learnback` command as a whole: its commands, and its entry point."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated, TextIO

import typer

from learnback_client.cli import (
    chat,
    checkpoints,
    demo,
    erase,
    feedback,
    generate,
    health,
    status,
    up,
)
from learnback_client.cli.failures import reports_failures

# Usage errors are plain lines rather than boxes, so that they read well in a log.
app = typer.Typer(
    name="learnback",
    help="Speak to a learnback server, and tell it what to do better.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(generate.generate)
app.command()(chat.chat)
app.add_typer(feedback.app, name="feedback")
app.command()(checkpoints.checkpoints)
app.command()(checkpoints.why)
app.command()(checkpoints.lineage)
app.command()(checkpoints.promote)
app.command()(checkpoints.rollback)
app.command()(status.status)
app.command()(health.health)
app.command()(erase.erase)
app.command()(up.up)
app.command()(demo.demo)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"learnback {importlib.metadata.version('learnback')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Tell the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


@reports_failures
def main() -> None:
    """Runs the command line of this process and exits."""
    # Of gRPC's own log only what is wrong: its news about connections would stand among answers.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        _accept_any_text(stream)
    app()


def _accept_any_text(stream: TextIO) -> None:
    """Makes characters that the terminal's encoding lacks show as escapes instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
