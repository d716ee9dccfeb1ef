"""Slips: answers of the live model that do not keep to what it has learned.

What a kind of question was criticised for, the live model has learned of nearly all of them. What
it still answers as before must not be held as if that were right: round by round such answers
would take others like them along. So the frozen base model is shown each answer with the earlier
critiques of its kind, the oldest first, and what it would still change is practised instead.

The base model errs, too. An answer is taken for a slip only if there is nothing left to change in
the new one, and if that is also what becomes of the base model's own.

Limits: a critique may always find something to change ("shorter"). If it does so in more than a
quarter of the answers of its kind, none of these is taken for a slip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from learnback_trainer.lessons import Asked, Exercise, drafted, given, kinds_of
from learnback_trainer.pupil import Pupil
from learnback_trainer.renewing import composed
from learnback_trainer.students import Frozen

# Of the answers of a kind, one in so many may be a slip.
_RARE = 4
# Questions of a kind on which it is seen which critiques ask for the same.
_TRIED = 2


def slips(pupil: Pupil, answered: Sequence[Asked], max_tokens: int) -> list[Exercise]:
    """Returns the slips, as exercises with the answers that there should be.

    Args:
        pupil: The model.
        answered: With the live model's answers, and the critiques that it has learned about
            questions of this kind, the oldest first.
        max_tokens: Longest answer, in tokens.
    """
    heard = {prompt: frozenset(each.feedback_id for each in told) for _, prompt, told in answered}
    told_of = [one for one in answered if one[2]]
    # Which critiques ask for the same does not show where they are obeyed already.
    tried = _few_of_each(told_of)
    with pupil.as_frozen(Frozen.BASE):
        plain = pupil.answer([prompt for _, prompt, _ in tried], max_tokens)
    kinds = kinds_of(
        [
            (replace(exchange, answer=pupil.reader.text(answer)), prompt, told)
            for (exchange, prompt, told), answer in zip(tried, plain, strict=True)
        ],
        pupil,
        max_tokens,
    )
    drafts = drafted(told_of, kinds, pupil, max_tokens)
    changed = defaultdict[frozenset[str], list[bool]](list)
    found = []
    for draft, text in zip(drafts, _revised(drafts, pupil, max_tokens), strict=True):
        slipped = text != draft.record.exchange.answer
        changed[heard[draft.prompt]].append(slipped)
        if slipped:
            found.append(draft)
    rare = {own for own, those in changed.items() if sum(those) * _RARE <= len(those)}
    return _mended([one for one in found if heard[one.prompt] in rare], pupil, max_tokens)


def _few_of_each(answered: Sequence[Asked]) -> list[Asked]:
    """The first questions that the same critiques hold for."""
    found = defaultdict[frozenset[str], list[Asked]](list)
    for one in answered:
        found[frozenset(each.feedback_id for each in one[2])].append(one)
    return [one for some in found.values() for one in some[:_TRIED]]


def _mended(found: Sequence[Exercise], pupil: Pupil, max_tokens: int) -> list[Exercise]:
    """What may be slips, with the answers that there should be, where these are known."""
    with pupil.as_frozen(Frozen.BASE):
        own = pupil.answer([one.prompt for one in found], max_tokens)
    plain = [_said(one, pupil.reader.text(answer)) for one, answer in zip(found, own, strict=True)]
    made = composed(pupil, found, [given(one.record, pupil.reader) for one in found], max_tokens)
    texts = [pupil.reader.text(one.target) for one in made]
    new = [_said(one, text) for one, text in zip(found, texts, strict=True)]
    also, again = _revised(plain, pupil, max_tokens), _revised(new, pupil, max_tokens)
    sure = [text == one == other for text, one, other in zip(texts, also, again, strict=True)]
    return [one for one, known in zip(made, sure, strict=True) if known]


def _revised(exercises: Sequence[Exercise], pupil: Pupil, max_tokens: int) -> list[str]:
    """What becomes of answers when all critiques are said of them."""
    shown = [given(one.record, pupil.reader) for one in exercises]
    made = composed(pupil, exercises, shown, max_tokens)
    return [pupil.reader.text(one.target) for one in made]


def _said(exercise: Exercise, answer: str) -> Exercise:
    """The exercise about another answer."""
    record = replace(exercise.record, exchange=replace(exercise.record.exchange, answer=answer))
    return replace(exercise, record=record)
