"""Bad requests, broken weights and stops: each ends those it concerns, and nobody else."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.messages import (
    EngineStoppedError,
    Event,
    Finished,
    FinishReason,
    QueueFullError,
)
from learnback_server.engine.options import EngineOptions
from learnback_server.engine.traced import StepTraces
from tests.engine.harness import PlainModel, Plan, Running, play, request

PROMPT = list(b"The quick brown fox")
TOKENS = 20
BROKEN_TOKEN = 259
"""Its embedding is no number, in the model `broken`."""


@pytest.fixture(scope="module")
def expected(plain_llama: PlainModel) -> list[int]:
    return plain_llama.greedy(PROMPT, TOKENS, eos=False)


def bystander(name: str = "bystander") -> Plan:
    return Plan(request(PROMPT, TOKENS, name=name, ignore_eos=True))


@pytest.fixture(scope="module")
def broken(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The tiny Llama with one embedding that is no number, so that one token breaks a request."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("broken") / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][BROKEN_TOKEN] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(str(folder))


@pytest.mark.parametrize("token", [-1, 260, 10**6])
def test_ids_outside_the_vocabulary_end_their_request_alone(
    llama: LoadedModel, expected: list[int], token: int
) -> None:
    bad = [Plan(request([5, token, 7], TOKENS), arrives) for arrives in (0, 3)]
    fine, *failed = play(llama, [bystander(), *bad])
    assert fine.ids() == expected
    for answer in failed:
        assert answer.reason is FinishReason.ERROR
        assert answer.ids() == []
        assert "index out of range" in answer.finished.error


def test_a_failing_prompt_ends_in_whichever_chunk_it_fails(
    llama: LoadedModel, expected: list[int]
) -> None:
    bad = Plan(request([5] * 70 + [10**6], TOKENS))
    fine, failed = play(llama, [bystander(), bad], step_tokens=16)
    assert fine.ids() == expected
    assert failed.reason is FinishReason.ERROR


def test_all_candidates_end_with_the_one_that_fails(llama: LoadedModel) -> None:
    (failed,) = play(llama, [Plan(request([10**6], TOKENS, n=3))])
    assert [end.reason for end in failed.finished.candidates] == [FinishReason.ERROR] * 3


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}])
def test_logits_that_are_no_numbers_end_their_request_alone(
    broken: LoadedModel, expected: list[int], sampling: dict[str, Any]
) -> None:
    bad = Plan(request([BROKEN_TOKEN, *PROMPT], TOKENS, **sampling))
    fine, failed = play(broken, [bystander(), bad])
    assert fine.ids() == expected
    assert failed.reason is FinishReason.ERROR
    assert "not finite" in failed.finished.error


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_pages_of_a_broken_request_do_no_harm_to_the_next(
    broken: LoadedModel, expected: list[int], prefix_cache: bool
) -> None:
    with Running(broken, cache_tokens=256, prefix_cache=prefix_cache) as running:
        bad = [request([BROKEN_TOKEN] * 60, TOKENS) for _ in range(4)]
        for answer in running.ask(*bad):
            assert answer.reason is FinishReason.ERROR
        for answer in running.ask(*[bystander(f"after-{i}").request for i in range(4)]):
            assert answer.ids() == expected


class Fault:
    """Makes the model fail at steps with a certain token, so many times: out of memory, say."""

    def __init__(self, network: torch.nn.Module, token: int, times: int) -> None:
        self.token = token
        self.left = times
        network.get_input_embeddings().register_forward_pre_hook(self._fail)

    def _fail(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if self.left and (inputs[0] == self.token).any():
            self.left -= 1
            raise MemoryError("for the test")


@pytest.fixture
def failing_model(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A model of the test's own, to be hooked into, and never recorded: a record has no hooks."""
    monkeypatch.setattr(StepTraces, "stepper", lambda *_: None)
    return load_model(str(tiny_llama))


def test_a_step_that_fails_once_is_done_again_and_nobody_notices(
    failing_model: LoadedModel, expected: list[int]
) -> None:
    requests = [request(PROMPT, TOKENS, ignore_eos=True) for _ in range(3)]
    running = Running(failing_model)
    fault = Fault(failing_model.network, PROMPT[3], times=1)
    with running:
        answers = running.ask(*requests)
    assert fault.left == 0
    assert [answer.ids() for answer in answers] == [expected] * 3


def test_a_candidate_that_fails_takes_along_the_others_of_its_step(
    failing_model: LoadedModel, expected: list[int]
) -> None:
    # Both candidates run in one step, which fails, as then does the first of them alone. The second
    # could be computed, and would fill a page; but its generation is over.
    running = Running(failing_model, page_tokens=len(PROMPT), prefix_cache=False)
    fault = Fault(failing_model.network, PROMPT[3], times=0)
    triple = request(PROMPT, TOKENS, n=3)

    def arm() -> None:
        # Candidates 1 and 2 compute the prompt together, once candidate 0 has its first token.
        answer = running.answers[triple.generation_id]
        if len(answer.ids()) == 1 and not answer.over:
            fault.left = 2

    running.on_publish = arm
    fine = bystander().request
    for one in (triple, fine):
        running.engine.submit(one)
    with running:
        assert running.answer(triple).finished.error.startswith("MemoryError")
        assert running.answer(fine).ids() == expected
    assert fault.left == 0


def test_broken_weights_end_every_request_and_not_the_engine(llama: LoadedModel) -> None:
    network = llama.network
    weight = network.get_output_embeddings().weight
    kept = weight.detach().clone()
    with Running(llama, prefix_cache=False) as running:
        with torch.no_grad():
            weight.fill_(torch.nan)
        broken = running.ask(*[request(PROMPT, TOKENS, n=n) for n in (1, 3)])
        with torch.no_grad():
            weight.copy_(kept)
        (mended,) = running.ask(request(PROMPT, TOKENS))
    for answer in broken:
        assert {end.reason for end in answer.finished.candidates} == {FinishReason.ERROR}
    assert mended.reason is not FinishReason.ERROR


def test_stop_ends_everybody_and_gives_out_what_there_was(llama: LoadedModel) -> None:
    requests = [request(PROMPT, 400, ignore_eos=True, seed=seed) for seed in range(5)]
    with Running(llama, max_running=2) as running:
        for one in requests:
            running.engine.submit(one)
        running.wait_until(lambda: len(running.answers[requests[0].generation_id].ids()) > 3)
    answers = [running.answers[one.generation_id] for one in requests]
    assert {answer.reason for answer in answers} == {FinishReason.ABORTED}
    assert len(answers[0].ids()) > 3
    assert not answers[4].started


def test_nothing_is_submitted_after_a_stop(llama: LoadedModel) -> None:
    with Running(llama) as running:
        pass
    with pytest.raises(EngineStoppedError):
        running.engine.submit(request(PROMPT))
    assert running.engine.stats().waiting == 0


def test_stopping_twice_and_cancelling_afterwards_is_harmless(llama: LoadedModel) -> None:
    with Running(llama) as running:
        running.ask(request(PROMPT))
    running.engine.stop()
    running.engine.cancel("whoever")


def test_an_engine_that_never_ran_can_be_stopped(llama: LoadedModel) -> None:
    events: list[Event] = []
    engine = Engine(llama, EngineOptions(), events.extend)
    engine.submit(request(PROMPT, name="early"))
    engine.stop()
    (finished,) = events
    assert isinstance(finished, Finished)
    assert finished.candidates[0].reason is FinishReason.ABORTED


def test_the_queue_has_a_bound(llama: LoadedModel) -> None:
    running = Running(llama, max_waiting=3)
    requests = [request(PROMPT) for _ in range(3)]
    for one in requests:
        running.engine.submit(one)
    for _ in range(2):
        with pytest.raises(QueueFullError):
            running.engine.submit(request(PROMPT))
    assert running.engine.stats().waiting == 3
    with running:
        for one in requests:
            running.answer(one)
        running.ask(request(PROMPT))


def test_those_who_run_do_not_count_as_waiting(llama: LoadedModel) -> None:
    with Running(llama, max_waiting=1) as running:
        first = request(PROMPT, 400, ignore_eos=True)
        running.engine.submit(first)
        running.wait_until(lambda: running.answers[first.generation_id].started)
        (second,) = running.ask(request(PROMPT, 2))
        running.engine.cancel(first.generation_id)
        running.answer(first)
    assert second.started


def test_cancelling_the_unknown_the_finished_and_the_same_twice_is_harmless(
    llama: LoadedModel, expected: list[int]
) -> None:
    with Running(llama) as running:
        done = request(PROMPT, 2)
        running.ask(done)
        long = request(PROMPT, 400, ignore_eos=True)
        running.engine.submit(long)
        for name in ("unknown", done.generation_id, long.generation_id, long.generation_id):
            running.engine.cancel(name)
        assert running.answer(long).reason is FinishReason.CANCELLED
        (after,) = running.ask(request(PROMPT, TOKENS, ignore_eos=True))
    assert after.ids() == expected


def test_many_threads_may_submit_and_cancel(llama: LoadedModel, expected: list[int]) -> None:
    requests = [request(PROMPT, TOKENS, ignore_eos=True) for _ in range(40)]
    with Running(llama) as running:

        def client(own: list[int]) -> None:
            for i in own:
                running.engine.submit(requests[i])
                if i % 4 == 0:
                    running.engine.cancel(requests[i].generation_id)

        threads = [threading.Thread(target=client, args=(list(range(i, 40, 4)),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answers = [running.answer(one) for one in requests]
    for i, answer in enumerate(answers):
        if i % 4:
            assert answer.ids() == expected
        else:
            assert answer.ids() == expected[: len(answer.ids())]
