"""Checkpoints in an object store: one act decides, and a crash or a race leaves nothing between."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnback_store import objects as module
from learnback_store.checkpoints import CheckpointState, CheckpointStore, open_checkpoints
from learnback_store.errors import (
    AliasMovedError,
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointHomeError,
    CheckpointNotFoundError,
    CheckpointUnusableError,
    RecordUnreadableError,
    StoreUnavailableError,
)
from learnback_store.fetched import Fetched
from learnback_store.object_home import ObjectHome
from learnback_store.objects import FsspecObjects, open_objects
from tests.s3 import S3Server
from tests.store.samples import manifest, publish, write_files

_counter = itertools.count()


class Died(BaseException):
    """What a process feels of its end."""


class Interrupted(FsspecObjects):
    """Objects in memory; at one call something happens, before or after it is carried out."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls = 0
        self.at, self.after, self.happens = -1, False, lambda: None

    def interrupt(self, at: int, happens: Callable[[], None], *, after: bool = False) -> None:
        self.calls, self.at, self.happens, self.after = 0, at, happens, after

    def _call(self, *arguments, **options):
        number, self.calls = self.calls, self.calls + 1
        if number == self.at and not self.after:
            self.happens()
        try:
            return super()._call(*arguments, **options)
        finally:
            if number == self.at and self.after:
                self.happens()


def _dies() -> None:
    raise Died


@pytest.fixture
def url() -> str:
    return f"memory://checkpoints/{next(_counter)}"


def _opened(objects: FsspecObjects, folder: Path) -> CheckpointStore:
    return CheckpointStore(ObjectHome(objects.url, objects, Fetched(folder)))


# Crashes


def _publishing(store: CheckpointStore) -> None:
    publish(store, "new")


def _rejecting(store: CheckpointStore) -> None:
    with store.draft() as draft:
        write_files(draft, "x")
        store.reject(draft, manifest("new"))


def _retiring(store: CheckpointStore) -> None:
    store.retire("idle")


def _promoting(store: CheckpointStore) -> None:
    store.promote("idle", request_id="once")


def _withdrawing(store: CheckpointStore) -> None:
    store.withdraw({"live-one", "idle"}, "base")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("act", [_publishing, _rejecting, _retiring, _promoting, _withdrawing])
def test_a_crash_at_any_call_leaves_nothing_between(
    act: Callable[[CheckpointStore], None], after: bool, tmp_path: Path
) -> None:
    for at in itertools.count():
        url = f"memory://crash/{next(_counter)}"
        objects = Interrupted(url)
        store = _opened(objects, tmp_path / "cache")
        for name in ("idle", "live-one"):
            publish(store, name)
        store.promote("live-one")
        objects.interrupt(at, _dies, after=after)
        with suppress(Died):
            act(store)
        if objects.calls <= at:
            break
        _check_whole(url, tmp_path)
        again = open_checkpoints(url, tmp_path / "again")
        again.sweep()
        _check_whole(url, tmp_path)
        _check_swept(url, again)
        with suppress(CheckpointExistsError):
            act(again)
        assert _facts(again) == _facts_of_a_whole_run(act, tmp_path)
    assert at >= 5


def _facts(store: CheckpointStore) -> object:
    states = sorted((one.name, one.state) for one in store.all())
    return states, dict(store.aliases().targets)


def _facts_of_a_whole_run(act: Callable[[CheckpointStore], None], folder: Path) -> object:
    store = open_checkpoints(f"memory://whole/{next(_counter)}", folder / "whole")
    for name in ("idle", "live-one"):
        publish(store, name)
    store.promote("live-one")
    act(store)
    return _facts(store)


def _check_whole(url: str, folder: Path) -> None:
    """What any reader may rely on at any moment."""
    store = open_checkpoints(url, folder / f"reader-{next(_counter)}")
    published = {one.name for one in store.all([CheckpointState.PUBLISHED])}
    for name in published:
        store.verify(name)
    assert set(store.aliases().targets.values()) <= published | {"base"}


def _check_swept(url: str, store: CheckpointStore) -> None:
    """Nothing is left but what belongs to a checkpoint in its state."""
    found = FsspecObjects(url).keys("")
    files = {tuple(key.split("/")[1:3]) for key in found if key.startswith("files/")}
    assert files == {
        (one.name, one.digest.partition(":")[2])
        for one in store.all([CheckpointState.PUBLISHED, CheckpointState.REJECTED])
    }
    assert not [key for key in found if key.startswith(("retiring/", "trial/"))]


# Races


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 8), moves=st.sampled_from([0, 1, 2, 63, 64, 65, 66, 130]))
def test_no_move_is_lost_however_late_another_one_is(tmp_path: Path, at: int, moves: int) -> None:
    """Between two requests of one move, any number of other moves are made."""
    url = f"memory://race/{next(_counter)}"
    objects = Interrupted(url)
    slow, fast = _opened(objects, tmp_path / "a"), _opened(FsspecObjects(url), tmp_path / "b")
    for name in ("one", "two", "three"):
        publish(fast, name)

    def meanwhile() -> None:
        for number in range(moves):
            fast.promote(("one", "two")[number % 2], request_id=f"fast-{number}")

    objects.interrupt(at, meanwhile)
    slow.promote("three", request_id="slow")
    interrupted = objects.calls > at
    made = fast.aliases()
    assert made.serial == 1 + (moves if interrupted else 0)
    assert [one.request_id for one in made.moves].count("slow") == 1
    for earlier, later in itertools.pairwise(made.moves):
        assert later.before == earlier.after
    assert len(objects.keys("aliases")) <= 66


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("slow_is", ["retiring", "promoting"])
def test_no_alias_ever_points_at_what_is_retired(slow_is: str, at: int, url: str, tmp_path: Path):
    objects = Interrupted(url)
    slow, fast = _opened(objects, tmp_path / "a"), _opened(FsspecObjects(url), tmp_path / "b")
    publish(fast, "one")
    acts = {
        "retiring": lambda store: store.retire("one"),
        "promoting": lambda store: store.promote("one"),
    }
    first = acts.pop(slow_is)
    [second] = acts.values()

    def meanwhile() -> None:
        with suppress(CheckpointUnusableError):
            second(fast)

    objects.interrupt(at, meanwhile)
    with suppress(CheckpointUnusableError):
        first(slow)
    state, pointing = fast.get("one").state, fast.aliases().of("one")
    assert (state is CheckpointState.RETIRED) == (not pointing)
    if pointing:
        fast.verify("one")
        assert not fast._home.being_retired("one")


def test_of_two_of_one_name_one_exists_and_is_whole(url: str, tmp_path: Path) -> None:
    objects = Interrupted(url)
    slow, fast = _opened(objects, tmp_path / "a"), _opened(FsspecObjects(url), tmp_path / "b")
    objects.interrupt(3, lambda: publish(fast, "one", round_id="fast"))
    with pytest.raises(CheckpointExistsError):
        publish(slow, "one", round_id="slow")
    assert fast.verify("one").manifest.round_id == "fast"
    fast.sweep()
    _check_swept(url, fast)


_PROMOTES = """
import sys
from pathlib import Path
from learnback_store.checkpoints import open_checkpoints
place, cache, who = sys.argv[1:]
store = open_checkpoints(place, Path(cache))
sys.stdin.readline()
for number in range(15):
    store.promote(("one", "two")[number % 2], request_id=f"{who}-{number}")
"""


def test_two_processes_lose_no_move(s3_bucket: str, tmp_path: Path) -> None:
    place = f"{s3_bucket}/processes"
    store = open_checkpoints(place, tmp_path / "cache")
    for name in ("one", "two"):
        publish(store, name)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _PROMOTES, place, tmp_path / "cache", who],
            stdin=subprocess.PIPE,
        )
        for who in "ab"
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"\n")
        racer.stdin.close()
    assert [racer.wait() for racer in racers] == [0, 0]
    moves = store.aliases().moves
    assert store.aliases().serial == len({one.request_id for one in moves}) == 30
    for earlier, later in itertools.pairwise(moves):
        assert later.before == earlier.after


def test_a_move_whose_answer_was_lost_counts_once(url: str, tmp_path: Path) -> None:
    """The library repeats a creation that has succeeded, and is refused."""

    class Forgetful(FsspecObjects):
        def _call(self, verb, *arguments, **options):
            answer = super()._call(verb, *arguments, **options)
            return super()._call(verb, *arguments, **options) if verb == "pipe_file" else answer

    store = _opened(Forgetful(url), tmp_path)
    publish(store, "one")
    assert store.promote("one", expected="base").after == "one"
    assert store.aliases().serial == 1
    with pytest.raises(AliasMovedError):
        store.promote("base", expected="base")


# Damage


def _objects_of(store: CheckpointStore) -> tuple[object, str, dict[str, str]]:
    bucket, _, prefix = str(store.root).removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    return client, bucket, {one["Key"].removeprefix(f"{prefix}/"): one["Key"] for one in listed}


def _damaged(store: CheckpointStore, ending: str, content: bytes | None) -> None:
    client, bucket, keys = _objects_of(store)
    [key] = [each for short, each in keys.items() if short.endswith(ending)]
    if content is None:
        client.delete_object(Bucket=bucket, Key=key)
    else:
        client.put_object(Bucket=bucket, Key=key, Body=content)


IN_S3 = pytest.mark.parametrize("place", ["s3"], indirect=True)


@IN_S3
@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("notes.txt", bytes(6)),
        ("adapter_model.safetensors", b""),
        ("adapter_config.json", None),
        ("ckpt-1.json", b'{"state": "published"}'),
        ("ckpt-1.json", b"[]"),
        ("ckpt-1.json", b"\xff"),
    ],
)
def test_what_was_damaged_in_the_store_is_refused(
    opened: Callable[[], CheckpointStore], ending: str, content: bytes | None
) -> None:
    publish(opened(), "ckpt-1")
    store = opened()
    _damaged(store, ending, content)
    for look in (store.verify, store.fetch):
        with pytest.raises(CheckpointCorruptError):
            look("ckpt-1")


@IN_S3
def test_a_damaged_copy_is_fetched_anew(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "ckpt-1")
    folder = checkpoints.fetch("ckpt-1")
    (folder / "more" / "notes.txt").write_text("other")
    checkpoints.verify("ckpt-1")
    assert (folder / "more" / "notes.txt").read_text() == "ckpt-1"


@IN_S3
def test_damaged_aliases_are_told(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "one")
    checkpoints.promote("one")
    checkpoints.promote("base")
    _damaged(checkpoints, "aliases/0000000002.json", b"{")
    with pytest.raises(RecordUnreadableError):
        checkpoints.aliases()


# The cache


@IN_S3
def test_a_checkpoint_is_downloaded_once(
    opened: Callable[[], CheckpointStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(opened(), "ckpt-1")
    fetched = []
    download = FsspecObjects.download
    monkeypatch.setattr(
        FsspecObjects, "download", lambda *args: (fetched.append(args[1]), download(*args))
    )
    folders = {opened().fetch("ckpt-1"), opened().fetch("ckpt-1")}
    assert len(folders) == 1
    assert len(fetched) == 3


def test_what_is_retired_leaves_the_caches_of_others(url: str, tmp_path: Path) -> None:
    trainer, server = (open_checkpoints(url, tmp_path / who) for who in ("trainer", "server"))
    for name in ("one", "two"):
        publish(trainer, name)
    trainer.promote("one")
    server.aliases()
    kept, gone = server.fetch("one"), server.fetch("two")
    trainer.retire("two")
    assert server.aliases().live == "one"
    assert kept.exists()
    assert not gone.exists()


def test_what_nobody_points_at_leaves_the_cache_after_a_while(url: str, tmp_path: Path) -> None:
    store = open_checkpoints(url, tmp_path / "cache")
    other = open_checkpoints(url, tmp_path / "other")
    for name in ("one", "two", "three"):
        publish(store, name)
    store.promote("one")
    folders = [store.fetch(name) for name in ("one", "two", "three")]
    for folder in folders[:2]:
        os.utime(folder, (0, 0))
    other.promote("three", "canary")
    store.aliases()
    assert [folder.exists() for folder in folders] == [True, False, True]
    store.verify("two")


def test_a_download_that_fails_leaves_nothing(url: str, tmp_path: Path) -> None:
    publish(open_checkpoints(url, tmp_path / "a"), "one")
    objects = Interrupted(url)
    store = _opened(objects, tmp_path / "b")
    objects.interrupt(3, _dies)
    with pytest.raises(Died):
        store.fetch("one")
    assert sorted(each.name for each in (tmp_path / "b").iterdir()) == ["aside", "lock"]
    assert not list((tmp_path / "b" / "aside").iterdir())
    store.verify("one")


def test_a_cache_of_another_user_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_checkpoints(url, tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(CheckpointHomeError, match="another user"):
        open_checkpoints(url, tmp_path)


# The store is away, or not fit


def test_a_store_that_is_away_is_told_by_every_call(tmp_path: Path) -> None:
    with S3Server() as server:
        url = server.make_bucket("checkpoints")
        store = open_checkpoints(url, tmp_path / "cache")
        for name in ("one", "two"):
            publish(store, name)
        shutil.rmtree(tmp_path / "cache")
        fresh = open_checkpoints(url, tmp_path / "cache")
        server.stop()
        calls: list[Callable[[], object]] = [
            fresh.new_name,
            fresh.aliases,
            fresh.all,
            fresh.sweep,
            lambda: fresh.get("one"),
            lambda: fresh.fetch("one"),
            lambda: fresh.verify("one"),
            lambda: fresh.promote("one"),
            lambda: fresh.retire("one"),
            lambda: store.fetch("one"),
            lambda: publish(fresh, "three"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError):
                call()
        with pytest.raises(CheckpointHomeError, match="can't be used for checkpoints"):
            open_checkpoints(url, tmp_path / "cache")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_store_that_hangs_is_away(
    s3_bucket: str, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_SECONDS", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_server)
    with pytest.raises(StoreUnavailableError):
        FsspecObjects(s3_bucket).read("anything")


def test_no_call_lasts_for_ever(
    s3_bucket: str, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the library behind it does."""
    monkeypatch.setattr(FsspecObjects._call, "__kwdefaults__", {"seconds": 0.2})
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_server)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="Timeout"):
        FsspecObjects(s3_bucket).read("anything")
    assert time.monotonic() - began < module._READ_SECONDS


def test_a_bucket_that_is_missing_is_told_at_the_start(s3_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointHomeError, match="no such bucket"):
        open_checkpoints("s3://nowhere/prefix", tmp_path)


def test_a_bucket_that_vanishes_is_not_an_empty_one(s3_bucket: str, tmp_path: Path) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="vanishing")
    store = open_checkpoints("s3://vanishing/a", tmp_path)
    client.delete_bucket(Bucket="vanishing")
    for look in (store.aliases, store.all, store.new_name, lambda: store.get("one")):
        with pytest.raises(StoreUnavailableError):
            look()


def test_an_empty_prefix_and_a_whole_bucket_will_do(s3_bucket: str, tmp_path: Path) -> None:
    boto3.client("s3").create_bucket(Bucket="whole")
    for url in ("s3://whole", "s3://whole/"):
        store = open_checkpoints(url, tmp_path)
        assert store.aliases().live == "base"
    publish(store, "one")
    assert open_checkpoints("s3://whole", tmp_path).verify("one").name == "one"
    with pytest.raises(CheckpointNotFoundError):
        store.get("two")


def test_a_store_that_lets_two_create_one_object_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    pipe = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem, "pipe_file", lambda self, path, data, **_: pipe(self, path, data)
    )
    with pytest.raises(CheckpointHomeError, match="exclusive creation"):
        open_objects(url)


@pytest.mark.parametrize("url", ["nothing://bucket/a", "gs://bucket/a"])
def test_a_library_that_is_missing_is_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointHomeError, match="can't be used"):
        open_checkpoints(url, tmp_path)


def test_who_has_a_folder_needs_no_library_of_object_stores(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['fsspec'] = sys.modules['s3fs'] = None\n"
        "from learnback_store.checkpoints import open_checkpoints\n"
        "assert open_checkpoints(sys.argv[1]).aliases().live == 'base'\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "checkpoints"], check=True)
