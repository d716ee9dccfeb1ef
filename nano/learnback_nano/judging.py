"""Reads an answer back: which style is it in, and does it say the right thing?

Exact, content and style are judged apart, so that "right but shouted" and "polite but wrong"
differ. Only the grammar's own surface is understood: an answer outside it has no content.
"""

import re
from dataclasses import dataclass

from learnback_nano.items import Item
from learnback_nano.styles import (
    CLOSINGS,
    ENDINGS,
    OPENINGS,
    SMILE,
    Answer,
    Style,
    canonical,
    render,
)

_CHINESE = re.compile(r"[一-鿿。！]")
_LETTERS = re.compile(r"[A-Za-z]")
_FORMS = ("short", "sentence")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is right about an answer."""

    exact: bool
    content: bool
    style: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer taken apart: its bare wording, and the style around it."""

    core: str
    style: Style


def judge(text: str, item: Item, style: Style | None = None) -> Judgement:
    """How well `text` answers the item in this style (by default, the task's own)."""
    wanted = canonical(item.answer, style or item.default, item.languages)
    seen = read(text, item)
    return Judgement(
        exact=text == render(item.answer, wanted),
        content=_form_of(seen.core, item.answer) is not None,
        style=seen.style == _as_visible(text, wanted),
    )


def read(text: str, item: Item) -> Reading:
    """Take an answer apart, from the outside in."""
    language = "zh" if _CHINESE.search(text) else "en"
    rest, closing = _without_closing(text, language)
    rest, opening = _without_opening(rest, language)
    rest, wrap = _unwrapped(rest)
    bare = rest.removesuffix(f" {SMILE}")
    emoji = "smile" if bare != rest else "none"
    core, ending = _without_ending(bare, language)
    form = _form_among(core, item)
    return Reading(
        core, Style(form, wrap, _case_of(text), ending, opening, closing, emoji, language)
    )


def _as_visible(text: str, style: Style) -> Style:
    """A text without letters has no case, so none can be asked of it."""
    return style if _LETTERS.search(text) else style.having("case", "normal")


def _without_closing(text: str, language: str) -> tuple[str, str]:
    for name, words in CLOSINGS[language].items():
        if words and text.casefold().endswith("\n" + words.casefold()):
            return text[: -len(words) - 1], name
    return text, "none"


def _without_opening(text: str, language: str) -> tuple[str, str]:
    for name, words in OPENINGS[language].items():
        if words and text.casefold().startswith(words.casefold()):
            return text[len(words) :].lstrip(), name
    return text, "none"


def _unwrapped(text: str) -> tuple[str, str]:
    if text.startswith("- "):
        return text[2:], "bullet"
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1], "quotes"
    return text, "plain"


def _without_ending(text: str, language: str) -> tuple[str, str]:
    for name, mark in ENDINGS[language].items():
        if mark and text.endswith(mark):
            return text.removesuffix(mark), name
    return text, "none"


def _case_of(text: str) -> str:
    letters = "".join(_LETTERS.findall(text))
    if not letters:
        return "normal"
    return "upper" if letters.isupper() else "lower" if letters.islower() else "normal"


def _form_among(core: str, item: Item) -> str:
    """The form of an answer, right or wrong: that of a known claim, else by the frame around it."""
    for claim in (item.answer, item.truth, *item.rivals):
        if form := _form_of(core, claim):
            return form
    return "sentence" if _fits_a_frame(core.casefold(), item.answer) else "short"


def _form_of(core: str, answer: Answer) -> str | None:
    for form in _FORMS:
        wordings = answer.short if form == "short" else answer.sentence
        if core.casefold() in {wording.casefold() for wording in wordings.values()}:
            return form
    return None


def _fits_a_frame(core: str, answer: Answer) -> bool:
    for language, sentence in answer.sentence.items():
        before, found, after = sentence.casefold().rpartition(answer.short[language].casefold())
        if found and core.startswith(before) and core.endswith(after):
            return True
    return False
