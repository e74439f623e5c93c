from __future__ import annotations

import pytest

from inferbus.admission.admin_keys import AdminKeys
from inferbus.local.identities import login_of
from inferbus.local.layout import Layout
from inferbus.local.processes import (
    Platform,
    ProcessSpec,
    free_name,
    gateway_spec,
    nats_spec,
    pool_of,
    renamed,
    topology_spec,
    worker_specs,
)
from inferbus.local.secrets import load_secrets, provide_admin_key
from inferbus.local.serving import UpOptions, served_models
from inferbus.settings import BusSettings, TelemetrySettings, from_env
from inferbus.topology.configs import TopologySettings
from inferbus_gateway.settings import GatewaySettings
from inferbus_llm_worker.settings import WorkerSettings

URL = "nats://127.0.0.1:4222"


def platform_of(layout: Layout, options: UpOptions) -> Platform:
    return Platform(layout=layout, secrets=load_secrets(layout), options=options)


def workers_of(platform: Platform) -> list[ProcessSpec]:
    models = served_models(platform.options, platform.layout)
    return [spec for served in models for spec in worker_specs(platform, served, bus_url=URL)]


def test_services_can_read_what_they_are_given(layout: Layout) -> None:
    platform = platform_of(layout, UpOptions(embed=True, workers=2))
    gateway, topology = gateway_spec(platform, bus_url=URL, port=81), topology_spec(platform, bus_url=URL)
    assert from_env(GatewaySettings, "gateway", gateway.env).port == 81
    assert from_env(TopologySettings, "topology", topology.env).process == "topology-0"
    first, second, embed = (from_env(WorkerSettings, "llm_worker", spec.env) for spec in workers_of(platform))
    assert (first.process, second.process, embed.process) == ("llm-0", "llm-1", "embed-0")
    assert (first.pool, first.runtime, first.embed, first.cpu, first.engine) == (
        "inferbus-tiny", "llm", False, True, "vllm",
    )  # fmt: skip
    assert (embed.pool, embed.runtime, embed.embed) == ("all-minilm-l6-v2", "embed", True)
    for spec in (gateway, topology, *workers_of(platform)):
        assert from_env(BusSettings, "bus", spec.env).url == URL
        assert from_env(TelemetrySettings, "telemetry", spec.env).trace_file == str(layout.traces)


def test_every_process_knows_its_own_secret_only(layout: Layout) -> None:
    platform = platform_of(layout, UpOptions())
    gateway, topology = gateway_spec(platform, bus_url=URL, port=1), topology_spec(platform, bus_url=URL)
    (worker,) = workers_of(platform)
    for spec, name in ((gateway, "gateway"), (topology, "operator"), (worker, "worker-inferbus-tiny")):
        settings = from_env(BusSettings, "bus", spec.env)
        assert (settings.user, settings.password, settings.nkey_seed) == (login_of(name), "", "")
        seeds = [value for value in spec.env.values() if value.endswith(".seed")]
        assert seeds == [settings.nkey_seed_file] == [str(layout.bus / f"seeds/{name}.seed")]
    provide_admin_key(layout)  # with it the gateway has a second connection, for administrators
    gateway = gateway_spec(platform_of(layout, UpOptions()), bus_url=URL, port=1)
    seeds = {value for value in gateway.env.values() if value.endswith(".seed")}
    assert seeds == {str(layout.bus / f"seeds/{name}.seed") for name in ("gateway", "admin")}
    door = from_env(GatewaySettings, "gateway", gateway.env)
    assert AdminKeys(door.admin_keys, door.key_pepper.encode()).authenticate(
        f"Bearer {layout.admin_key.read_text().strip()}"
    )
    assert platform.secrets.key_pepper in gateway.env.values()
    assert platform.secrets.key_pepper not in worker.env.values()


def test_the_callers_settings_pass_but_not_its_bus(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERBUS_LLM_WORKER_ARGS", "--max-num-seqs 4")
    monkeypatch.setenv("INFERBUS_BUS_CONNECT_TIMEOUT_S", "1")
    monkeypatch.setenv("INFERBUS_NATS_OPERATOR_PASSWORD", "other")
    chat, embed = workers_of(platform_of(layout, UpOptions(embed=True)))
    assert chat.env["INFERBUS_LLM_WORKER_ARGS"] == "--max-num-seqs 4"
    assert "INFERBUS_LLM_WORKER_ARGS" not in embed.env
    assert "INFERBUS_BUS_CONNECT_TIMEOUT_S" not in chat.env
    assert "INFERBUS_NATS_OPERATOR_PASSWORD" not in chat.env


def test_bus_is_given_the_configuration_with_its_users(layout: Layout) -> None:
    spec = nats_spec(platform_of(layout, UpOptions()), port=-1)
    assert str(layout.bus / "nats.conf") in spec.argv
    assert not [name for name in spec.env if "PASSWORD" in name or "SEED" in name]


@pytest.mark.parametrize(("cores", "said", "expected"), [(2, "", "1"), (2, "2", "2"), (8, "", None), (8, "3", "3")])
def test_on_few_cores_the_bus_has_one_scheduler_unless_told(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, cores: int, said: str, expected: str | None
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    if said:
        monkeypatch.setenv("GOMAXPROCS", said)
    assert nats_spec(platform_of(layout, UpOptions()), port=-1).env.get("GOMAXPROCS") == expected


def test_simulator_runs_beside_the_gateway(layout: Layout) -> None:
    platform = platform_of(layout, UpOptions(simulator=True))
    (worker,) = workers_of(platform)
    assert worker.argv[0] == gateway_spec(platform, bus_url=URL, port=1).argv[0]
    assert from_env(WorkerSettings, "llm_worker", worker.env).engine == "simulator"


def test_a_real_model_gets_room_and_the_caller_the_last_word(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = layout.home / "My-Model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("INFERBUS_LLM_WORKER_ARGS", "--kv-cache-memory-bytes 5")
    (real,) = workers_of(platform_of(layout, UpOptions(model=str(folder))))
    assert real.env["INFERBUS_LLM_WORKER_ARGS"] == f"--kv-cache-memory-bytes {1024**3} --kv-cache-memory-bytes 5"
    assert int(real.env["INFERBUS_LLM_WORKER_CPU_THREADS"]) >= 1
    (tiny,) = workers_of(platform_of(layout, UpOptions()))
    assert tiny.env["INFERBUS_LLM_WORKER_ARGS"] == "--kv-cache-memory-bytes 5"


def test_a_gateway_may_inherit_its_socket(layout: Layout) -> None:
    platform = platform_of(layout, UpOptions())
    alone = gateway_spec(platform, bus_url=URL, port=81)
    shared = gateway_spec(platform, bus_url=URL, port=81, name="gateway-1", listen_fd=7)
    assert (alone.descriptors, shared.descriptors) == ((), (7,))
    assert from_env(GatewaySettings, "gateway", alone.env).listen_fd == -1
    settings = from_env(GatewaySettings, "gateway", shared.env)
    assert (settings.process, settings.listen_fd) == ("gateway-1", 7)


def test_grace_is_what_the_process_drains_for_and_a_moment(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = platform_of(layout, UpOptions())
    assert gateway_spec(platform, bus_url=URL, port=1).grace_s == GatewaySettings().drain_s + 10
    assert workers_of(platform)[0].grace_s == WorkerSettings().drain_grace_s + 10
    monkeypatch.setenv("INFERBUS_GATEWAY_DRAIN_S", "120")
    monkeypatch.setenv("INFERBUS_LLM_WORKER_DRAIN_GRACE_S", "0.5")
    assert gateway_spec(platform, bus_url=URL, port=1).grace_s == 130
    assert workers_of(platform)[0].grace_s == 10.5


def test_a_relief_is_the_same_process_under_another_name(layout: Layout) -> None:
    platform = platform_of(layout, UpOptions())
    (worker,) = workers_of(platform)
    relief = renamed(worker, free_name(worker.name, {"llm-0", "llm-1"}))
    assert relief.name == from_env(WorkerSettings, "llm_worker", relief.env).process == "llm-2"
    assert pool_of(relief) == pool_of(worker) == "inferbus-tiny"
    gateway = renamed(gateway_spec(platform, bus_url=URL, port=1), "gateway-9")
    assert from_env(GatewaySettings, "gateway", gateway.env).process == "gateway-9"
    assert pool_of(gateway) == ""
