"""What users say that is not about wording: corrections, praise, small talk and dictation.

A correction changes the content and leaves the style; praise and small talk change nothing at all;
a dictation replaces the answer with the quoted words, whatever they are.
"""

import tomllib
from functools import cache
from pathlib import Path
from random import Random

from learnback_nano.critiques import LANGUAGES, capital
from learnback_nano.names import sample_name
from learnback_nano.phrasing import wordings
from learnback_nano.sentences import sample_sentence
from learnback_nano.splits import Split

_TABLE = Path(__file__).with_name("remarks.toml")
_NONSENSE = (
    *("blah", "foo", "bar", "banana", "sunshine", "ok", "hello", "yes", "no", "nothing", "test"),
    *("hooray", "never", "always", "maybe"),
)


def correct(value: str, rng: Random, split: Split = "seen", language: str | None = None) -> str:
    """Somebody insists on another value, such as "No, it is 1884."."""
    return _spoken("correction", rng, split, language, value)


def praise(rng: Random, split: Split = "seen", language: str | None = None) -> str:
    """Thanks, praise or small talk, after which the answer should stay as it is."""
    return _spoken("praise", rng, split, language, sample_name(rng, split))


def dictate(text: str, rng: Random, split: Split = "seen", language: str | None = None) -> str:
    """An order to answer with exactly this text."""
    return _spoken("dictation", rng, split, language, text)


def sample_dictated_text(rng: Random, split: Split) -> str:
    """Something to be repeated word for word, sensible or not."""
    dice = rng.random()
    if dice < 0.3:
        words = " ".join(rng.choice(_NONSENSE) for _ in range(rng.randint(1, 4)))
    elif dice < 0.5:
        sentence = sample_sentence(rng)
        words = rng.choice((sentence.english, sentence.chinese))
    else:
        words = " ".join(sample_name(rng, split) for _ in range(rng.randint(1, 3)))
    return rng.choice((words, words, words.lower(), words.upper(), capital(words) + "."))


def _spoken(
    remark: str,
    rng: Random,
    split: Split,
    language: str | None,
    value: str,
) -> str:
    language = language or rng.choice(LANGUAGES)
    text = rng.choice(remarks(remark, language, split))
    if language == "en" and rng.random() < 0.85:
        text = capital(text)
    if text.endswith("@") or "@" not in text:
        stop = "." if language == "en" else "。"
        text += rng.choice((stop, stop, ""))
    return text.replace("@", value)


@cache
def remarks(name: str, language: str, split: Split) -> tuple[str, ...]:
    """Every wording of a `correction`, of `praise` or of a `dictation` on one side of the split."""
    return wordings(_patterns()[name][language].strip().splitlines(), split)


@cache
def _patterns() -> dict[str, dict[str, str]]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))
