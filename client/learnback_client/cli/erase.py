"""`learnback erase`: has an author erased, and what was learned from them."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from learnback_client.cli.failures import EXIT_USAGE, fail, reports_failures
from learnback_client.cli.flags import connection, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.cli.terminal import note
from learnback_client.client import Client
from learnback_client.feedback import Erasure, ErasureState
from learnback_client.options import MoveOptions

# Between two looks. Retraining takes a minute or more.
_LOOK_SECONDS = 0.5


@reports_failures
@takes(settings=connection)
def erase(
    settings: ClientSettings,
    author: Annotated[str, typer.Argument(help="The end user to erase, as named in the calls.")],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it is done, rather than when it is queued.")
    ] = False,
    request_id: Annotated[
        str | None,
        typer.Option(help="Id of an earlier call, to ask how far it has come. [default: fresh]"),
    ] = None,
) -> None:
    """Erase an author for good: what they said, what they asked, and what was learned from it."""
    if not yes and request_id is None:
        _confirm(author)
    options: MoveOptions = {"request_id": request_id} if request_id else {}
    with settings.connect() as client:
        erasure = client.erase_author(author, **options)
        if wait:
            erasure = _awaited(client, author, erasure)
    _write(erasure)


def _confirm(author: str) -> None:
    if not sys.stdin.isatty():
        fail("nobody is there to confirm it; give --yes if it is meant", EXIT_USAGE)
    typer.confirm(f"Erase all of {author!r}, which can't be undone?", abort=True)


def _awaited(client: Client, author: str, erasure: Erasure) -> Erasure:
    """Asks again until it is done; Ctrl-C ends the waiting, not the erasure."""
    told = None
    while erasure.state is not ErasureState.DONE:
        if erasure.state is not told:
            told = erasure.state
            note(f"{told} ...")
        time.sleep(_LOOK_SECONDS)
        erasure = client.erase_author(author, request_id=erasure.request_id)
    return erasure


def _write(erasure: Erasure) -> None:
    print(f"erasure      {erasure.erasure_id}")
    print(f"author       {erasure.author_digest}")
    print(f"state        {erasure.state}")
    print(
        f"purged       {erasure.feedback_purged} feedback, {erasure.generations_purged} generations"
    )
    print(f"tainted      {', '.join(erasure.tainted_checkpoints) or '-'}")
    print(f"clean        {erasure.clean_checkpoint or '-'}")
    print(f"request id   {erasure.request_id}")
