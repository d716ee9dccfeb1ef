"""Pages of the key-value cache: who holds which, and which can be reused for an equal prefix.

A page holds the keys and values of `page_tokens` consecutive tokens of one sequence, in every
layer. A full page can be registered under what made it: its checkpoint, the page before it, and its
own tokens. Later prompts that begin with the same tokens, under the same checkpoint, hold the same
page instead of computing it again. A registered page that nobody holds stays until its room is
needed; the one unused for longest goes first.

This file only counts; the tensors are in `attention.py`. It is used by the engine's thread alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

SCRATCH_PAGE = 0
"""Padding rows write here and nothing ever reads it, so it is never given out."""


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """What a registered page stands for. Exact, so that no hash collision can mix two prompts."""

    parent: str | int
    """The checkpoint for a first page, else the id of the registration before it."""
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The registered pages that a prompt begins with."""

    pages: list[int]
    parent: str | int
    """What the next page is to be registered under."""


class PagePool:
    """Gives out pages, counts their holders, and remembers full ones by their content."""

    def __init__(self, total: int, page_tokens: int, *, prefix_cache: bool = True) -> None:
        """Starts with `total` free pages of `page_tokens` tokens, besides the scratch page."""
        self.total = total
        self.page_tokens = page_tokens
        self._prefix_cache = prefix_cache
        self._free = list(range(total, SCRATCH_PAGE, -1))
        self._holders: dict[int, int] = {}
        self._registered: dict[PrefixKey, tuple[int, int]] = {}  # -> (page, registration id)
        self._keys: dict[int, PrefixKey] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # registered, held by nobody
        self._registrations = 0

    @property
    def used(self) -> int:
        """Pages that somebody holds."""
        return len(self._holders)

    @property
    def available(self) -> int:
        """Pages that could be given out now."""
        return len(self._free) + len(self._idle)

    def pages_for(self, tokens: int) -> int:
        """The number of pages that `tokens` tokens take."""
        return -(-tokens // self.page_tokens)

    def allocate(self, count: int) -> list[int] | None:
        """Gives out `count` pages, or None (and nothing) if so many are not to be had."""
        if count > self.available:
            return None
        pages = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def release(self, pages: Sequence[int]) -> None:
        """Lets go of pages. Later pages age first: they are useless without those before them."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            del self._holders[page]
            if page in self._keys:
                self._idle[page] = None
            else:
                self._free.append(page)

    def match(self, checkpoint: str, tokens: Sequence[int]) -> Prefix:
        """Finds and holds the registered pages that `tokens` begin with under `checkpoint`.

        At least one token is left to compute, because the logits after the last one are needed.
        """
        pages: list[int] = []
        parent: str | int = checkpoint
        for start in range(0, len(tokens) - self.page_tokens, self.page_tokens):
            key = PrefixKey(parent, tuple(tokens[start : start + self.page_tokens]))
            found = self._registered.get(key)
            if found is None:
                break
            page, parent = found
            pages.append(page)
        for page in pages:
            self._hold(page)
        return Prefix(pages, parent)

    def register(self, page: int, parent: str | int, tokens: Sequence[int]) -> str | int:
        """Remembers a full page by its content; returns what the next page is registered under."""
        if not self._prefix_cache:
            return parent
        key = PrefixKey(parent, tuple(tokens))
        known = self._registered.get(key)
        if known is not None:
            return known[1]
        self._registrations += 1
        self._registered[key] = (page, self._registrations)
        self._keys[page] = key
        return self._registrations

    def forget(self, checkpoint: str) -> None:
        """Drops what is remembered of a checkpoint that is gone.

        First pages become unreachable at once, and with them all that follow; those age out.
        """
        for key in [key for key in self._registered if key.parent == checkpoint]:
            page, _ = self._registered.pop(key)
            del self._keys[page]
            if page in self._idle:
                del self._idle[page]
                self._free.append(page)

    def discard(self, pages: Sequence[int]) -> list[int]:
        """Unregisters pages whose content is not to be trusted; they stay held.

        Returns:
            Those that have no second holder.
        """
        for page in pages:
            if page in self._keys:
                del self._registered[self._keys.pop(page)]
        return [page for page in pages if self._holders[page] == 1]

    def _hold(self, page: int) -> None:
        self._idle.pop(page, None)
        self._holders[page] = self._holders.get(page, 0) + 1

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        del self._registered[self._keys.pop(page)]
        return page
