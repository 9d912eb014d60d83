"""Errors that end a command, told apart by who has to act."""

from __future__ import annotations


class UserError(Exception):
    """The request was wrong: the command line prints the sentence and exits 2, without a traceback."""


class RunFailed(Exception):
    """The request was right but the run could not go on (a NaN loss, say): exit 1 with the sentence."""
