"""The evaluation side: what it renders it also recognises."""

from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from learnback_nano import world
from learnback_nano.styles import canonical, sample_style

seeds = st.integers(0, 2**32)
tasks = st.sampled_from(world.TASKS)
kinds = st.sampled_from(tuple(world.KINDS))
styles = st.builds(
    world.Style, **{axis: st.sampled_from(values) for axis, values in world.AXES.items()}
)


def _item_and_style(task: str, seed: int) -> tuple[world.Item, world.Style]:
    rng = Random(seed)
    item = world.sample(task, rng)
    style = sample_style(rng, item.default, item.languages)
    return item, canonical(item.answer, style, item.languages)


@given(task=tasks, seed=seeds)
def test_what_is_rendered_is_judged_exact(task: str, seed: int) -> None:
    item, style = _item_and_style(task, seed)
    judgement = world.judge(world.render(item, style), item, style)
    assert (judgement.exact, judgement.content, judgement.style) == (True, True, True)


@given(task=tasks, seed=seeds)
def test_a_wrong_answer_in_the_right_style_is_told_apart(task: str, seed: int) -> None:
    item, style = _item_and_style(task, seed)
    wrong = world.with_answer(item, item.rivals[0])
    judgement = world.judge(world.render(wrong, style), item, style)
    assert (judgement.exact, judgement.content) == (False, False)
    if canonical(item.rivals[0], style, item.languages) == style:
        assert judgement.style


@given(kind=kinds, seed=seeds)
def test_a_revision_changes_the_style_and_keeps_the_content(kind: str, seed: int) -> None:
    probe = world.revision(kind, Random(seed))
    before = probe.judge(probe.messages[1]["content"])
    assert before.content
    assert not before.exact
    assert not before.style
    assert probe.judge(probe.expected).exact


@given(kind=st.sampled_from(world.UNDO_KINDS), seed=seeds)
def test_undoing_gives_back_the_original(kind: str, seed: int) -> None:
    """Put on what the kind takes away, take it away again: the same text as before."""
    probe = world.revision(kind, Random(seed))
    wish = world.kind_of(kind)
    assert wish.undoes is not None
    before = world.read(probe.messages[1]["content"], probe.item).style
    # "你好！1876" is seen to be Chinese, "1876" alone is not.
    assume(probe.style == before.having(wish.axis, wish.value))
    assert probe.style.having(wish.axis, wish.undoes) == before
    assert world.apply(kind, probe.item, before) == probe.style


@given(text=st.text(max_size=80), task=tasks, style=styles)
def test_any_text_can_be_judged(text: str, task: str, style: world.Style) -> None:
    item = world.sample(task, Random(0))
    style = style.having("language", item.languages[0])
    judgement = world.judge(text, item, style)
    assert judgement.exact is (text == world.render(item, style)) or judgement.content


@given(seed=seeds)
def test_dialogue_probes_hold_together(seed: int) -> None:
    rng = Random(seed)
    for draw in (world.two_requests, world.correction, world.unchanged):
        probe = draw(rng, "unseen")
        assert [m["role"] for m in probe.messages] == ["user", "assistant", "user"]
        assert probe.judge(probe.expected).exact


def test_praise_leaves_the_answer_alone() -> None:
    probe = world.unchanged(Random(0))
    assert probe.expected == probe.messages[1]["content"]


def test_a_correction_shows_the_claimed_value() -> None:
    probe = world.correction(Random(5), task="year")
    assert probe.item.answer.short["en"] in probe.messages[-1]["content"]
    assert probe.item.answer.short["en"] in probe.expected


def test_some_facts_are_taught_wrong() -> None:
    rng = Random(0)
    items = [world.sample("capital", rng) for _ in range(400)]
    wrong = {item.truth.short["en"] for item in items if item.truth != item.answer}
    assert len(wrong) == 10


def test_an_instruction_stands_where_it_is_wanted() -> None:
    rng = Random(0)
    assert world.instruction("upper", rng, "system").messages[0]["role"] == "system"
    assert len(world.instruction("upper", rng, "prompt").messages) == 1


def test_dictation_quotes_the_text() -> None:
    assert "blah blah" in world.dictation("blah blah", Random(0))[-1]["content"]


def test_unknown_names_are_typed_errors_that_say_what_there_is() -> None:
    with pytest.raises(world.UnknownTaskError, match="capital"):
        world.sample("poetry", Random(0))
    with pytest.raises(world.UnknownKindError, match="upper"):
        world.phrase("rhyming", Random(0))
    with pytest.raises(world.UnknownKindError):
        world.revision("rhyming", Random(0))


def test_what_cannot_be_asked_is_a_typed_error() -> None:
    with pytest.raises(world.ImpossibleError):
        world.revision("english", Random(0), task="en_zh")
    item = world.sample("note", Random(0))
    with pytest.raises(world.ImpossibleError, match="nothing"):
        world.apply("short", item)
