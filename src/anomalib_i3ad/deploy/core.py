"""OpenVINO itself, once for a process."""

import os
from contextlib import suppress

import openvino as ov

#: Of the CPU: for how many sizes of images it keeps its kernels.
CPU_CACHE = "CPU_RUNTIME_CACHE_CAPACITY"
#: By process: of a core that was there before a fork the threads are missing.
_cores: dict[int, ov.Core] = {}


def core() -> ov.Core:
    """The core of this process, never released, that copies the files it reads and keeps nothing of each size.

    A core sets the stack on which its thread handles signals, and puts the one before back when it is released. If two
    are released in the order in which they were made, or one by another thread, a stack stays set that is gone, and the
    next signal (SIGTERM, Ctrl-C, the end of a child process) is a segmentation fault.

    A file that is replaced or cut while it is mapped would change the model that is running, or end its process.
    """
    process = os.getpid()
    if process not in _cores:
        made = ov.Core()
        made.set_property({"ENABLE_MMAP": False})
        if "CPU" in made.available_devices:  # asking loads what refuses unknown properties
            with suppress(RuntimeError):  # or it keeps what it made for each size of images; known until it is not
                made.set_property("CPU", {CPU_CACHE: 0})
        _cores.setdefault(process, made)
    return _cores[process]
