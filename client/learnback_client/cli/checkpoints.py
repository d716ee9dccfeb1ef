"""`learnback checkpoints`, `why`, `lineage`, `promote`, `rollback`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from learnback_client.checkpoints import Checkpoint, CheckpointState, Move
from learnback_client.cli.failures import reports_failures
from learnback_client.cli.feedback import said
from learnback_client.cli.flags import connection, takes
from learnback_client.cli.pictures import mermaid, svg
from learnback_client.cli.settings import ClientSettings
from learnback_client.cli.terminal import ago, printable
from learnback_client.client import Client
from learnback_client.errors import FeedbackNotFound

_PICTURES = {".svg": svg, ".mmd": mermaid}

Name = Annotated[str, typer.Argument(help="Name or alias of the checkpoint.")]


@reports_failures
@takes(settings=connection)
def checkpoints(
    settings: ClientSettings,
    limit: Annotated[int, typer.Option(min=1, help="Most lines.")] = 20,
) -> None:
    """List checkpoints, newest first."""
    table = Table(
        "name", "aliases", "state", "parent", "learned", "when", "digest", box=None, pad_edge=False
    )
    with settings.connect() as client:
        for found, _ in zip(client.list_checkpoints(), range(limit), strict=False):
            table.add_row(
                found.name,
                ", ".join(found.aliases),
                found.state,
                found.parent,
                str(found.feedback_count),
                ago(found.created),
                found.digest[:19],
            )
    Console(highlight=False).print(table)


@reports_failures
@takes(settings=connection)
def why(settings: ClientSettings, checkpoint: Name = "live") -> None:
    """Tell what a checkpoint learned, from whom, and how it was judged."""
    with settings.connect() as client:
        found = client.get_checkpoint(checkpoint)
        print(f"{found.name} ({found.state}, {found.kind} on {found.parent or 'nothing'})")
        _write_verdict(found)
        for feedback_id in found.feedback_ids:
            print(f"  {feedback_id}  {_told(client, feedback_id)}")


@reports_failures
@takes(settings=connection)
def lineage(
    settings: ClientSettings,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a picture as Mermaid, for a README.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write a picture to this file: .svg, or .mmd for Mermaid."),
    ] = None,
) -> None:
    """Draw which checkpoint came of which."""
    if output is not None and output.suffix not in _PICTURES:
        raise typer.BadParameter(f"{output}: its name must end with {' or '.join(_PICTURES)}")
    with settings.connect() as client:
        found = list(client.list_checkpoints())
    if output is not None:
        output.write_text(_PICTURES[output.suffix](found), encoding="utf-8")
    elif as_mermaid:
        print(mermaid(found), end="")
    else:
        Console(highlight=False).print(_tree(found))


@reports_failures
@takes(settings=connection)
def promote(
    settings: ClientSettings,
    checkpoint: Name,
    alias: Annotated[str, typer.Option(help='The alias to move: "live" or "canary".')] = "live",
) -> None:
    """Point "live" (or "canary") at a checkpoint."""
    with settings.connect() as client:
        _write_move(client.promote_checkpoint(checkpoint, alias=alias), alias)


@reports_failures
@takes(settings=connection)
def rollback(
    settings: ClientSettings,
    checkpoint: Annotated[
        str | None, typer.Argument(help="The checkpoint to go back to. [default: the one before]")
    ] = None,
) -> None:
    """Point "live" back at the checkpoint that served before."""
    with settings.connect() as client:
        _write_move(client.rollback_checkpoint(checkpoint), "live")


def _write_move(move: Move, alias: str) -> None:
    print(f"{alias} is {move.checkpoint.name}; it was {move.previous or 'nowhere'}")


def _write_verdict(found: Checkpoint) -> None:
    if found.gate is None:
        return
    print("gate: " + ("passed" if found.gate.passed else "refused"))
    for reason in found.gate.reasons:
        print(f"  {reason}")
    for name, figure in sorted(found.gate.figures.items()):
        print(f"  {name:<12} {figure:.3f}")


def _told(client: Client, feedback_id: str) -> str:
    try:
        feedback = client.get_feedback(feedback_id)
    except FeedbackNotFound:
        return "(no longer on record)"
    who = f"{feedback.author}: " if feedback.author else ""
    return printable(who + said(feedback.signal))


def _tree(found: list[Checkpoint]) -> Tree:
    children: dict[str, list[Checkpoint]] = defaultdict(list)
    for one in sorted(found, key=lambda each: each.name):
        if one.parent:
            children[one.parent].append(one)
    known = {one.name: one for one in found}
    tree = Tree(_label(known.get("base"), "base"))

    def grow(branch: Tree, name: str) -> None:
        for child in children[name]:
            grow(branch.add(_label(child, child.name)), child.name)

    grow(tree, "base")
    return tree


def _label(one: Checkpoint | None, name: str) -> Text:
    label = Text(name)
    if one is not None:
        for alias in one.aliases:
            label.append(f" [{alias}]", style="bold green" if alias == "live" else "green")
        if one.state is not CheckpointState.PUBLISHED:
            label.append(f" {one.state}", style="red")
        if one.feedback_count:
            label.append(f"  learned {one.feedback_count}", style="dim")
    return label
