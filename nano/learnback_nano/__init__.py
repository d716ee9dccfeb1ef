"""The embedded default model: a very small language model that revises its answers when told to.

Only `path()` lives here, so that a program may ask where the weights are without importing torch.
"""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """The folder of the shipped model, as `AutoModelForCausalLM.from_pretrained` wants it."""
    return Path(__file__).parent / "artefact"
