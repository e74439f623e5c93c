"""GET /v1/models and /v1/models/{id}: what is applied, whether or not a worker lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.admission.entitlements import check_model, may_use
from inferbus.contracts.models import ModelEntry
from inferbus.errors import NotFound
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import ModelsOperation


class Model(msgspec.Struct, kw_only=True):
    """A model, as the OpenAI API describes one."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[Model]


def build_models(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get("/v1/models", sync_to_thread=False, summary="List models", operation_class=ModelsOperation)
    def list_models(request: Request[Any, Any, Any]) -> ModelList:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        return ModelList(data=[_describe(entry) for entry in deps.models.all() if may_use(identity, entry)])

    @get(
        "/v1/models/{model_id:path}",
        sync_to_thread=False,
        summary="Describe a model, by its name or an alias",
        operation_class=ModelsOperation,
    )
    def retrieve_model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Model:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        name = model_id.removeprefix("/")  # the path converter keeps slashes, which names may contain
        entry = deps.models.resolve(name)
        if entry is None:
            raise NotFound(f"The model `{name}` does not exist or you do not have access to it.", param="model")
        check_model(identity, entry)
        return _describe(entry)

    return list_models, retrieve_model


def _describe(entry: ModelEntry) -> Model:
    return Model(id=entry.name, created=entry.created, owned_by=entry.owned_by)
