"""Importing the package costs no torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["learnback_nano", "learnback_nano.world"])
def test_no_torch_is_imported(module: str) -> None:
    code = (
        f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
