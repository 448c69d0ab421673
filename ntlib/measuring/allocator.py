"""What the C library does with memory that a tensor no longer needs."""

import ctypes
import sys

# numbers of glibc's mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process, to be used again; False where the C library
    is not glibc and nothing changes.

    By default glibc fetches every block of more than 32 MiB from the system and gives it back at
    once, and the system clears each of its pages anew. That can cost more than an operation that
    reads and writes the block, so that whatever is linear in a length seems to bend where its
    tensors pass that size. The process may hold up to the largest amount it ever needed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
