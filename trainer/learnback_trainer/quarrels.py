"""Lessons that contradict one another, such as "longer" and "shorter" said of like questions.

Two corrections contradict one another if they give one question two answers. Two critiques do if
the frozen teacher can't obey both: shown its own revision for the first one, it revises it for the
second, and then the first is no longer obeyed, nor the other way round. That is tried on the
questions of both, which must be alike.

Lessons that contradict the same others are of one side. The side with more voices is taught, each
author's voice being the weight of their weightiest lesson and each lesson without an author a voice
of its own; then the one whose lessons weigh more. Otherwise neither is, but of one who has changed
their mind what they said last is. The losers are NOT_LEARNED.

What authors have said earlier, and the live model has learned, is their voice still: one author who
says the contrary of two others does not get their way by coming later, or more often. It gives way
to as many voices, and to those whose own it was.

Limits: contradictions are sought among so many pairs of unlike critiques at most, the weightiest
first; what is left the gate will see. Nano's pairs of kinds that exclude one another were told from
those that do not without a mistake; the figures are in docs/log.md.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from learnback_store.records import Correction, Critique, Exchange, FeedbackView
from learnback_trainer.lessons import Exercise, criticised_again, retold, revised
from learnback_trainer.likeness import groups, likeness
from learnback_trainer.proofs import adopted
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids

_log = logging.getLogger(__name__)

OUTWEIGHED = "others with more weight ask for something that excludes it"
UNDECIDED = "others ask for something that excludes it, and neither side has more weight"
CHANGED_MIND = "its author has said something since that excludes it"

# Earlier lessons that are heard.
_MOST_STANDING = 32
# Pairs of camps that are tried; each costs about a dozen answers.
_MOST_PAIRS = 24
# Two weights that differ by less are equal.
_EQUAL = 1e-6


def outweighed(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    others: Sequence[Ids],
    max_tokens: int,
    told: Sequence[FeedbackView] = (),
) -> dict[str, str]:
    """Returns why lessons must not be taught beside the others, by feedback id.

    Args:
        pupil: The model.
        exercises: What is about to be taught, with the weights of authors.
        others: Prompts about many things, by which it is seen which of these are alike.
        max_tokens: Longest answer.
        told: What the live model has learned, newest first.
    """
    standing = _standing(exercises, told, pupil, max_tokens)
    camps = _camps(pupil, exercises, standing, others, max_tokens)
    pairs = [
        (a, b)
        for a, b in combinations(camps, 2)
        if a.about & b.about and a.said != b.said and not (a.stands and b.stands)
    ]
    pairs.sort(key=lambda pair: -min(pair[0].weight, pair[1].weight))
    contradicting = _contradicting(pupil, pairs[:_MOST_PAIRS], max_tokens)
    lost = _decided(_sides(contradicting))
    found = {one.feedback_id: lost[one.feedback_id] for one in exercises if one.feedback_id in lost}
    if found:
        _log.info("%d of %d lessons contradict weightier ones", len(found), len(exercises))
    return found


def _standing(
    exercises: Sequence[Exercise], told: Sequence[FeedbackView], pupil: Pupil, max_tokens: int
) -> list[Exercise]:
    """The latest words of authors who have been heard earlier, if these could be contradicted."""
    if not any(isinstance(one.record.signal, Critique | Correction) for one in exercises):
        return []
    own = {one.feedback_id for one in exercises}
    named = [one for one in told if one.record.author and one.feedback_id not in own]
    return retold(named[:_MOST_STANDING], pupil, max_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class _Camp:
    """Lessons that ask for the very same."""

    members: tuple[Exercise, ...]
    about: frozenset[object]
    """What they are about: the group of like questions, or the one question of a correction."""
    said: object
    """What they ask for."""
    stands: bool = False
    """Whether the live model has learned it."""

    @property
    def weight(self) -> float:
        return sum(one.weight for one in self.members)


def _camps(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    standing: Sequence[Exercise],
    others: Sequence[Ids],
    max_tokens: int,
) -> list[_Camp]:
    found = defaultdict[tuple[object, object, bool], list[Exercise]](list)
    for one in exercises:
        if isinstance(one.record.signal, Correction):
            found[one.prompt, one.target, False].append(one)
    for one in standing:
        if isinstance(one.record.signal, Correction):
            found[one.prompt, one.target, True].append(one)
    critiques, earlier = (
        [one for one in some if isinstance(one.record.signal, Critique)]
        for some in (exercises, standing)
    )
    if critiques and len(critiques) + len(earlier) > 1:
        prompts = dict.fromkeys(one.prompt for one in (*critiques, *earlier))
        beside = [one for one in others if one not in prompts]
        table = likeness(pupil, [*prompts, *beside], others)
        group = dict(zip(prompts, groups(table), strict=False))
        # What each asks for shows in what becomes of the first answer of its group.
        first = {group[one.prompt]: one.record.exchange for one in reversed(critiques)}
        near = [one for one in earlier if group[one.prompt] in first]
        said = [(one, False) for one in critiques] + [(one, True) for one in near]
        shown = _said_of([(first[group[one.prompt]], one) for one, _ in said], pupil)
        for (one, stands), made in zip(said, revised(shown, pupil, max_tokens), strict=True):
            found[group[one.prompt], made.target, stands].append(one)
    return [
        _Camp(tuple(members), frozenset([about]), said, stands)
        for (about, said, stands), members in found.items()
    ]


def _said_of(pairs: Sequence[tuple[Exchange, Exercise]], pupil: Pupil) -> list[Exercise]:
    """The same critiques, said of other answers; their targets are still to be made."""
    reader = pupil.reader
    moved = [
        replace(
            one,
            record=replace(one.record, exchange=exchange, prompt_ids=()),
            prompt=reader.prompt(exchange),
        )
        for exchange, one in pairs
    ]
    answers = [reader.answer(exchange.answer) for exchange, _ in pairs]
    return criticised_again(moved, answers, reader)


# Whether both can be obeyed


def _contradicting(
    pupil: Pupil, pairs: Sequence[tuple[_Camp, _Camp]], max_tokens: int
) -> list[tuple[_Camp, _Camp]]:
    """Those of some pairs of camps of which only one can be obeyed."""
    # Two corrections of one question that differ need no trying.
    found = [pair for pair in pairs if _are_corrections(pair)]
    tried = [pair for pair in pairs if not _are_corrections(pair)]
    trials = [
        (pair, exchange)
        for pair in tried
        for exchange in dict.fromkeys(camp.members[0].record.exchange for camp in pair)
    ]
    if not trials:
        return found
    firsts, seconds = (
        revised(
            _said_of([(exchange, pair[which].members[0]) for pair, exchange in trials], pupil),
            pupil,
            max_tokens,
        )
        for which in (0, 1)
    )
    lost_first = _lost(pupil, firsts, seconds, max_tokens)
    lost_second = _lost(pupil, seconds, firsts, max_tokens)
    lost = defaultdict[tuple[_Camp, _Camp], list[bool]](list)
    for (pair, _), one, other, *both in zip(
        trials, firsts, seconds, lost_first, lost_second, strict=True
    ):
        lost[pair].append(all(both) and one.target != other.target)
    return found + [pair for pair, shares in lost.items() if 2 * sum(shares) > len(shares)]


def _are_corrections(pair: tuple[_Camp, _Camp]) -> bool:
    return isinstance(pair[0].members[0].record.signal, Correction)


def _lost(
    pupil: Pupil, obeyed: Sequence[Exercise], then: Sequence[Exercise], max_tokens: int
) -> list[bool]:
    """Whether each first critique is no longer obeyed after the answer was revised for another."""
    answers = [one.target for one in obeyed]
    revisions = revised(criticised_again(then, answers, pupil.reader), pupil, max_tokens)
    kept = adopted(pupil, obeyed, [one.target for one in revisions], max_tokens)
    return [not one for one in kept]


# Who is outweighed


@dataclass(frozen=True, slots=True)
class _Side:
    """Camps that contradict the same others."""

    camps: frozenset[_Camp]
    against: frozenset[_Camp]

    @property
    def members(self) -> list[Exercise]:
        return [one for camp in self.camps for one in camp.members]

    @property
    def fresh(self) -> list[Exercise]:
        """Those that are not learned yet."""
        return [one for camp in self.camps if not camp.stands for one in camp.members]

    @property
    def authors(self) -> set[str]:
        return {one.record.author for one in self.members}

    def weight(self, against: _Side | None = None) -> tuple[float, float]:
        """That of its voices, and that of its lessons that are not learned yet.

        Who says the contrary now, on the side that it stands against, takes back what they said.
        """
        changed = {one.record.author for one in against.fresh} if against else set()
        voices: dict[str, float] = {}
        for camp in self.camps:
            for one in camp.members:
                voice = one.record.author or one.feedback_id
                if not (camp.stands and voice in changed):
                    voices[voice] = max(voices.get(voice, 0.0), one.weight)
        return sum(voices.values()), sum(one.weight for one in self.fresh)


def _sides(contradicting: Sequence[tuple[_Camp, _Camp]]) -> list[_Side]:
    """The sides, weightiest first."""
    against = defaultdict[_Camp, set[_Camp]](set)
    for one, other in contradicting:
        against[one].add(other)
        against[other].add(one)
    sides = defaultdict[frozenset[_Camp], set[_Camp]](set)
    for camp, others in against.items():
        sides[frozenset(others)].add(camp)
    found = [_Side(frozenset(camps), others) for others, camps in sides.items()]
    return sorted(found, key=_Side.weight, reverse=True)


def _decided(sides: Sequence[_Side]) -> dict[str, str]:
    """Why lessons lose, by feedback id; `sides` come weightiest first."""
    found: dict[str, str] = {}
    lost = set[int]()
    for place, side in enumerate(sides):
        if place in lost:
            continue
        for other_place in range(place + 1, len(sides)):
            other = sides[other_place]
            if other_place in lost or not side.against & other.camps:
                continue
            losers, reason = _losers(side, other)
            for loser in losers:
                lost.add(place if loser is side else other_place)
                found |= dict.fromkeys((one.feedback_id for one in loser.members), reason)
    return found


def _losers(one: _Side, other: _Side) -> tuple[list[_Side], str]:
    weights = one.weight(other), other.weight(one)
    differences = [a - b for a, b in zip(*weights, strict=True)]
    parted = next((found for found in differences if abs(found) > _EQUAL), 0.0)
    if parted:
        more, less = sorted((voices for voices, _ in weights), reverse=True)
        return [other if parted > 0 else one], f"{OUTWEIGHED}: {more:.1f} against {less:.1f}"
    if one.authors == other.authors and len(one.authors) == 1 and "" not in one.authors:
        return [min(one, other, key=_last)], CHANGED_MIND
    return [one, other], UNDECIDED


def _last(side: _Side) -> str:
    return max(one.feedback_id for one in side.members)
