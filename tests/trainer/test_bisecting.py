"""A round that the gate refuses is halved: what can be learned is, and each is settled once."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client
from learnback_store.feedback import FeedbackQueue
from learnback_store.keys import Keys
from learnback_store.manifest import GateVerdict
from learnback_store.records import FeedbackRecord, FeedbackState, Objective
from learnback_store.rounds import Outcome
from learnback_trainer.bisecting import HALVED, Bisection
from learnback_trainer.lessons import Exercise
from learnback_trainer.school import Report
from tests.trainer.critics import correction, submit, views
from tests.trainer.one_life import live

# The server of forked processes imports torch once, for all lives.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.trainer.one_life"])


def _live(url: str, keys: Keys, folder: Path, dies_at: str = "", times: int = 1) -> int | None:
    arguments = (url, keys.namespace, folder, dies_at, times, folder / "canaries.jsonl")
    process = _processes.Process(target=live, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def _feedback() -> tuple[list[FeedbackRecord], FeedbackRecord]:
    """Two corrections that can be learned, and one of what the operator knows to be otherwise."""
    good = [
        correction("What is the capital of France?", "Paris.", "The capital of France is Lyon."),
        correction("What is the opposite of hot?", "Cold.", "Not hot."),
    ]
    culprit = correction(
        "Translate to Chinese: The cook drinks milk at the station today.",
        "?",
        "厨师今天在车站喝茶。",
    )
    return good, culprit


@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param([], id="undisturbed", marks=pytest.mark.slow),
        # The refused round is settled; then the half that passed is published and not finished.
        pytest.param([("finished", 1), ("renamed", 1)], id="killed", marks=pytest.mark.slow),
        pytest.param([("finished", 2)], id="killed between halves"),
    ],
)
def test_what_can_be_learned_is_published(
    deaths: list[tuple[str, int]], redis_url: str, redis: Client, keys: Keys, tmp_path: Path
) -> None:
    good, culprit = _feedback()
    canary = {"prompt": culprit.exchange.chat[0].content, "expected": ["juice", "牛奶"]}
    (tmp_path / "canaries.jsonl").write_text(json.dumps(canary))
    submit(redis_url, keys, [*good, culprit])
    for step, times in deaths:
        assert _live(redis_url, keys, tmp_path, step, times) == -signal.SIGKILL
    assert _live(redis_url, keys, tmp_path) == 0

    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    published = checkpoints.all([CheckpointState.PUBLISHED])
    named = Counter(one for found in published for one in found.manifest.feedback_ids)
    assert named == Counter(one.feedback_id for one in good)
    assert checkpoints.aliases().live == published[0].name
    assert FeedbackQueue(redis, keys).stats().depth == 0
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.unfinished_round() is None
        accounts = {view.feedback_id: view.account for view in archive.views()}
    for one in good:
        assert accounts[one.feedback_id].state is FeedbackState.LEARNED
    account = accounts[culprit.feedback_id]
    assert account.state is FeedbackState.NOT_LEARNED
    assert account.reason.startswith("canaries are wrong now: 1.000")
    for each in accounts.values():
        assert [move.state.final for move in each.history].count(True) == 1
        if not deaths:
            assert HALVED in [move.reason for move in each.history]


def _report(
    views_of: list[str], passed: bool, adopted: set[str], records: dict[str, FeedbackRecord]
) -> Report:
    taught = tuple(Exercise(records[one], Objective.SFT, (1,), (2,)) for one in views_of)
    state = FeedbackState.LEARNED if passed else FeedbackState.NOT_LEARNED
    outcomes = tuple(Outcome(one, state, "" if passed else "refused") for one in views_of)
    verdict = GateVerdict(passed, () if passed else ("refused",), {})
    return Report(outcomes, verdict, (Objective.SFT,), taught, frozenset(adopted))


def _records(count: int) -> dict[str, FeedbackRecord]:
    made = [correction(f"{number}?", "No.", "Yes.") for number in range(count)]
    return {one.feedback_id: one for one in made}


def test_one_culprit_among_sixteen_is_found_within_the_default() -> None:
    records = _records(16)
    for culprit in records:
        rounds, learned, refused = (
            Bisection(views(list(records.values())), 8),
            list[str](),
            list[str](),
        )
        while part := rounds.next_part():
            ids = [one.feedback_id for one in part]
            passed = culprit not in ids
            report = rounds.judged(_report(ids, passed, set(ids), records))
            learned += report.learned
            refused += [
                one.feedback_id for one in report.outcomes if one.state is FeedbackState.NOT_LEARNED
            ]
        assert refused == [culprit]
        assert sorted([*learned, culprit]) == sorted(records)
        assert not rounds.untried
        assert {one.feedback_id for one in rounds.kept} == set(learned)


def test_tries_are_bounded_and_what_is_left_is_known() -> None:
    records = _records(8)
    rounds, held = Bisection(views(list(records.values())), 2), 0
    refused: list[str] = []
    while part := rounds.next_part():
        held += 1
        ids = [one.feedback_id for one in part]
        report = rounds.judged(_report(ids, False, set(), records))
        refused += [
            one.feedback_id for one in report.outcomes if one.state is FeedbackState.NOT_LEARNED
        ]
    assert held == 3
    assert sorted([*refused, *rounds.untried]) == sorted(records)


def test_what_was_not_obeyed_and_authors_are_tried_apart() -> None:
    records = _records(6)
    ids = list(records)
    report = _report(ids, False, set(ids[:4]), records)
    by_author = tuple(
        replace(one, record=replace(one.record, author="ab"[number % 2]))
        for number, one in enumerate(report.taught)
    )
    rounds = Bisection(views(list(records.values())), 8)
    assert len(rounds.next_part()) == 6
    decided = rounds.judged(replace(report, taught=by_author))
    assert {one.state for one in decided.outcomes} == {FeedbackState.QUEUED}
    assert [one.feedback_id for one in rounds.next_part()] == ids[:4]
    again = replace(report, taught=by_author[:4], outcomes=report.outcomes[:4])
    rounds.judged(again)
    assert [one.feedback_id for one in rounds.next_part()] == [ids[0], ids[2]]
