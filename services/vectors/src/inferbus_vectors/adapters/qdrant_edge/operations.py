"""Operations: what can be asked of a folder's owner, and the shards that are on their way to a new generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from inferbus_vectors.adapters.qdrant_edge import wire
from inferbus_vectors.adapters.qdrant_edge.folder import Folder
from inferbus_vectors.adapters.qdrant_edge.optimising import Optimising
from inferbus_vectors.adapters.qdrant_edge.shard import Shard
from inferbus_vectors.domain.points import ShardStats

_STEPS = 2
"""Changes done again to a copy after each thing that was asked: it must gain on what comes in."""


class Operations:
    """Does what is asked, one thing at a time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._optimising: dict[str, Optimising] = {}
        self._bodies = {op: msgspec.msgpack.Decoder(body) for op, (body, _) in wire.TYPES.items()}
        self._plain: dict[str, Callable[[str, Any], object]] = {
            wire.ENSURE: lambda _, spec: folder.ensure(spec),
            wire.DROP: self._drop,
            wire.SHARDS: lambda _, __: folder.names(),
            wire.OPTIMISE: lambda shard, _: self._begin(shard),
            wire.STATS: lambda shard, _: self._stats(shard),
        }

    @property
    def busy(self) -> bool:
        """Whether there is something to do though nobody asks."""
        return any(one.copy is not None for one in self._optimising.values())

    @property
    def handles(self) -> list[int]:
        """What becomes readable when there is something to do again."""
        return [one.pidfd for one in self._optimising.values() if one.copy is None]

    def do(self, op: str, shard: str, bodies: list[msgspec.Raw]) -> list[object]:
        """Do some calls of one kind to one shard, and answer each; changes are durable then."""
        arguments = [self._bodies[op].decode(body) for body in bodies]
        if op in self._plain:
            return [self._plain[op](shard, argument) for argument in arguments]
        found = self._folder.get(shard)
        if op == wire.SEARCH:
            return list(found.search(arguments))
        if op not in wire.CHANGES:
            return [_ask(found, op, argument) for argument in arguments]
        answers = [_change(found, op, argument) for argument in arguments]
        found.flush()
        if one := self._optimising.get(shard):
            for body in bodies:
                if not one.note(op, body):
                    self._give_up(shard)
                    break
        return answers

    def advance(self, before_long: Callable[[], None]) -> None:
        """Take the new generations a step further. `before_long` is called before what may take long."""
        for shard, one in list(self._optimising.items()):
            if one.copy is None:
                built = one.built()
                if built:
                    before_long()
                    one.open()
                elif built is not None:
                    self._give_up(shard)
                continue
            for _ in range(min(_STEPS, len(one.changes))):
                op, body = one.changes.popleft()
                _change(one.copy, op, self._bodies[op].decode(body))
            if not one.changes:
                before_long()
                one.copy.flush()
                self._folder.swap(shard, one.copy, one.folder)
                one.copy = None
                del self._optimising[shard]
                one.stop()

    def stop(self) -> None:
        for shard in list(self._optimising):
            self._give_up(shard)

    def _begin(self, shard: str) -> bool:
        if shard in self._optimising:
            return False
        self._folder.get(shard).flush()
        self._optimising[shard] = Optimising(shard, self._folder.copy(shard))
        return True

    def _give_up(self, shard: str) -> None:
        """Leave the old generation as it is; the copy goes when the folder is opened next, or the next one is begun."""
        self._optimising.pop(shard).stop()

    def _drop(self, shard: str, only_if_empty: bool) -> bool:
        if only_if_empty and shard in self._folder.names() and self._stats(shard).points:
            return False
        if shard in self._optimising:
            self._give_up(shard)
        self._folder.drop(shard)
        return True

    def _stats(self, shard: str) -> ShardStats:
        points, indexed, segments = self._folder.get(shard).info()
        return ShardStats(
            points=points, indexed=indexed, segments=segments, bytes=self._folder.size(shard),
            optimising=shard in self._optimising,
        )  # fmt: skip


def _ask(shard: Shard, op: str, argument: Any) -> object:
    if op == wire.READ:
        return shard.read(argument.where, argument.after, argument.limit, argument.with_vector)
    return shard.count(argument)


def _change(shard: Shard, op: str, argument: Any) -> object:
    if op == wire.WRITE:
        return shard.write(argument)
    if op == wire.ERASE:
        return shard.erase(argument)
    if op == wire.SWEEP:
        return shard.sweep(argument)
    shard.index_fields(argument)
    return None
