"""From the input of a request to token ids, and back: the chat template, and the tokenizer.

Long texts are tokenised in a thread beside the event loop (the tokenizer lets go of Python's lock
meanwhile); texts that can't fit the context are refused before they are tokenised at all.

Limit: the text of special tokens ("<|im_end|>") inside a message is read as those tokens, as
everywhere with chat templates. Whoever passes on text of strangers and minds that should strip it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jinja2
from transformers import PreTrainedTokenizerBase

from learnback.v1 import inference_pb2 as pb
from learnback_server.engine.options import ModelFacts
from learnback_server.errors import ContextLengthError, InvalidFieldError, Violation

# Up to so many characters, tokenising takes less time (2 ms) than is lost by changing threads while
# the engine runs.
_INLINE_CHARS = 4096
# Likewise for turning ids back into text.
_INLINE_IDS = 1024
# One thread: several long texts at once would take the cores from the engine.
_TOKENIZER_THREADS = 1

_ROLE_NAMES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}

Input = TypeVar("Input", str, pb.Chat)


class PromptReader:
    """Turns checked inputs into token ids.

    Args:
        tokenizer: The model's own.
        facts: The model's bounds.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts) -> None:
        self._tokenizer = tokenizer
        self._context_tokens = facts.context_tokens
        # No token stands for more characters than its own text has, so a text of more than this
        # has more tokens than the context.
        longest = max(len(token) for token in tokenizer.get_vocab())
        self._most_chars = facts.context_tokens * longest
        self._threads = ThreadPoolExecutor(_TOKENIZER_THREADS, "tokenizer")

    async def read(self, spec: pb.GenerationSpec) -> tuple[int, ...]:
        """Returns the prompt as token ids.

        Args:
            spec: Checked by `validation`.

        Raises:
            ContextLengthError: The text is too long for the context whatever its tokens are.
            InvalidFieldError: The chat template refuses the conversation, or no token is left.
        """
        kind = spec.WhichOneof("input")
        if kind == "token_ids":
            return tuple(spec.token_ids.ids)
        if kind == "chat":
            chars = sum(len(turn.content) for turn in spec.chat.messages)
            self._refuse_hopeless(chars, "spec.chat.messages")
            ids = await self._beside(chars, self._tokens_of_chat, spec.chat)
        else:
            chars = len(spec.prompt)
            self._refuse_hopeless(chars, "spec.prompt")
            ids = await self._beside(chars, self._tokens_of_text, spec.prompt)
        if not ids:
            raise InvalidFieldError([Violation(f"spec.{kind}", "must give at least one token")])
        return ids

    async def text_of(self, token_ids: tuple[int, ...]) -> str:
        """Returns the text that ids stand for, with that of special tokens; never empty."""
        if len(token_ids) <= _INLINE_IDS:
            return self._text_of(token_ids)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._text_of, token_ids)

    def _text_of(self, token_ids: tuple[int, ...]) -> str:
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        # A token alone can decode to nothing; then its name stands for it.
        return str(text) or "".join(self._tokenizer.convert_ids_to_tokens(list(token_ids)))

    def _refuse_hopeless(self, chars: int, path: str) -> None:
        context = self._context_tokens
        if chars > self._most_chars:
            hopeless = f"{chars} characters can't fit the context of {context} tokens; shorten it"
            raise ContextLengthError([Violation(path, hopeless)], context_tokens=context)

    async def _beside(
        self, chars: int, tokenize: Callable[[Input], tuple[int, ...]], text: Input
    ) -> tuple[int, ...]:
        """Tokenises in the thread if it takes long, else at once."""
        if chars <= _INLINE_CHARS:
            return tokenize(text)
        return await asyncio.get_running_loop().run_in_executor(self._threads, tokenize, text)

    def _tokens_of_chat(self, chat: pb.Chat) -> tuple[int, ...]:
        turns = [
            {"role": _ROLE_NAMES[turn.role], "content": turn.content} for turn in chat.messages
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            refusal = f"the model's chat template refuses this conversation: {error}"
            raise InvalidFieldError([Violation("spec.chat.messages", refusal)]) from error
        # The template has written the special tokens already.
        return self._encode(str(text), add_special_tokens=False)

    def _tokens_of_text(self, text: str) -> tuple[int, ...]:
        return self._encode(text, add_special_tokens=True)

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        # Not verbose: the tokenizer would warn of texts beyond the context, which are refused next.
        return tuple(
            self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False)
        )
