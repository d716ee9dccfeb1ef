"""Which checkpoint computed each token, read off the weights that compute it.

It hooks in below all that keeps account of checkpoints: whenever a network is about to compute some
rows, one layer's weights are looked up among what they are in each checkpoint. So it tells what
was computed by, whatever anybody believes it was.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from learnback_server.engine.bank import _BankedLinear
from learnback_server.engine.batch import StepRow
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.traced import TracedStepper, _weights

LAYER = "model.layers.0.self_attn.q_proj"


class WeightsTrace:
    """What computed the rows of each generation, and how many of its tokens."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Traces every server of this process, whose base model lies in `base`."""
        self._base = load_file(base / "model.safetensors")[f"{LAYER}.weight"]
        self._known = {"base": self._base}
        self.by: defaultdict[str, set[str]] = defaultdict(set)
        self.tokens: defaultdict[str, int] = defaultdict(int)
        run = ModelRunner.run

        def traced(
            runner: ModelRunner, rows: list[StepRow], ready: Callable[[], None]
        ) -> torch.Tensor:
            self._note(runner, rows)
            return run(runner, rows, ready)

        monkeypatch.setattr(ModelRunner, "run", traced)

    def know(self, name: str, adapter: Path) -> None:
        """Learns what the layer is in an adapter's checkpoint."""
        tensors = load_file(adapter / "adapter_model.safetensors")
        config = json.loads((adapter / "adapter_config.json").read_text())
        down, up = (tensors[f"base_model.model.{LAYER}.lora_{side}.weight"] for side in ("A", "B"))
        self._known[name] = self._base + config["lora_alpha"] / config["r"] * up @ down

    def _note(self, runner: ModelRunner, rows: list[StepRow]) -> None:
        start = 0
        for row in rows:
            generation_id = row.sequence.generation.request.generation_id
            self.by[generation_id].add(self._name(_layer(runner, start)))
            self.tokens[generation_id] += row.completes
            start += row.count

    def _name(self, weight: torch.Tensor) -> str:
        name, nearest = min(
            self._known.items(), key=lambda known: float((known[1] - weight).abs().max())
        )
        assert_close(weight, nearest, rtol=1e-4, atol=1e-5)
        return name


def _layer(runner: ModelRunner, token: int) -> torch.Tensor:
    """The weight of the layer, with all that is added to it, by which a token is computed."""
    weights = _weights(runner._model)
    if isinstance(runner._stepper, TracedStepper):  # it must hold the same
        held = dict(zip(weights, runner._stepper._weights, strict=True))
        assert all(held[name].data_ptr() == one.data_ptr() for name, one in weights.items())
    if f"{LAYER}.weight" in weights:
        return weights[f"{LAYER}.weight"]
    weight = weights[f"{LAYER}.layer.weight"]
    if f"{LAYER}.down" in weights:
        return weight + weights[f"{LAYER}.up"] @ weights[f"{LAYER}.down"]
    layer = runner._model.get_submodule(LAYER)
    assert isinstance(layer, _BankedLinear)
    for span in layer._route.spans:
        if span.start <= token < span.end:
            factors = span.adapter.factors[LAYER]
            weight = weight + factors.up @ factors.down
    return weight
