from __future__ import annotations

import os
import subprocess
import sys

import pytest

from inferbus.local.layout import Layout
from inferbus.local.lock import AlreadyRunning, Lock, holder_of

_HOLD = "import sys; from pathlib import Path; from inferbus.local.lock import Lock; Lock(Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()"


def test_nobody_holds_what_was_never_taken(layout: Layout) -> None:
    assert holder_of(layout.lock) is None


def test_second_taker_learns_who_has_it(layout: Layout) -> None:
    with Lock(layout.lock):
        assert holder_of(layout.lock) == os.getpid()
        with pytest.raises(AlreadyRunning) as caught:
            Lock(layout.lock).acquire()
    assert caught.value.pid == os.getpid()
    assert holder_of(layout.lock) is None
    Lock(layout.lock).acquire()


def test_death_of_the_holder_frees_it(layout: Layout) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(layout.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert holder_of(layout.lock) == holder.pid
        holder.kill()
        holder.wait()
    with Lock(layout.lock):
        assert holder_of(layout.lock) == os.getpid()
