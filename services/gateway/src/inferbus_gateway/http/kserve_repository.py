"""POST /v2/repository/models/{model}/load and /unload: the protocol's model repository extension, for administrators.

The same as /admin/v1/triton does, in the words clients of the protocol have: every worker of the model's pool is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.contracts.models import LLM
from inferbus.contracts.triton import CHANGES, TritonAsk, TritonReply
from inferbus.errors import InvalidRequest, NotFound, Unsupported
from inferbus.process.triton import refusal_of
from inferbus_gateway.http.admin_request import AnyRequest, open_session, read_wanted
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve_operations import RepositoryOperation

_TIMEOUT_S = 120.0
_FILE = "file:"


class RepositoryChange(msgspec.Struct, frozen=True, kw_only=True):
    """`parameters.config`: a configuration (JSON, as a string) in place of the repository's; `unload_dependents`."""

    parameters: dict[str, Any] = {}


def build_repository(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        "/v2/repository/models/{rest:path}",
        status_code=200,
        summary="Load or unload a model (`/load`, `/unload`), with an admin key",
        operation_class=RepositoryOperation,
    )
    async def change(request: AnyRequest, rest: FromPath[str]) -> Response[bytes]:
        session = open_session(deps, request)
        model, _, op = rest.strip("/").rpartition("/")
        entry = deps.models.resolve(model)
        if op not in CHANGES or entry is None or entry.runtime == LLM:
            raise NotFound(f"no such path, or no model `{model[:80]}` of tensors", param="model")
        wanted = await read_wanted(request, RepositoryChange)
        ask = _ask_of(op, entry.server_name or entry.name, wanted.parameters)
        workers = [beat.process for beat in deps.servers.workers(entry.pool)]
        for said in await session.books.servers.operate(entry.pool, workers, ask):
            error = refusal_of(TritonReply(status=said.status, error=f"{said.worker}: {said.error}"))
            if error is not None:
                raise error
        return Response(b"", media_type="application/json")

    return [change]


def _ask_of(op: str, model: str, parameters: dict[str, Any]) -> TritonAsk:
    """Raises Unsupported for files, InvalidRequest for values of another type."""
    if any(name.startswith(_FILE) for name in parameters):
        raise Unsupported("a model's files come from its servers' repository, not from here", param="parameters")
    config, dependents = parameters.get("config", ""), parameters.get("unload_dependents", False)
    if not isinstance(config, str) or not isinstance(dependents, bool):
        raise InvalidRequest("config is a string of JSON, unload_dependents true or false", param="parameters")
    return TritonAsk(op=op, model=model, config=config, dependents=dependents, timeout_s=_TIMEOUT_S)
