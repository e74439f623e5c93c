"""The one answer of a model that may give any number."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from inferbus.errors import Unsupported
from inferbus.kserve.response import OutputTensor
from inferbus_triton_worker.generating import only_answer
from inferbus_triton_worker.ports import InferResult

OUTPUT = OutputTensor(name="Y", datatype="FP32", shape=[1], raw=b"\0\0\0\0")
ONE, EMPTY = InferResult("1", [OUTPUT]), InferResult("1", [], final=True)


class Stream:
    """Gives results, and knows whether it was closed."""

    def __init__(self, *results: InferResult) -> None:
        self.results = results
        self.closed = False

    async def run(self) -> AsyncGenerator[InferResult, None]:
        try:
            for result in self.results:
                yield result
        finally:
            self.closed = True


async def test_one_answer_is_the_answer() -> None:
    assert await only_answer(Stream(ONE, EMPTY).run(), "m") is ONE


@pytest.mark.parametrize(
    ("results", "text"), [((EMPTY,), "no answer"), ((), "no answer"), ((ONE, ONE, EMPTY), "more than one")]
)
async def test_none_or_several_are_refused_and_the_stream_is_closed(
    results: tuple[InferResult, ...], text: str
) -> None:
    stream = Stream(*results)
    with pytest.raises(Unsupported, match=text):
        await only_answer(stream.run(), "m")
    assert stream.closed
