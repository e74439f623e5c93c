"""Rows about collections: what a line asks for, and what is waited for. The door and the bus are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from inferbus.admission.identity import Identity
from inferbus.batch.lines import Row, check_line
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.batch import LineFault
from inferbus.contracts.vectors import Document, DocumentFault, IndexReport
from inferbus.errors import DeadlineWhileQueued, InvalidRequest, NotFound
from inferbus.vectors.door import Put, VectorsDoor
from inferbus.vectors.packing import packed
from inferbus_batch.vector_rows import VectorRows

ME = Identity(tenant="dev")
INDEX = "/v1/vectors/documents"


def row(body: object, path: str = "/v1/vectors/zoo/documents") -> Row:
    return Row(line=1, custom_id="a", path=path, task="vectors", model="", body=to_json(body))


class Door:
    """Accepts documents, and reports once."""

    def __init__(self, report: IndexReport | None) -> None:
        self._report = report

    @asynccontextmanager
    async def admitted(self, _: Identity) -> AsyncIterator[None]:
        yield

    async def put(self, _: Identity, name: str, documents: Iterable[Document], *, told: bool) -> Put:
        assert (name, told) == ("zoo", True)
        put = Put(packed(documents))
        put.places.append(7)
        put.reports.append(asyncio.get_running_loop().create_future())
        if self._report is not None:
            put.reports[0].set_result(self._report)
        return put


class Stream:
    """A stream in which a message is, or not."""

    def __init__(self, status: str) -> None:
        self._status = status

    async def request(self, subject: str, data: bytes) -> Msg:
        return Msg(cast("Any", None), subject, headers={"Status": self._status})


def rows(report: IndexReport | None, status: str = "404") -> VectorRows:
    return VectorRows(cast("Bus", Stream(status)), cast("VectorsDoor", Door(report)))


def report(**fields: Any) -> IndexReport:
    return IndexReport(tenant="dev", collection="zoo", **fields)


ONE = {"documents": [{"id": "a", "text": "bears"}]}


async def test_a_row_s_result_is_what_became_of_its_documents() -> None:
    outcome = await rows(report(indexed=1, tokens=4)).do(ME, row(ONE), 60)
    assert (outcome.status, outcome.usage.prompt_tokens) == (200, 4)
    assert b'"indexed":1' in outcome.body


async def test_a_row_of_faulty_documents_is_faulty() -> None:
    fault = DocumentFault(n=0, id="a", code="invalid_request", message="no text", param="text")
    with pytest.raises(InvalidRequest, match="'a': no text") as raised:
        await rows(report(faults=[fault])).do(ME, row(ONE), 60)
    assert raised.value.param == "text"


async def test_an_unknown_collection_is_the_row_s_result() -> None:
    with pytest.raises(NotFound):
        await rows(report(error="not_found", message="no zoo")).do(ME, row(ONE), 60)


@pytest.mark.parametrize("status", ["", "404"])
async def test_a_report_that_never_comes_ends_the_wait(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferbus_batch.vector_rows._LOOK_S", 0.01)
    monkeypatch.setattr("inferbus_batch.vector_rows._LAST_S", 0.01)
    with pytest.raises(DeadlineWhileQueued, match="left the queue" if status else "within"):
        await rows(None, status).do(ME, row(ONE), 0.05)


@pytest.mark.parametrize(
    "body", [ONE | {"wait_s": 3}, ONE | {"model": "m"}, {"documents": []}, {"documents": [{"id": "a", "txt": ""}]}]
)
async def test_a_body_that_is_none_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await rows(report()).do(ME, row(body), 60)


@pytest.mark.parametrize("url", ["/v1/vectors/documents", "/v1/vectors/zoo/search", "/v1/vectors//documents", INDEX])
def test_a_line_of_another_path_is_a_fault(url: str) -> None:
    line = to_json({"custom_id": "a", "method": "POST", "url": url, "body": ONE})
    assert isinstance(check_line(1, line, endpoint=INDEX), LineFault)


def test_a_line_names_its_collection_and_no_model() -> None:
    line = to_json({"custom_id": "a", "method": "POST", "url": "/v1/vectors/zoo/documents", "body": ONE})
    found = check_line(1, line, endpoint=INDEX, model="unused")
    assert isinstance(found, Row)
    assert (found.path, found.task, found.model, found.body) == (
        "/v1/vectors/zoo/documents", "vectors", "", to_json(ONE),
    )  # fmt: skip
