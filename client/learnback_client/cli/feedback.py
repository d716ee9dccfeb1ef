"""`learnback feedback ...`: say what was wrong with an answer, and ask what became of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learnback_client.cli.failures import reports_failures
from learnback_client.cli.flags import connection, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.cli.terminal import ago, printable
from learnback_client.feedback import Feedback, FeedbackState
from learnback_client.signals import Correction, Critique, Preference, Rating, Signal

app = typer.Typer(
    help="Say what was wrong with an answer, and ask what became of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Generation = Annotated[str, typer.Argument(help="Id of the answer, as the reply tells it.")]
FeedbackId = Annotated[str, typer.Argument(help="Id of the feedback.")]
Author = Annotated[str | None, typer.Option(help="The end user who says it.")]


@app.command()
@reports_failures
@takes(settings=connection)
def critique(
    settings: ClientSettings,
    generation: Generation,
    text: Annotated[str, typer.Argument(help='In words: "too long", "no, it is 1884".')],
    author: Author = None,
) -> None:
    """Say in words what is wrong with an answer."""
    _submit(settings, generation, Critique(text), author)


@app.command()
@reports_failures
@takes(settings=connection)
def correct(
    settings: ClientSettings,
    generation: Generation,
    text: Annotated[str, typer.Argument(help="The answer that should have been given.")],
    author: Author = None,
) -> None:
    """Give the answer that should have been given."""
    _submit(settings, generation, Correction(text), author)


@app.command()
@reports_failures
@takes(settings=connection)
def rate(
    settings: ClientSettings,
    generation: Generation,
    score: Annotated[str, typer.Argument(help='"up", "down", or a number from -1 to 1.')],
    author: Author = None,
) -> None:
    """Rate an answer."""
    rating = Rating(score if score in ("up", "down") else _number(score))
    _submit(settings, generation, rating, author)


@app.command()
@reports_failures
@takes(settings=connection)
def show(
    settings: ClientSettings,
    feedback_id: FeedbackId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is settled.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="The same, and tell each change as it comes.")
    ] = False,
) -> None:
    """Tell whether it was learned, in which checkpoint, and if not, why."""
    with settings.connect() as client:
        if wait or watch:
            with client.watch_feedback(feedback_id) as changes:
                for feedback in changes:
                    latest = feedback
                    if watch:
                        print(printable(f"{feedback.state} {feedback.state_reason}".rstrip()))
        else:
            latest = client.get_feedback(feedback_id)
    _write(latest)


@app.command(name="list")
@reports_failures
@takes(settings=connection)
def list_(
    settings: ClientSettings,
    state: Annotated[
        list[FeedbackState] | None, typer.Option(help="Only in this state; may be repeated.")
    ] = None,
    author: Annotated[str | None, typer.Option(help="Only of this end user.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Only learned in this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most lines.")] = 20,
) -> None:
    """List feedback, newest first."""
    table = Table("id", "when", "state", "checkpoint", "said", box=None, pad_edge=False)
    with settings.connect() as client:
        found = client.list_feedback(states=state, author=author, checkpoint=checkpoint)
        for feedback, _ in zip(found, range(limit), strict=False):
            table.add_row(
                feedback.feedback_id,
                ago(feedback.created),
                feedback.state,
                feedback.checkpoint,
                Text(said(feedback.signal), overflow="ellipsis", no_wrap=True),
            )
    Console(highlight=False).print(table)


def said(signal: Signal | None) -> str:
    """Returns in one line what was said."""
    match signal:
        case Critique():
            text = signal.text
        case Correction():
            text = f"should be: {signal.text}"
        case Rating():
            text = f"rated {signal.value}"
        case Preference():
            text = f"prefers the {signal.preferred}"
        case _:
            text = ""
    return printable(" ".join(text.split()))


def _submit(settings: ClientSettings, generation: str, signal: Signal, author: str | None) -> None:
    with settings.connect() as client:
        feedback = client.submit_feedback(generation, signal, author=author or settings.author)
    print(feedback.feedback_id)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r} is neither "up" nor "down" nor a number') from None


def _write(feedback: Feedback) -> None:
    rows = [
        ("feedback", feedback.feedback_id),
        ("said", said(feedback.signal)),
        ("by", feedback.author),
        ("about", feedback.generation.generation_id if feedback.generation else ""),
        ("answered by", feedback.answered_by),
        ("state", feedback.state),
        ("because", feedback.state_reason),
        ("checkpoint", feedback.checkpoint),
    ]
    for lesson in feedback.lessons:
        rows += [
            ("objective", lesson.objective),
            ("taught", lesson.refinement),
            ("before", lesson.answer_before),
            ("after", lesson.answer_after),
            ("loss", _change(lesson.loss_before, lesson.loss_after, "nats a token")),
            ("margin", _change(lesson.margin_before, lesson.margin_after, "nats")),
        ]
    rows += [
        (str(each.state), f"{each.time:%Y-%m-%d %H:%M:%S} {each.reason}".rstrip())
        for each in feedback.history
        if each.time
    ]
    for name, value in rows:
        if value:
            print(f"{name + ':':<13}{printable(value)}")


def _change(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return ""
    return f"{before:.3f} -> {after:.3f} {unit}"
