"""Commands beside `xvol-search`, and how those that make tables print them, and what is wrong."""

from __future__ import annotations

import os
import sys


def refused(command: str, error: Exception) -> int:
    """Print a fault of the user's as one message, and return the exit status."""
    message = str(error)
    if isinstance(error, OSError):
        message = (
            f"{error.filename or 'the table'}: {error.strerror or error}; give a folder you can write to with --out"
        )
    print(f"{command}: {message}", file=sys.stderr)
    return 2


def printed(text: str) -> None:
    """Print to a terminal or a pipe that may lack a character, or close early (`| head`)."""
    try:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has all it wants. Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
