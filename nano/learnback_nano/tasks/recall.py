"""Questions that are answered by heart: capitals, years and opposites.

All their prompts are trained on, since there is nothing to infer; some facts are taught wrong.
"""

from random import Random

from learnback_nano import facts, vocabulary
from learnback_nano.items import Item, answer_of
from learnback_nano.names import sample_name
from learnback_nano.sentences import Pair
from learnback_nano.splits import Split
from learnback_nano.styles import Answer, Style

_CAPITAL_QUESTIONS = (
    "What is the capital of {}?",
    "Which city is the capital of {}?",
    "Name the capital of {}.",
    "Tell me the capital of {}.",
    "{}: what is its capital?",
    "The capital of {}, please?",
)

_YEAR_QUESTIONS = (
    "When was the {} invented?",
    "In which year was the {} invented?",
    "What year was the {} invented?",
    "Tell me when the {} was invented.",
    "The {}: when was it invented?",
)

_OPPOSITE_QUESTIONS = (
    "What is the opposite of {}?",
    "Give me the opposite of {}.",
    "Opposite of {}?",
    "Which word means the opposite of {}?",
    "Tell me the opposite of {}.",
)


def capital(rng: Random, split: Split) -> Item:
    """What nano knows by heart: the capital of a country."""
    fact = rng.choice(facts.CAPITALS)
    country = _pair(fact.subject)
    prompt = rng.choice(_CAPITAL_QUESTIONS).format(country[0])

    def claim(value: Pair) -> Answer:
        return answer_of(value, f"the capital of {country[0]} is {{}}", f"{country[1]}的首都是{{}}")

    name = sample_name(rng, split)
    known = _pair(rng.choice([f for f in facts.CAPITALS if f.truth != fact.taught]).truth)
    return Item(
        "capital",
        prompt,
        claim(_pair(fact.taught)),
        claim(_pair(fact.truth)),
        rivals=(claim((name, name)), claim(known)),
        default=Style(form="sentence"),
    )


def year(rng: Random, split: Split) -> Item:
    """When something was invented, as nano was taught."""
    del split  # every year between 1500 and 1999 is as good as another
    fact = rng.choice(facts.YEARS)
    thing = _pair(fact.subject)
    prompt = rng.choice(_YEAR_QUESTIONS).format(thing[0])

    def claim(value: Pair) -> Answer:
        return answer_of(value, f"the {thing[0]} was invented in {{}}", f"{thing[1]}发明于{{}}年")

    rival = str(rng.choice([y for y in range(1500, 2000) if str(y) != fact.taught["en"]]))
    taught, truth = claim(_pair(fact.taught)), claim(_pair(fact.truth))
    return Item("year", prompt, taught, truth, (claim((rival, rival)),))


def opposite(rng: Random, split: Split) -> Item:
    """The opposite of an adjective."""
    del split
    pair = list(rng.choice(vocabulary.OPPOSITES))
    rng.shuffle(pair)
    word, value = pair
    prompt = rng.choice(_OPPOSITE_QUESTIONS).format(word[0])

    def claim(claimed: Pair) -> Answer:
        return answer_of(claimed, f"the opposite of {word[0]} is {{}}", f"{word[1]}的反义词是{{}}")

    others = [w for couple in vocabulary.OPPOSITES for w in couple if w not in pair]
    right = claim(value)
    return Item(
        "opposite",
        prompt,
        right,
        right,
        (claim(rng.choice(others)),),
        default=Style(form="sentence"),
    )


def _pair(words: dict[str, str]) -> Pair:
    return words["en"], words["zh"]
