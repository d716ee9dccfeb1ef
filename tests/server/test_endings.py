"""Which ends of a generation are answers, and which are errors."""

from __future__ import annotations

import pytest

from learnback.v1 import inference_pb2 as pb
from learnback_server import errors
from learnback_server.catalog import ServedCheckpoint
from learnback_server.engine.messages import (
    CandidateEnd,
    Finished,
    FinishReason,
    GenerationRequest,
    SamplingParams,
)
from learnback_server.intake import Asked
from learnback_server.service import refuse_if_failed

ARRIVED, STARTED, ENDED = 100.0, 101.0, 102.0


def asked(call_deadline: float | None = None) -> Asked:
    request = GenerationRequest("gen-1", (1,), SamplingParams(5), "base", arrived=ARRIVED)
    return Asked(pb.GenerationSpec(), request, ServedCheckpoint("base", ""), "", call_deadline)


def ended(*reasons: FinishReason, started: float | None = STARTED) -> Finished:
    ends = tuple(CandidateEnd(index, reason) for index, reason in enumerate(reasons))
    return Finished("gen-1", ends, 1, 1, 0, started, started, ENDED, error="out of luck")


ERROR, ABORTED, DEADLINE = FinishReason.ERROR, FinishReason.ABORTED, FinishReason.DEADLINE


@pytest.mark.parametrize(
    ("call_deadline", "finished"),
    [
        (None, ended(FinishReason.STOP, FinishReason.LENGTH)),
        (None, ended(ABORTED)),
        (None, ended(DEADLINE)),
        (ENDED + 1, ended(DEADLINE)),
        (None, ended(FinishReason.STOP, ERROR)),
    ],
)
def test_what_has_an_answer_is_answered(call_deadline, finished):
    refuse_if_failed(asked(call_deadline), finished)


@pytest.mark.parametrize(
    ("call_deadline", "finished", "kind"),
    [
        (None, ended(ERROR), errors.InternalError),
        (None, ended(ERROR, ERROR), errors.InternalError),
        (None, ended(ABORTED, started=None), errors.DrainingError),
        (None, ended(FinishReason.QUEUE_TIMEOUT, started=None), errors.QueueTimeoutError),
        (ENDED, ended(DEADLINE), errors.DeadlineError),
        (ENDED, ended(DEADLINE, started=None), errors.DeadlineError),
    ],
)
def test_what_has_none_is_an_error(call_deadline, finished, kind):
    with pytest.raises(kind):
        refuse_if_failed(asked(call_deadline), finished)


def test_a_fault_of_the_engine_is_logged_under_the_reference_that_is_told(caplog):
    with pytest.raises(errors.InternalError, match="gen-1"):
        refuse_if_failed(asked(), ended(ERROR))
    assert "gen-1 failed: out of luck" in caplog.text
