"""Aliases move whole, one after the other, and never back by accident."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from learnback_store.aliases import CANARY, LIVE, Aliases
from learnback_store.checkpoints import CheckpointStore, open_checkpoints
from learnback_store.errors import (
    AliasMovedError,
    CheckpointNotFoundError,
    CheckpointUnusableError,
    RecordUnreadableError,
    RequestIdReusedError,
)
from tests.store.samples import publish

_examples = itertools.count()


@pytest.fixture
def stocked(checkpoints: CheckpointStore) -> CheckpointStore:
    for name in ("one", "two", "three"):
        publish(checkpoints, name)
    return checkpoints


def test_the_base_model_is_live_until_something_is_promoted(stocked: CheckpointStore) -> None:
    assert stocked.aliases() == Aliases()
    assert (stocked.aliases().live, stocked.aliases().previous) == ("base", "")
    with pytest.raises(CheckpointUnusableError):
        stocked.rollback()


def test_promoting_remembers_the_previous_one(stocked: CheckpointStore) -> None:
    move = stocked.promote("one")
    assert (move.before, move.after) == ("base", "one")
    stocked.promote("two")
    assert dict(stocked.aliases().targets) == {"live": "two", "previous": "one"}
    assert stocked.aliases().of("two") == ("live",)


def test_rolling_back_twice_is_no_change(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    stocked.promote("two")
    before = dict(stocked.aliases().targets)
    assert stocked.rollback().after == "one"
    assert dict(stocked.aliases().targets) == {"live": "one", "previous": "two"}
    stocked.rollback()
    assert dict(stocked.aliases().targets) == before


def test_rolling_back_to_a_name_and_to_the_base_model(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    stocked.promote("two")
    stocked.rollback("one")
    stocked.rollback("base")
    assert dict(stocked.aliases().targets) == {"live": "base", "previous": "one"}


def test_the_canary_moves_alone(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    stocked.promote("two", CANARY)
    assert dict(stocked.aliases().targets) == {"live": "one", "previous": "base", "canary": "two"}


def test_promoting_what_is_live_changes_nothing(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    stocked.promote("two")
    before = stocked.aliases()
    stocked.promote("two")
    assert stocked.aliases() == before


def test_a_trainer_does_not_override_an_operator(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    with pytest.raises(AliasMovedError):
        stocked.promote("two", expected="base")
    assert stocked.aliases().live == "one"
    stocked.promote("two", expected="one")
    stocked.rollback()
    assert stocked.aliases().was_live("two")
    assert not stocked.aliases().was_live("three")


def test_a_repeated_rollback_is_done_once(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    stocked.promote("two", request_id="p")
    first = stocked.rollback(request_id="r")
    assert stocked.rollback(request_id="r") == first
    assert stocked.aliases().live == "one"
    assert stocked.promote("two", request_id="p").after == "two"
    assert stocked.aliases().live == "one"
    with pytest.raises(RequestIdReusedError):
        stocked.promote("three", request_id="r")


def test_a_repeat_of_what_changed_nothing_is_known_too(stocked: CheckpointStore) -> None:
    stocked.promote("one")
    stocked.promote("one", request_id="r")
    stocked.promote("two")
    assert stocked.promote("one", request_id="r").after == "one"
    assert stocked.aliases().live == "two"


@pytest.mark.parametrize("alias", ["previous", "nothing", ""])
def test_only_live_and_canary_can_be_moved(stocked: CheckpointStore, alias: str) -> None:
    with pytest.raises(CheckpointNotFoundError):
        stocked.promote("one", alias)


def test_nothing_is_promoted_that_does_not_exist(stocked: CheckpointStore) -> None:
    for name in ("nothing", "", "live"):
        with pytest.raises((CheckpointNotFoundError, CheckpointUnusableError)):
            stocked.promote(name)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_damaged_file_is_told(stocked: CheckpointStore) -> None:
    (stocked.root / "aliases.json").write_text("{")
    with pytest.raises(RecordUnreadableError):
        stocked.aliases()


def test_moves_at_once_come_one_after_the_other(
    stocked: CheckpointStore, opened: Callable[[], CheckpointStore], place: str
) -> None:
    workers, each = (4, 6) if "://" in place else (8, 8)

    def move(worker: int) -> None:
        store = opened()
        for number in range(each):
            name = ("one", "two", "three")[(worker + number) % 3]
            store.promote(name, request_id=f"{worker}-{number}")

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(move, range(workers)))
    moves = stocked.aliases().moves
    assert stocked.aliases().serial == len(moves) == workers * each
    for earlier, later in itertools.pairwise(moves):
        assert later.before == earlier.after


def test_a_bounded_number_of_moves_is_remembered() -> None:
    aliases = Aliases()
    for index in range(300):
        aliases = aliases.moved(LIVE, str(index), "", "move")
    assert (aliases.serial, len(aliases.moves)) == (300, 256)
    assert aliases.was_live("44")
    assert not aliases.was_live("43")


class AliasMachine(RuleBasedStateMachine):
    """Aliases against a model."""

    place: str
    cache: Path
    names = ("one", "two", "three", "base")

    @initialize()
    def begin(self) -> None:
        self.place = f"{type(self).place}-{next(_examples)}"
        self.store = open_checkpoints(self.place, self.cache)
        for name in ("one", "two", "three"):
            publish(self.store, name)
        self.model = {"live": "base"}

    def _set_live(self, name: str) -> None:
        if name != self.model["live"]:
            self.model |= {"live": name, "previous": self.model["live"]}

    @rule(name=st.sampled_from(names))
    def promote(self, name: str) -> None:
        self.store.promote(name)
        self._set_live(name)

    @rule(name=st.sampled_from(names))
    def canary(self, name: str) -> None:
        self.store.promote(name, CANARY)
        self.model["canary"] = name

    @rule(name=st.sampled_from(names), expected=st.sampled_from(names))
    def promote_if(self, name: str, expected: str) -> None:
        with contextlib.suppress(AliasMovedError):
            self.store.promote(name, expected=expected)
            assert self.model["live"] == expected
            self._set_live(name)

    @rule(name=st.sampled_from(("", *names)))
    def rollback(self, name: str) -> None:
        target = name or self.model.get("previous", "")
        if target:
            self.store.rollback(name)
            self._set_live(target)

    @invariant()
    def equal(self) -> None:
        assert dict(self.store.aliases().targets) == self.model

    def teardown(self) -> None:
        assert dict(open_checkpoints(self.place, self.cache).aliases().targets) == self.model


def test_aliases_behave_as_their_model(place: str, tmp_path: Path) -> None:
    machine = type("Machine", (AliasMachine,), {"place": place, "cache": tmp_path / "cache"})
    # A step is a dozen requests of an object store.
    examples = 3 if "://" in place else 25
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=15, deadline=None)
    )
