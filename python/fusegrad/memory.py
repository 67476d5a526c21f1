"""What the C library does with memory that is freed: a third of a step on second derivatives can be fresh pages.

glibc returns large blocks to the operating system as soon as they are free, and the next step gets them back a page at
a time, each zeroed by the kernel. Told to keep them, it hands out the same pages again.
"""

import ctypes
import os
import sys
import warnings
from typing import Any

from .backends import asked

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_MOST = 2**31 - 1  # mallopt takes an int
_PAD = 2**28
# To where glibc raises its limits by itself, as blocks of such a size are freed; told once, it no longer does so.
_RAISED_MMAP, _RAISED_TRIM, _DEFAULT_PAD = 2**25, 2**26, 2**17


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    )


def keep_memory(keep: bool = True) -> bool:
    """Let this process keep the memory that it frees, so that its next step finds it warm: for all of it, stock too.

    Of torch's tensors on a CPU, and all else that ``malloc`` gives. What it costs: the process holds the most memory
    that it ever used. What it gains: up to 1.2 times the speed, where tensors are large and live for one step
    (``python -m fusegrad bench keep_memory``). On glibc only, as on most of Linux; elsewhere, and where another
    ``malloc`` is loaded, it does nothing, says so in a warning, and returns False. The environment variable
    ``FUSEGRAD_KEEP_MEMORY=1`` does the same when fusegrad is imported.

    Args:
        keep: False returns what is free to the operating system now, and has glibc do so again from then on, by the
            limits that it comes to by itself where blocks of 32 MiB come and go.

    Returns:
        Whether ``malloc`` does as it was told.

    Source: mallopt(3), for M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD; malloc_trim(3).

    >>> import fusegrad as fg
    >>> fg.keep_memory()
    True
    >>> fg.keep_memory(False)
    True
    """
    reason = obstacle()
    if reason:
        warnings.warn(f"keep_memory does nothing here: {reason}", stacklevel=2)
        return False
    libc = ctypes.CDLL(None)
    options = (_MOST, _MOST, _PAD) if keep else (_RAISED_MMAP, _RAISED_TRIM, _DEFAULT_PAD)
    names = M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
    done = all([libc.mallopt(name, option) == 1 for name, option in zip(names, options, strict=True)])
    if not keep:
        libc.malloc_trim(ctypes.c_size_t(0))
    return done


def obstacle() -> str:
    """Why malloc can't be told to keep memory, or ""."""
    if not sys.platform.startswith("linux"):
        return f"it tells glibc, and this is {sys.platform}"
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return "the C library is not glibc"
    library = _library_of(libc.malloc)
    return "" if library.startswith(("libc.", "libc-")) else f"malloc is that of {library}, not glibc's"


def _library_of(function: Any) -> str:
    """The file that a function of C is in."""
    info = _DlInfo()
    ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info))
    return os.path.basename((info.dli_fname or b"").decode())


if asked("FUSEGRAD_KEEP_MEMORY", "0", "1") == "1":
    keep_memory()
