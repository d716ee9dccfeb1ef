"""Answers are scored as the plain model's own last state says, and nobody beside them notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from learnback_server.engine.acceptance import AcceptanceHead, read_head
from learnback_server.engine.adapter import WeightsError, read_adapter
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import FinishReason
from learnback_server.engine.weights import merge
from learnback_store.acceptance import BIAS, HEAD_FILE, WEIGHT, HeadFacts
from tests.engine.harness import Answer, PlainModel, Plan, Running, play, request
from tests.engine.test_bank import write_adapter

PROMPT = [3 * i % 256 for i in range(40)]
ADAPTED = ["unmerged", "merged"]
CLOSE = 1e-4


def head_for(model: LoadedModel, seed: int = 0) -> AcceptanceHead:
    """A random head whose scores are neither 0 nor 1."""
    hidden = model.network.config.get_text_config().hidden_size
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(hidden, generator=draw, dtype=torch.float64) / hidden**0.5
    return AcceptanceHead(weight, 0.1)


def score_of(plain: PlainModel, head: AcceptanceHead, ids: list[int]) -> float:
    """What the head says of the end of a text, by the plain model."""
    logit = plain.last_state(ids).double() @ head.weight + head.bias
    return float(1 / (1 + torch.exp(-logit)))


def scores(answer: Answer) -> list[float | None]:
    return [end.acceptance for end in answer.finished.candidates]


def put_up(running: Running, model: LoadedModel, folder: Path, head: AcceptanceHead | None) -> None:
    """Lets the adapter in a folder answer, both ways, with a head."""
    adapter = read_adapter(folder, model.network)
    running.engine.adapt("unmerged", adapter, head)
    merged = running.engine.prepare(merge(model.network, adapter))
    running.engine.serve("merged", merged, head)


def test_scores_are_those_of_the_plain_model(
    any_folder: Path, any_model: LoadedModel, tmp_path: Path
) -> None:
    experts = any_model.network.config.model_type == "mixtral"
    targets = ["q_proj", "o_proj"] if experts else "all-linear"
    plain = write_adapter(any_folder, tmp_path, r=4, target_modules=targets)
    head = head_for(any_model)
    with Running(any_model) as running:
        put_up(running, any_model, tmp_path, head)
        asked = [
            request(PROMPT[:length], 12, checkpoint=name, scored=True, n=2, temperature=1.0, seed=3)
            for name in ADAPTED
            for length in (5, 16, 33)
        ]
        answers = running.ask(*asked)
    seen = set()
    for one, answer in zip(asked, answers, strict=True):
        for end in answer.finished.candidates:
            expected = score_of(plain, head, [*one.prompt_ids, *answer.ids(end.index)])
            assert end.acceptance == pytest.approx(expected, abs=CLOSE)
            seen.add(round(expected, 2))
    assert len(seen) > 2, "the head tells nothing apart, and this test nothing either"


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny Llama."""
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(tiny_llama, folder, r=4)
    return folder


@pytest.mark.parametrize("name", [*ADAPTED, "base"])
def test_bystanders_are_the_same_to_the_last_bit(
    llama: LoadedModel, folder: Path, name: str
) -> None:
    def traffic(*, scored: bool) -> list[Answer]:
        asked: dict[str, Any] = {"logprobs": 1, "ignore_eos": True}
        bystander = request(PROMPT[:20], 24, checkpoint=name, **asked)
        # One ends, and is scored, at every step of the bystander's.
        others = [
            request(PROMPT[: 5 + i], 1 + i, checkpoint=own, scored=scored, **asked)
            for i in range(20)
            for own in ADAPTED
        ]
        return play(
            llama,
            map(Plan, [bystander, *others]),
            lambda running: put_up(running, llama, folder, head_for(llama)),
            prefix_cache=False,
        )

    found, bare = traffic(scored=True), traffic(scored=False)
    assert [one.logprobs() for one in found] == [one.logprobs() for one in bare]
    assert all(scores(one)[0] is not None for one in found[1:])
    assert all(scores(one) == [None] for one in [found[0], *bare])


def test_a_score_hardly_depends_on_company(llama: LoadedModel, folder: Path) -> None:
    def asked() -> list[Any]:
        return [
            request(PROMPT[: 9 + i], 6, checkpoint=name, scored=True)
            for i in range(6)
            for name in ADAPTED
        ]

    with Running(llama, prefix_cache=False) as running:
        put_up(running, llama, folder, head_for(llama))
        alone = [scores(running.ask(one)[0]) for one in asked()]
        together = [scores(one) for one in running.ask(*asked())]
    assert together == [[pytest.approx(one[0], abs=1e-5)] for one in alone]


@pytest.mark.parametrize("name", ADAPTED)
def test_whatever_completes_an_answer_it_is_scored(
    llama: LoadedModel, folder: Path, tiny_llama: Path, tmp_path: Path, name: str
) -> None:
    plain = write_adapter(tiny_llama, tmp_path, r=4)
    head = head_for(llama)
    text = "".join(map(chr, range(32, 127)))
    with Running(llama) as running:
        put_up(running, llama, folder, head)
        drawn = {"temperature": 1.0, "seed": 1, "checkpoint": name, "scored": True}
        ways = {
            "one token": request(PROMPT, 1, **drawn),
            "length": request(PROMPT, 5, ignore_eos=True, **drawn),
            "stop string": request(PROMPT, 400, stop=tuple(text[:16]), **drawn),
        }
        answers = dict(zip(ways, running.ask(*ways.values()), strict=True))
    assert answers["stop string"].end.matched_stop
    for way, answer in answers.items():
        expected = score_of(plain, head, [*PROMPT, *answer.ids()])
        assert scores(answer)[0] == pytest.approx(expected, abs=CLOSE), way


def test_an_end_token_is_part_of_what_is_scored(
    llama: LoadedModel, folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    plain, head = write_adapter(tiny_llama, tmp_path, r=4), head_for(llama)
    with Running(llama) as running:
        put_up(running, llama, folder, head)
        drawn = [
            request(PROMPT, 400, checkpoint="merged", scored=True, temperature=2.0, seed=seed)
            for seed in range(8)
        ]
        ended = [one for one in running.ask(*drawn) if one.reason is FinishReason.STOP]
    assert ended
    for answer in ended:
        assert answer.ids()[-1] in llama.facts.eos_ids
        expected = score_of(plain, head, [*PROMPT, *answer.ids()])
        assert scores(answer)[0] == pytest.approx(expected, abs=CLOSE)


def test_where_there_is_no_head_nothing_is_told(llama: LoadedModel, folder: Path) -> None:
    with Running(llama) as running:
        put_up(running, llama, folder, None)
        asked = [request(PROMPT, 6, checkpoint=name, scored=True) for name in (*ADAPTED, "base")]
        for answer in running.ask(*asked):
            assert scores(answer) == [None]


def test_what_is_cut_off_has_no_score(llama: LoadedModel, folder: Path) -> None:
    with Running(llama) as running:
        put_up(running, llama, folder, head_for(llama))
        cut = request(PROMPT, 400, checkpoint="merged", scored=True, ignore_eos=True)
        late = request(PROMPT, 400, checkpoint="merged", scored=True, deadline=0.001)
        running.engine.submit(cut)
        running.wait_until(lambda: bool(running.answers[cut.generation_id].ids()))
        running.engine.cancel(cut.generation_id)
        answers = [running.answer(cut), *running.ask(late)]
    assert [one.reason for one in answers] == [FinishReason.CANCELLED, FinishReason.DEADLINE]
    assert [scores(one) for one in answers] == [[None], [None]]


def test_an_answer_outlives_the_loss_of_its_pages(llama: LoadedModel, folder: Path) -> None:
    asked = {"checkpoint": "unmerged", "scored": True, "ignore_eos": True}
    # All of them together need twice the pages that there are.
    plans = [request(PROMPT[: 10 + i], 40 + i, **asked) for i in range(6)]
    found = []
    for options in ({}, {"cache_tokens": 160, "prefix_cache": False}):
        with Running(llama, **options) as running:
            put_up(running, llama, folder, head_for(llama))
            found.append([(one.ids(), scores(one)) for one in running.ask(*_again(plans))])
    for (ids, score), (short_ids, short_score) in zip(*found, strict=True):
        assert short_ids == ids
        assert short_score == [pytest.approx(score[0], abs=CLOSE)]


def _again(requests: list[Any]) -> list[Any]:
    return [
        request(one.prompt_ids, one.sampling.max_tokens, checkpoint=one.checkpoint, scored=True,
                ignore_eos=True)
        for one in requests
    ]  # fmt: skip


class LastTokenFault:
    """Makes the model fail whenever it computes its states without logits."""

    def __init__(self, running: Running, lane: str, times: int) -> None:
        self.left = times
        runner: Any = running.engine._slots.lane(lane).runner
        self._states = runner.states
        runner.states = self

    def __call__(self, rows: Any) -> torch.Tensor:
        if self.left:
            self.left -= 1
            raise MemoryError("for the test")
        found: torch.Tensor = self._states(rows)
        return found


@pytest.mark.parametrize("times", [1, 2, 99])
def test_an_answer_never_fails_for_want_of_its_score(
    llama: LoadedModel, folder: Path, times: int
) -> None:
    def asked() -> list[Any]:
        return [
            request(PROMPT[: 9 + i], 6, checkpoint="merged", scored=True, ignore_eos=True)
            for i in range(3)
        ]

    with Running(llama) as running:
        put_up(running, llama, folder, head_for(llama))
        whole = running.ask(*asked())
        fault = LastTokenFault(running, "merged", times)
        spoilt = running.ask(*asked())
        fault.left = 0
        after = running.ask(*asked())
    assert [one.ids() for one in spoilt] == [one.ids() for one in whole]
    assert {one.reason for one in spoilt} == {FinishReason.LENGTH}
    # All three in one pass, then each alone.
    missing = [scores(one) == [None] for one in spoilt]
    assert sum(missing) == {1: 0, 2: 1, 99: 3}[times]
    assert [scores(one) for one in after] == [scores(one) for one in whole]


def test_a_state_that_is_no_number_gives_no_score(llama: LoadedModel, folder: Path) -> None:
    nothing = AcceptanceHead(head_for(llama).weight * torch.nan, 0.0)
    with Running(llama) as running:
        put_up(running, llama, folder, nothing)
        (answer,) = running.ask(request(PROMPT, 6, checkpoint="merged", scored=True))
        assert scores(answer) == [None]
        assert answer.reason is not FinishReason.ERROR


@settings(max_examples=15)
@given(
    drawn=st.lists(
        st.tuples(
            st.integers(1, 20),  # tokens
            st.integers(1, 3),  # candidates
            st.booleans(),  # scored
            st.integers(0, 12),  # arrives
            st.none() | st.integers(0, 10),  # cancelled after
        ),
        min_size=1,
        max_size=8,
    )
)
def test_in_any_traffic_complete_answers_are_scored_and_the_rest_is_as_without(
    llama: LoadedModel,
    folder: Path,
    drawn: list[tuple[int, int, bool, int, int | None]],
) -> None:
    def plans(*, scored: bool) -> list[Plan]:
        found = []
        for i, (tokens, n, wants, arrives, cancelled) in enumerate(drawn):
            own = {"checkpoint": ADAPTED[i % 2], "temperature": 1.0, "seed": i}
            asked = request(PROMPT[: 5 + i], tokens, n=n, scored=scored and wants, **own)
            found.append(Plan(asked, arrives, cancelled))
        return found

    def ready(running: Running) -> None:
        put_up(running, llama, folder, head_for(llama))

    found = play(llama, plans(scored=True), ready)
    bare = play(llama, plans(scored=False), ready)
    for answer, plain, (_, n, wants, _, cancelled) in zip(found, bare, drawn, strict=True):
        if cancelled is None:
            assert [answer.ids(i) for i in range(n)] == [plain.ids(i) for i in range(n)]
        for end in answer.finished.candidates:
            complete = end.reason in (FinishReason.STOP, FinishReason.LENGTH)
            told = end.acceptance is not None
            assert not told or (complete and wants)
            assert told or not (complete and wants and cancelled is None)


# The file


def write_head(folder: Path, model: LoadedModel) -> AcceptanceHead:
    """Writes a random head into the folder of a checkpoint."""
    head = head_for(model)
    tensors = {WEIGHT: head.weight.float(), BIAS: torch.tensor([head.bias])}
    save_file(tensors, folder / HEAD_FILE, HeadFacts(40, 0.9, 0.05).to_metadata())
    return head


def test_a_head_is_read_as_it_was_written(llama: LoadedModel, tmp_path: Path) -> None:
    assert read_head(tmp_path, llama.network) is None
    written = write_head(tmp_path, llama)
    read = read_head(tmp_path, llama.network)
    assert read is not None
    assert torch.allclose(read.weight, written.weight)
    assert read.bias == pytest.approx(written.bias)


Spoil = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: {WEIGHT: t[WEIGHT][1:].clone(), BIAS: t[BIAS]}, "does not fit a hidden size"),
        (lambda t: {WEIGHT: t[WEIGHT], BIAS: t[BIAS].repeat(2)}, "does not fit a hidden size"),
        (lambda t: {WEIGHT: t[WEIGHT] * torch.nan, BIAS: t[BIAS]}, "not all finite"),
        (lambda t: {WEIGHT: t[WEIGHT], BIAS: t[BIAS] * torch.inf}, "not all finite"),
        (lambda t: {WEIGHT: t[WEIGHT]}, "can't be read"),
    ],
    ids=["short weight", "two biases", "no numbers", "infinite", "no bias"],
)
def test_a_head_that_does_not_fit_is_refused_with_the_reason(
    llama: LoadedModel, tmp_path: Path, spoil: Spoil, reason: str
) -> None:
    write_head(tmp_path, llama)
    file = tmp_path / HEAD_FILE
    save_file(spoil(load_file(file)), file, HeadFacts(40, 0.9, 0.05).to_metadata())
    with pytest.raises(WeightsError, match=reason):
        read_head(tmp_path, llama.network)


@pytest.mark.parametrize("fault", ["truncated", "of another version", "without facts"])
def test_a_head_that_is_something_else_is_refused(
    llama: LoadedModel, tmp_path: Path, fault: str
) -> None:
    write_head(tmp_path, llama)
    file = tmp_path / HEAD_FILE
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        other = {"schema": "learnback.acceptance/2"} if fault == "of another version" else None
        save_file(load_file(file), file, other)
    with pytest.raises(WeightsError, match="can't be read"):
        read_head(tmp_path, llama.network)
