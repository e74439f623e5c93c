"""Generating: what `/generate` and `/generate_stream` have in common, and how the one answer of a model is told from several."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from inferbus.errors import Unsupported
from inferbus.kserve.paths import GENERATE_STREAM
from inferbus.kserve.request import InferRequest, parse
from inferbus.kserve.response import write
from inferbus.worker.ports import Work
from inferbus_triton_worker.catalog import Catalog
from inferbus_triton_worker.domain import generate
from inferbus_triton_worker.domain.checking import check_request, rows_of
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferResult


class Generation(msgspec.Struct, frozen=True):
    """A request to generate. `plain`: it came as an object of values by input, and is answered with one by output."""

    request: InferRequest
    signature: Signature
    plain: bool

    @property
    def rows(self) -> int:
        return rows_of(self.signature, self.request.inputs)

    def answer(self, model: str, result: InferResult) -> bytes:
        """Write one answer, as JSON.

        Raises:
            Permanent: an output cannot be written.
        """
        if self.plain:
            return generate.plain_answer(model, result.version, result.outputs)
        return write(
            model, result.version, self.request.id, result.outputs, InferRequest(id=self.request.id, inputs=[])
        )[0]


async def read_generation(catalog: Catalog, model: str, version: str, work: Work) -> Generation:
    """Read and check a body.

    Raises:
        InvalidRequest: it does not fit the model. ServerError: there is no such model or version, or no server.
    """
    if not generate.is_plain(work.body, work.json_bytes):
        request = parse(work.body, work.json_bytes)
        return Generation(request, await catalog.checked(model, version, request), plain=False)
    signature = await catalog.signature(model, version)
    request = generate.plain_request(signature, work.body)
    check_request(signature, request)
    return Generation(request, signature, plain=True)


async def only_answer(results: AsyncGenerator[InferResult, None], model: str) -> InferResult:
    """Take the one answer of a model that may give any number; the model is stopped where it goes on.

    Raises:
        Unsupported: it gave none, or more than one. What the stream raises.
    """
    found: InferResult | None = None
    async with aclosing(results):
        async for result in results:
            if not result.outputs:
                continue
            if found is not None:
                raise Unsupported(
                    f"The model `{model}` gives more than one answer: ask {GENERATE_STREAM}.", param="model"
                )
            found = result
    if found is None:
        raise Unsupported(f"The model `{model}` gave no answer to this.", param="model")
    return found
