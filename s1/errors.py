"""Errors that a user can mend."""

import errno

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # numbers of an OSError


class UserError(ValueError):
    """A mistake of the user's that the user can mend.

    The message is one line: the value that was met, the rule it breaks, and the fix. Jobs print it and exit with
    code 2; everything else is a fault of ours and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A name or value that is quoted in it may hold line breaks and control characters: they are written out.
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))
