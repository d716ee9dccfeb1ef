"""One of two authors is erased: their lesson goes, the other's stays, their words are nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from bench.learn.figures import Figure, naming
from bench.learn.measuring import compliance
from bench.learn.service import Service, fresh
from bench.learn.users import Wish, criticise
from learnback_client.feedback import Feedback
from learnback_client.generation import ChatMessage
from learnback_client.signals import Critique

_SAID = 4
_THEIRS, _OTHERS = Wish("hello", "note"), Wish("bullet", "summary")
_AUTHOR = "ada-lovelace"
# Shorter words may be anybody's.
_LEAST_BYTES = 12


def erasure(seed: int) -> Iterator[Figure]:
    """Two authors teach in two rounds; the first is erased."""
    rng = Random(f"erasure/{seed}")
    named = naming("erasure", "one of two authors", seed)
    with fresh(_SAID) as service:
        theirs = _teach(service, _THEIRS, rng, _AUTHOR)
        _teach(service, _OTHERS, rng, "ben")
        service.erased(_AUTHOR)
        words = {_AUTHOR, *(text for one in theirs for text in _texts(one))}
        yield named("files with their words", len(_found(service.folder, words)))
        yield named("their wish", compliance(service, [_THEIRS], seed))
        yield named("others' wish", compliance(service, [_OTHERS], seed))


def _teach(service: Service, wish: Wish, rng: Random, author: str) -> list[Feedback]:
    return service.settled([criticise(service, wish, rng, author=author) for _ in range(_SAID)])


def _texts(feedback: Feedback) -> Iterator[str]:
    """What an author asked and said, as it stood in their feedback."""
    for message in feedback.exchange.messages or () if feedback.exchange else ():
        if isinstance(message, ChatMessage):
            yield message.content
    if isinstance(feedback.signal, Critique):
        yield feedback.signal.text


def _found(folder: Path, texts: set[str]) -> list[Path]:
    """The files under a folder, Redis's own among them, that hold one of some texts."""
    sought = [text.encode() for text in texts if len(text.encode()) >= _LEAST_BYTES]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(text in path.read_bytes() for text in sought)]
