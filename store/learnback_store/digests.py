"""SHA-256 of files and models: "sha256:" and 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """Returns the digest of one file."""
    return f"sha256:{_hex_of_file(path)}"


def text_digest(text: str) -> str:
    """Returns the digest of text in UTF-8."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def model_digest(folder: Path) -> str:
    """Returns the digest of what computes a model's answers.

    Over the name and digest of its configuration (`config.json`) and of each `*.safetensors` file,
    in order of names. Two folders with equal digests answer alike; the tokenizer is not part of it.

    Raises:
        FileNotFoundError: The folder has no configuration.
    """
    whole = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        whole.update(f"{path.name} {_hex_of_file(path)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _hex_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
