"""The tiny models as the engine serves them, and as transformers runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnback_server.engine.loading import LoadedModel, load_model
from tests.engine import architectures
from tests.engine.harness import PlainModel

SERVED = ["tiny_llama", "tiny_qwen3", "tiny_mistral", "tiny_gpt2", "tiny_gemma3", "tiny_mixtral"]


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write_model(tmp_path_factory.mktemp("gpt2"), architectures.gpt2())


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write_model(tmp_path_factory.mktemp("gemma3"), architectures.gemma3())


@pytest.fixture(scope="session")
def tiny_mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write_model(tmp_path_factory.mktemp("mixtral"), architectures.mixtral())


@pytest.fixture(scope="session", params=SERVED)
def any_folder(request: pytest.FixtureRequest) -> Path:
    """Each architecture that is served, one after the other."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="session")
def any_model(any_folder: Path) -> LoadedModel:
    return load_model(str(any_folder))


@pytest.fixture(scope="session")
def any_plain(any_folder: Path) -> PlainModel:
    return PlainModel(any_folder)


@pytest.fixture(scope="session")
def llama(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(scope="session")
def plain_llama(tiny_llama: Path) -> PlainModel:
    return PlainModel(tiny_llama)
