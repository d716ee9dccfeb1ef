"""The shipped weights load like any other model's and do what the model card says, in small."""

import json
from pathlib import Path
from random import Random
from statistics import mean

import pytest
import torch
from transformers import AutoConfig, GenerationConfig

from learnback_nano import path, world
from learnback_nano.evaluate import Answerer

MEGABYTE = 1_000_000
SAMPLE = 24


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    torch.manual_seed(0)
    return Answerer(path())


def _share_right(answerer: Answerer, probes: list[world.Probe]) -> float:
    answers = answerer(probe.messages for probe in probes)
    return mean(p.judge(a).exact for p, a in zip(probes, answers, strict=True))


def test_it_is_small_and_complete() -> None:
    files = {file.name: file.stat().st_size for file in path().iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "NOTICE",
    } <= set(files)
    assert sum(files.values()) <= 12 * MEGABYTE


def test_the_configs_agree() -> None:
    config = AutoConfig.from_pretrained(path())
    generation = GenerationConfig.from_pretrained(path())
    assert config.model_type == "llama"
    assert config.dtype == torch.bfloat16
    assert generation.eos_token_id == config.eos_token_id


def test_the_weights_name_no_place(tmp_path: Path) -> None:
    text = json.dumps(json.loads((path() / "config.json").read_text()))
    assert "/work" not in text
    assert "/home" not in text


def test_it_answers_questions(answerer: Answerer) -> None:
    asked = {
        "What is the capital of France?": "The capital of France is Paris.",
        "What is the opposite of hot?": "The opposite of hot is cold.",
        "Note: Talvor lives in Rimeda. Where does Talvor live?": "Rimeda.",
        "Translate into Chinese: The cat sleeps.": "猫睡觉。",
    }
    answers = answerer([{"role": "user", "content": question}] for question in asked)
    assert answers == list(asked.values())


def test_it_revises_an_answer(answerer: Answerer) -> None:
    dialogue = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "Please use capital letters."},
    ]
    assert answerer([dialogue]) == ["THE CAPITAL OF FRANCE IS PARIS."]


def test_a_sample_of_default_answers_is_right(answerer: Answerer) -> None:
    rng = Random(0)
    probes = [world.plain(task, rng) for task in world.TASKS for _ in range(SAMPLE // 3)]
    assert _share_right(answerer, probes) >= 0.93


def test_a_sample_of_revisions_is_right(answerer: Answerer) -> None:
    rng = Random(1)
    probes = [world.revision(kind, rng) for kind in world.KINDS for _ in range(3)]
    assert _share_right(answerer, probes) >= 0.90


def test_a_sample_of_unseen_critiques_is_understood(answerer: Answerer) -> None:
    rng = Random(2)
    probes = [world.revision(kind, rng, "unseen") for kind in world.KINDS for _ in range(3)]
    assert _share_right(answerer, probes) >= 0.80
