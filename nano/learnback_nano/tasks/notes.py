"""Questions on a note in the prompt, about people and places that do not exist."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from learnback_nano import vocabulary
from learnback_nano.items import Item, answer_of
from learnback_nano.names import sample_name
from learnback_nano.sentences import Pair
from learnback_nano.splits import Split
from learnback_nano.styles import Answer

_NOTE_LAYOUTS = (
    "Note: {note} {question}",
    "{note} {question}",
    "Read this: {note} {question}",
    "{question} {note}",
    "Note: {note}\n{question}",
)


@dataclass(frozen=True, slots=True)
class _Trait:
    """What a note may say of a person, how it is asked, and how it is answered."""

    note: str
    questions: tuple[str, ...]
    english: str
    chinese: str
    draw: Callable[[Random, Split], Pair]


def _name_pair(rng: Random, split: Split) -> Pair:
    name = sample_name(rng, split)
    return name, name


def _birth_year(rng: Random, split: Split) -> Pair:
    del split
    year = str(rng.randrange(1900, 2000))
    return year, year


def _from(values: tuple[Pair, ...]) -> Callable[[Random, Split], Pair]:
    return lambda rng, _split: rng.choice(values)


_TRAITS = (
    _Trait(
        "{} lives in {}.",
        ("Where does {} live?", "In which town does {} live?"),
        "{0} lives in {{}}",
        "{0}住在{{}}",
        _name_pair,
    ),
    _Trait(
        "{} is {}.",
        ("What is {}'s job?", "What does {} do for a living?"),
        "{0} is {{}}",
        "{0}是{{}}",
        _from(vocabulary.JOBS),
    ),
    _Trait(
        "{} was born in {}.",
        ("When was {} born?", "In which year was {} born?"),
        "{0} was born in {{}}",
        "{0}出生于{{}}年",
        _birth_year,
    ),
    _Trait(
        "{} likes {}.",
        ("What does {} like?", "What is it that {} likes?"),
        "{0} likes {{}}",
        "{0}喜欢{{}}",
        _from(vocabulary.DRINKS),
    ),
    _Trait(
        "{} has {}.",
        ("Which animal does {} have?", "What pet does {} have?"),
        "{0} has {{}}",
        "{0}有{{}}",
        _from(vocabulary.PETS),
    ),
    _Trait(
        "{} is married to {}.",
        ("Who is married to {}?", "Who is the partner of {}?"),
        "{0} is married to {{}}",
        "{0}和{{}}结婚了",
        _name_pair,
    ),
)


def note(rng: Random, split: Split) -> Item:
    """A question on one person in a note, sometimes with a stranger beside them."""
    return _note(rng, split, same_of_both=False)


def two_people(rng: Random, split: Split) -> Item:
    """A note that tells the same of two people, so that only the name says whose line is asked for.

    `note` rarely is such a one, and was learned without it: by what is asked, not by whom.
    """
    return _note(rng, split, same_of_both=True)


def _note(rng: Random, split: Split, *, same_of_both: bool) -> Item:
    name, stranger = sample_name(rng, split), sample_name(rng, split)
    traits = rng.sample(_TRAITS, rng.choice((1, 2, 2, 3)))
    values = [trait.draw(rng, split) for trait in traits]
    lines = [trait.note.format(name, value[0]) for trait, value in zip(traits, values, strict=True)]
    if same_of_both or rng.random() < 0.4:
        other = traits[0] if same_of_both else rng.choice(_TRAITS)
        lines.append(other.note.format(stranger, other.draw(rng, split)[0]))
    rng.shuffle(lines)
    asked = traits[0]

    def claim(value: Pair) -> Answer:
        return answer_of(value, asked.english.format(name), asked.chinese.format(name))

    prompt = rng.choice(_NOTE_LAYOUTS).format(
        note=" ".join(lines), question=rng.choice(asked.questions).format(name)
    )
    right = claim(values[0])
    return Item("note", prompt, right, right, (claim(_different(rng, split, asked, values[0])),))


def _different(rng: Random, split: Split, trait: _Trait, now: Pair) -> Pair:
    while (value := trait.draw(rng, split)) == now:
        pass
    return value
