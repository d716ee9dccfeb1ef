"""Makes products on the CPU the same to the last bit, whatever else is in the batch.

MKL picks its kernels by the size of a product and by how memory is aligned, and their last bits
differ: a row could get other logits beside other rows. Its conditional numerical reproducibility
(`MKL_CBWR`) forbids that. No torch here: it has to be asked before torch multiplies for the first
time.
"""

from __future__ import annotations

import os
from pathlib import Path

FEWEST_ROWS = 4
"""Products of fewer rows differ from larger ones in the simple mode, and have to be padded."""

_PROCESSOR = Path("/proc/cpuinfo")


def make_reproducible() -> None:
    """Asks MKL for the same bits; a setting of the operator's own stands.

    On processors of Intel's only its strict mode does it: with AVX-512, products of up to 8 rows
    differ from larger ones without. It takes twice as long for up to 4 rows, and no longer from 16
    on. Elsewhere (seen on AMD's) the simple mode does, from `FEWEST_ROWS` on.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT" if _is_intel() else "AUTO")


def fewest_rows() -> int:
    """Rows from which on a product of float32 gives each of them the same bits as larger ones."""
    return 1 if "STRICT" in os.environ.get("MKL_CBWR", "").upper() else FEWEST_ROWS


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in _PROCESSOR.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return False
