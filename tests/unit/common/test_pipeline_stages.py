from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from inferbus.errors import EngineDead, InferbusError, InvalidRequest, NotFound, RateLimited
from inferbus.pipeline import Pipeline
from inferbus.pipeline.formats import Row
from inferbus.pipeline.stages import Embed, Infer, Place, Tools, function_of

PLACE = Place(7, "run-7-0")


class FakeAsker:
    """Answers with what it was asked; before that it fails as a test says."""

    def __init__(self, *failures: InferbusError) -> None:
        self.failures = list(failures)
        self.asked: list[dict[str, Any]] = []

    async def chat(self, model: str, messages: Sequence[Row], **options: Any) -> Row:
        self._note({"model": model, "messages": messages} | options)
        return {"choices": [{"message": {"content": f"said {messages[-1]['content']}"}}]}

    async def embed(self, model: str, texts: str | Sequence[str], **options: Any) -> list[list[float]]:
        self._note({"model": model, "texts": texts} | options)
        return [[float(len(texts)), 1.0]]

    def _note(self, asked: dict[str, Any]) -> None:
        self.asked.append(asked)
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def infer(**fields: Any) -> Infer:
    known: dict[str, Any] = {
        "model": "m", "prompt": "Say {text}", "system": "", "into": "answer", "options": {"lane": "batch"},
        "concurrency": 1, "retries": 2,
    }  # fmt: skip
    return Infer(**(known | fields))


async def test_a_prompt_is_filled_and_its_answer_becomes_a_column(threads: ThreadPoolExecutor) -> None:
    asker = FakeAsker()
    row = await infer(system="Be brief").apply({"text": "hi"}, PLACE, Tools(threads, asker))
    assert row == {"answer": "said Say hi"}
    (asked,) = asker.asked
    assert [one["role"] for one in asked["messages"]] == ["system", "user"]
    assert (asked["lane"], asked["idempotency_key"]) == ("batch", "run-7-0")


async def test_an_embedding_becomes_a_column(threads: ThreadPoolExecutor) -> None:
    asker = FakeAsker()
    stage = Embed(model="e", text="text", into="vector", options={}, concurrency=1, retries=0)
    assert await stage.apply({"text": "abc"}, PLACE, Tools(threads, asker)) == {"vector": [3.0, 1.0]}
    by_function = Embed(model="e", text=lambda row: row["text"] * 2, into="v", options={}, concurrency=1, retries=0)
    assert (await by_function.apply({"text": "abc"}, PLACE, Tools(threads, asker)) or {})["v"] == [6.0, 1.0]


async def test_a_failure_of_the_moment_is_asked_again_under_another_name(threads: ThreadPoolExecutor) -> None:
    asker = FakeAsker(EngineDead("boom"))
    row = await infer().apply({"text": "hi"}, PLACE, Tools(threads, asker))
    assert row is not None
    assert [one["idempotency_key"] for one in asker.asked] == ["run-7-0", "run-7-0-1"]


async def test_attempts_end(threads: ThreadPoolExecutor) -> None:
    asker = FakeAsker(*(EngineDead("boom") for _ in range(5)))
    with pytest.raises(EngineDead):
        await infer(retries=1).apply({"text": "hi"}, PLACE, Tools(threads, asker))
    assert len(asker.asked) == 2


async def test_what_is_wrong_is_asked_once(threads: ThreadPoolExecutor) -> None:
    asker = FakeAsker(NotFound("no such model"))
    with pytest.raises(NotFound):
        await infer().apply({"text": "hi"}, PLACE, Tools(threads, asker))
    with pytest.raises(KeyError):
        await infer().apply({}, PLACE, Tools(threads, asker))
    assert len(asker.asked) == 1


async def test_a_limit_is_waited_for_and_is_no_attempt(threads: ThreadPoolExecutor) -> None:
    limits = [RateLimited("wait", retry_after_s=0.01) for _ in range(6)]
    asker = FakeAsker(*limits)
    assert await infer(retries=0).apply({"text": "hi"}, PLACE, Tools(threads, asker)) is not None
    assert {one["idempotency_key"] for one in asker.asked} == {"run-7-0"}
    hopeless = RateLimited("never")
    hopeless.hopeless = True
    with pytest.raises(RateLimited):
        await infer().apply({"text": "hi"}, PLACE, Tools(threads, FakeAsker(hopeless)))


async def test_without_a_client_models_cannot_be_asked(threads: ThreadPoolExecutor) -> None:
    with pytest.raises(InvalidRequest, match="no client"):
        await infer().apply({"text": "hi"}, PLACE, Tools(threads))


async def test_both_in_one_pipeline(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a"}\n{"text": "bb"}\n')
    pipeline = Pipeline.read(str(source)).infer("m", prompt="{text}", into="said").embed("e", "said").write(str(out))
    report = await pipeline.run_async(FakeAsker())
    assert (report.written, report.failed) == (2, 0)
    assert out.read_text() == (
        '{"text":"a","said":"said a","embedding":[6.0,1.0]}\n{"text":"bb","said":"said bb","embedding":[7.0,1.0]}\n'
    )


def test_functions_are_found_by_name() -> None:
    assert function_of("os.path:join") is function_of(function_of("os.path:join"))
    for wrong in ("os.path", "os.path:nothing", "nowhere:at_all", "os:sep", ""):
        with pytest.raises(InvalidRequest):
            function_of(wrong)
