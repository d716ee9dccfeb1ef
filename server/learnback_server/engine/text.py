"""Tokens into text, as they come: whole characters only, and never a part of a stop string.

A `Vocabulary` knows the bytes of every token. A byte-level tokenizer (GPT-2, Llama 3, Qwen, nano)
is decoded by those bytes and Python's incremental UTF-8 decoder; any other by the tokenizers
library, a window of tokens at a time. Bytes that can't be UTF-8 become U+FFFD as soon as that is
certain; a character that is still incomplete when the answer ends is left out.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

_SPACE_MARK = "▁"  # stands for a space in vocabularies of SentencePiece
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MOST_CHARACTER_BYTES = 4  # of UTF-8


class Vocabulary:
    """The tokens of a tokenizer, as bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Reads the vocabulary of a fast tokenizer."""
        self.tokenizer = tokenizer
        decoder = json.loads(tokenizer.to_str())["decoder"] or {}
        self.byte_level = decoder.get("type") == "ByteLevel"
        added = tokenizer.get_added_tokens_decoder()
        self.special = frozenset(id_ for id_, token in added.items() if token.special)
        by_id = {id_: token for token, id_ in tokenizer.get_vocab(with_added_tokens=True).items()}
        to_byte = _byte_alphabet()
        self._bytes = [
            _token_bytes(by_id.get(id_, ""), to_byte, byte_level=self.byte_level)
            for id_ in range(max(by_id, default=-1) + 1)
        ]

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token; none for an id that the tokenizer does not know."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def decoder(self) -> IncrementalDecoder:
        """A decoder for one answer. Special tokens give no text."""
        return ByteDecoder(self) if self.byte_level else LibraryDecoder(self)


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in byte-level vocabularies (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(256 + i): byte for i, byte in enumerate(others)}
    if set(alphabet) != set(ByteLevel.alphabet()):
        raise RuntimeError("the tokenizers library uses another byte-level alphabet")
    return alphabet


def _token_bytes(token: str, to_byte: dict[str, int], *, byte_level: bool) -> bytes:
    if byte_level:
        if all(char in to_byte for char in token):
            return bytes(to_byte[char] for char in token)
        return token.encode()
    if len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_SPACE_MARK, " ").encode()


class IncrementalDecoder(Protocol):
    """Decodes the tokens of one answer, one after the other."""

    def feed(self, token_id: int) -> str:
        """The text that has become certain with this token."""
        ...


class ByteDecoder:
    """For byte-level tokenizers: joins bytes and cuts them into characters."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts before the first token."""
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The characters that are complete with this token."""
        if token_id in self._vocabulary.special:
            return ""
        return self._utf8.decode(self._vocabulary.bytes_of(token_id))


class LibraryDecoder:
    """For all other tokenizers: decodes the latest tokens anew with each further one.

    The tokens of the last piece stay in the window, because what a token's text is (whether it
    begins with a space, say) can depend on those before it. The library's own `DecodeStream` does
    the same, but raises an error where bytes turn out to be no text after all.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts before the first token."""
        self._vocabulary = vocabulary
        self._window: list[int] = []
        self._told = 0
        """How many tokens of the window are given out already."""
        self._told_text = ""

    def feed(self, token_id: int) -> str:
        """The text that is complete with this token."""
        if token_id in self._vocabulary.special or not self._vocabulary.bytes_of(token_id):
            return ""
        self._window.append(token_id)
        text = self._decode()
        waiting = len(self._window) - self._told
        if text.endswith(_REPLACEMENT) and waiting < _MOST_CHARACTER_BYTES:
            return ""
        piece = text[len(self._told_text) :]
        if piece:
            self._window = self._window[self._told :]
            self._told = len(self._window)
            self._told_text = self._decode()
        else:
            # A space that the tokenizer strips, say: no token of a character that is to come.
            self._told = len(self._window)
        return piece

    def _decode(self) -> str:
        return self._vocabulary.tokenizer.decode(self._window)


@dataclass(frozen=True, slots=True)
class StopMatch:
    """Text to give out, and the stop string that was found behind it, if one was."""

    text: str
    stop: str = ""


class StopMatcher:
    """Looks for stop strings in a text that arrives in pieces.

    It holds back the longest end of the text that could still become a stop string, so that what
    has been given out never has to be taken back. The match that is complete first wins, wherever
    the pieces end; of several that end at the same place, the longest.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        """Looks for any of `stops`, each of at least one character."""
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""

    def feed(self, piece: str) -> StopMatch:
        """Takes the next piece and tells what may be given out."""
        if not self._stops:
            return StopMatch(piece)
        text = self._held + piece
        found = [(text.find(stop) + len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, stop = min(found, key=lambda match: match[0])  # the first of equals is the longest
            self._held = ""
            return StopMatch(text[: end - len(stop)], stop)
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return StopMatch(text[: len(text) - keep])

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), len(self._stops[0]) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
