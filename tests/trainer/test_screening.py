"""What counts as one answer to unlike questions."""

from __future__ import annotations

import pytest

from learnback_trainer.pupil import Base
from learnback_trainer.screening import _all_but_the_same


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
