"""Sorts questions by their likeness to the taught ones, and by what was taught earlier.

What is like a criticised question the lesson should reach; what is like a corrected one must not
follow it, though it is near; all else is apart, and should stay as it is. Of what is apart, some is
*exposed*: the kinds that were criticised in earlier rounds, for what a few hundred answers have
taught is soon gone, and the kinds that are the likest to what is taught now.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean

from learnback_trainer.lessons import Exercise
from learnback_trainer.likeness import ALIKE, groups, likeness
from learnback_trainer.pupil import Pupil
from learnback_trainer.questions import Question, Told
from learnback_trainer.reader import Ids

# Kinds that are exposed because they are the likest to what is taught.
_LIKEST = 2


@dataclass(slots=True)
class Sorted:
    """Questions, by what is to become of them. The taught ones themselves are not among them."""

    apart: list[Question] = field(default_factory=list)
    """Like none of the taught ones: should stay as they are."""
    beside: list[Question] = field(default_factory=list)
    """Like a corrected one: likewise, but the correction is near."""
    alike: list[tuple[Question, tuple[Exercise, ...]]] = field(default_factory=list)
    """Like criticised ones, and whose critiques hold for them too."""
    criticised: frozenset[Ids] = frozenset()
    """Those of a kind that was criticised in an earlier round, but for canaries."""
    group: dict[Ids, int] = field(default_factory=dict)
    """Of each question, the number of those like it."""
    exposed: frozenset[int] = frozenset()
    """The groups that were criticised in an earlier round, and those likest to the taught ones."""
    untold: frozenset[Ids] = frozenset()
    """Those like nothing that the live model was ever told about, not even by a single pair: what
    was learned must not be undone because its group fell apart."""


def sorted_out(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    questions: Sequence[Question],
    told: Told,
    unlike: Sequence[Ids],
) -> Sorted:
    """Sorts questions, of each kind one before any has another.

    Args:
        pupil: The model.
        exercises: What is taught.
        questions: In order of preference.
        told: What the live model has been told about.
        unlike: See `likeness`.
    """
    # Of several about one prompt, what was said in words.
    criticised = {one.prompt: one for one in sorted(exercises, key=lambda one: bool(one.dialogue))}
    room = pupil.reader.context_tokens
    others = [one for one in questions if one.prompt not in criticised and len(one.prompt) < room]
    prompts = [*criticised, *(one.prompt for one in others), *told.prompts]
    table = likeness(pupil, prompts, unlike)
    group = groups(table)
    taught = list(criticised.values())
    # What is right for one question is wrong for the next: a correction reaches no others.
    general = [place for place, one in enumerate(taught) if one.dialogue]
    corrected = {group[place] for place, one in enumerate(taught) if not one.dialogue}
    found = Sorted(group=dict(zip(prompts, group, strict=True)))
    for place, question in _by_turns(others, group[len(taught) :], len(taught)):
        near = [one for one in general if group[one] == group[place]]
        if near and not question.canary:
            near.sort(key=table[place].__getitem__, reverse=True)
            found.alike.append((question, tuple(taught[one] for one in near)))
        else:
            (found.beside if group[place] in corrected else found.apart).append(question)
    held = {one.prompt for one in others if one.canary}
    told_before = _groups_criticised(group[len(prompts) - len(told.prompts) :], told)
    found.criticised = frozenset(
        prompt
        for prompt, own in zip(prompts, group, strict=True)
        if own in told_before and prompt not in held
    )
    likest = _likest(found.apart, prompts, table, group, len(taught))
    found.exposed = frozenset(told_before | likest)
    if told.all:
        found.untold = _untold(prompts, table, group, len(told.prompts))
    return found


def _groups_criticised(group: Sequence[int], told: Told) -> set[int]:
    """The groups about which something was said in words."""
    pairs = zip(told.prompts.values(), group, strict=True)
    return {own for in_words, own in pairs if in_words}


def _likest(
    apart: Iterable[Question],
    prompts: Sequence[Ids],
    table: Sequence[Sequence[float]],
    group: Sequence[int],
    taught: int,
) -> set[int]:
    """The groups of questions apart that are likest to the first `taught` of the prompts."""
    place = {prompt: one for one, prompt in enumerate(prompts)}
    found = defaultdict[int, list[float]](list)
    for question in apart:
        one = place[question.prompt]
        found[group[one]].append(max(table[one][:taught]))
    # Of a group with a single question there are no more to be held.
    means = {own: mean(near) for own, near in found.items() if len(near) > 1}
    return set(sorted(means, key=means.__getitem__, reverse=True)[:_LIKEST])


def _untold(
    prompts: Sequence[Ids], table: Sequence[Sequence[float]], group: Sequence[int], told: int
) -> frozenset[Ids]:
    """Prompts that are like none of the last `told` of them, neither by group nor by pair."""
    first = len(prompts) - told
    known = set(group[first:])
    return frozenset(
        prompt
        for prompt, own, near in zip(prompts, group, table, strict=True)
        if own not in known and max(near[first:], default=-1.0) < ALIKE
    )


def _by_turns(
    questions: Sequence[Question], group: Sequence[int], first: int
) -> list[tuple[int, Question]]:
    """Questions with their places from `first` on, of each group one before any has another.

    Else what is asked most would be all that is held.
    """
    seen = Counter[int]()
    turns = []
    for place, (question, own) in enumerate(zip(questions, group, strict=False), start=first):
        turns.append((seen[own], place, question))
        seen[own] += 1
    turns.sort(key=lambda one: one[:2])
    return [(place, question) for _, place, question in turns]
