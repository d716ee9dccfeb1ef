"""A checkpoint exists whole or not at all, and never changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from learnback_store.aliases import CANARY
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.digests import file_digest, model_digest
from learnback_store.errors import (
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointForeignError,
    CheckpointNotFoundError,
    CheckpointUnusableError,
)
from learnback_store.manifest import MANIFEST, Manifest
from learnback_store.records import Objective
from tests.store.samples import BASE_DIGEST, manifest, publish, write_files


def test_what_was_published_is_found_and_verified(checkpoints: CheckpointStore) -> None:
    published = publish(
        checkpoints, "ckpt-000001", feedback_ids=("fb-1",), objectives=(Objective.SFT,)
    )
    assert checkpoints.verify("ckpt-000001", BASE_DIGEST) == published
    assert checkpoints.get("ckpt-000001") == published
    assert published.state is CheckpointState.PUBLISHED
    names = [file.name for file in published.manifest.files]
    assert names == ["adapter_config.json", "adapter_model.safetensors", "more/notes.txt"]
    assert published.digest == published.manifest.digest
    folder = checkpoints.fetch("ckpt-000001")
    for file in published.manifest.files:
        assert file_digest(folder / file.name) == file.digest
    assert checkpoints.learned_feedback() == {"fb-1": "ckpt-000001"}


def test_a_manifest_comes_back_from_its_file() -> None:
    one = manifest("ckpt-1", feedback_ids=("fb-1",), library_versions={"torch": "2.13"})
    assert Manifest.from_file(one.to_file()) == one
    traced = manifest(
        "ckpt-1", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    )
    assert Manifest.from_file(traced.to_file()) == traced


def test_without_a_trace_a_manifest_is_as_it_was_before_there_were_any() -> None:
    one = manifest("ckpt-1", create_ms=0)
    assert "traceparent" not in one.to_file()
    # Fixed: digests of checkpoints that exist must hold.
    assert one.digest == "sha256:1ed8f4c47be69d838b5b85503534e471cb81da5129ba3578ede33a4514e29a2b"


def _zeroed(folder: Path) -> None:
    path = folder / "more" / "notes.txt"
    path.write_bytes(bytes(len(path.read_bytes())))


def _truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _missing(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _additional(folder: Path) -> None:
    (folder / "extra.safetensors").write_bytes(b"x")


def _linked(folder: Path) -> None:
    (folder / "more" / "link").symlink_to("/dev/null")


def _manifest_changed(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"nano"', '"nono"'))


def _manifest_cut(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text()[:-20])


def _manifest_of_another_kind(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


@pytest.mark.parametrize("place", ["folder"], indirect=True)
@pytest.mark.parametrize(
    "damage",
    [
        _zeroed,
        _truncated,
        _missing,
        _additional,
        _linked,
        _manifest_changed,
        _manifest_cut,
        _manifest_of_another_kind,
    ],
)
def test_every_byte_is_verified(
    checkpoints: CheckpointStore, damage: Callable[[Path], None]
) -> None:
    publish(checkpoints, "ckpt-1")
    checkpoints.verify("ckpt-1")
    damage(checkpoints.fetch("ckpt-1"))
    with pytest.raises(CheckpointCorruptError):
        checkpoints.verify("ckpt-1")


def test_a_checkpoint_for_another_base_is_foreign(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "ckpt-1")
    with pytest.raises(CheckpointForeignError):
        checkpoints.verify("ckpt-1", "sha256:" + "1" * 64)


def test_a_name_is_taken_for_ever(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "ckpt-1")
    checkpoints.retire("ckpt-1")
    for name in ("ckpt-1", "live", "canary"):
        with pytest.raises(CheckpointExistsError):
            publish(checkpoints, name)


@pytest.mark.parametrize("name", ["", "base", "..", "a/b", "A", "x" * 64, "."])
def test_bad_names_are_refused(checkpoints: CheckpointStore, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        publish(checkpoints, name)
    with pytest.raises(CheckpointNotFoundError):
        checkpoints.get(name)


def test_a_draft_needs_files_and_no_links(checkpoints: CheckpointStore) -> None:
    with checkpoints.draft() as draft, pytest.raises(CheckpointCorruptError):
        checkpoints.publish(draft, manifest("ckpt-1"))
    with checkpoints.draft() as draft:
        (draft / "weights.safetensors").symlink_to("/dev/null")
        with pytest.raises(CheckpointCorruptError):
            checkpoints.publish(draft, manifest("ckpt-1"))


def test_a_draft_that_fails_leaves_nothing(checkpoints: CheckpointStore) -> None:
    with contextlib.suppress(RuntimeError), checkpoints.draft() as draft:
        write_files(draft, "x")
        raise RuntimeError
    assert not draft.exists()
    assert checkpoints.all() == []


def test_names_count_on_over_every_state(checkpoints: CheckpointStore) -> None:
    assert checkpoints.new_name() == "ckpt-000001"
    publish(checkpoints, "ckpt-000001")
    with checkpoints.draft() as draft:
        write_files(draft, "x")
        checkpoints.reject(draft, manifest("ckpt-000002"))
    assert checkpoints.new_name() == "ckpt-000003"
    publish(checkpoints, "ckpt-000007")
    checkpoints.retire("ckpt-000007")
    publish(checkpoints, "by-hand")
    assert checkpoints.new_name() == "ckpt-000008"


def test_a_rejected_one_is_kept_and_never_serves(checkpoints: CheckpointStore) -> None:
    with checkpoints.draft() as draft:
        write_files(draft, "x")
        checkpoints.reject(draft, manifest("ckpt-1", feedback_ids=("fb-1",)))
    assert checkpoints.get("ckpt-1").state is CheckpointState.REJECTED
    assert checkpoints.learned_feedback() == {}
    for use in (checkpoints.fetch, checkpoints.verify, checkpoints.promote, checkpoints.rollback):
        with pytest.raises(CheckpointUnusableError):
            use("ckpt-1")


def test_lists_are_newest_first_and_by_state(checkpoints: CheckpointStore) -> None:
    for number in (2, 1, 3):
        publish(checkpoints, f"ckpt-{number}", create_ms=number)
    checkpoints.retire("ckpt-2")
    assert [one.name for one in checkpoints.all()] == ["ckpt-3", "ckpt-2", "ckpt-1"]
    published = checkpoints.all([CheckpointState.PUBLISHED])
    assert [one.name for one in published] == ["ckpt-3", "ckpt-1"]


def test_retiring_keeps_the_manifest_only(checkpoints: CheckpointStore) -> None:
    published = publish(checkpoints, "ckpt-1")
    folder = checkpoints.fetch("ckpt-1")
    checkpoints.retire("ckpt-1")
    checkpoints.retire("ckpt-1")
    assert not folder.exists()
    assert checkpoints.get("ckpt-1").state is CheckpointState.RETIRED
    assert checkpoints.get("ckpt-1").manifest == published.manifest
    with pytest.raises(CheckpointUnusableError):
        checkpoints.fetch("ckpt-1")


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_of_a_retired_one_no_file_is_left(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "ckpt-1")
    checkpoints.retire("ckpt-1")
    folder = checkpoints.root / "retired" / "ckpt-1"
    assert [path.name for path in folder.iterdir()] == [MANIFEST]


def test_what_an_alias_points_at_is_never_retired(checkpoints: CheckpointStore) -> None:
    for number in range(1, 7):
        publish(checkpoints, f"ckpt-{number}", create_ms=number)
    checkpoints.promote("ckpt-1")
    checkpoints.promote("ckpt-2")
    checkpoints.promote("ckpt-3", CANARY)
    with pytest.raises(CheckpointUnusableError):
        checkpoints.retire("ckpt-1")
    assert checkpoints.retain(published=1, rejected=0) == ["ckpt-5", "ckpt-4"]
    assert checkpoints.retain(published=1, rejected=0) == []
    left = checkpoints.all([CheckpointState.PUBLISHED])
    assert [one.name for one in left] == ["ckpt-6", "ckpt-3", "ckpt-2", "ckpt-1"]


def test_lineage_outlives_retirement(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "ckpt-1")
    publish(checkpoints, "ckpt-2", parent="ckpt-1")
    checkpoints.retire("ckpt-1")
    assert [one.name for one in checkpoints.lineage("ckpt-2")] == ["ckpt-2", "ckpt-1"]
    assert checkpoints.lineage("base") == []


def test_names_and_aliases_resolve(checkpoints: CheckpointStore) -> None:
    assert checkpoints.resolve("") == checkpoints.resolve("live") == "base"
    with pytest.raises(CheckpointNotFoundError):
        checkpoints.resolve("canary")
    publish(checkpoints, "ckpt-1")
    checkpoints.promote("ckpt-1")
    assert checkpoints.resolve("live") == checkpoints.resolve("ckpt-1") == "ckpt-1"
    assert checkpoints.resolve("previous") == checkpoints.resolve("base") == "base"
    with pytest.raises(CheckpointNotFoundError):
        checkpoints.resolve("nothing")


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_sweeping_removes_what_a_crash_left(checkpoints: CheckpointStore) -> None:
    publish(checkpoints, "ckpt-1")
    rubbish = checkpoints.root / "aside" / "half"
    rubbish.mkdir()
    write_files(rubbish, "x")
    half_retired = checkpoints.root / "retired" / "ckpt-1"
    checkpoints.fetch("ckpt-1").rename(half_retired)
    checkpoints.sweep()
    assert not rubbish.exists()
    assert [path.name for path in half_retired.iterdir()] == [MANIFEST]


def test_a_model_is_its_configuration_and_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").write_bytes(b"a")
    (tmp_path / "tokenizer.json").write_text("{}")
    whole = model_digest(tmp_path)
    # Fixed: digests that stand in manifests must stay comparable.
    assert whole == "sha256:76b2bc4446842f44845a142cfaab06429b2c24418796a6b66dadb2225625bc73"
    (tmp_path / "tokenizer.json").write_text("[]")
    assert model_digest(tmp_path) == whole
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert model_digest(tmp_path) != whole
