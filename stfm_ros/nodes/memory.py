"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Return what the process has freed and the allocator still holds.

    glibc keeps freed blocks between those in use. A node with the network ``small`` that was configured anew every two
    minutes grew so by 60 MB in three quarters of an hour, of which this returned 50 (docs/faults.md). Where the
    allocator is another one, nothing happens.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
