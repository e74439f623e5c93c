"""Features on the local platform: its processes, in an environment of their own."""

from __future__ import annotations

import msgspec

from inferbus.local.layout import Layout
from inferbus.local.processes import FEATURES, Platform, ProcessSpec, grace_s, service_env
from inferbus.local.serving import CannotServe

_BOTH, _READS, _WRITES = "both", "reads", "writes"


def check_features(layout: Layout, processes: int) -> None:
    """See that features can be served.

    Raises:
        CannotServe: `.venv-features` is missing.
    """
    if processes and not layout.features_python.exists():
        raise CannotServe(f"{layout.features_python} is missing: run `make install` (or `make up FEATURES=1`)")


def features_specs(platform: Platform, *, bus_url: str) -> list[ProcessSpec]:
    """Give the processes: one that does everything, or several that read and one that writes."""
    layout, count = platform.layout, platform.options.features
    env = service_env(platform, bus_url, FEATURES)
    spec = ProcessSpec(
        name="features-0",
        role=FEATURES,
        argv=[str(layout.features_python), "-m", "inferbus_features"],
        env=env
        | {
            "INFERBUS_FEATURES_PROCESS": "features-0",
            "INFERBUS_FEATURES_STATE": str(layout.features),
            "INFERBUS_FEATURES_ROLE": _BOTH if count == 1 else _READS,
        },
        grace_s=grace_s(env, "INFERBUS_FEATURES_DRAIN_S"),
    )
    if count <= 1:
        return [spec] * count
    readers = [_as(spec, f"features-{n}", _READS) for n in range(count)]
    return [*readers, _as(spec, "features-writer-0", _WRITES)]


def _as(spec: ProcessSpec, name: str, role: str) -> ProcessSpec:
    own = {"INFERBUS_FEATURES_PROCESS": name, "INFERBUS_FEATURES_ROLE": role}
    return msgspec.structs.replace(spec, name=name, env=spec.env | own)
