from __future__ import annotations

import shutil

import pytest

from inferbus.local.layout import Layout
from inferbus.local.processes import Platform, ProcessSpec, pool_of, renamed
from inferbus.local.secrets import load_secrets
from inferbus.local.serving import CannotServe, UpOptions
from inferbus.local.triton import served_by_triton, triton_entries, triton_specs
from inferbus.models import check_entry
from inferbus.settings import BusSettings, from_env
from inferbus_triton_worker.settings import TritonSettings

URL = "nats://127.0.0.1:4222"


def specs(layout: Layout, workers: int) -> list[ProcessSpec]:
    platform = Platform(layout=layout, secrets=load_secrets(layout), options=UpOptions(triton=workers))
    return [spec for one in served_by_triton(layout, workers) for spec in triton_specs(platform, one, bus_url=URL)]


def test_nobody_asked(layout: Layout) -> None:
    shutil.rmtree(layout.triton_environment)
    assert served_by_triton(layout, 0) == []


def test_one_pool_serves_all_models(layout: Layout) -> None:
    (served,) = served_by_triton(layout, 2)
    assert {entry.pool for entry in served.entries} == {"triton"}
    assert [entry.name for entry in served.entries] == [entry.name for entry in triton_entries()]
    assert served.workers == ["triton-0", "triton-1"]
    for entry in served.entries:
        check_entry(entry)


def test_workers_can_read_what_they_are_given(layout: Layout) -> None:
    first, second = specs(layout, 2)
    settings = from_env(TritonSettings, "triton_worker", first.env)
    assert (settings.process, settings.pool, settings.runtime) == ("triton-0", "triton", "triton")
    assert settings.repository == str(layout.triton_models)
    assert settings.environment == str(layout.triton_environment)
    assert from_env(TritonSettings, "triton_worker", second.env).process == "triton-1"
    assert from_env(BusSettings, "bus", first.env).user == "worker.worker-triton"
    assert pool_of(first) == "triton"


def test_a_relief_has_a_name_of_its_own(layout: Layout) -> None:
    (spec,) = specs(layout, 1)
    relief = renamed(spec, "triton-1")
    assert from_env(TritonSettings, "triton_worker", relief.env).process == "triton-1"


def test_says_what_is_missing(layout: Layout) -> None:
    shutil.rmtree(layout.triton_models / "words")
    with pytest.raises(CannotServe, match="no model words"):
        served_by_triton(layout, 1)
    shutil.rmtree(layout.triton_environment)
    with pytest.raises(CannotServe, match="make install"):
        served_by_triton(layout, 1)
