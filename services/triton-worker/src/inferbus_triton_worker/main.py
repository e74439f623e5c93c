"""Composition root of the Triton worker."""

from __future__ import annotations

from prometheus_client import Gauge

from inferbus.process import runtime
from inferbus.settings import from_env
from inferbus.worker.service import Part, Shared, run_worker
from inferbus_triton_worker.engine import TritonEngine
from inferbus_triton_worker.engines import make_engine
from inferbus_triton_worker.feature_reading import FeatureReading
from inferbus_triton_worker.names import PoolNames
from inferbus_triton_worker.operating import Operating
from inferbus_triton_worker.settings import TritonSettings
from inferbus_triton_worker.turns import SharedTurns, server_of


async def main(process: runtime.Runtime) -> None:
    settings = from_env(TritonSettings, "triton_worker")
    engine = make_engine(settings)
    await run_worker(
        process, "triton-worker", settings, engine, own_parts=lambda shared: _join(engine, settings, shared)
    )


def _join(engine: TritonEngine, settings: TritonSettings, shared: Shared) -> list[Part]:
    engine.server_name = PoolNames(shared.models, runtime=settings.runtime, pool=settings.pool)
    heals = Gauge("inferbus_triton_heals", "Dead models loaded anew", ["pool"], registry=shared.registry)
    heals.labels(settings.pool).set_function(lambda: engine.heals)
    features = FeatureReading(shared.bus)
    engine.features = features.features
    operating = Operating(shared.bus, shared.attempts, engine)
    if not settings.address:
        return [features, operating]
    # Nobody says how many workers use a server that somebody else runs.
    turns = SharedTurns(shared.bus, server_of(settings.address), shared.attempts.incarnation, engine.healed_elsewhere)
    engine.turns = turns
    return [turns, features, operating]
