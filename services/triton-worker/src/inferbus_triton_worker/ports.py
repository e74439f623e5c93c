"""What this worker needs of a Triton server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import msgspec

from inferbus.kserve.response import OutputTensor
from inferbus_triton_worker.domain.signature import Signature

Scalar = bool | int | float | str


class InputTensor(msgspec.Struct, frozen=True):
    """One input, raw: little-endian, row-major, BYTES with lengths."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes


class WantedOutput(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Scalar] = {}


class InferCall(msgspec.Struct, frozen=True, kw_only=True):
    """One inference as it goes to the server. `version` empty: the server's choice. `outputs` empty: all."""

    model: str
    version: str
    request_id: str
    inputs: Sequence[InputTensor]
    outputs: Sequence[WantedOutput] = ()
    parameters: dict[str, Scalar] = {}
    traceparent: str = ""


class InferResult(msgspec.Struct, frozen=True):
    """One answer. `final`: a stream has no more after it."""

    version: str
    outputs: list[OutputTensor]
    final: bool = False


class ModelState(msgspec.Struct, frozen=True):
    """One version of a model in the server's repository."""

    name: str
    version: str
    state: str
    reason: str = ""


class ServerError(Exception):
    """What a server answers instead of a result; the message is its own."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refused(ServerError):
    """It will not do this, however often it is asked. `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ModelDead(ServerError):
    """The process that runs `model` is gone, which in an ensemble is another one than was asked; the server does not bring
    it back by itself."""

    def __init__(self, message: str, model: str) -> None:
        super().__init__(message)
        self.model = model


class Busy(ServerError):
    """It cannot now: its own queue is full, the model is being loaded, or nobody is there at all."""


class TimedOut(ServerError):
    """No answer within the call's time."""


class TritonServer(Protocol):
    """One server. All calls raise `ServerError`; `timeout_s` 0: no limit. A call that is cancelled is cancelled there."""

    async def infer(self, call: InferCall, timeout_s: float) -> InferResult: ...

    def stream(self, call: InferCall, timeout_s: float) -> AsyncIterator[InferResult]:
        """Give the answers of a decoupled model as they come; the last one is `final`, and may have no outputs."""
        ...

    async def signature(self, model: str, version: str) -> Signature:
        """Ask what a model takes and gives."""
        ...

    async def live(self, timeout_s: float) -> bool:
        """Say whether it answers at all; raises nothing."""
        ...

    async def ready(self, timeout_s: float) -> bool:
        """Say whether it is up and its models are loaded; raises nothing."""
        ...

    async def index(self) -> list[ModelState]: ...

    async def load(self, model: str, config: str = "") -> None:
        """Load a model, or again what changed. `config`: JSON that stands in place of the repository's."""
        ...

    async def unload(self, model: str, *, dependents: bool = False) -> None:
        """Unload a model; `dependents`: what it is made of as well."""
        ...

    async def model_ready(self, model: str, version: str) -> bool:
        """Say whether the server calls a model ready, which it does of one whose process died, too."""
        ...

    async def about(self) -> dict[str, Any]:
        """Give the server's own name, version and extensions."""
        ...

    async def metadata(self, model: str, version: str) -> dict[str, Any]: ...

    async def config(self, model: str, version: str) -> dict[str, Any]: ...

    async def statistics(self, model: str, version: str) -> dict[str, Any]: ...

    async def close(self) -> None: ...
