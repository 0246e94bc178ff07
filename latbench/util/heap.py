"""Memory that the C library keeps after it was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def release() -> None:
    """Return freed pages of the C heap to the system; nothing where the C library cannot.

    Tensors of ever other sizes leave holes in glibc's heap that later ones do not fit into, so that a process which
    uses the same memory at every step grows from step to step. Contents do not change, and no result does.
    """
    if trim := _trim():
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None on other systems and C libraries."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # TypeError: Windows has no library without a name
        return None
    return trim
