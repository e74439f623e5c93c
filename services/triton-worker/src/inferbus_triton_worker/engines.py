"""Which server this process works with: one somebody else runs, or its own child."""

from __future__ import annotations

from inferbus.settings import SettingsError
from inferbus_triton_worker.adapters.grpc_server import GrpcTriton
from inferbus_triton_worker.adapters.homes import ExternalTriton
from inferbus_triton_worker.engine import TritonEngine
from inferbus_triton_worker.settings import TritonSettings


def make_engine(settings: TritonSettings) -> TritonEngine:
    """Build the engine, not started.

    Raises:
        SettingsError: neither an address nor a repository is set.
    """
    if not settings.address:
        raise SettingsError("INFERBUS_TRITON_WORKER_ADDRESS is empty: host:port of a Triton's gRPC")
    return TritonEngine(settings, ExternalTriton(settings.address), GrpcTriton)
