"""A corrected question in other words: what was answered wrongly there is wrong here too.

A correction says what is right for one question and for no other, so the questions like it are held
where they are (`anchors.py`). But some of them are the same question over again, and held there the
old answer would keep the new one from them. They give themselves away by it: the live model answers
them with the very text that was corrected. They are taught the correction instead, but for some by
which the gate sees whether it is given in other words too.

Limits: an answer that many questions have ("No.") says nothing about which question it was, so that
these are neither held nor taught; and the same answer in another language is another text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from learnback_store.records import Correction
from learnback_trainer.lessons import Exercise
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids

# An answer that more than this share of the questions like a corrected one have is nobody's own.
_MOST_SHARED = 1 / 8
# Of all that are found, one in so many is kept for the gate.
_JUDGED = 4


@dataclass(frozen=True, slots=True)
class Rewordings:
    """Questions that are not to be held."""

    taught: list[Exercise] = field(default_factory=list)
    """The corrections, for the same question in other words."""
    judged: list[Exercise] = field(default_factory=list)
    """Likewise, for the gate alone."""
    prompts: frozenset[Ids] = frozenset()
    """All that have the answer that was corrected."""


def rewordings(
    pupil: Pupil,
    exercises: Iterable[Exercise],
    answered: Sequence[tuple[Ids, Ids]],
    max_tokens: int,
) -> Rewordings:
    """Finds corrected questions in other words.

    Args:
        pupil: The model.
        exercises: What is taught.
        answered: Questions like a corrected one, with what the live model answers.
        max_tokens: Longest answer.
    """
    corrected = [one for one in exercises if isinstance(one.record.signal, Correction)]
    if not corrected or not answered:
        return Rewordings()
    with pupil.as_live():
        wrong = pupil.answer([one.prompt for one in corrected], max_tokens)
    right: dict[Ids, list[Exercise]] = {}
    for exercise, answer in zip(corrected, wrong, strict=True):
        right.setdefault(answer, []).append(exercise)
    again = [(prompt, answer) for prompt, answer in answered if answer in right]
    most = _MOST_SHARED * len(answered)
    counts = Counter(answer for _, answer in again)
    found = [
        replace(right[answer][0], prompt=prompt)
        for prompt, answer in again
        if counts[answer] <= most and len({one.target for one in right[answer]}) == 1
    ]
    judged = found[_JUDGED - 1 :: _JUDGED]
    taught = [one for one in found if one not in judged]
    return Rewordings(taught, judged, frozenset(prompt for prompt, _ in again))
