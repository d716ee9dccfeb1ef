"""The world in which learning is measured: prompts, right answers, critiques and a judge.

    rng = Random(0)
    item = world.sample("capital", rng)              # a prompt, never trained on where that can be
    world.render(item, Style(case="upper"))          # the right answer, worded so
    world.phrase("upper", rng, split="unseen")       # "Could you ...?", in words never trained on
    world.judge(answer, item, style)                 # exact, content, style

`Probe`s put these together into whole dialogues with the answer that should follow. Everything is
drawn from the caller's `Random`, nothing here needs torch, and no answer of a model is needed: the
first answers in a probe are written by the grammar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from learnback_nano import critiques, remarks, styles
from learnback_nano.critiques import instruct, phrase, phrase_two
from learnback_nano.dialogues import INSTRUCTIONS, draw_second, draw_start, is_style_held_out
from learnback_nano.errors import (
    ImpossibleError,
    UnknownKindError,
    UnknownTaskError,
    WorldError,
)
from learnback_nano.items import Item, with_answer
from learnback_nano.judging import Judgement, judge, read
from learnback_nano.kinds import KINDS, UNDO_KINDS, kind_of
from learnback_nano.remarks import correct, praise
from learnback_nano.splits import Split
from learnback_nano.styles import AXES, Answer, Style, sample_style
from learnback_nano.tasks import TASKS, sample_item

__all__ = [
    "AXES",
    "INSTRUCTIONS",
    "KINDS",
    "TASKS",
    "UNDO_KINDS",
    "Answer",
    "ImpossibleError",
    "Item",
    "Judgement",
    "Message",
    "Probe",
    "Split",
    "Style",
    "UnknownKindError",
    "UnknownTaskError",
    "WorldError",
    "apply",
    "combination",
    "correct",
    "correction",
    "dictation",
    "instruct",
    "instruction",
    "judge",
    "kind_of",
    "phrase",
    "phrase_two",
    "plain",
    "praise",
    "read",
    "render",
    "revision",
    "revision_as_said",
    "sample",
    "two_requests",
    "unchanged",
    "with_answer",
]

Message = dict[str, str]
Found = TypeVar("Found")
_ATTEMPTS = 400


@dataclass(frozen=True, slots=True)
class Probe:
    """A dialogue up to the model's turn, and what should be said then."""

    messages: tuple[Message, ...]
    item: Item
    style: Style

    @property
    def expected(self) -> str:
        """The answer that should follow, to the letter."""
        return render(self.item, self.style)

    def judge(self, text: str) -> Judgement:
        """How good another answer is."""
        return judge(text, self.item, self.style)


def sample(task: str, rng: Random, split: Split = "unseen") -> Item:
    """A prompt of the task with its right answer; names and prompts from this side of the split."""
    return sample_item(task, rng, split)


def render(item: Item, style: Style | None = None) -> str:
    """The right answer, in a style or in the task's own."""
    return styles.render(item.answer, style or item.default)


def apply(kind: str, item: Item, style: Style | None = None) -> Style:
    """The style that a critique of this kind asks for, of an answer in `style`."""
    now = style or item.default
    if not critiques.is_possible(kind, item.answer, now, item.languages):
        raise ImpossibleError(f"{kind!r} would change nothing about {render(item, now)!r}")
    return critiques.apply(kind, item.answer, now, item.languages)


def plain(task: str, rng: Random) -> Probe:
    """A question that nobody has said anything about."""
    item = sample(task, rng)
    return Probe((_user(item.prompt),), item, item.default)


def revision(kind: str, rng: Random, split: Split = "seen", task: str | None = None) -> Probe:
    """An answer, a critique of this kind in wording of this split, and the revised answer."""
    return revision_as_said(kind, phrase(kind, rng, split), rng, task)


def revision_as_said(kind: str, said: str, rng: Random, task: str | None = None) -> Probe:
    """The same for a critique of this kind in words of the caller's own."""
    item, style = _criticisable(kind, rng, task)
    return _after(item, style, said, item, apply(kind, item, style))


def two_requests(rng: Random, split: Split = "seen", task: str | None = None) -> Probe:
    """Two wishes in one critique."""
    kind = rng.choice(tuple(KINDS))
    item, style = _criticisable(kind, rng, task)
    other, wanted = draw_second(rng, item, style, kind)
    return _after(item, style, phrase_two((kind, other), rng, split), item, wanted)


def correction(rng: Random, split: Split = "seen", task: str | None = None) -> Probe:
    """Somebody insists on another value; the style stays."""
    item, style = _answered(rng, task)
    claims = [claim for claim in (*item.rivals, item.truth) if claim != item.answer]
    right = with_answer(item, rng.choice(claims))
    said = correct(right.answer.short[style.language], rng, split)
    return _after(item, style, said, right, style)


def unchanged(rng: Random, split: Split = "seen", task: str | None = None) -> Probe:
    """Praise or small talk, after which the answer is to stay as it is."""
    item, style = _answered(rng, task)
    return _after(item, style, praise(rng, split), item, style)


def dictation(
    text: str, rng: Random, split: Split = "seen", task: str | None = None
) -> list[Message]:
    """A dialogue in which the model is told to answer with exactly `text`."""
    item, style = _answered(rng, task)
    said = remarks.dictate(text, rng, split)
    return [_user(item.prompt), _assistant(render(item, style)), _user(said)]


def instruction(
    kind: str,
    rng: Random,
    where: Literal["system", "prompt"],
    split: Split = "seen",
    task: str | None = None,
) -> Probe:
    """The wish is told beforehand, in a system message or after the prompt."""
    item = _drawn(lambda: _fitting(kind, sample(task or rng.choice(TASKS), rng)), kind)
    wanted = apply(kind, item)
    told = instruct(kind, rng, split)
    if where == "system":
        return Probe((_message("system", told), _user(item.prompt)), item, wanted)
    return Probe((_user(f"{item.prompt}\n{told}"),), item, wanted)


def combination(rng: Random, split: Split = "seen") -> Probe:
    """A revision that leads to a combination of styles that was kept from training."""

    def attempt() -> Probe | None:
        probe = revision(rng.choice(tuple(KINDS)), rng, split)
        return probe if is_style_held_out(probe.style) else None

    return _drawn(attempt, "a held-out combination")


def _criticisable(kind: str, rng: Random, task: str | None) -> tuple[Item, Style]:
    kind_of(kind)

    def attempt() -> tuple[Item, Style] | None:
        item = sample(task or rng.choice(TASKS), rng)
        style = draw_start(rng, item, kind)
        return (item, style) if style else None

    return _drawn(attempt, kind)


def _fitting(kind: str, item: Item) -> Item | None:
    return item if critiques.is_possible(kind, item.answer, item.default, item.languages) else None


def _drawn(attempt: Callable[[], Found | None], what: str) -> Found:
    for _ in range(_ATTEMPTS):
        if (found := attempt()) is not None:
            return found
    raise ImpossibleError(f"no answer of this task can be asked for {what!r}")


def _answered(rng: Random, task: str | None) -> tuple[Item, Style]:
    item = sample(task or rng.choice(TASKS), rng)
    style = sample_style(rng, item.default, item.languages)
    return item, styles.canonical(item.answer, style, item.languages)


def _after(item: Item, style: Style, said: str, wanted: Item, wanted_style: Style) -> Probe:
    messages = (_user(item.prompt), _assistant(render(item, style)), _user(said))
    return Probe(messages, wanted, wanted_style)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _user(content: str) -> Message:
    return _message("user", content)


def _assistant(content: str) -> Message:
    return _message("assistant", content)
