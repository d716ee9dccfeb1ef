"""Skips tests that need a GPU where torch sees none; `make test-cuda` lets it see what is there."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of this folder where torch sees no GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if "tests/cuda" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="torch sees no GPU here"))
