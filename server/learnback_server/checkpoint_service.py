"""The RPCs of CheckpointService, and nothing but the edge.

Moving an alias is all that promoting and rolling back do; every server that follows the folder of
checkpoints goes by it. Before a checkpoint is pointed at, every byte of it is checked, so that none
is promoted that no server could load: a matter of milliseconds for an adapter, of seconds for full
weights.

The base model has no folder. It is told as the oldest checkpoint, with what this server runs.

Limit: a page of a list reads every manifest in the folder; retention bounds how many there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc

from learnback.v1 import checkpoints_pb2 as pb
from learnback.v1.checkpoints_pb2_grpc import CheckpointServiceServicer
from learnback_server.engine.options import ModelFacts
from learnback_server.feedback_checks import DEFAULT_PAGE_SIZE, check_page, check_states
from learnback_server.lasting import until_closed
from learnback_server.limits import Admission
from learnback_server.store_errors import store_errors_told
from learnback_server.validation import Violations, check_checkpoint_name, check_request_id
from learnback_store.aliases import CANARY, LIVE, Aliases, AliasMove
from learnback_store.announcements import announce_async, watch_aliases
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.codec import canonical_json
from learnback_store.connection import AsyncClient
from learnback_store.errors import PageTokenError, StoreUnavailableError
from learnback_store.keys import Keys
from learnback_store.manifest import BASE
from learnback_store.paging import last_of, page_token
from learnback_store.protos import checkpoint_to_proto

_log = logging.getLogger(__name__)

_STATES = frozenset(pb.CheckpointState.values()) - {pb.CHECKPOINT_STATE_UNSPECIFIED}
_MOVABLE = (LIVE, CANARY)

Context = grpc.aio.ServicerContext[object, object]
# When it was published (ms) and its name: lists go by it, highest first.
_Place = tuple[int, str]


class CheckpointService(CheckpointServiceServicer):
    """Administers checkpoints.

    Args:
        store: The checkpoints.
        redis: Carries the announcements of moves.
        keys: Where they go.
        facts: The base model.
        calls: Gives places to calls that are answered at once.
        watchers: Gives places to calls that last.
    """

    def __init__(
        self,
        store: CheckpointStore,
        redis: AsyncClient,
        keys: Keys,
        facts: ModelFacts,
        calls: Admission,
        watchers: Admission,
    ) -> None:
        self._store = store
        self._redis = redis
        self._keys = keys
        self._facts = facts
        self._calls = calls
        self._watchers = watchers

    async def ListCheckpoints(  # noqa: N802
        self, request: pb.ListCheckpointsRequest, _context: Context
    ) -> pb.ListCheckpointsResponse:
        """Lists checkpoints, newest first."""
        with self._calls.place(), store_errors_told():
            violations = Violations()
            check_page(request.page_size, request.page_token, violations)
            check_states(request.states, _STATES, violations)
            violations.refuse_if_any()
            return await asyncio.to_thread(self._page, request)

    async def GetCheckpoint(  # noqa: N802
        self, request: pb.GetCheckpointRequest, _context: Context
    ) -> pb.GetCheckpointResponse:
        """Tells all about one checkpoint."""
        with self._calls.place(), store_errors_told():
            _refuse_bad_name(request.checkpoint)
            found = await asyncio.to_thread(self._get, request.checkpoint)
        return pb.GetCheckpointResponse(checkpoint=found)

    async def PromoteCheckpoint(  # noqa: N802
        self, request: pb.PromoteCheckpointRequest, _context: Context
    ) -> pb.PromoteCheckpointResponse:
        """Points an alias at a checkpoint."""
        with self._calls.place(), store_errors_told():
            _check_promotion(request)
            move = await asyncio.to_thread(self._promote, request)
            await self._announce()
            checkpoint = await asyncio.to_thread(self._get, move.after)
        return pb.PromoteCheckpointResponse(checkpoint=checkpoint, previous=move.before)

    async def RollbackCheckpoint(  # noqa: N802
        self, request: pb.RollbackCheckpointRequest, _context: Context
    ) -> pb.RollbackCheckpointResponse:
        """Points "live" back."""
        with self._calls.place(), store_errors_told():
            _check_rollback(request)
            move = await asyncio.to_thread(self._roll_back, request)
            await self._announce()
            checkpoint = await asyncio.to_thread(self._get, move.after)
        return pb.RollbackCheckpointResponse(checkpoint=checkpoint, rolled_back=move.before)

    async def WatchCheckpoints(  # noqa: N802
        self, _request: pb.WatchCheckpointsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchCheckpointsResponse]:
        """Streams the aliases now and whenever one moves."""
        with self._watchers.place():
            changes = watch_aliases(self._store, self._redis, self._keys)
            async for aliases in until_closed(changes, self._watchers):
                yield pb.WatchCheckpointsResponse(aliases=aliases.targets)

    # The rest but `_announce` reads or writes the disk, and runs in a thread.

    def _page(self, request: pb.ListCheckpointsRequest) -> pb.ListCheckpointsResponse:
        states = frozenset(request.states)
        scope = canonical_json(["checkpoints", sorted(states)])
        size = request.page_size or DEFAULT_PAGE_SIZE
        after = _place_of(last_of(request.page_token, scope))
        rest = [entry for entry in self._all(states) if after is None or entry[0] < after]
        response = pb.ListCheckpointsResponse(checkpoints=[told for _, told in rest[:size]])
        if len(rest) > size:
            create_ms, name = rest[size - 1][0]
            response.next_page_token = page_token(f"{create_ms} {name}", scope)
        return response

    def _all(self, states: frozenset[int]) -> list[tuple[_Place, pb.Checkpoint]]:
        """Every checkpoint in these states (empty: any) with its place, newest first."""
        aliases = self._store.aliases()
        found = [
            (
                (one.manifest.create_ms, one.name),
                checkpoint_to_proto(one, aliases.of(one.name), with_feedback_ids=False),
            )
            for one in self._store.all(_stored(states))
        ]
        if not states or pb.CHECKPOINT_STATE_PUBLISHED in states:
            found.append(((0, BASE), self._base(aliases)))
        return found

    def _get(self, name_or_alias: str) -> pb.Checkpoint:
        aliases = self._store.aliases()
        name = self._store.resolve(name_or_alias)
        if name == BASE:
            return self._base(aliases)
        return checkpoint_to_proto(self._store.get(name), aliases.of(name))

    def _base(self, aliases: Aliases) -> pb.Checkpoint:
        return pb.Checkpoint(
            name=BASE,
            digest=self._facts.digest,
            kind=pb.CHECKPOINT_KIND_BASE,
            state=pb.CHECKPOINT_STATE_PUBLISHED,
            base_model=self._facts.name,
            base_digest=self._facts.digest,
            aliases=aliases.of(BASE),
        )

    def _promote(self, request: pb.PromoteCheckpointRequest) -> AliasMove:
        self._verify(request.checkpoint, request.request_id)
        return self._store.promote(
            request.checkpoint, request.alias or LIVE, request_id=request.request_id
        )

    def _roll_back(self, request: pb.RollbackCheckpointRequest) -> AliasMove:
        target = request.checkpoint or self._store.aliases().previous
        self._verify(target, request.request_id)
        return self._store.rollback(request.checkpoint, request_id=request.request_id)

    def _verify(self, name: str, request_id: str) -> None:
        """Checks that a checkpoint could serve here, unless the call is a repeat.

        A repeat gets its first answer, whatever has become of the checkpoint since.
        """
        repeated = request_id and any(
            move.request_id == request_id for move in self._store.aliases().moves
        )
        if name and name != BASE and not repeated:
            self._store.verify(name, self._facts.digest)

    async def _announce(self) -> None:
        """Tells the servers; those that miss it look by themselves a second later."""
        serial = (await asyncio.to_thread(self._store.aliases)).serial
        try:
            await announce_async(self._redis, self._keys, serial)
        except StoreUnavailableError as error:
            _log.warning("a move of an alias was not announced: %s", error)


def _stored(states: frozenset[int]) -> list[CheckpointState]:
    """The states by the store's names; all of them if none is asked for."""
    return [
        state
        for state in CheckpointState
        if not states or pb.CheckpointState.Value(f"CHECKPOINT_STATE_{state.name}") in states
    ]


def _place_of(last: str) -> _Place | None:
    """The place that a page token names; None for the first page."""
    create_ms, _, name = last.partition(" ")
    if not last:
        return None
    if not create_ms.isdecimal():
        raise PageTokenError("the page token is malformed; begin again without one")
    return int(create_ms), name


def _refuse_bad_name(name: str) -> None:
    violations = Violations()
    _check_required_name(name, violations)
    violations.refuse_if_any()


def _check_required_name(name: str, violations: Violations) -> None:
    if not name:
        violations.add("checkpoint", "is required")
    check_checkpoint_name(name, "checkpoint", "nowhere", violations)


def _check_promotion(request: pb.PromoteCheckpointRequest) -> None:
    violations = Violations()
    _check_required_name(request.checkpoint, violations)
    if request.alias and request.alias not in _MOVABLE:
        description = f'must be "{LIVE}", "{CANARY}" or empty for "{LIVE}"'
        violations.add("alias", description)
    check_request_id(request.request_id, "request_id", violations)
    violations.refuse_if_any()


def _check_rollback(request: pb.RollbackCheckpointRequest) -> None:
    violations = Violations()
    check_checkpoint_name(request.checkpoint, "checkpoint", 'for "previous"', violations)
    check_request_id(request.request_id, "request_id", violations)
    violations.refuse_if_any()
