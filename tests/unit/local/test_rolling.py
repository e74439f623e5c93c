"""Who is relieved, who is drained first, in which order, and what happens when a new process does not start."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from inferbus.contracts.presence import ENGINE_DOWN, Presence
from inferbus.local.crew import StartFailed
from inferbus.local.processes import GATEWAY, LEDGER, NATS, TOPOLOGY, WORKER, ProcessSpec, pool_of
from inferbus.local.rolling import RestartFailed, Rolling
from inferbus.local.state import FAILED, READY, STOPPED, ProcessState


def spec_of(name: str, role: str, pool: str = "") -> ProcessSpec:
    env = {WORKER: {"INFERBUS_LLM_WORKER_POOL": pool, "INFERBUS_LLM_WORKER_PROCESS": name}}.get(role, {})
    if role == GATEWAY:
        env = {"INFERBUS_GATEWAY_PROCESS": name}
    return ProcessSpec(name=name, role=role, argv=[], env=env)


class FakeChild:
    """A process that is ready at once, or never."""

    def __init__(self, crew: FakeCrew, spec: ProcessSpec) -> None:
        self._crew = crew
        self.spec = spec
        self.state = ProcessState(name=spec.name, role=spec.role, state=READY)

    async def stop(self) -> None:
        self._crew.told.append(f"stop {self.spec.name}")
        self.state = msgspec.structs.replace(self.state, state=STOPPED)


class FakeCrew:
    """Writes down what it is told. `sick` are names that do not start."""

    def __init__(self, *specs: ProcessSpec) -> None:
        self.told: list[str] = []
        self.sick: set[str] = set()
        self.elsewhere: dict[str, Presence] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.children = [FakeChild(self, spec) for spec in specs]

    def add(self, spec: ProcessSpec, *, in_place_of: FakeChild | None = None) -> FakeChild:
        self.told.append(f"start {spec.name}")
        child = FakeChild(self, spec)
        if in_place_of is None:
            self.children.append(child)
        else:
            self.children[self.children.index(in_place_of)] = child
        return child

    async def until_ready(self, child: FakeChild, timeout_s: float | None = None) -> None:
        await self.gate.wait()
        if child.spec.name in self.sick:
            child.state = msgspec.structs.replace(child.state, state=FAILED)
            raise StartFailed(f"{child.spec.name} does not start")
        self.told.append(f"ready {child.spec.name}")

    async def beats(self) -> dict[str, Presence]:
        ready = [child.spec for child in self.children if child.state.state == READY]
        beats = {
            spec.name: Presence(
                process=spec.name, role=spec.role, incarnation="1", region="local", state=READY, pools=[pool_of(spec)]
            )
            for spec in ready
        }
        return beats | self.elsewhere

    async def retire(self, child: FakeChild) -> None:
        await child.stop()
        self.children.remove(child)

    def names(self) -> list[str]:
        return sorted(child.spec.name for child in self.children)


async def restarted(crew: FakeCrew, *names: str) -> list[str]:
    said: list[str] = []
    await Rolling(crew).restart(list(names), said.append)  # type: ignore[arg-type]  # stands in for a crew
    return said


async def test_two_of_a_kind_are_drained_in_turn() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"), spec_of("llm-1", WORKER, "a"))
    await restarted(crew)
    assert crew.told == ["stop llm-0", "start llm-0", "ready llm-0", "stop llm-1", "start llm-1", "ready llm-1"]


async def test_a_lone_process_is_relieved_under_a_free_name() -> None:
    crew = FakeCrew(spec_of("gateway-0", GATEWAY), spec_of("llm-0", WORKER, "a"), spec_of("llm-1", WORKER, "b"))
    said = await restarted(crew, "gateway-0", "llm-0")
    assert crew.told == [
        "start llm-2", "ready llm-2", "stop llm-0", "start gateway-1", "ready gateway-1", "stop gateway-0",
    ]  # fmt: skip
    assert crew.names() == ["gateway-1", "llm-1", "llm-2"]
    assert crew.children[-1].spec.env["INFERBUS_GATEWAY_PROCESS"] == "gateway-1"
    assert "llm-0: alone at its work, so llm-2 starts first" in said


async def test_one_beside_a_drained_one_is_alone() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"), spec_of("llm-1", WORKER, "a"))
    await crew.children[0].stop()
    await restarted(crew, "llm-1")
    assert crew.told[1:] == ["start llm-2", "ready llm-2", "stop llm-1"]


@pytest.mark.parametrize(("state", "told"), [(READY, "stop llm-0"), (ENGINE_DOWN, "start llm-1")])
async def test_a_worker_of_the_pool_elsewhere_counts_if_it_serves(state: str, told: str) -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"))
    crew.elsewhere["gpu-7"] = Presence(
        process="gpu-7", role="worker", incarnation="1", region="local", state=state, pools=["a"]
    )
    await restarted(crew)
    assert crew.told[0] == told


async def test_a_drained_one_is_started_again() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"))
    await crew.children[0].stop()
    await restarted(crew, "llm-0")
    assert crew.told[1:] == ["stop llm-0", "start llm-0", "ready llm-0"]


async def test_what_others_wait_for_comes_first_and_everybody_is_back_before_the_next() -> None:
    crew = FakeCrew(
        spec_of("gateway-0", GATEWAY), spec_of("gateway-1", GATEWAY), spec_of("llm-0", WORKER, "a"),
        spec_of("llm-1", WORKER, "a"), spec_of("ledger-0", LEDGER), spec_of("topology-0", TOPOLOGY),
        spec_of("nats", NATS),
    )  # fmt: skip
    await restarted(crew)
    stops = [line for line in crew.told if line.startswith("stop")]
    assert [line.split()[1] for line in stops] == [
        "nats", "topology-0", "ledger-0", "llm-0", "llm-1", "gateway-0", "gateway-1",
    ]  # fmt: skip
    after_nats = crew.told[crew.told.index("ready nats") + 1 : crew.told.index("stop topology-0")]
    assert sorted(after_nats) == [f"ready {name}" for name in crew.names() if name != "nats"]


async def test_a_relief_that_does_not_start_changes_nothing() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"), spec_of("gateway-0", GATEWAY))
    crew.sick.add("llm-1")
    with pytest.raises(RestartFailed, match="llm-1 does not start"):
        await restarted(crew)
    assert crew.told == ["start llm-1", "stop llm-1"]
    assert crew.names() == ["gateway-0", "llm-0"]


async def test_what_does_not_come_back_ends_the_restart() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"), spec_of("llm-1", WORKER, "a"))
    crew.sick.add("llm-0")
    with pytest.raises(RestartFailed, match="llm-0 does not start"):
        await restarted(crew)
    assert "stop llm-1" not in crew.told


async def test_unknown_names_are_refused_before_anything_happens() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"))
    with pytest.raises(RestartFailed, match="no process is named gateway-7; there are: llm-0"):
        await restarted(crew, "llm-0", "gateway-7")
    assert crew.told == []


async def test_one_at_a_time() -> None:
    crew = FakeCrew(spec_of("llm-0", WORKER, "a"))
    crew.gate.clear()
    rolling = Rolling(crew)  # type: ignore[arg-type]  # stands in for a crew
    first = asyncio.create_task(rolling.restart([], lambda _: None))
    await asyncio.sleep(0)
    with pytest.raises(RestartFailed, match="under way"):
        await rolling.restart([], lambda _: None)
    crew.gate.set()
    await first
