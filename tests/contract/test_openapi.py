"""`docs/openapi.json` is the document this code serves under /docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from inferbus_gateway.http.document import openapi_document

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_document_is_current() -> None:
    assert FILE.read_bytes() == openapi_document(), "run: python -m inferbus_gateway.http.document > docs/openapi.json"


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


def test_every_reference_leads_somewhere() -> None:
    document = msgspec.json.decode(FILE.read_bytes())
    for reference in references(document):
        node = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in node, reference
            node = node[step]


@pytest.mark.parametrize(
    ("path", "request_type", "answer", "streams"),
    [
        ("/v1/chat/completions", "ChatRequest", "ChatCompletion", True),
        ("/v1/completions", "CompletionRequest", "Completion", True),
        ("/v1/embeddings", "EmbeddingRequest", "EmbeddingList", False),
    ],
)
def test_inference_paths_show_request_answer_and_errors(
    path: str, request_type: str, answer: str, streams: bool
) -> None:
    operation = msgspec.json.decode(FILE.read_bytes())["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": f"#/components/schemas/{request_type}"}
    content = operation["responses"]["200"]["content"]
    assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{answer}"}
    assert ("text/event-stream" in content) == streams
    assert {"400", "401", "404", "413", "429", "503", "504"} <= set(operation["responses"])
