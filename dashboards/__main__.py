"""`python -m dashboards`: writes what is made from the code; `--check` says what is out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dashboards import reference
from dashboards.pages import PAGES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def files() -> dict[Path, str]:
    """Returns what is made, by where it is checked in."""
    boards = {HERE / f"{name}.json": page.to_json() for name, page in PAGES.items()}
    return {ROOT / "docs" / "metrics.md": reference.document(), **boards}


def main() -> int:
    """Writes or checks everything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it would")
    check = parser.parse_args().check
    stale = {file: text for file, text in files().items() if not _has(file, text)}
    for file, text in stale.items():
        if check:
            sys.stderr.write(f"{file.relative_to(ROOT)} is out of date; run: make dashboards\n")
        else:
            file.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def _has(file: Path, text: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
