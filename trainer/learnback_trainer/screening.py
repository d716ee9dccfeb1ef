"""What is kept from being taught: feedback that would do harm, looked at before any training.

    injected     the words hold marks of a chat template, or tell a model to forget its orders
    unreadable   the critique is hardly likelier to the live model than pieces drawn blindly
    dictated     said of other questions, the critique gives the very same unlikely answer
    collapsed    to the live model, without the critique, the answer to learn is less likely
                 than pieces drawn blindly, and hardly likelier after its own prompt than after
                 others

Feedback that is screened out is QUARANTINED with its reason; the round goes on without it. The
last two need other questions to compare with; without them they are not judged. A correction that
is fluent and wrong passes: nothing here knows what is true. The bounds were set on nano; figures
are in docs/log.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from learnback_store.records import Correction, Critique, Exchange, Preference
from learnback_trainer.lessons import Exercise, criticised_again, revised
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids

INJECTED = "it speaks to the model as its operator does, or in marks of the chat template"
UNREADABLE = "the model can't make sense of the words"
DICTATED = "it asks for the same answer whatever the question"
COLLAPSED = "the answer it asks for is unlikely to answer the question"

# Shares of the nats a token of pieces drawn blindly, ln(vocabulary): 8.5 on nano.
_UNREADABLE_FROM = 0.82
_DICTATED_FROM = 0.62
_COLLAPSED_FROM = 1.07
# Nats a token by which a fitting answer is likelier after its own prompt than after others.
_FITTING_NATS = 1.0
# Share of other questions to which a dictation gives its one answer.
_DICTATED_SHARE = 0.5
# Other questions asked; each costs a revision for every critique.
_QUESTIONS = 8

_INJECTION = re.compile(
    r"<\|[^|>]{1,40}\|>|\[/?INST\]|<</?SYS>>"
    r"|\b(ignore|disregard|forget)\b.{0,30}\b(instructions?|prompts?|rules|above|previous)\b"
    r"|\bsystem prompt\b|^\s*(system|assistant)\s*:|\byou are now\b"
    r"|(忽略|无视|忘记).{0,12}(指令|指示|提示|规则)|系统提示",
    re.IGNORECASE | re.MULTILINE,
)


def screen(
    pupil: Pupil, exercises: Sequence[Exercise], questions: Sequence[Exchange], max_tokens: int
) -> dict[str, str]:
    """Returns why feedback must not be taught, by its id; what is not named may be.

    Args:
        pupil: The model.
        exercises: What is about to be taught.
        questions: What else is asked, of as many sorts as there are.
        max_tokens: Longest answer.
    """
    found = {one.feedback_id: INJECTED for one in exercises if _INJECTION.search(_words(one))}
    rest = [one for one in exercises if one.feedback_id not in found]
    found |= dict.fromkeys(_unreadable(pupil, rest), UNREADABLE)
    others = _answered(pupil, questions[:: math.ceil(len(questions) / _QUESTIONS) or 1], max_tokens)
    rest = [one for one in rest if one.feedback_id not in found]
    if rest and others:
        found |= _unfitting(pupil, rest, others, max_tokens)
    return found


def _words(exercise: Exercise) -> str:
    signal = exercise.record.signal
    if isinstance(signal, Preference):
        return signal.other
    return signal.text if isinstance(signal, Critique | Correction) else ""


def _unreadable(pupil: Pupil, exercises: Sequence[Exercise]) -> list[str]:
    told = [one for one in exercises if one.dialogue]
    pairs = [_said(one, pupil) for one in told]
    with pupil.as_live():
        nats = pupil.losses(pairs)
    bound = _UNREADABLE_FROM * pupil.blind_nats
    return [one.feedback_id for one, loss in zip(told, nats, strict=True) if loss > bound]


def _said(exercise: Exercise, pupil: Pupil) -> tuple[Ids, Ids]:
    """The dialogue up to the critique, and the critique, split where an empty one would differ."""
    reader, exchange = pupil.reader, exercise.record.exchange
    other = reader.dialogue(exchange, exchange.answer, "\u0001")
    whole = exercise.dialogue
    start = next(
        (n for n, both in enumerate(zip(whole, other, strict=False)) if both[0] != both[1]), 1
    )
    end = 0
    while end < len(whole) - start - 1 and whole[-1 - end] == other[-1 - end]:
        end += 1
    return whole[:start], whole[start : len(whole) - end]


def _answered(pupil: Pupil, questions: Sequence[Exchange], max_tokens: int) -> list[Exchange]:
    with pupil.as_live():
        answers = pupil.answer([pupil.reader.prompt(one) for one in questions], max_tokens)
    reader = pupil.reader
    return [replace(one, answer=reader.text(a)) for one, a in zip(questions, answers, strict=True)]


def _unfitting(
    pupil: Pupil, exercises: Sequence[Exercise], others: Sequence[Exchange], max_tokens: int
) -> dict[str, str]:
    prompts = [pupil.reader.prompt(one) for one in others]
    with pupil.as_live():
        own = pupil.losses([(one.prompt, one.target) for one in exercises])
        elsewhere = pupil.losses([(asked, one.target) for one in exercises for asked in prompts])
    shares = _shares_of_the_same(pupil, exercises, others, max_tokens)
    found = {}
    for index, one in enumerate(exercises):
        nats = own[index] / pupil.blind_nats
        apart = mean(elsewhere[index * len(prompts) : (index + 1) * len(prompts)]) - own[index]
        if nats > _DICTATED_FROM and shares[index] >= _DICTATED_SHARE:
            found[one.feedback_id] = DICTATED
        elif nats > _COLLAPSED_FROM and apart < _FITTING_NATS:
            found[one.feedback_id] = COLLAPSED
    return found


def _shares_of_the_same(
    pupil: Pupil, exercises: Sequence[Exercise], others: Sequence[Exchange], max_tokens: int
) -> list[float]:
    """The share of other questions to which each critique gives the very same answer."""
    elsewhere = [
        replace(one, record=replace(one.record, exchange=other))
        for one in exercises
        for other in others
    ]
    answers = [pupil.reader.answer(one.record.exchange.answer) for one in elsewhere]
    asked = revised(criticised_again(elsewhere, answers, pupil.reader), pupil, max_tokens)
    pairs = list(zip(elsewhere, asked, strict=True))
    # A correction says nothing of other questions.
    same = [bool(old.dialogue) and old.target == new.target for old, new in pairs]
    width = len(others)
    return [mean(same[index * width : (index + 1) * width]) for index in range(len(exercises))]
