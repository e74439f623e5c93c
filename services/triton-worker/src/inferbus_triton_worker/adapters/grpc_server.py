"""A Triton server over gRPC: `TritonServer` with tritonclient's stubs on one channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from inferbus_triton_worker.adapters.messages import error_from, error_of, request_of, result_of, signature_of
from inferbus_triton_worker.adapters.plain import plain
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferCall, InferResult, ModelState, ServerError

_ASK_S = 5.0
_LOAD_S = 300.0
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.primary_user_agent", "inferbus"),
    # A server that came back is found within a second, not after gRPC's growing pauses of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


class GrpcTriton:
    """Implements `TritonServer`. Make it on the event loop it is used on."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def infer(self, call: InferCall, timeout_s: float) -> InferResult:
        return result_of(
            await _answer(self._stub.ModelInfer(request_of(call), timeout=timeout_s or None, metadata=_metadata(call)))
        )

    async def stream(self, call: InferCall, timeout_s: float) -> AsyncIterator[InferResult]:
        request = request_of(call)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        rpc = self._stub.ModelStreamInfer(_only(request), timeout=timeout_s or None, metadata=_metadata(call))
        try:
            async for part in rpc:
                if part.error_message:
                    raise error_from(grpc.StatusCode.UNKNOWN, part.error_message)
                result = result_of(part.infer_response)
                yield result
                if result.final:
                    return
        except grpc.aio.AioRpcError as exc:
            raise error_of(exc) from exc
        finally:
            rpc.cancel()  # says nothing where it has ended

    async def signature(self, model: str, version: str) -> Signature:
        metadata = await self._ask("ModelMetadata", service_pb2.ModelMetadataRequest(name=model, version=version))
        config = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model, version=version))
        return signature_of(metadata, config.config)

    async def live(self, timeout_s: float) -> bool:
        try:
            answer = await self._ask("ServerLive", service_pb2.ServerLiveRequest(), timeout_s)
        except ServerError:
            return False
        return bool(answer.live)

    async def ready(self, timeout_s: float) -> bool:
        try:
            answer = await self._ask("ServerReady", service_pb2.ServerReadyRequest(), timeout_s)
        except ServerError:
            return False
        return bool(answer.ready)

    async def index(self) -> list[ModelState]:
        answer = await self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest())
        return [ModelState(model.name, model.version, model.state, model.reason) for model in answer.models]

    async def load(self, model: str, config: str = "") -> None:
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if config:
            request.parameters["config"].string_param = config
        await self._ask("RepositoryModelLoad", request, _LOAD_S)

    async def unload(self, model: str, *, dependents: bool = False) -> None:
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        request.parameters["unload_dependents"].bool_param = dependents
        await self._ask("RepositoryModelUnload", request, _LOAD_S)

    async def model_ready(self, model: str, version: str) -> bool:
        answer = await self._ask("ModelReady", service_pb2.ModelReadyRequest(name=model, version=version))
        return bool(answer.ready)

    async def about(self) -> dict[str, Any]:
        return plain(await self._ask("ServerMetadata", service_pb2.ServerMetadataRequest()), defaults=True)

    async def metadata(self, model: str, version: str) -> dict[str, Any]:
        request = service_pb2.ModelMetadataRequest(name=model, version=version)
        return plain(await self._ask("ModelMetadata", request), defaults=True)

    async def config(self, model: str, version: str) -> dict[str, Any]:
        answer = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model, version=version))
        return plain(answer.config, defaults=True)

    async def statistics(self, model: str, version: str) -> dict[str, Any]:
        request = service_pb2.ModelStatisticsRequest(name=model, version=version)
        return plain(await self._ask("ModelStatistics", request), defaults=True)

    async def close(self) -> None:
        await self._channel.close()

    async def _ask(self, method: str, request: Any, timeout_s: float = _ASK_S) -> Any:
        return await _answer(getattr(self._stub, method)(request, timeout=timeout_s))


async def _answer(rpc: Awaitable[Any]) -> Any:
    try:
        return await rpc
    except grpc.aio.AioRpcError as exc:
        raise error_of(exc) from exc


async def _only(request: Any) -> AsyncIterator[Any]:
    yield request


def _metadata(call: InferCall) -> tuple[tuple[str, str], ...] | None:
    return (("traceparent", call.traceparent),) if call.traceparent else None
