"""What is trained on and what is held out, decided by a checksum of the text itself.

The decision needs no list and no seed: the same text is on the same side for everybody, for ever.
"""

import zlib
from typing import Literal

Split = Literal["seen", "unseen"]


def is_held_out(subject: str, text: str, one_in: int) -> bool:
    """Whether `text` is kept from training; about one text in `one_in` is.

    `subject` keeps unlike things apart, so that a name and a phrasing fall independently.
    """
    return zlib.crc32(f"{subject}/{text}".encode()) % one_in == 0


def split_of(subject: str, text: str, one_in: int) -> Split:
    """The side of the split on which `text` falls."""
    return "unseen" if is_held_out(subject, text, one_in) else "seen"
