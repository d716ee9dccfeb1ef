"""EraseAuthor at the edge: queued once, told as it stands, and only ever for one author."""

from __future__ import annotations

import logging
from dataclasses import replace

import grpc

from learnback.v1 import feedback_pb2 as pb
from learnback_store.digests import text_digest
from learnback_store.erasures import ErasureState, ErasureTray
from tests.server.feedback_calls import about, answered, stub_of, submit, trainers_side
from tests.server.running import caught, info_of


def _erase(server, author: str, request_id: str) -> pb.Erasure:
    request = pb.EraseAuthorRequest(author=author, request_id=request_id)
    return stub_of(server).EraseAuthor(request).erasure


def test_an_erasure_is_queued_and_a_repeat_tells_how_far_it_has_come(learning):
    first = _erase(learning, "grace", "erase-grace")
    assert first.state == pb.ERASURE_STATE_PURGING
    assert first.author_digest == text_digest("grace")
    assert _erase(learning, "grace", "erase-grace") == first
    with trainers_side(learning) as (client, keys):
        tray = ErasureTray(client, keys)
        [asked] = [one for one in tray.open() if one.author == "grace"]
        done = replace(
            asked.erasure, state=ErasureState.DONE, feedback_purged=2, tainted=("ckpt-1",),
            clean="ckpt-2", done_ms=asked.erasure.create_ms + 1,
        )  # fmt: skip
        tray.tell([replace(asked, erasure=done)])
        assert not [one for one in tray.open() if one.request == asked.request]
        assert client.hget(keys.erasure(asked.request), "author") is None
    told = _erase(learning, "grace", "erase-grace")
    assert told.erasure_id == first.erasure_id
    assert told.state == pb.ERASURE_STATE_DONE
    assert (told.feedback_purged, told.clean_checkpoint) == (2, "ckpt-2")
    assert list(told.tainted_checkpoints) == ["ckpt-1"]
    assert told.done_time.ToMilliseconds() == told.create_time.ToMilliseconds() + 1


def test_a_request_id_is_for_one_author(learning):
    _erase(learning, "one", "erase-one")
    request = pb.EraseAuthorRequest(author="another", request_id="erase-one")
    error = caught(stub_of(learning).EraseAuthor, request)
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert info_of(error).reason == "REQUEST_ID_REUSED"


def test_feedback_knows_whose_words_the_exchange_bears(learning):
    generation_id = answered(learning, author="asker")
    feedback = submit(learning, about(generation_id, author="critic"))
    with trainers_side(learning) as (client, keys):
        record = client.hget(keys.view(feedback.feedback_id), "record")
    assert '"asked_by":"asker"' in record


def test_the_log_tells_neither_who_nor_what(learning, caplog):
    caplog.set_level(logging.DEBUG)
    generation_id = answered(learning, author="hypatia")
    submit(
        learning,
        about(generation_id, author="hypatia", critique=pb.Critique(text="Too Alexandrian.")),
    )
    _erase(learning, "hypatia", "erase-h")
    refused = pb.EraseAuthorRequest(author="hypatia" * 100, request_id="erase-h")
    caught(stub_of(learning).EraseAuthor, refused)
    assert caplog.records
    assert "hypatia" not in caplog.text
    assert "Alexandrian" not in caplog.text
