"""Memory of the process: what was freed is kept for the next tensor.

A network's run asks for large blocks again and again. glibc hands each back to the system, which clears every page of it anew.
"""

import ctypes
import sys

TRIM, PAD, MAP = -1, -2, -3                                      # parameters of glibc's mallopt (malloc.h)
BLOCK = 2**30                                                    # bytes of a block up to which it is kept
AHEAD = 2**26                                                    # bytes that are asked for at once


def keep_freed() -> None:
    """From now on the process keeps what it frees; does nothing where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in ((MAP, BLOCK), (TRIM, 2**31 - 1), (PAD, AHEAD)):
            mallopt(parameter, value)
