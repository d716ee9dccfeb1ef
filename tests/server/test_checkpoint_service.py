"""Checkpoints are listed and told, and aliases moved, on checkpoints made by hand."""

from __future__ import annotations

import grpc
import pytest

from learnback.v1 import checkpoints_pb2 as pb
from learnback.v1.checkpoints_pb2_grpc import CheckpointServiceStub
from learnback_server.app import StartError
from learnback_server.config import ServerConfig
from learnback_server.engine.options import ModelFacts
from learnback_store.checkpoints import CheckpointStore
from learnback_store.manifest import GateVerdict
from learnback_store.records import Objective
from tests.server.running import RunningServer, caught, info_of, wait_until
from tests.store.samples import manifest, publish, write_files


@pytest.fixture(scope="module")
def operated(tiny_folder, redis_server, tmp_path_factory):
    """A server with a folder of checkpoints of its own."""
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace="operated",
        checkpoint_dir=str(tmp_path_factory.mktemp("checkpoints")),
    )
    running = RunningServer(config)
    yield running
    running.close()


@pytest.fixture(scope="module")
def facts(operated) -> ModelFacts:
    return operated.app.model.facts


@pytest.fixture(scope="module")
def store(operated, facts) -> CheckpointStore:
    """Two published checkpoints, one rejected, one retired, one corrupt, one foreign."""
    store = CheckpointStore(operated.app.handover.checkpoints.root)
    for place, name in enumerate(("first", "second", "retired", "corrupt"), start=1):
        publish(
            store,
            name,
            base_digest=facts.digest,
            base_model=facts.name,
            create_ms=place * 1000,
            feedback_ids=("fb-1", "fb-2"),
            objectives=(Objective.DISTILLATION, Objective.SFT),
            gate=GateVerdict(True, figures={"adoption": 0.9}),
            library_versions={"torch": "2.13.0"},
        )
    publish(store, "foreign", create_ms=5000)
    store.retire("retired")
    (store.root / "published" / "corrupt" / "adapter_model.safetensors").write_bytes(b"?")
    with store.draft() as draft:
        write_files(draft, "rejected")
        verdict = GateVerdict(False, ("anchors moved",), {"anchor_kl": 0.5})
        store.reject(draft, manifest("rejected", create_ms=6000, gate=verdict))
    return store


@pytest.fixture
def stub(operated, store) -> CheckpointServiceStub:
    return CheckpointServiceStub(operated.channel)


@pytest.fixture(autouse=True)
def _base_is_live(store):
    store.promote("base")
    store.promote("base", "canary")


def promote(stub, name: str, alias: str = "", request_id: str = "") -> pb.PromoteCheckpointResponse:
    return stub.PromoteCheckpoint(
        pb.PromoteCheckpointRequest(checkpoint=name, alias=alias, request_id=request_id)
    )


def roll_back(stub, name: str = "", request_id: str = "") -> pb.RollbackCheckpointResponse:
    return stub.RollbackCheckpoint(
        pb.RollbackCheckpointRequest(checkpoint=name, request_id=request_id)
    )


def get(stub, name: str) -> pb.Checkpoint:
    return stub.GetCheckpoint(pb.GetCheckpointRequest(checkpoint=name)).checkpoint


def names(stub, **fields) -> list[str]:
    """The names on every page of a list."""
    found: list[str] = []
    token = ""
    while True:
        page = stub.ListCheckpoints(pb.ListCheckpointsRequest(page_token=token, **fields))
        found += [one.name for one in page.checkpoints]
        token = page.next_page_token
        if not token:
            return found


class TestLooking:
    @pytest.mark.parametrize("page_size", [0, 1, 2, 3, 7, 1000])
    def test_newest_first_page_by_page_and_the_base_last(self, stub, page_size):
        everything = ["rejected", "foreign", "corrupt", "retired", "second", "first", "base"]
        assert names(stub, page_size=page_size) == everything

    @pytest.mark.parametrize(
        ("states", "expected"),
        [
            ([pb.CHECKPOINT_STATE_REJECTED], ["rejected"]),
            ([pb.CHECKPOINT_STATE_RETIRED], ["retired"]),
            (
                [pb.CHECKPOINT_STATE_PUBLISHED],
                ["foreign", "corrupt", "second", "first", "base"],
            ),
            (
                [pb.CHECKPOINT_STATE_RETIRED, pb.CHECKPOINT_STATE_REJECTED],
                ["rejected", "retired"],
            ),
        ],
    )
    def test_by_state(self, stub, states, expected):
        assert names(stub, states=states, page_size=2) == expected

    def test_a_list_tells_how_much_feedback_and_not_which(self, stub):
        page = stub.ListCheckpoints(pb.ListCheckpointsRequest())
        first = next(one for one in page.checkpoints if one.name == "first")
        assert (list(first.feedback_ids), first.feedback_count) == ([], 2)

    def test_a_token_belongs_to_its_filters(self, stub):
        page = stub.ListCheckpoints(pb.ListCheckpointsRequest(page_size=1))
        stolen = pb.ListCheckpointsRequest(
            page_token=page.next_page_token, states=[pb.CHECKPOINT_STATE_PUBLISHED]
        )
        assert info_of(caught(stub.ListCheckpoints, stolen)).reason == "INVALID_FIELD"

    def test_one_is_told_whole(self, stub, store, facts):
        told = get(stub, "first")
        assert told.digest == store.get("first").digest
        assert (told.kind, told.state) == (
            pb.CHECKPOINT_KIND_ADAPTER,
            pb.CHECKPOINT_STATE_PUBLISHED,
        )
        assert (told.parent, told.base_digest) == ("base", facts.digest)
        assert list(told.feedback_ids) == ["fb-1", "fb-2"]
        assert told.gate.figures["adoption"] == 0.9
        assert told.size_bytes > 0
        assert told.create_time.ToMilliseconds() == 1000
        assert told.library_versions["torch"] == "2.13.0"

    def test_a_rejected_one_says_why(self, stub):
        assert list(get(stub, "rejected").gate.reasons) == ["anchors moved"]

    @pytest.mark.parametrize("name", ["base", "live", "canary"])
    def test_the_base_model_is_told_by_name_and_alias(self, stub, facts, name):
        told = get(stub, name)
        assert (told.name, told.kind) == ("base", pb.CHECKPOINT_KIND_BASE)
        assert told.digest == told.base_digest == facts.digest
        assert set(told.aliases) >= {"live", "canary"}


class TestMoving:
    def test_promoting_makes_live_and_previous(self, stub, store):
        moved = promote(stub, "first")
        assert (moved.checkpoint.name, moved.previous) == ("first", "base")
        assert list(moved.checkpoint.aliases) == ["live"]
        assert get(stub, "live").name == "first"
        assert get(stub, "previous").name == "base"
        assert store.aliases().live == "first"

    def test_the_canary_moves_alone(self, stub, store):
        moved = promote(stub, "first", "canary")
        assert (moved.checkpoint.name, moved.previous) == ("first", "base")
        assert store.aliases().live == "base"

    def test_rolling_back_goes_to_the_one_before_and_again_forward(self, stub):
        promote(stub, "first")
        promote(stub, "second")
        back = roll_back(stub)
        assert (back.checkpoint.name, back.rolled_back) == ("first", "second")
        assert get(stub, "previous").name == "second"
        assert roll_back(stub).checkpoint.name == "second"

    def test_rolling_back_to_a_name(self, stub):
        promote(stub, "first")
        promote(stub, "second")
        back = roll_back(stub, "base")
        assert (back.checkpoint.name, back.rolled_back) == ("base", "second")

    def test_a_repeat_gets_the_first_answer_and_moves_nothing(self, stub, store):
        first = promote(stub, "first", request_id="go")
        promote(stub, "second")
        again = promote(stub, "first", request_id="go")
        assert (again.checkpoint.name, again.previous) == (first.checkpoint.name, first.previous)
        assert store.aliases().live == "second"
        back = roll_back(stub, request_id="back")
        assert back.rolled_back == roll_back(stub, request_id="back").rolled_back == "second"
        assert store.aliases().live == "first"

    def test_an_id_used_for_something_else_is_refused(self, stub):
        promote(stub, "first", request_id="used")
        error = caught(promote, stub, "second", "", "used")
        assert (error.code(), info_of(error).reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )

    @pytest.mark.parametrize("call", [promote, roll_back])
    @pytest.mark.parametrize("name", ["rejected", "retired", "corrupt", "foreign"])
    def test_what_could_not_serve_is_refused(self, stub, store, call, name):
        serial = store.aliases().serial
        error = caught(call, stub, name)
        assert (error.code(), info_of(error).reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CHECKPOINT_UNUSABLE",
        )
        assert name in error.details()
        assert store.aliases().serial == serial


class TestWatching:
    def test_tells_the_aliases_and_every_move(self, operated, stub):
        watch = stub.WatchCheckpoints(pb.WatchCheckpointsRequest())
        assert next(watch).aliases["live"] == "base"
        promote(stub, "first")
        assert dict(next(watch).aliases) == {
            "live": "first",
            "previous": "base",
            "canary": "base",
        }
        roll_back(stub)
        assert next(watch).aliases["live"] == "base"
        watch.cancel()
        wait_until(lambda: operated.app.handover.watchers.inside == 0)

    def test_tells_moves_that_others_made(self, stub, store):
        watch = stub.WatchCheckpoints(pb.WatchCheckpointsRequest())
        next(watch)
        store.promote("second")  # unannounced, as by another program on the folder
        assert next(watch).aliases["live"] == "second"
        watch.cancel()


def test_rolling_back_with_nothing_before_is_refused(tiny_folder, redis_server, tmp_path):
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace="fresh",
        checkpoint_dir=str(tmp_path / "new" / "folder"),
    )
    running = RunningServer(config)
    try:
        stub = CheckpointServiceStub(running.channel)
        error = caught(roll_back, stub)
        assert info_of(error).reason == "CHECKPOINT_UNUSABLE"
        assert names(stub) == ["base"]
    finally:
        running.close()


# It is raised on the server's own thread, and again here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_folder_that_can_not_be_made_stops_the_start(tiny_folder, redis_server, tmp_path):
    (tmp_path / "file").write_text("")
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        redis_url=redis_server.url,
        checkpoint_dir=str(tmp_path / "file" / "checkpoints"),
    )
    with pytest.raises(StartError, match="can't be used"):
        RunningServer(config)
