"""Whose turn it is to load a model of a Triton that several workers use: bucket `turns`, `<server>.<model>` (JSON)."""

from __future__ import annotations

import msgspec


class ModelTurn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="triton.turn.v1"):
    """`holder` (a worker's incarnation; empty: nobody) has it until `until`, Unix seconds of server time. `heals`: how many times
    the model was loaded because it had died. `operation`: the last one of an administrator's that was carried out."""

    model: str
    holder: str = ""
    until: float = 0.0
    heals: int = 0
    operation: str = ""

    def is_held(self, by_others_than: str, now: float) -> bool:
        """Say whether somebody else has it."""
        return bool(self.holder) and self.holder != by_others_than and self.until > now
