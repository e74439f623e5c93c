"""Locks of prefixes: what somebody looks after stays, what nobody does is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferbus_triton_worker.adapters import leftovers
from inferbus_triton_worker.adapters.leftovers import LockHeld, locked, sweep

PREFIX = "inferbus_triton_0123456789abcdef_"


def refuse() -> None:
    raise LockHeld


def test_a_lock_is_held_once_and_gone_afterwards(tmp_path: Path) -> None:
    with locked(PREFIX, refuse, memory=tmp_path):
        with pytest.raises(LockHeld), locked(PREFIX, refuse, memory=tmp_path):
            raise AssertionError
        assert (tmp_path / f"{PREFIX}lock").exists()
    assert list(tmp_path.iterdir()) == []
    with locked(PREFIX, refuse, memory=tmp_path):
        pass


def test_regions_are_removed_and_the_lock_is_not(tmp_path: Path) -> None:
    with locked(PREFIX, refuse, memory=tmp_path):
        (tmp_path / f"{PREFIX}region").touch()
        (tmp_path / "inferbus_triton_fedcba9876543210_region").touch()
        assert leftovers.remove_regions(PREFIX, memory=tmp_path) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            f"{PREFIX}lock", "inferbus_triton_fedcba9876543210_region",
        ]  # fmt: skip


def test_only_what_nobody_looks_after_is_swept(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}lock").touch()  # of a keeper that was killed
    (tmp_path / f"{PREFIX}region").touch()
    other = "inferbus_triton_fedcba9876543210_"
    (tmp_path / f"{other}region").touch()
    with locked(other, refuse, memory=tmp_path):
        assert sweep(memory=tmp_path) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{other}lock", f"{other}region"]
