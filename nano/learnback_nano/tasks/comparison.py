"""Do two sentences say the same? A task that nano was trained on and did not learn.

After 4,800 steps it still guessed (.6 right). It is no task of the world; it is kept because the
shipped weights saw it, and the recipe has to tell how they were made.
"""

from random import Random

from learnback_nano.items import Item
from learnback_nano.sentences import Sentence, altered, sample_sentence
from learnback_nano.splits import Split
from learnback_nano.styles import Answer

_QUESTIONS = (
    "Do these mean the same? A: {} B: {}",
    "Same meaning? A: {} B: {}",
    "A: {} B: {} Do A and B mean the same?",
)
_SAME = Answer(
    {"en": "yes", "zh": "相同"}, {"en": "yes, they mean the same", "zh": "它们的意思相同"}
)

_DIFFERENT = Answer(
    {"en": "no", "zh": "不同"}, {"en": "no, they mean different things", "zh": "它们的意思不同"}
)


def comparison(rng: Random, split: Split) -> Item:
    """Two sentences: the same words in another order, or one of them changed."""
    del split
    one = sample_sentence(rng)
    same = rng.random() < 0.5
    return _compared(rng, one, one if same else altered(rng, one))


def contrast(rng: Random, split: Split) -> Item:
    """The same question about sentences that differ in more than one place, if at all."""
    del split
    one = other = sample_sentence(rng)
    if rng.random() < 0.5:
        for _ in range(rng.randint(2, 6)):
            other = altered(rng, other)
    return _compared(rng, one, other)


def _compared(rng: Random, one: Sentence, other: Sentence) -> Item:
    texts = [one.english, other.english_time_first]
    rng.shuffle(texts)
    first, second = (text[:1].upper() + text[1:] + "." for text in texts)
    prompt = rng.choice(_QUESTIONS).format(first, second)
    right, wrong = (_SAME, _DIFFERENT) if one == other else (_DIFFERENT, _SAME)
    return Item("comparison", prompt, right, right, (wrong,))
