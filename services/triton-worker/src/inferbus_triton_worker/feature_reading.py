"""Features for requests that bring entity ids: read over the bus, put into the request, and, where it is wished, kept with
what was predicted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.features import GetAnswer, GetRequest
from inferbus.contracts.predictions import PredictedTensor, PredictionLogged
from inferbus.errands import Errands
from inferbus.errors import Unsupported
from inferbus.feature_reads import DEADLINE_S, ReadAsker, read_features
from inferbus.kserve.request import InferRequest
from inferbus.kserve.tensors import values_of
from inferbus.worker.ports import Work
from inferbus_triton_worker.domain.feature_inputs import Wish, filled, question_of
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferResult

_HOLD_S = 30.0


Keep = Callable[[str, InferResult], None]
"""Called with the model's name and its result: it is kept, if that was wished."""


class FilledRequest(NamedTuple):
    """A request with its inputs, and what to do with what the model makes of them."""

    request: InferRequest
    keep: Keep


class Features(Protocol):
    """Reads features for requests that bring ids."""

    async def fill(self, work: Work, request: InferRequest, signature: Signature, wish: Wish) -> FilledRequest:
        """Make the inputs of a request.

        Raises:
            InferbusError: they cannot be read, or the model's inputs cannot be made of them.
        """
        ...


class NoFeatures:
    """Where nobody said how to ask."""

    async def fill(self, work: Work, request: InferRequest, signature: Signature, wish: Wish) -> FilledRequest:  # noqa: ARG002
        raise Unsupported("this worker cannot read features", param="feature_service")


class BusFeatures:
    """Asks the features service. `errands` store what is kept, and nobody waits for them."""

    def __init__(self, bus: Bus, errands: Errands) -> None:
        self._bus = bus
        self._errands = errands

    async def fill(self, work: Work, request: InferRequest, signature: Signature, wish: Wish) -> FilledRequest:
        """Read what a request needs, and make its inputs of it.

        Raises:
            InferbusError: what the features service says; what cannot be made of it.
        """
        question = question_of(request, signature)
        asker = ReadAsker(
            tenant=work.tenant, key_id=work.key_id, team=work.team, user=work.user, request_id=work.request_id,
            traceparent=work.traceparent, deadline_s=min(work.left_s or DEADLINE_S, DEADLINE_S),
        )  # fmt: skip
        answer = await read_features(self._bus, asker, wish.service, question)

        def keep(model: str, result: InferResult) -> None:
            if wish.is_logged:
                self._keep(work, model, question, answer, result)

        return FilledRequest(filled(request, signature, answer, wish), keep)

    def _keep(self, work: Work, model: str, question: GetRequest, answer: GetAnswer, result: InferResult) -> None:
        event = PredictionLogged(
            request_id=work.request_id, tenant=work.tenant, model=model, version=result.version,
            at=round(time.time(), 3), service=answer.service, revision=answer.revision, rows=answer.rows,
            entities=question.entities, context=question.context, features=answer.columns,
            outputs=[
                PredictedTensor(
                    name=output.name, datatype=output.datatype, shape=list(output.shape),
                    values=[_plain(value) for value in values_of(output.datatype, output.shape, output.raw)],
                )
                for output in result.outputs
            ],
        )  # fmt: skip
        subject = routes.event("triton", routes.FACT_PREDICTION)

        async def store() -> None:
            await self._bus.accept(subject, to_json(event), {}, msg_id=f"prediction:{work.key}", hold_s=_HOLD_S)

        self._errands.add(routes.FACT_PREDICTION, store)


class FeatureReading:
    """A part of the worker: what stores kept predictions is let finish at the end."""

    def __init__(self, bus: Bus) -> None:
        self._errands = Errands()
        self.features = BusFeatures(bus, self._errands)

    async def start(self) -> None:
        """Nothing to do before the first request."""

    async def stop(self) -> None:
        await self._errands.stop()


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
