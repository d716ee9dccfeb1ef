"""What the file of an acceptance head says of itself."""

from __future__ import annotations

import pytest

from learnback_store.acceptance import HeadFacts, HeadFormatError

FACTS = HeadFacts(40, 0.9, 0.05)
WRITTEN = FACTS.to_metadata()


def test_facts_come_back_as_they_were_written() -> None:
    assert HeadFacts.from_metadata(WRITTEN) == FACTS


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        WRITTEN | {"schema": "learnback.acceptance/2"},
        WRITTEN | {"auc": "nan"},
        WRITTEN | {"examples": "many"},
        {name: value for name, value in WRITTEN.items() if name != "ece"},
    ],
    ids=["nothing", "another version", "no number", "words", "one fact less"],
)
def test_other_facts_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(HeadFormatError):
        HeadFacts.from_metadata(metadata)
