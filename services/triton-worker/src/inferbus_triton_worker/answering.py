"""Answering: one request of any of this worker's paths, from its body to the body of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from inferbus.contracts.step import Usage
from inferbus.errors import (
    DeadlineWhileRunning,
    InferbusError,
    NotFound,
    Permanent,
    ResumeImpossible,
    Unsupported,
)
from inferbus.kserve.content_type import content_type_of
from inferbus.kserve.paths import GENERATE, GENERATE_STREAM, INFER, ModelPath, parse_path
from inferbus.kserve.request import InferRequest, parse
from inferbus.kserve.response import write
from inferbus.kserve.tensors import raw_of
from inferbus.worker.open_calls import OpenCall
from inferbus.worker.ports import Work
from inferbus.worker.tasks import EMBEDDINGS
from inferbus_triton_worker.batcher import Batcher
from inferbus_triton_worker.caller import Caller
from inferbus_triton_worker.catalog import Catalog
from inferbus_triton_worker.domain import embeddings, generate
from inferbus_triton_worker.domain.checking import rows_of
from inferbus_triton_worker.domain.failures import error_body, refusal_body
from inferbus_triton_worker.domain.feature_inputs import wish_of
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.feature_reading import Features, Keep
from inferbus_triton_worker.generating import Generation, only_answer, read_generation
from inferbus_triton_worker.ports import (
    Busy,
    InferCall,
    InferResult,
    InputTensor,
    Refused,
    TimedOut,
    WantedOutput,
)

_JSON, _SSE = "application/json", "text/event-stream; charset=utf-8"
_LATE_S = 0.5
"""The worker stops a request at its deadline; the server, which is told too, should not be first."""
_OURS = ("binary_data", "binary_data_output", "binary_data_size")
_SIDE_BY_SIDE = 2
log = structlog.get_logger()


class Answering:
    """Answers with what one server says. `server_name` gives a model's name inside it, `features` who reads features."""

    def __init__(
        self,
        catalog: Catalog,
        caller: Caller,
        batcher: Batcher | None,
        server_name: Callable[[str], str],
        features: Callable[[], Features],
    ) -> None:
        self._features = features
        self._catalog = catalog
        self._caller = caller
        self._batcher = batcher
        self._server_name = server_name
        self.rows = 0

    async def answer(self, work: Work, call: OpenCall) -> None:
        """Bring one request to its end; all that can happen ends it."""
        try:
            await self._answer(work, call)
        except asyncio.CancelledError:
            raise
        except Permanent as error:
            call.finish(error.row.http_status, Usage(), error_body(work.path, error), _JSON)
        except Refused as error:
            call.finish(error.status, Usage(), refusal_body(work.path, error.message, error.status), _JSON)
        except Busy as error:  # asked what the model takes: it never ran
            call.fail(await self._caller.absence_of(error))
        except TimedOut as error:
            call.fail(DeadlineWhileRunning(f"Triton: {error.message}"))
        except InferbusError as error:
            call.fail(error)
        except Exception as error:
            call.fail(error)

    async def _answer(self, work: Work, call: OpenCall) -> None:
        if work.path == EMBEDDINGS:
            await self._embed(work, call)
            return
        path = parse_path(work.path)
        if path is not None and path.verb == INFER:
            await self._infer(work, call, path)
        elif path is not None and path.verb == GENERATE_STREAM:
            await self._stream(work, call, path)
        elif path is not None and path.verb == GENERATE:
            await self._generate(work, call, path)
        else:
            raise NotFound(f"{work.path} is not a path of inference")

    # --- one answer -----------------------------------------------------------------------------------------------------

    async def _infer(self, work: Work, call: OpenCall, path: ModelPath) -> None:
        request = parse(work.body, work.json_bytes)
        model = work.model or path.model
        inside = self._server_name(model)
        kept: Keep | None = None
        wish = wish_of(request)
        if wish is not None:
            signature = await self._catalog.signature(inside, path.version)
            made = await self._features().fill(work, request, signature, wish)
            request, kept = made.request, made.keep
        signature = await self._catalog.checked(inside, path.version, request)
        if signature.decoupled:
            raise Unsupported(f"The model `{model}` answers in streams only: ask {GENERATE_STREAM}.", param="model")
        rows = rows_of(signature, request.inputs)
        result = await self._call(signature, _call_of(request, inside, path.version, work), rows, _timeout_s(work))
        body, json_bytes = write(model, result.version, request.id, result.outputs, request)
        self.rows += rows
        if kept is not None:
            kept(model, result)
        call.finish(200, Usage(rows), body, content_type_of(json_bytes))

    async def _call(self, signature: Signature, call: InferCall, rows: int, timeout_s: float) -> InferResult:
        try:
            if self._batcher is not None:
                return await self._batcher.infer(signature, call, rows, timeout_s)
            return await self._caller.infer(call, timeout_s)
        except Refused:
            self._catalog.forget(call.model)  # it may have been changed: it seemed right to us
            raise

    # --- a stream -------------------------------------------------------------------------------------------------------

    async def _stream(self, work: Work, call: OpenCall, path: ModelPath) -> None:
        if work.resume is not None and any(ids for _, ids in work.resume.ids):
            raise ResumeImpossible("a stream of Triton's cannot go on elsewhere")
        model = work.model or path.model
        inside = self._server_name(model)
        wanted = await read_generation(self._catalog, inside, path.version, work)
        sent = 0
        try:
            asked = _call_of(wanted.request, inside, path.version, work)
            async for result in self._caller.stream(asked, _timeout_s(work)):
                if result.outputs:
                    call.delta([(0, [sent])], generate.event_of(wanted.answer(model, result)))
                    sent += 1
        except Refused as error:
            if not sent:
                raise
            call.delta([(0, [sent])], generate.event_of(error_body(work.path, InferbusError(error.message))))
        self.rows += wanted.rows
        call.finish(200, Usage(wanted.rows), b"", _SSE)

    async def _generate(self, work: Work, call: OpenCall, path: ModelPath) -> None:
        """Answer with the one answer the model gives."""
        model = work.model or path.model
        inside = self._server_name(model)
        wanted = await read_generation(self._catalog, inside, path.version, work)
        asked = _call_of(wanted.request, inside, path.version, work)
        result = await self._one_of(wanted, asked, model, _timeout_s(work))
        self.rows += wanted.rows
        call.finish(200, Usage(wanted.rows), wanted.answer(model, result), _JSON)

    async def _one_of(self, wanted: Generation, call: InferCall, model: str, timeout_s: float) -> InferResult:
        if wanted.signature.decoupled:
            return await only_answer(self._caller.stream(call, timeout_s), model)
        return await self._call(wanted.signature, call, wanted.rows, timeout_s)

    # --- vectors --------------------------------------------------------------------------------------------------------

    async def _embed(self, work: Work, call: OpenCall) -> None:
        request = embeddings.parse_embeddings(work.body)
        model = work.model or request.model
        inside = self._server_name(model)
        signature = await self._catalog.signature(inside, "")
        texts, vectors = embeddings.text_input_of(signature), embeddings.vector_output_of(signature)
        counts = embeddings.token_output_of(signature)
        wanted = [WantedOutput(spec.name) for spec in (vectors, counts) if spec is not None]
        parts = list(embeddings.text_tensors(texts, request.texts, signature.max_rows))
        turns = asyncio.Semaphore(_SIDE_BY_SIDE * signature.instances)

        async def ask(tensor: InputTensor, rows: int) -> InferResult:
            part = InferCall(
                model=inside, version="", request_id=work.request_id, inputs=[tensor],
                outputs=wanted, traceparent=work.traceparent,
            )  # fmt: skip
            async with turns:
                return await self._call(signature, part, rows, _timeout_s(work))

        asked = [asyncio.create_task(ask(tensor, rows)) for tensor, rows in parts]
        try:
            results = await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()
        outputs = [output for result in results for output in result.outputs]
        told = [output for output in outputs if counts is not None and output.name == counts.name]
        tokens = embeddings.tokens_of(told) if told else len(request.texts)
        made = [output for output in outputs if output.name == vectors.name]
        self.rows += len(request.texts)
        call.finish(200, Usage(tokens), embeddings.write_embeddings(request, model, made, tokens), _JSON)


def _call_of(request: InferRequest, model: str, version: str, work: Work) -> InferCall:
    return InferCall(
        model=model,
        version=version,
        request_id=request.id,
        inputs=[InputTensor(given.name, given.datatype, given.shape, bytes(raw_of(given))) for given in request.inputs],
        outputs=[WantedOutput(output.name, _passed_on(output.parameters)) for output in request.outputs],
        parameters=_passed_on(request.parameters),
        traceparent=work.traceparent,
    )


def _passed_on(parameters: dict[str, object]) -> dict[str, bool | int | float | str]:
    """Give the parameters that are the server's: not those of the form of the body."""
    if not parameters:
        return {}
    return {
        name: value
        for name, value in parameters.items()
        if name not in _OURS and isinstance(value, bool | int | float | str)
    }


def _timeout_s(work: Work) -> float:
    return work.left_s + _LATE_S if work.left_s else 0.0
