"""The calls of CheckpointService."""

from __future__ import annotations

from learnback.v1 import checkpoints_pb2
from learnback_client import checks
from learnback_client.call import Call, Page, request_id, watch_timeout
from learnback_client.checkpoints import Checkpoint, CheckpointState, Move, read_checkpoint
from learnback_client.options import (
    CallOptions,
    CheckpointFilter,
    MoveOptions,
    PromoteOptions,
    refuse_unknown,
)

_SERVICE = "/learnback.v1.CheckpointService/"


def list_checkpoints(
    options: CheckpointFilter,
) -> Call[checkpoints_pb2.ListCheckpointsResponse, Page[Checkpoint]]:
    """ListCheckpoints, one page."""
    refuse_unknown(options, CheckpointFilter.__optional_keys__)
    states = checks.members("states", options.get("states"), CheckpointState)
    request = checkpoints_pb2.ListCheckpointsRequest(
        page_size=checks.integer("page_size", options.get("page_size") or 0),
        states=[
            checkpoints_pb2.CheckpointState.Value(f"CHECKPOINT_STATE_{each.name}")
            for each in states
        ],
    )
    return Call(
        _SERVICE + "ListCheckpoints",
        request,
        checkpoints_pb2.ListCheckpointsResponse,
        lambda response: Page(
            tuple(read_checkpoint(each) for each in response.checkpoints),
            response.next_page_token,
        ),
        options.get("timeout"),
    )


def get_checkpoint(
    checkpoint: str, options: CallOptions
) -> Call[checkpoints_pb2.GetCheckpointResponse, Checkpoint]:
    """GetCheckpoint."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        _SERVICE + "GetCheckpoint",
        checkpoints_pb2.GetCheckpointRequest(checkpoint=checks.required("checkpoint", checkpoint)),
        checkpoints_pb2.GetCheckpointResponse,
        lambda response: read_checkpoint(response.checkpoint),
        options.get("timeout"),
    )


def watch_checkpoints(
    options: CallOptions,
) -> Call[checkpoints_pb2.WatchCheckpointsResponse, dict[str, str]]:
    """WatchCheckpoints."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        _SERVICE + "WatchCheckpoints",
        checkpoints_pb2.WatchCheckpointsRequest(),
        checkpoints_pb2.WatchCheckpointsResponse,
        lambda response: dict(response.aliases),
        watch_timeout(options),
    )


def promote_checkpoint(
    checkpoint: str, options: PromoteOptions
) -> Call[checkpoints_pb2.PromoteCheckpointResponse, Move]:
    """PromoteCheckpoint."""
    refuse_unknown(options, PromoteOptions.__optional_keys__)
    call_id = request_id(options.get("request_id"))
    return Call(
        _SERVICE + "PromoteCheckpoint",
        checkpoints_pb2.PromoteCheckpointRequest(
            checkpoint=checks.required("checkpoint", checkpoint),
            alias=checks.optional_text("alias", options.get("alias")),
            request_id=call_id,
        ),
        checkpoints_pb2.PromoteCheckpointResponse,
        lambda response: Move(read_checkpoint(response.checkpoint), response.previous),
        options.get("timeout"),
        request_id=call_id,
    )


def rollback_checkpoint(
    checkpoint: str | None, options: MoveOptions
) -> Call[checkpoints_pb2.RollbackCheckpointResponse, Move]:
    """RollbackCheckpoint."""
    refuse_unknown(options, MoveOptions.__optional_keys__)
    call_id = request_id(options.get("request_id"))
    return Call(
        _SERVICE + "RollbackCheckpoint",
        checkpoints_pb2.RollbackCheckpointRequest(
            checkpoint=checks.optional_text("checkpoint", checkpoint), request_id=call_id
        ),
        checkpoints_pb2.RollbackCheckpointResponse,
        lambda response: Move(read_checkpoint(response.checkpoint), response.rolled_back),
        options.get("timeout"),
        request_id=call_id,
    )
