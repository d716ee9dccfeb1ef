"""The recipe: losses fall where they should, and a stopped training goes on where it was."""

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer

from learnback_nano import path, train
from learnback_nano.dialogues import sample_dialogue

TINY = train.Recipe(steps=16, dialogues_a_batch=4, hidden=16, layers=1, heads=2, intermediate=16)


@pytest.fixture(autouse=True)
def shipped_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning and pruning the tokenizer takes seconds, so the tests take the shipped one."""
    tok = AutoTokenizer.from_pretrained(path())
    monkeypatch.setattr(train.tokenizer, "build", lambda _seed: tok)
    monkeypatch.setattr(train.tokenizer, "pruned", lambda given, _seed: given)


def _run(work: Path, artefact: Path, recipe: train.Recipe = TINY) -> dict[str, torch.Tensor]:
    train.train(recipe, work, artefact, checkpoint_every=1)
    return dict(torch.load(work / "checkpoint.pt", weights_only=True)["model"])


def test_a_resumed_training_ends_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(tmp_path / "whole", tmp_path / "artefact")

    class StoppedError(Exception):
        pass

    save = train.Checkpoint.save

    def save_and_stop(self: train.Checkpoint, *args: object) -> None:
        save(self, *args)  # type: ignore[arg-type]
        raise StoppedError

    monkeypatch.setattr(train.Checkpoint, "save", save_and_stop)
    with pytest.raises(StoppedError):
        _run(tmp_path / "broken", tmp_path / "artefact")
    monkeypatch.setattr(train.Checkpoint, "save", save)
    resumed = _run(tmp_path / "broken", tmp_path / "artefact")
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights)
    assert (tmp_path / "broken" / "loss.png").exists()
    assert (tmp_path / "artefact" / "model.safetensors").exists()


def test_the_rate_rises_and_falls_to_nothing() -> None:
    recipe = train.Recipe(steps=900)
    rates = [train.rate_at(recipe, step) for step in range(901)]
    assert 0 < rates[0] < 0.05
    assert rates[10:260] == [1.0] * 250
    assert rates[260:570] == sorted(rates[260:570], reverse=True)
    assert rates[360] == pytest.approx(0.5)
    assert rates[570] == 0.0
    assert rates[580:] == sorted(rates[580:], reverse=True)
    assert rates[580] == pytest.approx(0.35)
    assert rates[900] == 0.0


def test_first_answers_in_an_unasked_style_are_not_learned() -> None:
    rng = Random(0)
    dialogues = [sample_dialogue(rng) for _ in range(500)]
    unlearned = [m for d in dialogues for m in d if m.role == "assistant" and m.weight == 0]
    assert unlearned
    assert all(m.weight == 1 for d in dialogues for m in d[-1:])
