"""vLLM's plugin hook: it runs in every process vLLM starts, and makes each die with its parent.

Without it a SIGKILL of the worker leaves EngineCore behind for ever, with the memory and a core of its own.
Entry point group `vllm.general_plugins`; nothing else may be imported here, it runs before a model is loaded.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Ask the kernel for a SIGKILL when the parent thread dies; leave at once if the parent is gone already."""
    parent = multiprocessing.parent_process()
    if parent is None:  # the worker itself
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # not "== 1": in a container the worker may well be process 1
        os._exit(1)
