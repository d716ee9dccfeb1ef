"""The tasks: what a user may ask, and what is right.

Nine closed little worlds. Each sampler makes one `Item`: a prompt, the answer that nano is taught,
and a few rival answers that a user might insist on. Prompts are English but for translation.
"""

from random import Random

from learnback_nano.errors import UnknownTaskError
from learnback_nano.items import Item, Sampler
from learnback_nano.splits import Split, split_of
from learnback_nano.tasks.comparison import comparison, contrast
from learnback_nano.tasks.notes import note, two_people
from learnback_nano.tasks.reading import paraphrase, sentiment, summary
from learnback_nano.tasks.recall import capital, opposite, year
from learnback_nano.tasks.translation import into_chinese, into_english

_PROMPTS_HELD_OUT_ONE_IN = 10
_SAMPLERS: dict[str, Sampler] = {
    "capital": capital,
    "year": year,
    "note": note,
    "en_zh": into_chinese,
    "zh_en": into_english,
    "sentiment": sentiment,
    "summary": summary,
    "opposite": opposite,
    "paraphrase": paraphrase,
}
TASKS = tuple(_SAMPLERS)
# Trained on, and asked of nobody. Comparing was not learned: late in the recipe, saying a sentence
# otherwise takes its place.
_EXERCISES: dict[str, Sampler] = {
    "comparison": comparison,
    "contrast": contrast,
    "two_people": two_people,
}

# Tasks with so few prompts that all of them are trained on; only what follows can be held out.
CLOSED_TASKS = ("capital", "year", "opposite")


def sample_item(task: str, rng: Random, split: Split = "seen") -> Item:
    """One item of a task, from this side of the split of names and prompts."""
    try:
        sampler = (_SAMPLERS | _EXERCISES)[task]
    except KeyError:
        raise UnknownTaskError(f"no task {task!r}; there are {', '.join(TASKS)}") from None
    while True:
        item = sampler(rng, split)
        if task in CLOSED_TASKS or split_of_prompt(item.prompt) == split:
            return item


def split_of_prompt(prompt: str) -> Split:
    """On which side of the split a prompt falls."""
    return split_of("prompt", prompt, _PROMPTS_HELD_OUT_ONE_IN)
