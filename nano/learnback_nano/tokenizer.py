"""The tokenizer: byte-level BPE in which a word splits alike in every case and after any space.

Pieces are learned on words in lower case, then each merge gets twins for `Word` and `WORD`, so that
upper-casing a name that was never seen maps piece by piece. A space joins whole known words only,
and last, so that a name splits alike at the start of an answer and in the middle of a note. Digits
stand alone. Any bytes encode, since the alphabet is all 256 of them.

The twin of a common word, such as " Week", is a piece that only a name like Weekree would need, and
of which training sees next to nothing: what was never learned can't be copied either. So such
merges are left out in the end (`pruned`), and those names split into smaller pieces, which are
known well. (Under-trained tokens: Land and Bartolo 2024, arXiv 2405.05417.)
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from learnback_nano.dialogues import PHASES, sample_dialogue
from learnback_nano.styles import SMILE

CONTEXT_TOKENS = 2048
PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)
# A role that is not known is read as a user's, and markers inside a message are defused, so that no
# text can pass for another turn.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set role = message['role'] if message['role'] in ['system', 'assistant'] else 'user' -%}
{{- '<|' + role + '|>' -}}
{%- set content = message['content'] -%}
{%- if content is string -%}
{{- content | replace('<|', '< |') -}}
{%- else -%}
{%- for part in content or [] -%}{{- (part['text'] or '') | replace('<|', '< |') -}}{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

_SAMPLE_DIALOGUES = 20_000
_LEARNED_PIECES = 1_500  # bytes, English pieces in lower case and Chinese together
_SPACED_WORDS = 450
_SPACE = "Ġ"  # how byte-level BPE spells a space
_COUNTED_DIALOGUES = 4_000  # of each phase of the training
_LEAST_SEEN = 6  # times that a piece with a capital must occur in all of these
_WORD = re.compile(r"[A-Za-z]+|[一-鿿]+")
_LATIN = re.compile(r"[a-z]+")
_CAPITALISED = re.compile(f"{_SPACE}?[A-Z][a-z]*")


def build(seed: int) -> PreTrainedTokenizerFast:
    """Learn the tokenizer from a sample of the corpus."""
    counts = _word_counts(seed)
    learned = _learn_merges(counts)
    words = _frequent_words(counts, learned)
    whole = _whole_characters(sorted({*"".join(counts), SMILE}))
    merges = _with_twins(learned) + whole + _with_twins([(_SPACE, word) for word in words])
    return _assembled(_vocabulary(merges), list(dict.fromkeys(merges)))


def pruned(tok: PreTrainedTokenizerFast, seed: int) -> PreTrainedTokenizerFast:
    """The same tokenizer without the pieces with a capital that training hardly sees.

    The vocabulary stays as it is, and so does how nearly all of the corpus is split.
    """
    model = json.loads(tok.backend_tokenizer.to_str())["model"]
    merges, counts = [tuple(merge) for merge in model["merges"]], _piece_counts(tok, seed)
    while rare := _rare_leaves(merges, counts):
        merges = [merge for merge in merges if merge not in rare]
    return _assembled(model["vocab"], merges)


def _piece_counts(tok: PreTrainedTokenizerFast, seed: int) -> Counter[str]:
    rng = Random(f"{seed}/pieces")
    counts: Counter[str] = Counter()
    for mix in PHASES.values():
        for _ in range(_COUNTED_DIALOGUES):
            for message in sample_dialogue(rng, mix):
                counts.update(tok.tokenize(message.content))
    return counts


def _rare_leaves(merges: list[tuple[str, str]], counts: Counter[str]) -> set[tuple[str, str]]:
    """The merges to leave out of which no other piece is made."""
    parts = {part for merge in merges for part in merge}
    return {
        (left, right)
        for left, right in merges
        if _CAPITALISED.fullmatch(left + right)
        and left + right not in parts
        and counts[left + right] < _LEAST_SEEN
    }


def _word_counts(seed: int) -> Counter[str]:
    rng = Random(f"{seed}/tokenizer")
    counts: Counter[str] = Counter()
    for _ in range(_SAMPLE_DIALOGUES):
        for message in sample_dialogue(rng):
            counts.update(word.lower() for word in _WORD.findall(message.content))
    return counts


def _learn_merges(counts: Counter[str]) -> list[tuple[str, str]]:
    """Merges over lower-case words and Chinese runs; never across a space."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_LEARNED_PIECES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_repeated(counts), trainer)
    state = learner.model.__getstate__()
    return _merges_of(state)


def _repeated(counts: Counter[str]) -> Iterator[list[str]]:
    """Each word as often as it occurs, in an order that is always the same."""
    for word, count in sorted(counts.items()):
        yield [word] * count


def _merges_of(state: bytes) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(state)["merges"]]


def _whole_characters(characters: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make one piece of each character of several bytes."""
    merges = []
    for character in characters:
        symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        spelled = symbols.pre_tokenize_str(character)[0][0]
        merges += [(spelled[:n], spelled[n]) for n in range(1, len(spelled))]
    return merges


def _frequent_words(counts: Counter[str], merges: list[tuple[str, str]]) -> list[str]:
    """The commonest words that became one piece, and so may carry their space."""
    pieces = {left + right for left, right in merges} | set("ai")
    common = [word for word, _ in counts.most_common() if _LATIN.fullmatch(word)]
    return [word for word in common if word in pieces][:_SPACED_WORDS]


def _with_twins(merges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every merge followed by its twins for a capital and for capitals throughout."""
    twins = []
    for left, right in merges:
        twins += [(left, right), _capital_twin(left, right), (_upper(left), _upper(right))]
    return list(dict.fromkeys(twins))


def _capital_twin(left: str, right: str) -> tuple[str, str]:
    if _LATIN.search(left):
        return _capital(left), right
    return left, _capital(right)


def _capital(piece: str) -> str:
    return re.sub("[a-z]", lambda letter: letter[0].upper(), piece, count=1)


def _upper(piece: str) -> str:
    """Only ASCII: other letters stand for bytes here, which have no case."""
    return re.sub("[a-z]", lambda letter: letter[0].upper(), piece)


def _vocabulary(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIALS, *alphabet, *(left + right for left, right in merges)]
    return {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}


def _assembled(
    vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files, chat template included."""
    tokenizer.save_pretrained(folder)
