"""The one exception users see."""

from __future__ import annotations


class SelfInformedError(Exception):
    """Something the user can mend: the message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with code 2; nothing already computed is lost.
    """


class InUseError(SelfInformedError):
    """Another process works on it. The command line exits with code 75 (EX_TEMPFAIL): the same command may succeed later."""


class NotFiniteError(SelfInformedError):
    """Training gave numbers that are not finite; with lower learning rates it may not."""
