"""OpenVINO itself."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import openvino as ov


class _Stack(ctypes.Structure):
    """C's ``stack_t``."""

    _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Keep the stack on which this thread handles signals.

    OpenVINO's CPU sets another, and unmaps it when it is released: the one before is back only if cores are released in
    the reverse order and by this thread. Otherwise the next signal (SIGTERM, Ctrl-C, the end of a child process) would
    be a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def new_core() -> ov.Core:
    """OpenVINO, that copies the files it reads, and may be released at any time.

    A file that is replaced or cut while it is mapped would change the model that is running, or end its process.
    """
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})
    with _same_signal_stack():
        _ = core.available_devices  # asking loads them
    return core
