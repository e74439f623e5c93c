"""Which server this process works with: one somebody else runs, or its own child."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from inferbus.settings import SettingsError
from inferbus_triton_worker.adapters.grpc_server import GrpcTriton
from inferbus_triton_worker.adapters.homes import ExternalTriton
from inferbus_triton_worker.adapters.http_server import HttpTriton
from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions
from inferbus_triton_worker.engine import TritonEngine
from inferbus_triton_worker.settings import TritonSettings


def make_engine(settings: TritonSettings) -> TritonEngine:
    """Build the engine, not started.

    Raises:
        SettingsError: neither an address nor a repository is set.
    """
    if settings.address:
        return TritonEngine(
            settings, ExternalTriton(settings.address), lambda address: _at(address, settings.http_address)
        )
    if not settings.repository:
        raise SettingsError(
            "INFERBUS_TRITON_WORKER_ADDRESS (host:port of a Triton's gRPC) or INFERBUS_TRITON_WORKER_REPOSITORY (a folder of "
            "models, for a Triton of its own) must be set"
        )
    options = ServerOptions(
        environment=Path(settings.environment).absolute(),
        repository=Path(settings.repository).absolute(),
        state=_state_of(settings),
        models=tuple(settings.models),
        start_within_s=settings.start_timeout_s,
    )
    home = ManagedServer(options, os.environ)
    return TritonEngine(settings, home, lambda address: HttpTriton(address, home.http_address))


def _at(address: str, http_address: str) -> GrpcTriton:
    return HttpTriton(address, http_address) if http_address else GrpcTriton(address)


def _state_of(settings: TritonSettings) -> Path:
    """A folder for each process: two of one server would take each other's models for leftovers."""
    if settings.state:
        return Path(settings.state).absolute() / settings.process
    return Path(tempfile.mkdtemp(prefix=f"{settings.process}-"))
