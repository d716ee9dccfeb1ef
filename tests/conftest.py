"""What tests of every service share: tiny models with random weights, written once a session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from learnback_server.engine.reproducible import make_reproducible

make_reproducible()  # read when torch starts
# Workers share the cores; with threads of their own they would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks the network for a model, and none draws a progress bar.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# A shell starts what it puts into the background with Ctrl-C ignored, and all that tests start
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# One example can be a whole run of the engine, and a machine that runs tests can be busy.
settings.register_profile(
    "learnback", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("learnback")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds where tests compute. On the CPU, unless asked otherwise: there every bit is promised."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu")


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs from tests that are to compute on the CPU, before torch looks for any."""
    if config.getoption("--device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _tiny(factory: pytest.TempPathFactory, architecture: str) -> Path:
    # Imported here, so that tests of the client can run where there is no torch.
    from transformers.utils import logging

    from tests.tiny import write_tiny_model

    logging.disable_progress_bar()
    return write_tiny_model(factory.mktemp("models") / architecture, architecture)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama: grouped queries, rotary positions."""
    return _tiny(tmp_path_factory, "llama")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen3: as Llama, with norms on queries and keys."""
    return _tiny(tmp_path_factory, "qwen3")


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Mistral whose queries see a sliding window of 24 tokens."""
    return _tiny(tmp_path_factory, "mistral")


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of a bucket of an S3 server on this machine, which the environment names."""
    from tests.s3 import S3Server

    with S3Server() as server:
        yield server.make_bucket("checkpoints")
