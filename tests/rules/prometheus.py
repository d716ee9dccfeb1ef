"""Debian's Prometheus and promtool, for tests; not in a wheel, so they may be missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).resolve().parents[2] / "rules"


def program(name: str) -> str:
    """The path of prometheus or promtool. In CI it must be there."""
    found = shutil.which(name)
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing; .ci/run installs it")
    pytest.skip(f"{name} is missing; Debian and Ubuntu have it: apt-get install prometheus")


def promtool(*arguments: str | Path) -> None:
    """Runs promtool; the test fails with what it says."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
