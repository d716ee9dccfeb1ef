"""Makes products on the CPU the same to the last bit, whatever else is in the batch.

MKL picks its kernels by the size of a product and by how memory is aligned, and their last bits
differ: a row could get other logits beside other rows. Its conditional numerical reproducibility
(`MKL_CBWR`) forbids that. No torch here: it has to be asked before torch multiplies for the first
time.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROCESSOR = Path("/proc/cpuinfo")


def make_reproducible() -> None:
    """Asks MKL for the same bits; a setting of the operator's own stands.

    On processors of Intel's only its strict mode does it: with AVX-512, products of up to 8 rows
    differ from larger ones without. It takes twice as long for 4 rows, and no longer from 16 on.
    Elsewhere (seen on AMD's) the simple mode does, from 4 rows on.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT" if _is_intel() else "AUTO")


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in _PROCESSOR.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return False
