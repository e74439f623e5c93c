"""POST /v2/models/{model}[/versions/{version}]/infer, /generate and /generate_stream: KServe v2, JSON or with binary tensors.

The body is passed on as it came; only what routing needs is read from it. What does not fit the model is its worker's to
refuse, by field, with what was expected and what came.
"""

from __future__ import annotations

import msgspec
from litestar.types import Send

from inferbus.errors import InferbusError, InvalidRequest, NotFound
from inferbus.kserve.content_type import HEADER, json_bytes_of
from inferbus.kserve.paths import GENERATE_STREAM, INFERENCE, ModelPath, parse_path, path_of
from inferbus.kserve.request import check_framing
from inferbus.worker.tasks import INFER as TASK
from inferbus_gateway.http.compressed import ENCODINGS
from inferbus_gateway.http.exchange_response import HttpResponse
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint, Seen
from inferbus_gateway.http.problems import JSON, Problem, problem_of
from inferbus_gateway.observer import RequestRecord

LABEL = "/v2/models/{model}/infer"
"""The path in metrics and log lines: models have labels of their own."""
_HEADER = HEADER.lower().encode()
_BINARY = b"application/octet-stream"


def inference_path(path: str) -> ModelPath | None:
    """Read a path that a POST may infer at; None for any other."""
    parsed = parse_path(path)
    return parsed if parsed is not None and parsed.verb in INFERENCE else None


class KServeResponse(HttpResponse):
    """Errors in KServe v2's form, and the length of the JSON in front of binary tensors as its header."""

    __slots__ = ()

    def problem(self, error: InferbusError) -> Problem:
        return problem_of(error, kserve=True)

    async def whole(
        self, status: int, body: bytes, content_type: bytes = JSON, extra: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        json_bytes = json_bytes_of(content_type.decode("latin-1")) if content_type != JSON else 0
        if json_bytes:
            extra = [(_HEADER, b"%d" % json_bytes), *(extra or ())]
            content_type = _BINARY
        await super().whole(status, body, content_type, extra)


class KServeEndpoint(InferenceEndpoint):
    """Serve every model's inference: the model is in the path."""

    encodings = ENCODINGS

    def __init__(self, deps: HttpDeps) -> None:
        super().__init__(deps, path=LABEL, task=TASK, view=msgspec.Struct)
        self._models = deps.models

    def response(self, send: Send, record: RequestRecord) -> HttpResponse:
        return KServeResponse(send, record)

    def look(self, path: str, headers: dict[bytes, bytes], body: bytes) -> Seen:
        """Read the model from the path and the framing from a header.

        Raises:
            InvalidRequest: the length of the JSON is no number, or more than there is.
        """
        parsed = inference_path(path)
        if parsed is None:
            raise NotFound(f"POST {path}: no such path")
        json_bytes = _json_bytes(headers.get(_HEADER))
        check_framing(body, json_bytes)
        entry = self._models.resolve(parsed.model)
        name = entry.name if entry is not None else parsed.model
        content_type = headers.get(b"content-type", JSON).decode("latin-1")
        streamed = parsed.verb == GENERATE_STREAM
        return Seen(parsed.model, path_of(name, parsed.version, parsed.verb), streamed, content_type, json_bytes)


def _json_bytes(value: bytes | None) -> int:
    if value is None:
        return 0
    if not value.isdigit() or len(value) > 12:
        raise InvalidRequest(f"{HEADER} is a number of bytes", param=HEADER)
    return int(value)
