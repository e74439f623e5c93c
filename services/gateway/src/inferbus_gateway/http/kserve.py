"""/v2: KServe v2 (Open Inference Protocol) beside inference: health, and what there is to know of the server and its models.

What a model is like, its workers' servers say; that it is there, the registry. Health is open to everybody, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from inferbus.admission.entitlements import check_model, may_use
from inferbus.admission.identity import Identity
from inferbus.contracts.envelope import WIRE_VERSION
from inferbus.contracts.models import LLM, ModelEntry
from inferbus.contracts.triton import CONFIG, METADATA, READY, STATS
from inferbus.errors import DependencyDown, NotFound, Unsupported
from inferbus.kserve import paths
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve_infer import KServeEndpoint, inference_path
from inferbus_gateway.http.kserve_operations import InferOperation, KServeOperation
from inferbus_gateway.http.openapi import OpenOperation

_EXTENSIONS = (
    "binary_tensor_data", "classification", "generate", "model_configuration", "model_repository", "parameters",
    "statistics",
)  # fmt: skip
_MODELS = "/v2/models/{rest:path}"
_OPS = {paths.METADATA: METADATA, paths.CONFIG: CONFIG, paths.STATS: STATS}
_ALL_STATS = paths.ModelPath("stats")
AnyRequest = Request[Any, Any, Any]


class ServerMetadata(msgspec.Struct, kw_only=True):
    """What this door is, as the protocol describes a server."""

    name: str = "inferbus"
    version: str = ""
    extensions: tuple[str, ...] = _EXTENSIONS


class IndexedModel(msgspec.Struct, kw_only=True):
    """A model of the repository index: READY while a worker of its pool is."""

    name: str
    state: str


class _Stats(msgspec.Struct):
    model_stats: list[msgspec.Raw] = []


def build_kserve(deps: HttpDeps, endpoint: KServeEndpoint) -> Sequence[HTTPRouteHandler]:
    @get("/v2", sync_to_thread=False, summary="The server", operation_class=OpenOperation)
    def server() -> ServerMetadata:
        return ServerMetadata(version=WIRE_VERSION)

    @get("/v2/health/live", sync_to_thread=False, summary="The process runs", operation_class=OpenOperation)
    def live() -> Response[bytes]:
        return _json(b"")

    @get("/v2/health/ready", sync_to_thread=False, summary="The process can serve", operation_class=OpenOperation)
    def ready() -> Response[bytes]:
        reason = deps.ready()
        if reason is not None:
            raise DependencyDown(reason)
        return _json(b"")

    @get(_MODELS, summary="A model: metadata, `/ready`, `/config`, `/stats`", operation_class=KServeOperation)
    async def model(request: AnyRequest, rest: FromPath[str]) -> Response[bytes]:
        return await _tell(deps, _identify(deps, request), rest)

    @post(
        _MODELS,
        status_code=200,
        summary="Infer: `/infer`, `/generate`, `/generate_stream`",
        operation_class=InferOperation,
    )
    async def infer(request: AnyRequest, rest: FromPath[str]) -> ASGIApp:
        if inference_path(paths.PREFIX + rest.removeprefix("/")) is None:
            raise NotFound(f"POST {request.url.path}: no such path")
        return endpoint.as_asgi()

    @post("/v2/repository/index", status_code=200, summary="The models there are", operation_class=KServeOperation)
    async def index(request: AnyRequest) -> list[IndexedModel]:
        identity = _identify(deps, request)
        return [
            IndexedModel(name=entry.name, state="READY" if deps.servers.workers(entry.pool) else "UNAVAILABLE")
            for entry in _known(deps, identity)
        ]

    return server, live, ready, model, infer, index


def _identify(deps: HttpDeps, request: AnyRequest) -> Identity:
    return deps.authenticator.authenticate(request.headers.get("authorization"))


async def _tell(deps: HttpDeps, identity: Identity, rest: str) -> Response[bytes]:
    """Answer a GET about a model."""
    parsed = paths.parse_path(paths.PREFIX + rest.removeprefix("/"))
    if parsed is None or parsed.verb in paths.INFERENCE:
        raise NotFound("no such path; inference is a POST")
    entry = deps.models.resolve(parsed.model)
    if entry is None and parsed == _ALL_STATS:
        return await _all_stats(deps, identity)
    if entry is None:
        raise NotFound(f"The model `{parsed.model}` does not exist or you do not have access to it.", param="model")
    check_model(identity, entry)
    if parsed.verb == paths.READY:
        return await _readiness(deps, entry, parsed.version)
    if entry.runtime == LLM:
        raise Unsupported(f"The model `{entry.name}` has no tensors; use the paths of the OpenAI API.", param="model")
    return _json(await deps.servers.say(entry, _OPS[parsed.verb], parsed.version))


async def _readiness(deps: HttpDeps, entry: ModelEntry, version: str) -> Response[bytes]:
    """Say whether a model can be used now; clients read the status alone."""
    if entry.runtime == LLM:
        is_ready = bool(deps.servers.workers(entry.pool))
    else:
        try:
            said = msgspec.json.decode(await deps.servers.say(entry, READY, version), type=dict[str, bool])
        except NotFound:
            said = {}
        is_ready = said.get("ready", False)
    if not is_ready:
        raise DependencyDown(f"the model `{entry.name}` is not ready")
    return _json(b"")


async def _all_stats(deps: HttpDeps, identity: Identity) -> Response[bytes]:
    """Give the statistics of every model this key may use; those nobody can tell of now are left out."""
    found: list[msgspec.Raw] = []
    for entry in _known(deps, identity):
        try:
            stats = msgspec.json.decode(await deps.servers.say(entry, STATS), type=_Stats)
        except (DependencyDown, NotFound):
            continue
        found += stats.model_stats
    return _json(msgspec.json.encode(_Stats(found)))


def _known(deps: HttpDeps, identity: Identity) -> list[ModelEntry]:
    return [entry for entry in deps.models.all() if entry.runtime != LLM and may_use(identity, entry)]


def _json(body: bytes) -> Response[bytes]:
    return Response(body, media_type="application/json")
