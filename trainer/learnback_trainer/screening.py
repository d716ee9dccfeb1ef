"""What is kept from being taught: feedback that would do harm, looked at before any training.

    long         the correction is longer than the answers that are taught
    repeating    it says the same over and over
    foreign      it is written in a script that is not allowed
    same         in this round it is the answer to several questions that were answered unlike
    elsewhere    it is the answer to another question that was asked, and has nothing of its own
    injected     the words hold marks of a chat template, or tell a model to forget its orders
    unreadable   the critique is hardly likelier to the live model than pieces drawn blindly
    dictated     said of other questions, the critique gives all but the same unlikely answer
    collapsed    to the live model, without the critique, the answer to learn is less likely
                 than pieces drawn blindly, goes on being so after its first piece, and is hardly
                 likelier after its own prompt than after others

Feedback that is screened out is QUARANTINED with its reason; the round goes on without it. The
last two need other questions to compare with, and "elsewhere" their answers; without them they are
not judged. A correction that is fluent and wrong passes: nothing here knows what is true. Scripts
tell English from Chinese, not English from French. The bounds were set on nano; what they refuse of
honest feedback and of poison is measured by `bench.screening`, and stands in docs/screening.md.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from statistics import mean

from learnback_store.records import (
    Correction,
    Critique,
    Exchange,
    Preference,
    Preferred,
    Rating,
)
from learnback_trainer.lessons import Exercise, criticised_again, revised
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Reader

LONG = "it is longer than the answers that are taught"
REPEATING = "it says the same over and over"
FOREIGN = "it is written in a script that is not allowed here"
SAME = "the same is asked for as the answer to questions that are answered unlike"
ELSEWHERE = "it is the answer to another question"
INJECTED = "it speaks to the model as its operator does, or in marks of the chat template"
UNREADABLE = "the model can't make sense of the words"
DICTATED = "it asks for the same answer whatever the question"
COLLAPSED = "the answer it asks for is unlikely to answer the question"

# Shares of the nats a token of pieces drawn blindly, ln(vocabulary): 8.5 on nano.
_UNREADABLE_FROM = 0.82
_DICTATED_FROM = 0.62
_COLLAPSED_FROM = 1.07
# Likewise, of the pieces between the first and the end alone: a fact that the model does not know
# surprises it once, and so does a missing full stop, but only gibberish does throughout.
_GOING_ON_FROM = 1.2
# Nats a token by which a fitting answer is likelier after its own prompt than after others.
_FITTING_NATS = 1.0
# Share of other questions to which a dictation gives its one answer.
_DICTATED_SHARE = 0.5
# Two answers are all but the same from this share of like letters on: a model that copies gibberish
# garbles it now and then.
_ALL_BUT_THE_SAME = 0.7
# Other questions asked; each costs a revision for every critique.
_QUESTIONS = 8

# A text of so many tokens repeats itself if less than this share of its runs of four differ.
_RUN, _REPEATING_FROM, _DISTINCT_RUNS = 4, 16, 0.4
# Share of the letters of a text that must be of the scripts that are allowed.
_ALLOWED_SHARE = 0.9
# Questions with unlike answers for which one and the same answer is asked, from which it is odd.
_SAME_QUESTIONS = 3
# An answer to so many other questions is common, and may be right for this one too.
_COMMON = 2
# Words, or signs of a script without spaces, under which an answer may be right by chance.
_TELLING_WORDS = 3

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_INJECTION = re.compile(
    r"<\|[^|>]{1,40}\|>|\[/?INST\]|<</?SYS>>"
    r"|\b(ignore|disregard|forget)\b.{0,30}\b(instructions?|prompts?|rules|above|previous)\b"
    r"|\bsystem prompt\b|^\s*(system|assistant)\s*:|\byou are now\b"
    r"|(忽略|无视|忘记).{0,12}(指令|指示|提示|规则)|系统提示",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What feedback must keep to."""

    answer_tokens: int
    """Longest answer that is taught."""
    scripts: frozenset[str] = frozenset()
    """Scripts that it may be written in, as Unicode calls them: "latin", "cjk"; empty: any."""


def screen(
    pupil: Pupil, exercises: Sequence[Exercise], questions: Sequence[Exchange], bounds: Bounds
) -> dict[str, str]:
    """Returns why feedback must not be taught, by its id; what is not named may be.

    Args:
        pupil: The model.
        exercises: What is about to be taught.
        questions: What else is asked, of as many sorts as there are, and answered if it was.
        bounds: What it must keep to.
    """
    max_tokens = bounds.answer_tokens
    told = [one for one in exercises if not isinstance(one.record.signal, Rating)]
    # What the model has said itself is no words of the one who rates it; what was sent along is.
    worded = [
        one
        for one in exercises
        if not isinstance(one.record.signal, Rating) or one.record.generation is None
    ]
    found = {one.feedback_id: _out_of_bounds(one, pupil.reader, bounds) for one in worded}
    found |= dict.fromkeys(_same(told), SAME)
    found |= dict.fromkeys(_elsewhere(told, questions), ELSEWHERE)
    found = {feedback_id: reason for feedback_id, reason in found.items() if reason}
    rest = [one for one in exercises if one.feedback_id not in found]
    found |= dict.fromkeys(_unreadable(pupil, rest), UNREADABLE)
    others = _answered(pupil, questions[:: math.ceil(len(questions) / _QUESTIONS) or 1], max_tokens)
    rest = [one for one in rest if one.feedback_id not in found]
    if rest and others:
        found |= _unfitting(pupil, rest, others, max_tokens)
    return found


# By words alone


def _out_of_bounds(exercise: Exercise, reader: Reader, bounds: Bounds) -> str:
    words = _words(exercise)
    if _INJECTION.search(words):
        return INJECTED
    if bounds.scripts and not _is_written_in(words, bounds.scripts):
        return FOREIGN
    if len(exercise.target) > bounds.answer_tokens:
        return LONG
    if _repeats(reader.answer(words)) or _repeats(exercise.target):
        return REPEATING
    return ""


def _is_written_in(text: str, scripts: frozenset[str]) -> bool:
    names = [unicodedata.name(one, "").partition(" ")[0] for one in text if one.isalpha()]
    allowed = sum(name.lower() in scripts for name in names)
    return allowed >= _ALLOWED_SHARE * len(names)


def _repeats(ids: Ids) -> bool:
    runs = [ids[place : place + _RUN] for place in range(len(ids) - _RUN + 1)]
    return len(ids) >= _REPEATING_FROM and len(set(runs)) < _DISTINCT_RUNS * len(runs)


def _same(exercises: Sequence[Exercise]) -> list[str]:
    """Those that ask for one answer to several questions that have unlike answers now."""
    asking = defaultdict[Ids, list[Exercise]](list)
    for one in exercises:
        if not isinstance(one.record.signal, Preference):
            asking[one.target].append(one)
    found = []
    for alike in asking.values():
        answers = {_plain(one.record.exchange.answer) for one in alike}
        prompts = {one.prompt for one in alike}
        if min(len(answers), len(prompts)) >= _SAME_QUESTIONS:
            found += [one.feedback_id for one in alike]
    return found


def _elsewhere(exercises: Sequence[Exercise], questions: Sequence[Exchange]) -> list[str]:
    """Corrections that are right for another question, and hold nothing of their own."""
    answered = defaultdict[str, set[str]](set)
    for exchange in (*questions, *(one.record.exchange for one in exercises)):
        if exchange.answer:
            answered[_plain(exchange.answer)].add(_asked(exchange))
    found = []
    for one in exercises:
        signal, own = one.record.signal, _asked(one.record.exchange)
        if not isinstance(signal, Correction):
            continue
        askers = answered.get(_plain(signal.text), set())
        said = _vocabulary(signal.text)
        if 0 < len(askers) < _COMMON and own not in askers and len(said) >= _TELLING_WORDS:
            own_alone = _vocabulary(own) - _vocabulary(*askers)
            if not said & own_alone:
                found.append(one.feedback_id)
    return found


def _asked(exchange: Exchange) -> str:
    return exchange.prompt or "\n".join(turn.content for turn in exchange.chat)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _vocabulary(*texts: str) -> set[str]:
    """The words of texts; of a script without spaces the signs."""
    return {word for text in texts for word in _WORD.findall(_plain(text))}


def _words(exercise: Exercise) -> str:
    """The words that are taught by: what was said, or the answer that is to become likelier."""
    signal = exercise.record.signal
    if isinstance(signal, Critique | Correction):
        return signal.text
    if isinstance(signal, Preference) and signal.preferred is Preferred.OTHER:
        return signal.other
    return exercise.record.exchange.answer


# By likelihood


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
        own = pupil.token_losses([(one.prompt, one.target) for one in exercises])
        elsewhere = pupil.losses([(asked, one.target) for one in exercises for asked in prompts])
    shares = _shares_of_the_same(pupil, exercises, others, max_tokens)
    found = {}
    for index, (one, pieces) in enumerate(zip(exercises, own, strict=True)):
        whole, going_on = mean(pieces), mean(pieces[1:-1] or [0.0])
        apart = mean(elsewhere[index * len(prompts) : (index + 1) * len(prompts)]) - whole
        if whole > _DICTATED_FROM * pupil.blind_nats and shares[index] >= _DICTATED_SHARE:
            found[one.feedback_id] = DICTATED
        elif (
            whole > _COLLAPSED_FROM * pupil.blind_nats
            and going_on > _GOING_ON_FROM * pupil.blind_nats
            and apart < _FITTING_NATS
        ):
            found[one.feedback_id] = COLLAPSED
    return found


def _shares_of_the_same(
    pupil: Pupil, exercises: Sequence[Exercise], others: Sequence[Exchange], max_tokens: int
) -> list[float]:
    """The share of other questions to which each critique gives all but the same answer."""
    elsewhere = [
        replace(one, record=replace(one.record, exchange=other))
        for one in exercises
        for other in others
    ]
    answers = [pupil.reader.answer(one.record.exchange.answer) for one in elsewhere]
    asked = revised(criticised_again(elsewhere, answers, pupil.reader), pupil, max_tokens)
    pairs = list(zip(elsewhere, asked, strict=True))
    # A correction says nothing of other questions.
    same = [
        bool(old.dialogue) and _all_but_the_same(old.target, new.target, pupil.reader)
        for old, new in pairs
    ]
    width = len(others)
    return [mean(same[index * width : (index + 1) * width]) for index in range(len(exercises))]


def _all_but_the_same(one: Ids, other: Ids, reader: Reader) -> bool:
    if one == other:
        return True
    first, second = (_plain(reader.text(ids)) for ids in (one, other))
    return SequenceMatcher(None, first, second, autojunk=False).ratio() >= _ALL_BUT_THE_SAME
