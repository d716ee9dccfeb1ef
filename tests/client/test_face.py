"""Both clients have one face, and importing them is light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import learnback_client
from learnback.v1 import checkpoints_pb2, feedback_pb2, inference_pb2, learning_pb2
from learnback_client import (
    AsyncClient,
    AsyncReplyStream,
    AsyncStream,
    Client,
    ReplyStream,
    Stream,
    feedback_calls,
    generation_calls,
)

PAIRS = [(Client, AsyncClient), (Stream, AsyncStream), (ReplyStream, AsyncReplyStream)]
METHODS = {
    "close", "correct", "critique", "erase_author", "generate", "get_checkpoint", "get_feedback",
    "get_learning_status", "health", "list_checkpoints", "list_feedback", "prefer",
    "promote_checkpoint", "rate", "rollback_checkpoint", "stream", "submit_feedback", "target",
    "watch_checkpoints",    "watch_feedback", "watch_learning_status",
}  # fmt: skip


def face(kind):
    """Public names with their parameters, `a` of asyncio's magic methods taken away."""
    names = {}
    for name, member in inspect.getmembers(kind):
        if callable(member) and not name.startswith("_"):
            parameters = inspect.signature(member).parameters.values()
            names[name] = [(each.name, each.kind, each.default, each.annotation)
                           for each in parameters]  # fmt: skip
        elif isinstance(member, property):
            names[name] = "property"
    return names


@pytest.mark.parametrize(("blocking", "asynchronous"), PAIRS)
def test_one_face(blocking, asynchronous):
    assert face(blocking) == face(asynchronous)
    assert inspect.signature(blocking) == inspect.signature(asynchronous)


def test_the_client_has_all_methods():
    assert set(face(Client)) == METHODS


def test_every_method_of_the_contract_is_offered():
    services = [
        each
        for module in (inference_pb2, feedback_pb2, checkpoints_pb2, learning_pb2)
        for each in module.DESCRIPTOR.services_by_name.values()
    ]
    rpcs = {method.name for service in services for method in service.methods}
    names = {"".join(part.title() for part in name.split("_")) for name in METHODS}
    assert rpcs - names == {"GenerateStream"}  # offered as `stream`


def test_paths_are_those_of_the_contract():
    assert generation_calls.stream("a", {}).path == "/learnback.v1.InferenceService/GenerateStream"
    call = feedback_calls.get_feedback("a", {})
    assert call.path == "/learnback.v1.FeedbackService/GetFeedback"


def test_all_that_is_exported_is_there():
    assert all(hasattr(learnback_client, name) for name in learnback_client.__all__)


def test_importing_is_light():
    code = "import sys, learnback_client; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = {name.partition(".")[0] for name in output.split()}
    heavy = {"torch", "transformers", "numpy", "learnback_server", "typer", "rich", "pydantic"}
    assert not loaded & heavy
