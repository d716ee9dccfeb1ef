"""Text that arrives token by token equals text that is decoded at once, and breaks no character."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from learnback_server.engine.text import ByteDecoder, LibraryDecoder, Vocabulary
from tests.tiny import byte_tokenizer

REPLACEMENT = "\ufffd"
SPECIAL = 256
"""The id of "<|end|>", a special token of both tokenizers below."""


def byte_level() -> Tokenizer:
    """Bytes, some merged in the midst of characters, with special and other added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: number for number, char in enumerate(alphabet)}
    vocab["<|end|>"] = SPECIAL
    merges = []
    for text in ("th", " t", "你", "好，", "😀", "é"):
        merged = "".join(dict(zip(_bytes_of(text), _letters(text), strict=True)).values())
        for end in range(2, len(merged) + 1):
            if merged[:end] not in vocab:
                vocab[merged[:end]] = len(vocab)
                merges.append((merged[: end - 1], merged[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("一 个")])
    return tokenizer


def _bytes_of(text: str) -> list[tuple[int, int]]:
    return list(enumerate(text.encode()))


def _letters(text: str) -> str:
    """The stand-ins of a text's bytes in a byte-level vocabulary."""
    ((letters, _),) = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    ).pre_tokenize_str(text)
    return letters


def metaspace() -> Tokenizer:
    """As SentencePiece models of the Llama 2 kind: marks for spaces, and bytes for the unknown."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for piece in ("▁", "▁▁", "▁the", "a", "b", "▁b", "ing", "你", "好", "▁好", "é"):
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


BYTES = Vocabulary(byte_tokenizer().backend_tokenizer)
MERGED = Vocabulary(byte_level())
PIECES = Vocabulary(metaspace())


def ids_of(vocabulary: Vocabulary) -> st.SearchStrategy[list[int]]:
    # Some past the end: models have rows for more tokens than their tokenizers know.
    return st.lists(st.integers(0, vocabulary.tokenizer.get_vocab_size() + 3), max_size=40)


def pieces(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    decoder = vocabulary.decoder()
    return [decoder.feed(token) for token in ids]


def check_every_prefix(vocabulary: Vocabulary, ids: list[int], held: set[str]) -> None:
    """Asserts that what has been told is what decoding at once gives, but for a `held` end.

    Decoding at once calls an incomplete character U+FFFD (half a surrogate even twice).
    """
    told = ""
    for end, piece in enumerate(pieces(vocabulary, ids), 1):
        told += piece
        whole = vocabulary.tokenizer.decode(ids[:end], skip_special_tokens=True)
        assert whole.startswith(told)
        assert whole[len(told) :] in held


@settings(max_examples=300)
@given(ids=st.one_of(ids_of(BYTES), st.text(max_size=12).map(lambda t: list(t.encode()))))
@example(ids=list("😀".encode()))
@example(ids=[0xE4, SPECIAL, 0xBD, 0xA0])
def test_bytes_equal_decoding_at_once(ids: list[int]) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_byte = {BYTES.bytes_of(number)[0]: number for number in range(len(letters))}
    assert sorted(by_byte) == list(range(256))
    check_every_prefix(BYTES, ids, {"", REPLACEMENT, 2 * REPLACEMENT})


@settings(max_examples=300)
@given(ids=ids_of(MERGED))
def test_merged_bytes_equal_decoding_at_once(ids: list[int]) -> None:
    check_every_prefix(MERGED, ids, {"", REPLACEMENT, 2 * REPLACEMENT})


def piece_id(piece: str) -> int:
    """The id of a token of the vocabulary of pieces."""
    token = PIECES.tokenizer.token_to_id(piece)
    assert token is not None
    return token


def fallback_ids(text: str) -> list[int]:
    """A text as the byte tokens of the vocabulary of pieces."""
    return [piece_id(f"<0x{byte:02X}>") for byte in text.encode()]


PIECE_IDS = [0, 1, 2, *range(259, PIECES.tokenizer.get_vocab_size() + 3)]


@settings(max_examples=300)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(PIECE_IDS).map(lambda token: [token]),
            st.characters(codec="utf-8", exclude_characters=REPLACEMENT).map(fallback_ids),
        ),
        max_size=20,
    )
)
@example(parts=[fallback_ids("😀"), fallback_ids("你")])
@example(parts=[[259], fallback_ids("𐀀")])
def test_pieces_with_byte_fallback_equal_decoding_at_once(parts: list[list[int]]) -> None:
    ids = [token for part in parts for token in part]
    told = pieces(PIECES, ids)
    assert "".join(told) == PIECES.tokenizer.decode(ids, skip_special_tokens=True)
    assert not any(REPLACEMENT in piece for piece in told)


@settings(max_examples=300)
@given(ids=ids_of(PIECES))
def test_bytes_that_are_no_text_leave_the_pieces_around_them_alone(ids: list[int]) -> None:
    told = "".join(pieces(PIECES, [*ids, PIECE_IDS[-4]]))
    by_byte = set(range(3, 259))
    kept = [token for token in ids if token not in by_byte] + [PIECE_IDS[-4]]
    expected = PIECES.tokenizer.decode(kept, skip_special_tokens=True).replace(" ", "")
    rest = iter(told)
    assert all(char in rest for char in expected), "a piece got lost"


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
@example(text="天地玄黄，宇宙洪荒。😀👩‍👩‍👧‍👦🇨🇳 é")
def test_no_character_is_ever_broken(text: str) -> None:
    for vocabulary in (BYTES, MERGED):
        ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
        told = pieces(vocabulary, ids)
        assert "".join(told) == text
        assert all(piece.encode().decode() == piece for piece in told)


def test_a_character_is_told_with_its_last_byte() -> None:
    ids = BYTES.tokenizer.encode("你😀").ids
    assert pieces(BYTES, ids) == ["", "", "你", "", "", "", "😀"]


def test_a_character_that_stays_incomplete_is_left_out() -> None:
    ids = BYTES.tokenizer.encode("a你").ids
    assert "".join(pieces(BYTES, ids[:-1])) == "a"


def test_special_tokens_give_no_text_and_do_not_part_a_character() -> None:
    first, *others = BYTES.tokenizer.encode("é").ids
    assert "".join(pieces(BYTES, [first, SPECIAL, *others])) == "é"


def test_a_byte_level_tokenizer_is_decoded_by_bytes_and_any_other_by_the_library() -> None:
    assert isinstance(BYTES.decoder(), ByteDecoder)
    assert isinstance(MERGED.decoder(), ByteDecoder)
    assert isinstance(PIECES.decoder(), LibraryDecoder)


def test_bytes_of_tokens() -> None:
    space, smile = MERGED.tokenizer.encode(" t😀").ids
    assert MERGED.bytes_of(space) == b" t"
    assert MERGED.bytes_of(smile) == "😀".encode()
    assert PIECES.bytes_of(piece_id("▁the")) == b" the"
    assert PIECES.bytes_of(piece_id("<0xE4>")) == b"\xe4"
    assert MERGED.bytes_of(100_000) == b""


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_bytes_of_tokens_join_to_the_text(text: str) -> None:
    ids = MERGED.tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(MERGED.bytes_of(token) for token in ids) == text.encode()
