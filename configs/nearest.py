"""What somebody who mistyped a name probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like `word`, whatever its case; None where none is alike."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean qmix?`, or nothing where no name is alike."""
    near = nearest(word, names)
    return "" if near is None else f"; did you mean {near}?"
