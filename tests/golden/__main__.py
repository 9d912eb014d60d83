"""`python -m tests.golden PATH…`: check files of the golden format, or folders of them.

Exit 1 if any value misses or cannot be compared, else 3 if any case's algorithm is not there yet, else 0.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from pathlib import Path

from tests.golden.cases import NotThereYet
from tests.golden.checker import TOLERANCE, check_file
from tests.golden.parameters import Unmapped

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, Unmapped)
DAMAGED += (zipfile.BadZipFile, zlib.error)


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m tests.golden PATH… (npz files, or folders of them)", file=sys.stderr)
        return 2
    outcomes = [_check(path) for argument in arguments for path in _files(Path(argument))]
    if not outcomes:
        print("no npz file in what was given", file=sys.stderr)
        return 2
    return 1 if 1 in outcomes else max(outcomes)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.npz")) if path.is_dir() else [path]


def _check(path: Path) -> int:
    try:
        report = check_file(path)
    except NotThereYet as error:
        print(f"{path.name}: algorithm {error} is not there yet")
        return 3
    except DAMAGED as error:
        print(f"{path.name}: FAILED, cannot be compared: {type(error).__name__}: {error}")
        return 1
    verdict = "ok" if report.passed else "FAILED"
    line = f"{path.name}: {verdict}, worst deviation {report.worst:.3e} at {report.key}"
    if report.missed:
        line += f"; beyond {TOLERANCE:g}: {', '.join(report.missed[:5])} ({len(report.missed)} in all)"
    if report.not_compared:
        line += f"; not compared: {', '.join(report.not_compared)}"
    print(line)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
