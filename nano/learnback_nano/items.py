"""What one question is: its prompt, its answer as taught, and what else could be claimed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from learnback_nano.sentences import Pair
from learnback_nano.splits import Split
from learnback_nano.styles import Answer, Style

_BOTH = ("en", "zh")
_PLAIN = Style()


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt with its answer as taught, and what else could be claimed.

    `truth` differs from `answer` only for the facts that nano was taught wrong.
    """

    task: str
    prompt: str
    answer: Answer
    truth: Answer
    rivals: tuple[Answer, ...]
    default: Style = _PLAIN
    languages: tuple[str, ...] = _BOTH


Sampler = Callable[[Random, Split], Item]


def answer_of(value: Pair, english: str, chinese: str) -> Answer:
    """An answer whose sentences hold the value where the `{}` is."""
    short = {"en": value[0], "zh": value[1]}
    return Answer(short, {"en": english.format(value[0]), "zh": chinese.format(value[1])})


def with_answer(item: Item, answer: Answer) -> Item:
    """The same question, answered otherwise."""
    return replace(item, answer=answer)
