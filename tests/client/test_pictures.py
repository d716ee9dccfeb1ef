"""The lineage as a picture: every checkpoint is in it, where it belongs."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from learnback.v1 import checkpoints_pb2
from learnback_client.checkpoints import Checkpoint, CheckpointState, read_checkpoint
from learnback_client.cli.pictures import mermaid, svg

SVG = "{http://www.w3.org/2000/svg}"


def _checkpoint(name: str, parent: str, state: str = "PUBLISHED", **fields: object) -> Checkpoint:
    return read_checkpoint(
        checkpoints_pb2.Checkpoint(
            name=name,
            parent=parent,
            state=checkpoints_pb2.CheckpointState.Value(f"CHECKPOINT_STATE_{state}"),
            **fields,  # type: ignore[arg-type]
        )
    )


FOUND = [
    _checkpoint("ckpt-3", "ckpt-1", aliases=["live", "<b>"], feedback_count=3),
    _checkpoint("ckpt-2", "ckpt-1", "REJECTED"),
    _checkpoint("ckpt-1", "base", aliases=["previous"], feedback_count=1),
    _checkpoint("base", ""),
]


def _parsed(found: list[Checkpoint]) -> ET.Element:
    return ET.fromstring(svg(found))  # noqa: S314  # our own


def test_an_svg_has_a_box_for_each_and_a_line_to_each_but_the_base() -> None:
    picture = _parsed(FOUND)
    texts = [one.text for one in picture.iter(f"{SVG}text")]
    assert texts == [
        "base", None,
        "ckpt-1", "previous, learned 1",
        "ckpt-2", "rejected",
        "ckpt-3", "live, <b>, learned 3",
    ]  # fmt: skip
    boxes = [(int(one.get("x", 0)), int(one.get("y", 0))) for one in picture.iter(f"{SVG}rect")]
    # To the right of its parent, and two children above one another.
    assert [x for x, _ in boxes] == [20, 240, 460, 460]
    assert [y for _, y in boxes] == [20, 20, 20, 96]
    lines = list(picture.iter(f"{SVG}path"))
    assert [one.get("class") for one in lines] == [None, "apart", None]
    assert lines[2].get("d") == "M420 48H440V124H460"
    assert int(picture.get("width", 0)) == 660


def test_what_has_lost_its_parent_is_shown_apart() -> None:
    picture = _parsed([FOUND[0], FOUND[3]])
    boxes = [(one.get("x"), one.get("y")) for one in picture.iter(f"{SVG}rect")]
    assert boxes == [("20", "20"), ("20", "96")]
    assert list(picture.iter(f"{SVG}path")) == []
    assert _parsed([]).tag == f"{SVG}svg"


def test_mermaid_names_what_was_not_published() -> None:
    lines = mermaid(FOUND).splitlines()
    assert lines[0] == "flowchart LR"
    assert "  base --> ckpt-1" in lines
    assert "  ckpt-1 -. rejected .-> ckpt-2" in lines
    assert FOUND[1].state is CheckpointState.REJECTED
