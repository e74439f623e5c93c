"""Folder: shards on disk, each as one generation that counts. Only the owner may touch it.

owner.lock                      whoever holds its flock is the owner; taken before anything else is opened, since a
second opening of a shard, even one that fails, damages the first
shards/<name>/CURRENT           the generation that counts
shards/<name>/<generation>/     a shard of the engine's; others than the current are leftovers
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from inferbus.errors import NotFound
from inferbus_vectors.adapters.qdrant_edge.shard import Shard
from inferbus_vectors.domain.points import ShardSpec

_CURRENT = "CURRENT"
_TRASH = ".trash-"


class FolderLock:
    """The right to open what is in a folder. Goes with the process."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._file = (root / "owner.lock").open("w")

    def take(self) -> bool:
        """Take it; False where another process has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give it back."""
        self._file.close()


class Folder:
    """The shards of a folder, open. Make it only while holding its lock."""

    def __init__(self, root: Path) -> None:
        self._root = root / "shards"
        self._root.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, Shard] = {}
        for leftover in self._root.glob(f"{_TRASH}*"):
            shutil.rmtree(leftover)
        for name in self.names():
            self._clear(name)
            self.get(name)

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self._root.glob(f"*/{_CURRENT}"))

    def get(self, name: str) -> Shard:
        """Give an open shard.

        Raises:
            NotFound: there is none of this name.
        """
        shard = self._open.get(name)
        if shard is None:
            if name not in self.names():
                raise NotFound(f"no shard {name}")
            shard = self._open[name] = Shard.load(self.generation(name))
        return shard

    def ensure(self, spec: ShardSpec) -> None:
        if spec.name in self._open:
            return
        folder = self._root / spec.name
        shutil.rmtree(folder, ignore_errors=True)  # without CURRENT: it was never finished
        shard = Shard.create(folder / "g1", spec)
        self._name_current(spec.name, "g1")
        self._open[spec.name] = shard

    def drop(self, name: str) -> None:
        shard = self._open.pop(name, None)
        if shard is None:
            return
        shard.close()
        trash = self._root / f"{_TRASH}{name}"
        (self._root / name).rename(trash)
        shutil.rmtree(trash)

    def generation(self, name: str) -> Path:
        """Say where the generation lies that counts."""
        folder = self._root / name
        return folder / (folder / _CURRENT).read_text().strip()

    def copy(self, name: str) -> Path:
        """Copy the generation that counts, for a new one. It is to be flushed, and not changed meanwhile."""
        old = self.generation(name)
        new = old.with_name(f"g{int(old.name[1:]) + 1}")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(old, new)
        return new

    def swap(self, name: str, new: Shard, where: Path) -> None:
        """Have a new generation count, which is flushed, and remove the old one."""
        old, before = self._open[name], self.generation(name)
        self._name_current(name, where.name)
        self._open[name] = new
        old.close()
        shutil.rmtree(before)

    def close(self) -> None:
        for shard in self._open.values():
            shard.flush()
            shard.close()
        self._open.clear()

    def size(self, name: str) -> int:
        """Give the bytes a shard takes on disk."""
        return sum(file.stat().st_blocks * 512 for file in self.generation(name).rglob("*") if file.is_file())

    def _name_current(self, name: str, generation: str) -> None:
        folder = self._root / name
        new = folder / f"{_CURRENT}.new"
        with new.open("w") as file:
            file.write(generation)
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / _CURRENT)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _clear(self, name: str) -> None:
        current = self.generation(name)
        for other in current.parent.glob("g*"):
            if other != current:
                shutil.rmtree(other)
