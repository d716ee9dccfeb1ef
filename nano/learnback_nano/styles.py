"""The ways in which one answer may be worded, and how each is written out.

A style has eight independent axes, so 1,944 styles can be composed. Content and style are apart:
an `Answer` says what, a `Style` says how, `render` writes it. Openings, closings and endings come
from fixed lists; nothing here understands free text.
"""

from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Literal

Language = Literal["en", "zh"]
Form = Literal["short", "sentence"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One content, in both forms and in both languages, without capital or full stop."""

    short: dict[str, str]
    sentence: dict[str, str]

    def text(self, form: str, language: str) -> str:
        """The bare wording in this form and language."""
        return (self.short if form == "short" else self.sentence)[language]


@dataclass(frozen=True, slots=True)
class Style:
    """How an answer is worded; the values are those of `AXES`."""

    form: str = "short"
    wrap: str = "plain"
    case: str = "normal"
    ending: str = "stop"
    opening: str = "none"
    closing: str = "none"
    emoji: str = "none"
    language: str = "en"

    def having(self, axis: str, value: str) -> "Style":
        """The same style with one axis set."""
        return replace(self, **{axis: value})


AXES: dict[str, tuple[str, ...]] = {
    "form": ("short", "sentence"),
    "wrap": ("plain", "bullet", "quotes"),
    "case": ("normal", "upper", "lower"),
    "ending": ("stop", "exclaim", "none"),
    "opening": ("none", "hello", "sure"),
    "closing": ("none", "thanks", "hope"),
    "emoji": ("none", "smile"),
    "language": ("en", "zh"),
}

ENDINGS = {
    "en": {"stop": ".", "exclaim": "!", "none": ""},
    "zh": {"stop": "。", "exclaim": "！", "none": ""},
}
OPENINGS = {
    "en": {"none": "", "hello": "Hello!", "sure": "Of course."},
    "zh": {"none": "", "hello": "你好！", "sure": "当然。"},
}
CLOSINGS = {
    "en": {"none": "", "thanks": "Thank you.", "hope": "I hope this helps."},
    "zh": {"none": "", "thanks": "谢谢。", "hope": "希望有帮助。"},
}
SMILE = "🙂"


def render(answer: Answer, style: Style) -> str:
    """Write the answer out in the style."""
    language = style.language
    text = _core(answer, style)
    if opening := OPENINGS[language][style.opening]:
        gap = "\n" if style.wrap == "bullet" else " " if language == "en" else ""
        text = opening + gap + text
    if closing := CLOSINGS[language][style.closing]:
        text = text + "\n" + closing
    return _cased(text, style.case)


def _core(answer: Answer, style: Style) -> str:
    text = answer.text(style.form, style.language)
    text = text[:1].upper() + text[1:] + ENDINGS[style.language][style.ending]
    if style.emoji == "smile":
        text = f"{text} {SMILE}"
    return {"plain": text, "bullet": f"- {text}", "quotes": f'"{text}"'}[style.wrap]


def _cased(text: str, case: str) -> str:
    if case == "upper":
        return text.upper()
    return text.lower() if case == "lower" else text


def canonical(answer: Answer, style: Style, languages: tuple[str, ...]) -> Style:
    """The plainest style that is written just like this one.

    "1876." looks alike in every case; an axis that cannot be seen is set back to its first value,
    so that a reader of the text knows as much as the writer.
    """
    text = render(answer, style)
    for language, case in product(languages, AXES["case"]):
        candidate = replace(style, language=language, case=case)
        if render(answer, candidate) == text:
            return candidate
    return style


def sample_style(rng: Random, base: Style, languages: tuple[str, ...]) -> Style:
    """A style that departs from `base` on some axes: often few, sometimes many."""
    chance = rng.choice((0.0, 0.12, 0.25, 0.5))
    style = base
    for axis, values in AXES.items():
        if rng.random() < chance:
            choices = languages if axis == "language" else values
            style = style.having(axis, rng.choice(choices))
    return style
