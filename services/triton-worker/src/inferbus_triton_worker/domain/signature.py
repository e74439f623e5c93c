"""A model's signature: what it takes and gives, and what may be done with its requests."""

from __future__ import annotations

import msgspec


class TensorSpec(msgspec.Struct, frozen=True):
    """`dims` without the rows of a batched model; -1: any size. `ragged`: its rows may differ from the other inputs'."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """`max_rows` 0: the model has no rows. `decoupled`: it answers a request any number of times. `sequential`: requests
    belong to sequences. `cached`: the server keeps answers. `instances`: how many run side by side."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int = 0
    decoupled: bool = False
    sequential: bool = False
    cached: bool = False
    instances: int = 1

    @property
    def can_be_joined(self) -> bool:
        """Whether rows of several requests may go as one without anybody noticing."""
        return (
            self.max_rows > 1
            and not (self.decoupled or self.sequential or self.cached)
            and not any(spec.ragged or spec.optional for spec in self.inputs)
        )
