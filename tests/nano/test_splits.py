"""What is held out never appears in training."""

from random import Random

import pytest

from learnback_nano import critiques, remarks, world
from learnback_nano.dialogues import Message, is_style_held_out, sample_dialogue
from learnback_nano.kinds import KINDS, kind_of
from learnback_nano.names import sample_name, split_of_name
from learnback_nano.phrasing import expand
from learnback_nano.strangers import STRANGERS
from learnback_nano.tasks import CLOSED_TASKS, TASKS, split_of_prompt

DIALOGUES = 3_000


@pytest.fixture(scope="module")
def corpus() -> list[list[Message]]:
    rng = Random("the corpus of the tests")
    return [sample_dialogue(rng) for _ in range(DIALOGUES)]


def _phrasings(kind: str, language: str, split: world.Split) -> set[str]:
    return {
        *critiques.directives(kind, language, split),
        *critiques.complaints(kind, language, split),
    }


@pytest.mark.parametrize("language", critiques.LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_many_phrasings_and_some_held_out(kind: str, language: str) -> None:
    assert len(_phrasings(kind, language, "seen")) >= 20
    assert len(_phrasings(kind, language, "unseen")) >= 6


def test_no_phrasing_is_on_both_sides_even_of_different_kinds() -> None:
    sides = {
        split: {
            p
            for kind in KINDS
            for lang in critiques.LANGUAGES
            for p in _phrasings(kind, lang, split)
        }
        for split in ("seen", "unseen")
    }
    assert not sides["seen"] & sides["unseen"]


def test_no_phrasing_means_two_different_wishes() -> None:
    meant: dict[str, set[tuple[str, str]]] = {}
    for kind in KINDS:
        wish = kind_of(kind)
        for language in critiques.LANGUAGES:
            for phrasing in _phrasings(kind, language, "seen"):
                meant.setdefault(phrasing, set()).add((wish.axis, wish.value))
    assert {p: wishes for p, wishes in meant.items() if len(wishes) > 1} == {}


def test_held_out_phrasings_are_not_in_the_corpus(corpus: list[list[Message]]) -> None:
    """A whole user message is never a held-out wording, give or take its capital and end mark."""
    unseen = {
        phrasing.lower()
        for kind in KINDS
        for language in critiques.LANGUAGES
        for phrasing in _phrasings(kind, language, "unseen")
    }
    said = {
        message.content.lower().strip(" .!?。！？")
        for dialogue in corpus
        for message in dialogue
        if message.role == "user"
    }
    assert not said & unseen


def test_held_out_corrections_and_praise_are_disjoint() -> None:
    for name in ("correction", "praise", "dictation"):
        for language in critiques.LANGUAGES:
            seen = set(remarks.remarks(name, language, "seen"))
            unseen = set(remarks.remarks(name, language, "unseen"))
            assert unseen
            assert not seen & unseen


def test_hand_written_critiques_are_in_no_table() -> None:
    assert set(STRANGERS) == set(KINDS)
    written = {text.lower().strip(" .!?") for texts in STRANGERS.values() for text in texts}
    for kind in KINDS:
        for split in ("seen", "unseen"):
            assert not written & _phrasings(kind, "en", split)


def test_trained_prompts_are_on_the_trained_side() -> None:
    rng = Random(1)
    for task in set(TASKS) - set(CLOSED_TASKS):
        for _ in range(100):
            assert split_of_prompt(world.sample(task, rng, "seen").prompt) == "seen"
            assert split_of_prompt(world.sample(task, rng, "unseen").prompt) == "unseen"


def test_names_fall_on_the_asked_side() -> None:
    rng = Random(2)
    for split in ("seen", "unseen"):
        assert {split_of_name(sample_name(rng, split)) for _ in range(200)} == {split}


def test_combinations_that_are_held_out_are_reached_by_probes_only() -> None:
    rng = Random(3)
    assert all(is_style_held_out(world.combination(rng).style) for _ in range(50))


def test_patterns_expand_to_every_choice() -> None:
    assert expand("{use|write} it {in|} {x}") == [
        "use it in x",
        "use it x",
        "write it in x",
        "write it x",
    ]
