"""The hooks in vLLM's internals: their shapes are checked, and one that does not fit is no accident."""

from __future__ import annotations

import pytest
import torch
import vllm

from inferbus.contracts.step import Resume
from inferbus.errors import ResumeImpossible
from inferbus.worker.ports import Work
from inferbus.worker.tasks import CHAT
from inferbus_llm_worker.adapters.vllm.engine import VllmEngine
from inferbus_llm_worker.adapters.vllm.resume_engine import advance
from inferbus_llm_worker.adapters.vllm.resume_gate import ResumeGate
from inferbus_llm_worker.adapters.vllm.resume_plugin import SHAPES, misfit, problem

RESUME = Resume(ids=[(0, [300])], chunks=[[1]])
WORK = Work(key="a", request_id="a", path=CHAT, body=b"", streamed=True, created=1, resume=RESUME)
BODY = {"stream": True}


@pytest.mark.asyncio(loop_scope="session")
async def test_this_vllm_fits(engine: VllmEngine) -> None:
    assert problem() is None
    config = engine._served._engine.vllm_config
    plan = ResumeGate(config, engine.fingerprint).plan(WORK, BODY)
    assert plan is not None
    assert plan.choices[0].outputs == [[300]]


@pytest.mark.parametrize(
    "shape",
    [
        (("vllm.v1.nowhere:Request", "x"), ()),
        (("vllm.v1.request:Nothing", "x"), ()),
        (("vllm.v1.request:Request", "nothing"), ()),
        (("vllm.v1.request:Request", "append_output_token_ids"), ("self", "something_else")),
    ],
)
def test_another_shape_is_said(shape: tuple[tuple[str, str], tuple[str, ...]]) -> None:
    why = misfit(dict(SHAPES) | {shape[0]: shape[1]})
    assert why is not None
    assert shape[0][1] in why


@pytest.mark.asyncio(loop_scope="session")
async def test_a_vllm_that_does_not_fit_resumes_nothing_and_begins_all(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "_inferbus_problem", "another release")
    gate = ResumeGate(engine._served._engine.vllm_config, engine.fingerprint)
    with pytest.raises(ResumeImpossible, match="another release"):
        gate.plan(WORK, BODY)
    nothing = Work(
        key="a", request_id="a", path=CHAT, body=b"", streamed=True, created=1, resume=Resume(ids=[], chunks=[])
    )
    assert gate.plan(nothing, BODY) is None


def test_a_generator_is_put_where_single_draws_put_it() -> None:
    one, many = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(777):
        torch.randint(0, 2**31, (1,), generator=one, dtype=torch.long)
    advance(many, 777)
    assert torch.equal(one.get_state(), many.get_state())


@pytest.mark.asyncio(loop_scope="session")
async def test_the_fingerprint_names_release_and_device_and_no_place(engine: VllmEngine) -> None:
    assert engine.fingerprint.startswith(f"vllm-{vllm.__version__}-cpu-")
    assert "/" not in engine.fingerprint
