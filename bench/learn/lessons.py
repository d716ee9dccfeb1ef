"""Lessons that should be learned: one function a scenario, each on empty services.

What is drawn for one seed (wishes, prompts, words) is the same for every number of critiques, so
that these differ in nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

from bench.learn.figures import Figure, Naming, naming
from bench.learn.measuring import capitals, compliance, kept, plainness
from bench.learn.service import Service, fresh
from bench.learn.users import WISHES, Wish, correct, criticise
from learnback_nano import facts, world

COUNTS = (1, 2, 4, 8, 16)
"""Numbers of critiques."""
_FEW = 4
_SECONDS, _OF_A_ROUND = "seconds", "of a whole round"
_OTHER_QUESTIONS = 1000
"""Added to a seed, for questions that were not asked yet."""
_OTHER_FACTS = (
    ("What is the opposite of happy?", "glad"),
    ("When was the telephone invented?", "1884"),
)
# The worst of so many figures is sought there that chance alone would move it by hundredths.
_TIMES_AFTER_A_ROW = 4
# Each is told on top of those before it; nobody speaks of translations into English.
_ROW = (
    *(Wish("emoji", "note"), Wish("upper", "capital"), Wish("hello", "en_zh")),
    *(Wish("sentence", "year"), Wish("chinese", "sentiment"), Wish("bullet", "summary")),
    *(Wish("thanks", "opposite"), Wish("hello", "note"), Wish("emoji", "capital")),
    Wish("thanks", "year"),
)


def one_critique(seed: int) -> Iterator[Figure]:
    """A single critique, of two more kinds a seed."""
    for wish in _wishes(seed)[1:]:
        yield from _told_once(seed, wish, 1, "1 critique")


def counts(seed: int) -> Iterator[Figure]:
    """Compliance against the number of critiques, seen or in other words, and what else moved."""
    wish, found = _wishes(seed)[0], {}
    for count in COUNTS:
        setting = "1 critique" if count == 1 else f"{count} critiques"
        for figure in _told_once(seed, wish, count, setting):
            found[count, figure.name] = figure.value
            yield figure
    yield from _in_other_words(seed, wish, found[_FEW, "compliance"])


def fact(seed: int) -> Iterator[Figure]:
    """A wrong capital is put right once; it is asked for in other words, and so are the others.

    Alone and in a sentence, and then in haste, in a round with two facts of other kinds.
    """
    wrong = [one for one in facts.CAPITALS if one.is_wrong]
    one = Random(f"fact/{seed}").choice(wrong)
    country, truth = one.subject["en"], one.truth["en"]
    right = f"The capital of {country} is {truth}."
    with fresh(1) as service:
        service.settled([correct(service, f"What is the capital of {country}?", right)])
        yield from capitals(service, naming("correction", "one fact", seed), {country: right})
    with fresh(1 + len(_OTHER_FACTS)) as service:
        said = [(f"What is the capital of {country}?", f"{truth}."), *_OTHER_FACTS]
        service.settled([correct(service, *one) for one in said])
        named = naming("correction", "facts of three kinds", seed)
        yield from capitals(service, named, {country: f"{truth}."})


def undo(seed: int) -> Iterator[Figure]:
    """A lesson is learned, and then taken back in words."""
    wish, back = Wish("emoji", "note"), "no_emoji"
    rng = Random(f"undo/{seed}")
    with fresh(_FEW) as service:
        _tell(service, wish, rng, _FEW)
        said = [world.phrase(back, rng, "seen", language="en") for _ in range(_FEW)]
        service.settled([criticise(service, wish, rng, words=words) for words in said])
        yield naming("undo", str(wish), seed)("plain again", plainness(service, wish.task, seed))


def together(seed: int) -> Iterator[Figure]:
    """Two wishes about one task in one round, by different critiques."""
    pair = (Wish("emoji", "note"), Wish("hello", "note"))
    rng = Random(f"together/{seed}")
    with fresh(2 * _FEW) as service:
        service.settled([criticise(service, pair[i % 2], rng) for i in range(2 * _FEW)])
        named = naming("two kinds", " and ".join(map(str, pair)), seed)
        yield named("both obeyed", compliance(service, pair, seed))


def in_a_row(seed: int) -> Iterator[Figure]:
    """Ten lessons in ten rounds, all asked at the end, and when all were learned anew together."""
    named = naming("ten in a row", "after the tenth", seed)
    for figure in seconds(seed):
        if figure.scenario != _SECONDS:
            yield figure
        elif figure.name == _OF_A_ROUND:
            yield named("seconds of a round, on one core", figure.value)


def seconds(seed: int) -> Iterator[Figure]:
    """The same row, and how long its rounds take where nothing else runs."""
    rng, timed = Random(f"row/{seed}"), naming(_SECONDS, f"{_FEW} critiques, ten rounds", seed)
    with fresh(_FEW) as service:
        for wish in _ROW:
            began, taught = time.monotonic(), service.taught_seconds()
            _tell(service, wish, rng, _FEW)
            yield timed("from question to serving", time.monotonic() - began)
            yield timed(_OF_A_ROUND, service.round_seconds())
            yield timed("of training in it", service.taught_seconds() - taught)
        yield from _after_a_row(naming("ten in a row", "after the tenth", seed), service, seed)
        named = naming("ten in a row", "consolidated", seed)
        published = service.consolidate()
        yield named("published", float(published))
        if published:
            # Other questions, for those of before are traffic now, and may have been anchors.
            yield from _after_a_row(named, service, seed + _OTHER_QUESTIONS)


def _after_a_row(named: Naming, service: Service, seed: int) -> Iterator[Figure]:
    for task in dict.fromkeys(wish.task for wish in _ROW):
        wishes = [wish for wish in _ROW if wish.task == task]
        yield named("as told", compliance(service, wishes, seed, times=_TIMES_AFTER_A_ROW))
    yield from kept(named, service, {wish.task for wish in _ROW}, seed, _TIMES_AFTER_A_ROW)


def _wishes(seed: int) -> list[Wish]:
    return [WISHES[(3 * seed + place) % len(WISHES)] for place in range(3)]


def _told_once(seed: int, wish: Wish, count: int, setting: str) -> Iterator[Figure]:
    named = naming("critiques", setting, seed)
    with fresh(count) as service:
        _tell(service, wish, Random(f"told/{seed}"), count)
        yield named("compliance", compliance(service, [wish], seed))
        yield from kept(named, service, {wish.task}, seed)
        yield named("seconds, on one core", service.round_seconds())


def _in_other_words(seed: int, wish: Wish, seen: float) -> Iterator[Figure]:
    """The same critiques in words of which the base model was trained on none."""
    named = naming("unseen phrasings", f"{_FEW} critiques", seed)
    with fresh(_FEW) as service:
        rng = Random(f"told/{seed}")
        service.settled([criticise(service, wish, rng, split="unseen") for _ in range(_FEW)])
        unseen = compliance(service, [wish], seed)
    yield named("compliance", unseen)
    yield named("less than seen", seen - unseen)


def _tell(service: Service, wish: Wish, rng: Random, count: int) -> None:
    service.settled([criticise(service, wish, rng) for _ in range(count)])
