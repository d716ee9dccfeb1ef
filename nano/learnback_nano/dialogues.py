"""The training corpus: an endless stream of dialogues, made from the grammar by a seed.

Each message carries the weight of its loss. What the model should say weighs 1; what users say
weighs a little, for it teaches the language; a first answer in an unasked style weighs nothing: it
is there only to be criticised.
"""

from dataclasses import dataclass
from random import Random

from learnback_nano import critiques, remarks, smalltalk
from learnback_nano.items import Item, with_answer
from learnback_nano.kinds import KINDS, UNDO_KINDS, kind_of
from learnback_nano.splits import is_held_out
from learnback_nano.styles import AXES, Style, canonical, render, sample_style
from learnback_nano.tasks import TASKS, sample_item

USER_WEIGHT = 0.1
# Kinds that can be told beforehand: the undo kinds have nothing to undo in a fresh answer.
INSTRUCTIONS = tuple(kind for kind in KINDS if kind not in UNDO_KINDS)
_STYLES_HELD_OUT_ONE_IN = 8
_GIVEN_OTHERWISE = 0.15
_DICTATED = 0.04
_UNDER_SYSTEM = 0.08


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, and how much its tokens count in training."""

    role: str
    content: str
    weight: float


def _user(text: str) -> Message:
    return Message("user", text, USER_WEIGHT)


def _answer(item: Item, style: Style, weight: float = 1.0) -> Message:
    return Message("assistant", render(item.answer, style), weight)


def is_style_held_out(style: Style) -> bool:
    """Whether this combination of styles is kept from training.

    Only combinations of three departures or more are: the simple ones are what users ask for first.
    """
    plain = Style()
    departures = [axis for axis in AXES if getattr(style, axis) != getattr(plain, axis)]
    return len(departures) > 2 and is_held_out("style", repr(style), _STYLES_HELD_OUT_ONE_IN)


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each task and each kind of critique is drawn: as often as it stands here."""

    tasks: tuple[str, ...]
    kinds: tuple[str, ...]
    told: float = 0.15  # the share of dialogues whose wish is told beforehand
    pointedly: bool = False  # beforehand only what changes the answer
    corrected: float = 0.16  # the share of rounds with a correction
    two: float = 0.15  # the share of rounds with two requests in one critique


_BEFORE_PARAPHRASE = (*(task for task in TASKS if task != "paraphrase"), "comparison")
EVEN = Mix(_BEFORE_PARAPHRASE, tuple(KINDS))
# What is learned last comes more often: whether two sentences say the same, and the kinds that
# write every word anew.
FOCUSED = Mix(
    tasks=(*_BEFORE_PARAPHRASE, "comparison", "comparison"),
    kinds=(*KINDS, "short", "sentence", "chinese", "english", "upper", "no_upper"),
)
# Sentences that differ in one word seemed too hard to begin with; plainer contrasts did not help.
GRADED = Mix((*_BEFORE_PARAPHRASE, "contrast", "comparison", "contrast", "contrast"), FOCUSED.kinds)
# What was known by then was not known in every style: "the capital, but short" was still guessed.
APPLIED = Mix(
    tasks=(
        *(*_BEFORE_PARAPHRASE, "contrast", "comparison", "contrast"),
        *("note", "note", "capital", "opposite"),
    ),
    kinds=(*FOCUSED.kinds, "short", "upper", "lower"),
    told=0.27,
    pointedly=True,
)
# Comparing is given up for saying otherwise, which asks for the same understanding and is learned.
REPLACED = Mix(
    tasks=(*TASKS, "paraphrase", "paraphrase", "note", "note", "capital", "opposite"),
    kinds=(*APPLIED.kinds, "sentence", "english", "exclaim", "full_stop", "no_lower"),
    told=0.27,
    pointedly=True,
    two=0.22,
)
# All is known by now, and the rest is care: whose line of a note it is, each letter of a name
# that nobody saw before, and the kinds that were still weakest.
SETTLED = Mix(
    tasks=(
        *TASKS,
        "note",
        "two_people",
        "two_people",
        "two_people",
        "summary",
        "en_zh",
        "paraphrase",
    ),
    kinds=(
        *(*KINDS, *KINDS, "short", "sentence", "upper", "no_upper", "no_upper", "no_lower"),
        *("no_lower", "exclaim", "no_exclaim", "full_stop", "no_ending", "no_thanks", "chinese"),
    ),
    told=0.2,
    pointedly=True,
    corrected=0.22,
    two=0.2,
)
PHASES = {0: EVEN, 1_800: FOCUSED, 2_600: GRADED, 3_600: APPLIED, 4_800: REPLACED, 5_700: SETTLED}


def sample_dialogue(rng: Random, mix: Mix = EVEN) -> list[Message]:
    """One dialogue of the corpus, now and then under a system message that asks nothing."""
    dialogue = _dialogue(rng, mix)
    if dialogue[0].role != "system" and rng.random() < _UNDER_SYSTEM:
        return [Message("system", smalltalk.sample_system(rng), USER_WEIGHT), *dialogue]
    return dialogue


def _dialogue(rng: Random, mix: Mix) -> list[Message]:
    dice = rng.random()
    if dice < 0.015:
        said, answer = smalltalk.sample_exchange(rng)
        return [_user(said), Message("assistant", answer, 1.0)]
    if dice < 0.16:
        return _plain(rng, mix, 1)
    if dice < 0.21:
        return _plain(rng, mix, rng.randint(2, 4))
    if dice < 0.21 + mix.told:
        return _instructed(rng, mix)
    if dice < 0.24 + mix.told:
        return _plain(rng, mix, rng.randint(1, 2)) + _revised(rng, mix)
    return _revised(rng, mix)


def _plain(rng: Random, mix: Mix, exchanges: int) -> list[Message]:
    messages = []
    for _ in range(exchanges):
        item = sample_item(rng.choice(mix.tasks), rng)
        messages += [_user(item.prompt), _answer(item, item.default)]
    return messages


def _instructed(rng: Random, mix: Mix) -> list[Message]:
    """The wish comes first, in a system message or in the prompt itself."""
    items = [sample_item(rng.choice(mix.tasks), rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    kinds = _compatible_kinds(rng, mix, items[0])
    texts = [critiques.instruct(kind, rng) for kind in kinds]
    if rng.random() < 0.5:
        opening = [Message("system", " ".join(texts), USER_WEIGHT)]
        return opening + [turn for item in items for turn in _told(item, item.prompt, kinds)]
    return _told(items[0], _with_instruction(rng, items[0].prompt, texts), kinds)


def _compatible_kinds(rng: Random, mix: Mix, item: Item) -> list[str]:
    fitting = [k for k in INSTRUCTIONS if _fits(k, item)]
    if mix.pointedly:
        fitting = [k for k in mix.kinds if k in fitting and _changes(k, item)]
    kinds = [rng.choice(fitting)]
    if rng.random() < 0.25:
        taken = kind_of(kinds[0]).axis
        kinds.append(rng.choice([k for k in fitting if kind_of(k).axis != taken]))
    return kinds


def _fits(kind: str, item: Item) -> bool:
    wish = kind_of(kind)
    return wish.axis != "language" or wish.value in item.languages


def _changes(kind: str, item: Item) -> bool:
    return critiques.is_possible(kind, item.answer, item.default, item.languages)


def _told(item: Item, prompt: str, kinds: list[str]) -> list[Message]:
    style = item.default
    for kind in kinds:
        if _fits(kind, item):
            style = critiques.apply(kind, item.answer, style, item.languages)
    return [_user(prompt), _answer(item, style)]


def _with_instruction(rng: Random, prompt: str, texts: list[str]) -> str:
    told = " ".join(texts)
    if not told.endswith((".", "。", "!", "！", "?", "？")):
        told += "."
    gap = rng.choice((" ", "\n"))
    return prompt + gap + told if rng.random() < 0.7 else told + gap + prompt


def _revised(rng: Random, mix: Mix) -> list[Message]:
    """An answer, and what users make of it in one to three rounds."""
    item = sample_item(rng.choice(mix.tasks), rng)
    if rng.random() < _GIVEN_OTHERWISE:
        # The answer stands as it was given, right or wrong: a critique of style leaves it alone.
        item = with_answer(item, rng.choice(item.rivals))
    kind, style = _draw_trained(rng, mix, item)
    messages = [_user(item.prompt), _answer(item, style, weight=0.0)]
    for n in range(rng.choice((1, 1, 2, 3))):
        said, item, style = _round(rng, mix, item, style, kind if n == 0 else None)
        messages += [said, _answer(item, style)]
    if rng.random() < _DICTATED:
        messages += _dictation(rng)
    return messages


def draw_start(rng: Random, item: Item, kind: str) -> Style | None:
    """A style of answer that this kind of critique can be said of, if the draw gives one."""
    wish = kind_of(kind)
    style = sample_style(rng, item.default, item.languages)
    if wish.undoes is not None:
        style = style.having(wish.axis, wish.undoes)
    elif getattr(style, wish.axis) == wish.value and _fits(kind, item):
        others = item.languages if wish.axis == "language" else AXES[wish.axis]
        style = style.having(wish.axis, rng.choice(others))
    style = canonical(item.answer, style, item.languages)
    return style if critiques.is_possible(kind, item.answer, style, item.languages) else None


def _draw_trained(rng: Random, mix: Mix, item: Item) -> tuple[str, Style]:
    while True:
        kind = rng.choice(mix.kinds)
        style = draw_start(rng, item, kind)
        if style and not is_style_held_out(style) and kind in _possible(item, style):
            return kind, style


def _possible(item: Item, style: Style) -> list[str]:
    """The kinds that fit here and lead to no combination that is kept from training."""
    return [
        kind
        for kind in KINDS
        if critiques.is_possible(kind, item.answer, style, item.languages)
        and not is_style_held_out(critiques.apply(kind, item.answer, style, item.languages))
    ]


_Round = tuple[Message, Item, Style]


def _round(rng: Random, mix: Mix, item: Item, style: Style, kind: str | None) -> _Round:
    dice = rng.random()
    if dice < mix.corrected:
        return _correction(rng, item, style)
    if dice < mix.corrected + 0.07:
        return _user(remarks.praise(rng)), item, style
    if dice < mix.corrected + 0.11:
        return _already_so(rng, item, style)
    if kind is None:
        kind = rng.choice(_possible(item, style))
    if dice < mix.corrected + 0.11 + mix.two:
        return _two_wishes(rng, item, style, kind)
    wanted = critiques.apply(kind, item.answer, style, item.languages)
    return _user(critiques.phrase(kind, rng)), item, wanted


def _two_wishes(rng: Random, item: Item, style: Style, kind: str) -> _Round:
    other, wanted = draw_second(rng, item, style, kind)
    return _user(critiques.phrase_two((kind, other), rng)), item, wanted


def draw_second(rng: Random, item: Item, style: Style, kind: str) -> tuple[str, Style]:
    """A second wish, on another axis than the first, and the style that both together ask for."""
    middle = critiques.apply(kind, item.answer, style, item.languages)
    axis = kind_of(kind).axis
    other = rng.choice([k for k in _possible(item, middle) if kind_of(k).axis != axis])
    return other, critiques.apply(other, item.answer, middle, item.languages)


def _correction(rng: Random, item: Item, style: Style) -> _Round:
    claims = [answer for answer in (*item.rivals, item.truth) if answer != item.answer]
    if not claims:  # the answer was given as the only thing that else could be claimed
        return _user(remarks.praise(rng)), item, style
    item = with_answer(item, rng.choice(claims))
    return _user(remarks.correct(item.answer.short[style.language], rng)), item, style


def _already_so(rng: Random, item: Item, style: Style) -> _Round:
    """A wish that is met already changes nothing."""
    met = [k for k in INSTRUCTIONS if getattr(style, kind_of(k).axis) == kind_of(k).value]
    return _user(critiques.phrase(rng.choice(met), rng)), item, style


def _dictation(rng: Random) -> list[Message]:
    text = remarks.sample_dictated_text(rng, "seen")
    return [_user(remarks.dictate(text, rng)), Message("assistant", text, 1.0)]
