"""The console command, which is also `python -m audiogen`, and what torchrun starts."""

import atexit
import os
import sys
from contextlib import suppress

from audiogen.cli import main


def command() -> None:
    """Run `main`, then leave as a process does, but for taking the interpreter apart: with torch in it that takes half a second.

    What is to be done at the exit has been done by then: threads have ended, and this comes after every other `atexit`.
    """
    code: int | str | None = 1                                   # of a fault of the program, whose traceback Python shows

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):                  # whoever read us has gone
                stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)

    atexit.register(leave)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
        raise


if __name__ == "__main__":
    command()
