"""Asking the model about many rows, a few of which go through it at once."""

from __future__ import annotations

from random import Random

import pytest
import torch

from learnback_nano import world
from learnback_trainer import pupil as pupils
from learnback_trainer.errors import ModelError
from learnback_trainer.pupil import Base, Pupil, load_base
from learnback_trainer.students import Frozen


@pytest.mark.parametrize("most_logits", [1, 200_000, 10**9])
def test_rows_are_the_same_in_any_company(
    base: Base, monkeypatch: pytest.MonkeyPatch, most_logits: int
) -> None:
    rng = Random(2)
    with Pupil(base, None) as pupil:
        items = [world.sample(rng.choice(world.TASKS), rng, "seen") for _ in range(20)]
        pairs = [
            (
                pupil.reader.chat([{"role": "user", "content": one.prompt}]),
                pupil.reader.answer(world.render(one)),
            )
            for one in items
        ]
        alone = [pupil.distributions([pair])[0] for pair in pairs]
        losses = [pupil.losses([pair])[0] for pair in pairs]
        monkeypatch.setattr(pupils, "_MOST_LOGITS", most_logits)
        for found, wanted in zip(pupil.distributions(pairs), alone, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
        assert pupil.losses(pairs) == pytest.approx(losses, abs=1e-4)
        assert pupil.losses([]) == pupil.distributions([]) == []


def test_guesses_change_no_answer(base: Base) -> None:
    rng = Random(4)
    reader = base.reader
    items = [world.sample(rng.choice(world.TASKS), rng, "seen") for _ in range(24)]
    prompts = [reader.chat([{"role": "user", "content": one.prompt}]) for one in items]
    with Pupil(base, None) as pupil:
        answers = dict(zip(prompts, pupil.answer(prompts, 24), strict=True))
        guesses = [
            *(answers, {}),
            # Another's, one that goes on after its end, one that has none, and none at all.
            dict(zip(prompts, [*answers.values()][1:], strict=False)),
            {prompt: answer * 2 for prompt, answer in answers.items()},
            {prompt: answer[:-1] for prompt, answer in answers.items()},
            dict.fromkeys(prompts, ()),
        ]
        for likely in guesses:
            assert pupil.answer(prompts, 24, likely=likely) == [answers[one] for one in prompts]
        short = pupil.answer(prompts, 4)
        assert pupil.answer(prompts, 4, likely=answers) == short
        assert pupil.answer(prompts, 4, likely=dict(zip(prompts, short, strict=True))) == short
        drawn = pupil.answer(prompts, 24, seed=1)
        assert pupil.answer(prompts, 24, seed=1, likely=answers) == drawn != short


def test_what_is_guessed_rightly_is_not_made(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = base.reader.chat([{"role": "user", "content": "What is the capital of France?"}])
    with Pupil(base, None) as pupil:
        [answer] = pupil.answer([prompt], 24)
        monkeypatch.setattr(pupil, "_generate", lambda *_: pytest.fail("it was made"))
        assert pupil.answer([prompt, prompt], 24, likely={prompt: answer}) == [answer, answer]


def test_what_a_frozen_model_expects_is_kept_for_itself_alone(base: Base) -> None:
    prompt = base.reader.chat([{"role": "user", "content": "What is the capital of France?"}])
    with Pupil(base, None) as pupil:
        with pupil.as_live():
            [answer] = pupil.answer([prompt], 24)
            read = pupil.distributions([(prompt, answer)])
            pupil.answer([prompt], 24, likely={prompt: answer})
        for weight in pupil.weights():
            weight.data += 0.1
        [student] = pupil.distributions([(prompt, answer)])
        for which in Frozen:
            with pupil.as_frozen(which), pytest.MonkeyPatch.context() as patched:
                patched.setattr(pupil, "_logits_together", lambda _: pytest.fail("it was read"))
                kept = pupil.distributions([(prompt, answer)] * 2)
            torch.testing.assert_close(kept, read * 2, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(student, read[0], atol=0.1)
        [again] = pupil.distributions([(prompt, answer)])
    torch.testing.assert_close(again, student)


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused(device: str) -> None:
    if torch.cuda.device_count() > 7:
        pytest.skip("there are so many here")
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is one here")
    with pytest.raises(ModelError, match=f"device is {device}, but torch sees"):
        load_base("nano", device=device)
