"""The HTTP door: one ASGI callable, mostly a Litestar application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec
from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.types import Message, Receive, Scope, Send
from litestar.utils.path import normalize_path

from inferbus.admission.wanted import (
    KeyChange,
    MemberChange,
    NewKey,
    NewMember,
    NewOrganisation,
    OrganisationChange,
    Rotation,
)
from inferbus.contracts.limits import LimitSet
from inferbus.errors import InferbusError
from inferbus.vectors.bodies import NewDocuments, SearchResults, VectorSearch
from inferbus.vectors.shapes import (
    CollectionChange,
    NewAlias,
    NewCollection,
    NewModel,
    Restore,
    TenantErasure,
    WantedDocuments,
)
from inferbus_gateway.http.admin_keys import build_keys
from inferbus_gateway.http.admin_limits import build_audit, build_limits
from inferbus_gateway.http.admin_members import build_organisations, build_teams_and_users
from inferbus_gateway.http.admin_triton import TritonChange, build_triton
from inferbus_gateway.http.answers import ChatCompletion, ChatCompletionChunk, Completion, EmbeddingList
from inferbus_gateway.http.batch_shapes import NewBatch, Redrive
from inferbus_gateway.http.batches import build_batches
from inferbus_gateway.http.cancel import build_cancel
from inferbus_gateway.http.chat import ChatRequest, build_chat
from inferbus_gateway.http.completions import CompletionRequest, build_completions
from inferbus_gateway.http.embeddings import EmbeddingRequest, build_embeddings
from inferbus_gateway.http.features import FEATURE_SHAPES, FeaturesEndpoint, build_features
from inferbus_gateway.http.features import PREFIX as FEATURES
from inferbus_gateway.http.file_shapes import FileObject
from inferbus_gateway.http.files import build_files
from inferbus_gateway.http.health import build_health
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint, InferenceRoute
from inferbus_gateway.http.kserve import build_kserve
from inferbus_gateway.http.kserve_infer import KServeEndpoint, inference_path
from inferbus_gateway.http.kserve_operations import SHAPES
from inferbus_gateway.http.kserve_repository import build_repository
from inferbus_gateway.http.models import build_models
from inferbus_gateway.http.openapi import add_schemas, openapi_config
from inferbus_gateway.http.problems import on_exception, on_http_exception, on_inferbus_error
from inferbus_gateway.http.request_head import request_id_from
from inferbus_gateway.http.requests import RECORD, build_requests
from inferbus_gateway.http.usage import build_usage
from inferbus_gateway.http.vector_documents import build_vector_documents
from inferbus_gateway.http.vector_search import VectorSearchEndpoint, build_vector_search, searched
from inferbus_gateway.http.vector_store_shapes import (
    NewFileBatch,
    NewStore,
    NewStoreFile,
    StoreChange,
    StoreFileChange,
    StoreSearch,
)
from inferbus_gateway.http.vector_stores import build_vector_stores
from inferbus_gateway.http.vectors import build_vectors
from inferbus_gateway.http.watchlist_shapes import LettersWanted, MatchWanted, NewWatchlist
from inferbus_gateway.http.watchlists import build_watchlists
from inferbus_gateway.observer import ADMISSION, DONE, Observer, RequestRecord

UNMATCHED = "unmatched"
_UNOBSERVED = ("/health/", "/v2/health/", "/metrics", "/docs")  # probes and pages: no line, no count

_TYPES: Sequence[type[msgspec.Struct]] = [
    ChatRequest, ChatCompletion, ChatCompletionChunk, CompletionRequest, Completion, EmbeddingRequest, EmbeddingList,
    *SHAPES, NewOrganisation, OrganisationChange, NewMember, MemberChange, NewKey, KeyChange, Rotation, LimitSet,
    TritonChange, FileObject, NewBatch, Redrive, *FEATURE_SHAPES,
    NewCollection, CollectionChange, NewAlias, NewModel, Restore, TenantErasure, NewDocuments, WantedDocuments, VectorSearch,
    SearchResults,
    NewStore, StoreChange, StoreSearch, NewStoreFile, StoreFileChange, NewFileBatch,
    NewWatchlist, MatchWanted, LettersWanted,
]  # fmt: skip


class HttpDoor:
    """The whole HTTP door as one ASGI callable.

    Inference goes straight to its endpoint: through Litestar's router it would cost 15-20 us a request more, of 70, and
    another coroutine for every piece of a stream (docs/adr/0003-http-stack.md). Litestar has everything else: the other
    paths, wrong methods, errors, documentation. No middleware: each would cost every token.
    """

    def __init__(
        self,
        make_site: Callable[[], Litestar],
        endpoints: Sequence[InferenceEndpoint],
        kserve: KServeEndpoint,
        observer: Observer,
        features: FeaturesEndpoint,
        search: VectorSearchEndpoint,
    ) -> None:
        self._make_site = make_site
        self._features = features
        self._search = search
        self._endpoints = {endpoint.path: endpoint for endpoint in endpoints}
        self._kserve = kserve
        self._observer = observer

    @cached_property
    def site(self) -> Litestar:
        """Everything but inference. It takes 0.2 s to make: `warm` it before requests come."""
        return self._make_site()

    def warm(self) -> HttpDoor:
        """Have all of it ready before the first request."""
        _ = self.site
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method")  # only HTTP scopes have one
        if method == "POST":
            path = scope["path"]
            endpoint = self._endpoints.get(path)
            if endpoint is None and inference_path(path) is not None:
                endpoint = self._kserve
            if endpoint is None:
                endpoint = self._endpoints.get(normalize_path(path))
            if endpoint is None and path.startswith(FEATURES):
                endpoint = self._features
            if endpoint is None and searched(path) is not None:
                endpoint = self._search
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        if method is None or scope["path"].startswith(_UNOBSERVED):
            await self.site(scope, receive, send)
        else:
            await self._observed(scope, receive, send)

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Litestar answer; write the request down like every other."""
        record = RequestRecord(UNMATCHED, request_id_from(dict(scope["headers"])))

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if b"x-request-id" not in dict(message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            await send(message)

        scope["state"][RECORD] = record  # for routes that know more about the request than its path
        try:
            await self.site(scope, receive, noting)
        finally:
            record.path = scope.get("path_template") or UNMATCHED  # the route, never the path: labels stay few
            if record.phase == ADMISSION:
                record.phase = DONE
            self._observer.finished(record)


def build_app(deps: HttpDeps) -> HttpDoor:
    """Make the door: inference, models, health, documentation, errors in OpenAI's form."""
    kserve = KServeEndpoint(deps)
    features, search = FeaturesEndpoint(deps), VectorSearchEndpoint(deps)
    inference = [build_chat(deps), build_completions(deps), build_embeddings(deps)]

    def make_site() -> Litestar:
        return _site(deps, inference, kserve, features, search)

    return HttpDoor(make_site, [route.endpoint for route in inference], kserve, deps.observer, features, search)


def _site(
    deps: HttpDeps,
    inference: Sequence[InferenceRoute],
    kserve: KServeEndpoint,
    features: FeaturesEndpoint,
    search: VectorSearchEndpoint,
) -> Litestar:
    site = Litestar(
        route_handlers=[
            *(route.handler for route in inference),
            *build_models(deps),
            *build_kserve(deps, kserve),
            *build_repository(deps),
            *build_requests(deps),
            *build_cancel(deps),
            *build_usage(deps),
            *build_health(deps),
            *build_organisations(deps),
            *build_teams_and_users(deps),
            *build_keys(deps),
            *build_limits(deps),
            *build_audit(deps),
            *build_triton(deps),
            *build_files(deps),
            *build_batches(deps),
            *build_vectors(deps),
            *build_vector_documents(deps),
            *build_vector_search(search),
            *build_vector_stores(deps),
            *build_watchlists(deps),
            *build_features(deps, features),
        ],
        exception_handlers={
            InferbusError: on_inferbus_error,
            HTTPException: on_http_exception,
            Exception: on_exception,
        },
        openapi_config=openapi_config(),
        logging_config=None,
    )
    add_schemas(site, _TYPES)
    return site
