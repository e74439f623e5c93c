"""vLLM's plugin hook: it runs in every process vLLM starts, makes each die with its parent, and lets engines resume.

Without the first a SIGKILL of the worker leaves EngineCore behind for ever, with the memory and a core of its own.
Entry point group `vllm.general_plugins`. It runs before a model is loaded: nothing is imported that vLLM would not.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

from inferbus_llm_worker.adapters.vllm.resume_plugin import install

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Do both, in this order: a process whose parent is gone leaves at once."""
    _die_with_parent()
    install()


def _die_with_parent() -> None:
    """Ask the kernel for a SIGKILL when the parent thread dies; leave at once if the parent is gone already."""
    parent = multiprocessing.parent_process()
    if parent is None:  # the worker itself
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # not "== 1": in a container the worker may well be process 1
        os._exit(1)
