"""Phrasings from patterns: `{use|write in} {capitals|upper case}` stands for four of them.

A pattern is expanded in full, once, and each result falls on one side of the split. What is held
out is the *whole* wording: its words are known from other wordings, their combination is not.
"""

import re
from collections.abc import Iterable
from itertools import product

from learnback_nano.splits import Split, split_of

_ALTERNATION = re.compile(r"\{([^{}]*)\}")
_ONE_IN = 6


def expand(pattern: str) -> list[str]:
    """Every wording that the pattern stands for; the gap of an empty alternative is closed."""
    pieces = _ALTERNATION.split(pattern)
    options = [piece.split("|") if n % 2 else [piece] for n, piece in enumerate(pieces)]
    return [re.sub(r" +", " ", "".join(choice)).strip() for choice in product(*options)]


def wordings(patterns: Iterable[str], split: Split) -> tuple[str, ...]:
    """The wordings of one side of the split, in a fixed order and each once.

    The split looks at the text alone, so kinds that share a wording hold it out together.
    """
    every = dict.fromkeys(text for pattern in patterns for text in expand(pattern))
    return tuple(text for text in every if split_of("phrasing", text, _ONE_IN) == split)
