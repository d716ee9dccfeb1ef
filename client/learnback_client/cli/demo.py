"""`learnback demo`: watch the embedded model learn from critiques in words."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from learnback_client.cli.failures import EXIT_FAILED, fail, reports_failures
from learnback_client.cli.flags import connection, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.client import Client
from learnback_client.demo.people import Question
from learnback_client.demo.story import Answers, Demo, DemoError, Outcome, Script
from learnback_client.feedback import Feedback
from learnback_client.generation import Reply
from learnback_client.learning import LearningStatus
from learnback_client.stack import Stack, StackError, StackPlan, free_address

_SHOWN = 3

_console = Console(highlight=False)


@reports_failures
@takes(settings=connection)
def demo(
    settings: ClientSettings,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Start Redis, server and trainer for it, and stop them after."
        ),
    ] = False,
    critiques: Annotated[int, typer.Option(min=1, max=16, help="Answers to criticise.")] = 8,
    seed: Annotated[int, typer.Option(help="Another seed asks other questions.")] = 20,
) -> None:
    """Criticise some answers of the embedded model, and see it do better on others."""
    try:
        with _client(settings, fresh) as client:
            _tell(Demo(client, Script(critiques=critiques, seed=seed)))
    except (DemoError, StackError) as error:
        fail(str(error), EXIT_FAILED)


@contextlib.contextmanager
def _client(settings: ClientSettings, fresh: bool) -> Iterator[Client]:
    """A client of the running stack, or of one that lives as long as this."""
    if not fresh:
        with settings.connect() as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="learnback-demo-") as folder:
        plan = StackPlan(Path(folder), free_address())
        _title("Starting Redis, server and trainer")
        with Stack(plan, _console.print) as stack, Client(plan.address) as client:
            yield client
            stack.watch()


def _tell(demo: Demo) -> None:
    _title("Questions that the model has never seen")
    before = demo.ask()
    _show(demo.held_out, before.held_out)
    _title("Some of its answers are criticised, while other people keep asking")
    with _bar() as bar:
        task = bar.add_task("queued", total=None)
        end, load, seconds = demo.learn(
            criticised=_criticised, watch=lambda status: _progress(bar, task, status)
        )
    _console.print(
        f"{end.checkpoint} is published: {end.learned_count} of {end.feedback_count} critiques "
        f"learned; it serves {seconds:.1f} s after the last critique."
    )
    _title("The same questions again; nobody had criticised these answers")
    after = demo.ask()
    _show(demo.held_out, after.held_out)
    _console.print(_table(demo.outcome(before, after, end, load, seconds), after))


def _title(text: str) -> None:
    _console.print(Text(f"\n{text}", style="bold"))


def _show(questions: list[Question], replies: list[Reply]) -> None:
    for question, reply in list(zip(questions, replies, strict=True))[:_SHOWN]:
        _console.print(Text(f"> {question.prompt}", style="dim"))
        _console.print(Text(reply.text))


def _criticised(question: Question, reply: Reply, _feedback: Feedback, words: str) -> None:
    last = question.prompt.splitlines()[-1]
    _console.print(Text(f"> {last}", style="dim"), Text(reply.text), Text(words, style="yellow"))


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_console,
    )


def _progress(bar: Progress, task: object, status: LearningStatus) -> None:
    now = status.round
    if now is None:
        bar.update(task, description=f"{status.queue_depth} in the queue")  # type: ignore[arg-type]
        return
    what = f"learning from {now.feedback_count}"
    if now.reached in ("taught", "gated", "decided"):
        what = f"the gate judges {now.feedback_count}"
    bar.update(task, description=what, total=now.steps or None, completed=now.step)  # type: ignore[arg-type]


def _table(outcome: Outcome, after: Answers) -> Table:
    table = Table("", "before", "after", title="\nWhat came of it", title_justify="left")
    table.add_row(
        f"obeys the critique, {len(after.held_out)} held-out prompts",
        *(f"{share:.2f}" for share in outcome.obeyed),
    )
    table.add_row(
        f"other tasks right, {len(after.others)} prompts",
        *(f"{share:.2f}" for share in outcome.right),
    )
    table.add_row("other tasks answered as before", "", f"{outcome.unchanged:.2f}")
    table.add_row("answers served to others meanwhile", "", str(outcome.served))
    table.add_row("of their requests failed", "", str(outcome.failed))
    table.add_row("seconds from last critique to served", "", f"{outcome.seconds:.1f}")
    return table
