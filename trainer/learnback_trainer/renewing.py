"""What is practised while a student is taught, and its targets where several critiques meet.

What one critique stands alone for has its target for good. Where critiques of several kinds hold
for the same questions, each must see what the others have done, or they pull apart. At a question
that is practised the live model's answer is revised for one of them, the revision for the next, and
so on: what the student answers by then would bring its slips along. At the criticised question
itself only its own critique is known, and there it is the student's present answer that is revised.
(A feasibility study: refinements made once gave both of two lessons together rarely.)

What is practised comes in windows, other questions in each, so that the student learns how such
questions are answered, and not whose those are that it is taught; and so that there is something to
tell how it answers what it has not seen.

Limits: of more than four kinds of critiques a question is revised for four, others in each window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from learnback_store.records import Signal
from learnback_trainer.lessons import Exercise, criticised_again, given, revised, turned
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids

# Critiques that an answer is revised for, one after the other, where more may hold for it.
_SAID = 4
# Critiques in a row that find nothing to change, after which no more are said.
_CONTENT = 2
# An answer of the student may be so much longer than the longest one it should give. One that went
# astray would else be decoded to the very limit.
_LONGER = 2
_LONGER_TOKENS = 8


def windows(practice: Sequence[Exercise], size: int) -> Iterator[list[Exercise]]:
    """Yields some of the practice, the next ones each time, and without end.

    Another of the critiques that hold for a question is the present one each time.

    Args:
        practice: Exercises.
        size: How many come at once, where there are so many.
    """
    places = range(min(size, len(practice)))
    window = 0
    while True:
        first = window * len(places)
        drawn = [practice[(first + place) % len(practice)] for place in places]
        yield [turned(one, window + place) for place, one in enumerate(drawn)]
        window += 1


def in_company(exercises: Sequence[Exercise]) -> frozenset[Signal]:
    """Returns the critiques beside which others may hold for the same questions."""
    practised = [{each.record.signal for each in one.turns} for one in exercises if one.turns]
    critiques = {one.record.signal for one in exercises if one.dialogue}.union(*practised)
    alone = {signal for own in practised if len(own) == 1 for signal in own}
    together = {signal for own in practised if len(own) > 1 for signal in own}
    return frozenset(critiques - (alone - together) if len(critiques) > 1 else ())


def renewed(
    pupil: Pupil, exercises: Sequence[Exercise], company: Set[Signal], refinements: int = 1
) -> tuple[list[Ids], list[Exercise]]:
    """Lets the student answer the prompts, and the frozen teacher revise where critiques meet.

    Args:
        pupil: The model.
        exercises: What is taught.
        company: The critiques that do not stand alone; `in_company`.
        refinements: Revisions that the teacher makes of each.

    Returns:
        The student's answers, and the exercises with what the teacher makes of them. Where the
        answer is the target already, or the revision came to no end, the exercise stays.
    """
    longest = _LONGER * max(len(one.target) for one in exercises) + _LONGER_TOKENS
    prompts = [one.prompt for one in exercises]
    targets = [one.target for one in exercises]
    answers = pupil.answer(prompts, longest, likely=dict(zip(prompts, targets, strict=True)))
    now = list(exercises)
    places = [
        place
        for place, one in enumerate(exercises)
        if one.dialogue and one.record.signal in company
    ]
    made = composed(
        pupil,
        [exercises[one] for one in places],
        [_shown(exercises[one], answers[one], pupil) for one in places],
        longest,
        refinements,
    )
    for place, new in zip(places, made, strict=True):
        if _changes(exercises[place], new, answers[place]):
            now[place] = new
    return answers, now


def _shown(exercise: Exercise, answer: Ids, pupil: Pupil) -> Ids:
    """The answer that critiques are said of: of what is practised the live model's."""
    if not exercise.turns:
        return answer
    return given(exercise.record, pupil.reader)


def composed(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    answers: Sequence[Ids],
    longest: int,
    refinements: int = 1,
) -> list[Exercise]:
    """Returns exercises whose targets are answers revised for one critique after the other.

    Where two in a row find nothing to change, nothing is left to be said. What came to no end is
    not shown to the next one.

    Args:
        pupil: The model.
        exercises: Whose critiques are said: all of their turns, or the only one.
        answers: What is revised.
        longest: Longest revision, in tokens.
        refinements: Revisions that are made of each.
    """
    now, shown = list(exercises), list(answers)
    content = [0] * len(now)
    for said in range(_SAID):
        places = [
            place
            for place, one in enumerate(exercises)
            if content[place] < _CONTENT and said < max(1, len(one.turns))
        ]
        if not places:
            break
        drafts = criticised_again(
            [turned(exercises[one], said) for one in places],
            [shown[one] for one in places],
            pupil.reader,
        )
        # Often there is nothing to change any more.
        likely = {one.dialogue: shown[place] for one, place in zip(drafts, places, strict=True)}
        made = revised(drafts, pupil, longest, refinements, likely)
        for place, new in zip(places, made, strict=True):
            if _usable(new, pupil, longest):
                content[place] = content[place] + 1 if new.target == shown[place] else 0
                now[place], shown[place] = new, new.target
    return now


def _changes(old: Exercise, new: Exercise, answer: Ids) -> bool:
    """Whether there is something to learn that was not before."""
    return answer != old.target or (len(old.turns) > 1 and answer != new.target)


def _usable(exercise: Exercise, pupil: Pupil, longest: int) -> bool:
    text = pupil.reader.text(exercise.target)
    fits = len(exercise.dialogue) + longest <= pupil.reader.context_tokens
    return fits and bool(text.strip()) and pupil.reader.ended(exercise.target)
