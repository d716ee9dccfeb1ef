"""The lineage of checkpoints as a picture: Mermaid for a README, SVG for everything else.

The SVG is text of our own making and needs nothing to be made: time goes to the right, each branch
has a row of its own. It is as large as the lineage; of some thousand checkpoints it is no picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from learnback_client.checkpoints import Checkpoint, CheckpointState

# In pixels: a box, and the space between two.
_WIDTH, _HEIGHT, _GAP, _MARGIN = 180, 56, 40, 20
_FILLS = {
    CheckpointState.PUBLISHED: "#e8f1fb",
    CheckpointState.REJECTED: "#fbe9e7",
    CheckpointState.RETIRED: "#eeeeee",
}
_LIVE_FILL = "#d7f0d9"
_STYLE = (
    "text{font:13px sans-serif;fill:#222}.name{font-weight:bold}"
    "rect{stroke:#667}path{stroke:#667;fill:none}.apart{stroke-dasharray:5 4}"
)


def mermaid(found: Sequence[Checkpoint]) -> str:
    """Returns the lineage in Mermaid's language."""
    lines = ["flowchart LR"]
    for one in _sorted(found):
        learned, aliases = _learned(one), ", ".join(one.aliases)
        about = f"<br/>{learned}" if learned else ""
        about += f"<br/><b>{aliases}</b>" if aliases else ""
        lines.append(f'  {one.name}["{one.name}{about}"]')
        if one.parent:
            arrow = "-->" if one.state is CheckpointState.PUBLISHED else f"-. {one.state} .->"
            lines.append(f"  {one.parent} {arrow} {one.name}")
    return "\n".join(lines) + "\n"


def svg(found: Sequence[Checkpoint]) -> str:
    """Returns the lineage as an SVG."""
    places = _places(found)
    width = _left(max((column for column, _ in places.values()), default=0)) + _WIDTH + _MARGIN
    height = _top(max((row for _, row in places.values()), default=0)) + _HEIGHT + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">',
        "<title>Lineage of checkpoints</title>",
        f"<style>{_STYLE}</style>",
    ]
    for one in _sorted(found):
        if one.parent in places:
            lines.append(_arrow(places[one.parent], places[one.name], one.state))
        lines += _box(one, places[one.name])
    return "\n".join([*lines, "</svg>"]) + "\n"


def _sorted(found: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Parents before their children: names grow, and the base comes first."""
    return sorted(found, key=lambda one: (bool(one.parent), one.name))


def _learned(one: Checkpoint) -> str:
    return f"learned {one.feedback_count}" if one.feedback_count else ""


def _places(found: Sequence[Checkpoint]) -> dict[str, tuple[int, int]]:
    """Column and row of each: the first child goes on in its parent's row."""
    names = {one.name for one in found}
    children, roots = defaultdict[str, list[str]](list), list[str]()
    for one in _sorted(found):
        (children[one.parent] if one.parent in names else roots).append(one.name)
    places: dict[str, tuple[int, int]] = {}
    for root in roots:
        waiting, row = [(root, 0)], len({row for _, row in places.values()})
        while waiting:
            name, column = waiting.pop()
            places[name] = (column, row)
            if not children[name]:
                row += 1
            waiting += [(child, column + 1) for child in reversed(children[name])]
    return places


def _left(column: int) -> int:
    return _MARGIN + column * (_WIDTH + _GAP)


def _top(row: int) -> int:
    return _MARGIN + row * (_HEIGHT + _GAP // 2)


def _arrow(parent: tuple[int, int], child: tuple[int, int], state: CheckpointState) -> str:
    begin, end = _left(parent[0]) + _WIDTH, _left(child[0])
    height = _HEIGHT // 2
    kind = "" if state is CheckpointState.PUBLISHED else ' class="apart"'
    middle = (begin + end) // 2
    return (
        f'<path{kind} d="M{begin} {_top(parent[1]) + height}H{middle}'
        f'V{_top(child[1]) + height}H{end}"/>'
    )


def _box(one: Checkpoint, place: tuple[int, int]) -> Iterator[str]:
    left, top = _left(place[0]), _top(place[1])
    fill = _LIVE_FILL if "live" in one.aliases else _FILLS.get(one.state, "#ffffff")
    state = "" if one.state is CheckpointState.PUBLISHED else str(one.state)
    about = ", ".join(filter(None, [*one.aliases, state, _learned(one)]))
    yield (f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}"/>')
    yield f'<text class="name" x="{left + 10}" y="{top + 23}">{escape(one.name)}</text>'
    yield f'<text x="{left + 10}" y="{top + 43}">{escape(about)}</text>'
