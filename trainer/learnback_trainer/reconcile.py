"""One answer, several signals: which of them are taught, and what becomes of the others.

What says more outranks what says less of the same answer: a correction (what to say) a critique
(what is wrong), a critique a preference (what is better), a preference a rating (how good). Of what
is outranked only a rating can agree: that an answer is bad is covered by what changes it.

Signals of one rank:

    corrections    the text with most weight behind it is taught; with as much behind two, none is
    critiques      all are taught: two wishes can be obeyed together
    preferences    between the same two answers, and
    ratings        are added up with their signs; the sum is taught, and nothing if it is 0

Of one author who says two things of an answer the later one counts. Feedback that is not taught by
itself bears no lesson: what agrees is learned if the one that is taught is, and the reason names
it; what contradicts is not learned, and the reason says so.

Limits: only answers that are equal to the letter meet here, and a text is not understood, so that
two corrections in other words contradict one another. What was outranked is settled with its round,
and comes back only if the feedback that outranked it is erased (`erasing.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from learnback_store.records import (
    Correction,
    Critique,
    FeedbackState,
    Preference,
    Preferred,
    Rating,
)
from learnback_store.rounds import Outcome
from learnback_trainer.lessons import Exercise

CANCELLED = "of the same answer as much is said for the contrary"
OUTWEIGHED = "outweighed by feedback that says the contrary of the same answer"
LATER = "the same author has later said otherwise of the same answer"

# What says more comes first.
_RANKS: tuple[type, ...] = (Correction, Critique, Preference, Rating)


@dataclass(frozen=True, slots=True)
class Covered:
    """Feedback that is not taught by itself."""

    reason: str
    by: str = ""
    """The feedback that is taught and says the same; empty if none does."""


@dataclass(slots=True)
class Reconciled:
    """What is taught of a round's feedback."""

    taught: list[Exercise] = field(default_factory=list)
    covered: dict[str, Covered] = field(default_factory=dict)
    """By feedback id."""

    def outcomes(self, taught: Iterable[Outcome]) -> list[Outcome]:
        """Returns what becomes of covered feedback, given the outcomes of what was taught."""
        states = {one.feedback_id: one for one in taught}
        return [_outcome(one, how, states) for one, how in self.covered.items()]


def _outcome(feedback_id: str, covered: Covered, taught: Mapping[str, Outcome]) -> Outcome:
    if not covered.by:
        return Outcome(feedback_id, FeedbackState.NOT_LEARNED, covered.reason)
    other = taught[covered.by]
    reason = f"{covered.reason}; {other.reason}" if other.reason else covered.reason
    return Outcome(feedback_id, other.state, reason)


def reconcile(exercises: Sequence[Exercise]) -> Reconciled:
    """Decides which exercises are taught where several are about one answer.

    Args:
        exercises: What could be taught, with its weight; in the order in which it was said.
    """
    found = Reconciled()
    for same in _grouped(exercises, lambda one: one.record.exchange):
        _reconcile_one(same, found)
    order = {one.feedback_id: place for place, one in enumerate(exercises)}
    found.taught.sort(key=lambda one: order[one.feedback_id])
    return found


def _reconcile_one(same: Sequence[Exercise], found: Reconciled) -> None:
    """Of exercises about one answer."""
    ranks = [[one for one in same if isinstance(one.record.signal, rank)] for rank in _RANKS]
    chosen: list[Exercise] = []
    for rank, exercises in zip(_RANKS, ranks, strict=True):
        if chosen:
            found.covered |= {one.feedback_id: _outranked(one, chosen[0]) for one in exercises}
        elif rank is Critique:
            chosen = exercises
        else:
            for rivals in _grouped(exercises, _RIVALS[rank]):
                chosen += _heaviest(_last_words(rivals, found), found)
    found.taught += chosen


def _outranked(exercise: Exercise, by: Exercise) -> Covered:
    said = by.record.signal
    reason = f"a {said.kind} of the same answer was taught: {by.feedback_id}"
    dispraise = isinstance(exercise.record.signal, Rating) and not exercise.good
    praise = isinstance(said, Preference) and said.preferred is Preferred.TARGET
    return Covered(reason, by.feedback_id if dispraise and not praise else "")


def _last_words(rivals: Sequence[Exercise], found: Reconciled) -> list[Exercise]:
    """Drops what its own author has contradicted later; nobody knows who the nameless are."""
    last = {one.record.author or one.feedback_id: one for one in rivals}
    kept = [one for one in rivals if _says(last[one.record.author or one.feedback_id], one)]
    for one in rivals:
        if one not in kept:
            found.covered[one.feedback_id] = Covered(LATER)
    return kept


def _says(one: Exercise, other: Exercise) -> bool:
    return _claim(one) == _claim(other)


def _claim(exercise: Exercise) -> Hashable:
    """What an exercise says of its answer."""
    return exercise.target, exercise.good


def _heaviest(rivals: Sequence[Exercise], found: Reconciled) -> list[Exercise]:
    """The claim with most weight behind it as one exercise, less what is behind the next."""
    claims = _grouped(rivals, _claim)
    claims.sort(key=_weight, reverse=True)
    left = _weight(claims[0]) - (_weight(claims[1]) if len(claims) > 1 else 0.0)
    if left <= 0:
        found.covered |= {one.feedback_id: Covered(CANCELLED) for one in rivals}
        return []
    taught, *agreeing = claims[0]
    reason = f"taught along with {taught.feedback_id}, which says the same of the same answer"
    found.covered |= {one.feedback_id: Covered(reason, taught.feedback_id) for one in agreeing}
    for contrary in claims[1:]:
        found.covered |= {one.feedback_id: Covered(OUTWEIGHED) for one in contrary}
    return [replace(taught, weight=min(1.0, left))]


def _weight(exercises: Sequence[Exercise]) -> float:
    return sum(one.weight for one in exercises)


_Key = Callable[[Exercise], Hashable]

# What exercises of one rank have to share to speak for or against one another.
_RIVALS: Mapping[type, _Key] = {
    Correction: lambda _: None,
    Preference: lambda one: frozenset((one.target, one.rejected)),
    Rating: lambda _: None,
}


def _grouped(exercises: Iterable[Exercise], key: _Key) -> list[list[Exercise]]:
    groups: dict[Hashable, list[Exercise]] = defaultdict(list)
    for one in exercises:
        groups[key(one)].append(one)
    return list(groups.values())
