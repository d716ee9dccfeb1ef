"""The calls of LearningService."""

from __future__ import annotations

from learnback.v1 import learning_pb2
from learnback_client.call import Call, watch_timeout
from learnback_client.learning import LearningStatus, read_status
from learnback_client.options import CallOptions, refuse_unknown

_SERVICE = "/learnback.v1.LearningService/"


def get_learning_status(
    options: CallOptions,
) -> Call[learning_pb2.GetLearningStatusResponse, LearningStatus]:
    """GetLearningStatus."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        _SERVICE + "GetLearningStatus",
        learning_pb2.GetLearningStatusRequest(),
        learning_pb2.GetLearningStatusResponse,
        lambda response: read_status(response.status),
        options.get("timeout"),
    )


def watch_learning_status(
    options: CallOptions,
) -> Call[learning_pb2.WatchLearningStatusResponse, LearningStatus]:
    """WatchLearningStatus."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        _SERVICE + "WatchLearningStatus",
        learning_pb2.WatchLearningStatusRequest(),
        learning_pb2.WatchLearningStatusResponse,
        lambda response: read_status(response.status),
        watch_timeout(options),
    )
