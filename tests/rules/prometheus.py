"""Debian's Prometheus and promtool, for tests; not in a wheel, so they may be missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).resolve().parents[2] / "rules"


def program(name: str) -> str:
    """The path of prometheus or promtool; the test is skipped, with its reason, where it is not."""
    found = shutil.which(name)
    if found:
        return found
    pytest.skip(f"{name} is missing; Debian and Ubuntu have it: apt-get install prometheus")


def promtool(*arguments: str | Path) -> None:
    """Runs promtool; the test fails with what it says."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
