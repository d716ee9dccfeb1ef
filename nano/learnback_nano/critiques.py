"""Critiques of wording, in words: one request, two at once, or an instruction given beforehand.

A directive goes into a frame ("could you ...?"), a complaint stands alone or before a directive.
The split is on directives and complaints; the frames are the same on both sides.
"""

from functools import cache
from random import Random

from learnback_nano.kinds import kind_of
from learnback_nano.phrasing import wordings
from learnback_nano.splits import Split
from learnback_nano.styles import Answer, Style, canonical, render

LANGUAGES = ("en", "zh")

_FRAMES = {
    "en": (
        "{}",
        "{}",
        "{}",
        "please {}",
        "please {}",
        "{} please",
        "could you {}?",
        "can you {}?",
        "would you {}?",
        "next time {}",
        "i want you to {}",
        "you should {}",
        "try to {}",
        "i would like you to {}",
        "it would be better to {}",
        "good, but {}",
        "right, but please {}",
        "hmm, {}",
        "no, {}",
        "{} next time",
        "i asked you to {}",
        "just {}",
        "from now on {}",
        "you forgot to {}",
        "kindly {}",
        "you must {}",
        "let me ask you to {}",
        "correct, but {}",
        "rather {}",
        "i said {}",
        "always {}",
        "better {}",
        "not like this, {}",
        "{}, will you?",
    ),
    "zh": (
        "{}",
        "{}",
        "{}",
        "请{}",
        "请{}",
        "能不能{}？",
        "可以{}吗？",
        "下次{}",
        "麻烦{}",
        "我希望你{}",
        "你应该{}",
        "最好{}",
        "很好，但是{}",
        "对，不过请{}",
        "以后{}",
        "{}吧",
        "{}好吗？",
        "我要你{}",
        "还是{}",
        "嗯，{}",
        "你忘了{}",
        "我说过{}",
        "内容对，但请{}",
        "必须{}",
    ),
}
_RULES = {
    "en": (
        "{}",
        "please {}",
        "always {}",
        "rule: {}",
        "you must {}",
        "{} please",
        "from now on {}",
        "you should {}",
        "in your answer, {}",
    ),
    "zh": ("{}", "请{}", "必须{}", "规则：{}", "你应该{}", "以后{}", "回答时请{}"),
}
_JOINS = {
    "en": (
        "{} and {}",
        "{}, and {}",
        "{}. Also, {}",
        "{}. And {}",
        "{}; {}",
        "first {}, then {}",
        "{} and also {}",
        "{}, then {}",
        "two things: {}, and {}",
    ),
    "zh": (
        "{}，{}",
        "{}，而且{}",
        "{}，并且{}",
        "{}，还要{}",
        "{}；{}",
        "先{}，再{}",
        "{}。另外，{}",
    ),
}


def apply(kind: str, answer: Answer, style: Style, languages: tuple[str, ...]) -> Style:
    """The style that is asked for, in its plainest description."""
    wish = kind_of(kind)
    return canonical(answer, style.having(wish.axis, wish.value), languages)


def is_possible(kind: str, answer: Answer, style: Style, languages: tuple[str, ...]) -> bool:
    """Whether the critique fits an answer in this style and would change how it looks."""
    wish = kind_of(kind)
    if wish.axis == "language" and wish.value not in languages:
        return False
    if wish.undoes is not None and getattr(style, wish.axis) != wish.undoes:
        return False
    return render(answer, apply(kind, answer, style, languages)) != render(answer, style)


def phrase(kind: str, rng: Random, split: Split = "seen", language: str | None = None) -> str:
    """A critique of this kind in words."""
    language = language or rng.choice(LANGUAGES)
    dice = rng.random()
    alone = complaints(kind, language, split)
    if alone and dice < 0.25:
        return finished(rng, rng.choice(alone), language)
    directive = finished(rng, _framed(rng, _FRAMES, kind, language, split), language)
    if alone and dice > 0.88:
        stop = ". " if language == "en" else "。"
        return capital(rng.choice(alone)) + stop + directive
    return directive


def phrase_two(
    kinds: tuple[str, str], rng: Random, split: Split = "seen", language: str | None = None
) -> str:
    """Two requests in one critique."""
    language = language or rng.choice(LANGUAGES)
    parts = [rng.choice(directives(kind, language, split)) for kind in kinds]
    text = rng.choice(_JOINS[language]).format(*parts)
    if language == "en" and rng.random() < 0.4:
        text = "please " + text
    elif rng.random() < 0.4:
        text = "请" + text if language == "zh" else text
    return finished(rng, text, language)


def instruct(kind: str, rng: Random, split: Split = "seen", language: str | None = None) -> str:
    """The same wish given beforehand, in the prompt or in a system message."""
    language = language or rng.choice(LANGUAGES)
    return finished(rng, _framed(rng, _RULES, kind, language, split), language)


@cache
def directives(kind: str, language: str, split: Split) -> tuple[str, ...]:
    """All that can follow "please", on one side of the split."""
    return wordings(kind_of(kind).directives[language], split)


@cache
def complaints(kind: str, language: str, split: Split) -> tuple[str, ...]:
    """All that stands alone, on one side of the split."""
    return wordings(kind_of(kind).complaints[language], split)


def _framed(
    rng: Random, frames: dict[str, tuple[str, ...]], kind: str, language: str, split: Split
) -> str:
    return rng.choice(frames[language]).format(rng.choice(directives(kind, language, split)))


def finished(rng: Random, text: str, language: str) -> str:
    """With a capital and an end mark, as most people write, or without, as some do."""
    if language == "zh":
        return text if text[-1] in "？！。" else text + rng.choice(("。", "。", "！", ""))
    if rng.random() < 0.85:
        text = capital(text)
    return text if text[-1] in "?!." else text + rng.choice((".", ".", ".", "!", ""))


def capital(text: str) -> str:
    """With a capital first letter, and the rest as it is."""
    return text[:1].upper() + text[1:]
