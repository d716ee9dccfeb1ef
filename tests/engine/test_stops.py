"""Stop strings: found across the borders of pieces, never given out, never held for nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import FinishReason
from learnback_server.engine.text import StopMatcher
from tests.engine.harness import PlainModel, Running, request
from tests.tiny import byte_tokenizer

# Few letters, so that stop strings are found, overlap one another and almost begin.
texts = st.text(alphabet="ab好", max_size=30)
stop_strings = st.lists(st.text(alphabet="ab好", min_size=1, max_size=5), max_size=4)


def stop_naively(text: str, stops: list[str]) -> tuple[str, str]:
    """Reads character by character; the first stop string to be complete ends the text."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, ""


def feed(matcher: StopMatcher, pieces: list[str]) -> tuple[str, str, list[str]]:
    """What is given out, which stop string was found, and what was given out by piece."""
    told = []
    for piece in pieces:
        match = matcher.feed(piece)
        told.append(match.text)
        if match.stop:
            return "".join(told), match.stop, told
    told.append(matcher.flush())
    return "".join(told), "", told


def cut(text: str, borders: list[int]) -> list[str]:
    places = [0, *sorted(border % (len(text) + 1) for border in borders), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=500)
@given(text=texts, stops=stop_strings, borders=st.lists(st.integers(0, 30), max_size=10))
def test_equals_reading_character_by_character(
    text: str, stops: list[str], borders: list[int]
) -> None:
    given_out, stop, _ = feed(StopMatcher(tuple(stops)), cut(text, borders))
    assert (given_out, stop) == stop_naively(text, stops)


@settings(max_examples=200)
@given(text=texts, stops=stop_strings)
def test_holds_back_no_more_than_could_become_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(tuple(stops))
    told = ""
    for end in range(1, len(text) + 1):
        match = matcher.feed(text[end - 1])
        told += match.text
        if match.stop:
            return
        held = text[len(told) : end]
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize("pieces", [["abcd"], ["a", "b", "c", "d"], ["abc", "d"], ["a", "bcd"]])
def test_the_borders_of_pieces_decide_nothing(pieces: list[str]) -> None:
    assert feed(StopMatcher(("bc", "abcd")), pieces)[:2] == ("a", "bc")


def test_of_two_that_end_together_the_longer_is_found() -> None:
    assert feed(StopMatcher(("b", "ab")), ["xab"])[:2] == ("x", "ab")


def test_what_was_held_is_given_out_when_nothing_more_comes() -> None:
    assert feed(StopMatcher(("###",)), ["hello #", "#"])[2] == ["hello ", "", "##"]


def test_without_stop_strings_nothing_is_held() -> None:
    assert feed(StopMatcher(()), ["a", "b"])[2] == ["a", "b", ""]


# And through the engine, whose tokens are single bytes.

PROMPT = list(b"Once upon a time")
TOKENS = 40
DECODE = byte_tokenizer().backend_tokenizer.decode


@pytest.fixture(scope="module")
def ids(plain_llama: PlainModel) -> list[int]:
    """An answer in which stop strings are looked for."""
    return plain_llama.greedy(PROMPT, TOKENS, eos=False)


def longest_plain_run(ids: list[int]) -> str:
    """The longest run of whole characters in an answer."""
    return max(DECODE(ids).split("\ufffd"), key=len)


def test_a_generation_ends_before_its_stop_string(llama: LoadedModel, ids: list[int]) -> None:
    text = DECODE(ids)
    run = longest_plain_run(ids)
    assert len(run) >= 3
    stop = run[-3:]
    with Running(llama) as running:
        (answer,) = running.ask(request(PROMPT, TOKENS, ignore_eos=True, stop=(stop,)))
    assert answer.text() == text[: text.index(stop)]
    assert (answer.reason, answer.end.matched_stop) == (FinishReason.STOP, stop)
    # The tokens of the stop string count: they were generated.
    assert answer.ids() == ids[: len(answer.ids())]
    assert DECODE(answer.ids()).rstrip("\ufffd").endswith(stop)


def test_held_text_is_given_out_at_the_end(llama: LoadedModel, ids: list[int]) -> None:
    run = longest_plain_run(ids)
    tokens = next(count for count in range(1, TOKENS + 1) if DECODE(ids[:count]).endswith(run[:3]))
    with Running(llama) as running:
        wanted = request(PROMPT, tokens, ignore_eos=True, stop=(run[:3] + "never",))
        (answer,) = running.ask(wanted)
    assert answer.text() == DECODE(ids[:tokens])
    assert answer.deltas()[-1].text.endswith(run[:3])
    assert (answer.reason, answer.end.matched_stop) == (FinishReason.LENGTH, "")


def test_held_text_is_given_out_on_cancellation(llama: LoadedModel, ids: list[int]) -> None:
    run = longest_plain_run(ids)
    with Running(llama) as running:
        wanted = request(PROMPT, 10_000, ignore_eos=True, stop=(run[:3] + "never",))
        answer = running.answers[wanted.generation_id]
        running.on_publish = lambda: (
            running.engine.cancel(wanted.generation_id)
            if DECODE(answer.ids()).endswith(run[:3])
            else None
        )
        running.ask(wanted)
    assert answer.reason is FinishReason.CANCELLED
    assert DECODE(answer.ids()).startswith(answer.text())
    assert run[:3] in answer.text()
