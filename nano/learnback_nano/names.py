"""Invented names of people and places, from syllables; one in eight is never trained on."""

from functools import cache
from random import Random

from learnback_nano.splits import Split, split_of

_ONSETS = [
    "b",
    "bl",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "ia", "io", "ou"]
_CODAS = ["n", "r", "l", "s", "m", "t", "k", "d", "x", "nd", "rk", "st", "ll"]
_ONE_IN = 8


def sample_name(rng: Random, split: Split) -> str:
    """A name of this side of the split, such as Talvor or Rimeda."""
    while True:
        name = _invent(rng)
        if split_of_name(name) == split:
            return name


@cache
def split_of_name(name: str) -> Split:
    """On which side of the split a name falls, however it is written."""
    return split_of("name", name.lower(), _ONE_IN)


def _invent(rng: Random) -> str:
    syllables = rng.choice((1, 2, 2, 2, 3))
    name = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables))
    if syllables == 1 or rng.random() < 0.6:
        name += rng.choice(_CODAS)
    return name.capitalize()
