"""Text to tokens and back: how an exchange is put before the model.

A chat goes through the model's own chat template. A model without one gets its exchanges as plain
text, with the critique announced in words; whether it understands that is its own affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from learnback_store.records import Exchange
from learnback_trainer.errors import LessonError

Ids = tuple[int, ...]
"""Tokens of a text."""

Pair = tuple[Ids, Ids]
"""An input with an answer."""

_PLAIN_DIALOGUE = "{prompt}{answer}\n\nCriticism: {critique}\n\nBetter answer: "


class Reader:
    """Reads and writes for one model.

    Args:
        tokenizer: The model's tokenizer.
        end_ids: The tokens that end an answer; the first one is put after answers of ours.
        context_tokens: The longest input with its answer, in tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], context_tokens: int
    ) -> None:
        self._tokenizer: Any = tokenizer
        self.end_ids = frozenset(end_ids)
        self._end = tuple(end_ids[:1])
        self.context_tokens = context_tokens
        pad = self._tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else next(iter(end_ids), 0)

    def prompt(self, exchange: Exchange, known: Ids = ()) -> Ids:
        """Returns the input x, up to the model's turn.

        Args:
            exchange: What was asked.
            known: The tokens as the model saw them then, if they are on record.

        Raises:
            LessonError: The chat template refuses it.
        """
        if known:
            return known
        if exchange.prompt:
            return self.plain(exchange.prompt)
        return self.chat([_turn(m.role.value, m.content) for m in exchange.chat])

    def dialogue(self, exchange: Exchange, answer: str, critique: str) -> Ids:
        """Returns the input [x][y][c], up to the model's turn to revise.

        Raises:
            LessonError: The chat template refuses it.
        """
        if not self._tokenizer.chat_template:
            text = exchange.prompt or "\n".join(m.content for m in exchange.chat)
            return self.plain(_PLAIN_DIALOGUE.format(prompt=text, answer=answer, critique=critique))
        turns = [_turn(m.role.value, m.content) for m in exchange.chat]
        turns = turns or [_turn("user", exchange.prompt)]
        return self.chat([*turns, _turn("assistant", answer), _turn("user", critique)])

    def chat(self, messages: Sequence[Mapping[str, str]]) -> Ids:
        """Returns a chat by the model's template, up to the model's turn.

        Raises:
            LessonError: There is no template, or it refuses these messages.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError) as error:
            raise LessonError("the model's chat template refuses this conversation") from error
        return self._ids(text)

    def plain(self, text: str) -> Ids:
        """Returns a text that is to be continued; begins as the tokenizer begins texts."""
        return tuple(self._tokenizer(text)["input_ids"])

    def answer(self, text: str) -> Ids:
        """Returns an answer with the token that ends it."""
        return self._ids(text) + self._end

    def text(self, ids: Ids) -> str:
        """Returns the text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def ended(self, ids: Ids) -> bool:
        """Whether an answer was brought to its end, rather than cut off."""
        return bool(ids) and ids[-1] in self.end_ids

    def _ids(self, text: str) -> Ids:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
