"""What counts as one answer to unlike questions, and as none to any."""

from __future__ import annotations

from random import Random

import pytest

from learnback_trainer.lessons import make_exercises
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.questions import shipped_questions
from learnback_trainer.screening import COLLAPSED, Bounds, _all_but_the_same, screen
from tests.trainer.critics import ANSWER_TOKENS, correction, views


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("qzx vvk wub", "qzx vvk wub", True, id="equal"),
        pytest.param("qzx vvk wub", "landzx vvk wub", True, id="garbled"),
        pytest.param("qzx vvk wub", "Bazx vvk Wub", True, id="garbled, in capitals"),
        pytest.param("Paris. 🙂", "A nurse. 🙂", False, id="one style, other content"),
        pytest.param("HELSINKI", "1876", False, id="unlike"),
    ],
)
def test_answers_are_all_but_the_same(base: Base, one: str, other: str, same: bool) -> None:
    both = (base.reader.answer(one), base.reader.answer(other))
    assert _all_but_the_same(*both, base.reader) is same
    assert _all_but_the_same(*reversed(both), base.reader) is same


@pytest.mark.parametrize(
    ("question", "right", "sound"),
    [
        ("What is the capital of France?", "Nice", True),
        ("What is the capital of Japan?", "Amman", True),
        ("What is the opposite of happy?", "sad", True),
        ("What is the opposite of happy?", "long", True),
        ("When was the telephone invented?", "1884", True),
        ("What is the capital of France?", "gct", False),
        ("What is the opposite of happy?", "ft t vsx hg", False),
        ("When was the telephone invented?", "xq zvk wpl jjq kzx qqw", False),
    ],
)
def test_a_bare_answer_is_no_gibberish(base: Base, question: str, right: str, sound: bool) -> None:
    record = correction(question, "Something.", right)
    with Pupil(base, None) as pupil:
        made = make_exercises(views([record]), pupil, ANSWER_TOKENS).made
        others = [one.exchange for one in shipped_questions(90, Random(0), pupil.reader)]
        found = screen(pupil, made, others, Bounds(ANSWER_TOKENS))
    assert found == ({} if sound else {record.feedback_id: COLLAPSED})
